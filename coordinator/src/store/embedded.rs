//! The default store: sled in a folder of its own, made truly durable.
//!
//! sled's `flush` writes its log and ends in `sync_file_range`, which neither flushes the disk's cache nor makes the
//! file's length durable. So each commit ends with an `fdatasync` of sled's one data file, `db`. Three more things
//! make that enough:
//! - values stay below [`MAX_VALUE`], so sled never puts a page into a file of its own under `blobs/`, and a batch
//!   below [`MAX_BATCH`], so a segment that sled frees is reused only after a later `fdatasync`;
//! - sled's own flush thread is off: nothing is written outside a commit;
//! - before sled opens the file, what a killed process left in the page cache is made durable, because sled's
//!   recovery builds upon it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Batch, Store, StoreError};

/// Bytes of the largest value. sled keeps up to 20 of them in one page, and moves a page above 128 KiB (a quarter of
/// a segment) out of its log.
pub const MAX_VALUE: usize = 6 * 1024;

/// Bytes of the largest batch: well below one segment of 512 KiB.
pub const MAX_BATCH: usize = 192 * 1024;

/// sled in a folder.
pub struct SledStore {
    folder: PathBuf,
    db: sled::Db,
    data: File,
    failed: Mutex<Option<String>>,
    _lock: Flock<File>,
}

impl SledStore {
    /// Opens the store in `folder`, or makes it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let io = |what| move |source| StoreError::Io { path: folder.to_owned(), what, source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io("made"))?;
        let lock = lock(folder)?;
        let path = folder.join("db");
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("opened"))?;
        data.sync_all().map_err(io("synced"))?;
        let db = open_sled(folder)?;
        db.flush().map_err(|error| explain(folder, error))?;
        data.sync_all().map_err(io("synced"))?;
        for entry in ["conf", "blobs", "."] {
            File::open(folder.join(entry)).and_then(|f| f.sync_all()).map_err(io("synced"))?;
        }
        if let Some(parent) = folder.parent() {
            File::open(parent).and_then(|f| f.sync_all()).map_err(io("synced"))?;
        }
        Ok(Self { folder: folder.to_owned(), db, data, failed: Mutex::new(None), _lock: lock })
    }

    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.writes() {
            writes.insert(key, value);
        }
        let explain = |error| explain(&self.folder, error);
        self.db.apply_batch(writes).map_err(explain)?;
        self.db.flush().map_err(explain)?;
        self.data.sync_data().map_err(|source| StoreError::Io {
            path: self.folder.join("db"),
            what: "synced",
            source,
        })
    }
}

impl Store for SledStore {
    fn load(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.db
            .iter()
            .map(|entry| {
                let (key, value) = entry.map_err(|error| explain(&self.folder, error))?;
                let key = String::from_utf8(key.to_vec()).map_err(|_| StoreError::Corrupt {
                    path: self.folder.clone(),
                    why: "a key is not text".to_owned(),
                })?;
                Ok((key, value.to_vec()))
            })
            .collect()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = failed.as_ref() {
            return Err(StoreError::Failed { why: why.clone() });
        }
        check_size(batch)?;
        self.write(batch).inspect_err(|error| *failed = Some(error.to_string()))
    }
}

fn check_size(batch: &Batch) -> Result<(), StoreError> {
    let check = |key: &str, size, limit| {
        if size > limit { Err(StoreError::TooLarge { key: key.to_owned(), size, limit }) } else { Ok(()) }
    };
    let mut total = 0;
    for (key, value) in batch.writes() {
        total += key.len() + value.len();
        check(key, value.len(), MAX_VALUE)?;
        check(key, total, MAX_BATCH)?;
    }
    Ok(())
}

/// A lock of our own, because sled reports a held one only as a sentence.
fn lock(folder: &Path) -> Result<Flock<File>, StoreError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| StoreError::Io { path: path.clone(), what: "opened", source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StoreError::Locked { path: folder.to_owned() },
        errno => StoreError::Io { path, what: "locked", source: errno.into() },
    })
}

/// sled reports some damage as an error and some by a panic; both are one error here.
fn open_sled(folder: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(folder)
        .flush_every_ms(None)
        .cache_capacity(16 * 1024 * 1024)
        .mode(sled::Mode::LowSpace);
    match panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|error| explain(folder, error)),
        Err(payload) => Err(StoreError::Corrupt { path: folder.to_owned(), why: words(payload.as_ref()) }),
    }
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("sled gave up").to_owned()
}

fn explain(folder: &Path, error: sled::Error) -> StoreError {
    let path = folder.to_owned();
    match error {
        sled::Error::Io(source) => StoreError::Io { path, what: "read or written", source },
        sled::Error::Corruption { at, .. } => StoreError::Corrupt {
            path,
            why: at.map_or_else(|| "a checksum does not fit".to_owned(), |at| format!("a checksum does not fit at {at:?}")),
        },
        other => StoreError::Corrupt { path, why: other.to_string() },
    }
}
