//! What the store says of leases, commit by commit, and what must hold of it: how many nodes are under lease at once and which,
//! and what has to come before each. Read from the schedule's policy and cluster, and in other words than the coordinator's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use liftlock::core::rollout::{Intent, NodeState};
use liftlock_proto::plan::Purpose;
use liftlock_proto::workers::{Canary, Share};

use super::laws::{Law, Violation};
use super::schedule::{Misfortune, Schedule};
use super::surroundings::Alarm;
use super::workload::{ends_inside, inside};

/// What Prometheus has answered counts for less than this.
const ANSWER_COUNTS: Duration = Duration::from_secs(16);

/// What a schedule allows.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    workers: BTreeMap<String, Worker>,
    pools: Vec<Bound>,
    failure_budget: usize,
    windows: bool,
    /// Hooks are called.
    hooks: bool,
    /// What Prometheus has to say.
    alarms: Vec<Alarm>,
    /// Workers may go before control planes: nothing is raised.
    replaces: bool,
    /// Somebody sets the coordinator's clock, so that it and true time tell no more of each other.
    clock_is_set: bool,
}

/// Where a worker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Worker {
    pool: usize,
    zone: Option<String>,
}

/// What a pool allows.
#[derive(Debug, Clone)]
struct Bound {
    /// How many may be away at once; `None`: one is under lease at a time.
    limit: Option<usize>,
    canary: Option<Canary>,
    pause_after: bool,
}

/// The newest roll-out.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    bounds: Bounds,
    /// In the order of the plan.
    lines: Vec<Line>,
    goes_on: bool,
    passed_over: BTreeSet<String>,
    /// Pools that are done, and after which nobody has said resume yet.
    owed: BTreeSet<usize>,
    /// When the simulation did.
    began: Duration,
    /// An operator's edit has brought windows.
    edited: bool,
    /// Hooks that have ended well, of this roll-out and of any.
    hooked: BTreeSet<String>,
    ever_hooked: BTreeSet<String>,
    /// Roles of which somebody was raised before, by the beginning of their names: how long they take is known.
    known: BTreeSet<char>,
}

#[derive(Debug, Clone)]
struct Line {
    name: String,
    state: NodeState,
    raised_at: Option<Duration>,
}

/// What one commit says of the newest roll-out.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    /// By position in the plan.
    pub(super) states: Vec<(usize, NodeState)>,
    /// What is said of the roll-out as a whole, where that changed.
    pub(super) word: Option<Word>,
}

/// What is said of a roll-out as a whole.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) intent: Intent,
    /// Workers that could not be drained.
    pub(super) passed_over: BTreeSet<String>,
}

impl Bounds {
    pub(super) fn of(schedule: &Schedule) -> Self {
        let clock_is_set =
            schedule.misfortunes.iter().any(|one| matches!(one, Misfortune::ClockSet { node: None, .. }));
        let alarms = schedule.around.alarms.clone().unwrap_or_default();
        let names = (1..=schedule.workers).map(|number| format!("w{number}"));
        let Some(pools) = schedule.wanted.pools() else {
            let together = |name| (name, Worker { pool: 0, zone: None });
            let limit = usize::try_from(schedule.max_unavailable).ok().filter(|limit| *limit > 1);
            let pools = vec![Bound { limit, canary: None, pause_after: false }];
            let replaces = schedule.wanted.joins().is_some();
            let (workers, hooks) = (names.map(together).collect(), schedule.around.hooks.is_some());
            return Self { workers, pools, hooks, alarms, replaces, clock_is_set, ..Self::default() };
        };
        let workers = names.zip(&pools.workers).map(|(name, standing)| {
            (name, Worker { pool: standing.pool, zone: standing.zone.map(str::to_owned) })
        });
        let workers: BTreeMap<String, Worker> = workers.collect();
        let bound = |(position, terms): (usize, &super::workload::PoolTerms)| {
            let size = workers.values().filter(|worker| worker.pool == position).count();
            let limit = match terms.max_unavailable {
                Share::Nodes(nodes) => usize::try_from(nodes).unwrap_or(usize::MAX),
                Share::Percent(percent) => size * usize::try_from(percent).unwrap_or_default() / 100,
            };
            Bound { limit: Some(limit.max(1)), canary: terms.canary, pause_after: terms.pause_after }
        };
        Self {
            pools: pools.pools.iter().enumerate().map(bound).collect(),
            workers: workers.clone(),
            failure_budget: usize::try_from(pools.failure_budget).unwrap_or(usize::MAX),
            windows: pools.windows,
            hooks: schedule.around.hooks.is_some(),
            alarms,
            replaces: false,
            clock_is_set,
        }
    }

