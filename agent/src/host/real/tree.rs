//! Whole trees, copied and measured by descriptor, so that nothing that is renamed meanwhile leads elsewhere.
//!
//! No symbolic link is followed and no mount is crossed: another `st_dev` ends the descent, and the mount point
//! stays in a copy as an empty folder. Sockets, pipes and devices hold no content and are left out. Extended
//! attributes are not kept.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{
    self, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::files::{failed, hexadecimal};
use crate::host::{CopiedFile, HALF_REMOVED, HostError, HostResult};

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const SOURCE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const TARGET: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// Copies a file, a link or a tree to `to`, whose folder is there; nothing where `from` is not there. What an
/// interrupted copy left at `to` is replaced entry by entry. Everything is on the disk when this returns.
pub(super) fn copy(from: &Utf8Path, to: &Utf8Path) -> HostResult<Vec<CopiedFile>> {
    if !there(from)? {
        return Ok(Vec::new());
    }
    let (from_folder, from_name) = folder_of(from)?;
    let (to_folder, to_name) = folder_of(to)?;
    let status = fs::statat(&from_folder, from_name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("cannot look at", from))?;
    let mut copy = Copy { from, to, device: status.st_dev, links: HashMap::new(), files: Vec::new() };
    let place = Place { from: from_folder.as_fd(), to: to_folder.as_fd(), path: Utf8Path::new("") };
    copy.entry(&place, (from_name, to_name), &status)?;
    fs::fsync(&to_folder).map_err(failed("cannot make durable the folder of", to))?;
    Ok(copy.files)
}

/// Bytes in the regular files at or below a path; 0 where there is nothing.
pub(super) fn size(path: &Utf8Path) -> HostResult<u64> {
    if !there(path)? {
        return Ok(0);
    }
    let (folder, name) = folder_of(path)?;
    let status =
        fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("cannot look at", path))?;
    size_of(folder.as_fd(), name, &status, status.st_dev, path)
}

/// Syncs the regular files and the folders at and below a path, and the folder that it lies in; nothing where there is
/// nothing.
pub(super) fn sync(path: &Utf8Path) -> HostResult<()> {
    if !there(path)? {
        return Ok(());
    }
    let (folder, name) = folder_of(path)?;
    let status =
        fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("cannot look at", path))?;
    sync_of(folder.as_fd(), name, &status, status.st_dev, path)?;
    fs::fsync(&folder).map_err(failed("cannot make durable the folder of", path))
}

fn sync_of(
    folder: BorrowedFd<'_>,
    name: &str,
    status: &Stat,
    device: u64,
    path: &Utf8Path,
) -> HostResult<()> {
    let (flags, inside) = match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => (SOURCE, false),
        FileType::Directory if status.st_dev == device => (FOLDER, true),
        _ => return Ok(()),
    };
    // What a running node removes between the listing and the look needs no sync.
    let opened = match fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(failed("cannot open", path))?,
    };
    if inside {
        for name in names(&opened, path)? {
            match fs::statat(&opened, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => sync_of(opened.as_fd(), &name, &status, device, &path.join(&*name))?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("cannot look at", &path.join(&*name))(error)),
            }
        }
    }
    fs::fsync(&opened).map_err(failed("cannot make durable", path))
}

/// The regular files below a folder, relative to it and sorted; none where it is not there.
pub(super) fn files(path: &Utf8Path) -> HostResult<Vec<Utf8PathBuf>> {
    let mut files = Vec::new();
    walk(path, &mut |entry| {
        if let (FileType::RegularFile, Ok(relative)) = (entry.kind, entry.path.strip_prefix(path)) {
            files.push(relative.to_owned());
        }
        Ok(())
    })?;
    files.sort_unstable();
    Ok(files)
}

