//! A store without a disk, for tests. It can be told to fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Batch, Store, StoreError};

/// What it holds.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Vec<u8>>,
    /// How many more commits it takes; `None`: any number.
    room: Option<usize>,
}

impl MemoryStore {
    /// From now on every commit fails as on a full disk.
    pub(crate) fn fill_up(&self) {
        self.fill_up_after(0);
    }

    /// So many more commits succeed, and then every one fails.
    pub(crate) fn fill_up_after(&self, commits: usize) {
        self.lock().room = Some(commits);
    }

    /// What a process that starts now would find: a copy, for good.
    pub(crate) fn copy(&self) -> Arc<Self> {
        let entries = self.lock().entries.clone();
        Arc::new(Self { inner: Mutex::new(Inner { entries, ..Inner::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Arc<MemoryStore> {
    fn load(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        Ok(self.lock().entries.clone())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.room == Some(0) {
            return Err(StoreError::Io {
                path: PathBuf::from("/memory"),
                what: "written",
                source: io::Error::from(io::ErrorKind::StorageFull),
            });
        }
        inner.room = inner.room.map(|room| room - 1);
        inner.entries.extend(batch.writes().map(|(key, value)| (key.to_owned(), value.to_vec())));
        Ok(())
    }
}
