//! How long a path takes, by the leases that have raised nodes here before.

use std::collections::BTreeMap;

use liftlock_proto::plan::Role;

use crate::core::batches::{batches, soaks_ms};
use crate::core::path::Path;
use crate::core::rollout::{NodeState, Rollout};

/// How long a path takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// Of the roles that the path raises and of which some node was raised before.
    pub roles: Vec<RoleDuration>,
    /// All its leases, as many at once as the plans' budgets allow, and the soaks of canaries, in milliseconds; `None` where of some role no node was raised before.
    pub total_ms: Option<u64>,
}

/// How long a lease takes that raises a node of one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleDuration {
    /// Which.
    pub role: Role,
    /// The median, in milliseconds.
    pub lease_ms: u64,
    /// Of so many leases.
    pub leases: u32,
}

/// How long a path takes, by the earlier roll-outs that replaced hosts if it does, and else by those that did not.
pub fn durations<'a>(path: &Path, earlier: impl IntoIterator<Item = &'a Rollout>) -> Durations {
    let mut taken: BTreeMap<Role, Vec<u64>> = BTreeMap::new();
    let alike = |rollout: &&Rollout| rollout.plan.policy.redeploy == path.first.policy.redeploy;
    for (planned, state) in earlier.into_iter().filter(alike).flat_map(Rollout::nodes) {
        if let NodeState::Raised { lease, ended_at_ms, .. } = state {
            taken.entry(planned.role).or_default().push(ended_at_ms.saturating_sub(lease.granted_at_ms));
        }
    }
    let medians: BTreeMap<Role, RoleDuration> = taken
        .into_iter()
        .filter_map(|(role, mut taken)| {
            taken.sort_unstable();
            let lease_ms = *taken.get(taken.len() / 2)?;
            let leases = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            Some((role, RoleDuration { role, lease_ms, leases }))
        })
        .collect();
    let roles = || path.plans().flat_map(|plan| &plan.nodes).map(|planned| planned.role);
    let turns = path.plans().flat_map(batches).filter_map(<[_]>::first).map(|planned| planned.role);
    let leases_ms: Option<u64> = turns.map(|role| medians.get(&role).map(|median| median.lease_ms)).sum();
    let total_ms = leases_ms.map(|leases_ms| leases_ms.saturating_add(path.plans().map(soaks_ms).sum()));
    let mut known: Vec<RoleDuration> = medians.values().copied().collect();
    known.retain(|known| roles().any(|role| role == known.role));
    Durations { roles: known, total_ms }
}