/// Removes a folder and everything in it, and what an interrupted removal of it left. Where something is mounted in
/// it, nothing is removed.
pub(super) fn remove_all(path: &Utf8Path) -> HostResult<()> {
    if !path.parent().is_some_and(Utf8Path::exists) {
        return Ok(());
    }
    let (folder, name) = folder_of(path)?;
    let doomed = path.with_file_name(doomed(name));
    empty_out(&doomed)?;
    if there(path)? {
        walk(path, &mut |entry| if entry.mounted { Err(mounted(entry.path)) } else { Ok(()) })?;
        fs::renameat(&folder, name, &folder, doomed.file_name().unwrap_or_default())
            .map_err(failed("cannot take away the name of", path))?;
        fs::fsync(&folder).map_err(failed("cannot make durable the folder of", path))?;
        empty_out(&doomed)?;
    }
    fs::fsync(&folder).map_err(failed("cannot make durable the folder of", path))
}

/// What a folder is called from the beginning of its removal to the end.
fn doomed(name: &str) -> String {
    format!(".{name}{HALF_REMOVED}")
}

fn empty_out(path: &Utf8Path) -> HostResult<()> {
    walk(path, &mut |entry| {
        let flags = match entry.kind {
            _ if entry.mounted => return Err(mounted(entry.path)),
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        fs::unlinkat(entry.folder, entry.name, flags).map_err(failed("cannot remove", entry.path))
    })
}

fn mounted(path: &Utf8Path) -> HostError {
    HostError::Malformed {
        what: format!("the folder {path}"),
        why: "something is mounted on it, and nothing beyond a mount is removed: unmount it first".to_owned(),
    }
}

/// Something in a tree.
struct Entry<'a> {
    /// The folder that it lies in, and its name there.
    folder: BorrowedFd<'a>,
    name: &'a str,
    path: &'a Utf8Path,
    kind: FileType,
    /// A folder that something is mounted on; it is not entered.
    mounted: bool,
}

type Visit<'a> = dyn FnMut(&Entry<'_>) -> HostResult<()> + 'a;

/// Shows everything in a tree, what is in a folder before the folder. Nothing where there is nothing.
fn walk(path: &Utf8Path, visit: &mut Visit<'_>) -> HostResult<()> {
    if !there(path)? {
        return Ok(());
    }
    let (folder, name) = folder_of(path)?;
    let device = fs::fstat(&folder).map_err(failed("cannot look at the folder of", path))?.st_dev;
    walk_from(folder.as_fd(), name, path, device, visit)
}

fn walk_from(
    folder: BorrowedFd<'_>,
    name: &str,
    path: &Utf8Path,
    device: u64,
    visit: &mut Visit<'_>,
) -> HostResult<()> {
    let status =
        fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("cannot look at", path))?;
    let kind = FileType::from_raw_mode(status.st_mode);
    let mut mounted = false;
    if kind == FileType::Directory {
        let inside = if status.st_dev == device { open_in(folder, name) } else { Err(Errno::XDEV) };
        match inside {
            Err(Errno::XDEV) => mounted = true,
            inside => {
                let inside = inside.map_err(failed("cannot open", path))?;
                for name in names(&inside, path)? {
                    walk_from(inside.as_fd(), &name, &path.join(&name), device, visit)?;
                }
            }
        }
    }
    visit(&Entry { folder, name, path, kind, mounted })
}

/// Opens a folder in a folder; `XDEV` where something is mounted on it, be it a part of the same file system.
fn open_in(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match fs::openat2(folder, name, FOLDER, Mode::empty(), resolve) {
        // Linux before 5.6: another device is all that shows.
        Err(Errno::NOSYS) => fs::openat(folder, name, FOLDER, Mode::empty()),
        opened => opened,
    }
}

fn there(path: &Utf8Path) -> HostResult<bool> {
    match fs::lstat(path.as_str()) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(failed("cannot look at", path)(error)),
    }
}

