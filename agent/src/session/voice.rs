//! What the engine says while it works, as messages to the coordinator.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use liftlock_proto::name::{FencingToken, PlanId};
use liftlock_proto::v1::agent_message::Message;
use liftlock_proto::v1::{OutputLine, Remark, StepReport, StepState};

use crate::engine::context::{Reporter, TimeSpent};
use crate::engine::runner::Observer;
use crate::engine::transition::Event;
use crate::session::outbox::Outbox;

/// Speaks for one lease, or (with token 0) for a preparation.
pub(crate) struct Voice {
    outbox: Arc<Outbox>,
    plan: PlanId,
    token: FencingToken,
    last: Mutex<Option<StepReport>>,
}

impl Voice {
    pub(crate) fn new(outbox: Arc<Outbox>, plan: PlanId, token: FencingToken) -> Self {
        Self { outbox, plan, token, last: Mutex::new(None) }
    }

    /// The last report once more: what was under way when a connection broke may never have arrived.
    pub(crate) fn last_report(&self) -> Option<StepReport> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Reporter for Voice {
    fn line(&self, step: &str, line: &str) {
        self.outbox.push(Message::OutputLine(OutputLine {
            plan_id: self.plan.to_string(),
            step: step.to_owned(),
            line: line.to_owned(),
        }));
    }

    fn remark(&self, step: &str, text: &str) {
        self.line(step, text);
        self.outbox.push(Message::Remark(Remark {
            plan_id: self.plan.to_string(),
            fencing_token: self.token.0,
            step: step.to_owned(),
            text: text.to_owned(),
        }));
    }

    fn spent(&self, _on: TimeSpent, _during: Range<Duration>) {
        // The engine adds times up itself and tells them with the lease's end.
    }
}

impl Observer for Voice {
    fn journalled(&self, step: &str, attempt: u32, event: &Event) {
        let (index, state, failure) = match event {
            Event::Started { index, .. } => (index, StepState::Started, ""),
            Event::Adopted { index } => (index, StepState::Adopted, ""),
            Event::Succeeded { index, .. } => (index, StepState::Succeeded, ""),
            Event::Failed { index, failure, .. } => (index, StepState::Failed, failure.as_str()),
            Event::Undone { index, .. } => (index, StepState::Undone, ""),
            // Nothing to tell yet, or told as the lease's end.
            Event::UndoStarted { .. } | Event::Ended(_) => return,
        };
        let report = StepReport {
            plan_id: self.plan.to_string(),
            fencing_token: self.token.0,
            step: step.to_owned(),
            index: u32::try_from(*index).unwrap_or(u32::MAX),
            state: state.into(),
            attempt,
            failure: failure.to_owned(),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        self.outbox.push(Message::StepReport(report));
    }
}
