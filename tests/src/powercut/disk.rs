//! What a disk may have when the power goes in the middle of a recording.
//!
//! As POSIX has it and no friendlier: a file's bytes are there once the file was synced after they were written, a name
//! once its folder was. Before that each may be there or not, in any order, and of the bytes of one write any part. Only
//! where a recording is said to be [`Recording::appended_in_order`] the bytes at a file's end arrive from the first on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::scratch;
use crate::simulation::dice::Dice;

/// One call that changed something below the recorded folder, by paths relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A new file.
    Create {
        /// Numbers files, whatever they are called.
        file: u64,
        /// Where.
        path: PathBuf,
    },
    /// Bytes at an offset.
    Write {
        /// Which file.
        file: u64,
        /// From the beginning.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file is cut off, or grows by zeros.
    Truncate {
        /// Which file.
        file: u64,
        /// In bytes.
        length: u64,
    },
    /// A file is synced.
    SyncFile {
        /// Which.
        file: u64,
    },
    /// A new folder.
    MakeFolder {
        /// Where.
        path: PathBuf,
    },
    /// A file or folder takes another name, over what was there.
    Rename {
        /// Its name before.
        from: PathBuf,
        /// Its name after.
        to: PathBuf,
    },
    /// A second name of a file.
    Link {
        /// Its name.
        from: PathBuf,
        /// The second one.
        to: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        to: PathBuf,
        /// Where it is.
        path: PathBuf,
    },
    /// A name goes.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// A folder is synced.
    SyncFolder {
        /// Which.
        path: PathBuf,
    },
    /// The program says that something is acknowledged.
    Acknowledge(String),
}

/// The calls of one run, in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// In order.
    pub calls: Vec<Call>,
    /// What is appended to a file is there up to some byte and not beyond, as on ext4 (unless it is mounted with
    /// data=writeback) and XFS: both raise a file's length only once the bytes are there.
    pub appended_in_order: bool,
}

/// A disk after a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// How many calls had been made.
    pub calls: usize,
    /// Which mixture of what was not synced is there.
    pub mixture: Mixture,
    /// What had been acknowledged.
    pub acknowledged: Vec<String>,
    entries: BTreeMap<PathBuf, Entry>,
}

/// What of all that was not synced is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixture {
    /// Nothing.
    Nothing,
    /// Everything, as after a kill.
    Everything,
    /// Everything but a part of the last write.
    LastWriteTorn,
    /// Names, and no bytes: the empty file after a rename.
    NamesOnly,
    /// Bytes, and no names.
    BytesOnly,
    /// Some names, the earlier ones before the later ones, and any of the bytes, in blocks.
    Some(u64),
}

impl Mixture {
    const FIXED: [Self; 5] =
        [Self::Nothing, Self::Everything, Self::LastWriteTorn, Self::NamesOnly, Self::BytesOnly];
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder,
    File(Vec<u8>),
    Symlink(PathBuf),
}

/// The smallest piece of a write that a disk has or has not.
const BLOCK: usize = 512;

impl Recording {
    /// States after every prefix of the calls, `mixtures` random ones of each beside the fixed ones; at most `limit`,
    /// chosen evenly. Equal states come once.
    pub fn states(&self, mixtures: u64, limit: usize) -> Vec<State> {
        let mut states: Vec<State> = Vec::new();
        let mut seen = BTreeSet::new();
        for calls in 0..=self.calls.len() {
            let random = (0..mixtures).map(Mixture::Some);
            for mixture in Mixture::FIXED.into_iter().chain(random) {
                let state = self.state(calls, mixture);
                if seen.insert((state.acknowledged.len(), digest(&state.entries))) {
                    states.push(state);
                }
            }
        }
        if states.len() <= limit {
            return states;
        }
        // One of each share: always the same place in it would always be the same mixture.
        let mut dice = Dice::new(7);
        let shares = (0..limit).map(|at| at * states.len() / limit..(at + 1) * states.len() / limit);
        shares.filter_map(|share| dice.one(states.get(share)?).cloned()).collect()
    }

    /// The disk when the power goes after so many calls.
    pub fn state(&self, calls: usize, mixture: Mixture) -> State {
        let made = self.calls.get(..calls).unwrap_or(&self.calls);
        let mut dice = Dice::new(match mixture {
            Mixture::Some(seed) => seed.wrapping_mul(1_000_003).wrapping_add(calls as u64),
            _ => 0,
        });
        let contents = self.contents(made, mixture, &mut dice);
        let entries = entries(made, mixture, &contents, &mut dice);
        let acknowledged = made.iter().filter_map(|call| match call {
            Call::Acknowledge(what) => Some(what.clone()),
            _ => None,
        });
        State { calls, mixture, acknowledged: acknowledged.collect(), entries }
    }

