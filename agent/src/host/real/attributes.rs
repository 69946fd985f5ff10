//! Owner, mode, times and extended attributes, read and set by descriptor.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rustix::fs::{self, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::host::trees::{Entry, Kind, Moment, Name, Stamp};

/// Attributes have at most this many bytes, and so has the list of their names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LARGEST: usize = 64 << 10;

/// An entry as far as its metadata say.
#[allow(clippy::useless_conversion, reason = "the number of names has 32 bits on other machines")]
pub(super) fn entry(status: &Stat, kind: Kind, xattrs: BTreeMap<Name, Name>) -> Entry {
    Entry {
        kind,
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        links: status.st_nlink.into(),
        stamp: stamp(status),
        xattrs,
    }
}

/// What tells whether it was touched.
pub(super) fn stamp(status: &Stat) -> Stamp {
    let moment = |seconds, nanoseconds: u64| Moment(seconds, u32::try_from(nanoseconds).unwrap_or_default());
    Stamp {
        device: status.st_dev,
        inode: status.st_ino,
        size: u64::try_from(status.st_size).unwrap_or_default(),
        modified: moment(status.st_mtime, status.st_mtime_nsec),
        changed: moment(status.st_ctime, status.st_ctime_nsec),
    }
}

/// The extended attributes of an open file or folder; none where its file system knows none.
pub(super) fn xattrs(file: impl AsFd) -> Result<BTreeMap<Name, Name>> {
    let mut few = [0; 256];
    let names = match fs::flistxattr(&file, &mut few) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Ok(length) => few.get(..length).unwrap_or_default().to_vec(),
        Err(Errno::RANGE) => {
            let mut many = vec![0; LARGEST];
            let length = fs::flistxattr(&file, &mut many)?;
            many.truncate(length);
            many
        }
        Err(error) => return Err(error),
    };
    let mut xattrs = BTreeMap::new();
    let mut value = vec![0; LARGEST];
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match fs::fgetxattr(&file, name, &mut value) {
            Ok(length) => {
                xattrs.insert(name.into(), value.get(..length).unwrap_or_default().into());
            }
            // Taken away since, or a name that is listed and has nothing to say.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(xattrs)
}

/// Gives an open file or folder what the entry says. In this order: changing the owner drops set-id bits and
/// capabilities, and an ACL sets bits of the mode.
pub(super) fn apply(file: impl AsFd, entry: &Entry) -> Result<()> {
    fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    let there = xattrs(&file)?;
    for name in there.keys().filter(|name| !entry.xattrs.contains_key(*name)) {
        fs::fremovexattr(&file, name.as_bytes())?;
    }
    for (name, value) in &entry.xattrs {
        if there.get(name) != Some(value) {
            fs::fsetxattr(&file, name.as_bytes(), value.as_bytes(), XattrFlags::empty())?;
        }
    }
    fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
    fs::futimens(&file, &times(entry))
}

/// The time of the last change of the content; that of the last access stays.
pub(super) fn times(entry: &Entry) -> Timestamps {
    let Moment(seconds, nanoseconds) = entry.stamp.modified;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}