    /// Whether these are two workers that may be under lease at once.
    pub(super) fn side_by_side(&self, node: &str, other: &str) -> bool {
        let (worker, beside) = (self.workers.get(node), self.workers.get(other));
        node != other && worker.is_some() && worker == beside && self.at_once(node) > 1
    }

    /// How many nodes may be under lease at once while this one is.
    pub(super) fn at_once(&self, node: &str) -> usize {
        self.pool(node).and_then(|pool| pool.limit).unwrap_or(1)
    }

    fn pool(&self, node: &str) -> Option<&Bound> {
        self.pools.get(self.workers.get(node)?.pool)
    }
}

impl Ledger {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Another roll-out begins, of these nodes in this order.
    pub(super) fn begin(&mut self, nodes: impl Iterator<Item = String>) {
        let line = |name| Line { name, state: NodeState::Pending, raised_at: None };
        self.lines = nodes.map(line).collect();
        (self.goes_on, self.passed_over, self.owed) = (true, BTreeSet::new(), BTreeSet::new());
        (self.edited, self.hooked) = (false, BTreeSet::new());
    }

    /// A hook has ended well.
    pub(super) fn hook_ended_well(&mut self, about: &str) {
        self.hooked.insert(about.to_owned());
        self.ever_hooked.insert(about.to_owned());
    }

    /// Time begins here.
    pub(super) fn begins(&mut self, began: Duration) {
        self.began = began;
    }

    /// From now on there are windows.
    pub(super) fn edited(&mut self) {
        self.edited = true;
    }

    /// The store says this after a commit at a moment.
    pub(super) fn written(&mut self, now: Duration, written: Written) -> Vec<Violation> {
        let done_before = self.done();
        let mut granted = Vec::new();
        for (position, state) in written.states {
            let Some(line) = self.lines.get_mut(position) else { continue };
            let is_raised = |state: &NodeState| matches!(state, NodeState::Raised { .. });
            if is_raised(&state) && !is_raised(&line.state) {
                line.raised_at = Some(now);
                self.known.extend(line.name.chars().next());
            }
            let before = std::mem::replace(&mut line.state, state);
            if let Some(lease) = line.state.lease()
                && before.lease() != Some(lease)
            {
                granted.push((position, matches!(before, NodeState::Prepared), lease.granted_at_ms));
            }
        }
        if let Some(Word { intent, passed_over }) = written.word {
            let goes_on = intent == Intent::Run;
            if goes_on && !self.goes_on {
                self.owed.clear();
            }
            (self.goes_on, self.passed_over) = (goes_on, passed_over);
        }
        let done = self.done();
        self.owed.retain(|pool| done.contains(pool));
        let new = done.difference(&done_before).copied().filter(|pool| self.waits_beside(*pool));
        self.owed.extend(new.collect::<Vec<_>>());
        let mut broken = Vec::new();
        for (position, fresh, at_ms) in granted {
            self.judge(position, fresh, at_ms, now, &mut broken);
        }
        broken
    }

    /// The coordinator was put back from a copy that says this.
    pub(super) fn put_back(&mut self, now: Duration, written: Written) {
        let goes_on = written.word.as_ref().is_none_or(|word| word.intent == Intent::Run);
        self.hooked.clone_from(&self.ever_hooked);
        _ = self.written(now, written);
        if goes_on {
            self.owed.clear();
        }
    }

