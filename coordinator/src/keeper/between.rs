//! The gates that are asked again before each node: the roll-out waits while one is closed, and goes on by itself.

use std::collections::BTreeSet;

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::PlannedNode;

use super::State;
use super::facts::Asked;
use crate::core::gates::situation::Situation;
use crate::core::hold::Hold;
use crate::core::membership::Membership;
use crate::core::replacement;
use crate::core::rollout::Rollout;

/// How long a control plane waits before it looks again at what was not well, in milliseconds.
const LOOK_AGAIN_MS: u32 = 5000;

/// What came of asking last.
#[derive(Debug, Default)]
pub(super) struct Between {
    /// The lease after which the control planes were asked, and how many were held then; `None` before the first time.
    after: Option<(FencingToken, usize)>,
    /// The control planes that were asked.
    asked: Asked,
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
    pub(super) fn word_of_control_planes(&mut self, rollout: &Rollout, planned: &PlannedNode) -> Word {
        let Some(between) = &self.between else { return Word::Open };
        let last = Some((self.saved.fence, rollout.leased().count()));
        if between.after != last {
            self.ask_control_planes(rollout, 0);
            self.keep_between(|between| between.after = last);
            self.held = None;
            return Word::Awaited;
        }
        let asked = &between.asked;
        let answered = asked.nodes.iter().any(|name| self.facts_answer(name) >= asked.number);
        if !answered || !self.unanswered(&between.asked).is_empty() {
            return Word::Awaited;
        }
        let view = self.view();
        let situation = Situation::new(&view, rollout.plan.to_version).excusing(&rollout.taken_away());
        let hold = match Membership::of(&rollout.plan) {
            Some(membership) if rollout.goes_on_again(&planned.name) => {
                replacement::closed_again(&view, planned, &membership).map(Hold::Replacement)
            }
            Some(membership) => {
                replacement::closed_before(&view, &rollout.plan, planned, &membership).map(Hold::Replacement)
            }
            None => Hold::by_node(planned, &situation)
                .or_else(|| Hold::by_gates(planned.role, &situation, &rollout.plan.policy))
                .or_else(|| rollout.crowded(planned, &situation).map(Hold::Budget)),
        };
        let Some(hold) = hold else {
            return Word::Open;
        };
        self.ask_control_planes(rollout, LOOK_AGAIN_MS);
        Word::Closed(hold)
    }

    /// What the control planes said counts no more: time has gone by, or another roll-out begins.
    pub(super) fn ask_anew(&mut self) {
        self.keep_between(|between| *between = Between::default());
        self.held = None;
    }

    fn ask_control_planes(&mut self, rollout: &Rollout, pause_ms: u32) {
        // Those of the plan and those that it leaves out, because they run its version already.
        let reported = self.facts.iter().filter(|(_, reported)| reported.facts.control_plane);
        let planned = rollout.nodes().filter(|(planned, _)| planned.role.is_control_plane());
        let names = reported.map(|(name, _)| name).chain(planned.map(|(planned, _)| &planned.name));
        let nodes: BTreeSet<NodeName> = names.cloned().collect();
        let asked = Asked { number: self.ask(&nodes, false, pause_ms), nodes };
        self.keep_between(|between| between.asked = asked);
    }

    fn keep_between(&mut self, change: impl FnOnce(&mut Between)) {
        if let Some(between) = &mut self.between {
            change(between);
        }
    }
}
