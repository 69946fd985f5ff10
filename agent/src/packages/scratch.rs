//! A folder for a moment, in the agent's state folder: nobody else may look into it or put anything there.

#![expect(clippy::disallowed_methods, reason = "no lease covers it: what disturbs nothing uses it")]

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;

use camino::{Utf8Path, Utf8PathBuf};

use crate::host::{HostError, HostResult};

/// A new folder (0700), removed when it is dropped. What a crash left of it is removed first.
#[derive(Debug)]
pub(crate) struct Scratch(Utf8PathBuf);

impl Scratch {
    pub(crate) fn new(path: Utf8PathBuf) -> HostResult<Self> {
        let made = remove(&path).and_then(|()| DirBuilder::new().mode(0o700).create(&path));
        match made {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(HostError::File { doing: "cannot make the folder", path, source }),
        }
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        &self.0
    }

    /// A file in it.
    pub(crate) fn write(&self, name: &str, content: &str) -> HostResult<Utf8PathBuf> {
        let path = self.0.join(name);
        match std::fs::write(&path, content) {
            Ok(()) => Ok(path),
            Err(source) => Err(HostError::File { doing: "cannot write", path, source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(path = %self.0, %error, "a scratch folder is left; the next use removes it");
        }
    }
}

fn remove(path: &Utf8Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
