use liftlock_proto::name::FencingToken;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{Policy, Role};
use liftlock_proto::version::KubernetesVersion;
use proptest::prelude::*;

use super::*;
use crate::core::rollout::{Event, Lease, Phase, Progress, Timings};
use crate::core::sequence::{empty, join, keep_a_snapshot, leave};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn rollout(nodes: &[(&str, Role, Vec<Step>)]) -> Rollout {
    let planned = |(node, role, steps): &(&str, Role, Vec<Step>)| PlannedNode {
        name: name(node),
        role: *role,
        place: None,
        prepare: Vec::new(),
        steps: steps.clone(),
        packages: PackageSource::default(),
    };
    let version = KubernetesVersion::new(1, 31, 2);
    let plan = Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: "0123456789ab".to_owned(),
        from_version: version,
        to_version: version,
        nodes: nodes.iter().map(planned).collect(),
        policy: Policy::default(),
        pools: Vec::new(),
    };
    nodes.iter().fold(Rollout::start(plan, "alice".to_owned(), 0), |rollout, (node, _, _)| {
        rollout.after(&Event::PrepareReported { node: name(node), failure: None }).unwrap()
    })
}

fn joins() -> Vec<Step> {
    join(Role::Worker, KubernetesVersion::new(1, 31, 2), &Policy::default())
}

/// n1 and n2 take the places of w1 and w2.
fn surge() -> Rollout {
    let leaves = || leave(Role::Worker, &Policy::default());
    let ends = end_memberships(&["w1", "w2"].map(name), Role::Worker, true);
    rollout(&[
        ("n1", Role::Worker, joins()),
        ("n2", Role::Worker, joins()),
        ("w1", Role::Worker, leaves()),
        ("w2", Role::Worker, leaves()),
        ("cp1", Role::ControlPlane, ends),
    ])
}

/// n1 takes the pods of w1 and w2, which stay.
fn blue_green() -> Rollout {
    let empties = || empty(&Policy::default());
    rollout(&[
        ("cp1", Role::ControlPlane, keep_a_snapshot()),
        ("n1", Role::Worker, joins()),
        ("w1", Role::Worker, empties()),
        ("w2", Role::Worker, empties()),
    ])
}

fn due(rollout: &Rollout) -> Vec<(String, Purpose)> {
    let due = rollout.due(0).unwrap_or_default();
    due.into_iter().map(|(planned, purpose)| (planned.name.to_string(), purpose)).collect()
}

/// The next lease, which ends like that at this step.
fn lease(rollout: &Rollout, failure: Option<&str>, index: u32) -> Rollout {
    let (node, purpose) = due(rollout).into_iter().next().unwrap();
    let token = FencingToken(rollout.nodes.iter().map(token_of).max().unwrap_or(0) + 1);
    let lease = Lease { token, granted_at_ms: 0 };
    let (node, progress) = (name(&node), Progress { index, attempt: 1 });
    let rollout = rollout
        .after(&Event::LeaseGranted { node: node.clone(), lease, purpose, soak_time_ms: lease.granted_at_ms })
        .unwrap();
    let rollout = rollout.after(&Event::StepReported { node: node.clone(), token, progress }).unwrap();
    let failure = failure.map(str::to_owned);
    let end = Event::LeaseEnded { node, token, failure, timings: Timings::default(), at_ms: 9 };
    rollout.after(&end).unwrap()
}

fn token_of(state: &NodeState) -> u64 {
    match state {
        NodeState::Raised { lease, .. }
        | NodeState::Failed { lease, .. }
        | NodeState::ToRetry { lease, .. }
        | NodeState::ToRollBack { lease }
        | NodeState::RolledBack { lease, .. } => lease.token.0,
        _ => 0,
    }
}

fn after_leases(rollout: &Rollout, leases: usize) -> Rollout {
    (0..leases).fold(rollout.clone(), |rollout, _| lease(&rollout, None, 0))
}

fn back(rollout: &Rollout) -> Result<Rollout, TransitionError> {
    rollout.after(&Event::RollbackOrdered { node: None })
}

