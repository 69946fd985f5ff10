//! What must hold at every moment, checked where it could be broken: before each change of a node, at each grant and
//! at each commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use liftlock_agent::engine::journal::Header;
use liftlock_agent::engine::transition::Event;
use liftlock_agent::twin::{Fault, Watch, World};
use liftlock_proto::name::FencingToken;
use liftlock_proto::step::Step;

use super::ledger::{Bounds, Ledger, Written};
use super::schedule::{End, Misfortune, Moment, Schedule};
use super::workload::{NEW, Wanted};

/// Something that must never be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which law.
    pub law: Law,
    /// What was seen.
    pub seen: String,
}

/// The invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// More nodes under lease than the budget allows: two, unless both are workers that may go side by side.
    OneLease,
    /// A worker begun on though its pool's budget is used up.
    Budget,
    /// A worker begun on before its pool's canaries were raised and had soaked.
    CanaryFirst,
    /// A worker begun on before a control plane was raised.
    ControlPlanesFirst,
    /// A pool begun on after which nobody had said resume, of the one before it.
    PauseKept,
    /// A node leased though another had failed that the failure budget does not cover.
    FailuresBorne,
    /// A node begun on while one that could not be drained was not put back.
    PutBackFirst,
    /// A node begun on outside of the windows.
    InWindow,
    /// A node begun on past a hook that has not ended well.
    HookFirst,
    /// A node begun on while an alert fired, or while nobody could tell.
    AlertsHeard,
    /// An edit after which anything but the conduct is another.
    EditsConduct,
    /// A plan that nothing forbids and that is never applied.
    Applied,
    /// One that could not be drained and is not said to be, or is not as it was.
    PassedOver,
    /// A control plane that joins or leaves and costs etcd its quorum, or leaves two members of one name.
    Quorum,
    /// A node that leaves before the one that takes its place is there.
    NewBeforeOld,
    /// A fencing token that is not above every one under which a lease has begun, or that names two leases.
    TokensRise,
    /// A lease that was sent and never was in the store.
    LeaseDurable,
    /// A change under an older lease than one that has acted.
    StaleLease,
    /// A change under a lease that could not be renewed.
    LapsedLease,
    /// A change that no durable intent announces.
    IntentFirst,
    /// A change before the backup.
    BackupFirst,
    /// A backup removed before every node was raised, or in the middle of a lease.
    BackupsStay,
    /// kubeadm started while a standard manifest was missing.
    ManifestsBack,
    /// A cordon of an operator's taken away.
    Cordons,
    /// A child started while it ran.
    ChildOnce,
    /// A roll-out that needed nobody and asked.
    AsksNobody,
    /// A roll-out that does not come to an end.
    Ends,
    /// An end that is not what it says.
    EndIsTrue,
    /// A panic.
    NoPanic,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.seen)
    }
}

/// The laws, and what they have to know. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Laws(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Duration,
    violations: Vec<Violation>,
    /// What happened, if anybody wants to read it.
    story: Option<Vec<String>>,
    nodes: BTreeMap<String, NodeLaws>,
    /// Every token that was ever durable in the store.
    committed: BTreeSet<u64>,
    /// Every token under which a node has begun a lease, and what lease that is.
    begun: BTreeMap<u64, String>,
    /// Every node was raised once.
    raised: bool,
    /// The highest token under which anything was changed, on each node.
    acted: BTreeMap<String, u64>,
    /// What the store says of the newest roll-out.
    ledger: Ledger,
    wanted: Option<Wanted>,
    /// Each kind of misfortune, as often as it struck.
    struck: BTreeMap<&'static str, u64>,
    misfortunes: Vec<Misfortune>,
    /// Ends that struck in the middle of something, to be carried out.
    ended: Vec<(String, End, Duration)>,
}

#[derive(Default)]
struct NodeLaws {
    journal: Option<JournalSeen>,
    /// Up to when the agent may think that it holds a lease.
    held_until: BTreeMap<u64, Duration>,
    /// The plan under which a lease has backed it up: a later one of the same plan keeps that backup, and may mend first what is
    /// missing.
    backed_up: Option<String>,
    /// What its system had is being brought back.
    imports: bool,
    changes: u64,
    child_changes: u64,
    appends: u64,
    awaits: u64,
}

/// A journal as the disk has it.
struct JournalSeen {
    token: u64,
    plan: String,
    steps: Vec<Step>,
    /// The step that was begun, or whose undoing was, and is not done.
    open: Option<usize>,
    ended: bool,
}

/// What ends a system, and how long the new one takes to start.
const REPLACES_SYSTEM: &str = "child: replace the system";
const STARTS_ANEW: Duration = Duration::from_secs(20);

const MANIFESTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

impl Laws {
    /// The laws for one schedule.
    pub fn new(schedule: &Schedule, tells: bool) -> Self {
        let laws = Self::default();
        let mut state = laws.lock();
        state.misfortunes.clone_from(&schedule.misfortunes);
        state.ledger = Ledger::new(Bounds::of(schedule));
        state.wanted = Some(schedule.wanted.clone());
        state.story = tells.then(Vec::new);
        drop(state);
        laws
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, before anything else happens at it.
    pub fn tick(&self, now: Duration) {
        self.lock().now = now;
    }

    /// Notes what happens, for a reader.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        self.lock().tell(what);
    }

    /// What happened, line by line.
    pub fn story(&self) -> Vec<String> {
        self.lock().story.clone().unwrap_or_default()
    }

    /// Something that must not be so.
    pub fn broken(&self, law: Law, seen: String) {
        self.lock().broken(law, seen);
    }

    /// The first law that was broken.
    pub fn first_violation(&self) -> Option<Violation> {
        self.lock().violations.first().cloned()
    }

    /// Nothing more goes wrong at changes, appends and moments of waiting.
    pub fn no_more_misfortunes(&self) {
        self.lock().misfortunes.clear();
    }

    /// Counts a misfortune that struck.
    pub fn strikes(&self, misfortune: &Misfortune) {
        self.lock().strikes(misfortune);
    }

