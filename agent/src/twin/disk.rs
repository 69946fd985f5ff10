//! A node's files, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

/// Files and folders by absolute path. Kept as texts, which compare faster than paths: a simulation does little else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    files: BTreeMap<String, File>,
    folders: BTreeMap<String, u32>,
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
        self.file(path).map(|file| file.content.as_ref())
    }

    /// A file.
    pub fn file(&self, path: &Utf8Path) -> Option<&File> {
        self.files.get(path.as_str())
    }

    /// A folder's permission bits.
    pub fn folder_mode(&self, path: &Utf8Path) -> Option<u32> {
        self.folders.get(path.as_str()).copied()
    }

    /// Whether a file or a folder is there.
    pub fn exists(&self, path: &Utf8Path) -> bool {
        self.files.contains_key(path.as_str()) || self.folders.contains_key(path.as_str())
    }

    /// Puts a file, and the folders above it.
    pub fn put(&mut self, path: impl Into<Utf8PathBuf>, content: impl AsRef<[u8]>, mode: u32) {
        let path = path.into();
        if let Some(parent) = path.parent() {
            self.make_folder(parent, 0o755);
        }
        self.files.insert(path.into_string(), File { content: content.as_ref().into(), mode });
    }

    /// Takes a file away; whether there was one.
    pub fn remove(&mut self, path: &Utf8Path) -> bool {
        self.files.remove(path.as_str()).is_some()
    }

    /// Takes away whatever is at a path and below it.
    pub fn remove_tree(&mut self, path: &Utf8Path) {
        let below = format!("{path}/");
        let kept = |at: &String| at != path.as_str() && !at.starts_with(&below);
        self.files.retain(|at, _| kept(at));
        self.folders.retain(|at, _| kept(at));
    }

    /// Removes all but a folder, what is in it, and the folders above it.
    pub(super) fn keep_only(&mut self, path: &Utf8Path) {
        let kept = |at: &String| Utf8Path::new(at).starts_with(path) || path.starts_with(at);
        self.files.retain(|at, _| kept(at));
        self.folders.retain(|at, _| kept(at));
    }

    /// A folder and those above it.
    pub fn make_folder(&mut self, path: &Utf8Path, mode: u32) {
        for folder in path.ancestors() {
            if self.folders.contains_key(folder.as_str()) {
                break;
            }
            self.folders.insert(folder.to_string(), mode);
        }
    }

    /// As rename(2), of a file; whether there was one.
    pub fn rename(&mut self, from: &Utf8Path, to: &Utf8Path) -> bool {
        match self.files.remove(from.as_str()) {
            Some(file) => {
                self.files.insert(to.to_string(), file);
                true
            }
            None => false,
        }
    }

    /// Sets a file's or a folder's permission bits; nothing where there is neither.
    pub fn set_mode(&mut self, path: &Utf8Path, mode: u32) {
        if let Some(file) = self.files.get_mut(path.as_str()) {
            file.mode = mode;
        }
        if let Some(folder) = self.folders.get_mut(path.as_str()) {
            *folder = mode;
        }
    }

    /// Moves a file or a folder with all that is in it; whether there was one.
    pub fn move_tree(&mut self, from: &Utf8Path, to: &Utf8Path) -> bool {
        let there = self.exists(from);
        let is_within = |path: &str| Utf8Path::new(path).starts_with(from);
        let target = |path: &str| match Utf8Path::new(path).strip_prefix(from) {
            Ok(rest) if !rest.as_str().is_empty() => to.join(rest).into_string(),
            _ => to.to_string(),
        };
        if let Some(above) = to.parent() {
            self.make_folder(above, 0o700);
        }
        for (path, file) in std::mem::take(&mut self.files) {
            self.files.insert(if is_within(&path) { target(&path) } else { path }, file);
        }
        for (path, mode) in std::mem::take(&mut self.folders) {
            self.folders.insert(if is_within(&path) { target(&path) } else { path }, mode);
        }
        there
    }

    /// Names in a folder, sorted.
    pub fn list(&self, folder: &Utf8Path) -> Vec<String> {
        let prefix = format!("{}/", folder.as_str().trim_end_matches('/'));
        let mut names: Vec<String> = within(&self.files, &prefix)
            .map(|(path, _)| path)
            .chain(within(&self.folders, &prefix).map(|(path, _)| path))
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    /// The files at and below a path.
    pub fn below(&self, path: &Utf8Path) -> Vec<(Utf8PathBuf, File)> {
        let itself = self.files.get_key_value(path.as_str());
        let prefix = format!("{path}/");
        itself
            .into_iter()
            .chain(within(&self.files, &prefix))
            .map(|(path, file)| (path.into(), file.clone()))
            .collect()
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter()
    }

    /// Bytes at and below a path.
    pub fn size(&self, path: &Utf8Path) -> u64 {
        self.below(path).iter().map(|(_, file)| file.content.len() as u64).sum()
    }
}

/// The entries whose path starts with a text.
fn within<'a, T>(
    entries: &'a BTreeMap<String, T>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    entries.range(prefix.to_owned()..).take_while(move |(path, _)| path.starts_with(prefix))
}
