//! Opening what lies beneath a folder, by descriptor: no symbolic link is followed, and no mount is crossed unless that
//! is asked for. The kernel sees to it with openat2; before Linux 5.6 each component is opened and looked at by itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use camino::Utf8Path;
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use super::files::failed;
use crate::host::trees::Place;
use crate::host::{HostError, HostResult};

/// A folder that is only gone through.
const THROUGH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Set once the kernel has said that it knows no openat2.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Whether a mount may lie on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounts {
    /// It is gone into.
    Crossed,
    /// It is an error: `EXDEV`.
    Refused,
}

/// Opens `path`, which is relative and not empty, beneath `folder`.
pub(super) fn open(folder: impl AsFd, path: &[u8], flags: OFlags, mounts: Mounts) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if mounts == Mounts::Refused {
            resolve |= ResolveFlags::NO_XDEV;
        }
        match fs::openat2(&folder, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => WITHOUT_OPENAT2.store(true, Ordering::Relaxed),
            opened => return opened,
        }
    }
    open_by_component(folder.as_fd(), path, flags, mounts)
}

fn open_by_component(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags, mounts: Mounts) -> Result<OwnedFd> {
    let device = fs::fstat(folder)?.st_dev;
    let step = |folder: BorrowedFd<'_>, name: &[u8], flags| {
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        let opened = fs::openat(folder, name, flags, Mode::empty())?;
        if mounts == Mounts::Refused && fs::fstat(&opened)?.st_dev != device {
            return Err(Errno::XDEV);
        }
        Ok(opened)
    };
    let mut components = path.split(|&byte| byte == b'/');
    let Some(last) = components.next_back() else {
        return Err(Errno::INVAL);
    };
    let mut above: Option<OwnedFd> = None;
    for name in components {
        above = Some(step(above.as_ref().map_or(folder, AsFd::as_fd), name, THROUGH)?);
    }
    step(above.as_ref().map_or(folder, AsFd::as_fd), last, flags)
}

/// The folder that holds the root of a tree, and the root's name in it; `None` where there is no such folder. `path` is
/// absolute and lies below `top`.
pub(super) fn folder_above<'a>(top: &Utf8Path, path: &'a Utf8Path) -> HostResult<Option<(OwnedFd, &'a str)>> {
    let outside = || HostError::Malformed {
        what: format!("the path {path}"),
        why: format!("it names nothing below {top}; nothing was touched"),
    };
    let (Ok(relative), Some(name)) = (path.strip_prefix(top), path.file_name()) else {
        return Err(outside());
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = fs::open(top.as_str(), flags, Mode::empty()).map_err(failed("cannot open", top))?;
    let folder = match relative.parent() {
        None => return Err(outside()),
        Some(parent) if parent.as_str().is_empty() => Ok(top),
        Some(parent) => open(top, parent.as_str().as_bytes(), OFlags::DIRECTORY, Mounts::Crossed),
    };
    match folder {
        Ok(folder) => Ok(Some((folder, name))),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(HostError::Malformed {
            what: format!("the path {path}"),
            why: "a symbolic link leads to it, or something above it is no folder: name where it really lies"
                .to_owned(),
        }),
        Err(error) => Err(failed("cannot open the folder of", path)(error)),
    }
}

/// The folder that something in a tree lies in, and its name there.
pub(super) fn folder_of(top: &Utf8Path, place: &Place) -> HostResult<(OwnedFd, Vec<u8>)> {
    let (above, root) = folder_above(top, &place.root)?
        .ok_or_else(|| failed("cannot open the folder of", &place.root)(Errno::NOENT))?;
    let Some((folder, name)) = place.path.split() else {
        return Ok((above, root.as_bytes().to_vec()));
    };
    let open_below = || {
        let tree = open(&above, root.as_bytes(), OFlags::DIRECTORY, Mounts::Crossed)?;
        match folder.as_bytes() {
            [] => Ok(tree),
            path => open(tree, path, OFlags::DIRECTORY, Mounts::Refused),
        }
    };
    let opened = open_below().map_err(failed("cannot open the folder of", &place.display()))?;
    Ok((opened, name.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
    fn folder() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/file"), "content").unwrap();
        symlink("b", folder.path().join("a/link")).unwrap();
        symlink("/etc", folder.path().join("away")).unwrap();
        let opened = fs::open(folder.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (folder, opened)
    }

    type Open = fn(BorrowedFd<'_>, &[u8], OFlags, Mounts) -> Result<OwnedFd>;
    const WAYS: [Open; 2] =
        [|folder, path, flags, mounts| open(folder, path, flags, mounts), open_by_component];

    #[test]
    fn what_lies_beneath_is_opened_and_no_link_is_followed_wherever_it_leads() {
        let (_folder, top) = folder();
        for open in WAYS {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            assert!(open(top.as_fd(), b"a/b/file", flags, Mounts::Refused).is_ok());
            for path in ["a/link/file", "away/hostname", "away"] {
                let error = open(top.as_fd(), path.as_bytes(), flags, Mounts::Refused).unwrap_err();
                assert!(matches!(error, Errno::LOOP | Errno::NOTDIR), "{path}: {error}");
            }
            for path in ["..", "a/../../x"] {
                assert!(open(top.as_fd(), path.as_bytes(), flags, Mounts::Refused).is_err(), "{path}");
            }
            assert_eq!(open(top.as_fd(), b"a/none", flags, Mounts::Refused).unwrap_err(), Errno::NOENT);
        }
    }

    #[test]
    fn a_mount_is_crossed_only_where_that_is_asked_for() {
        let root = fs::open("/", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for open in WAYS {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            assert!(open(root.as_fd(), b"proc", flags, Mounts::Crossed).is_ok());
            assert_eq!(open(root.as_fd(), b"proc", flags, Mounts::Refused).unwrap_err(), Errno::XDEV);
        }
    }
}
