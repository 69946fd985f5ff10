//! From one stop of a path to the next.
//!
//! Once every node of a stop is raised, every agent is asked anew what its node is like. The next plan is made from the
//! answers: where it is the one that was applied, its roll-out begins, in the same batch in which that of the stop before
//! ends. What speaks against it may pass (a pod that has just been moved is not ready yet), so it is looked at again for a
//! while before the path halts. Whoever does not answer is waited for: nothing is under way meanwhile.

use std::time::Duration;

use liftlock_proto::name::NodeName;

use super::{Keeper, KeeperError, State};
use crate::core::budget::Wait;
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::leg::{Leg, Stop};
use crate::core::membership::Membership;
use crate::core::path::make_stop;
use crate::core::replacement;
use crate::core::rollout::{Event, Phase, Rollout};
use crate::core::surge;
use crate::store::records::Change;

/// How long it is before agents are asked again while something speaks against the next stop.
pub const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long something may speak against the next stop before the path halts, in milliseconds: longer than pods that
/// were moved take to become ready.
const PATIENCE_MS: u64 = 5 * 60 * 1000;

/// What is seen of the cluster between two stops.
pub(super) struct Look {
    /// The number of the roll-out that led to the stop.
    rollout: u64,
    /// The question that every agent is to answer first.
    asked: u64,
    /// What speaks against the next stop, and since when by the clock that nobody sets, in milliseconds.
    against: Option<(u64, String)>,
}

impl Keeper {
    /// Asks the agents once more where something speaks against the next stop, looks at the clock where something holds the
    /// next node, and goes on where the canaries of a pool have been looked at for long enough. To be called every
    /// [`LOOK_AGAIN`].
    pub fn look_again(&self) {
        let mut state = self.lock();
        let given_up = self.give_up_marks(&mut state);
        let soaks = state.saved.newest().is_some_and(|(_, rollout)| rollout.may_soak());
        let against = state.look.as_ref().is_some_and(|look| look.against.is_some());
        if against {
            state.ask_everybody();
        }
        let waits = state.held.is_some() || state.hook.is_some() || state.waits_for_control_planes();
        if given_up || against || soaks || waits {
            self.advance(&mut state);
        }
        // How long it soaks is told anew.
        let due = |(_, rollout): (u64, &Rollout)| rollout.due(state.soak_time_ms(self.clock.as_ref())).err();
        let waits = state.saved.newest().and_then(due);
        if matches!(waits, Some(Wait::Soaking { .. } | Wait::LookingAtNewNodes { .. })) {
            self.announce();
        }
    }

    /// Begins the roll-out to the next stop, if the present one is reached, everybody has said since what his node is
    /// like, and the plan is the one that was applied. Returns whether it has begun.
    pub(super) fn go_on_from_the_stop(&self, state: &mut State) -> Result<bool, KeeperError> {
        let Some((number, reached, next)) = state.between_stops() else {
            state.look = None;
            return Ok(false);
        };
        if reached.looking_at_new_nodes(state.soak_time_ms(self.clock.as_ref())).is_some() {
            return Ok(false);
        }
        if state.look.as_ref().is_none_or(|look| look.rollout != number) {
            let asked = state.ask_everybody();
            state.look = Some(Look { rollout: number, asked, against: None });
            return Ok(false);
        }
        let doubtful = state.failure.is_some() || state.holder_of_unknown_lease().is_some();
        let doubtful = doubtful || reached.hook_after().is_some();
        if doubtful || state.not_looked_at(&reached.leg).is_some() {
            return Ok(false);
        }
        let after = reached.leg.onward.get(1).map(|stop| stop.to_version);
        let policy = &reached.plan.policy;
        let now = match next.membership() {
            Some(turn) => surge::plan(&state.view(), next.to_version, &turn, policy),
            None => self
                .catalogue()
                .map_err(|unread| vec![unread.into()])
                .and_then(|catalogue| make_stop(&state.view(), next.to_version, after, policy, &catalogue)),
        };
        let joined = Membership::of(&reached.plan).unwrap_or_default().joins;
        let lost = joined.iter().find_map(|with| replacement::lost(&state.view(), with));
        let against = lost.or_else(|| match &now {
            Ok(plan) => next.difference(plan).map(|difference| {
                format!("the plan that leads there is not the one that was applied: {difference}")
            }),
            Err(refusals) => {
                let why: Vec<&str> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
                Some(why.join("; "))
            }
        });
        match (now, against) {
            (Ok(plan), None) => {
                let rollout = Rollout::start(plan, reached.started_by.clone(), self.clock.unix_ms());
                let rollout = rollout.on(reached.leg.following()).conducted(reached.conduct.clone());
                let rollout = rollout.wanted_by(reached.document.clone());
                self.begin(state, number, &reached, rollout)?;
                Ok(true)
            }
            (_, against) => {
                self.hold(state, &reached, &next, against.unwrap_or_default())?;
                Ok(false)
            }
        }
    }