    /// The workers that could not be drained and were put back.
    pub(super) fn passed_over(&self) -> impl Iterator<Item = &str> {
        let back = |line: &&Line| matches!(line.state, NodeState::RolledBack { .. });
        let passed_over = |line: &&Line| self.passed_over.contains(&line.name);
        self.lines.iter().filter(back).filter(passed_over).map(|line| line.name.as_str())
    }

    fn judge(&self, position: usize, fresh: bool, at_ms: u64, now: Duration, broken: &mut Vec<Violation>) {
        let Some(line) = self.lines.get(position) else { return };
        let node = &line.name;
        let mut say =
            |law, seen| broken.push(Violation { law, seen: format!("{node} is granted a lease, {seen}") });
        let held: Vec<&Line> = self.lines.iter().filter(|line| line.state.lease().is_some()).collect();
        if held.len() > 1 && !self.may_be_together(&held) {
            let names: Vec<&str> = held.iter().map(|line| line.name.as_str()).collect();
            say(Law::OneLease, format!("and {names:?} are under lease at once"));
        }
        if matches!(line.state, NodeState::Leased { purpose: Purpose::RollBack, .. }) {
            return;
        }
        if let Some(failed) = self.lines.iter().find(|line| self.is_beyond_the_failure_budget(line)) {
            say(Law::FailuresBorne, format!("though {} failed beyond the failure budget", failed.name));
        }
        if !fresh {
            return;
        }
        let waits = |line: &&Line| self.passed_over.contains(&line.name) && !settled(&line.state);
        if let Some(waits) = self.lines.iter().find(waits) {
            say(Law::PutBackFirst, format!("and {} could not be drained and is not put back", waits.name));
        }
        if self.bounds.windows || self.edited {
            if !inside(at_ms) {
                say(Law::InWindow, format!("at {at_ms} ms, which is outside of every window"));
            } else if !node.starts_with(|role| self.known.contains(&role)) && !ends_inside(at_ms) {
                say(Law::InWindow, format!("at {at_ms} ms, and its window ends before the lease is sure to"));
            }
        }
        let since = now.saturating_sub(self.began);
        let loud = |alarm: &&Alarm| alarm.from + ANSWER_COUNTS <= since && since < alarm.until;
        if let Some(alarm) = self.bounds.alarms.iter().find(loud) {
            say(Law::AlertsHeard, format!("while this goes on: {alarm:?}"));
        }
        let hooks = ["before-plan".to_owned(), format!("before-node:{node}")];
        if let Some(hook) = hooks.iter().find(|hook| self.bounds.hooks && !self.hooked.contains(*hook)) {
            say(Law::HookFirst, format!("and the hook {hook} has not ended well"));
        }
        let Some(worker) = self.bounds.workers.get(node) else { return };
        let left = |line: &&Line| {
            !self.bounds.workers.contains_key(&line.name) && !matches!(line.state, NodeState::Raised { .. })
        };
        if let Some(left) = self.lines.iter().find(left).filter(|_| !self.bounds.replaces) {
            say(Law::ControlPlanesFirst, format!("and {} is not raised", left.name));
        }
        for pool in self.owed.iter().filter(|pool| **pool != worker.pool) {
            say(Law::PauseKept, format!("and nobody has said resume after pool {pool}"));
        }
        let Some(bound) = self.bounds.pools.get(worker.pool) else { return };
        let away: Vec<&str> =
            self.of(worker.pool).filter(|line| is_away(&line.state)).map(|line| line.name.as_str()).collect();
        if bound.limit.is_some_and(|limit| away.len() > limit) {
            say(Law::Budget, format!("and {away:?} are away, of {:?}", bound.limit));
        }
        let canaries: Vec<&Line> = self.canaries(worker.pool).collect();
        let Some(canary) = bound.canary.filter(|_| !canaries.iter().any(|canary| canary.name == *node))
        else {
            return;
        };
        let is_raised = |line: &Line| matches!(line.state, NodeState::Raised { .. });
        if let Some(waits) = canaries.iter().find(|canary| !is_raised(canary)) {
            return say(Law::CanaryFirst, format!("and the canary {} is not raised", waits.name));
        }
        let raised_at = canaries.iter().filter_map(|canary| canary.raised_at).max().unwrap_or_default();
        let soaked = now.saturating_sub(raised_at);
        if !self.bounds.clock_is_set && soaked < Duration::from_secs(canary.soak_seconds.into()) {
            say(Law::CanaryFirst, format!("and its canaries have soaked for {soaked:?} only"));
        }
    }