    /// How often each kind struck.
    pub fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.lock().struck.clone()
    }

    /// What has ended in the middle of something since the last time.
    pub fn take_ended(&self) -> Vec<(String, End, Duration)> {
        std::mem::take(&mut self.lock().ended)
    }

    /// The agent reads a grant: from now on it may think that it holds the lease.
    pub fn granted(&self, node: &str, token: u64, ttl: Duration) {
        let mut state = self.lock();
        let until = state.now + ttl;
        state.node(node).held_until.insert(token, until);
        state.tell(|| format!("{node} reads the grant of lease {token}"));
    }

    /// The agent reads that its lease was renewed; `sent` is when it asked.
    pub fn renewed(&self, node: &str, token: u64, sent: Duration, ttl: Duration) {
        let mut state = self.lock();
        // The answer may come after the agent has said that the lease is over, and then it brings nothing back.
        if let Some(held) = state.node(node).held_until.get_mut(&token) {
            *held = (*held).max(sent + ttl);
        }
    }

    /// The agent says that its lease is over: from now on it may change nothing under it.
    pub fn gives_up(&self, node: &str, token: u64) {
        let mut state = self.lock();
        state.tell(|| format!("{node} says that lease {token} has ended"));
        state.node(node).held_until.remove(&token);
    }

    /// The coordinator sends a lease.
    pub fn sends_lease(&self, node: &str, token: u64) {
        let mut state = self.lock();
        state.tell(|| format!("the coordinator sends lease {token} to {node}"));
        if !state.committed.contains(&token) {
            let seen = format!("lease {token} of {node} was sent and the store never had it");
            state.broken(Law::LeaseDurable, seen);
        }
    }

    /// The coordinator's store has these leases, by node, where it had those before.
    pub fn leased(&self, leases: &BTreeMap<usize, u64>, before: &BTreeMap<usize, u64>) {
        let mut state = self.lock();
        for (node, token) in leases.iter().filter(|(node, token)| before.get(node) != Some(token)) {
            state.tell(|| format!("the store has lease {token}, of node {node}"));
            if let Some((highest, lease)) = state.begun.last_key_value().filter(|(at, _)| *at >= token) {
                let seen = format!("lease {token} is granted, though {lease} has begun as lease {highest}");
                state.broken(Law::TokensRise, seen);
            }
            state.committed.insert(*token);
        }
    }

    /// Another roll-out begins, of these nodes.
    pub(super) fn rollout_begun(&self, nodes: impl Iterator<Item = String>) {
        let mut state = self.lock();
        state.raised = false;
        state.ledger.begin(nodes);
    }

    /// The coordinator's store says this of the newest roll-out.
    pub(super) fn written(&self, written: Written) {
        let mut state = self.lock();
        let now = state.now;
        for Violation { law, seen } in state.ledger.written(now, written) {
            state.broken(law, seen);
        }
    }

    /// Time begins here.
    pub(super) fn begins(&self, began: Duration) {
        self.lock().ledger.begins(began);
    }

    /// Whether what a system that was replaced had is being brought back into the new one, before its agent starts.
    pub(super) fn imports(&self, node: &str, imports: bool) {
        self.lock().node(node).imports = imports;
    }

    /// A hook has ended well.
    pub(super) fn hook_ended_well(&self, about: &str) {
        self.lock().ledger.hook_ended_well(about);
    }

    /// An operator has been told that from now on there are windows.
    pub(super) fn edited(&self) {
        self.lock().ledger.edited();
    }

    /// The coordinator was put back from a copy of its store that says this of the newest roll-out.
    pub(super) fn put_back(&self, nodes: impl Iterator<Item = String>, written: Written) {
        let mut state = self.lock();
        let now = state.now;
        state.ledger.begin(nodes);
        state.ledger.put_back(now, written);
    }

    /// Workers that could not be drained and were put back, as the store has it.
    pub fn passed_over(&self) -> Vec<String> {
        self.lock().ledger.passed_over().map(str::to_owned).collect()
    }

    /// The coordinator's store has every node raised.
    pub fn all_raised(&self) {
        self.lock().raised = true;
    }

    /// The disk has a new journal.
    pub fn journal_begun(&self, node: &str, header: Header) {
        let mut state = self.lock();
        let (token, plan) = (header.token.0, header.plan.to_string());
        let lease = format!("{:?} of {node} by {}", header.purpose, header.plan);
        state.tell(|| format!("{node} begins the journal of lease {token}, {lease}"));
        match state.begun.get(&token) {
            Some(earlier) if *earlier != lease => {
                let seen = format!("token {token} is that of {lease}, and was that of {earlier}");
                state.broken(Law::TokensRise, seen);
            }
            _ => {
                state.begun.insert(token, lease);
            }
        }
        let seen = JournalSeen { token, plan, steps: header.steps, open: None, ended: false };
        state.node(node).journal = Some(seen);
    }

    /// The disk has another record of the journal.
    pub fn journalled(&self, node: &str, event: &Event) {
        let mut state = self.lock();
        let Some(journal) = &mut state.node(node).journal else {
            return;
        };
        match event {
            Event::Started { index, .. } | Event::UndoStarted { index } => journal.open = Some(*index),
            Event::Adopted { .. } | Event::Succeeded { .. } | Event::Failed { .. } | Event::Undone { .. } => {
                journal.open = None;
            }
            Event::Ended(_) => journal.ended = true,
        }
        let (token, step, plan) = (journal.token, journal.step(event), journal.plan.clone());
        let whole =
            matches!(event, Event::Adopted { .. } | Event::Succeeded { .. }) && step == "back-up-node";
        let failure = match event {
            Event::Failed { failure, .. } => failure.clone(),
            Event::Ended(end) => end.failure.clone().unwrap_or_default(),
            _ => String::new(),
        };
        if whole {
            state.node(node).backed_up = Some(plan);
        }
        state.tell(|| format!("{node} journals under lease {token}: {step} {} {failure}", event.name()));
    }

    /// Counts an append on a node; what ends at it.
    pub fn append(&self, node: &str) -> Option<super::schedule::Arrives> {
        let mut state = self.lock();
        let appends = &mut state.node(node).appends;
        *appends += 1;
        let appends = *appends;
        let mut arrives = None;
        state.end_at(node, |at| match at {
            Moment::Append(nth, what) if *nth == appends => {
                arrives = Some(*what);
                true
            }
            _ => false,
        });
        arrives
    }

    /// Counts a moment at which the agent waits; whether something ends at it.
    pub fn awaits(&self, node: &str) -> bool {
        let mut state = self.lock();
        let awaits = &mut state.node(node).awaits;
        *awaits += 1;
        let awaits = *awaits;
        state.end_at(node, |at| *at == Moment::Await(awaits))
    }
}

impl JournalSeen {
    fn step(&self, event: &Event) -> &'static str {
        let index = match event {
            Event::Started { index, .. }
            | Event::Adopted { index }
            | Event::Succeeded { index, .. }
            | Event::Failed { index, .. }
            | Event::UndoStarted { index }
            | Event::Undone { index, .. } => *index,
            Event::Ended(_) => return "the lease",
        };
        self.steps.get(index).map_or("?", Step::name)
    }
}

