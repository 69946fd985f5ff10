//! Putting single things of a tree back: each in one rename, and durable when it is done.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use camino::Utf8Path;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, Result};

use super::attributes::{apply, times};
use super::beneath::{self, Mounts, folder_of};
use super::files::{failed, make_folder};
use super::tree;
use crate::host::trees::{Content, Entry, Hash, Kind, Name, PART, Place};
use crate::host::{HostError, HostResult};

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// A run of zeros of this length, at a multiple of it, becomes a hole in a file that had some.
const HOLE: usize = 4096;

/// Makes what is at a place what the entry says.
pub(super) fn put_back(top: &Utf8Path, place: &Place, entry: &Entry, content: &Content) -> HostResult<()> {
    let path = place.display();
    let (folder, name) = folder_of(top, place)?;
    let in_tree = if place.path.as_bytes().is_empty() { Mounts::Crossed } else { Mounts::Refused };
    let put = || match (&entry.kind, content) {
        (Kind::File { sparse, .. }, Content::Bytes(_) | Content::Part { .. }) => {
            let part = new_part(&folder)?;
            let mut file = File::from(part);
            fill(&mut file, content, *sparse)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            apply(&file, entry)?;
            fs::fsync(&file)?;
            in_place(&folder, &name)
        }
        (Kind::File { .. }, Content::Present) => {
            let file = beneath::open(&folder, &name, OFlags::NONBLOCK, in_tree)?;
            apply(&file, entry)?;
            fs::fsync(&file)
        }
        (Kind::Folder, _) => {
            match fs::mkdirat(&folder, name.as_slice(), Mode::RWXU) {
                Err(Errno::EXIST) => {}
                made => made?,
            }
            let made = beneath::open(&folder, &name, OFlags::DIRECTORY, in_tree)?;
            apply(&made, entry)?;
            fs::fsync(&made)?;
            fs::fsync(&folder)
        }
        (Kind::Link(target), _) => {
            tree::remove(&folder, PART)?;
            fs::symlinkat(target.as_bytes(), &folder, PART)?;
            own(&folder, entry)?;
            in_place(&folder, &name)
        }
        (Kind::Pipe, _) => special(&folder, &name, entry, FileType::Fifo, 0),
        (Kind::CharacterDevice(number), _) => {
            special(&folder, &name, entry, FileType::CharacterDevice, *number)
        }
        (Kind::BlockDevice(number), _) => special(&folder, &name, entry, FileType::BlockDevice, *number),
        (Kind::MountPoint, _) => Err(Errno::BUSY),
    };
    put().map_err(failed("cannot put back", &path))
}

/// Makes a place another name of a file in the same tree.
pub(super) fn link(top: &Utf8Path, place: &Place, of: &Name) -> HostResult<()> {
    let (folder, name) = folder_of(top, place)?;
    let first = Place { root: place.root.clone(), path: of.clone() };
    let (first_folder, first_name) = folder_of(top, &first)?;
    let link = || {
        tree::remove(&folder, PART)?;
        fs::linkat(&first_folder, first_name.as_slice(), &folder, PART, AtFlags::empty())?;
        in_place(&folder, &name)?;
        // Where both are one file already, a rename does nothing at all.
        tree::remove(&folder, PART)
    };
    link().map_err(failed("cannot link", &place.display()))
}

/// Moves what is at a place out of the tree.
pub(super) fn set_aside(top: &Utf8Path, place: &Place, to: &Utf8Path) -> HostResult<()> {
    let path = place.display();
    let (folder, name) = folder_of(top, place)?;
    if let Some(above) = to.parent() {
        make_folder(above, 0o700)?;
    }
    let (to_folder, to_name) = tree::folder_of(to)?;
    match fs::renameat(&folder, name.as_slice(), &to_folder, to_name) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::XDEV) => move_over(&folder, &name, &to_folder, to)?,
        Err(error) => return Err(failed("cannot move out of the way", &path)(error)),
    }
    let durable = || fs::fsync(&to_folder).and_then(|()| fs::fsync(&folder));
    durable().map_err(failed("cannot make durable the folder of", &path))
}

