use std::collections::BTreeSet;

use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{Policy, Purpose, Role};
use liftlock_proto::version::KubernetesVersion;
use proptest::prelude::*;

use super::*;
use crate::core::decide::{self, Decision};
use crate::core::sequence::under_lease;

mod blocked;
mod ends;

fn name(index: usize) -> NodeName {
    format!("n{index}").parse().unwrap()
}

fn rollout(nodes: usize) -> Rollout {
    let to_version = KubernetesVersion::new(1, 20, 2);
    let node = |index| {
        let role = if index == 0 { Role::FirstControlPlane } else { Role::Worker };
        let steps = under_lease(role, to_version, &Policy::default(), None);
        PlannedNode {
            name: name(index),
            role,
            prepare: vec![],
            steps,
            place: None,
            packages: PackageSource::default(),
        }
    };
    let plan = Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: "0123456789ab".to_owned(),
        from_version: KubernetesVersion::new(1, 19, 7),
        to_version,
        nodes: (0..nodes).map(node).collect(),
        policy: Policy::default(),
        pools: Vec::new(),
    };
    Rollout::start(plan, "alice".to_owned(), 0)
}

fn lease(token: u64) -> Lease {
    Lease { token: FencingToken(token), granted_at_ms: 0 }
}

fn prepared(index: usize) -> Event {
    Event::PrepareReported { node: name(index), failure: None }
}

fn granted(index: usize, token: u64) -> Event {
    Event::LeaseGranted { node: name(index), lease: lease(token), purpose: Purpose::Raise, soak_time_ms: 0 }
}

fn granted_back(index: usize, token: u64) -> Event {
    Event::LeaseGranted {
        node: name(index),
        lease: lease(token),
        purpose: Purpose::RollBack,
        soak_time_ms: 0,
    }
}

fn found(index: usize, token: u64) -> Event {
    Event::LeaseFound { node: name(index), lease: lease(token) }
}

fn rollback(index: usize) -> Event {
    Event::RollbackOrdered { node: Some(name(index)) }
}

const ROLL_BACK_ALL: Event = Event::RollbackOrdered { node: None };

fn ended(index: usize, token: u64, failure: Option<&str>) -> Event {
    Event::LeaseEnded {
        node: name(index),
        token: FencingToken(token),
        failure: failure.map(str::to_owned),
        timings: Timings::default(),
        at_ms: 9,
    }
}

fn after(rollout: Rollout, events: &[Event]) -> Rollout {
    events.iter().fold(rollout, |rollout, event| rollout.after(event).unwrap())
}

fn decide(rollout: &Rollout, connected: &BTreeSet<NodeName>) -> Vec<Decision> {
    decide::decide(rollout, connected, 0)
}

fn all_connected(rollout: &Rollout) -> BTreeSet<NodeName> {
    rollout.plan.nodes.iter().map(|node| node.name.clone()).collect()
}

#[test]
fn no_lease_is_granted_before_every_node_is_prepared() {
    let one = after(rollout(2), &[prepared(0)]);
    assert_eq!(one.phase(), Phase::Preparing);
    assert!(one.after(&granted(0, 1)).is_err());
    let both = after(one, &[prepared(1)]);
    assert_eq!(both.phase(), Phase::Running);
    assert!(both.after(&granted(0, 1)).is_ok());
}

#[test]
fn nodes_are_leased_in_the_order_of_the_plan_and_one_at_a_time() {
    let ready = after(rollout(2), &[prepared(0), prepared(1)]);
    assert!(ready.after(&granted(1, 1)).is_err());
    let first = after(ready, &[granted(0, 1)]);
    assert!(first.after(&granted(1, 2)).is_err());
    let second = after(first, &[ended(0, 1, None), granted(1, 2), ended(1, 2, None)]);
    assert_eq!(second.phase(), Phase::Raised);
    assert_eq!(second.ended_at_ms, Some(9));
}