impl State {
    fn node(&mut self, node: &str) -> &mut NodeLaws {
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), NodeLaws::default());
        }
        self.nodes.entry(node.to_owned()).or_default()
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{:10.3} {}", now.as_secs_f64(), what()));
        }
    }

    fn broken(&mut self, law: Law, seen: String) {
        self.tell(|| format!("VIOLATION {law:?}: {seen}"));
        self.violations.push(Violation { law, seen });
    }

    fn strikes(&mut self, misfortune: &Misfortune) {
        *self.struck.entry(misfortune.kind()).or_default() += 1;
        self.tell(|| format!("strikes: {misfortune:?}"));
    }

    /// Takes out what strikes a node now.
    fn end_at(&mut self, node: &str, mut now: impl FnMut(&Moment) -> bool) -> bool {
        let position = self
            .misfortunes
            .iter()
            .position(|one| matches!(one, Misfortune::Ends { node: on, at, .. } if on == node && now(at)));
        let Some(position) = position else { return false };
        let struck = self.misfortunes.remove(position);
        self.strikes(&struck);
        if let Misfortune::Ends { node, what, away, .. } = struck {
            self.ended.push((node, what, away));
        }
        true
    }

    /// What strikes before this change.
    fn fault(&mut self, node: &str, child: bool) -> Option<Fault> {
        let laws = self.node(node);
        laws.changes += 1;
        laws.child_changes += u64::from(child);
        let (changes, child_changes) = (laws.changes, laws.child_changes);
        if self.end_at(node, |at| *at == Moment::Change(changes)) {
            let power = self.ended.last().is_some_and(|(_, what, _)| what.cuts_power());
            return Some(if power { Fault::PowerFails } else { Fault::AgentDies });
        }
        let position = self.misfortunes.iter().position(|one| match one {
            Misfortune::ChangeFails { node: on, nth } => on == node && *nth == changes,
            Misfortune::ChildDies { node: on, nth } => child && on == node && *nth == child_changes,
            _ => false,
        })?;
        let struck = self.misfortunes.remove(position);
        self.strikes(&struck);
        Some(if matches!(struck, Misfortune::ChildDies { .. }) { Fault::ChildDies } else { Fault::Fails })
    }

    fn check_change(&mut self, world: &World, node: &str, change: &str, child: bool) {
        let now = self.now;
        let raised = self.raised;
        let laws = self.node(node);
        if laws.imports {
            return;
        }
        let journal = laws.journal.as_ref().filter(|journal| !journal.ended);
        let begun = journal.is_some_and(|journal| journal.open.is_some());
        if removes_backup(change) || removes_export(change) && !begun {
            if journal.is_some() || !raised {
                self.broken(Law::BackupsStay, format!("{node}: {change}"));
            }
            return;
        }
        let Some(journal) = journal else {
            return self.broken(Law::IntentFirst, format!("{node}: {change}, under no lease"));
        };
        let (token, plan) = (journal.token, journal.plan.clone());
        let until = laws.held_until.get(&token).copied().unwrap_or_default();
        let Some(step) = journal.open.and_then(|index| journal.steps.get(index)).map(Step::name) else {
            return self.broken(Law::IntentFirst, format!("{node}: {change}, and no step is begun"));
        };
        let newer = self
            .acted
            .iter()
            .find(|(other, acted)| **acted > token && !self.bounds().side_by_side(node, other));
        if let Some((_, acted)) = newer {
            let seen = format!("{node}: {change} under {token}, after {acted} acted");
            self.broken(Law::StaleLease, seen);
        }
        let acted = self.acted.entry(node.to_owned()).or_default();
        *acted = (*acted).max(token);
        if !child && now >= until {
            let seen = format!("{node}: {change} at {now:?} under lease {token}, which ended at {until:?}");
            self.broken(Law::LapsedLease, seen);
        }
        let others = self.nodes.iter().filter(|(other, laws)| *other != node && laws.may_act(now));
        let others: Vec<&String> = others.map(|(other, _)| other).collect();
        let bounds = self.bounds();
        let within = others.len() < bounds.at_once(node)
            && others.iter().all(|other| bounds.side_by_side(node, other));
        if let Some(other) = others.first().filter(|_| !within) {
            let seen = format!("{node}: {change} under lease {token}, while {other} holds one too");
            self.broken(Law::OneLease, seen);
        }
        let saves = matches!(step, "etcd-quorum-gate" | "etcd-snapshot" | "back-up-node");
        let backed_up = self.node(node).backed_up.as_ref() == Some(&plan);
        if saves && !backed_up && !change.contains("/etc/kubernetes/tmp") {
            self.broken(Law::BackupFirst, format!("{node}: {change}, in {step}"));
        }
        self.check_kind(world, node, change);
        self.check_membership(world, node, change);
    }

    fn bounds(&self) -> &Bounds {
        self.ledger.bounds()
    }

    /// Where one machine takes the place of another: who is a member of etcd, and who is there.
    fn check_membership(&mut self, world: &World, node: &str, change: &str) {
        let Some(Wanted::Replacement { old, .. }) = &self.wanted else { return };
        let (old, members) = (old.clone(), &world.cluster.etcd_members);
        let runs = |member: &str| {
            world.machine(member).is_some_and(|machine| machine.containers.contains_key("etcd"))
        };
        // A machine that lost its power is a misfortune of its own.
        if !self.struck.contains_key("power-cut")
            && let Some(seen) = membership_is_broken(members, runs)
        {
            self.broken(Law::Quorum, format!("{node}: {change}: {seen}"));
        }
        let leaves = node == old && change.starts_with("start `kubeadm reset");
        let there = world.cluster.nodes.get(NEW).is_some_and(|new| new.ready);
        if leaves && !there {
            self.broken(Law::NewBeforeOld, format!("{node}: {change}, and {NEW} is not Ready"));
        }
    }

    fn check_kind(&mut self, world: &World, node: &str, change: &str) {
        let object = world.cluster.nodes.get(node);
        let Some(machine) = world.machine(node) else { return };
        if change.starts_with("start `kubeadm upgrade") && object.is_some_and(|node| node.control_plane) {
            let missing = |component: &&&str| machine.manifest(component).is_none_or(<[u8]>::is_empty);
            if let Some(missing) = MANIFESTS.iter().find(missing) {
                self.broken(Law::ManifestsBack, format!("{node}: {change} without {missing}.yaml"));
            }
        }
        if change == "uncordon" && object.is_some_and(|node| node.unschedulable && node.cordoned_by.is_none())
        {
            self.broken(Law::Cordons, format!("{node}: a cordon that Liftlock did not set is taken away"));
        }
    }
}