/// Who is leased on the way back, until nobody is.
fn way_back(mut rollout: Rollout) -> (Vec<String>, Phase) {
    let mut leased = Vec::new();
    while let Some((node, purpose)) = due(&rollout).into_iter().next() {
        assert_eq!(purpose, Purpose::RollBack);
        leased.push(node);
        rollout = lease(&rollout, None, 0);
    }
    (leased, rollout.phase())
}

#[test]
fn everybody_joins_before_anybody_leaves_and_memberships_are_ended_last() {
    let mut rollout = surge();
    let mut order = Vec::new();
    while let Some((node, _)) = due(&rollout).into_iter().next() {
        order.push(node);
        rollout = lease(&rollout, None, 0);
    }
    assert_eq!(order, ["n1", "n2", "w1", "w2", "cp1"]);
    assert_eq!(rollout.phase(), Phase::Raised);
}

#[test]
fn what_has_joined_leaves_again_and_its_membership_is_ended_after_it() {
    let failed = lease(&after_leases(&surge(), 2), Some("blocked"), 1);
    let (leased, phase) = way_back(back(&failed).unwrap());
    assert_eq!((leased, phase), (["w1", "n2", "n1", "cp1"].map(str::to_owned).to_vec(), Phase::RolledBack));
    let (plan, joined) = (&failed.plan, &failed.plan.nodes[0]);
    let names = |steps: Vec<Step>| steps.iter().map(Step::name).collect::<Vec<_>>();
    let (steps, told) = under_lease(plan, joined, Purpose::RollBack);
    assert_eq!((names(steps), told), (vec!["drain", "kubeadm-reset"], Purpose::Raise));
    let (steps, _) = under_lease(plan, &plan.nodes[4], Purpose::RollBack);
    assert_eq!(steps, [Step::DeleteNode { node: name("n1"), also: vec![name("n2")] }]);
    let (_, told) = under_lease(plan, &plan.nodes[2], Purpose::RollBack);
    assert_eq!(told, Purpose::RollBack, "its agent opens it again");
}

#[test]
fn a_rollback_that_failed_is_retried_as_a_rollback() {
    let failed = lease(&after_leases(&surge(), 1), Some("no"), 3);
    let failed = lease(&back(&failed).unwrap(), Some("blocked"), 0);
    assert!(matches!(failed.phase(), Phase::Halted { .. }));
    let again = failed.after(&Event::Retried { node: name("n2") }).unwrap();
    let (leased, phase) = way_back(again);
    assert_eq!((leased, phase), (["n2", "n1", "cp1"].map(str::to_owned).to_vec(), Phase::RolledBack));
}

#[test]
fn once_a_node_has_begun_to_leave_nothing_goes_back() {
    let reset = lease(&after_leases(&surge(), 2), Some("no"), 2);
    let why = back(&reset).unwrap_err().to_string();
    assert!(why.contains("w1 has left the cluster or begun to (kubeadm-reset on w1)"), "{why}");
    let retried = reset.after(&Event::Retried { node: name("w1") }).unwrap();
    assert_eq!(due(&retried), [("w1".to_owned(), Purpose::Raise)]);
    assert!(back(&after_leases(&surge(), 3)).is_err());
}

#[test]
fn a_machine_that_has_joined_is_not_taken_back_alone_and_a_node_that_was_drained_is_opened_alone() {
    let failed = lease(&after_leases(&surge(), 2), Some("blocked"), 1);
    let alone = |node: &str| failed.after(&Event::RollbackOrdered { node: Some(name(node)) });
    assert!(alone("n1").unwrap_err().to_string().contains("--cluster"));
    let opened = lease(&alone("w1").unwrap(), None, 0);
    assert!(matches!(opened.phase(), Phase::Halted { .. }), "the others wait for a word");
    assert_eq!(due(&opened), []);
}

