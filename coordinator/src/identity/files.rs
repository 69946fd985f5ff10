//! Keys and certificates on disk: never half written, never readable by others.

#![expect(
    clippy::disallowed_methods,
    reason = "with the store, the coordinator's only room that touches files"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file or folder that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {what}: {source}; the coordinator needs it as its own, readable and writable", path.display())]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// `read`, `found`, `written`, `made`
    pub what: &'static str,
    /// The system's answer.
    pub source: io::Error,
}

/// A folder of our own, 0700, with its parents.
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| FileError {
        path: path.to_owned(),
        what: "made",
        source,
    })
}

/// The whole file as text, or `None` where there is none.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { path: path.to_owned(), what: "read", source }),
    }
}

/// What a file that others wrote holds, as far as so many bytes, or `None` where there is none.
pub fn first_bytes(path: &Path, most: u64) -> Result<Option<Vec<u8>>, FileError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { path: path.to_owned(), what: "read", source }),
    }
}

/// Whether nobody but its owner may read or write a file, as a key has to be kept.
pub fn is_owners_only(path: &Path) -> Result<bool, FileError> {
    let failed = |source| FileError { path: path.to_owned(), what: "read", source };
    let others = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o077;
    Ok(others == 0)
}

/// Who else may write to a file, to a folder above it or to where a link on the way leads, and so decides what it says: why it
/// is not to be believed and what to do; `None` where only root or this process's user may.
pub fn distrust(path: &Path) -> Result<Option<String>, FileError> {
    let own = nix::unistd::geteuid().as_raw();
    let real = real_path(path)?;
    for (file, place) in [(path, path.ancestors()), (&real, real.ancestors())] {
        for part in place.filter(|part| !part.as_os_str().is_empty()) {
            let failed = |source| FileError { path: part.to_owned(), what: "found", source };
            let found = fs::symlink_metadata(part).map_err(failed)?;
            // In a folder with the sticky bit nobody renames what is another's. A link has no mode of its own.
            let sticky = part != file && found.mode() & 0o1000 != 0;
            let writable = found.mode() & 0o022 != 0 && !sticky && !found.is_symlink();
            if writable || (found.uid() != 0 && found.uid() != own) {
                return Ok(Some(format!(
                    "others than root may write to {0}, and decide what is run: `chown root {0}` and `chmod go-w {0}`",
                    part.display()
                )));
            }
        }
    }
    Ok(None)
}

/// What a path leads to once every link is followed; `None` where there is nothing.
pub fn found(path: &Path) -> Result<Option<fs::Metadata>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { path: path.to_owned(), what: "found", source }),
    }
}

/// What lies in a folder, by name.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source| FileError { path: folder.to_owned(), what: "read", source };
    let entries = fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Where a path leads once every link is followed.
pub fn real_path(path: &Path) -> Result<PathBuf, FileError> {
    path.canonicalize().map_err(|source| FileError { path: path.to_owned(), what: "found", source })
}

/// How many bytes a file holds; `None` where there is no regular file.
pub fn size(path: &Path) -> Result<Option<u64>, FileError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { path: path.to_owned(), what: "read", source }),
    }
}

/// Replaces a file as a whole, 0600: temporary file, fsync, rename, fsync of the folder.
pub fn write(path: &Path, content: &str) -> Result<(), FileError> {
    let failed = |source| FileError { path: path.to_owned(), what: "written", source };
    let temporary = path.with_extension("new");
    let replace = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    replace().map_err(failed)
}

/// Removes a file; fine if there is none.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FileError { path: path.to_owned(), what: "removed", source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_whatever_an_earlier_try_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(folder.path().join("key.new"), "left behind, and longer than what comes").unwrap();
        write(&path, "first").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("second"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_there_is_none_and_one_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("nothing")).unwrap(), None);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }
}
