//! A disk for tests: in memory, with a limit after which it is full.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};

use crate::disk::{Appender, Disk};

/// Files in memory. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

/// How an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendFault {
    /// Nothing of it arrives.
    Lost,
    /// A part of it arrives.
    Torn,
    /// All of it arrives, and nobody learns of it.
    Unacknowledged,
}

#[derive(Default)]
struct State {
    files: BTreeMap<Utf8PathBuf, Vec<u8>>,
    room: Option<usize>,
    fault: Option<(usize, AppendFault)>,
}

impl State {
    /// How many of the bytes still fit.
    fn take(&mut self, bytes: usize) -> usize {
        let Some(room) = &mut self.room else { return bytes };
        let fits = bytes.min(*room);
        *room -= fits;
        fits
    }
}

fn full() -> io::Error {
    ErrorKind::StorageFull.into()
}

impl MemoryDisk {
    /// From now on only so many bytes more can be written.
    pub(crate) fn limit(&self, room: Option<usize>) {
        self.0.lock().unwrap().room = room;
    }

    /// The append after so many more fails in this way.
    pub(crate) fn fail_append(&self, after: usize, fault: AppendFault) {
        self.0.lock().unwrap().fault = Some((after, fault));
    }

    pub(crate) fn put(&self, path: &Utf8Path, content: &[u8]) {
        self.0.lock().unwrap().files.insert(path.to_owned(), content.to_vec());
    }

    pub(crate) fn content(&self, path: &Utf8Path) -> Vec<u8> {
        self.read(path).unwrap().unwrap_or_default()
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Utf8Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().files.get(path).cloned())
    }

    fn list(&self, folder: &Utf8Path) -> io::Result<Vec<String>> {
        let state = self.0.lock().unwrap();
        let inside = state.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name()).map(str::to_owned).collect())
    }

    fn create_folder(&self, _folder: &Utf8Path) -> io::Result<()> {
        Ok(())
    }

    fn replace(&self, path: &Utf8Path, content: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.take(content.len()) < content.len() {
            return Err(full());
        }
        state.files.insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn append_to(&self, path: &Utf8Path, length: u64) -> io::Result<Box<dyn Appender>> {
        let mut state = self.0.lock().unwrap();
        let file = state.files.get_mut(path).ok_or(ErrorKind::NotFound)?;
        file.resize(usize::try_from(length).unwrap(), 0);
        Ok(Box::new(MemoryFile { disk: self.clone(), path: path.to_owned() }))
    }

    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let content = state.files.remove(from).ok_or(ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        self.0.lock().unwrap().files.remove(path);
        Ok(())
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    path: Utf8PathBuf,
}

impl Appender for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let fault = match &mut state.fault {
            Some((0, fault)) => Some(*fault),
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        };
        let arrive = match fault {
            None => state.take(bytes.len()),
            Some(AppendFault::Lost) => 0,
            Some(AppendFault::Torn) => bytes.len() / 2,
            Some(AppendFault::Unacknowledged) => bytes.len(),
        };
        let file = state.files.get_mut(&self.path).ok_or(ErrorKind::NotFound)?;
        file.extend_from_slice(&bytes[..arrive]);
        if fault.is_some() {
            state.fault = None;
            return Err(ErrorKind::Other.into());
        }
        if arrive < bytes.len() { Err(full()) } else { Ok(()) }
    }
}
