//! How many nodes may be under lease at once, and which. Control planes are always leased one at a time and alone, and so is
//! everything that is put back. Workers may be leased side by side as far as their pool's budget goes, all of one pool and
//! one zone; a pool's canaries one at a time before its others.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{PlannedNode, Purpose};
use liftlock_proto::strategy::Part;
use liftlock_proto::workers::{Canary, PlannedPool, SOAK_SECONDS};

use crate::core::gates::situation::Situation;
use crate::core::membership::Membership;
use crate::core::pools::Selectors;
use crate::core::rollout::{NodeState, Phase, Rollout};

/// Why nothing more may be leased now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// The canaries of a pool are raised and looked at.
    #[error("pool {pool}: soaking, {} left", span(*.left_ms))]
    Soaking {
        /// Which.
        pool: String,
        /// For how long, in milliseconds.
        left_ms: u64,
    },
    /// Machines have joined and have all pods, and are looked at.
    #[error(
        "the new nodes are looked at, {} left before the old ones leave; `liftlock rollback --cluster` goes back to those",
        span(*.left_ms)
    )]
    LookingAtNewNodes {
        /// For how long, in milliseconds.
        left_ms: u64,
    },
    /// Something has to happen first.
    #[error("{0}")]
    For(String),
}

impl From<String> for Wait {
    fn from(what: String) -> Self {
        Self::For(what)
    }
}

/// `45 s`, `3 min 10 s`; a second that was begun counts.
fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

impl NodeState {
    /// Whether it may be away because of this roll-out.
    fn may_be_away(&self) -> bool {
        matches!(self, Self::Leased { .. } | Self::Failed { .. } | Self::ToRetry { .. })
    }

    fn waits_to_be_raised(&self) -> bool {
        matches!(self, Self::Prepared | Self::ToRetry { .. })
    }

    fn is_being_put_back(&self) -> bool {
        matches!(self, Self::Leased { purpose: Purpose::RollBack, .. })
    }
}

impl Rollout {
    /// Each node that may be leased now beside those that are, in order, and what for. `now_ms`: milliseconds since the
    /// Unix epoch. On the way back it is the last node that waits.
    ///
    /// # Errors
    /// What has to happen or to be waited for before any may.
    pub fn due(&self, now_ms: u64) -> Result<Vec<(&PlannedNode, Purpose)>, Wait> {
        match self.phase() {
            Phase::Running => {}
            Phase::RollingBack => return Ok(vec![(self.next_to_roll_back()?, Purpose::RollBack)]),
            // One that is quarantined was begun on, and what was begun is ended.
            Phase::Paused | Phase::Halted { .. }
                if self.dismissed.is_empty() && self.quarantined_to_put_back().next().is_some() =>
            {
                return Ok(vec![(self.next_to_roll_back()?, Purpose::RollBack)]);
            }
            Phase::Preparing => return Err("not every node is prepared".to_owned().into()),
            Phase::Paused => return Err("the roll-out is paused".to_owned().into()),
            Phase::BetweenStops => {
                let next = || "the next stop has not begun".to_owned().into();
                return Err(self.looking_at_new_nodes(now_ms).unwrap_or_else(next));
            }
            Phase::Halted { reason } => return Err(format!("the roll-out is halted: {reason}").into()),
            Phase::Aborting | Phase::Aborted | Phase::Raised | Phase::RolledBack => {
                return Err("the roll-out has ended".to_owned().into());
            }
        }
        // It is put back before anything else: its pods are away, and so is its room for others.
        if self.waits_to_be_put_back() || self.nodes.iter().any(NodeState::is_being_put_back) {
            return Ok(vec![(self.next_to_roll_back()?, Purpose::RollBack)]);
        }
        if self.nodes.contains(&NodeState::Pending) {
            return Err("not every node is prepared".to_owned().into());
        }
        let mut due = self.within_budget()?;
        // What was begun on before is no longer of those that the canaries go before.
        if let Some(soaking) = self.soaking(&due, now_ms) {
            due.retain(|planned| !matches!(self.node(&planned.name), Some((_, NodeState::Prepared))));
            if due.is_empty() {
                return Err(soaking);
            }
        }
        Ok(due.into_iter().map(|planned| (planned, Purpose::Raise)).collect())
    }

    fn waits_to_be_put_back(&self) -> bool {
        self.nodes.iter().any(|state| matches!(state, NodeState::ToRollBack { .. }))
    }

