//! Looking at a whole tree: what is in it, and BLAKE3 of what is in its files.
//!
//! A few threads more than there are cores: on a cold cache most of them wait for the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use camino::Utf8Path;
use rustix::fs::{self, AtFlags, Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::attributes::{self, stamp};
use super::beneath::{self, Mounts, folder_above};
use super::files::failed;
use super::mount;
use super::tree;
use crate::host::trees::{Depth, Entry, Kind, Listing, Moment, Name, Survey, Tree};
use crate::host::{HostError, HostResult};

/// On a disk with two cores in front of it, 16 read half as long again as two (research: cold 4.8 s and 3.2 s).
const THREADS: usize = 16;

/// How many files a thread takes at once, so that those of one large folder are read side by side.
const BATCH: usize = 16;

/// How much of a file is in memory at once, for each thread, in bytes. BLAKE3 wants more than a few KiB to be fast.
const CHUNK: usize = 128 << 10;

/// The coarsest times that a file system of a node may have, in seconds (ext3, FAT).
const COARSEST: i64 = 2;

const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Looks at a tree below `top`.
pub(super) fn survey(top: &Utf8Path, survey: &Survey) -> HostResult<Tree> {
    let now = clock_gettime(ClockId::Realtime);
    let began = Moment(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or_default());
    let nothing = Tree { began, ..Tree::default() };
    let above = match survey.depth {
        Depth::Whole => folder_above(top, &survey.path)?,
        Depth::Root | Depth::Content => match survey.path.parent() {
            Some(folder) if folder.exists() => Some(tree::folder_of(&survey.path)?),
            _ => None,
        },
    };
    let Some((above, name)) = above else {
        return Ok(nothing);
    };
    let status = match fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(nothing),
        status => status.map_err(failed("cannot look at", &survey.path))?,
    };
    let look = || match beneath::open(&above, name.as_bytes(), OFlags::PATH, Mounts::Crossed) {
        // A link cannot be opened that way; it lies where its folder does.
        Err(Errno::LOOP) => mount::of(&above),
        opened => mount::of(&opened.map_err(failed("cannot open", &survey.path))?),
    };
    let mount = look()?;
    let walk = Walk::new(survey);
    let name = Name::from(name);
    let folders = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => {
            let folder = beneath::open(&above, name.as_bytes(), OFlags::DIRECTORY, Mounts::Crossed)
                .map_err(failed("cannot open", &survey.path))?;
            let entry = walk.folder_entry(&folder, &status, &Name::default())?;
            if survey.depth != Depth::Whole {
                return Ok(Tree { mount, root: Some(entry), ..nothing });
            }
            let root = Some(entry);
            return Ok(Tree { mount, root, folders: walk.run(folder)?, ..nothing });
        }
        FileType::RegularFile if survey.depth != Depth::Root => {
            let known = walk.known(&Name::default()).filter(|known| walk.unchanged(known, &status));
            let root = match known {
                Some(known) => Some(known.clone()),
                None => walk.file(&above, &name, &Name::default(), Mounts::Crossed, &mut vec![0; CHUNK])?,
            };
            return Ok(Tree { mount, root, ..nothing });
        }
        FileType::RegularFile => Some(unread(&status)),
        _ => walk.other(&above, &name, &status, &Name::default())?,
    };
    Ok(Tree { mount, root: folders, ..nothing })
}

/// One look at a tree.
struct Walk<'a> {
    survey: &'a Survey,
    /// An entry that changed at this moment or later is never taken for unchanged.
    settled: Moment,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// Jobs that some thread is at.
    busy: usize,
    found: Vec<Found>,
    failure: Option<HostError>,
}

/// What a job found in one folder, whose path comes first.
enum Found {
    /// What is in it, as far as the folder's own job can say. The jobs for what is in it come after it, and have the
    /// last word.
    Listing(Name, Arc<Listing>),
    /// Entries of it; `None` for one that has gone since it was listed.
    Entries(Name, Vec<(Name, Option<Entry>)>),
}

enum Job {
    /// A folder that is open already: the root.
    Root(OwnedFd),
    /// A folder to open, list and look at.
    Folder { above: Arc<OwnedFd>, name: Name, path: Name, status: Box<Stat> },
    /// Files of one folder to read.
    Files { folder: Arc<OwnedFd>, path: Name, names: Vec<Name> },
}

