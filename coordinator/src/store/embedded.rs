//! The default store: sled in a folder of its own, made truly durable.
//!
//! sled's `flush` writes its log and ends in `sync_file_range`, which neither flushes the disk's cache nor makes the
//! file's length durable. So each commit ends with an `fdatasync` of sled's one data file, `db`. Five more things
//! make that enough:
//! - values stay below [`MAX_VALUE`], so sled never puts a page into a file of its own under `blobs/`, and a batch
//!   below [`MAX_BATCH`], so a segment that sled frees is reused only after a later `fdatasync`;
//! - sled's own flush thread is off: nothing is written outside a commit;
//! - before sled opens the file, what a killed process left in the page cache is made durable, because sled's
//!   recovery builds upon it;
//! - commits are counted, in the batch itself and then in the [`Witness`], because sled takes a damaged record for
//!   the end of its log;
//! - a store that is closed waits for the thread that sled writes with: it lets go of the file a moment after its work is done;
//! - a folder is marked until its store was opened for the first time: sled refuses what a first opening that was cut off
//!   leaves, and nothing was ever in it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::witness::Witness;
use super::{Batch, Store, StoreError};

/// Bytes of the largest value. sled keeps up to 20 of them in one page, and moves a page above 128 KiB (a quarter of
/// a segment) out of its log.
pub const MAX_VALUE: usize = 6 * 1024;

/// Bytes of the largest batch: well below one segment of 512 KiB.
pub const MAX_BATCH: usize = 192 * 1024;

/// The key of the number of commits. No other key begins with a byte that is no text.
const COMMITS: &[u8] = b"\xffcommits";

/// There while a store is opened for the first time.
const UNFINISHED: &str = "unfinished";

/// Held by the process that has the store open.
const LOCK: &str = "lock";

/// sled in a folder.
pub struct SledStore {
    folder: PathBuf,
    sled: Sled,
    witness: Witness,
    progress: Mutex<Progress>,
    _lock: Flock<File>,
}

/// sled with its data file: in this order, because fields are dropped in theirs.
struct Sled {
    db: sled::Db,
    data: Data,
}

/// The file that sled keeps locked. Dropped after sled, it waits until nobody has it locked any more.
///
/// A thread of sled's wakes whoever waits for a write before it lets go of the file, so the lock may outlive the store: a store
/// that is opened again by the same process at that moment would be refused. Nobody else can have it meanwhile, for [`LOCK`] is
/// still held.
struct Data(File);

impl Drop for Data {
    fn drop(&mut self) {
        // Where it cannot be waited for, it was not waited for.
        if let Ok(file) = self.0.try_clone() {
            drop(Flock::lock(file, FlockArg::LockExclusive));
        }
    }
}

struct Progress {
    commits: u64,
    /// Why the first commit that failed did.
    failed: Option<String>,
}

