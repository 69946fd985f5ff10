//! What the coordinator's process does beside its keeper: it calls hooks, and asks Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock::core::alerts::Alert;
use liftlock::keeper::{HookOrder, Keeper};

use super::laws::Laws;
use super::sabotage::Sabotage;
use super::surroundings::Surroundings;

/// What Prometheus takes to answer.
const ANSWER: Duration = Duration::from_millis(300);

/// The callers, and how far they are.
pub(super) struct Outside {
    around: Surroundings,
    sabotage: Option<Sabotage>,
    laws: Laws,
    began: Duration,
    call: Option<Call>,
    /// How often each was called to its end.
    called: BTreeMap<String, u32>,
    /// When Prometheus answers.
    answers_at: Option<Duration>,
}

/// A hook that runs.
struct Call {
    order: HookOrder,
    ends_at: Duration,
    failure: Option<&'static str>,
}

impl Outside {
    pub(super) fn new(
        around: &Surroundings,
        sabotage: Option<Sabotage>,
        laws: &Laws,
        began: Duration,
    ) -> Self {
        Self {
            around: around.clone(),
            sabotage,
            laws: laws.clone(),
            began,
            call: None,
            called: BTreeMap::new(),
            answers_at: None,
        }
    }

    /// The coordinator has ended, and every hook with it.
    pub(super) fn end(&mut self) {
        self.call = None;
        self.answers_at = None;
    }

    /// When it goes on.
    pub(super) fn next(&self) -> Option<Duration> {
        self.call.iter().map(|call| call.ends_at).chain(self.answers_at).min()
    }

    /// What is to be done now; whether there was anything.
    pub(super) fn go_on(&mut self, keeper: &Keeper, now: Duration) -> bool {
        self.hooks(keeper, now) | self.prometheus(keeper, now)
    }

    fn hooks(&mut self, keeper: &Keeper, now: Duration) -> bool {
        if let Some(call) = self.call.take_if(|call| call.ends_at <= now) {
            let about = String::from(call.order.call.moment.clone());
            *self.called.entry(about.clone()).or_default() += 1;
            if call.failure.is_none() {
                self.laws.hook_ended_well(&about);
            }
            let told = call.failure.filter(|_| self.sabotage != Some(Sabotage::HooksUnread));
            let result = keeper.hook_ended(&call.order, told);
            self.laws.tell(|| format!("the hook {about} has ended: {told:?}, {result:?}"));
            return true;
        }
        let Some(terms) = self.around.hooks.as_ref().filter(|_| self.call.is_none()) else { return false };
        let Some(order) = keeper.wanted_hook() else { return false };
        // A store that takes nothing is no reason to call.
        if keeper.hook_begins(&order).ok() != Some(true) {
            return false;
        }
        let about = String::from(order.call.moment.clone());
        let fails = self.called.get(&about).copied().unwrap_or_default() < terms.fails;
        let failure = fails.then_some(if terms.hangs { "it did not end" } else { "it ended with 1" });
        let takes = if fails && terms.hangs { order.limit() } else { terms.takes };
        self.laws.tell(|| format!("the hook {about} is called"));
        self.call = Some(Call { order, ends_at: now + takes, failure });
        true
    }

    fn prometheus(&mut self, keeper: &Keeper, now: Duration) -> bool {
        let Some(alarms) = &self.around.alarms else { return false };
        if self.answers_at.is_none_or(|at| at > now) {
            let asks = self.answers_at.is_none() && keeper.wants_alerts();
            if asks {
                self.answers_at = Some(now + ANSWER);
            }
            return asks;
        }
        self.answers_at = None;
        let since = now.saturating_sub(self.began);
        let goes_on = alarms.iter().find(|alarm| alarm.from <= since && since < alarm.until);
        let alert = || Alert { labels: [("alertname".to_owned(), "KubeAPIDown".to_owned())].into() };
        let said = match goes_on.filter(|_| self.sabotage != Some(Sabotage::AlertsUnread)) {
            None => Ok(Vec::new()),
            Some(alarm) if alarm.away => Err("connection refused".to_owned()),
            Some(_) => Ok(vec![alert()]),
        };
        self.laws.tell(|| format!("Prometheus is asked: {said:?}"));
        keeper.alerts_are(said);
        true
    }
}
