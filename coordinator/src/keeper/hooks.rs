//! Which hook is to be called now, and what came of it. Whoever can call one is told, and brings word of its end.

use std::collections::BTreeSet;
use std::time::Duration;

use liftlock_proto::plan::Plan;

use super::sessions::clipped;
use super::{Keeper, KeeperError, State};
use crate::core::conduct::Conduct;
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::hold::Hold;
use crate::core::hooks::{Call, Moment, Target};
use crate::core::path::Path;
use crate::core::planning::Refusal;
use crate::core::rollout::{Event, Rollout};

/// How long it is before a hook that failed is called again, in milliseconds.
const AGAIN_AFTER_MS: u64 = 60_000;

/// A call that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookOrder {
    /// Of which roll-out, by its number.
    rollout: u64,
    /// What tells it from the calls of any other hook of any coordinator; the same where it is made again.
    pub id: String,
    /// Of which hook, and what about.
    pub call: Call,
    /// What is carried out.
    pub plan: Plan,
    /// How that has ended; only after the plan.
    pub outcome: Option<&'static str>,
}

impl HookOrder {
    /// Of a plan that nobody carries out.
    #[cfg(test)]
    pub(crate) fn of_test(call: Call) -> Self {
        let plan = Plan {
            id: "p-0123456789ab".parse().expect("an id"),
            hash: "0123456789ab".to_owned(),
            from_version: "v1.19.7".parse().expect("a version"),
            to_version: "v1.20.2".parse().expect("a version"),
            nodes: Vec::new(),
            policy: liftlock_proto::plan::Policy::default(),
            pools: Vec::new(),
        };
        Self { rollout: 1, id: "test".to_owned(), call, plan, outcome: None }
    }

    /// How long it may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.call.hook.timeout_seconds.into())
    }
}

impl Keeper {
    /// The same, with hooks of these names in the coordinator's configuration: somebody calls whatever is
    /// [wanted](Keeper::wanted_hook).
    #[must_use]
    pub fn with_hooks(self, names: BTreeSet<String>) -> Self {
        self.lock().hooks = Some(names);
        self
    }

    /// The call that is to be made now.
    pub fn wanted_hook(&self) -> Option<HookOrder> {
        let state = self.lock();
        let (rollout, present) = state.saved.newest().filter(|_| state.failure.is_none())?;
        let call = state.hook.clone()?;
        // One from a time of day that has not come yet, because that was set back, is waited for no longer.
        let pause = call.last.as_ref().filter(|last| last.failure.is_some());
        let pauses = pause
            .and_then(|last| self.clock.unix_ms().checked_sub(last.at_ms))
            .is_some_and(|since_ms| since_ms < AGAIN_AFTER_MS);
        let outcome = if call.moment == Moment::AfterPlan { present.outcome() } else { None };
        let id = format!(
            "{}:{rollout}:{}:{}",
            self.authority.fingerprint(),
            String::from(call.moment.clone()),
            call.hook.target
        );
        (!pauses).then(|| HookOrder { rollout, id, call, plan: present.plan.clone(), outcome })
    }

    /// Records that a call begins, which is durable before it is made. False where it is wanted no more.
    pub fn hook_begins(&self, order: &HookOrder) -> Result<bool, KeeperError> {
        let mut state = self.lock();
        let wanted = state.hook.as_ref() == Some(&order.call);
        if !wanted || state.saved.newest().is_none_or(|(number, _)| number != order.rollout) {
            return Ok(false);
        }
        let Call { moment, hook, last } = &order.call;
        let event = Event::HookBegan {
            moment: moment.clone(),
            target: hook.target.clone(),
            at_ms: self.clock.unix_ms(),
        };
        // The calls of one that fails every minute would fill the history.
        let news = last.as_ref().is_none_or(|last| last.failure.is_none());
        let record = self.record(HistoryKind::HookBegan, format!("{} is called", order.call));
        let history = if news { vec![about(order, record)] } else { Vec::new() };
        self.happen(&mut state, &event, history)?;
        self.advance(&mut state);
        Ok(true)
    }

    /// Records how a call ended, which is durable before anything follows from it.
    pub fn hook_ended(&self, order: &HookOrder, failure: Option<&str>) -> Result<(), KeeperError> {
        let mut state = self.lock();
        if state.saved.newest().is_none_or(|(number, _)| number != order.rollout) {
            return Ok(());
        }
        let failure = failure.map(clipped);
        let record = match &failure {
            None => self.record(HistoryKind::HookSucceeded, format!("{} has ended well", order.call)),
            Some(why) => self.record(HistoryKind::HookFailed, format!("{} failed: {why}", order.call)),
        };
        let again = failure.is_some() && order.call.failure() == failure.as_deref();
        let history = if again { Vec::new() } else { vec![about(order, record)] };
        let Call { moment, hook, .. } = &order.call;
        let event = Event::HookEnded {
            moment: moment.clone(),
            target: hook.target.clone(),
            failure,
            at_ms: self.clock.unix_ms(),
        };
        self.happen(&mut state, &event, history)?;
        // Time has gone by: what was said before of alerts and gates counts no more.
        state.ask_anew();
        state.forget_alerts();
        self.advance(&mut state);
        Ok(())
    }
}

fn about(order: &HookOrder, record: HistoryRecord) -> HistoryRecord {
    HistoryRecord { plan: Some(order.plan.id.clone()), node: order.call.moment.node().cloned(), ..record }
}

impl State {
    /// What of the hooks after nodes, pools and the plan is to be called now; those before are asked for where everything
    /// else lets a node be begun on.
    pub(super) fn look_for_hooks(&mut self, rollout: &Rollout) {
        self.hook = rollout.hook_after();
    }

    /// Why a node that nothing else holds is not begun on, if a hook does.
    pub(super) fn held_by_hook(&mut self, call: Option<Call>) -> Option<Hold> {
        if self.hook.is_none() {
            self.hook = call;
        }
        self.hook.as_ref().map(|call| Hold::Hook(call.waiting()))
    }

    /// What of the conduct names no hook that there is, or asks for one where there is nothing to call it for.
    pub(super) fn hook_refusals(&self, path: &Path, conduct: &Conduct) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let of = |rule, message| Refusal { rule, message, acceptable: false };
        for (field, hooks) in conduct.hooks.lists() {
            let pools = path.plans().any(|plan| !plan.pools.is_empty());
            if field.ends_with("Pool") && !hooks.is_empty() && !pools {
                refusals.push(of(
                    "hooks-without-pools",
                    format!(
                        "spec.hooks.{field} is for pools, and this plan has none, because spec.workers says nothing: allowed is \
                         beforeNode or afterNode, or say in spec.workers how workers are raised (docs/roll-out.md)"
                    ),
                ));
            }
            for (index, hook) in hooks.iter().enumerate() {
                let Target::Name(name) = &hook.target else { continue };
                let known = self.hooks.iter().flatten();
                if !known.clone().any(|known| known == name) {
                    let known: Vec<&str> = known.map(String::as_str).collect();
                    let allowed = if known.is_empty() {
                        "it has none".to_owned()
                    } else {
                        format!("allowed are {}", known.join(", "))
                    };
                    refusals.push(of(
                        "unknown-hook",
                        format!(
                            "spec.hooks.{field}[{index}].name: \"{name}\" is no hook in this coordinator's configuration: \
                             {allowed}; write [hooks.{name}] with its command into /etc/liftlock/coordinator.toml and restart \
                             liftlock"
                        ),
                    ));
                }
            }
        }
        refusals
    }
}
