//! A store without a disk, for tests: it remembers the order of commits and can be told to fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, Store, StoreError};

/// What it holds, and every batch in order.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Vec<u8>>,
    batches: Vec<Batch>,
    full: bool,
}

impl MemoryStore {
    /// Every batch so far.
    pub(crate) fn batches(&self) -> Vec<Batch> {
        self.lock().batches.clone()
    }

    /// From now on every commit fails as on a full disk.
    pub(crate) fn fill_up(&self) {
        self.lock().full = true;
    }

    /// What a process that starts now would find.
    pub(crate) fn reopened(&self) -> Self {
        let entries = self.lock().entries.clone();
        Self { inner: Mutex::new(Inner { entries, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn load(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        Ok(self.lock().entries.clone())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.full {
            return Err(StoreError::Io {
                path: PathBuf::from("/memory"),
                what: "written",
                source: io::Error::from(io::ErrorKind::StorageFull),
            });
        }
        inner.entries.extend(batch.writes().map(|(key, value)| (key.to_owned(), value.to_vec())));
        inner.batches.push(batch.clone());
        Ok(())
    }
}