    /// Each file's bytes.
    fn contents(&self, made: &[Call], mixture: Mixture, dice: &mut Dice) -> BTreeMap<u64, Vec<u8>> {
        let mut synced_at: BTreeMap<u64, usize> = BTreeMap::new();
        for (at, call) in made.iter().enumerate() {
            if let Call::SyncFile { file } = call {
                synced_at.insert(*file, at);
            }
        }
        let last_write = made.iter().rposition(|call| matches!(call, Call::Write { .. }));
        let mut contents: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (at, call) in made.iter().enumerate() {
            let (Call::Create { file, .. } | Call::Write { file, .. } | Call::Truncate { file, .. }) = call
            else {
                continue;
            };
            let synced = synced_at.get(file).is_some_and(|synced| at < *synced);
            let content = contents.entry(*file).or_default();
            let there = |dice: &mut Dice| match mixture {
                Mixture::Nothing | Mixture::NamesOnly => false,
                Mixture::Everything | Mixture::LastWriteTorn | Mixture::BytesOnly => true,
                Mixture::Some(_) => dice.percent(50),
            };
            match call {
                Call::Write { offset, bytes, .. } => {
                    if !synced && mixture == Mixture::LastWriteTorn && Some(at) == last_write {
                        write(content, *offset, bytes.get(..bytes.len() / 2).unwrap_or(bytes));
                    } else if !synced
                        && matches!(mixture, Mixture::Some(_))
                        && self.in_order(content, *offset)
                    {
                        let arrive = usize::try_from(dice.within(0..bytes.len() as u64 + 1)).unwrap_or(0);
                        write(content, *offset, bytes.get(..arrive).unwrap_or(bytes));
                    } else if !synced && matches!(mixture, Mixture::Some(_)) {
                        let mut offset = *offset;
                        // Blocks lie where the disk has them, not where the write begins.
                        let head = BLOCK - usize::try_from(offset % BLOCK as u64).unwrap_or_default();
                        let (head, rest) = bytes.split_at(head.min(bytes.len()));
                        for block in std::iter::once(head).chain(rest.chunks(BLOCK)) {
                            if there(dice) {
                                write(content, offset, block);
                            }
                            offset += block.len() as u64;
                        }
                    } else if synced || there(dice) {
                        write(content, *offset, bytes);
                    }
                }
                Call::Truncate { length, .. } if synced || there(dice) => {
                    content.resize(usize::try_from(*length).unwrap_or_default(), 0);
                }
                _ => {}
            }
        }
        contents
    }

    /// Whether a write there appends, and what is appended arrives in order.
    fn in_order(&self, content: &[u8], offset: u64) -> bool {
        self.appended_in_order && offset == content.len() as u64
    }
}

fn digest(entries: &BTreeMap<PathBuf, Entry>) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for (path, entry) in entries {
        path.hash(&mut hasher);
        match entry {
            Entry::Folder => 0_u8.hash(&mut hasher),
            Entry::File(bytes) => bytes.hash(&mut hasher),
            Entry::Symlink(to) => to.hash(&mut hasher),
        }
    }
    hasher.finish()
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap_or_default();
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(start..end) {
        place.copy_from_slice(bytes);
    }
}

/// The names that are there, with what they lead to.
fn entries(
    made: &[Call],
    mixture: Mixture,
    contents: &BTreeMap<u64, Vec<u8>>,
    dice: &mut Dice,
) -> BTreeMap<PathBuf, Entry> {
    let mut synced_at: BTreeMap<&Path, usize> = BTreeMap::new();
    for (at, call) in made.iter().enumerate() {
        if let Call::SyncFolder { path } = call {
            synced_at.insert(path, at);
        }
    }
    // Which of the names that were not synced are there: the earlier ones.
    let unsynced =
        made.iter().enumerate().filter(|(at, call)| call.is_of_names() && !call.synced(*at, &synced_at));
    let mut left = match mixture {
        Mixture::Nothing | Mixture::BytesOnly => 0,
        Mixture::Some(_) => dice.within(0..unsynced.count() as u64 + 1),
        _ => u64::MAX,
    };
    let mut names: BTreeMap<PathBuf, Name> = BTreeMap::new();
    for (at, call) in made.iter().enumerate().filter(|(_, call)| call.is_of_names()) {
        if !call.synced(at, &synced_at) {
            if left == 0 {
                continue;
            }
            left -= 1;
        }
        apply(&mut names, call);
    }
    let entry = |name: Name| match name {
        Name::Folder => Entry::Folder,
        Name::File(file) => Entry::File(contents.get(&file).cloned().unwrap_or_default()),
        Name::Symlink(to) => Entry::Symlink(to),
    };
    names.into_iter().map(|(path, name)| (path, entry(name))).collect()
}

