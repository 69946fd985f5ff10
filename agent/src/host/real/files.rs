//! Files and folders, durable when a call returns.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};

use async_trait::async_trait;
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tree::{self, LinkError};
use crate::engine::lease::Permit;
use crate::host::{
    ChunkSink, Clearance, CopiedFile, Files, HostError, HostResult, Inspection, Layout, NewFile,
    RandomAccess, Space,
};

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// How much of a streamed file is in memory at once, in bytes.
pub(super) const CHUNK: usize = 256 * 1024;

/// The node's files: nothing outside the layout's root and the state folder.
#[derive(Debug, Clone)]
pub struct RealFiles {
    layout: Layout,
}

impl RealFiles {
    /// The files of this layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// The path, if it is absolute, climbs nowhere and lies in the layout.
    fn admit(&self, path: &Utf8Path) -> HostResult<Utf8PathBuf> {
        let refuse = |why: &str| {
            Err(HostError::Malformed {
                what: format!("the path {path}"),
                why: format!("{why}; nothing was touched"),
            })
        };
        if path.components().any(|part| part == Utf8Component::ParentDir) {
            return refuse("it climbs out of its folder with `..`");
        }
        if !path.starts_with(&self.layout.root) && !path.starts_with(&self.layout.state_dir) {
            return refuse(&format!("it is not below {}", self.layout.root));
        }
        Ok(path.to_owned())
    }

    /// The path, if it lies in the state folder as well: what is there is the agent's own, with a lease or without.
    fn admit_own(&self, path: &Utf8Path) -> HostResult<Utf8PathBuf> {
        if path.starts_with(&self.layout.state_dir) && path != self.layout.state_dir {
            return self.admit(path);
        }
        Err(HostError::Malformed {
            what: format!("the path {path}"),
            why: format!("it is not below {}; nothing was touched", self.layout.state_dir),
        })
    }
}

