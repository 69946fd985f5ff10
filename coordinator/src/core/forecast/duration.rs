//! How long a path takes, by the leases that have raised nodes here before.

use std::collections::BTreeMap;

use liftlock_proto::plan::{Plan, PlannedNode, Policy, Role};
use liftlock_proto::strategy::Part;
use liftlock_proto::workers::SOAK_SECONDS;

use crate::core::batches::{batches, soaks_ms};
use crate::core::membership::Membership;
use crate::core::path::Path;
use crate::core::rollout::{NodeState, Rollout};

/// How long a path takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// Of the roles and parts that the path has and of which there was some lease before.
    pub roles: Vec<RoleDuration>,
    /// All its leases, as many at once as the plans' budgets allow, and the time for which canaries or new nodes are looked at, in
    /// milliseconds; `None` where of some role and part there was no lease before.
    pub total_ms: Option<u64>,
}

/// How long a lease takes of a node of one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleDuration {
    /// Which.
    pub role: Role,
    /// What it does in that lease.
    pub part: Part,
    /// The median, in milliseconds.
    pub lease_ms: u64,
    /// Of so many leases.
    pub leases: u32,
}

/// What a lease takes beside its drain where no node of its role was raised before, in milliseconds: more than any that
/// was seen, so that a window is not found too short by the first node that is raised in it.
const ASSUMED_MS: u64 = 30 * 60 * 1000;

/// How long the next lease of each role is expected to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    medians: BTreeMap<(Role, Part), RoleDuration>,
    assumed_ms: u64,
}

impl Expected {
    /// By the earlier roll-outs that replaced hosts if this policy does, and else by those that did not.
    pub fn of<'a>(policy: &Policy, earlier: impl IntoIterator<Item = &'a Rollout>) -> Self {
        let drain_ms = u64::from(policy.drain_timeout_seconds).saturating_mul(1000);
        Self { medians: medians(policy, earlier), assumed_ms: drain_ms.saturating_add(ASSUMED_MS) }
    }

    /// The median of the role's leases; where there is none, all the time that the policy gives a drain, and half an hour.
    /// In milliseconds.
    pub fn lease_ms(&self, role: Role) -> u64 {
        self.medians.get(&(role, Part::Raise)).map_or(self.assumed_ms, |median| median.lease_ms)
    }

    /// Of how many leases that is the median.
    pub fn leases(&self, role: Role) -> u32 {
        self.medians.get(&(role, Part::Raise)).map_or(0, |median| median.leases)
    }
}

/// How long a path takes, by the earlier roll-outs that replaced hosts if it does, and else by those that did not.
pub fn durations<'a>(path: &Path, earlier: impl IntoIterator<Item = &'a Rollout>) -> Durations {
    let medians = medians(&path.first.policy, earlier);
    let kind = |planned: &PlannedNode| (planned.role, planned.part());
    let kinds = || path.plans().flat_map(|plan| &plan.nodes).map(kind);
    let turns = path.plans().flat_map(batches).filter_map(<[_]>::first).map(kind);
    let leases_ms: Option<u64> = turns.map(|kind| medians.get(&kind).map(|median| median.lease_ms)).sum();
    let looked_at_ms = |plan: &Plan| soaks_ms(plan).saturating_add(new_nodes_ms(plan));
    let total_ms = leases_ms.map(|leases_ms| leases_ms.saturating_add(path.plans().map(looked_at_ms).sum()));
    let mut known: Vec<RoleDuration> = medians.values().copied().collect();
    known.retain(|known| kinds().any(|kind| kind == (known.role, known.part)));
    Durations { roles: known, total_ms }
}

/// How long the new nodes are looked at after a plan that moves all pods to them, in milliseconds.
fn new_nodes_ms(plan: &Plan) -> u64 {
    let moves = Membership::of(plan).is_some_and(|membership| !membership.empties.is_empty());
    let soak_seconds = plan.policy.workers.soak_seconds.unwrap_or(SOAK_SECONDS);
    if moves { u64::from(soak_seconds).saturating_mul(1000) } else { 0 }
}

fn medians<'a>(
    policy: &Policy,
    earlier: impl IntoIterator<Item = &'a Rollout>,
) -> BTreeMap<(Role, Part), RoleDuration> {
    let mut taken: BTreeMap<(Role, Part), Vec<u64>> = BTreeMap::new();
    let alike = |rollout: &&Rollout| rollout.plan.policy.redeploy == policy.redeploy;
    for (planned, state) in earlier.into_iter().filter(alike).flat_map(Rollout::nodes) {
        if let NodeState::Raised { lease, ended_at_ms, timings } = state {
            // What the agent has measured: its end may have been recorded late, and the time of day set meanwhile.
            let measured_ms = Some(timings.lease_ms).filter(|measured| *measured > 0);
            let lease_ms = measured_ms.unwrap_or_else(|| ended_at_ms.saturating_sub(lease.granted_at_ms));
            taken.entry((planned.role, planned.part())).or_default().push(lease_ms);
        }
    }
    taken
        .into_iter()
        .filter_map(|((role, part), mut taken)| {
            taken.sort_unstable();
            let lease_ms = *taken.get(taken.len() / 2)?;
            let leases = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            Some(((role, part), RoleDuration { role, part, lease_ms, leases }))
        })
        .collect()
}