/// Why these members of etcd are no cluster to rely on, if so.
fn membership_is_broken(members: &[String], runs: impl Fn(&str) -> bool) -> Option<String> {
    let names: BTreeSet<&String> = members.iter().collect();
    if names.len() < members.len() {
        return Some(format!("{members:?} are members of etcd"));
    }
    let running = members.iter().filter(|member| runs(member)).count();
    (running <= members.len() / 2).then(|| format!("{running} of etcd's members {members:?} run"))
}

/// Whether a whole export goes, of which a lease that begins anew makes another.
fn removes_export(change: &str) -> bool {
    let name = change.strip_prefix("remove all of /mnt/persistent/liftlock/");
    name.is_some_and(|name| !name.contains('/'))
}

/// Whether a whole backup goes: not what is in it.
fn removes_backup(change: &str) -> bool {
    let name = change.strip_prefix("remove all of /etc/kubernetes/tmp/liftlock-");
    name.is_some_and(|name| !name.contains('/'))
}

impl NodeLaws {
    /// Whether its agent is in the middle of a lease that has not run out.
    fn may_act(&self, now: Duration) -> bool {
        self.journal.as_ref().is_some_and(|journal| {
            !journal.ended && self.held_until.get(&journal.token).is_some_and(|until| *until > now)
        })
    }
}

impl Watch for Laws {
    fn before(&self, world: &World, node: &str, change: &str) -> Option<Fault> {
        // A preparation disturbs nothing and needs no lease, nor does the scheduler's preference.
        if change.starts_with("pull ") || change.starts_with("mark ") {
            return None;
        }
        let child = change.starts_with("child: ");
        let mut state = self.lock();
        if let Some(fault) = state.fault(node, child) {
            return Some(fault);
        }
        state.tell(|| format!("{node}: {change}"));
        state.check_change(world, node, change, child);
        if change == REPLACES_SYSTEM {
            state.ended.push((node.to_owned(), End::Power, STARTS_ANEW));
        }
        None
    }
}

impl End {
    /// Whether the machine goes with it.
    pub fn cuts_power(self) -> bool {
        !matches!(self, Self::Agent | Self::AgentOnly)
    }
}

/// A token as a number.
pub(super) fn number(token: FencingToken) -> u64 {
    token.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_quorum_and_a_second_member_of_one_name_are_seen() {
        let members = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let runs = |running: &'static [&str]| move |member: &str| running.contains(&member);
        let broken = |of: &[&str], running| membership_is_broken(&members(of), runs(running));
        assert_eq!(broken(&["cp1", "cp2", "cp3"], &["cp1", "cp3"]), None);
        assert_eq!(broken(&["cp1", "cp2", "cp3", "n1"], &["cp1", "cp2", "cp3"]), None);
        // A dead member, and another added beside it.
        assert!(broken(&["cp1", "cp2", "cp3", "n1"], &["cp1", "cp3"]).is_some());
        assert!(broken(&["cp1", "cp2"], &["cp1"]).is_some());
        assert!(broken(&["cp1", "n1", "n1"], &["cp1", "n1"]).is_some());
    }
}