impl<'a> Walk<'a> {
    fn new(survey: &'a Survey) -> Self {
        let began = survey.known.as_ref().map(|known| known.began).unwrap_or_default();
        let settled = Moment(began.0.saturating_sub(COARSEST), began.1);
        Self { survey, settled, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Everything beneath the root.
    fn run(&self, root: OwnedFd) -> HostResult<BTreeMap<Name, Arc<Listing>>> {
        self.lock().jobs.push(Job::Root(root));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| self.work());
            }
        });
        let Queue { found, failure, .. } = std::mem::take(&mut *self.lock());
        if let Some(failure) = failure {
            return Err(failure);
        }
        Ok(merged(found))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs until there are none and nobody is at one that could bring more.
    fn work(&self) {
        let mut buffer = vec![0; CHUNK];
        let mut queue = self.lock();
        loop {
            if queue.failure.is_some() || (queue.jobs.is_empty() && queue.busy == 0) {
                self.changed.notify_all();
                return;
            }
            let Some(job) = queue.jobs.pop() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            let mut yielded = Yield::default();
            let done = self.job(job, &mut yielded, &mut buffer);
            queue = self.lock();
            queue.busy -= 1;
            if !yielded.jobs.is_empty() {
                self.changed.notify_all();
            }
            queue.jobs.append(&mut yielded.jobs);
            queue.found.append(&mut yielded.found);
            if let Err(failure) = done {
                queue.failure.get_or_insert(failure);
            }
        }
    }

    fn job(&self, job: Job, yielded: &mut Yield, buffer: &mut [u8]) -> HostResult<()> {
        match job {
            Job::Root(folder) => self.list(folder, &Name::default(), yielded),
            Job::Folder { above, name, path, status } => {
                let inside = path.join(&name);
                let opened = beneath::open(&*above, name.as_bytes(), OFlags::DIRECTORY, Mounts::Refused);
                let folder = match opened {
                    Err(Errno::XDEV) => {
                        let entry = attributes::entry(&status, Kind::MountPoint, BTreeMap::new());
                        yielded.found.push(Found::Entries(path, vec![(name, Some(entry))]));
                        return Ok(());
                    }
                    Err(Errno::NOENT) => {
                        yielded.found.push(Found::Entries(path, vec![(name, None)]));
                        return Ok(());
                    }
                    opened => opened.map_err(|error| self.failed("cannot open", &inside, error))?,
                };
                let entry = self.folder_entry(&folder, &status, &inside)?;
                yielded.found.push(Found::Entries(path, vec![(name, Some(entry))]));
                self.list(folder, &inside, yielded)
            }
            Job::Files { folder, path, names } => {
                let mut found = Vec::with_capacity(names.len());
                for name in names {
                    let inside = path.join(&name);
                    let entry = self.file(&*folder, &name, &inside, Mounts::Refused, buffer)?;
                    found.push((name, entry));
                }
                yielded.found.push(Found::Entries(path, found));
                Ok(())
            }
        }
    }

    /// What is in a folder. Folders in it and files that have to be read become jobs.
    fn list(&self, folder: OwnedFd, path: &Name, yielded: &mut Yield) -> HostResult<()> {
        let folder = Arc::new(folder);
        let known = self.survey.known.as_ref().and_then(|known| known.folders.get(path));
        let mut same = Vec::with_capacity(known.map_or(0, |known| known.len()));
        let (mut found, mut unread) = (Vec::new(), Vec::new());
        let entries = Dir::read_from(&*folder).map_err(|error| self.failed("cannot list", path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("cannot list", path, error))?;
            let name = match entry.file_name().to_bytes() {
                b"." | b".." => continue,
                name => name,
            };
            let inside = || path.join(&name.into());
            if !self.survey.leave_out.is_empty() && self.survey.leave_out.contains(&inside()) {
                continue;
            }
            let status = match fs::statat(&*folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                // What a running node removes between the listing and the look is no error of ours.
                Err(Errno::NOENT) => continue,
                status => status.map_err(|error| self.failed("cannot look at", &inside(), error))?,
            };
            let known = known.and_then(|known| known.get_key_value(name));
            match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => {
                    let (above, name, path) = (Arc::clone(&folder), name.into(), path.clone());
                    yielded.jobs.push(Job::Folder { above, name, path, status: Box::new(status) });
                    // Until its job says what it is.
                    same.extend(known);
                }
                FileType::RegularFile => match known.filter(|(_, known)| self.unchanged(known, &status)) {
                    Some(known) => same.push(known),
                    None => unread.push(name.into()),
                },
                _ => {
                    let name = name.into();
                    if let Some(entry) = self.other(&*folder, &name, &status, &inside())? {
                        match known.filter(|(_, known)| **known == entry) {
                            Some(known) => same.push(known),
                            None => found.push((name, entry)),
                        }
                    }
                }
            }
        }
        // A name may be listed twice while somebody renames.
        same.sort_unstable_by_key(|(name, _)| std::ptr::from_ref::<Name>(name));
        same.dedup_by_key(|(name, _)| std::ptr::from_ref::<Name>(name));
        let listing = match known {
            Some(known) if same.len() == known.len() && found.is_empty() => Arc::clone(known),
            _ => {
                let same = same.into_iter().map(|(name, known)| (name.clone(), known.clone()));
                Arc::new(same.chain(found).collect())
            }
        };
        if !listing.is_empty() {
            yielded.found.push(Found::Listing(path.clone(), listing));
        }
        for names in unread.chunks(BATCH) {
            let (folder, names) = (Arc::clone(&folder), names.to_vec());
            yielded.jobs.push(Job::Files { folder, path: path.clone(), names });
        }
        Ok(())
    }

    /// A regular file, read to its end; `None` where it is gone. Its metadata are those of before it was read: what is
    /// written meanwhile shows as a change later.
    fn file(
        &self,
        folder: impl AsFd,
        name: &Name,
        path: &Name,
        mounts: Mounts,
        buffer: &mut [u8],
    ) -> HostResult<Option<Entry>> {
        let file = match beneath::open(&folder, name.as_bytes(), FILE, mounts) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => {
                let status = fs::statat(&folder, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| self.failed("cannot look at", path, error))?;
                return Ok(Some(attributes::entry(&status, Kind::MountPoint, BTreeMap::new())));
            }
            Err(error) => return Err(self.failed("cannot open", path, error)),
        };
        let failed = |doing| move |error: Errno| self.failed(doing, path, error);
        let status = fs::fstat(&file).map_err(failed("cannot look at"))?;
        let xattrs = attributes::xattrs(&file).map_err(failed("cannot read the attributes of"))?;
        let mut file = File::from(file);
        let mut hasher = blake3::Hasher::new();
        loop {
            match file.read(buffer) {
                Ok(length) => match buffer.get(..length) {
                    Some(bytes) if !bytes.is_empty() => hasher.update(bytes),
                    _ => break,
                },
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed("cannot read", path, error)),
            };
        }
        let kind = Kind::File { blake3: Some(hasher.finalize().into()), sparse: is_sparse(&status) };
        Ok(Some(attributes::entry(&status, kind, xattrs)))
    }

    fn folder_entry(&self, folder: &OwnedFd, status: &Stat, path: &Name) -> HostResult<Entry> {
        if let Some(known) = self.known(path).filter(|known| self.unchanged(known, status)) {
            return Ok(known.clone());
        }
        let xattrs = attributes::xattrs(folder)
            .map_err(|error| self.failed("cannot read the attributes of", path, error))?;
        Ok(attributes::entry(status, Kind::Folder, xattrs))
    }

    /// A link, a pipe or a device; `None` for a socket, and where it is gone.
    fn other(&self, folder: impl AsFd, name: &Name, status: &Stat, path: &Name) -> HostResult<Option<Entry>> {
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink => match fs::readlinkat(folder, name.as_bytes(), Vec::new()) {
                Ok(target) => Kind::Link(target.as_bytes().into()),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(self.failed("cannot read the link", path, error)),
            },
            FileType::Fifo => Kind::Pipe,
            FileType::CharacterDevice => Kind::CharacterDevice(status.st_rdev),
            FileType::BlockDevice => Kind::BlockDevice(status.st_rdev),
            _ => return Ok(None),
        };
        Ok(Some(attributes::entry(status, kind, BTreeMap::new())))
    }

    fn known(&self, path: &Name) -> Option<&Entry> {
        self.survey.known.as_ref()?.entry(path)
    }

    fn unchanged(&self, known: &Entry, status: &Stat) -> bool {
        known.stamp == stamp(status)
            && known.stamp.changed < self.settled
            && matches!(known.kind, Kind::File { blake3: Some(_), .. } | Kind::Folder)
    }

    fn failed(&self, doing: &'static str, path: &Name, error: impl Into<std::io::Error>) -> HostError {
        let path = if path.as_bytes().is_empty() {
            self.survey.path.clone()
        } else {
            self.survey.path.join(path.to_string())
        };
        HostError::File { doing, path, source: error.into() }
    }
}