#[test]
fn nodes_that_were_emptied_are_opened_before_those_that_joined_leave() {
    let mut emptied = after_leases(&blue_green(), 4);
    assert_eq!(emptied.phase(), Phase::Raised);
    emptied.leg.onward = vec![crate::core::leg::Stop::of(&surge().plan)];
    assert_eq!(emptied.phase(), Phase::BetweenStops);
    assert!(emptied.looking_at_new_nodes(9).is_some());
    assert!(emptied.looking_at_new_nodes(9 + 600_000).is_none());
    let (leased, phase) = way_back(back(&emptied).unwrap());
    assert_eq!((leased, phase), (["w2", "w1", "n1", "cp1"].map(str::to_owned).to_vec(), Phase::RolledBack));
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Lease(Option<u32>),
    Retry(usize),
    RollBack(Option<usize>),
    Pause,
    Resume,
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        4 => prop::option::weighted(0.3, 0_u32..5).prop_map(Word::Lease),
        2 => (0_usize..5).prop_map(Word::Retry),
        1 => prop::option::of(0_usize..5).prop_map(Word::RollBack),
        1 => Just(Word::Pause),
        1 => Just(Word::Resume),
    ]
}

proptest! {
    #[test]
    fn whatever_fails_and_is_ordered_no_node_is_deleted_that_has_not_left_and_there_is_never_one_too_few(
        green in any::<bool>(),
        words in prop::collection::vec(word(), 0..40),
    ) {
        let mut rollout = if green { blue_green() } else { surge() };
        // Who is in the cluster, and who is there with a kubelet of its own.
        let mut nodes: std::collections::BTreeSet<String> = ["w1", "w2"].map(str::to_owned).into();
        let mut running = nodes.clone();
        for word in words {
            let at = |index: usize| rollout.plan.nodes.get(index).map(|planned| planned.name.clone());
            match word {
                Word::Lease(failure) => {
                    let Some((node, purpose)) = due(&rollout).into_iter().next() else { continue };
                    let (planned, _) = rollout.node(&name(&node)).unwrap();
                    let (steps, _) = under_lease(&rollout.plan, planned, purpose);
                    let begun = failure.map_or(steps.len(), |at| usize::try_from(at).unwrap() + 1).min(steps.len());
                    let undoes = purpose == Purpose::RollBack && steps == planned.steps;
                    for step in steps.iter().take(begun).filter(|_| !undoes) {
                        match step {
                            Step::KubeadmJoin { .. } => {
                                nodes.insert(node.clone());
                                running.insert(node.clone());
                            }
                            Step::KubeadmReset { .. } => {
                                running.remove(&node);
                                prop_assert!(running.len() >= 2, "{running:?}");
                            }
                            Step::DeleteNode { node, also } => {
                                for node in std::iter::once(node).chain(also) {
                                    prop_assert!(!running.contains(node.as_str()), "{node} is deleted and has not left");
                                    nodes.remove(node.as_str());
                                }
                            }
                            _ => {}
                        }
                    }
                    let index = u32::try_from(begun.saturating_sub(1)).unwrap();
                    rollout = lease(&rollout, failure.map(|_| "no"), index);
                }
                Word::Retry(index) => {
                    let Some(node) = at(index) else { continue };
                    rollout = rollout.after(&Event::Retried { node }).unwrap_or(rollout);
                    let pending = rollout.plan.nodes.clone();
                    for planned in pending {
                        let event = Event::PrepareReported { node: planned.name, failure: None };
                        rollout = rollout.after(&event).unwrap();
                    }
                }
                Word::RollBack(index) => {
                    let node = index.and_then(at);
                    rollout = rollout.after(&Event::RollbackOrdered { node }).unwrap_or(rollout);
                }
                Word::Pause => rollout = rollout.after(&Event::Paused).unwrap_or(rollout),
                Word::Resume => rollout = rollout.after(&Event::Resumed).unwrap_or(rollout),
            }
        }
        match rollout.phase() {
            Phase::RolledBack => {
                let before: std::collections::BTreeSet<String> = ["w1", "w2"].map(str::to_owned).into();
                prop_assert_eq!(&nodes, &before);
                prop_assert_eq!(&running, &before);
            }
            Phase::Raised if !green => prop_assert_eq!(&nodes, &running),
            _ => {}
        }
    }
}
