//! The coordinator's store: durable at once, as `Store` promises, until it is full or the coordinator ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use liftlock::core::rollout::{Intent, NodeState};
use liftlock::store::{Batch, Store, StoreError};
use liftlock_proto::plan::PlannedNode;
use serde::Deserialize;

use super::laws::Laws;
use super::ledger::{Word, Written};
use super::schedule::{Commit, Misfortune};

type Entries = BTreeMap<String, Vec<u8>>;

/// What is durable, across the coordinator's ends. Clones are the same one.
#[derive(Clone)]
pub(super) struct SimulatedStore {
    laws: Laws,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    entries: Entries,
    /// The key of the newest roll-out's head, once it is there.
    newest: Option<String>,
    commits: u64,
    copies: BTreeMap<u64, Entries>,
    /// Misfortunes that strike at a commit.
    misfortunes: Vec<Misfortune>,
    /// The coordinator ended at a commit, and how long it stays away.
    dead: Option<std::time::Duration>,
    /// It takes nothing more, and for how long.
    full: Option<std::time::Duration>,
}

impl SimulatedStore {
    pub(super) fn new(laws: &Laws, misfortunes: &[Misfortune]) -> Self {
        let at_commit = |one: &&Misfortune| {
            matches!(
                one,
                Misfortune::StoreFull { .. }
                    | Misfortune::CoordinatorRestored { .. }
                    | Misfortune::CoordinatorEnds { at: Commit::Before(_) | Commit::After(_), .. }
            )
        };
        let misfortunes = misfortunes.iter().filter(at_commit).cloned().collect();
        let state = State { misfortunes, ..State::default() };
        Self { laws: laws.clone(), state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the coordinator stays away, if it ended at a commit.
    pub(super) fn ended(&self) -> Option<std::time::Duration> {
        self.lock().dead
    }

    /// How long it will be full, if it is.
    pub(super) fn full(&self) -> Option<std::time::Duration> {
        self.lock().full
    }

    /// A coordinator starts on it; somebody has made room.
    pub(super) fn coordinator_starts(&self) {
        let mut state = self.lock();
        state.dead = None;
        state.full = None;
    }

    /// Puts back a copy; whether there is one.
    pub(super) fn put_back(&self, copy: u64) -> bool {
        let mut state = self.lock();
        let Some(entries) = state.copies.get(&copy).cloned() else { return false };
        state.entries = entries;
        state.newest = state.newest_head();
        let records = state.entries.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.laws.put_back(state.names(), state.written(records));
        true
    }

    /// The number of the newest roll-out.
    pub(super) fn newest(&self) -> Option<u64> {
        self.lock().newest.as_ref()?.split('/').nth(1)?.parse().ok()
    }

    /// How often something was committed.
    pub(super) fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// The nodes under lease with their tokens, by their position in the newest roll-out's plan.
    pub(super) fn leases(&self) -> BTreeMap<usize, u64> {
        self.lock().leases()
    }
}

/// What a roll-out's head says, as far as laws ask.
#[derive(Deserialize)]
struct Head {
    intent: Intent,
    #[serde(default)]
    quarantined: BTreeMap<String, String>,
}

impl State {
    fn newest_head(&self) -> Option<String> {
        let keys = self.entries.range("rollout/".to_owned().."rollout0".to_owned()).rev();
        let numbers = keys.filter_map(|(key, _)| key.split('/').nth(1));
        let mut heads = numbers.map(|number| format!("rollout/{number}"));
        heads.find(|head| self.entries.contains_key(head))
    }

    /// The nodes of the newest roll-out's plan.
    fn names(&self) -> std::vec::IntoIter<String> {
        let prefix = self.newest.as_ref().map(|head| format!("{head}/plan/")).unwrap_or_default();
        let plan = self.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let planned = plan.filter_map(|(_, value)| serde_json::from_slice::<PlannedNode>(value).ok());
        planned.map(|planned| planned.name.to_string()).collect::<Vec<_>>().into_iter()
    }

    /// What these records say of the newest roll-out.
    fn written<'a>(&self, records: impl Iterator<Item = (&'a str, &'a [u8])>) -> Written {
        let mut written = Written::default();
        let Some(head) = &self.newest else { return written };
        for (key, value) in records {
            let Some(rest) = key.strip_prefix(head.as_str()) else { continue };
            if rest.is_empty() {
                written.word = serde_json::from_slice(value).ok().map(|head: Head| Word {
                    intent: head.intent,
                    passed_over: head.quarantined.into_keys().collect::<BTreeSet<_>>(),
                });
            } else if let Some(index) = rest.strip_prefix("/node/")
                && let (Ok(index), Ok(state)) = (index.parse(), serde_json::from_slice(value))
            {
                written.states.push((index, state));
            }
        }
        written
    }

    /// The records of the newest roll-out's nodes, by their position in its plan.
    fn nodes(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let newest = self.entries.keys().rev().find(|key| key.starts_with("rollout/")).and_then(|key| {
            let number = key.split('/').nth(1)?;
            Some(format!("rollout/{number}/node/"))
        });
        newest.into_iter().flat_map(|prefix| {
            let nodes = self.entries.range(prefix.clone()..);
            nodes.map_while(move |(key, value)| {
                Some((key.strip_prefix(&prefix)?.parse().ok()?, value.as_slice()))
            })
        })
    }

    fn all_raised(&self) -> bool {
        let mut any = false;
        self.nodes().all(|(_, value)| {
            any = true;
            value.starts_with(br#"{"phase":"raised""#)
        }) && any
    }

    fn leases(&self) -> BTreeMap<usize, u64> {
        let states = self.nodes().filter_map(|(index, value)| {
            // Cheaper than to read them all: only a leased node's record begins so.
            if !value.starts_with(br#"{"phase":"leased""#) {
                return None;
            }
            let state: NodeState = serde_json::from_slice(value).ok()?;
            Some((index, super::laws::number(state.lease()?.token)))
        });
        states.collect()
    }

    /// Takes out what strikes at this commit.
    fn strike(&mut self, laws: &Laws, wanted: impl Fn(&Misfortune) -> bool) -> Option<Misfortune> {
        let position = self.misfortunes.iter().position(wanted)?;
        let struck = self.misfortunes.remove(position);
        laws.strikes(&struck);
        Some(struck)
    }
}

fn refused() -> StoreError {
    StoreError::Io {
        path: PathBuf::from("/simulated"),
        what: "written",
        source: io::Error::from(io::ErrorKind::StorageFull),
    }
}

impl Store for SimulatedStore {
    fn load(&self) -> Result<Entries, StoreError> {
        Ok(self.lock().entries.clone())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.dead.is_some() || state.full.is_some() {
            return Err(refused());
        }
        let number = state.commits + 1;
        let ends_at = |wanted: Commit| move |one: &Misfortune| matches!(one, Misfortune::CoordinatorEnds { at, .. } if *at == wanted);
        if let Some(Misfortune::CoordinatorEnds { away, .. }) =
            state.strike(&self.laws, ends_at(Commit::Before(number)))
        {
            state.dead = Some(away);
            return Err(refused());
        }
        let fills =
            |one: &Misfortune| matches!(one, Misfortune::StoreFull { commit, .. } if *commit == number);
        if let Some(Misfortune::StoreFull { lasts, .. }) = state.strike(&self.laws, fills) {
            state.full = Some(lasts);
            return Err(refused());
        }
        state.commits = number;
        let leases_before = batch.writes().any(|(key, _)| key.contains("/node/")).then(|| state.leases());
        state.entries.extend(batch.writes().map(|(key, value)| (key.to_owned(), value.to_vec())));
        if state
            .misfortunes
            .iter()
            .any(|one| matches!(one, Misfortune::CoordinatorRestored { copy, .. } if *copy == number))
        {
            let entries = state.entries.clone();
            state.copies.insert(number, entries);
        }
        let newest = state.newest_head();
        if newest != state.newest {
            state.newest = newest;
            self.laws.rollout_begun(state.names());
        }
        self.laws.written(state.written(batch.writes()));
        if let Some(before) = leases_before {
            self.laws.leased(&state.leases(), &before);
            if state.all_raised() {
                self.laws.all_raised();
            }
        }
        if let Some(Misfortune::CoordinatorEnds { away, .. }) =
            state.strike(&self.laws, ends_at(Commit::After(number)))
        {
            state.dead = Some(away);
            return Err(refused());
        }
        Ok(())
    }
}
