use std::collections::BTreeMap;

use liftlock_proto::name::FencingToken;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{OnFailure, Plan, Policy, Role};
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Place, Workers};
use proptest::prelude::*;

use super::*;
use crate::core::decide::{Decision, decide};
use crate::core::rollout::{Event, Lease, Timings};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// `w1@gpu/a` is a worker in the pool gpu and the zone a; a name alone is a control plane's.
fn planned(text: &str) -> PlannedNode {
    let (node, place) = text.split_once('@').unzip();
    let place = place.map(|place| {
        let (pool, zone) = place.split_once('/').unwrap_or((place, ""));
        Place { pool: pool.to_owned(), zone: Some(zone.to_owned()).filter(|zone| !zone.is_empty()) }
    });
    let role = if place.is_some() { Role::Worker } else { Role::ControlPlane };
    PlannedNode {
        name: name(node.unwrap_or(text)),
        role,
        prepare: vec![],
        steps: vec![],
        place,
        packages: PackageSource::default(),
    }
}

pub(crate) fn pool(name: &str, max_unavailable: u32) -> PlannedPool {
    PlannedPool {
        name: name.to_owned(),
        max_unavailable: Some(max_unavailable),
        canary: None,
        pause_after: false,
        on_blocked: None,
    }
}

/// With every node prepared.
pub(crate) fn rollout(nodes: &[&str], pools: Vec<PlannedPool>, failure_budget: u32) -> Rollout {
    let workers = Workers { failure_budget, ..Workers::default() };
    let plan = Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: "0123456789ab".to_owned(),
        from_version: KubernetesVersion::new(1, 30, 4),
        to_version: KubernetesVersion::new(1, 31, 2),
        nodes: nodes.iter().map(|node| planned(node)).collect(),
        policy: Policy { workers, ..Policy::default() },
        pools,
    };
    let events: Vec<Event> = plan
        .nodes
        .iter()
        .map(|node| Event::PrepareReported { node: node.name.clone(), failure: None })
        .collect();
    after(&Rollout::start(plan, "alice".to_owned(), 0), &events)
}

fn after(rollout: &Rollout, events: &[Event]) -> Rollout {
    events.iter().fold(rollout.clone(), |rollout, event| rollout.after(event).unwrap())
}

fn granted_at(node: &str, token: u64, now_ms: u64) -> Event {
    let lease = Lease { token: FencingToken(token), granted_at_ms: now_ms };
    Event::LeaseGranted { node: name(node), lease, purpose: Purpose::Raise, soak_time_ms: now_ms }
}

fn granted(node: &str, token: u64) -> Event {
    granted_at(node, token, 0)
}

fn ended_at(node: &str, token: u64, failure: Option<&str>, at_ms: u64) -> Event {
    Event::LeaseEnded {
        node: name(node),
        token: FencingToken(token),
        failure: failure.map(str::to_owned),
        timings: Timings::default(),
        at_ms,
    }
}

fn ended(node: &str, token: u64) -> Event {
    ended_at(node, token, None, 0)
}

fn failed(node: &str, token: u64) -> Event {
    ended_at(node, token, Some("it broke"), 0)
}

fn blocked(node: &str, token: u64) -> Event {
    Event::DrainBlocked {
        node: name(node),
        token: FencingToken(token),
        failure: "a budget".to_owned(),
        timings: Timings::default(),
        at_ms: 0,
    }
}

fn granted_back(node: &str, token: u64) -> Event {
    let lease = Lease { token: FencingToken(token), granted_at_ms: 0 };
    Event::LeaseGranted { node: name(node), lease, purpose: Purpose::RollBack, soak_time_ms: 0 }
}

fn due_at(rollout: &Rollout, now_ms: u64) -> Vec<String> {
    let due = rollout.due(now_ms).unwrap_or_default();
    due.into_iter().map(|(planned, _)| planned.name.to_string()).collect()
}

fn due(rollout: &Rollout) -> Vec<String> {
    due_at(rollout, 0)
}

/// One control plane and four workers in two zones, up to two at a time.
fn two_zones() -> Rollout {
    rollout(&["cp1", "w1@w/a", "w3@w/a", "w2@w/b", "w4@w/b"], vec![pool("w", 2)], 0)
}