/// Moves a file or a link to another file system. A folder would have to be deleted with all that is in it, which
/// nobody does here.
fn move_over(folder: &OwnedFd, name: &[u8], to_folder: &OwnedFd, to: &Utf8Path) -> HostResult<()> {
    let to_name = to.file_name().unwrap_or_default();
    let status = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("cannot look at", to))?;
    tree::remove(to_folder, to_name).map_err(failed("cannot replace", to))?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => {
            let input = beneath::open(folder, name, OFlags::NONBLOCK, Mounts::Refused)
                .map_err(failed("cannot open what goes to", to))?;
            let output = fs::openat(to_folder, to_name, NEW, Mode::RUSR | Mode::WUSR)
                .map_err(failed("cannot make", to))?;
            let (mut input, mut output) = (File::from(input), File::from(output));
            tree::stream(&mut input, &mut output, to, to)?;
            tree::keep_attributes(&output, &status)
                .map_err(failed("cannot keep owner, mode and times of", to))?;
            output.sync_all().map_err(failed("cannot make durable", to))?;
        }
        FileType::Symlink => {
            let target = fs::readlinkat(folder, name, Vec::new())
                .map_err(failed("cannot read the link that goes to", to))?;
            fs::symlinkat(target.as_c_str(), to_folder, to_name)
                .map_err(failed("cannot make the link", to))?;
        }
        _ => {
            return Err(HostError::Malformed {
                what: format!("what would go to {to}"),
                why: "it lies on another file system and is neither a file nor a link: move it away by hand"
                    .to_owned(),
            });
        }
    }
    fs::unlinkat(folder, name, AtFlags::empty()).map_err(failed("cannot remove what went to", to))
}

fn new_part(folder: &OwnedFd) -> Result<OwnedFd> {
    tree::remove(folder, PART)?;
    fs::openat(folder, PART, NEW, Mode::RUSR | Mode::WUSR)
}

fn in_place(folder: &OwnedFd, name: &[u8]) -> Result<()> {
    fs::renameat(folder, PART, folder, name)?;
    fs::fsync(folder)
}

fn special(folder: &OwnedFd, name: &[u8], entry: &Entry, kind: FileType, number: u64) -> Result<()> {
    tree::remove(folder, PART)?;
    fs::mknodat(folder, PART, kind, Mode::RUSR | Mode::WUSR, number)?;
    own(folder, entry)?;
    fs::chmodat(folder, PART, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    in_place(folder, name)
}

/// Owner and times of something that is not opened.
fn own(folder: &OwnedFd, entry: &Entry) -> Result<()> {
    let (user, group) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fs::chownat(folder, PART, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    fs::utimensat(folder, PART, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
}

/// How much of a part is in memory at once, in bytes; a multiple of [`HOLE`].
const CHUNK: usize = 256 << 10;

fn fill(file: &mut File, content: &Content, sparse: bool) -> std::io::Result<()> {
    match content {
        Content::Present => Ok(()),
        Content::Bytes(bytes) => {
            write(file, bytes, sparse)?;
            file.set_len(bytes.len() as u64)
        }
        Content::Part { file: source, offset, length, blake3 } => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(fs::open(source.as_str(), flags, Mode::empty())?);
            source.seek(SeekFrom::Start(*offset))?;
            let (mut source, mut hasher) = (source.take(*length), blake3::Hasher::new());
            let mut buffer = Vec::with_capacity(CHUNK);
            loop {
                buffer.clear();
                source.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
                if buffer.is_empty() {
                    break;
                }
                hasher.update(&buffer);
                write(file, &buffer, sparse)?;
            }
            // EBADMSG: what lies there is not what was put there.
            if Hash::from(hasher.finalize()) != *blake3 {
                return Err(Errno::BADMSG.into());
            }
            file.set_len(*length)
        }
    }
}

fn write(file: &mut File, content: &[u8], sparse: bool) -> std::io::Result<()> {
    if !sparse {
        return file.write_all(content);
    }
    for block in content.chunks(HOLE) {
        if block.iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(block.len()).unwrap_or(i64::MAX)))?;
        } else {
            file.write_all(block)?;
        }
    }
    Ok(())
}