    fn of(&self, pool: usize) -> impl Iterator<Item = &Line> {
        let own =
            move |line: &&Line| self.bounds.workers.get(&line.name).is_some_and(|worker| worker.pool == pool);
        self.lines.iter().filter(own)
    }

    /// The first so many of a pool that could be drained.
    fn canaries(&self, pool: usize) -> impl Iterator<Item = &Line> {
        let canary = self.bounds.pools.get(pool).and_then(|bound| bound.canary);
        let count = canary.map_or(0, |canary| usize::try_from(canary.nodes).unwrap_or(usize::MAX));
        self.of(pool).filter(|line| !self.passed_over.contains(&line.name)).take(count)
    }

    fn is_canary(&self, line: &Line) -> bool {
        let worker = self.bounds.workers.get(&line.name);
        worker.is_some_and(|worker| self.canaries(worker.pool).any(|canary| canary.name == line.name))
    }

    fn may_be_together(&self, held: &[&Line]) -> bool {
        held.iter().all(|line| {
            let raised = matches!(line.state, NodeState::Leased { purpose: Purpose::Raise, .. });
            let mut others = held.iter().filter(|other| other.name != line.name);
            raised
                && !self.is_canary(line)
                && held.len() <= self.bounds.at_once(&line.name)
                && others.all(|other| self.bounds.side_by_side(&line.name, &other.name))
        })
    }

    /// What was to be raised and failed is borne where it is a worker, no canary, and one of no more than may.
    fn is_beyond_the_failure_budget(&self, line: &Line) -> bool {
        let bearable = |line: &Line| {
            matches!(line.state, NodeState::Failed { purpose: Purpose::Raise, .. })
                && self.bounds.workers.contains_key(&line.name)
                && !self.is_canary(line)
        };
        let failed = self.lines.iter().filter(|line| bearable(line)).count();
        match line.state {
            NodeState::Unprepared { .. } => true,
            NodeState::Failed { .. } => !bearable(line) || failed > self.bounds.failure_budget,
            _ => false,
        }
    }

    /// Pools after which somebody has to speak, in which all is done that will be.
    fn done(&self) -> BTreeSet<usize> {
        let is_done = |line: &Line| match line.state {
            NodeState::Raised { .. } => true,
            NodeState::RolledBack { .. } => self.passed_over.contains(&line.name),
            NodeState::Failed { purpose: Purpose::Raise, .. } => !self.is_canary(line),
            _ => false,
        };
        let pools = self.bounds.pools.iter().enumerate().filter(|(_, bound)| bound.pause_after);
        let pools = pools
            .map(|(pool, _)| pool)
            .filter(|pool| self.of(*pool).next().is_some() && self.of(*pool).all(is_done));
        pools.collect()
    }

    /// Whether anybody of another pool waits to be raised.
    fn waits_beside(&self, pool: usize) -> bool {
        let waits = |line: &Line| matches!(line.state, NodeState::Prepared | NodeState::ToRetry { .. });
        let of = |line: &Line| self.bounds.workers.get(&line.name).map(|worker| worker.pool);
        self.lines.iter().any(|line| of(line) != Some(pool) && waits(line))
    }
}

/// Whether a roll-out may have taken it away.
fn is_away(state: &NodeState) -> bool {
    matches!(state, NodeState::Leased { .. } | NodeState::Failed { .. } | NodeState::ToRetry { .. })
}

/// Whether nothing of it waits to be put back.
fn settled(state: &NodeState) -> bool {
    matches!(state, NodeState::RolledBack { .. } | NodeState::Failed { .. })
}

#[cfg(test)]
mod tests;