#[test]
fn control_planes_are_leased_alone_and_workers_of_one_zone_side_by_side_up_to_the_budget() {
    let start = two_zones();
    assert_eq!(due(&start), ["cp1"]);
    let control_plane = after(&start, &[granted("cp1", 1)]);
    assert_eq!(due(&control_plane), [""; 0], "a control plane is alone");
    let workers = after(&control_plane, &[ended("cp1", 1)]);
    assert_eq!(due(&workers), ["w1", "w3"]);
    let both = after(&workers, &[granted("w3", 2), granted("w1", 3)]);
    assert_eq!(due(&both), [""; 0]);
    let one = after(&both, &[ended("w3", 2)]);
    assert_eq!(due(&one), [""; 0], "w1 is of another zone than w2");
    assert!(one.after(&granted("w2", 4)).is_err());
    let next = after(&one, &[ended("w1", 3)]);
    assert_eq!(due(&next), ["w2", "w4"]);
}

#[test]
fn a_worker_that_is_passed_over_is_put_back_alone_before_another_is_begun_on_and_no_failure_ends_the_roll_out_before()
 {
    let start = rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 1);
    let both = after(&start, &[granted("w1", 1), granted("w2", 2), blocked("w1", 1)]);
    assert_eq!(due(&both), [""; 0], "w2 holds its lease");
    let failed = after(&both, &[failed("w2", 2)]);
    assert_eq!((due(&failed), failed.phase()), (vec!["w1".to_owned()], Phase::Running));
    let back = after(&failed, &[granted_back("w1", 3)]);
    assert_eq!(due(&back), [""; 0], "what is put back is alone");
    let rest = after(&back, &[ended("w1", 3)]);
    assert_eq!(due(&rest), ["w3"]);
    let Phase::Halted { reason } = after(&rest, &[granted("w3", 4), ended("w3", 4)]).phase() else {
        panic!("it is asked what becomes of w1 and w2");
    };
    assert!(reason.contains("w2: it broke") && reason.contains("w1 (a budget)"), "{reason}");
}

#[test]
fn while_a_worker_is_put_back_the_budget_lets_nobody_go_beside_it() {
    let start = rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 0);
    let back = after(&start, &[granted("w1", 1), blocked("w1", 1), granted_back("w1", 2)]);
    assert_eq!((due(&back), back.phase()), (vec![], Phase::Running));
    assert!(back.after(&granted("w2", 3)).is_err());
    assert_eq!(due(&after(&back, &[ended("w1", 2)])), ["w2", "w3"]);
}

#[test]
fn in_the_place_of_a_canary_that_is_passed_over_the_next_of_its_pool_goes_first() {
    let canary = Some(Canary { nodes: 1, soak_seconds: 60 });
    let start = rollout(&["w1@w", "w2@w", "w3@w", "w4@w"], vec![PlannedPool { canary, ..pool("w", 2) }], 0);
    let back = after(&start, &[granted("w1", 1), blocked("w1", 1), granted_back("w1", 2), ended("w1", 2)]);
    assert_eq!(due(&back), ["w2"]);
    let next = after(&back, &[granted("w2", 3)]);
    assert_eq!(due(&next), [""; 0], "a canary goes alone");
    let raised = after(&next, &[ended_at("w2", 3, None, 1000)]);
    assert_eq!(
        (due_at(&raised, 60_999), due_at(&raised, 61_000)),
        (vec![], ["w3", "w4"].map(str::to_owned).to_vec())
    );
}

#[test]
fn where_nothing_is_said_of_workers_one_is_leased_at_a_time() {
    let mut unsaid = pool("w", 1);
    unsaid.max_unavailable = None;
    let start = rollout(&["w1@w", "w2@w"], vec![unsaid], 0);
    assert_eq!(due(&start), ["w1"]);
    assert!(after(&start, &[granted("w1", 1)]).after(&granted("w2", 2)).is_err());
}

#[test]
fn a_worker_that_is_silent_holds_up_no_other_that_the_budget_lets_go() {
    let start = rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 0);
    let others = [name("w2"), name("w3")].into();
    let grant = |node| Decision::Grant { node: name(node), purpose: Purpose::Raise };
    assert_eq!(decide(&start, &others, 0), [grant("w2")], "the place of w1 is kept for it");
}

#[test]
fn a_worker_that_fails_beyond_the_budget_halts_the_roll_out_while_those_beside_it_come_to_their_end() {
    let both = after(
        &rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 0),
        &[granted("w1", 1), granted("w2", 2)],
    );
    let halted = after(&both, &[failed("w1", 1)]);
    assert_eq!(halted.phase(), Phase::Halted { reason: "w1: it broke".to_owned() });
    assert_eq!(due(&halted), [""; 0]);
    let ended = after(&halted, &[ended("w2", 2)]);
    let again = after(&ended, &[Event::Retried { node: name("w1") }]);
    assert_eq!(due(&again), ["w1", "w3"]);
}