#[async_trait]
impl Files for RealFiles {
    #[expect(clippy::disallowed_methods, reason = "this is host::Files")]
    async fn read(&self, path: &Utf8Path) -> HostResult<Option<Vec<u8>>> {
        // The kernel is the same for a node and for a stand-in on this machine.
        let path = if path.starts_with("/proc/sys") { path.to_owned() } else { self.admit(path)? };
        on_a_thread(move || match std::fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("cannot read", &path)(error)),
        })
        .await
    }

    async fn stream(&self, path: &Utf8Path, sink: &mut dyn ChunkSink) -> HostResult<bool> {
        let path = self.admit(path)?;
        let mut file = match tokio::fs::File::open(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(failed("cannot open", &path))?,
        };
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = file.read(&mut buffer).await.map_err(failed("cannot read", &path))?;
            match buffer.get(..length) {
                Some(chunk) if !chunk.is_empty() => sink.chunk(chunk).await?,
                _ => return Ok(true),
            }
        }
    }

    async fn list(&self, path: &Utf8Path) -> HostResult<Vec<String>> {
        let path = self.admit(path)?;
        on_a_thread(move || tree::names_in(&path)).await
    }

    async fn exists(&self, path: &Utf8Path) -> HostResult<bool> {
        let path = self.admit(path)?;
        on_a_thread(move || match path.try_exists() {
            // Something above it is no folder.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            exists => exists.map_err(failed("cannot look for", &path)),
        })
        .await
    }

    async fn space(&self, path: &Utf8Path) -> HostResult<Space> {
        let path = self.admit(path)?;
        on_a_thread(move || {
            let there = path
                .ancestors()
                .find(|path| path.exists())
                .ok_or_else(|| failed("cannot measure", &path)(Errno::NOENT))?;
            let room = fs::statvfs(there.as_str()).map_err(failed("cannot measure", there))?;
            let status = fs::stat(there.as_str()).map_err(failed("cannot look at", there))?;
            Ok(Space {
                free: room.f_bavail.saturating_mul(room.f_frsize),
                total: room.f_blocks.saturating_mul(room.f_frsize),
                device: status.st_dev,
            })
        })
        .await
    }

    async fn size_of_tree(&self, path: &Utf8Path) -> HostResult<u64> {
        let path = self.admit(path)?;
        on_a_thread(move || tree::size(&path)).await
    }

    async fn make_durable(&self, path: &Utf8Path) -> HostResult<()> {
        let path = self.admit(path)?;
        on_a_thread(move || tree::sync(&path)).await
    }

    async fn write(&self, _: &Permit, path: &Utf8Path, content: &[u8], mode: u32) -> HostResult<()> {
        let (path, content) = (self.admit(path)?, content.to_owned());
        on_a_thread(move || replace(&path, &content, mode)).await
    }

    async fn rewrite(&self, _: &Permit, path: &Utf8Path, content: &[u8]) -> HostResult<()> {
        let (path, content) = (self.admit(path)?, content.to_owned());
        on_a_thread(move || rewrite(&path, &content)).await
    }

    async fn install_program(&self, _: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<()> {
        let (from, to) = (self.admit(from)?, self.admit(to)?);
        on_a_thread(move || {
            let (folder, name) = tree::folder_of(&from)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let input =
                fs::openat(&folder, name, flags, Mode::empty()).map_err(failed("cannot open", &from))?;
            let mut part = Part::new(&to, 0o755)?;
            tree::stream(&mut File::from(input), &mut part.file, &from, &to)?;
            part.put_in_place()
        })
        .await
    }

    async fn create_dir(&self, _: &Permit, path: &Utf8Path, mode: u32) -> HostResult<()> {
        let path = self.admit(path)?;
        on_a_thread(move || make_folder(&path, mode)).await
    }

    async fn copy_tree(&self, _: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<Vec<CopiedFile>> {
        let (from, to) = (self.admit(from)?, self.admit(to)?);
        if to.starts_with(&from) {
            return Err(HostError::Malformed {
                what: format!("a copy of {from} to {to}"),
                why: "it would hold itself".to_owned(),
            });
        }
        on_a_thread(move || {
            if let Some(folder) = to.parent() {
                make_folder(folder, 0o700)?;
            }
            tree::copy(&from, &to)
        })
        .await
    }

    async fn take(&self, from: &Utf8Path, to: &Utf8Path) -> HostResult<Option<CopiedFile>> {
        let (from, to) = (self.admit(from)?, self.admit_own(to)?);
        on_a_thread(move || take(&from, &to)).await
    }

    async fn discard(&self, taken: &Utf8Path) -> HostResult<()> {
        let path = self.admit_own(taken)?;
        on_a_thread(move || remove(&path)).await
    }

    async fn restore_file(&self, _: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<()> {
        let (from, to) = (self.admit(from)?, self.admit(to)?);
        on_a_thread(move || restore(&from, &to)).await
    }

    async fn remove_file(&self, _: &Permit, path: &Utf8Path) -> HostResult<()> {
        let path = self.admit(path)?;
        on_a_thread(move || remove(&path)).await
    }

    async fn remove_tree(&self, _: &dyn Clearance, path: &Utf8Path) -> HostResult<()> {
        let path = self.admit(path)?;
        on_a_thread(move || tree::remove_all(&path)).await
    }

    async fn files_below(&self, path: &Utf8Path) -> HostResult<Vec<Utf8PathBuf>> {
        let path = self.admit(path)?;
        on_a_thread(move || tree::files(&path)).await
    }

    async fn inspect(&self, path: &Utf8Path, inspect: Inspection) -> HostResult<bool> {
        let path = self.admit(path)?;
        on_a_thread(move || {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match fs::open(path.as_str(), flags, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(false),
                file => File::from(file.map_err(failed("cannot open", &path))?),
            };
            let size = file.metadata().map_err(failed("cannot look at", &path))?.len();
            inspect(&mut Opened { file, size });
            Ok(true)
        })
        .await
    }

    async fn create(&self, _: &Permit, path: &Utf8Path) -> HostResult<Box<dyn NewFile>> {
        let path = self.admit(path)?;
        let part = on_a_thread(move || Part::new(&path, 0o600)).await?;
        let file =
            tokio::fs::File::from_std(part.file.try_clone().map_err(failed("cannot open", &part.path))?);
        Ok(Box::new(Stream { part, file }))
    }
}

struct Opened {
    file: File,
    size: u64,
}

impl RandomAccess for Opened {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A file beside its future place, under a name that starts with a dot: a kubelet does not take such a file in
/// its manifests folder for a pod. The name is fixed, so that what a crash leaves behind is overwritten by the
/// next attempt instead of piling up.
struct Part {
    path: Utf8PathBuf,
    folder: OwnedFd,
    name: String,
    file: File,
    renamed: bool,
}

impl Part {
    fn new(path: &Utf8Path, mode: u32) -> HostResult<Self> {
        let (folder, name) = tree::folder_of(path)?;
        let part = format!(".{name}.liftlock-part");
        let open = || {
            tree::remove(&folder, &part)?;
            let file = fs::openat(&folder, &*part, NEW, Mode::RUSR | Mode::WUSR)?;
            fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            Ok::<_, Errno>(File::from(file))
        };
        let file = open().map_err(failed("cannot make a file beside", path))?;
        Ok(Self { path: path.to_owned(), folder, name: part, file, renamed: false })
    }

    /// fsync, rename, fsync of the folder: after a power cut there is the old file or the new one.
    fn put_in_place(&mut self) -> HostResult<()> {
        self.file.sync_all().map_err(failed("cannot make durable", &self.path))?;
        self.rename()
    }

    fn rename(&mut self) -> HostResult<()> {
        let name = self.path.file_name().unwrap_or_default();
        fs::renameat(&self.folder, &*self.name, &self.folder, name)
            .map_err(failed("cannot put in place", &self.path))?;
        self.renamed = true;
        fs::fsync(&self.folder).map_err(failed("cannot make durable the folder of", &self.path))
    }
}

impl Drop for Part {
    /// Frees what a failed attempt wrote at once: the disk may be full.
    fn drop(&mut self) {
        if !self.renamed && tree::remove(&self.folder, &self.name).is_err() {
            tracing::warn!(path = %self.path, "the unfinished file beside it could not be removed");
        }
    }
}

struct Stream {
    part: Part,
    file: tokio::fs::File,
}

#[async_trait]
impl NewFile for Stream {
    async fn write(&mut self, bytes: &[u8]) -> HostResult<()> {
        // tokio reports a failed write at the next call; the flush makes it this one.
        let written = match self.file.write_all(bytes).await {
            Ok(()) => self.file.flush().await,
            failed => failed,
        };
        written.map_err(failed("cannot write", &self.part.path))
    }

    async fn finish(self: Box<Self>) -> HostResult<()> {
        let Self { mut part, file } = *self;
        drop(file);
        on_a_thread(move || part.put_in_place()).await
    }
}

/// Replaces a file as a whole.
pub(super) fn replace(path: &Utf8Path, content: &[u8], mode: u32) -> HostResult<()> {
    let mut part = Part::new(path, mode)?;
    part.file.write_all(content).map_err(failed("cannot write", path))?;
    part.put_in_place()
}

/// Replaces the content of a file as a whole; its times are those of the change.
fn rewrite(path: &Utf8Path, content: &[u8]) -> HostResult<()> {
    let (folder, name) = tree::folder_of(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let before = fs::openat(&folder, name, flags, Mode::empty()).map_err(failed("cannot open", path))?;
    let status = fs::fstat(&before).map_err(failed("cannot look at", path))?;
    let mut part = Part::new(path, 0o600)?;
    part.file.write_all(content).map_err(failed("cannot write", path))?;
    let (owner, group) = tree::owner(&status);
    let kept = fs::fchown(&part.file, owner, group)
        .and_then(|()| fs::fchmod(&part.file, Mode::from_raw_mode(status.st_mode)));
    kept.map_err(failed("cannot keep owner and mode of", path))?;
    part.put_in_place()
}

/// Makes a folder and its parents durably; fine if it is there.
pub(super) fn make_folder(path: &Utf8Path, mode: u32) -> HostResult<()> {
    let missing: Vec<&Utf8Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed("cannot make the folder", path))?;
    for made in missing {
        let (parent, _) = tree::folder_of(made)?;
        fs::fsync(parent).map_err(failed("cannot make durable the folder of", made))?;
    }
    Ok(())
}

/// A copy of a file, and of nothing but a file.
fn take(from: &Utf8Path, to: &Utf8Path) -> HostResult<Option<CopiedFile>> {
    // Nobody is waited for who might write into a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let input = match fs::open(from.as_str(), flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(failed("cannot open", from))?,
    };
    let status = fs::fstat(&input).map_err(failed("cannot look at", from))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(HostError::Malformed {
            what: format!("the file {from}"),
            why: "it is a folder, a device or a pipe: put a file there".to_owned(),
        });
    }
    if let Some(folder) = to.parent() {
        make_folder(folder, 0o700)?;
    }
    let mut part = Part::new(to, 0o600)?;
    let (size, sha256) = tree::stream(&mut File::from(input), &mut part.file, from, to)?;
    part.put_in_place()?;
    Ok(Some(CopiedFile { path: Utf8PathBuf::new(), size, sha256 }))
}

fn restore(from: &Utf8Path, to: &Utf8Path) -> HostResult<()> {
    let (folder, name) = tree::folder_of(from)?;
    let status =
        fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("cannot look at", from))?;
    let mut part = Part::new(to, 0o600)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let input =
                fs::openat(&folder, name, flags, Mode::empty()).map_err(failed("cannot open", from))?;
            tree::stream(&mut File::from(input), &mut part.file, from, to)?;
            tree::keep_attributes(&part.file, &status)
                .map_err(failed("cannot keep owner, mode and times of", to))?;
            part.put_in_place()
        }
        FileType::Symlink => {
            tree::copy_link(folder.as_fd(), name, part.folder.as_fd(), &part.name, &status).map_err(
                |error| match error {
                    LinkError::Read(error) => failed("cannot read the link", from)(error),
                    LinkError::Write(error) => failed("cannot make the link", to)(error),
                },
            )?;
            part.rename()
        }
        _ => Err(HostError::Malformed {
            what: format!("the backup {from}"),
            why: "it is neither a file nor a symbolic link, so it cannot be put back".to_owned(),
        }),
    }
}

fn remove(path: &Utf8Path) -> HostResult<()> {
    if !path.parent().is_some_and(Utf8Path::exists) {
        return Ok(());
    }
    let (folder, name) = tree::folder_of(path)?;
    tree::remove(&folder, name).map_err(failed("cannot remove", path))?;
    fs::fsync(&folder).map_err(failed("cannot make durable the folder of", path))
}

/// An error of a call on a path.
pub(super) fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: &Utf8Path,
) -> impl FnOnce(E) -> HostError {
    move |source| HostError::File { doing, path: path.to_owned(), source: source.into() }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Runs blocking file work where it holds up no other task.
pub(super) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> HostResult<T> + Send + 'static,
) -> HostResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(HostError::Malformed { what: "file work on a thread".to_owned(), why: error.to_string() })
    })
}
