//! Which nodes of a plan are drained at once, as far as that can be known before: as if every lease of a pool took as long as
//! the others.

use std::collections::BTreeMap;

use liftlock_proto::plan::{Plan, PlannedNode};

/// The nodes in the order of their leases, those together that may be under lease at once.
pub fn batches(plan: &Plan) -> Vec<&[PlannedNode]> {
    let mut batches = Vec::new();
    let mut canaries_left: BTreeMap<&str, usize> = plan
        .pools
        .iter()
        .filter_map(|pool| Some((pool.name.as_str(), usize::try_from(pool.canary?.nodes).ok()?)))
        .collect();
    let together = |one: &PlannedNode, next: &PlannedNode| one.place.is_some() && one.place == next.place;
    for group in plan.nodes.chunk_by(together) {
        let pool = group.first().and_then(|planned| planned.place.as_ref()).map(|place| place.pool.as_str());
        let limit = plan.pools.iter().find(|planned| Some(planned.name.as_str()) == pool);
        let limit = limit.and_then(|pool| usize::try_from(pool.max_unavailable?).ok()).unwrap_or(1).max(1);
        let left = pool.and_then(|pool| canaries_left.get_mut(pool));
        let first = left.map_or(0, |left| {
            let first = group.len().min(*left);
            *left -= first;
            first
        });
        let (canaries, others) = group.split_at(first);
        batches.extend(canaries.chunks(1).chain(others.chunks(limit)));
    }
    batches
}

/// How long nothing is begun because canaries are looked at, in milliseconds.
pub fn soaks_ms(plan: &Plan) -> u64 {
    let soaks = plan.pools.iter().filter_map(|pool| {
        let canary = pool.canary?;
        let of_the_pool =
            |planned: &&PlannedNode| planned.place.as_ref().is_some_and(|place| place.pool == pool.name);
        let others = plan.nodes.iter().filter(of_the_pool).nth(usize::try_from(canary.nodes).ok()?);
        others.map(|_| u64::from(canary.soak_seconds).saturating_mul(1000))
    });
    soaks.sum()
}

#[cfg(test)]
mod tests {
    use liftlock_proto::workers::{Canary, PlannedPool};

    use super::*;
    use crate::core::budget::tests::{pool, rollout};

    fn names(plan: &Plan) -> Vec<Vec<&str>> {
        let batches = batches(plan).into_iter();
        batches.map(|batch| batch.iter().map(|planned| planned.name.as_str()).collect()).collect()
    }

    #[test]
    fn what_is_drained_at_once_is_of_one_pool_and_one_zone_and_canaries_are_drained_alone() {
        let nodes = ["cp1", "cp2", "w1@w/a", "w2@w/a", "w3@w/a", "w4@w/a", "w5@w/b", "v1@v", "v2@v"];
        let canary = Some(Canary { nodes: 1, soak_seconds: 60 });
        let pools = vec![PlannedPool { canary, ..pool("w", 2) }, pool("v", 3)];
        let plan = rollout(&nodes, pools, 0).plan;
        let expected: [&[&str]; 7] =
            [&["cp1"], &["cp2"], &["w1"], &["w2", "w3"], &["w4"], &["w5"], &["v1", "v2"]];
        assert_eq!(names(&plan), expected);
        assert_eq!(soaks_ms(&plan), 60_000);
    }

    #[test]
    fn without_pools_nodes_are_drained_one_after_the_other() {
        let mut plan = rollout(&["cp1", "w1@w", "w2@w"], vec![pool("w", 2)], 0).plan;
        plan.pools.clear();
        plan.nodes.iter_mut().for_each(|planned| planned.place = None);
        assert_eq!((names(&plan).len(), soaks_ms(&plan)), (3, 0));
    }
}