#[test]
fn within_the_failure_budget_the_others_go_on_and_an_operator_is_asked_at_the_end() {
    let start = rollout(&["w1@w", "w2@w", "w3@w", "w4@w"], vec![pool("w", 2)], 1);
    let one = after(&start, &[granted("w1", 1), failed("w1", 1)]);
    assert_eq!((one.phase(), due(&one)), (Phase::Running, vec!["w2".to_owned()]), "w1 is away still");
    let mut end = one;
    for (token, node) in [(2, "w2"), (3, "w3"), (4, "w4")] {
        end = after(&end, &[granted(node, token), ended(node, token)]);
    }
    assert_eq!(end.phase(), Phase::Halted { reason: "w1: it broke".to_owned() });
    let back = after(&end, &[Event::RollbackOrdered { node: Some(name("w1")) }]);
    let due: Vec<_> =
        back.due(0).unwrap().into_iter().map(|(node, purpose)| (node.name.as_str(), purpose)).collect();
    assert_eq!(due, [("w1", Purpose::RollBack)], "and nothing but w1");
    let retried = after(&end, &[Event::Retried { node: name("w1") }, granted("w1", 5), ended("w1", 5)]);
    assert_eq!(retried.phase(), Phase::Raised);
}

#[test]
fn one_failure_more_than_the_budget_halts_and_so_does_a_budget_that_the_failed_use_up() {
    let start = rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 1);
    let both = after(&start, &[granted("w1", 1), granted("w2", 2), failed("w1", 1), failed("w2", 2)]);
    assert_eq!(both.phase(), Phase::Halted { reason: "w1: it broke".to_owned() });
    let narrow =
        after(&rollout(&["w1@w", "w2@w"], vec![pool("w", 1)], 1), &[granted("w1", 1), failed("w1", 1)]);
    let Phase::Halted { reason } = narrow.phase() else { panic!("{:?}", narrow.phase()) };
    assert!(reason.contains("w1: it broke") && reason.contains("no more than 1 of the pool"), "{reason}");
}

#[test]
fn a_failed_control_plane_and_a_failed_canary_are_in_no_budget() {
    let control_plane =
        after(&rollout(&["cp1", "w1@w"], vec![pool("w", 2)], 5), &[granted("cp1", 1), failed("cp1", 1)]);
    assert!(matches!(control_plane.phase(), Phase::Halted { .. }));
    let canary = after(&soaking(), &[granted("w1", 1), failed("w1", 1)]);
    assert!(matches!(canary.phase(), Phase::Halted { .. }));
}

/// Two canaries of four workers, then 60 s.
fn soaking() -> Rollout {
    let canary = Some(Canary { nodes: 2, soak_seconds: 60 });
    rollout(&["w1@w/a", "w2@w/a", "w3@w/a", "w4@w/a"], vec![PlannedPool { canary, ..pool("w", 4) }], 3)
}

#[test]
fn canaries_go_one_at_a_time_and_the_others_once_the_last_of_them_has_soaked() {
    let start = soaking();
    assert_eq!(due(&start), ["w1"]);
    let first = after(&start, &[granted("w1", 1)]);
    assert!(first.after(&granted("w2", 2)).is_err());
    let second = after(&first, &[ended("w1", 1), granted("w2", 2)]);
    assert_eq!(due(&second), [""; 0]);
    let soaks = after(&second, &[ended_at("w2", 2, None, 100_000)]);
    assert_eq!(soaks.phase(), Phase::Running);
    let wait = soaks.due(100_500).unwrap_err();
    assert_eq!(wait, Wait::Soaking { pool: "w".to_owned(), left_ms: 59_500 });
    assert_eq!(wait.to_string(), "pool w: soaking, 1 min 0 s left");
    assert!(soaks.after(&granted_at("w3", 3, 159_999)).is_err());
    assert_eq!(due_at(&soaks, 160_000), ["w3", "w4"]);
    assert!(soaks.after(&granted_at("w3", 3, 160_000)).is_ok());
}

