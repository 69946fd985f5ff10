//! Holders that are dismissed: an operator takes the certificate of a node back while it holds a lease. The lease ends, but
//! what was begun there may go on all the same, and nobody would hear of it. So the operator has to say first that the
//! machine is off or cut off, and afterwards nothing is begun, by no policy and no budget, until somebody has said what
//! follows.

use liftlock_proto::name::{FencingToken, NodeName};

use crate::core::rollout::{Rollout, Timings, TransitionError};

impl Rollout {
    /// Ends the lease of a holder that is not let in any more, as a failed one.
    pub(super) fn dismiss(
        &mut self,
        node: &NodeName,
        token: FencingToken,
        at_ms: u64,
    ) -> Result<(), TransitionError> {
        let held = self.node(node).and_then(|(_, state)| state.lease());
        if held.is_some_and(|lease| lease.token == token) {
            self.dismissed.insert(node.clone());
        }
        self.end_lease(node, token, Some(&failure(node, token)), Timings::default(), at_ms)
    }
}

/// What is said of a holder that was dismissed.
pub fn failure(node: &NodeName, token: FencingToken) -> String {
    format!(
        "its certificate was taken back while it held lease {token}, and how far it came is not known: nothing is begun \
         before you say what follows; `liftlock retry {node}` or `liftlock rollback --node {node}` once it is enrolled again, \
         `liftlock resume` to go on without it as far as the failure budget allows, or `liftlock abort`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::budget::tests::{pool, rollout};
    use crate::core::rollout::{Event, Lease, Phase};
    use liftlock_proto::plan::Purpose;

    fn dismissed(node: &str, token: u64) -> Event {
        Event::HolderDismissed { node: node.parse().unwrap(), token: FencingToken(token), at_ms: 9 }
    }

    fn granted(node: &str, token: u64) -> Event {
        let lease = Lease { token: FencingToken(token), granted_at_ms: 0 };
        Event::LeaseGranted { node: node.parse().unwrap(), lease, purpose: Purpose::Raise, soak_time_ms: 0 }
    }

    fn after(rollout: Rollout, events: &[Event]) -> Rollout {
        events.iter().fold(rollout, |rollout, event| rollout.after(event).unwrap())
    }

    fn due(rollout: &Rollout) -> Vec<&str> {
        let due = rollout.due(0).unwrap_or_default();
        due.into_iter().map(|(planned, _)| planned.name.as_str()).collect()
    }

    #[test]
    fn a_failure_budget_lets_nobody_go_on_past_a_dismissed_holder_before_an_operator_says_so() {
        let start = rollout(&["w1@gpu", "w2@gpu", "w3@gpu"], vec![pool("gpu", 2)], 2);
        let halted = after(start, &[granted("w1", 1), dismissed("w1", 1)]);
        assert!(matches!(halted.phase(), Phase::Halted { reason } if reason.contains("held lease 1")));
        assert_eq!(due(&halted), [] as [&str; 0]);
        assert!(halted.after(&granted("w2", 2)).is_err());
        let resumed = after(halted, &[Event::Resumed]);
        assert_eq!((resumed.phase(), due(&resumed)), (Phase::Running, vec!["w2"]));
        assert!(resumed.after(&Event::Resumed).is_err(), "it is not paused");
    }

    #[test]
    fn what_is_under_lease_beside_a_dismissed_holder_ends_and_is_answered_by_no_policy() {
        let start = rollout(&["w1@gpu", "w2@gpu", "w3@gpu"], vec![pool("gpu", 2)], 0);
        let mut both = after(start, &[granted("w1", 1), granted("w2", 2)]);
        both.plan.policy.on_failure = liftlock_proto::plan::OnFailure::RollBackNode;
        let ended = Event::LeaseEnded {
            node: "w2".parse().unwrap(),
            token: FencingToken(2),
            failure: Some("it broke".to_owned()),
            timings: Timings::default(),
            at_ms: 10,
        };
        let halted = after(both, &[dismissed("w1", 1), ended]);
        assert!(matches!(halted.phase(), Phase::Halted { .. }));
        assert_eq!((due(&halted), halted.answered.as_deref()), (vec![], None));
    }

    #[test]
    fn a_dismissal_of_another_lease_than_the_present_one_is_refused() {
        let held = after(rollout(&["w1@gpu"], vec![pool("gpu", 1)], 0), &[granted("w1", 2)]);
        assert!(held.after(&dismissed("w1", 1)).is_err());
        assert!(held.after(&dismissed("w7", 2)).is_err());
    }
}
