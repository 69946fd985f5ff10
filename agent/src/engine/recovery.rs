//! Which lease this node is in the middle of, and how one begins or goes on.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use camino::Utf8PathBuf;
use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use liftlock_proto::plan::Purpose;

use crate::disk::Disk;
use crate::engine::idle::Idle;
use crate::engine::journal::{self, Header, Journal, JournalError, Reading};
use crate::engine::transition::End;

const OPEN: &str = ".journal";
const CLOSED: &str = ".ended";

/// So many journals of leases that are over stay whatever else does: for whoever wants to know what was done.
const NEWEST_KEPT: usize = 16;

/// The folder with this node's journals, `<plan>-<token>.journal`; `.ended` once both sides know the end.
#[derive(Clone)]
pub struct Journals {
    disk: Arc<dyn Disk>,
    folder: Utf8PathBuf,
    node: NodeName,
}

/// How a granted lease stands on this node.
pub enum Begun {
    /// Run it, from where its journal stands.
    Run(Box<Journal>),
    /// It ran to its end before, and that is still to be told.
    Ended(End),
}

/// A journal's file, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    plan: PlanId,
    token: FencingToken,
    open: bool,
}

impl Entry {
    fn parse(name: &str) -> Option<Self> {
        let (stem, open) = match (name.strip_suffix(OPEN), name.strip_suffix(CLOSED)) {
            (Some(stem), _) => (stem, true),
            (_, Some(stem)) => (stem, false),
            _ => return None,
        };
        let (plan, token) = stem.rsplit_once('-')?;
        Some(Self { plan: plan.parse().ok()?, token: FencingToken(token.parse().ok()?), open })
    }

    fn name(&self) -> String {
        format!("{}-{}{}", self.plan, self.token, if self.open { OPEN } else { CLOSED })
    }
}