    fn quarantined_to_put_back(&self) -> impl Iterator<Item = &PlannedNode> {
        self.to_put_back().filter(|planned| self.quarantined.contains_key(&planned.name))
    }

    fn to_put_back(&self) -> impl Iterator<Item = &PlannedNode> {
        let waiting = self.nodes().filter(|(_, state)| matches!(state, NodeState::ToRollBack { .. }));
        waiting.map(|(planned, _)| planned)
    }

    fn next_to_roll_back(&self) -> Result<&PlannedNode, Wait> {
        if let Some((planned, lease)) = self.leased().next() {
            return Err(format!("node {} holds lease {}", planned.name, lease.token).into());
        }
        // On one that is quarantined nobody relies, and it is what others wait for. Memberships are ended once those have left whose
        // they are.
        let ends = |planned: &PlannedNode| planned.part() == Part::End;
        let next = self.quarantined_to_put_back().last();
        let next = next.or_else(|| self.to_put_back().filter(|planned| !ends(planned)).last());
        let next = next.or_else(|| self.to_put_back().last());
        let next = next.or_else(|| self.ender().filter(|_| self.owes_an_end()));
        Ok(next.ok_or_else(|| "no node is left to put back".to_owned())?)
    }

    /// The nodes that the budget lets be leased to raise them beside those that are, whatever the time.
    fn within_budget(&self) -> Result<Vec<&PlannedNode>, String> {
        let waiting = || self.nodes().filter(|(_, state)| state.waits_to_be_raised());
        let (first, _) = waiting().next().ok_or("no node is left to lease")?;
        if let Some(why) = self.too_early(first) {
            return Err(why);
        }
        let limit = self.pool(first).and_then(|pool| pool.max_unavailable);
        let alone = limit.is_none() || self.is_canary(first);
        let bars = |holder: &PlannedNode| alone || holder.place != first.place || self.is_canary(holder);
        if let Some((holder, lease)) = self.leased().find(|(holder, _)| bars(holder)) {
            return Err(format!("node {} holds lease {}", holder.name, lease.token));
        }
        let Some(limit) = limit.filter(|_| !alone) else { return Ok(vec![first]) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut away: BTreeSet<&NodeName> = self.away_of_the_pool(first);
        let mut due = Vec::new();
        for (planned, _) in waiting().filter(|(planned, _)| planned.place == first.place) {
            if away.contains(&planned.name) || away.len() < limit {
                away.insert(&planned.name);
                due.push(planned);
            }
        }
        let left = limit.saturating_sub(self.leased().count());
        if due.is_empty() && left > 0 {
            due.extend(self.away_elsewhere(first));
        }
        due.truncate(left);
        if due.is_empty() { Err(no_more(&self.away_of_the_pool(first), limit)) } else { Ok(due) }
    }

    /// A node of the same pool and another zone that is away already and waits: it takes nothing more away, and where it uses
    /// the budget up nothing else could ever be begun.
    fn away_elsewhere(&self, planned: &PlannedNode) -> Option<&PlannedNode> {
        let pool = |planned: &PlannedNode| planned.place.as_ref().map(|place| place.pool.clone());
        let waits = |(other, state): &(&PlannedNode, &NodeState)| {
            matches!(state, NodeState::ToRetry { .. })
                && pool(other) == pool(planned)
                && self.leased().all(|(holder, _)| holder.place == other.place)
        };
        self.nodes().find(waits).map(|(other, _)| other)
    }

    /// What this roll-out may have taken away of a worker's pool.
    fn away_of_the_pool(&self, planned: &PlannedNode) -> BTreeSet<&NodeName> {
        let pool = |planned: &PlannedNode| planned.place.as_ref().map(|place| place.pool.clone());
        let own = pool(planned);
        let away = self.nodes().filter(|(other, state)| state.may_be_away() && pool(other) == own);
        away.map(|(other, _)| &other.name).collect()
    }

    fn pool(&self, planned: &PlannedNode) -> Option<&PlannedPool> {
        let place = planned.place.as_ref()?;
        self.plan.pools.iter().find(|pool| pool.name == place.pool)
    }

    /// The first so many of a pool, in its order. One that could not be drained is none: nobody has seen it raised.
    fn canaries(&self, pool: &PlannedPool) -> impl Iterator<Item = (&PlannedNode, &NodeState)> {
        let count = pool.canary.map_or(0, |canary| canary.nodes);
        let name = pool.name.clone();
        let of_the_pool =
            self.nodes().filter(move |(node, _)| node.place.as_ref().is_some_and(|place| place.pool == name));
        let tried = of_the_pool.filter(|(node, _)| !self.quarantined.contains_key(&node.name));
        tried.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn is_canary(&self, planned: &PlannedNode) -> bool {
        let pool = self.pool(planned);
        pool.is_some_and(|pool| self.canaries(pool).any(|(canary, _)| canary.name == planned.name))
    }

    /// Whether the canaries of the pool that is due are still looked at: none of them is due any more, and the last ended
    /// not long enough ago.
    fn soaking(&self, due: &[&PlannedNode], now_ms: u64) -> Option<Wait> {
        let (pool, Canary { soak_seconds, .. }, ended_at_ms) = self.looked_at(due.first()?)?;
        let over_ms = ended_at_ms.saturating_add(u64::from(soak_seconds).saturating_mul(1000));
        let left_ms = over_ms.checked_sub(now_ms).filter(|left| *left > 0)?;
        Some(Wait::Soaking { pool: pool.name.clone(), left_ms })
    }

    /// The pool of the first node that waits, its canaries, of which none waits any more, and when the last of them ended.
    fn looked_at(&self, first: &PlannedNode) -> Option<(&PlannedPool, Canary, u64)> {
        let pool = self.pool(first)?;
        let canary = pool.canary?;
        if self.is_canary(first) {
            return None;
        }
        let ended = self.canaries(pool).filter_map(|(_, state)| match state {
            NodeState::Raised { ended_at_ms, .. } => Some(*ended_at_ms),
            _ => None,
        });
        Some((pool, canary, ended.max()?))
    }

    /// When those ended that others wait for, or have waited for, while they are looked at: canaries, or all new nodes.
    /// Milliseconds since the Unix epoch; `None` where nobody waits.
    pub fn looked_at_since_ms(&self) -> Option<u64> {
        let mut waiting = self.nodes().filter(|(_, state)| state.waits_to_be_raised());
        let canaries = waiting.next().and_then(|(first, _)| self.looked_at(first));
        canaries.map(|(_, _, ended_at_ms)| ended_at_ms).or_else(|| self.new_nodes_since_ms())
    }

    /// Whether time alone may make a node due.
    pub fn may_soak(&self) -> bool {
        let empties = Membership::of(&self.plan).is_some_and(|membership| !membership.empties.is_empty());
        !self.is_final() && (empties || self.plan.pools.iter().any(|pool| pool.canary.is_some()))
    }

    /// Whether the nodes that have all pods now have not been looked at for long enough: until then everything can go back.
    pub fn looking_at_new_nodes(&self, now_ms: u64) -> Option<Wait> {
        let soak = self.plan.policy.workers.soak_seconds.unwrap_or(SOAK_SECONDS);
        let until_ms = self.new_nodes_since_ms()?.saturating_add(u64::from(soak).saturating_mul(1000));
        let left_ms = until_ms.saturating_sub(now_ms);
        (left_ms > 0).then_some(Wait::LookingAtNewNodes { left_ms })
    }

    /// Since when all pods are on the nodes that are looked at before others leave.
    fn new_nodes_since_ms(&self) -> Option<u64> {
        Membership::of(&self.plan).filter(|membership| !membership.empties.is_empty())?;
        let ended = self.nodes.iter().filter_map(|state| match state {
            NodeState::Raised { ended_at_ms, .. } => Some(*ended_at_ms),
            _ => None,
        });
        ended.max()
    }

    /// The first failure that the failure budget does not cover: that of anything but a worker that was to be raised, that
    /// of a canary, that of a holder that was dismissed, and any where more workers failed than it allows.
    pub(super) fn beyond_the_failure_budget(&self) -> Option<(&PlannedNode, &str)> {
        let budget = usize::try_from(self.plan.policy.workers.failure_budget).unwrap_or(usize::MAX);
        let covered = budget > 0 && self.bearable().count() <= budget;
        let failures = self.nodes().filter_map(|(planned, state)| Some((planned, state, state.failure()?)));
        let mut beyond = failures.filter(|(planned, state, _)| !(covered && self.bears(planned, state)));
        beyond.next().map(|(planned, _, failure)| (planned, failure))
    }

    fn bearable(&self) -> impl Iterator<Item = (&PlannedNode, &str)> {
        let bearable = self.nodes().filter(|(planned, state)| self.bears(planned, state));
        bearable.filter_map(|(planned, state)| Some((planned, state.failure()?)))
    }

    fn bears(&self, planned: &PlannedNode, state: &NodeState) -> bool {
        matches!(state, NodeState::Failed { purpose: Purpose::Raise, .. })
            && !planned.role.is_control_plane()
            && !self.is_canary(planned)
            && !self.dismissed.contains(&planned.name)
    }

    /// Why an operator is asked at the end though every failure is covered: nothing is left that may be leased.
    pub(super) fn at_the_end_of_the_failure_budget(&self) -> Option<String> {
        let mut failures: Vec<String> =
            self.bearable().map(|(planned, failure)| format!("{}: {failure}", planned.name)).collect();
        let goes_on = self.leased().next().is_some() || self.waits_to_be_put_back();
        if failures.is_empty() || goes_on || self.nodes.contains(&NodeState::Pending) {
            return None;
        }
        failures.extend(self.passed_over());
        let waits = self.nodes.iter().any(NodeState::waits_to_be_raised);
        match self.within_budget() {
            Ok(_) => None,
            Err(why) if waits => Some(format!("{}; {why}", failures.join("; "))),
            Err(_) => Some(failures.join("; ")),
        }
    }

    /// The pool that is done with this node's lease and after which the roll-out is to wait for an operator, if there is
    /// anything to wait with.
    pub(super) fn to_pause_after(&self, node: &NodeName) -> Option<String> {
        let (planned, _) = self.node(node)?;
        let pool = self.pool(planned).filter(|pool| pool.pause_after)?;
        let of_the_pool =
            |other: &PlannedNode| other.place.as_ref().is_some_and(|place| place.pool == pool.name);
        let ended = |(other, state): (&PlannedNode, &NodeState)| {
            let put_back = matches!(state, NodeState::RolledBack { .. });
            let passed_over = put_back && self.quarantined.contains_key(&other.name);
            matches!(state, NodeState::Raised { .. }) || self.bears(other, state) || passed_over
        };
        let done = self.nodes().filter(|(other, _)| of_the_pool(other)).all(ended);
        let others_wait =
            self.nodes().any(|(other, state)| !of_the_pool(other) && state.waits_to_be_raised());
        let goes_on = others_wait || self.leg.ahead().is_some();
        (done && goes_on).then(|| pool.name.clone())
    }

    /// The workers that this roll-out may have taken away: whether they are well is no gate's business.
    pub fn taken_away(&self) -> BTreeSet<NodeName> {
        let away = self.nodes().filter(|(planned, state)| planned.place.is_some() && state.may_be_away());
        away.map(|(planned, _)| planned.name.clone()).collect()
    }

    /// Why a worker may not be begun on though it is due: with those of its pool that somebody else took away, or that are not
    /// Ready, more would be away than may be.
    pub fn crowded(&self, planned: &PlannedNode, situation: &Situation<'_>) -> Option<String> {
        let pool = self.pool(planned)?;
        let limit = usize::try_from(pool.max_unavailable?).unwrap_or(usize::MAX);
        let selectors = Selectors::of(&self.plan.policy.workers);
        let mut away: BTreeSet<&NodeName> = self.away_of_the_pool(planned);
        let lost = situation.nodes().filter(|node| {
            let away = node.object().is_some_and(|object| !object.ready || object.unschedulable);
            away && !node.control_plane() && selectors.pool_named(node) == pool.name
        });
        away.extend(lost.map(|node| node.name));
        let with_it = away.len() + usize::from(!away.contains(&planned.name));
        (with_it > limit).then(|| {
            away.remove(&planned.name);
            format!("{} is not begun: {}", planned.name, no_more(&away, limit))
        })
    }
}

fn no_more(away: &BTreeSet<&NodeName>, limit: usize) -> String {
    let names: Vec<&str> = away.iter().map(|name| name.as_str()).collect();
    let are = if names.len() == 1 { "is" } else { "are" };
    format!("{} {are} away, and no more than {limit} of the pool may be (maxUnavailable)", names.join(", "))
}

#[cfg(test)]
pub(super) mod tests;
