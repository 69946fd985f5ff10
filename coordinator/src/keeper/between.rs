//! The gates that are asked again before each node: the roll-out waits while one is closed, and goes on by itself.

use std::collections::BTreeSet;

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::PlannedNode;
use liftlock_proto::strategy::Part;

use super::State;
use super::facts::Asked;
use crate::clock::Clock;
use crate::core::gates::situation::Situation;
use crate::core::hold::Hold;
use crate::core::leg::Next;
use crate::core::membership::Membership;
use crate::core::replacement;
use crate::core::rollout::Rollout;

/// How long a control plane waits before it looks again at what was not well, in milliseconds.
const LOOK_AGAIN_MS: u32 = 5000;

/// How long control planes may take to say how things are before an operator is told that they are waited for, in milliseconds.
const LATE_MS: u64 = 60_000;

/// What came of asking last.
#[derive(Debug, Default)]
pub(super) struct Between {
    /// The lease after which the control planes were asked, and how many were held then; `None` before the first time.
    after: Option<(FencingToken, usize)>,
    /// The control planes that were asked.
    asked: Asked,
    /// When, by the clock that nobody sets.
    asked_at_ms: u64,
}

/// What the control planes say of the gates.
pub(super) enum Word {
    /// Not all of them have spoken yet.
    Awaited,
    /// A gate is closed.
    Closed(Hold),
    /// No gate is.
    Open,
}

impl State {
    /// What they say before this node: open where every connected control plane has said how things are since a lease began
    /// or ended, and no gate is closed. They are asked as far as they were not.
    pub(super) fn word_of_control_planes(
        &mut self,
        rollout: &Rollout,
        planned: &PlannedNode,
        clock: &dyn Clock,
    ) -> Word {
        let Some(between) = &self.between else { return Word::Open };
        let last = Some((self.saved.fence, rollout.leased().count()));
        if between.after != last {
            self.ask_control_planes(rollout, 0, clock);
            self.keep_between(|between| between.after = last);
            self.held = None;
            return Word::Awaited;
        }
        let late = clock.steady_ms().saturating_sub(between.asked_at_ms) >= LATE_MS;
        if let Some(silent) = self.silent_control_planes() {
            if late {
                self.held = Some(Hold::Silent(silent));
            }
            return Word::Awaited;
        }
        let view = self.view();
        let situation = Situation::new(&view, rollout.plan.to_version).excusing(&rollout.taken_away());
        let hold = match Membership::of(&rollout.plan) {
            Some(membership) if rollout.goes_on_again(&planned.name) => {
                replacement::closed_again(&view, planned, &membership).map(Hold::Replacement)
            }
            Some(membership) => {
                let counted_on = || {
                    let joined = self.joined_before(planned, &membership);
                    joined.iter().find_map(|with| replacement::takes_no_pods(&view, with, &planned.name))
                };
                let closed = replacement::closed_before(&view, &rollout.plan, planned, &membership);
                closed.or_else(counted_on).map(Hold::Replacement)
            }
            None => Hold::by_node(planned, &situation)
                .or_else(|| Hold::by_gates(planned.role, &situation, &rollout.plan.policy))
                .or_else(|| rollout.crowded(planned, &situation).map(Hold::Budget)),
        };
        let Some(hold) = hold else {
            return Word::Open;
        };
        self.ask_control_planes(rollout, LOOK_AGAIN_MS, clock);
        Word::Closed(hold)
    }

    /// The control planes that are connected and have been asked and have not said how things are; `None` where nobody is waited for.
    fn silent_control_planes(&self) -> Option<Vec<NodeName>> {
        let asked = &self.between.as_ref().filter(|between| between.after.is_some())?.asked;
        let answered = asked.nodes.iter().any(|name| self.facts_answer(name) >= asked.number);
        let silent = self.unanswered(asked);
        (!answered || !silent.is_empty()).then_some(silent)
    }

    /// Whether control planes are waited for.
    pub(super) fn waits_for_control_planes(&self) -> bool {
        self.silent_control_planes().is_some()
    }

    /// The machines that have joined by the plan before this one, where that only has nodes leave whose pods they took.
    fn joined_before(&self, planned: &PlannedNode, membership: &Membership) -> Vec<NodeName> {
        if planned.part() != Part::Leave || !membership.joins.is_empty() {
            return Vec::new();
        }
        let before =
            self.saved.newest().and_then(|(number, _)| self.saved.rollouts.get(&number.checked_sub(1)?));
        let before = before.filter(|before| before.leg.next == Next::Begun);
        before.and_then(|before| Membership::of(&before.plan)).unwrap_or_default().joins
    }

    /// What the control planes said counts no more: time has gone by, or another roll-out begins.
    pub(super) fn ask_anew(&mut self) {
        self.keep_between(|between| *between = Between::default());
        self.held = None;
    }

    fn ask_control_planes(&mut self, rollout: &Rollout, pause_ms: u32, clock: &dyn Clock) {
        // Those of the plan and those that it leaves out, because they run its version already.
        let reported = self.facts.iter().filter(|(_, reported)| reported.facts.control_plane);
        let planned = rollout.nodes().filter(|(planned, _)| planned.role.is_control_plane());
        let names = reported.map(|(name, _)| name).chain(planned.map(|(planned, _)| &planned.name));
        let nodes: BTreeSet<NodeName> = names.cloned().collect();
        let asked = Asked { number: self.ask(&nodes, false, pause_ms), nodes };
        let asked_at_ms = clock.steady_ms();
        self.keep_between(|between| *between = Between { asked, asked_at_ms, after: between.after });
    }

    fn keep_between(&mut self, change: impl FnOnce(&mut Between)) {
        if let Some(between) = &mut self.between {
            change(between);
        }
    }
}
