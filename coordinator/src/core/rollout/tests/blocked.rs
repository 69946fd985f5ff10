//! A worker that cannot be drained and is passed over.

use super::*;

pub(super) fn blocked(index: usize, token: u64) -> Event {
    Event::DrainBlocked {
        node: name(index),
        token: FencingToken(token),
        failure: "a budget".to_owned(),
        timings: Timings::default(),
        at_ms: 9,
    }
}

/// The node that is next, and what for.
fn next(rollout: &Rollout) -> Option<(NodeName, Purpose)> {
    let due = rollout.due(0).ok()?;
    due.first().map(|(planned, purpose)| (planned.name.clone(), *purpose))
}

/// A control plane that is raised, and two workers, the first of which cannot be drained.
fn first_worker_blocked() -> Rollout {
    let ready = after(rollout(3), &[prepared(0), prepared(1), prepared(2)]);
    after(ready, &[granted(0, 1), ended(0, 1, None), granted(1, 2), blocked(1, 2)])
}

#[test]
fn a_worker_that_cannot_be_drained_is_put_back_and_the_others_are_raised() {
    let rollout = first_worker_blocked();
    assert_eq!(rollout.phase(), Phase::Running);
    assert_eq!(next(&rollout), Some((name(1), Purpose::RollBack)));
    assert_eq!(rollout.after(&blocked(1, 2)).unwrap(), rollout, "told again, it changes nothing");
    let rollout = after(rollout, &[granted_back(1, 3)]);
    assert_eq!(rollout.phase(), Phase::Running);
    let rollout = after(rollout, &[ended(1, 3, None)]);
    assert_eq!(next(&rollout), Some((name(2), Purpose::Raise)));
    let rollout = after(rollout, &[granted(2, 4), ended(2, 4, None)]);
    let Phase::Halted { reason } = rollout.phase() else { panic!("{:?}", rollout.phase()) };
    assert_eq!(reason, "raised, but for what could not be drained: n1 (a budget)");
    assert_eq!(rollout.ended_at_ms, None);
}

#[test]
fn what_was_passed_over_is_raised_by_a_retry_and_left_at_an_abort() {
    let done = after(
        first_worker_blocked(),
        &[granted_back(1, 3), ended(1, 3, None), granted(2, 4), ended(2, 4, None)],
    );
    let retried = after(done.clone(), &[Event::Retried { node: name(1) }, granted(1, 5), ended(1, 5, None)]);
    assert_eq!((retried.phase(), retried.quarantined.len()), (Phase::Raised, 0));
    assert_eq!(after(done.clone(), &[Event::Aborted { at_ms: 9 }]).phase(), Phase::Aborted);
    let again = after(done, &[Event::Retried { node: name(1) }, granted(1, 5), blocked(1, 5)]);
    assert_eq!(next(&again), Some((name(1), Purpose::RollBack)), "it may be passed over again");
}

#[test]
fn a_control_plane_is_not_passed_over_and_neither_is_anybody_after_an_abort() {
    let ready = after(rollout(2), &[prepared(0), prepared(1), granted(0, 1)]);
    let first = after(ready.clone(), &[blocked(0, 1)]);
    assert!(matches!(first.phase(), Phase::Halted { .. }) && first.quarantined.is_empty());
    let worker =
        after(ready, &[ended(0, 1, None), granted(1, 2), Event::Aborted { at_ms: 9 }, blocked(1, 2)]);
    assert_eq!((worker.phase(), worker.quarantined.len()), (Phase::Aborted, 0));
}

#[test]
fn one_that_cannot_be_put_back_halts_like_any_other() {
    let rollout = after(first_worker_blocked(), &[granted_back(1, 3), ended(1, 3, Some("no disk"))]);
    assert_eq!(rollout.phase(), Phase::Halted { reason: "n1: no disk".to_owned() });
}

#[test]
fn a_rollback_of_the_cluster_takes_those_that_were_passed_over_for_put_back() {
    let rollout = after(first_worker_blocked(), &[granted_back(1, 3), ended(1, 3, None), ROLL_BACK_ALL]);
    assert_eq!(rollout.phase(), Phase::RollingBack);
    let rollout = after(rollout, &[granted_back(0, 4), ended(0, 4, None)]);
    assert_eq!(rollout.phase(), Phase::RolledBack);
}

#[test]
fn where_all_that_was_tried_is_passed_over_the_roll_out_does_not_end() {
    let mut workers = rollout(3);
    workers.plan.nodes.remove(0);
    workers.nodes.remove(0);
    let rollout = after(
        workers,
        &[prepared(1), prepared(2), granted(1, 1), blocked(1, 1), granted_back(1, 2), ended(1, 2, None)],
    );
    assert_eq!(rollout.phase(), Phase::Running, "the other one is still to come");
}