fn size_of(
    folder: BorrowedFd<'_>,
    name: &str,
    status: &Stat,
    device: u64,
    path: &Utf8Path,
) -> HostResult<u64> {
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => Ok(u64::try_from(status.st_size).unwrap_or_default()),
        FileType::Directory if status.st_dev == device => {
            // What a running node removes between the listing and the look is no error of ours.
            let folder = match fs::openat(folder, name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(0),
                folder => folder.map_err(failed("cannot open", path))?,
            };
            let mut sum = 0;
            for name in names(&folder, path)? {
                match fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(status) => sum += size_of(folder.as_fd(), &name, &status, device, &path.join(&*name))?,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(failed("cannot look at", &path.join(&*name))(error)),
                }
            }
            Ok(sum)
        }
        _ => Ok(0),
    }
}

struct Copy<'a> {
    from: &'a Utf8Path,
    to: &'a Utf8Path,
    device: u64,
    /// Device and inode of a file with several names → its first name in the copy.
    links: HashMap<(u64, u64), CopiedFile>,
    files: Vec<CopiedFile>,
}

/// Where in the two trees an entry lies.
struct Place<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Relative to the copy's root; empty for the root itself.
    path: &'a Utf8Path,
}

impl Copy<'_> {
    fn entry(&mut self, place: &Place<'_>, names: (&str, &str), status: &Stat) -> HostResult<()> {
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => self.folder(place, names, status),
            FileType::RegularFile => self.file(place, names, status),
            FileType::Symlink => self.link(place, names, status),
            _ => Ok(()),
        }
    }

    fn folder(&mut self, place: &Place<'_>, (from, to): (&str, &str), status: &Stat) -> HostResult<()> {
        let (source, target) = self.both(place.path);
        match fs::mkdirat(place.to, to, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.map_err(failed("cannot make the folder", &target))?,
        }
        let into = fs::openat(place.to, to, FOLDER, Mode::empty()).map_err(failed("cannot open", &target))?;
        if status.st_dev == self.device {
            let out = fs::openat(place.from, from, FOLDER, Mode::empty())
                .map_err(failed("cannot open", &source))?;
            for name in names(&out, &source)? {
                let path = place.path.join(&*name);
                let status = fs::statat(&out, &*name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("cannot look at", &source.join(&*name)))?;
                let inside = Place { from: out.as_fd(), to: into.as_fd(), path: &path };
                self.entry(&inside, (&name, &name), &status)?;
            }
        }
        keep_attributes(&into, status).map_err(failed("cannot keep owner, mode and times of", &target))?;
        fs::fsync(&into).map_err(failed("cannot make durable", &target))
    }

    fn file(&mut self, place: &Place<'_>, (from, to): (&str, &str), status: &Stat) -> HostResult<()> {
        let (source, target) = self.both(place.path);
        remove(place.to, to).map_err(failed("cannot replace", &target))?;
        let inode = (status.st_dev, status.st_ino);
        if let Some(first) = self.links.get(&inode) {
            let again = CopiedFile { path: place.path.to_owned(), ..first.clone() };
            let (_, first) = self.both(&first.path);
            fs::linkat(fs::CWD, first.as_str(), place.to, to, AtFlags::empty())
                .map_err(failed("cannot link", &target))?;
            self.files.push(again);
            return Ok(());
        }
        let mut input = File::from(
            fs::openat(place.from, from, SOURCE, Mode::empty()).map_err(failed("cannot open", &source))?,
        );
        let mut output = File::from(
            fs::openat(place.to, to, TARGET, Mode::RUSR | Mode::WUSR)
                .map_err(failed("cannot make", &target))?,
        );
        let (size, sha256) = stream(&mut input, &mut output, &source, &target)?;
        keep_attributes(&output, status).map_err(failed("cannot keep owner, mode and times of", &target))?;
        output.sync_all().map_err(failed("cannot make durable", &target))?;
        let copied = CopiedFile { path: place.path.to_owned(), size, sha256 };
        if status.st_nlink > 1 {
            self.links.insert(inode, copied.clone());
        }
        self.files.push(copied);
        Ok(())
    }

    fn link(&self, place: &Place<'_>, (from, to): (&str, &str), status: &Stat) -> HostResult<()> {
        let (source, target) = self.both(place.path);
        copy_link(place.from, from, place.to, to, status).map_err(|error| match error {
            LinkError::Read(error) => failed("cannot read the link", &source)(error),
            LinkError::Write(error) => failed("cannot make the link", &target)(error),
        })
    }

    /// A relative path in the source and in the copy.
    fn both(&self, path: &Utf8Path) -> (Utf8PathBuf, Utf8PathBuf) {
        if path.as_str().is_empty() {
            (self.from.to_owned(), self.to.to_owned())
        } else {
            (self.from.join(path), self.to.join(path))
        }
    }
}

