//! What the coordinator must not forget, behind a trait.
//!
//! A store is a map from text keys to JSON values that is loaded once, at the start, and from then on only
//! written, by one [`Batch`] after the other. [`records`] says which keys there are and what they hold.
//!
//! Invariant: [`Store::commit`] returns only when the whole batch survives a power cut.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

pub mod embedded;
#[cfg(test)]
pub mod memory;
pub mod records;
mod witness;

pub use embedded::SledStore;

/// Keeps records through crashes and power cuts.
pub trait Store: Send + Sync {
    /// Everything that was ever committed and not removed, by key.
    fn load(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError>;

    /// Writes all of a batch or nothing. When it returns `Ok`, the batch is on stable storage. After an error nobody
    /// can know whether it is: such a store refuses every later batch, and the next start reads what is there. Only
    /// [`StoreError::TooLarge`] is found before anything is written.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;
}

/// Writes that become durable together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<String, Vec<u8>>,
}

impl Batch {
    /// Sets a key to a value.
    pub fn put(&mut self, key: String, value: &impl Serialize) -> Result<(), StoreError> {
        let json = serde_json::to_vec(value)
            .map_err(|source| StoreError::Unreadable { key: key.clone(), why: source.to_string() })?;
        self.writes.insert(key, json);
        Ok(())
    }

    /// Each key with its new value, in the order of keys.
    pub fn writes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.writes.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Why the store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store {} is open in another process: only one coordinator may run on a state directory; \
         stop the other one, or give this one a --state-dir of its own", path.display()
    )]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// The system refused a read or a write.
    #[error("the store {} cannot be {what}: {source}; {}", path.display(), hint(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// `opened`, `written`, …
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What is on disk is not what was written.
    #[error(
        "the store {} is damaged ({why}): put back a copy of the state directory, or move this folder away to begin with \
         an empty one; agents keep their journals, and no lease number that they have seen is used again, but whoever was \
         revoked is let in again until it is revoked anew or its certificate ends", path.display()
    )]
    Corrupt {
        /// The store's folder.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A record does not parse.
    #[error(
        "the store's record {key} is unreadable ({why}): it was written by another version, or is damaged"
    )]
    Unreadable {
        /// Its key.
        key: String,
        /// What was found.
        why: String,
    },
    /// A record that the store could not keep whole through a power cut. Nothing was written.
    #[error(
        "the record {key} has {size} bytes, more than the {limit} that the store can keep: make it smaller"
    )]
    TooLarge {
        /// Its key.
        key: String,
        /// In bytes.
        size: usize,
        /// In bytes.
        limit: usize,
    },
    /// Written by a version that this one does not know.
    #[error(
        "the store has format {found}, this version of Liftlock knows format {known}: install the newer one"
    )]
    Format {
        /// What the store says.
        found: u32,
        /// What this version writes.
        known: u32,
    },
    /// An earlier batch failed.
    #[error("the store takes no more writes since one failed: {why}")]
    Failed {
        /// The first failure.
        why: String,
    },
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "make room on that file system, then restart the coordinator"
        }
        std::io::ErrorKind::PermissionDenied => {
            "run the coordinator as the user that owns it, or give it another --state-dir"
        }
        std::io::ErrorKind::ReadOnlyFilesystem => "mount that file system read-write",
        _ => "look at that file system and its disk, then restart the coordinator",
    }
}