#[test]
fn a_silent_holder_keeps_its_lease() {
    let held = after(rollout(2), &[prepared(0), prepared(1), granted(0, 1)]);
    let others: BTreeSet<NodeName> = [name(1)].into();
    assert_eq!(decide(&held, &others), []);
    assert_eq!(
        decide(&held, &all_connected(&held)),
        [Decision::Resume { node: name(0), lease: lease(1), purpose: Purpose::Raise }]
    );
}

#[test]
fn a_report_under_an_earlier_lease_changes_nothing() {
    let failed = after(rollout(1), &[prepared(0), granted(0, 1), ended(0, 1, Some("no disk"))]);
    assert_eq!(failed.phase(), Phase::Halted { reason: "n0: no disk".to_owned() });
    let again = after(failed, &[Event::Retried { node: name(0) }, granted(0, 2)]);
    assert!(matches!(again.after(&ended(0, 1, None)), Err(TransitionError::StaleToken { .. })));
    let step = Event::StepReported {
        node: name(0),
        token: FencingToken(1),
        progress: Progress { index: 1, attempt: 1 },
    };
    assert!(matches!(again.after(&step), Err(TransitionError::StaleToken { .. })));
}

#[test]
fn a_lease_end_that_is_sent_again_changes_nothing() {
    let raised = after(rollout(2), &[prepared(0), prepared(1), granted(0, 1), ended(0, 1, None)]);
    assert_eq!(raised.after(&ended(0, 1, None)), Ok(raised.clone()));
    assert_eq!(raised.after(&ended(0, 1, Some("late"))), Ok(raised));
}

#[test]
fn a_paused_roll_out_finishes_its_node_and_starts_no_other() {
    let paused =
        after(rollout(2), &[prepared(0), prepared(1), granted(0, 1), Event::Paused, ended(0, 1, None)]);
    assert_eq!(paused.phase(), Phase::Paused);
    assert!(decide(&paused, &all_connected(&paused)).is_empty());
    let resumed = after(paused, &[Event::Resumed]);
    assert_eq!(
        decide(&resumed, &all_connected(&resumed)),
        [Decision::Grant { node: name(1), purpose: Purpose::Raise }]
    );
}

#[test]
fn an_aborted_roll_out_ends_once_its_node_has() {
    let aborting = after(rollout(2), &[prepared(0), prepared(1), granted(0, 1), Event::Aborted { at_ms: 5 }]);
    assert_eq!(aborting.phase(), Phase::Aborting);
    assert_eq!(aborting.ended_at_ms, None);
    let aborted = after(aborting, &[ended(0, 1, None)]);
    assert_eq!(aborted.phase(), Phase::Aborted);
    assert_eq!(aborted.ended_at_ms, Some(9));
    assert!(matches!(aborted.after(&Event::Resumed), Err(TransitionError::Final { .. })));
}

#[test]
fn a_node_that_could_not_prepare_halts_before_anything_was_touched() {
    let failure = Some("no space".to_owned());
    let halted = after(rollout(2), &[prepared(0), Event::PrepareReported { node: name(1), failure }]);
    assert_eq!(halted.phase(), Phase::Halted { reason: "n1: no space".to_owned() });
    let retried = after(halted, &[Event::Retried { node: name(1) }]);
    assert_eq!(decide(&retried, &all_connected(&retried)), [Decision::Prepare { node: name(1) }]);
}

#[test]
fn a_node_that_failed_under_its_lease_is_leased_again_without_being_prepared_again() {
    let failed = after(rollout(1), &[prepared(0), granted(0, 1), ended(0, 1, Some("no disk"))]);
    let retried = after(failed, &[Event::Retried { node: name(0) }]);
    assert_eq!(
        decide(&retried, &all_connected(&retried)),
        [Decision::Grant { node: name(0), purpose: Purpose::Raise }]
    );
}

/// Three nodes: the first raised, the second failed, the third untouched.
fn failed_in_the_middle() -> Rollout {
    let lease_by_lease = [granted(0, 1), ended(0, 1, None), granted(1, 2), ended(1, 2, Some("no disk"))];
    after(after(rollout(3), &[prepared(0), prepared(1), prepared(2)]), &lease_by_lease)
}

