//! Histories that no coordinator wrote: each law sees the one that breaks it, and not the one beside it that does not.

use liftlock::core::rollout::{Lease, Progress, Timings};
use liftlock_proto::name::FencingToken;

use super::*;

/// A control plane, three workers of the pool `a` in two zones, and one of all others.
const NODES: [&str; 5] = ["cp1", "w1", "w2", "w3", "w4"];

fn bounds() -> Bounds {
    let worker = |pool, zone: &str| Worker { pool, zone: Some(zone.to_owned()) };
    let workers = [worker(0, "east"), worker(0, "east"), worker(0, "west"), worker(1, "east")];
    let bound = |limit, pause_after| Bound { limit: Some(limit), canary: None, pause_after };
    Bounds {
        workers: NODES.iter().skip(1).map(|name| (*name).to_owned()).zip(workers).collect(),
        pools: vec![bound(2, false), bound(1, false)],
        ..Bounds::default()
    }
}

fn lease(token: u64) -> Lease {
    Lease { token: FencingToken(token), granted_at_ms: 0 }
}

fn leased(token: u64) -> NodeState {
    NodeState::Leased { lease: lease(token), progress: Progress::default(), purpose: Purpose::Raise }
}

fn going_back(token: u64) -> NodeState {
    NodeState::Leased { lease: lease(token), progress: Progress::default(), purpose: Purpose::RollBack }
}

fn raised() -> NodeState {
    NodeState::Raised { lease: lease(1), ended_at_ms: 0, timings: Timings::default() }
}

fn rolled_back() -> NodeState {
    NodeState::RolledBack { lease: lease(1), ended_at_ms: 0, timings: Timings::default() }
}

fn failed() -> NodeState {
    NodeState::Failed {
        lease: lease(1),
        ended_at_ms: 0,
        timings: Timings::default(),
        progress: Progress::default(),
        failure: "it broke".to_owned(),
        purpose: Purpose::Raise,
    }
}

struct Forged {
    ledger: Ledger,
    now: Duration,
}

impl Forged {
    /// Every node is prepared, and the control plane raised.
    fn under(bounds: Bounds) -> Self {
        let mut forged = Self { ledger: Ledger::new(bounds), now: Duration::ZERO };
        forged.ledger.begin(NODES.map(str::to_owned).into_iter());
        let mut states: Vec<(usize, NodeState)> = (1..5).map(|node| (node, NodeState::Prepared)).collect();
        states.push((0, raised()));
        assert_eq!(forged.commit(states, None), []);
        forged
    }

    fn commit(&mut self, states: Vec<(usize, NodeState)>, word: Option<Word>) -> Vec<Law> {
        let broken = self.ledger.written(self.now, Written { states, word });
        broken.into_iter().map(|violation| violation.law).collect()
    }

    /// One node after the other comes to a state.
    fn then(&mut self, node: usize, state: NodeState) -> Vec<Law> {
        self.commit(vec![(node, state)], None)
    }

    /// What would be broken if a node came to a state now. Nothing is remembered.
    fn would(&self, node: usize, state: NodeState) -> Vec<Law> {
        let mut other = Self { ledger: self.ledger.clone(), now: self.now };
        other.then(node, state)
    }

    fn said(&mut self, intent: Intent, passed_over: &[&str]) -> Vec<Law> {
        let passed_over = passed_over.iter().map(|name| (*name).to_owned()).collect();
        self.commit(Vec::new(), Some(Word { intent, passed_over }))
    }
}

#[test]
fn two_workers_of_one_pool_and_zone_go_side_by_side_and_of_two_zones_or_pools_none() {
    let mut forged = Forged::under(bounds());
    assert_eq!(forged.then(1, leased(2)), []);
    assert_eq!(forged.would(2, leased(3)), []);
    assert_eq!(forged.would(3, leased(3)), [Law::OneLease], "of another zone");
    assert_eq!(forged.would(4, leased(3)), [Law::OneLease], "of another pool");
}

#[test]
fn what_is_put_back_and_a_canary_and_a_control_plane_are_alone() {
    let mut forged = Forged::under(bounds());
    assert_eq!(forged.then(1, going_back(2)), []);
    assert_eq!(forged.would(2, leased(3)), [Law::OneLease]);

    let mut canary = bounds();
    canary.pools[0].canary = Some(Canary { nodes: 2, soak_seconds: 60 });
    let mut forged = Forged::under(canary);
    assert_eq!(forged.then(1, leased(2)), []);
    assert_eq!(forged.then(2, leased(3)), [Law::OneLease]);

    let mut forged = Forged::under(bounds());
    assert_eq!(forged.then(0, leased(2)), []);
    let broken = forged.then(1, leased(3));
    assert_eq!(broken, [Law::OneLease, Law::ControlPlanesFirst]);
}

