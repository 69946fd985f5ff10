//! The disk under an agent's journal and fence: durable at once, as `Disk` promises, unless it is sabotaged.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_agent::disk::{Appender, Disk};
use liftlock_agent::engine::journal::Header;
use liftlock_agent::engine::transition::Event;
use liftlock_agent::twin::Twin;
use serde::Deserialize;

use super::laws::Laws;
use super::sabotage::Sabotage;
use super::schedule::Arrives;

/// Bytes before the payload of a journal's record.
const FRAME_HEAD: usize = 12;

/// One node's disk. Clones are the same one.
#[derive(Clone)]
pub(super) struct SimulatedDisk {
    node: String,
    laws: Laws,
    sabotage: Option<Sabotage>,
    /// The machine that it is in, where its system is replaced: what is exported there, and what tells a new system, is the fence.
    machine: Option<Twin>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<Utf8PathBuf, Vec<u8>>,
    /// How long each file is on the disk, where the page cache has more.
    durable: BTreeMap<Utf8PathBuf, usize>,
    full: bool,
    /// The agent ended in the middle of an append: nothing that it still does counts.
    dead: bool,
}

#[derive(Deserialize)]
struct Record {
    what: Event,
}

impl SimulatedDisk {
    pub(super) fn new(node: &str, laws: &Laws, sabotage: Option<Sabotage>) -> Self {
        Self { node: node.to_owned(), laws: laws.clone(), sabotage, machine: None, state: Arc::default() }
    }

    /// The same in a machine whose system is replaced.
    pub(super) fn in_machine(self, machine: &Twin) -> Self {
        Self { machine: Some(machine.clone()), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it takes nothing, or takes everything again.
    pub(super) fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// What an agent that is started again finds.
    pub(super) fn agent_starts(&self, after_power_cut: bool) {
        let mut state = self.lock();
        state.dead = false;
        let volatile = std::mem::take(&mut state.durable);
        if after_power_cut {
            for (path, length) in volatile {
                if let Some(file) = state.files.get_mut(&path) {
                    file.truncate(length);
                }
            }
        }
    }

    /// Journals of leases whose end is not known to both sides.
    pub(super) fn open_journals(&self) -> Vec<String> {
        let state = self.lock();
        let open = state.files.keys().filter(|path| path.extension() == Some("journal"));
        open.map(ToString::to_string).collect()
    }

    fn is_fence(path: &Utf8Path) -> bool {
        path.file_name() == Some("fence")
    }

    fn record(bytes: &[u8]) -> Option<Event> {
        serde_json::from_slice::<Record>(bytes.get(FRAME_HEAD..)?).ok().map(|record| record.what)
    }
}

fn full() -> io::Error {
    ErrorKind::StorageFull.into()
}

impl Disk for SimulatedDisk {
    fn read(&self, path: &Utf8Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().files.get(path).cloned())
    }

    fn list(&self, folder: &Utf8Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        let inside = state.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name()).map(str::to_owned).collect())
    }

    fn create_folder(&self, _: &Utf8Path) -> io::Result<()> {
        Ok(())
    }

    fn replace(&self, path: &Utf8Path, content: &[u8]) -> io::Result<()> {
        if self.sabotage == Some(Sabotage::NoTokenCheck) && Self::is_fence(path) {
            return Ok(());
        }
        let mut state = self.lock();
        if state.dead || state.full {
            return Err(full());
        }
        state.files.insert(path.to_owned(), content.to_vec());
        drop(state);
        if let Some(twin) = self.machine.as_ref().filter(|_| Self::is_fence(path)) {
            twin.world().change(&self.node, |machine| machine.disk.put(path, content, 0o600));
        }
        if path.extension() == Some("journal")
            && let Some(header) = content.get(FRAME_HEAD..)
            && let Ok(header) = serde_json::from_slice::<Header>(header)
        {
            self.laws.journal_begun(&self.node, header);
        }
        Ok(())
    }

    fn append_to(&self, path: &Utf8Path, length: u64) -> io::Result<Box<dyn Appender>> {
        let mut state = self.lock();
        let file = state.files.get_mut(path).ok_or(ErrorKind::NotFound)?;
        file.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(Box::new(SimulatedFile { disk: self.clone(), path: path.to_owned() }))
    }

    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        let mut state = self.lock();
        let content = state.files.remove(from).ok_or(ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        self.lock().files.remove(path);
        Ok(())
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    path: Utf8PathBuf,
}

impl Appender for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let ends = self.disk.laws.append(&self.disk.node);
        let mut state = self.disk.lock();
        if state.dead || state.full {
            return Err(full());
        }
        let arrive = match ends {
            None | Some(Arrives::All) => bytes.len(),
            Some(Arrives::Half) => bytes.len() / 2,
            Some(Arrives::Nothing) => 0,
        };
        state.dead = ends.is_some();
        let file = state.files.get_mut(&self.path).ok_or(ErrorKind::NotFound)?;
        let before = file.len();
        file.extend_from_slice(bytes.get(..arrive).unwrap_or(bytes));
        if self.disk.sabotage == Some(Sabotage::NoFsync) {
            state.durable.entry(self.path.clone()).or_insert(before);
            return Ok(());
        }
        drop(state);
        if arrive == bytes.len()
            && let Some(event) = SimulatedDisk::record(bytes)
        {
            self.disk.laws.journalled(&self.disk.node, &event);
        }
        if ends.is_some() { Err(ErrorKind::Other.into()) } else { Ok(()) }
    }
}