#[test]
fn a_failed_node_is_rolled_back_and_may_be_raised_again() {
    let ordered = after(failed_in_the_middle(), &[rollback(1)]);
    assert_eq!(ordered.phase(), Phase::RollingBack);
    let due = Decision::Grant { node: name(1), purpose: Purpose::RollBack };
    assert_eq!(decide(&ordered, &all_connected(&ordered)), [due]);
    assert!(ordered.after(&granted(1, 3)).is_err(), "a lease to raise is another one");
    let back = after(ordered, &[granted_back(1, 3), ended(1, 3, None)]);
    let reason = "n1 was rolled back, and others run v1.20.2".to_owned();
    assert_eq!(back.phase(), Phase::Halted { reason });
    assert!(decide(&back, &all_connected(&back)).is_empty(), "nobody goes on without a word");
    let again = after(back, &[Event::Retried { node: name(1) }, granted(1, 4), ended(1, 4, None)]);
    assert_eq!(again.phase(), Phase::Running);
}

#[test]
fn the_cluster_is_rolled_back_from_the_last_node_to_the_first_and_that_is_final() {
    let mut back = after(failed_in_the_middle(), &[ROLL_BACK_ALL]);
    for (index, token) in [(1, 3), (0, 4)] {
        let due = Decision::Grant { node: name(index), purpose: Purpose::RollBack };
        assert_eq!(decide(&back, &all_connected(&back)), [due]);
        assert!(!back.is_final());
        back = after(back, &[granted_back(index, token), ended(index, token, None)]);
    }
    assert_eq!(back.phase(), Phase::RolledBack);
    assert_eq!(back.ended_at_ms, Some(9));
    assert!(matches!(back.after(&ROLL_BACK_ALL), Err(TransitionError::Final { .. })));
}

/// The same, with what the policy says of a failure.
fn failed_under(policy: OnFailure, reached: &'static str) -> Rollout {
    let mut start = after(rollout(3), &[prepared(0), prepared(1), prepared(2)]);
    start.plan.policy.on_failure = policy;
    let index = start.plan.nodes[1].steps.iter().position(|step| step.name() == reached).unwrap();
    let progress = Progress { index: u32::try_from(index).unwrap(), attempt: 1 };
    let began = Event::StepReported { node: name(1), token: FencingToken(2), progress };
    let events = [granted(0, 1), ended(0, 1, None), granted(1, 2), began, ended(1, 2, Some("no disk"))];
    after(start, &events)
}

#[test]
fn a_node_that_failed_for_good_is_rolled_back_where_the_policy_says_so_and_then_an_operator_is_asked() {
    let failed = failed_under(OnFailure::RollBackNode, "drain");
    assert_eq!(failed.phase(), Phase::RollingBack);
    let due = Decision::Grant { node: name(1), purpose: Purpose::RollBack };
    assert_eq!(decide(&failed, &all_connected(&failed)), [due]);
    let back = after(failed, &[granted_back(1, 3), ended(1, 3, None)]);
    let reason = "n1 was rolled back (n1: no disk), and others run v1.20.2".to_owned();
    assert_eq!(back.phase(), Phase::Halted { reason });
}

#[test]
fn the_cluster_is_rolled_back_where_the_policy_says_so() {
    let failed = failed_under(OnFailure::RollBackCluster, "drain");
    let events = [granted_back(1, 3), ended(1, 3, None), granted_back(0, 4), ended(0, 4, None)];
    let back = after(failed, &events);
    assert_eq!((back.phase(), back.answered.as_deref()), (Phase::RolledBack, Some("n1: no disk")));
}

#[test]
fn a_rollback_by_policy_that_fails_is_not_answered_with_another() {
    let failed = failed_under(OnFailure::RollBackNode, "drain");
    let twice = after(failed, &[granted_back(1, 3), ended(1, 3, Some("no files"))]);
    assert_eq!(twice.phase(), Phase::Halted { reason: "n1: no files".to_owned() });
}

