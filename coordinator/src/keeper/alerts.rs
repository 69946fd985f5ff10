//! What Prometheus says, as long as it is fresh. Whoever can reach it is told when an answer is wanted, and brings one.

use liftlock_proto::name::FencingToken;

use super::{Keeper, State};
use crate::clock::Clock;
use crate::core::alerts::{Alert, CONSENT};
use crate::core::hold::Hold;
use crate::core::rollout::Rollout;

/// How long an answer counts, in milliseconds: other reasons to wait are asked meanwhile.
const FRESH_MS: u64 = 15_000;

/// What is known of alerts where the coordinator asks a Prometheus.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    /// Somebody waits for an answer.
    wanted: bool,
    answer: Option<Answer>,
}

/// What Prometheus answered last.
#[derive(Debug)]
struct Answer {
    /// By the clock that nobody sets, in milliseconds.
    at_ms: u64,
    /// The newest lease then: it counts for no node after the next one.
    after: FencingToken,
    /// What it said, or why it could not be asked.
    said: Result<Vec<Alert>, String>,
}

impl Keeper {
    /// The same, with a Prometheus to ask: somebody will call [`Keeper::alerts_are`] whenever [`Keeper::wants_alerts`].
    #[must_use]
    pub fn asking_for_alerts(self) -> Self {
        self.lock().alerts = Some(Alerts::default());
        self
    }

    /// Whether an answer is waited for.
    pub fn wants_alerts(&self) -> bool {
        self.lock().wants_alerts()
    }

    /// What Prometheus answers now, or why it cannot be asked.
    pub fn alerts_are(&self, said: Result<Vec<Alert>, String>) {
        let mut state = self.lock();
        let answer = Answer { at_ms: self.clock.steady_ms(), after: state.saved.fence, said };
        if let Some(alerts) = &mut state.alerts {
            *alerts = Alerts { wanted: false, answer: Some(answer) };
            self.advance(&mut state);
        }
    }
}

impl State {
    pub(super) fn wants_alerts(&self) -> bool {
        self.alerts.as_ref().is_some_and(|alerts| alerts.wanted)
    }

    /// What alerts say before the next node; `None` where an answer has to be waited for.
    pub(super) fn word_of_alerts(
        &mut self,
        rollout: &Rollout,
        clock: &dyn Clock,
    ) -> Option<Result<(), Hold>> {
        if rollout.plan.policy.accepts(CONSENT) {
            return Some(Ok(()));
        }
        let last = self.saved.fence;
        let Some(alerts) = &mut self.alerts else { return Some(Ok(())) };
        let fresh = |answer: &&Answer| {
            answer.after == last && clock.steady_ms().saturating_sub(answer.at_ms) <= FRESH_MS
        };
        let Some(answer) = alerts.answer.as_ref().filter(fresh) else {
            alerts.wanted = true;
            return None;
        };
        Some(rollout.conduct.alerts.alarm(&answer.said).map_or(Ok(()), |alarm| Err(Hold::Alerts(alarm))))
    }

    /// What it said counts no more.
    pub(super) fn forget_alerts(&mut self) {
        if let Some(alerts) = &mut self.alerts {
            alerts.answer = None;
        }
    }
}