#[derive(Debug, Clone)]
enum Name {
    Folder,
    File(u64),
    Symlink(PathBuf),
}

/// One name more, or less. What needs a folder that is not there is not there either.
fn apply(names: &mut BTreeMap<PathBuf, Name>, call: &Call) {
    let folder_is_there = |names: &BTreeMap<PathBuf, Name>, path: &Path| {
        path.parent().is_none_or(|folder| folder.as_os_str().is_empty() || names.contains_key(folder))
    };
    match call {
        Call::Create { file, path } if folder_is_there(names, path) => {
            names.insert(path.clone(), Name::File(*file));
        }
        Call::MakeFolder { path } if folder_is_there(names, path) => {
            names.insert(path.clone(), Name::Folder);
        }
        Call::Symlink { to, path } if folder_is_there(names, path) => {
            names.insert(path.clone(), Name::Symlink(to.clone()));
        }
        Call::Link { from, to } if folder_is_there(names, to) => {
            if let Some(name) = names.get(from).cloned() {
                names.insert(to.clone(), name);
            }
        }
        Call::Rename { from, to } => {
            let moved: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in moved {
                if let (Some(name), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
                    let path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    if folder_is_there(names, &path) {
                        names.insert(path, name);
                    }
                }
            }
        }
        Call::Remove { path } => {
            names.remove(path);
        }
        _ => {}
    }
}

impl Call {
    fn is_of_names(&self) -> bool {
        matches!(
            self,
            Self::Create { .. }
                | Self::MakeFolder { .. }
                | Self::Symlink { .. }
                | Self::Link { .. }
                | Self::Rename { .. }
                | Self::Remove { .. }
        )
    }

    /// Whether the folder that holds the name was synced after this call.
    fn synced(&self, at: usize, synced_at: &BTreeMap<&Path, usize>) -> bool {
        let path = match self {
            Self::Create { path, .. }
            | Self::MakeFolder { path }
            | Self::Symlink { path, .. }
            | Self::Remove { path } => path,
            Self::Link { to, .. } | Self::Rename { to, .. } => to,
            _ => return false,
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        synced_at.get(folder).is_some_and(|synced| at < *synced)
    }
}

impl State {
    /// Puts it into a folder that is empty.
    pub fn restore(&self, folder: &Path) -> Result<()> {
        for (path, entry) in &self.entries {
            let path = folder.join(path);
            let made = || -> std::io::Result<()> {
                match entry {
                    Entry::Folder => DirBuilder::new().mode(0o700).create(&path),
                    Entry::Symlink(to) => std::os::unix::fs::symlink(to, &path),
                    Entry::File(bytes) => {
                        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
                        file.write_all_at(bytes, 0)
                    }
                }
            };
            made().with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(())
    }

    /// A folder of its own with this state in it, in memory where the machine has such a place.
    pub fn restored(&self) -> Result<tempfile::TempDir> {
        let folder = scratch::folder()?;
        self.restore(folder.path())?;
        Ok(folder)
    }

    /// Where it stands, for a message.
    pub fn name(&self) -> String {
        format!("after {} calls, {:?}, {} acknowledged", self.calls, self.mixture, self.acknowledged.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(synced: bool, folder_synced: bool) -> Recording {
        let mut calls = vec![
            Call::Create { file: 1, path: "new".into() },
            Call::Write { file: 1, offset: 0, bytes: b"whole".to_vec() },
        ];
        if synced {
            calls.push(Call::SyncFile { file: 1 });
        }
        calls.push(Call::Rename { from: "new".into(), to: "file".into() });
        if folder_synced {
            calls.push(Call::SyncFolder { path: "".into() });
        }
        Recording { calls, appended_in_order: false }
    }

    fn contents_of_file(recording: &Recording) -> BTreeSet<Option<Vec<u8>>> {
        let after = recording.calls.len();
        let mixtures = Mixture::FIXED.into_iter().chain((0..40).map(Mixture::Some));
        let states = mixtures.map(|mixture| recording.state(after, mixture));
        let found = states.map(|state| match state.entries.get(Path::new("file")) {
            Some(Entry::File(bytes)) => Some(bytes.clone()),
            _ => None,
        });
        found.collect()
    }

    #[test]
    fn what_was_synced_is_there_and_what_was_not_may_be() {
        let whole = Some(b"whole".to_vec());
        assert_eq!(contents_of_file(&replaced(true, true)), [whole.clone()].into());
        assert_eq!(contents_of_file(&replaced(true, false)), [None, whole.clone()].into());
        let torn = Some(b"wh".to_vec());
        assert_eq!(contents_of_file(&replaced(false, true)), [Some(Vec::new()), torn, whole].into());
    }
}