#[test]
fn one_more_than_the_budget_with_those_that_failed_is_seen() {
    let mut forged = Forged::under(Bounds { failure_budget: 2, ..bounds() });
    assert_eq!(forged.then(1, failed()), []);
    assert_eq!(forged.would(2, leased(2)), []);
    assert_eq!(forged.then(2, failed()), []);
    assert_eq!(forged.would(3, leased(2)), [Law::Budget]);
    let retried = NodeState::ToRetry { lease: lease(1), progress: Progress::default() };
    assert_eq!(forged.then(2, retried), []);
    assert_eq!(forged.then(2, leased(2)), [], "it is away already");
}

#[test]
fn whoever_comes_before_a_canary_is_raised_or_has_soaked_is_seen() {
    let mut canary = bounds();
    canary.pools[0].canary = Some(Canary { nodes: 1, soak_seconds: 60 });
    let mut forged = Forged::under(canary);
    assert_eq!(forged.would(2, leased(2)), [Law::CanaryFirst], "the canary is w1");
    assert_eq!(forged.then(1, raised()), []);
    forged.now = Duration::from_secs(59);
    assert_eq!(forged.would(2, leased(2)), [Law::CanaryFirst]);
    forged.now = Duration::from_mins(1);
    assert_eq!(forged.then(2, leased(2)), []);
}

#[test]
fn a_pool_that_is_begun_on_though_nobody_said_resume_after_the_one_before_is_seen() {
    let mut pause = bounds();
    pause.pools[0].pause_after = true;
    let mut forged = Forged::under(pause);
    for worker in 1..4 {
        assert_eq!(forged.then(worker, raised()), []);
    }
    assert_eq!(forged.would(4, leased(2)), [Law::PauseKept]);
    assert_eq!(forged.said(Intent::Pause, &[]), []);
    assert_eq!(forged.would(4, leased(2)), [Law::PauseKept]);
    assert_eq!(forged.said(Intent::Run, &[]), []);
    assert_eq!(forged.then(4, leased(2)), []);
}

#[test]
fn whoever_is_leased_after_more_failures_than_are_borne_is_seen() {
    let mut forged = Forged::under(bounds());
    assert_eq!(forged.then(3, failed()), []);
    assert_eq!(forged.would(1, leased(2)), [Law::FailuresBorne], "none is borne");
    let mut forged = Forged::under(Bounds { failure_budget: 1, ..bounds() });
    assert_eq!(forged.then(3, failed()), []);
    assert_eq!(forged.would(1, leased(2)), []);
    assert_eq!(forged.then(4, failed()), []);
    assert_eq!(forged.would(1, leased(2)), [Law::FailuresBorne]);
    let mut forged = Forged::under(Bounds { failure_budget: 1, ..bounds() });
    assert_eq!(forged.then(0, failed()), []);
    assert_eq!(
        forged.then(1, leased(2)),
        [Law::FailuresBorne, Law::ControlPlanesFirst],
        "a control plane's is never"
    );
}

#[test]
fn whoever_is_begun_on_before_one_that_was_passed_over_is_put_back_is_seen() {
    let mut forged = Forged::under(bounds());
    assert_eq!(forged.then(1, leased(2)), []);
    assert_eq!(forged.then(1, NodeState::ToRollBack { lease: lease(2) }), []);
    assert_eq!(forged.said(Intent::Run, &["w1"]), []);
    assert_eq!(forged.would(2, leased(3)), [Law::PutBackFirst]);
    assert_eq!(forged.then(1, rolled_back()), []);
    assert_eq!(forged.ledger.passed_over().collect::<Vec<_>>(), ["w1"]);
    assert_eq!(forged.then(2, leased(3)), []);
}

#[test]
fn whoever_is_begun_on_outside_of_the_windows_is_seen_and_one_that_was_begun_is_not() {
    let mut forged = Forged::under(Bounds { windows: true, ..bounds() });
    let at = |token, minutes: u64| {
        let lease = Lease { token: FencingToken(token), granted_at_ms: minutes * 60_000 };
        NodeState::Leased { lease, progress: Progress::default(), purpose: Purpose::Raise }
    };
    assert_eq!(forged.would(1, at(2, 59)), []);
    assert_eq!(
        forged.would(1, at(2, 60)),
        [Law::InWindow],
        "half an hour is reckoned with, and it may end outside"
    );
    let mut known = Forged { ledger: forged.ledger.clone(), now: forged.now };
    assert_eq!(known.then(2, raised()), []);
    assert_eq!(known.would(1, at(2, 89)), [], "it is known how long a worker takes");
    assert_eq!(known.would(1, at(2, 90)), [Law::InWindow]);
    let retried = NodeState::ToRetry { lease: lease(1), progress: Progress::default() };
    assert_eq!(forged.then(1, retried), []);
    assert_eq!(forged.then(1, at(2, 90)), []);
}