pub(super) enum LinkError {
    Read(Errno),
    Write(Errno),
}

/// Makes a symbolic link like another one, with its owner and times.
pub(super) fn copy_link(
    from: BorrowedFd<'_>,
    from_name: &str,
    to: BorrowedFd<'_>,
    to_name: &str,
    status: &Stat,
) -> Result<(), LinkError> {
    let leads_to = fs::readlinkat(from, from_name, Vec::new()).map_err(LinkError::Read)?;
    let make = || {
        remove(to, to_name)?;
        fs::symlinkat(leads_to.as_c_str(), to, to_name)?;
        let (owner, group) = owner(status);
        fs::chownat(to, to_name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        fs::utimensat(to, to_name, &times(status), AtFlags::SYMLINK_NOFOLLOW)
    };
    make().map_err(LinkError::Write)
}

/// Copies the bytes and returns how many they are and their SHA-256.
pub(super) fn stream(
    input: &mut File,
    output: &mut File,
    source: &Utf8Path,
    target: &Utf8Path,
) -> HostResult<(u64, String)> {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = input.read(&mut buffer).map_err(failed("cannot read", source))?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok((size, hexadecimal(&hash.finalize())));
        };
        hash.update(bytes);
        output.write_all(bytes).map_err(failed("cannot write", target))?;
        size += length as u64;
    }
}

/// Gives the owner first: changing it drops the set-id bits of the mode.
pub(super) fn keep_attributes(file: impl AsFd, status: &Stat) -> rustix::io::Result<()> {
    let (owner, group) = owner(status);
    fs::fchown(&file, owner, group)?;
    fs::fchmod(&file, Mode::from_raw_mode(status.st_mode))?;
    fs::futimens(&file, &times(status))
}

/// The folder of a path, opened, and the name in it.
pub(super) fn folder_of(path: &Utf8Path) -> HostResult<(OwnedFd, &str)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(HostError::Malformed {
            what: format!("the path {path}"),
            why: "it names no file in a folder".to_owned(),
        });
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((fs::open(folder.as_str(), flags, Mode::empty()).map_err(failed("cannot open", folder))?, name))
}

/// Removes a file or link; fine if there is none.
pub(super) fn remove(folder: impl AsFd, name: &str) -> rustix::io::Result<()> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Names in a folder, as [`names`] has them; none where there is no such folder.
pub(super) fn names_in(path: &Utf8Path) -> HostResult<Vec<String>> {
    match fs::open(path.as_str(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => names(folder, path),
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(error) => Err(failed("cannot list", path)(error)),
    }
}

/// Names in a folder, sorted, without `.` and `..`.
pub(super) fn names(folder: impl AsFd, path: &Utf8Path) -> HostResult<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => names.push(name.to_owned()),
            Err(_) => return Err(no_text(path, entry.file_name())),
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn no_text(folder: &Utf8Path, name: &CStr) -> HostError {
    HostError::Malformed {
        what: format!("the name {name:?} in {folder}"),
        why: "it is not UTF-8; rename the file or move it away".to_owned(),
    }
}

pub(super) fn owner(status: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid)))
}

