//! The gates that are asked again before each node: the roll-out waits while one is closed, and goes on by itself.

use std::collections::BTreeMap;

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::v1;
use liftlock_proto::v1::coordinator_message::Message as Told;

use super::State;
use crate::core::gates::closed_before;
use crate::core::gates::situation::Situation;
use crate::core::replacement;
use crate::core::rollout::{NodeState, Rollout};

/// How long a control plane waits before it looks again at what was not well, in milliseconds.
const LOOK_AGAIN_MS: u32 = 5000;

/// What came of asking last.
#[derive(Debug, Default)]
pub(super) struct Between {
    /// The lease after which the control planes were asked, and how many were held then; `None` before the first time.
    after: Option<(FencingToken, usize)>,
    /// How often each control plane had reported when it was asked.
    asked: BTreeMap<NodeName, u64>,
    /// The gate that was closed, and what it found.
    closed: Option<String>,
}

impl State {
    /// Whether this node, which is due, may be begun on: every connected control plane has said how things are since a lease
    /// began or ended, and no gate is closed. A node that was begun on before may always: what is not well may be the
    /// node itself, and only its lease mends it.
    pub(super) fn may_begin(&mut self, rollout: &Rollout, node: &NodeName) -> bool {
        let Some((planned, NodeState::Prepared)) = rollout.node(node) else { return true };
        let Some(between) = &self.between else { return true };
        let last = Some((self.saved.fence, rollout.leased().count()));
        if between.after != last {
            self.ask_control_planes(rollout, 0);
            self.keep_between(|between| {
                between.after = last;
                between.closed = None;
            });
            return false;
        }
        let answered = between.asked.iter().any(|(name, before)| self.answers(name) > *before);
        if !answered || !self.unanswered(&between.asked).is_empty() {
            return false;
        }
        let view = self.view();
        let situation = Situation::new(&view, rollout.plan.to_version).excusing(&rollout.taken_away());
        let closed = match &rollout.plan.policy.replacement {
            Some(replacement) => replacement::closed_before(&view, &rollout.plan, planned, replacement)
                .map(|found| format!("nothing is begun while that is so: {found}")),
            None => closed_before(planned.role, &situation, &rollout.plan.policy)
                .map(|(gate, found)| format!("nothing is begun while the gate {gate} is closed: {found}"))
                .or_else(|| rollout.crowded(planned, &situation)),
        };
        let open = closed.is_none();
        if let Some(why) = &closed {
            tracing::info!("{why}");
            self.ask_control_planes(rollout, LOOK_AGAIN_MS);
        }
        self.keep_between(|between| between.closed = closed);
        open
    }

    /// What the control planes said counts no more: time has gone by, or another roll-out begins.
    pub(super) fn ask_anew(&mut self) {
        self.keep_between(|between| *between = Between::default());
    }

    /// What holds the roll-out up, if a gate does.
    pub(super) fn closed_between(&self) -> Option<String> {
        self.between.as_ref()?.closed.clone()
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