    /// The end of one roll-out and the beginning of the next are one batch: after a crash there are both or neither.
    fn begin(
        &self,
        state: &mut State,
        number: u64,
        reached: &Rollout,
        rollout: Rollout,
    ) -> Result<(), KeeperError> {
        let ended = reached.after(&Event::NextStopBegun { at_ms: rollout.started_at_ms })?;
        let (leg, plan) = (&reached.leg, &rollout.plan);
        let on = match Membership::of(plan) {
            Some(membership) => format!("next, {membership}"),
            None => format!("on to {} on {} nodes", plan.to_version, plan.nodes.len()),
        };
        let text =
            format!("stop {} of {}, {}, is reached; {on}", leg.stop, leg.stops(), reached.plan.to_version);
        let record =
            HistoryRecord { plan: Some(plan.id.clone()), ..self.record(HistoryKind::StopReached, text) };
        let history = vec![self.ended(&ended), record];
        let rollouts = [(number, ended), (number + 1, rollout)].into();
        state.last_output.clear();
        Ok(self.commit(state, Change { rollouts, history, ..Change::default() })?)
    }

    /// Remembers what speaks against the next stop, and halts the path once that has lasted too long.
    fn hold(
        &self,
        state: &mut State,
        reached: &Rollout,
        next: &Stop,
        against: String,
    ) -> Result<(), KeeperError> {
        let Some(look) = &mut state.look else { return Ok(()) };
        let now_ms = self.clock.steady_ms();
        let since_ms = look.against.take().map_or(now_ms, |(since_ms, _)| since_ms);
        if now_ms.saturating_sub(since_ms) < PATIENCE_MS {
            look.against = Some((since_ms, against));
            self.announce();
            return Ok(());
        }
        let target = reached.leg.onward.last().unwrap_or(next).to_version;
        let why = format!(
            "stop {} of {}, {}, is reached, and the next, {}, did not begin: {against}; `liftlock resume` \
             looks at it once more, `liftlock plan {target}` shows the way from here, `liftlock apply {target}` begins it",
            reached.leg.stop,
            reached.leg.stops(),
            reached.plan.to_version,
            next.to_version,
        );
        let record = HistoryRecord {
            plan: Some(reached.plan.id.clone()),
            ..self.record(HistoryKind::PathHalted, why.clone())
        };
        self.happen(state, &Event::NextStopRefused { why }, vec![record])
    }
}

impl State {
    /// The present roll-out with its number and the stop ahead, where it waits for that to begin.
    fn between_stops(&self) -> Option<(u64, Rollout, Stop)> {
        let (number, rollout) = self.saved.newest()?;
        if rollout.phase() != Phase::BetweenStops {
            return None;
        }
        Some((number, rollout.clone(), rollout.leg.ahead()?.clone()))
    }

    /// Asks every connected agent for its facts; the question's number. One that connects later is asked then, with a higher one.
    pub(super) fn ask_everybody(&mut self) -> u64 {
        let everybody = self.connected();
        self.ask(&everybody, false, 0)
    }

    /// A node of a stop ahead that has not said what it is like since the present one was reached.
    fn not_looked_at(&self, leg: &Leg) -> Option<NodeName> {
        let look = self.look.as_ref()?;
        let fresh =
            |node: &NodeName| self.sessions.contains_key(node) && self.facts_answer(node) >= look.asked;
        let passing = leg.onward.iter().flat_map(|stop| &stop.nodes);
        passing.map(|passing| &passing.name).find(|node| !fresh(node)).cloned()
    }

    /// What holds up a path between two stops.
    pub(super) fn before_the_next_stop(&self) -> Option<String> {
        let (_, reached, next) = self.between_stops()?;
        let against = self.look.as_ref().and_then(|look| look.against.as_ref()).map(|(_, why)| why.clone());
        let silent = || {
            self.not_looked_at(&reached.leg)
                .map(|node| format!("{node} has not said yet what it is like now"))
        };
        against.or_else(silent).map(|why| format!("before {}: {why}", next.to_version))
    }
}
