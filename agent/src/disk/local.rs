//! The file system of this machine.

#![expect(
    clippy::disallowed_methods,
    reason = "the agent's own files: no lease covers them, so host::Files with its permits is not for them"
)]

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

use camino::{Utf8Path, Utf8PathBuf};

use crate::disk::{Appender, Disk};

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn read(&self, path: &Utf8Path) -> io::Result<Option<Vec<u8>>> {
        found(std::fs::read(path))
    }

    fn list(&self, folder: &Utf8Path) -> io::Result<Vec<String>> {
        let Some(entries) = found(std::fs::read_dir(folder))? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none that the agent gave.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_folder(&self, folder: &Utf8Path) -> io::Result<()> {
        let missing: Vec<&Utf8Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        missing.into_iter().try_for_each(sync_folder_of)
    }

    fn replace(&self, path: &Utf8Path, content: &[u8]) -> io::Result<()> {
        let new = Utf8PathBuf::from(format!("{path}.new"));
        // One that a crash left may have another owner's mode: start afresh.
        self.remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // On a full disk the half file would only make things worse; the first error is the one to tell.
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
        self.rename(&new, path)
    }

    fn append_to(&self, path: &Utf8Path, length: u64) -> io::Result<Box<dyn Appender>> {
        let file = OpenOptions::new().append(true).open(path)?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        Ok(Box::new(LocalFile(file)))
    }

    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        sync_folder_of(to)
    }

    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        if found(std::fs::remove_file(path))?.is_some() {
            sync_folder_of(path)?;
        }
        Ok(())
    }
}

struct LocalFile(File);

impl Appender for LocalFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        // The new length is metadata that is needed to read the bytes back, so fdatasync makes it durable too.
        self.0.sync_data()
    }
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn sync_folder_of(path: &Utf8Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    fn mode(path: &Utf8Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_are_for_the_agent_alone() {
        let (_keep, dir) = folder();
        let state = dir.join("state/identity");
        LocalDisk.create_folder(&state).unwrap();
        LocalDisk.replace(&state.join("key.pem"), b"secret").unwrap();
        assert_eq!((mode(&state), mode(&state.join("key.pem"))), (0o700, 0o600));
    }

    #[test]
    fn a_replaced_file_leaves_no_second_one_behind() {
        let (_keep, dir) = folder();
        let path = dir.join("fence");
        LocalDisk.replace(&path, b"1").unwrap();
        LocalDisk.replace(&path, b"2").unwrap();
        assert_eq!(LocalDisk.read(&path).unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(LocalDisk.list(&dir).unwrap(), ["fence"]);
    }

    #[test]
    fn appending_begins_at_the_length_that_was_named() {
        let (_keep, dir) = folder();
        let path = dir.join("journal");
        LocalDisk.replace(&path, b"abcdef").unwrap();
        LocalDisk.append_to(&path, 3).unwrap().append(b"xy").unwrap();
        assert_eq!(LocalDisk.read(&path).unwrap().as_deref(), Some(&b"abcxy"[..]));
    }

    #[test]
    fn what_is_not_there_is_none_and_not_an_error() {
        let (_keep, dir) = folder();
        assert_eq!(LocalDisk.read(&dir.join("no")).unwrap(), None);
        assert!(LocalDisk.list(&dir.join("no")).unwrap().is_empty());
        LocalDisk.remove(&dir.join("no")).unwrap();
    }
}