#[test]
fn where_etcd_has_moved_on_no_policy_and_no_order_puts_a_control_plane_back() {
    let mut start = after(rollout(3), &[prepared(0), prepared(1), prepared(2)]);
    start.plan.policy.on_failure = OnFailure::RollBackNode;
    (start.plan.from_version, start.plan.to_version) =
        ("v1.21.1".parse().unwrap(), "v1.22.0".parse().unwrap());
    let upgrade =
        start.plan.nodes[0].steps.iter().position(|step| step.name().starts_with("kubeadm-upgrade"));
    let progress = Progress { index: u32::try_from(upgrade.unwrap()).unwrap(), attempt: 1 };
    let began = Event::StepReported { node: name(0), token: FencingToken(1), progress };
    let failed = after(start, &[granted(0, 1), began, ended(0, 1, Some("no disk"))]);
    assert_eq!(failed.phase(), Phase::Halted { reason: "n0: no disk".to_owned() });
    let Err(TransitionError::NotToRollBack { why, .. }) = failed.after(&rollback(0)) else { panic!() };
    assert!(why.contains("etcd") && why.contains("liftlock retry"), "{why}");
}

#[test]
fn where_a_system_was_replaced_no_policy_and_no_order_puts_the_node_back() {
    let mut start = rollout(2);
    start.plan.policy.on_failure = OnFailure::RollBackNode;
    for node in &mut start.plan.nodes {
        let command = ["/usr/local/sbin/replace-system".to_owned()];
        node.steps = under_lease(node.role, start.plan.to_version, &start.plan.policy, Some(&command));
    }
    let start = after(start, &[prepared(0), prepared(1), granted(0, 1)]);
    let failed_at = |step: &str| {
        let index = start.plan.nodes[0].steps.iter().position(|planned| planned.name() == step).unwrap();
        let progress = Progress { index: u32::try_from(index).unwrap(), attempt: 1 };
        let began = Event::StepReported { node: name(0), token: FencingToken(1), progress };
        after(start.clone(), &[began, ended(0, 1, Some("no kubelet"))])
    };
    let replaced = failed_at("verify-node");
    assert_eq!(replaced.phase(), Phase::Halted { reason: "n0: no kubelet".to_owned() });
    let Err(TransitionError::NotToRollBack { why, .. }) = replaced.after(&rollback(0)) else { panic!() };
    assert!(why.contains("replaced as a whole") && why.contains("liftlock retry"), "{why}");
    let before = failed_at("redeploy");
    assert_eq!(before.phase(), Phase::RollingBack, "its agent knows whether the command came to anything");
}

#[test]
fn a_node_that_waits_to_be_tried_again_is_rolled_back_with_the_others() {
    let paused = after(failed_in_the_middle(), &[Event::Paused, Event::Retried { node: name(1) }]);
    let back = after(paused, &[ROLL_BACK_ALL, granted_back(1, 3), ended(1, 3, None)]);
    assert!(!back.is_final(), "the first is still raised");
    let back = after(back, &[granted_back(0, 4), ended(0, 4, None)]);
    assert_eq!(back.phase(), Phase::RolledBack);
}

#[test]
fn a_roll_out_does_not_end_rolled_back_while_a_node_that_failed_waits_to_be_tried_again() {
    let ordered =
        after(failed_in_the_middle(), &[ROLL_BACK_ALL, granted_back(1, 3), ended(1, 3, Some("no"))]);
    let retried = after(ordered, &[Event::Retried { node: name(1) }, granted_back(0, 4), ended(0, 4, None)]);
    assert!(matches!(retried.phase(), Phase::Halted { .. }), "{:?}", retried.phase());
    let again = after(retried, &[ROLL_BACK_ALL, granted_back(1, 5), ended(1, 5, None)]);
    assert_eq!(again.phase(), Phase::RolledBack);
}

#[test]
fn a_rollback_that_fails_halts_until_an_operator_speaks() {
    let failed =
        after(failed_in_the_middle(), &[ROLL_BACK_ALL, granted_back(1, 3), ended(1, 3, Some("no files"))]);
    assert_eq!(failed.phase(), Phase::Halted { reason: "n1: no files".to_owned() });
    assert!(decide(&failed, &all_connected(&failed)).is_empty());
    let again = after(failed, &[ROLL_BACK_ALL]);
    let due = Decision::Grant { node: name(1), purpose: Purpose::RollBack };
    assert_eq!(decide(&again, &all_connected(&again)), [due]);
}