fn times(status: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests look past what they test")]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        std::fs::create_dir(path.join("tree")).unwrap();
        std::fs::write(path.join("tree/file"), "content").unwrap();
        (folder, path)
    }

    #[test]
    fn a_folder_on_another_device_is_not_entered() {
        let (_folder, path) = folder();
        let (inside, name) = folder_of(&path.join("tree")).map(|(fd, name)| (fd, name.to_owned())).unwrap();
        let status = fs::statat(&inside, &*name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let size_on = |device| size_of(inside.as_fd(), &name, &status, device, &path).unwrap();
        assert_eq!((size_on(status.st_dev), size_on(status.st_dev + 1)), (7, 0));

        let (from, to) = (path.join("tree"), path.join("copy"));
        let device = status.st_dev + 1;
        let mut copy = Copy { from: &from, to: &to, device, links: HashMap::new(), files: Vec::new() };
        let place = Place { from: inside.as_fd(), to: inside.as_fd(), path: Utf8Path::new("") };
        copy.entry(&place, (&name, "copy"), &status).unwrap();
        assert_eq!(copy.files, []);
        assert_eq!(names(fs::open(to.as_str(), FOLDER, Mode::empty()).unwrap(), &to).unwrap(), [""; 0]);
    }

    #[test]
    fn a_removal_takes_a_link_for_itself_and_what_an_interrupted_one_left() {
        let (_folder, path) = folder();
        let (tree, elsewhere) = (path.join("tree"), path.join("elsewhere"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("file"), "stays").unwrap();
        std::os::unix::fs::symlink(&elsewhere, tree.join("a/link")).unwrap();
        std::fs::create_dir(path.join(doomed("tree"))).unwrap();
        std::fs::write(path.join(doomed("tree")).join("half"), "").unwrap();
        assert_eq!(files(&tree).unwrap(), ["file"]);
        remove_all(&tree).unwrap();
        remove_all(&tree).unwrap();
        let left = names(fs::open(path.as_str(), FOLDER, Mode::empty()).unwrap(), &path).unwrap();
        assert_eq!(left, ["elsewhere"]);
        assert_eq!(std::fs::read_to_string(elsewhere.join("file")).unwrap(), "stays");
    }

    #[test]
    fn nothing_is_removed_where_something_is_mounted_below() {
        let (_folder, path) = folder();
        std::fs::create_dir(path.join("tree/sub")).unwrap();
        let (inside, name) = folder_of(&path.join("tree")).map(|(fd, name)| (fd, name.to_owned())).unwrap();
        let device = fs::fstat(&inside).unwrap().st_dev;
        let mut seen = Vec::new();
        let look = &mut |entry: &Entry<'_>| {
            seen.push((entry.name.to_owned(), entry.mounted));
            Ok(())
        };
        walk_from(inside.as_fd(), &name, &path.join("tree"), device + 1, look).unwrap();
        assert_eq!(seen, [("tree".to_owned(), true)], "a folder on another device was entered");
        // A file system of the kernel's own that every machine has mounted on a folder of the root's.
        let root = fs::open("/", FOLDER, Mode::empty()).unwrap();
        let mut mounts = 0;
        let look = &mut |entry: &Entry<'_>| {
            mounts += usize::from(entry.mounted);
            Ok(())
        };
        walk_from(root.as_fd(), "proc", Utf8Path::new("/proc"), fs::fstat(&root).unwrap().st_dev, look)
            .unwrap();
        assert_eq!(mounts, 1);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let (_folder, path) = folder();
        let source = path.join("tree/file");
        let mut input = File::open(&source).unwrap();
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let target = Utf8Path::new("/backup/file");
        match stream(&mut input, &mut full, &source, target).unwrap_err() {
            HostError::File { path, source, .. } => {
                assert_eq!((path.as_path(), source.kind()), (target, std::io::ErrorKind::StorageFull));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_refused_rather_than_left_out() {
        use std::os::unix::ffi::OsStrExt;
        let (_folder, path) = folder();
        let name = std::ffi::OsStr::from_bytes(b"\xff");
        std::fs::write(path.as_std_path().join("tree").join(name), "").unwrap();
        let error = copy(&path.join("tree"), &path.join("copy")).unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
