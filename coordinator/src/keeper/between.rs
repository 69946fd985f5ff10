//! The gates that are asked again before each node: the roll-out waits while one is closed, and goes on by itself.

use std::collections::BTreeMap;

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::PlannedNode;
use liftlock_proto::v1;
use liftlock_proto::v1::coordinator_message::Message as Told;

use super::State;
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
    /// How often each control plane had reported when it was asked.
    asked: BTreeMap<NodeName, u64>,
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
        let answered = between.asked.iter().any(|(name, before)| self.answers(name) > *before);
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
            None => Hold::by_gates(planned.role, &situation, &rollout.plan.policy)
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
        let asked: BTreeMap<NodeName, u64> = names.map(|name| (name.clone(), self.answers(name))).collect();
        for name in asked.keys() {
            self.send(name, Told::FactsRequest(v1::FactsRequest { refresh_packages: false, pause_ms }));
        }
        self.keep_between(|between| between.asked = asked);
    }

    fn keep_between(&mut self, change: impl FnOnce(&mut Between)) {
        if let Some(between) = &mut self.between {
            change(between);
        }
    }
}