#[test]
fn a_node_is_not_rolled_back_under_others_nor_under_a_lease_nor_untouched() {
    let failed = failed_in_the_middle();
    for (event, word) in [(rollback(0), "n1 comes after it"), (rollback(2), "nothing was changed")] {
        let refused = failed.after(&event).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let held = after(rollout(2), &[prepared(0), prepared(1), granted(0, 1)]);
    let refused = held.after(&ROLL_BACK_ALL).unwrap_err().to_string();
    assert!(refused.contains("holds lease 1"), "{refused}");
}

#[test]
fn only_what_failed_is_retried() {
    let running = after(rollout(1), &[prepared(0), granted(0, 1)]);
    assert!(matches!(
        running.after(&Event::Retried { node: name(0) }),
        Err(TransitionError::NotFailed { .. })
    ));
    let unknown = Event::Retried { node: name(7) };
    assert!(matches!(running.after(&unknown), Err(TransitionError::UnknownNode { .. })));
}

#[test]
fn a_node_that_had_a_lease_which_the_store_lost_is_leased_again_and_not_passed_over_by_a_rollback() {
    let lost = after(rollout(2), &[prepared(0), prepared(1), granted(0, 1), found(1, 3)]);
    let raised = after(lost.clone(), &[ended(0, 1, None)]);
    let due = |rollout: &Rollout| -> Vec<(NodeName, Purpose)> {
        let due = rollout.due(0).unwrap();
        due.into_iter().map(|(planned, purpose)| (planned.name.clone(), purpose)).collect()
    };
    assert_eq!(due(&raised), [(name(1), Purpose::Raise)]);
    let back = after(lost.clone(), &[ended(0, 1, Some("it broke")), ROLL_BACK_ALL]);
    assert_eq!(due(&back), [(name(1), Purpose::RollBack)], "the last one in the order comes first");

    let known = after(raised, &[granted(1, 4), ended(1, 4, None)]);
    assert_eq!(after(known.clone(), &[found(0, 2)]), known, "nothing changes what has ended");
    assert_eq!(after(lost.clone(), &[found(0, 2)]), lost, "what is known to be changed already");
    let stranger = lost.after(&found(7, 2));
    assert!(matches!(stranger, Err(TransitionError::UnknownNode { .. })));
}

/// A roll-out to the first of two stops.
fn on_the_way(nodes: usize) -> Rollout {
    let first = rollout(nodes);
    let leg = Leg::first(std::slice::from_ref(&first.plan));
    first.on(leg)
}

/// The same, with every node raised.
fn at_the_stop() -> Rollout {
    let raised = after(on_the_way(1), &[prepared(0), granted(0, 1), ended(0, 1, None)]);
    assert_eq!((raised.phase(), raised.ended_at_ms), (Phase::BetweenStops, None));
    assert!(decide(&raised, &all_connected(&raised)).is_empty(), "no backup goes before the path has ended");
    raised
}

#[test]
fn a_stop_that_is_reached_is_final_once_the_next_has_begun() {
    let begun = after(at_the_stop(), &[Event::NextStopBegun { at_ms: 12 }]);
    assert_eq!((begun.phase(), begun.ended_at_ms), (Phase::Raised, Some(12)));
    assert!(matches!(begun.after(&Event::NextStopBegun { at_ms: 13 }), Err(TransitionError::Final { .. })));
    assert_eq!(
        (begun.leg.stops(), begun.leg.following().stop, begun.leg.following().onward.len()),
        (2, 2, 0)
    );
}

#[test]
fn a_next_stop_begins_only_where_every_node_is_raised_and_nobody_said_otherwise() {
    let begins = Event::NextStopBegun { at_ms: 12 };
    let halted = Event::NextStopRefused { why: "w9 has joined".to_owned() };
    assert!(after(on_the_way(1), &[prepared(0), granted(0, 1)]).after(&begins).is_err());
    assert!(after(at_the_stop(), &[Event::Paused]).after(&begins).is_err());
    assert!(after(at_the_stop(), &[Event::Paused, Event::Resumed]).after(&begins).is_ok());
    let halted = after(at_the_stop(), &[halted]);
    assert_eq!(halted.phase(), Phase::Halted { reason: "w9 has joined".to_owned() });
    assert!(halted.after(&begins).is_err());
    assert!(after(halted.clone(), &[Event::Resumed]).after(&begins).is_ok(), "what spoke against it is over");
    assert_eq!(after(halted, &[Event::Aborted { at_ms: 13 }]).phase(), Phase::Aborted);
    let last = after(rollout(1), &[prepared(0), granted(0, 1), ended(0, 1, None)]);
    assert!(last.after(&begins).is_err(), "there is no next stop");
}

#[test]
fn what_was_raised_at_a_stop_stays() {
    let refused = at_the_stop().after(&ROLL_BACK_ALL).unwrap_err().to_string();
    assert!(refused.contains("what was raised at a stop of a path stays"), "{refused}");
    let failed = after(on_the_way(1), &[prepared(0), granted(0, 1), ended(0, 1, Some("no disk"))]);
    let back = after(failed, &[ROLL_BACK_ALL, granted_back(0, 2), ended(0, 2, None)]);
    assert_eq!(back.phase(), Phase::RolledBack, "the stop at hand is put back, and the path has ended");
}

fn any_event() -> impl Strategy<Value = Event> {
    let node = 0..4usize;
    let failure = prop_oneof![Just(None), Just(Some("it broke"))];
    prop_oneof![
        4 => (node.clone(), failure.clone()).prop_map(|(node, failure)| Event::PrepareReported {
            node: name(node),
            failure: failure.map(str::to_owned)
        }),
        4 => (node.clone(), 0..9u64).prop_map(|(node, token)| granted(node, token)),
        4 => (node.clone(), 0..9u64, failure).prop_map(|(node, token, failure)| ended(node, token, failure)),
        1 => (node.clone(), 0..9u64).prop_map(|(node, token)| found(node, token)),
        2 => (node.clone(), 0..9u64).prop_map(|(node, token)| blocked::blocked(node, token)),
        1 => (node.clone(), 0..9u64).prop_map(|(node, token)| Event::HolderDismissed {
            node: name(node),
            token: FencingToken(token),
            at_ms: 9
        }),
        1 => Just(Event::Paused),
        2 => Just(Event::Resumed),
        1 => Just(Event::Aborted { at_ms: 1 }),
        2 => node.clone().prop_map(|node| Event::Retried { node: name(node) }),
        1 => prop::option::of(node.clone()).prop_map(|node| Event::RollbackOrdered { node: node.map(name) }),
        3 => (node, 0..9u64).prop_map(|(node, token)| granted_back(node, token)),
        1 => Just(Event::NextStopBegun { at_ms: 2 }),
        1 => Just(Event::NextStopRefused { why: "another plan".to_owned() }),
    ]
}

proptest! {
    #[test]
    fn no_order_of_events_leases_two_nodes_or_changes_a_final_roll_out(
        events in proptest::collection::vec(any_event(), 0..60), last_stop in any::<bool>(),
    ) {
        let mut rollout = if last_stop { rollout(3) } else { on_the_way(3) };
        for event in events {
            let was_final = rollout.is_final();
            let before = rollout.phase();
            if let Ok(next) = rollout.after(&event) {
                rollout = next;
            }
            let leased = rollout.nodes.iter().filter(|state| state.lease().is_some()).count();
            prop_assert!(leased <= 1);
            prop_assert!(!was_final || rollout.phase() == before);
            let connected = all_connected(&rollout);
            prop_assert!(rollout.dismissed.is_empty() || rollout.due(0).is_err(), "nothing goes on by itself");
            let grants = decide(&rollout, &connected).into_iter().filter(|d| matches!(d, Decision::Grant { .. })).count();
            prop_assert!(grants + leased <= 1);
        }
    }
}