#[test]
fn pools_follow_one_another_and_after_one_the_roll_out_waits_where_the_plan_says_so() {
    let pools = vec![PlannedPool { pause_after: true, ..pool("gpu", 2) }, pool("others", 2)];
    let start = rollout(&["w9@gpu", "w1@others", "w2@others"], pools, 0);
    assert_eq!(due(&start), ["w9"]);
    let held = after(&start, &[granted("w9", 1)]);
    assert!(held.after(&granted("w1", 2)).is_err(), "of another pool");
    let paused = after(&held, &[ended("w9", 1)]);
    assert_eq!((paused.phase(), paused.paused_after.as_deref()), (Phase::Paused, Some("gpu")));
    let resumed = after(&paused, &[Event::Resumed]);
    assert_eq!((due(&resumed), resumed.paused_after.clone()), (vec!["w1".to_owned(), "w2".to_owned()], None));
    let end = after(&resumed, &[granted("w1", 2), granted("w2", 3), ended("w1", 2), ended("w2", 3)]);
    assert_eq!(end.phase(), Phase::Raised, "nothing is left to pause before");
}

#[test]
fn after_a_pool_whose_last_worker_is_passed_over_the_roll_out_waits_once_that_is_put_back() {
    let pools = vec![PlannedPool { pause_after: true, ..pool("gpu", 2) }, pool("others", 2)];
    let start = rollout(&["w8@gpu", "w9@gpu", "w1@others"], pools, 0);
    let both = after(&start, &[granted("w8", 1), granted("w9", 2), blocked("w8", 1), ended("w9", 2)]);
    assert_eq!((both.phase(), due(&both)), (Phase::Running, vec!["w8".to_owned()]));
    let back = after(&both, &[granted_back("w8", 3), ended("w8", 3)]);
    assert_eq!((back.phase(), back.paused_after.as_deref()), (Phase::Paused, Some("gpu")));
    assert_eq!(due(&after(&back, &[Event::Resumed])), ["w1"]);
}

#[test]
fn a_worker_that_is_passed_over_is_put_back_though_the_roll_out_is_paused_or_halted() {
    let start = rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 0);
    let both = after(&start, &[granted("w1", 1), granted("w2", 2), blocked("w1", 1)]);
    let paused = after(&both, &[Event::Paused, ended("w2", 2)]);
    assert_eq!((paused.phase(), due(&paused)), (Phase::Paused, vec!["w1".to_owned()]));
    let halted = after(&both, &[failed("w2", 2)]);
    assert!(matches!(halted.phase(), Phase::Halted { .. }));
    let back = after(&halted, &[granted_back("w1", 3), ended("w1", 3)]);
    assert!(matches!(back.phase(), Phase::Halted { .. }) && due(&back).is_empty(), "w2 is an operator's");
}

#[test]
fn what_is_away_of_another_zone_and_uses_the_budget_up_is_leased_before_what_comes_first() {
    let start = rollout(&["w1@w/a", "w2@w/b"], vec![pool("w", 1)], 0);
    let lease = Lease { token: FencingToken(1), granted_at_ms: 0 };
    let found = after(&start, &[Event::LeaseFound { node: name("w2"), lease }]);
    assert_eq!(due(&found), ["w2"]);
    let end = after(&found, &[granted("w2", 2), ended("w2", 2)]);
    assert_eq!(due(&end), ["w1"]);
}

#[test]
fn a_rollback_by_policy_waits_for_those_beside_the_failed_worker() {
    let mut start = rollout(&["w1@w", "w2@w", "w3@w"], vec![pool("w", 2)], 0);
    start.plan.policy.on_failure = OnFailure::RollBackNode;
    let failed = after(&start, &[granted("w1", 1), granted("w2", 2), failed("w1", 1)]);
    assert!(matches!(failed.phase(), Phase::Halted { .. }));
    let answered = after(&failed, &[ended("w2", 2)]);
    assert_eq!(answered.phase(), Phase::RollingBack);
    let due: Vec<_> = answered.due(0).unwrap().into_iter().map(|(node, _)| node.name.as_str()).collect();
    assert_eq!(due, ["w1"], "w2 is raised and stays so");
    assert_eq!(answered.answered.as_deref(), Some("w1: it broke"));
}

