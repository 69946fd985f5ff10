//! Which nodes are to carry the taint that says that they are not raised yet.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;

use crate::core::leg::Stop;
use crate::core::membership::Membership;
use crate::core::rollout::{NodeState, Phase, Rollout};

/// The nodes that the scheduler is to prefer others to: those that are not raised, from the first one on that is, until the
/// roll-out ends or nodes are put back. Control planes among them: some pods, `CoreDNS`'s among these, run there, too.
///
/// Before any node is raised a mark on all of them would say nothing.
pub fn to_mark(rollout: &Rollout) -> BTreeSet<NodeName> {
    if let Some(membership) = Membership::of(&rollout.plan) {
        return still_to_go(rollout, &membership);
    }
    let raised = |state: &NodeState| matches!(state, NodeState::Raised { .. });
    let goes_on = match rollout.phase() {
        Phase::Preparing | Phase::Running | Phase::Paused | Phase::Halted { .. } | Phase::Aborting => true,
        Phase::BetweenStops | Phase::Raised | Phase::Aborted | Phase::RollingBack | Phase::RolledBack => {
            false
        }
    };
    if !goes_on || !rollout.nodes.iter().any(raised) {
        return BTreeSet::new();
    }
    rollout.nodes().filter(|(_, state)| !raised(state)).map(|(planned, _)| planned.name.clone()).collect()
}

/// Where machines take nodes' places: the nodes that are still to be emptied or to leave, by this plan or by one that follows, so
/// that a pod is moved once. Between two such plans too.
fn still_to_go(rollout: &Rollout, membership: &Membership) -> BTreeSet<NodeName> {
    let goes_on = match rollout.phase() {
        Phase::Raised | Phase::Aborted | Phase::RollingBack | Phase::RolledBack => false,
        Phase::Preparing
        | Phase::Running
        | Phase::Paused
        | Phase::Halted { .. }
        | Phase::Aborting
        | Phase::BetweenStops => true,
    };
    if !goes_on {
        return BTreeSet::new();
    }
    let gone = |state: &NodeState| matches!(state, NodeState::Raised { .. });
    let here = rollout.nodes().filter(|(planned, state)| membership.goes(&planned.name) && !gone(state));
    let later = rollout.leg.onward.iter().filter_map(Stop::membership);
    let later = later.flat_map(|membership| [membership.empties, membership.leaves].concat());
    let nodes: BTreeSet<NodeName> = here.map(|(planned, _)| planned.name.clone()).chain(later).collect();
    // A machine that has left may take another's place later: it has no Node now.
    nodes.into_iter().filter(|name| rollout.node(name).is_none_or(|(_, state)| !gone(state))).collect()
}

#[cfg(test)]
mod tests {
    use liftlock_proto::name::FencingToken;
    use liftlock_proto::packages::PackageSource;
    use liftlock_proto::plan::{Plan, PlannedNode, Policy, Purpose, Role};
    use liftlock_proto::version::KubernetesVersion;

    use super::*;
    use crate::core::rollout::{Event, Lease, Timings};

    const NODES: [(&str, Role); 3] =
        [("cp1", Role::FirstControlPlane), ("w1", Role::Worker), ("w2", Role::Worker)];

    fn name(index: usize) -> NodeName {
        NODES[index].0.parse().unwrap()
    }

    fn after(rollout: Rollout, events: &[Event]) -> Rollout {
        events.iter().fold(rollout, |rollout, event| rollout.after(event).unwrap())
    }

    fn prepared() -> Rollout {
        let node = |(name, role): (&str, Role)| PlannedNode {
            name: name.parse().unwrap(),
            role,
            place: None,
            packages: PackageSource::default(),
            prepare: vec![],
            steps: vec![],
        };
        let plan = Plan {
            id: "p-0123456789ab".parse().unwrap(),
            hash: "0123456789ab".to_owned(),
            from_version: KubernetesVersion::new(1, 19, 7),
            to_version: KubernetesVersion::new(1, 20, 2),
            nodes: NODES.map(node).to_vec(),
            policy: Policy::default(),
            pools: vec![],
        };
        let prepared = |index| Event::PrepareReported { node: name(index), failure: None };
        after(Rollout::start(plan, "alice".to_owned(), 0), &[0, 1, 2].map(prepared))
    }

    fn granted(index: usize, token: u64, purpose: Purpose) -> Event {
        let lease = Lease { token: FencingToken(token), granted_at_ms: 0 };
        Event::LeaseGranted { node: name(index), lease, purpose, soak_time_ms: 0 }
    }

    fn ended(index: usize, token: u64, failure: Option<&str>) -> Event {
        let (token, failure) = (FencingToken(token), failure.map(str::to_owned));
        Event::LeaseEnded { node: name(index), token, failure, timings: Timings::default(), at_ms: 9 }
    }

    fn raised(index: usize, token: u64) -> [Event; 2] {
        [granted(index, token, Purpose::Raise), ended(index, token, None)]
    }

    fn marked(rollout: &Rollout) -> Vec<String> {
        to_mark(rollout).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn from_the_first_raised_node_on_those_that_are_not_are_marked_until_they_are() {
        let mut rollout = after(prepared(), &[granted(0, 1, Purpose::Raise)]);
        assert_eq!(marked(&rollout), [""; 0], "there is nothing to prefer yet");
        rollout = after(rollout, &[ended(0, 1, None)]);
        assert_eq!(marked(&rollout), ["w1", "w2"]);
        rollout = after(rollout, &[granted(1, 2, Purpose::Raise)]);
        assert_eq!(marked(&rollout), ["w1", "w2"], "it is no place to go to yet");
        rollout = after(rollout, &[ended(1, 2, None)]);
        assert_eq!(marked(&rollout), ["w2"]);
        rollout = after(rollout, &[Event::Paused]);
        assert_eq!(marked(&rollout), ["w2"], "it goes on");
        rollout = after(rollout, &[Event::Resumed]);
        rollout = after(rollout, &raised(2, 3));
        assert_eq!(marked(&rollout), [""; 0]);
    }

    #[test]
    fn nobody_is_marked_at_any_end_nor_while_nodes_are_put_back() {
        let half = after(prepared(), &raised(0, 1));
        let aborted = after(half.clone(), &[Event::Aborted { at_ms: 9 }]);
        assert_eq!(marked(&aborted), [""; 0]);
        let aborting = after(half.clone(), &[granted(1, 2, Purpose::Raise), Event::Aborted { at_ms: 9 }]);
        assert_eq!(marked(&aborting), ["w1", "w2"], "w1 goes on to its end");
        let failed = after(half, &[granted(1, 2, Purpose::Raise), ended(1, 2, Some("no"))]);
        assert_eq!(marked(&failed), ["w1", "w2"], "an operator may say retry");
        let back = after(failed, &[Event::RollbackOrdered { node: None }]);
        assert_eq!(marked(&back), [""; 0]);
        let back = after(back, &[granted(1, 3, Purpose::RollBack), ended(1, 3, None)]);
        let back = after(back, &[granted(0, 4, Purpose::RollBack), ended(0, 4, None)]);
        assert_eq!(back.phase(), Phase::RolledBack);
        assert_eq!(marked(&back), [""; 0]);
    }
}