impl Journals {
    /// This node's journals in a folder, which is made if it is not there.
    pub fn new(disk: Arc<dyn Disk>, folder: Utf8PathBuf, node: NodeName) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { doing: "make the folder of", path: folder.clone(), source };
        disk.create_folder(&folder).map_err(failed)?;
        Ok(Self { disk, folder, node })
    }

    /// The journal of the lease that this node is in the middle of, if there is one.
    pub fn held(&self) -> Result<Option<Journal>, JournalError> {
        let newest = self.entries()?.into_iter().filter(|entry| entry.open).max_by_key(|entry| entry.token);
        newest.map(|entry| self.open(&entry)).transpose()
    }

    /// Begins a lease that the fence let through, or goes on with it.
    pub fn begin(&self, lease: Header) -> Result<Begun, JournalError> {
        let entries = self.entries()?;
        let token = lease.token;
        let same = entries.iter().find(|entry| entry.plan == lease.plan && entry.token == token);
        let begun = match same {
            Some(entry) => self.resume(entry, &lease)?,
            None => Begun::Run(Box::new(self.create(lease, &entries)?)),
        };
        // Only now: had the power gone before, the older ones would still say what was begun.
        for passed in entries.iter().filter(|entry| entry.open && entry.token < token) {
            self.put_away(passed)?;
        }
        Ok(begun)
    }

    /// Puts a lease's journal away, if it is open: both sides know that the lease is over. A damaged one stays where
    /// its error says that it lies, until somebody has looked at it.
    pub fn close(&self, plan: &PlanId, token: FencingToken) -> Result<(), JournalError> {
        let open = |entry: &&Entry| entry.open && entry.plan == *plan && entry.token == token;
        let entries = self.entries()?;
        let Some(entry) = entries.iter().find(open) else {
            return Ok(());
        };
        match self.read(entry) {
            Err(JournalError::Damaged { .. }) => Ok(()),
            _ => self.put_away(entry),
        }
    }

    /// Removes journals of leases that are over, but for the newest ones and those of the plans that somebody may go back by.
    /// Returns what went. One that is open is never touched, nor is any other of its plan: a lease after it inherits from it.
    pub fn prune(&self, _: &Idle, needed: &BTreeSet<PlanId>) -> Result<Vec<Utf8PathBuf>, JournalError> {
        let (open, mut over): (Vec<Entry>, Vec<Entry>) =
            self.entries()?.into_iter().partition(|entry| entry.open);
        over.sort_by_key(|entry| Reverse(entry.token));
        let is_needed =
            |entry: &Entry| needed.contains(&entry.plan) || open.iter().any(|open| open.plan == entry.plan);
        let surplus = over.iter().skip(NEWEST_KEPT).filter(|entry| !is_needed(entry));
        let mut removed = Vec::new();
        for path in surplus.map(|entry| self.path(entry)) {
            let failed = |source| JournalError::Io { doing: "remove", path: path.clone(), source };
            self.disk.remove(&path).map_err(failed)?;
            tracing::info!(%path, "removed: its lease is over, and no backup is of its plan");
            removed.push(path);
        }
        Ok(removed)
    }

    fn create(&self, mut lease: Header, entries: &[Entry]) -> Result<Journal, JournalError> {
        // An older lease of this plan may have left the node half changed: what it captured is still how the node was.
        let earlier = entries.iter().filter(|entry| entry.plan == lease.plan && entry.token < lease.token);
        if let Some(earlier) = earlier.max_by_key(|entry| entry.token) {
            lease.inherited = self.read(earlier)?.state.captured().clone();
        } else if lease.purpose == Purpose::RollBack {
            return Err(JournalError::NothingKnown { plan: lease.plan, folder: self.folder.clone() });
        }
        let entry = Entry { plan: lease.plan.clone(), token: lease.token, open: true };
        Journal::create(self.disk.as_ref(), self.path(&entry), lease)
    }

    fn resume(&self, entry: &Entry, granted: &Header) -> Result<Begun, JournalError> {
        let Reading { header, state, .. } = self.read(entry)?;
        if !header.same_lease(granted) {
            return Err(
                self.foreign(entry, "the coordinator granted other work under the same token".to_owned())
            );
        }
        match (state.end(), entry.open) {
            (Some(end), _) => Ok(Begun::Ended(end.clone())),
            (None, true) => self.open(entry).map(Box::new).map(Begun::Run),
            (None, false) => {
                Err(self.foreign(entry, "the coordinator took this lease back before it ended".to_owned()))
            }
        }
    }

    fn open(&self, entry: &Entry) -> Result<Journal, JournalError> {
        let journal = Journal::open(self.disk.as_ref(), self.path(entry))?;
        self.own(entry, journal.header())?;
        Ok(journal)
    }

    fn read(&self, entry: &Entry) -> Result<Reading, JournalError> {
        let reading = journal::read(self.disk.as_ref(), &self.path(entry))?;
        self.own(entry, &reading.header)?;
        Ok(reading)
    }

    fn own(&self, entry: &Entry, header: &Header) -> Result<(), JournalError> {
        if header.node != self.node {
            let why = format!("it was written on node {}, this is {}", header.node, self.node);
            return Err(self.foreign(entry, why));
        }
        if (&header.plan, header.token) != (&entry.plan, entry.token) {
            return Err(self.foreign(entry, "its name says another lease than its first record".to_owned()));
        }
        Ok(())
    }

    fn foreign(&self, entry: &Entry, why: String) -> JournalError {
        JournalError::Foreign { path: self.path(entry), why }
    }

    fn put_away(&self, entry: &Entry) -> Result<(), JournalError> {
        let (from, to) = (self.path(entry), self.path(&Entry { open: false, ..entry.clone() }));
        self.disk.rename(&from, &to).map_err(|source| JournalError::Io { doing: "close", path: from, source })
    }

    fn entries(&self) -> Result<Vec<Entry>, JournalError> {
        let failed = |source| JournalError::Io { doing: "look for", path: self.folder.clone(), source };
        let names = self.disk.list(&self.folder).map_err(failed)?;
        Ok(names.iter().filter_map(|name| Entry::parse(name)).collect())
    }

    fn path(&self, entry: &Entry) -> Utf8PathBuf {
        self.folder.join(entry.name())
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use liftlock_proto::step::Step;
    use serde_json::json;

    use super::*;
    use crate::disk::memory::MemoryDisk;
    use crate::engine::idle::Turn;
    use crate::engine::transition::{Event, Spent};

    const PLAN: &str = "p-0123456789ab";

    fn header(token: u64) -> Header {
        let steps = vec![Step::EtcdSnapshot {}, Step::RestoreSchedulability {}];
        let (node, plan) = ("cp1".parse().unwrap(), PLAN.parse().unwrap());
        Header::new(node, plan, "0123456789ab".to_owned(), FencingToken(token), Purpose::Raise, steps)
    }

    fn journals(disk: &MemoryDisk) -> Journals {
        journals_of("cp1", disk)
    }

    fn journals_of(node: &str, disk: &MemoryDisk) -> Journals {
        Journals::new(Arc::new(disk.clone()), "/journal".into(), node.parse().unwrap()).unwrap()
    }

    fn begin(disk: &MemoryDisk, token: u64) -> Box<Journal> {
        match journals(disk).begin(header(token)).unwrap() {
            Begun::Run(journal) => journal,
            Begun::Ended(end) => panic!("ended: {end:?}"),
        }
    }

    fn close(disk: &MemoryDisk, token: u64) {
        journals(disk).close(&PLAN.parse().unwrap(), FencingToken(token)).unwrap();
    }

    fn started() -> Event {
        Event::Started { index: 0, attempt: 1, pre: json!("as it was") }
    }

    fn ended() -> Event {
        Event::Ended(End {
            failure: Some("no".to_owned()),
            lease_ms: 1,
            spent: Spent::default(),
            blocked: false,
        })
    }

    #[test]
    fn a_restarted_agent_finds_the_lease_it_was_in_the_middle_of() {
        let disk = MemoryDisk::default();
        assert!(journals(&disk).held().unwrap().is_none());
        begin(&disk, 7).append(1, &started()).unwrap();
        let held = journals(&disk).held().unwrap().unwrap();
        assert_eq!(held.header().token, FencingToken(7));
        assert_eq!(begin(&disk, 7).state(), held.state());
    }

    #[test]
    fn a_lease_after_a_failed_one_inherits_what_that_one_captured() {
        let disk = MemoryDisk::default();
        let mut journal = begin(&disk, 7);
        journal.append(1, &started()).unwrap();
        close(&disk, 7);
        begin(&disk, 8);
        let third = begin(&disk, 9);
        assert_eq!(third.state().captured()["etcd-snapshot"], json!("as it was"));
        assert_eq!(journals(&disk).held().unwrap().unwrap().header().token, FencingToken(9));
    }

    #[test]
    fn a_rollback_of_what_no_journal_tells_of_is_refused() {
        let disk = MemoryDisk::default();
        let back = |token| Header { purpose: Purpose::RollBack, ..header(token) };
        assert!(matches!(journals(&disk).begin(back(8)), Err(JournalError::NothingKnown { .. })));
        begin(&disk, 7).append(1, &started()).unwrap();
        assert!(matches!(journals(&disk).begin(back(8)), Ok(Begun::Run(_))));
    }

    #[test]
    fn an_end_that_was_not_acknowledged_is_told_again_and_not_run_again() {
        let disk = MemoryDisk::default();
        let mut journal = begin(&disk, 7);
        journal.append(1, &ended()).unwrap();
        assert!(matches!(journals(&disk).begin(header(7)), Ok(Begun::Ended(_))));
        close(&disk, 7);
        assert!(matches!(journals(&disk).begin(header(7)), Ok(Begun::Ended(_))));
        assert!(journals(&disk).held().unwrap().is_none());
    }

    #[test]
    fn a_lease_that_was_taken_back_does_not_begin_again() {
        let disk = MemoryDisk::default();
        begin(&disk, 7);
        close(&disk, 7);
        assert!(matches!(journals(&disk).begin(header(7)), Err(JournalError::Foreign { .. })));
    }

    #[test]
    fn other_work_under_the_same_token_is_refused() {
        let disk = MemoryDisk::default();
        begin(&disk, 7);
        let mut other = header(7);
        other.steps.pop();
        assert!(matches!(journals(&disk).begin(other), Err(JournalError::Foreign { .. })));
    }

    #[test]
    fn a_disk_that_was_copied_from_another_node_brings_no_lease() {
        let disk = MemoryDisk::default();
        begin(&disk, 7);
        assert!(matches!(journals_of("cp2", &disk).held(), Err(JournalError::Foreign { .. })));
    }

    #[test]
    fn a_crash_between_a_new_journal_and_putting_the_old_one_away_leaves_the_new_one_held() {
        let disk = MemoryDisk::default();
        begin(&disk, 7);
        let seven = Utf8Path::new("/journal/p-0123456789ab-7.journal");
        let left_open = disk.content(seven);
        begin(&disk, 8);
        disk.put(seven, &left_open);
        assert_eq!(journals(&disk).held().unwrap().unwrap().header().token, FencingToken(8));
        begin(&disk, 8);
        close(&disk, 8);
        assert!(journals(&disk).held().unwrap().is_none());
    }

    #[test]
    fn a_damaged_journal_stops_the_lease_and_the_one_after_it() {
        let disk = MemoryDisk::default();
        begin(&disk, 7);
        let path = Utf8Path::new("/journal/p-0123456789ab-7.journal");
        let mut bytes = disk.content(path);
        bytes[20] ^= 1;
        disk.put(path, &bytes);
        let damaged = |error| matches!(error, JournalError::Damaged { offset: 0, .. });
        assert!(damaged(journals(&disk).held().err().unwrap()));
        assert!(damaged(journals(&disk).begin(header(7)).err().unwrap()));
        assert!(damaged(journals(&disk).begin(header(8)).err().unwrap()));
        close(&disk, 7);
        assert_eq!(disk.content(path), bytes, "it stays where the error says that it lies");
    }

    fn over(disk: &MemoryDisk, plan: &str, token: u64) {
        let header = Header { plan: plan.parse().unwrap(), ..header(token) };
        let Begun::Run(mut journal) = journals(disk).begin(header).unwrap() else { panic!() };
        journal.append(1, &started()).unwrap();
        journal.append(2, &ended()).unwrap();
        journals(disk).close(&plan.parse().unwrap(), FencingToken(token)).unwrap();
    }

    fn prune(disk: &MemoryDisk, needed: &[&str]) -> Vec<Utf8PathBuf> {
        let needed = needed.iter().map(|plan| plan.parse().unwrap()).collect();
        journals(disk).prune(&Turn::default().idle().unwrap(), &needed).unwrap()
    }

    #[test]
    fn journals_of_leases_that_are_over_go_but_for_the_newest_and_those_of_plans_that_backups_are_of() {
        let disk = MemoryDisk::default();
        let (backed_up, other) = ("p-bbbbbbbbbbbb", "p-cccccccccccc");
        over(&disk, backed_up, 1);
        over(&disk, other, 2);
        (10..26).for_each(|token| over(&disk, PLAN, token));
        let went = prune(&disk, &[backed_up]);
        assert_eq!(went, [format!("/journal/{other}-2.ended")]);
        assert!(prune(&disk, &[backed_up]).is_empty());
        // Out of the one that stayed the plan of the backup is still undone.
        let back = Header { plan: backed_up.parse().unwrap(), purpose: Purpose::RollBack, ..header(30) };
        let Begun::Run(journal) = journals(&disk).begin(back).unwrap() else { panic!() };
        assert_eq!(journal.state().captured()["etcd-snapshot"], json!("as it was"));
    }

    #[test]
    fn no_journal_that_is_open_goes_nor_any_that_the_next_lease_inherits_from() {
        let disk = MemoryDisk::default();
        let other = "p-cccccccccccc";
        over(&disk, other, 1);
        begin(&disk, 2);
        let open = disk.content(Utf8Path::new("/journal/p-0123456789ab-2.journal"));
        close(&disk, 2);
        (10..30).for_each(|token| over(&disk, "p-dddddddddddd", token));
        // As a damaged one is: left where it lies, whatever was begun after it.
        let path = Utf8Path::new("/journal/p-0123456789ab-3.journal");
        disk.put(path, &open[..open.len() / 2]);
        let went = prune(&disk, &[]);
        assert!(went.contains(&format!("/journal/{other}-1.ended").into()), "{went:?}");
        assert!(went.iter().all(|path| !path.as_str().contains(PLAN)), "{went:?}");
        assert_eq!(disk.content(path), &open[..open.len() / 2]);
        assert!(disk.content(Utf8Path::new("/journal/p-0123456789ab-2.ended")).len() > 20);
    }

    #[test]
    fn what_is_no_journal_is_left_alone() {
        for name in ["p-0123456789ab-7.journal.new", "lost+found", "p-0123456789ab.journal", "-7.journal"] {
            assert_eq!(Entry::parse(name), None, "{name}");
        }
    }
}