/// What happens, by the position of a node.
#[derive(Debug, Clone)]
enum Happens {
    Granted(usize),
    Ended(usize, bool),
    Blocked(usize),
    Retried(usize),
    RollBack(Option<usize>),
    GrantedBack(usize),
    Pause,
    Resume,
    Later(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let node = || 0..8usize;
    prop_oneof![
        8 => node().prop_map(Happens::Granted),
        6 => (node(), prop::bool::weighted(0.25)).prop_map(|(node, fails)| Happens::Ended(node, fails)),
        2 => node().prop_map(Happens::Blocked),
        2 => node().prop_map(Happens::Retried),
        1 => prop::option::of(node()).prop_map(Happens::RollBack),
        2 => node().prop_map(Happens::GrantedBack),
        1 => Just(Happens::Pause),
        2 => Just(Happens::Resume),
        2 => (0..50_000u64).prop_map(Happens::Later),
    ]
}

const NODES: [&str; 8] =
    ["cp1", "cp2", "g1@gpu/a", "g2@gpu/a", "g3@gpu/b", "w1@others/a", "w2@others/a", "w3@others"];

proptest! {
    #[test]
    fn no_order_of_events_takes_more_away_than_the_budgets_allow_or_of_two_zones_or_beside_a_control_plane(
        happened in prop::collection::vec(happens(), 0..120),
        limits in prop::array::uniform2(1u32..4),
        (canary_nodes, failure_budget, pause_after) in (0u32..3, 0u32..3, any::<bool>()),
    ) {
        let canary = (canary_nodes > 0).then_some(Canary { nodes: canary_nodes, soak_seconds: 60 });
        let pools = vec![
            PlannedPool { canary, pause_after, ..pool("gpu", limits[0]) },
            PlannedPool { canary, ..pool("others", limits[1]) },
        ];
        let mut rollout = rollout(&NODES, pools, failure_budget);
        let names: Vec<NodeName> = rollout.plan.nodes.iter().map(|node| node.name.clone()).collect();
        let (mut now_ms, mut token) = (0, 0);
        let mut raised_at = BTreeMap::new();
        for happened in happened {
            token += 1;
            let lease_of = |index: usize| rollout.nodes[index].lease().map_or(FencingToken(0), |lease| lease.token);
            let grant = |index: usize, purpose| Event::LeaseGranted {
                node: names[index].clone(),
                lease: Lease { token: FencingToken(token), granted_at_ms: now_ms },
                soak_time_ms: now_ms,
                purpose,
            };
            let event = match happened {
                Happens::Granted(index) => grant(index, Purpose::Raise),
                Happens::GrantedBack(index) => grant(index, Purpose::RollBack),
                Happens::Ended(index, fails) => {
                    let failure = fails.then_some("it broke");
                    ended_at(names[index].as_str(), lease_of(index).0, failure, now_ms)
                }
                Happens::Blocked(index) => blocked(names[index].as_str(), lease_of(index).0),
                Happens::Retried(index) => Event::Retried { node: names[index].clone() },
                Happens::RollBack(index) => Event::RollbackOrdered { node: index.map(|index| names[index].clone()) },
                Happens::Pause => Event::Paused,
                Happens::Resume => Event::Resumed,
                Happens::Later(ms) => {
                    now_ms += ms;
                    continue;
                }
            };
            let before = rollout.clone();
            let Ok(next) = rollout.after(&event) else { continue };
            rollout = next;
            if let Event::LeaseEnded { node, failure: None, .. } = &event {
                raised_at.insert(node.clone(), now_ms);
            }
            let held: Vec<(&PlannedNode, &NodeState)> =
                rollout.nodes().filter(|(_, state)| state.lease().is_some()).collect();
            let alone = held.iter().any(|(planned, state)| {
                let back = matches!(state, NodeState::Leased { purpose: Purpose::RollBack, .. });
                planned.role.is_control_plane() || back || rollout.is_canary(planned)
            });
            prop_assert!(!alone || held.len() == 1, "{held:?}");
            prop_assert!(held.iter().all(|(planned, _)| planned.place == held[0].0.place), "{held:?}");
            let Event::LeaseGranted { node, purpose: Purpose::Raise, .. } = &event else { continue };
            let (planned, _) = rollout.node(node).unwrap();
            let control_planes_left = rollout.nodes().any(|(planned, state)| {
                planned.role.is_control_plane() && !matches!(state, NodeState::Raised { .. })
            });
            let Some(pool) = rollout.pool(planned) else { continue };
            prop_assert!(!control_planes_left, "{planned:?} before a control plane");
            let away = rollout.away_of_the_pool(planned).len();
            let had_been_away = before.away_of_the_pool(planned).contains(node);
            prop_assert!(had_been_away || away <= pool.max_unavailable.unwrap() as usize, "{away} are away");
            let fresh = matches!(before.node(node), Some((_, NodeState::Prepared)));
            if fresh && !rollout.is_canary(planned) {
                for (canary, state) in rollout.canaries(pool) {
                    prop_assert!(matches!(state, NodeState::Raised { .. }), "{} before {}", planned.name, canary.name);
                    prop_assert!(now_ms >= raised_at[&canary.name] + 60_000, "too early after {}", canary.name);
                }
            }
        }
    }
}
