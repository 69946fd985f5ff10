//! A node's files, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

/// Files and folders by absolute path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    files: BTreeMap<Utf8PathBuf, File>,
    folders: BTreeMap<Utf8PathBuf, u32>,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What is in it.
    pub content: Arc<[u8]>,
    /// Permission bits.
    pub mode: u32,
}

impl Disk {
    /// A file's content.
    pub fn read(&self, path: &Utf8Path) -> Option<&[u8]> {
        self.files.get(path).map(|file| file.content.as_ref())
    }

    /// A file.
    pub fn file(&self, path: &Utf8Path) -> Option<&File> {
        self.files.get(path)
    }

    /// A folder's permission bits.
    pub fn folder_mode(&self, path: &Utf8Path) -> Option<u32> {
        self.folders.get(path).copied()
    }

    /// Whether a file or a folder is there.
    pub fn exists(&self, path: &Utf8Path) -> bool {
        self.files.contains_key(path) || self.folders.contains_key(path)
    }

    /// Puts a file, and the folders above it.
    pub fn put(&mut self, path: impl Into<Utf8PathBuf>, content: impl AsRef<[u8]>, mode: u32) {
        let path = path.into();
        if let Some(parent) = path.parent() {
            self.make_folder(parent, 0o755);
        }
        self.files.insert(
            path,
            File {
                content: content.as_ref().into(),
                mode,
            },
        );
    }

    /// Takes a file away; whether there was one.
    pub fn remove(&mut self, path: &Utf8Path) -> bool {
        self.files.remove(path).is_some()
    }

    /// A folder and those above it.
    pub fn make_folder(&mut self, path: &Utf8Path, mode: u32) {
        for folder in path.ancestors() {
            self.folders.entry(folder.to_owned()).or_insert(mode);
        }
    }

    /// As rename(2), of a file.
    pub fn rename(&mut self, from: &Utf8Path, to: &Utf8Path) -> bool {
        match self.files.remove(from) {
            Some(file) => {
                self.files.insert(to.to_owned(), file);
                true
            }
            None => false,
        }
    }

    /// Names in a folder, sorted.
    pub fn list(&self, folder: &Utf8Path) -> Vec<String> {
        let paths = self.files.keys().chain(self.folders.keys());
        let mut names: Vec<String> = paths
            .filter(|path| path.parent() == Some(folder))
            .filter_map(|path| path.file_name().map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The files at and below a path.
    pub fn below<'a>(&'a self, path: &'a Utf8Path) -> impl Iterator<Item = (&'a Utf8PathBuf, &'a File)> {
        self.files.iter().filter(move |(file, _)| file.starts_with(path))
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = (&Utf8PathBuf, &File)> {
        self.files.iter()
    }

    /// Bytes at and below a path.
    pub fn size(&self, path: &Utf8Path) -> u64 {
        self.below(path).map(|(_, file)| file.content.len() as u64).sum()
    }
}
