//! Whether the node that is due may be begun on now: each reason to wait is asked in its turn.

use jiff::Timestamp;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Policy;
use liftlock_proto::version::KubernetesVersion;

use super::between::Word;
use super::{Keeper, State};
use crate::clock::Clock;
use crate::core::conduct::Conduct;
use crate::core::forecast::Expected;
use crate::core::hold::{self, Hold};
use crate::core::path::Path;
use crate::core::planning::Refusal;
use crate::core::rollout::{NodeState, Rollout};

impl Keeper {
    /// The path that follows from what is known now, if it can be carried out under this conduct, or everything that speaks
    /// against it. Changes nothing.
    pub fn plan_conducted(
        &self,
        target: KubernetesVersion,
        policy: &Policy,
        conduct: &Conduct,
    ) -> Result<Path, Vec<Refusal>> {
        let path = self.plan(target, policy)?;
        let refusals = self.lock().conduct_refusals(&path, conduct, self.clock.as_ref());
        if refusals.is_empty() { Ok(path) } else { Err(refusals) }
    }

    /// How the leases of a path fit into the windows.
    pub fn fit_into_windows(&self, path: &Path, conduct: &Conduct) -> Option<String> {
        let expected = Expected::of(&path.first.policy, self.lock().saved.rollouts.values());
        hold::fit(path, conduct, now(self.clock.as_ref()), &expected)
    }
}

impl State {
    pub(super) fn conduct_refusals(&self, path: &Path, conduct: &Conduct, clock: &dyn Clock) -> Vec<Refusal> {
        let expected = Expected::of(&path.first.policy, self.saved.rollouts.values());
        let mut refusals = hold::refusals(path, conduct, now(clock), &expected);
        refusals.extend(self.hook_refusals(path, conduct));
        if !conduct.alerts.is_default() && self.alerts.is_none() {
            refusals.push(Refusal {
                rule: "alerts-not-configured",
                message: "spec.alerts says which alerts hold the roll-out, and this coordinator asks no Prometheus: write \
                          [alerts] with its url into /etc/liftlock/coordinator.toml, or leave spec.alerts out"
                    .to_owned(),
                acceptable: false,
            });
        }
        refusals
    }

    /// Whether this node, which is due, may be begun on. A node that was begun on before may always: what is not well may
    /// be the node itself, and only its lease mends it. Only where it leaves for a machine that takes no pods, it waits for that. What
    /// holds it is remembered.
    pub(super) fn may_begin(&mut self, rollout: &Rollout, node: &NodeName, clock: &dyn Clock) -> bool {
        let Some((planned, state)) = rollout.node(node) else { return true };
        if rollout.goes_on_again(node) {
            return match self.word_of_control_planes(rollout, planned, clock) {
                Word::Awaited => false,
                Word::Closed(hold) => self.held_by(hold),
                Word::Open => {
                    self.held = None;
                    true
                }
            };
        }
        if !matches!(state, NodeState::Prepared) {
            return true;
        }
        if !rollout.conduct.windows.is_empty() {
            let expected = Expected::of(&rollout.plan.policy, self.saved.rollouts.values());
            let lease_ms = expected.lease_ms(planned.role);
            if let Some(hold) = Hold::by_windows(&rollout.conduct, now(clock), lease_ms) {
                // What control planes say now says nothing of how things are when it opens.
                self.ask_anew();
                return self.held_by(hold);
            }
        }
        match self.word_of_alerts(rollout, clock) {
            None => return false,
            Some(Err(hold)) => {
                self.ask_anew();
                return self.held_by(hold);
            }
            Some(Ok(())) => {}
        }
        match self.word_of_control_planes(rollout, planned, clock) {
            Word::Awaited => false,
            Word::Closed(hold) => self.held_by(hold),
            Word::Open => {
                if let Some(hold) = self.held_by_hook(rollout.hook_in_the_way(node)) {
                    return self.held_by(hold);
                }
                self.held = None;
                true
            }
        }
    }

    fn held_by(&mut self, hold: Hold) -> bool {
        if self.held.as_ref() != Some(&hold) {
            tracing::info!("{hold}");
        }
        self.held = Some(hold);
        false
    }
}

fn now(clock: &dyn Clock) -> Timestamp {
    let ms = i64::try_from(clock.unix_ms()).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}