/// What all jobs found.
fn merged(found: Vec<Found>) -> BTreeMap<Name, Arc<Listing>> {
    let mut folders: BTreeMap<Name, Arc<Listing>> = BTreeMap::new();
    for found in found {
        match found {
            Found::Listing(folder, listing) => _ = folders.insert(folder, listing),
            Found::Entries(folder, entries) => {
                let listing = folders.entry(folder).or_default();
                for (name, entry) in entries {
                    if listing.get(&name) != entry.as_ref() {
                        // Of a listing that the known tree shares, this one is made another.
                        match (Arc::make_mut(listing), entry) {
                            (listing, Some(entry)) => listing.insert(name, entry),
                            (listing, None) => listing.remove(&name),
                        };
                    }
                }
            }
        }
    }
    folders.retain(|_, listing| !listing.is_empty());
    folders
}

/// What a job brought.
#[derive(Default)]
struct Yield {
    jobs: Vec<Job>,
    found: Vec<Found>,
}

/// A regular file that nobody looks into.
fn unread(status: &Stat) -> Entry {
    let kind = Kind::File { blake3: None, sparse: is_sparse(status) };
    attributes::entry(status, kind, BTreeMap::new())
}

/// `st_blocks` counts 512 bytes each, whatever the file system's blocks are.
fn is_sparse(status: &Stat) -> bool {
    status.st_blocks.saturating_mul(512) < status.st_size
}
