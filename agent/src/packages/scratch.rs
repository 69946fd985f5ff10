//! Folders of the agent's own, in its state folder: nobody else may look into them or put anything there.

#![expect(clippy::disallowed_methods, reason = "no lease covers it: what disturbs nothing uses it")]

use std::fs::DirBuilder;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

use camino::{Utf8Path, Utf8PathBuf};

use crate::host::{HostError, HostResult, Layout};

/// A new folder (0700), removed when it is dropped. What a crash left of it is removed first.
#[derive(Debug)]
pub(crate) struct Scratch(Folder);

/// A folder (0700) that stays until it is made anew.
#[derive(Debug, Clone)]
pub(super) struct Folder(Utf8PathBuf);

impl Scratch {
    /// Where a kubeadm that is not installed is laid out to be asked; one at a time.
    pub(super) fn for_kubeadm(layout: &Layout) -> HostResult<Self> {
        Self::new(layout.state_dir.join("scratch"))
    }

    pub(crate) fn new(path: Utf8PathBuf) -> HostResult<Self> {
        let folder = Folder(path);
        folder.renew()?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        self.0.path()
    }

    /// A file in it.
    pub(crate) fn write(&self, name: &str, content: &str) -> HostResult<Utf8PathBuf> {
        self.0.write(name, content)
    }
}

impl Scratch {
    /// A copy of a program, which may be run.
    pub(super) fn program(&self, name: &str, from: &Utf8Path) -> HostResult<Utf8PathBuf> {
        let path = self.path().join(name);
        let copied = std::fs::copy(from, &path)
            .and_then(|_| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)));
        match copied {
            Ok(()) => Ok(path),
            Err(source) => Err(HostError::File { doing: "cannot copy the program to", path, source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(self.path()) {
            tracing::warn!(path = %self.path(), %error, "a scratch folder is left; the next use removes it");
        }
    }
}

impl Folder {
    /// There or not.
    pub(super) fn at(path: Utf8PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Utf8Path {
        &self.0
    }

    /// Makes it anew, with nothing in it. The folder that it lies in is there.
    pub(super) fn renew(&self) -> HostResult<()> {
        let made = remove(&self.0).and_then(|()| DirBuilder::new().mode(0o700).create(&self.0));
        made.map_err(|source| HostError::File {
            doing: "cannot make the folder",
            path: self.0.clone(),
            source,
        })
    }

    /// Takes it away; fine where there is none.
    pub(super) fn remove(&self) -> HostResult<()> {
        remove(&self.0).map_err(|source| HostError::File {
            doing: "cannot remove the folder",
            path: self.0.clone(),
            source,
        })
    }

    /// A folder in it.
    pub(super) fn below(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// A file in it (0600): a list of sources may hold passwords.
    pub(super) fn write(&self, name: &str, content: &str) -> HostResult<Utf8PathBuf> {
        let path = self.0.join(name);
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        match file.and_then(|mut file| file.write_all(content.as_bytes())) {
            Ok(()) => Ok(path),
            Err(source) => Err(HostError::File { doing: "cannot write", path, source }),
        }
    }

    /// Takes a file in it away; fine where there is none.
    pub(super) fn forget(&self, name: &str) -> HostResult<()> {
        let path = self.0.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(HostError::File { doing: "cannot remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// A link in it to a file elsewhere; one of that name that is there stays.
    pub(super) fn link(&self, name: &str, to: &Utf8Path) -> HostResult<()> {
        let path = self.0.join(name);
        match std::os::unix::fs::symlink(to, &path) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                Err(HostError::File { doing: "cannot make the link", path, source })
            }
            _ => Ok(()),
        }
    }
}

fn remove(path: &Utf8Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