impl SledStore {
    /// Opens the store in `folder`, or makes it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let io = |what| move |source| StoreError::Io { path: folder.to_owned(), what, source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io("made"))?;
        let lock = lock(folder)?;
        let first = begin_anew(folder).map_err(io("made"))?;
        let file = open_data(&folder.join("db")).map_err(io("opened"))?;
        file.sync_all().map_err(io("synced"))?;
        let sled = Sled { db: open_sled(folder)?, data: Data(file) };
        sled.db.flush().map_err(|error| explain(folder, error))?;
        sled.data.0.sync_all().map_err(io("synced"))?;
        let witness = Witness::open(&folder.join("witness")).map_err(io("opened"))?;
        let commits = compare(folder, &sled.db, &witness)?;
        witness.write(commits).map_err(io("written"))?;
        for entry in ["conf", "blobs", ".", ".."] {
            File::open(folder.join(entry)).and_then(|f| f.sync_all()).map_err(io("synced"))?;
        }
        if first {
            fs::remove_file(folder.join(UNFINISHED)).and_then(|()| sync(folder)).map_err(io("made"))?;
        }
        let progress = Mutex::new(Progress { commits, failed: None });
        Ok(Self { folder: folder.to_owned(), sled, witness, progress, _lock: lock })
    }

    fn write(&self, batch: &Batch, commits: u64) -> Result<(), StoreError> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.writes() {
            writes.insert(key, value);
        }
        writes.insert(COMMITS, &commits.to_be_bytes());
        let explain = |error| explain(&self.folder, error);
        let synced = |source| StoreError::Io { path: self.folder.clone(), what: "synced", source };
        self.sled.db.apply_batch(writes).map_err(explain)?;
        self.sled.db.flush().map_err(explain)?;
        self.sled.data.0.sync_data().map_err(synced)?;
        self.witness.write(commits).map_err(synced)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SledStore {
    fn load(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let corrupt = |why: &str| StoreError::Corrupt { path: self.folder.clone(), why: why.to_owned() };
        let entries = self.sled.db.range(..COMMITS).map(|entry| {
            let (key, value) = entry.map_err(|error| explain(&self.folder, error))?;
            let key = String::from_utf8(key.to_vec()).map_err(|_| corrupt("a key is not text"))?;
            Ok((key, value.to_vec()))
        });
        entries.collect()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        check_size(batch)?;
        let mut progress = self.progress();
        if let Some(why) = &progress.failed {
            return Err(StoreError::Failed { why: why.clone() });
        }
        let commits = progress.commits + 1;
        self.write(batch, commits).inspect_err(|error| progress.failed = Some(error.to_string()))?;
        progress.commits = commits;
        Ok(())
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

/// How many commits sled knows, if that is what the witness saw: as many, or one more that was not acknowledged.
fn compare(folder: &Path, db: &sled::Db, witness: &Witness) -> Result<u64, StoreError> {
    let corrupt = |why: String| StoreError::Corrupt { path: folder.to_owned(), why };
    let found = db.get(COMMITS).map_err(|error| explain(folder, error))?;
    let known = match &found {
        None => 0,
        Some(bytes) => u64::from_be_bytes(
            bytes.as_ref().try_into().map_err(|_| corrupt("its counter is no number".to_owned()))?,
        ),
    };
    match witness.read().map_err(|error| corrupt(format!("{}: {error}", folder.join("witness").display())))? {
        None if known == 0 => Ok(0),
        None => Err(corrupt("its file \"witness\" is missing".to_owned())),
        Some(seen) if known == seen || known == seen + 1 => Ok(known),
        Some(seen) if known < seen => {
            Err(corrupt(format!("{} of {seen} acknowledged commits cannot be read", seen - known)))
        }
        Some(seen) => {
            Err(corrupt(format!("its file \"witness\" is older: it saw {seen} commits of {known}")))
        }
    }
}

/// Marks a folder that never held a store, or takes away what a first opening left that was cut off. Whether this is a
/// first opening.
fn begin_anew(folder: &Path) -> io::Result<bool> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            found.push(entry);
        }
    }
    let unfinished = |entry: &fs::DirEntry| entry.file_name() == UNFINISHED;
    if !found.is_empty() && !found.iter().any(unfinished) {
        return Ok(false);
    }
    for entry in found.iter().filter(|entry| !unfinished(entry)) {
        // Of folders there is only one for blobs, and nothing is in it before the first commit.
        let remove = if entry.file_type()?.is_dir() { fs::remove_dir } else { fs::remove_file };
        remove(entry.path())?;
    }
    open_data(&folder.join(UNFINISHED))?.sync_all()?;
    sync(folder)?;
    Ok(true)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn open_data(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A lock of our own, because sled reports a held one only as a sentence.
fn lock(folder: &Path) -> Result<Flock<File>, StoreError> {
    let path = folder.join(LOCK);
    let file =
        open_data(&path).map_err(|source| StoreError::Io { path: path.clone(), what: "opened", source })?;
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
        // sled wraps the system's error, whose words only its kind still has.
        sled::Error::Io(source)
            if source.raw_os_error().is_none() && source.kind() != io::ErrorKind::Other =>
        {
            StoreError::Io { path, what: "read or written", source: source.kind().into() }
        }
        sled::Error::Io(source) => StoreError::Io { path, what: "read or written", source },
        sled::Error::Corruption { at: None, .. } => {
            StoreError::Corrupt { path, why: "a checksum does not fit".to_owned() }
        }
        sled::Error::Corruption { at: Some(at), .. } => {
            StoreError::Corrupt { path, why: format!("a checksum does not fit at {at:?}") }
        }
        other => StoreError::Corrupt { path, why: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    fn batch(number: u32) -> Batch {
        let mut batch = Batch::default();
        batch.put(format!("history/{number:05}"), &format!("record {number}")).unwrap();
        batch.put("fence".to_owned(), &number).unwrap();
        batch
    }

    fn filled(commits: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        (1..=commits).for_each(|number| store.commit(&batch(number)).unwrap());
        folder
    }

    fn open_error(folder: &Path) -> StoreError {
        SledStore::open(folder).err().expect("it opened")
    }

    #[test]
    fn what_was_committed_is_loaded_again() {
        let folder = filled(100);
        let entries = SledStore::open(folder.path()).unwrap().load().unwrap();
        assert_eq!(entries.len(), 101);
        assert_eq!(entries["fence"], b"100");
    }

    #[test]
    fn a_closed_store_has_waited_for_whoever_has_its_file_locked() {
        let folder = tempfile::tempdir().unwrap();
        let data = || open_data(&folder.path().join("db")).unwrap();
        let held = Flock::lock(data(), FlockArg::LockExclusiveNonblock).unwrap();
        let let_go = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let_go.store(true, std::sync::atomic::Ordering::SeqCst);
                drop(held);
            });
            drop(Data(data()));
            assert!(let_go.load(std::sync::atomic::Ordering::SeqCst));
        });
    }

    /// While other stores keep sled's threads busy.
    #[test]
    fn a_store_that_is_closed_can_be_opened_at_once() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let folder = tempfile::tempdir().unwrap();
                    for number in 1..=40 {
                        SledStore::open(folder.path()).unwrap().commit(&batch(number)).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_second_process_is_told_that_the_store_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let _first = SledStore::open(folder.path()).unwrap();
        assert!(matches!(open_error(folder.path()), StoreError::Locked { .. }));
    }

    #[test]
    fn a_store_that_lost_acknowledged_commits_is_refused_every_time() {
        let folder = filled(100);
        let path = folder.path().join("db");
        let clean = fs::File::open(&path).unwrap().metadata().unwrap().len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"damage", clean / 2).unwrap();
        for _ in 0..2 {
            let error = open_error(folder.path());
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("acknowledged commits cannot be read"), "{error}");
        }
    }

    #[test]
    fn a_store_whose_data_are_gone_is_refused() {
        let folder = filled(3);
        fs::remove_file(folder.path().join("db")).unwrap();
        assert!(matches!(open_error(folder.path()), StoreError::Corrupt { .. }));
    }

    #[test]
    fn a_store_whose_witness_is_gone_or_damaged_is_refused() {
        let folder = filled(3);
        let path = folder.path().join("witness");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(4).unwrap();
        assert!(matches!(open_error(folder.path()), StoreError::Corrupt { .. }));
        fs::remove_file(&path).unwrap();
        assert!(matches!(open_error(folder.path()), StoreError::Corrupt { .. }));
    }

    #[test]
    fn a_commit_that_was_durable_and_not_acknowledged_is_kept() {
        let folder = filled(3);
        Witness::open(&folder.path().join("witness")).unwrap().write(2).unwrap();
        // The slot of 3 is still there; take it out as if it had never been written.
        let file = OpenOptions::new().write(true).open(folder.path().join("witness")).unwrap();
        file.write_all_at(&[0; 16], 4096).unwrap();
        assert_eq!(SledStore::open(folder.path()).unwrap().load().unwrap()["fence"], b"3");
    }

    #[test]
    fn a_value_too_large_to_be_kept_whole_is_refused_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let mut large = Batch::default();
        large.put("history/1".to_owned(), &"x".repeat(MAX_VALUE)).unwrap();
        assert!(matches!(store.commit(&large), Err(StoreError::TooLarge { .. })));
        store.commit(&batch(1)).unwrap();
    }

    #[test]
    fn the_largest_values_that_are_taken_stay_in_the_one_file_that_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let value = "x".repeat(MAX_VALUE - 2);
        for round in 0..4 {
            for number in 0..200 {
                let mut batch = Batch::default();
                batch.put(format!("history/{:05}", number * 7 % 200), &value).unwrap();
                batch.put(format!("rollout/{round}"), &value).unwrap();
                store.commit(&batch).unwrap();
            }
        }
        assert_eq!(fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0);
    }

    #[test]
    fn nobody_else_may_read_the_store() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("store");
        let _store = SledStore::open(&folder).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("db")), 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_with_the_reason() {
        let error = open_error(Path::new("/proc/liftlock"));
        assert!(error.to_string().contains("/proc/liftlock"), "{error}");
    }
}
