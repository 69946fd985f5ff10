//! Which workers are raised together and in which order: pools by label selectors, and in each pool zone by zone. Where the
//! policy says nothing of workers there are no pools, and workers go by name.

use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{OnFailure, Policy};
use liftlock_proto::workers::{Place, PlannedPool, Pool, Workers};

use crate::core::gates::situation::{Candidate, Situation};
use crate::core::planning::Refusal;
use crate::core::selector::{Labels, Selector};
use crate::core::sequence::DRAIN_ONLY_NODE;
use crate::core::view::NodeObject;

/// The pool of workers that no other pool selects.
pub const OTHERS: &str = "others";

/// The longest name of a pool.
const LONGEST_NAME: usize = 63;

/// Whether a pool may be called so: letters, digits and dashes, all lower-case, and not like the pool of all others.
pub fn is_pool_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain) && name != OTHERS
}

/// Where every node comes in the order, and the pools that it is made of.
pub(super) struct Arrangement<'a> {
    ranks: BTreeMap<&'a NodeName, Rank<'a>>,
    places: BTreeMap<&'a NodeName, Place>,
    /// Those of which a node is raised, in their order.
    pub(super) pools: Vec<PlannedPool>,
}

/// Control planes first; then pool by pool, in each zone by zone; by name, and what runs the coordinator last of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'a> {
    worker: bool,
    pool: usize,
    /// The zone of the coordinator's node is the last, so that the node can be.
    with_the_coordinator: bool,
    /// What is in no zone comes after all that is.
    zone: (bool, Option<&'a str>),
    runs_the_coordinator: bool,
    name: &'a NodeName,
}

impl<'a> Arrangement<'a> {
    /// Of the nodes of a situation. A worker that several pools select belongs to the first of them.
    pub(super) fn of(situation: &'a Situation<'_>, workers: &Workers) -> Self {
        let pooled = workers.arranges();
        let selectors = Selectors::of(workers);
        let pool_of = |node: &Candidate<'_>| if pooled { selectors.pool_of(node) } else { 0 };
        let zone_of = |node: &'a Candidate<'_>| node.object().and_then(|object| object.zone.as_deref());
        let is_worker = |node: &&Candidate<'_>| !node.control_plane();
        let last: BTreeSet<(usize, Option<&str>)> = situation
            .nodes()
            .filter(is_worker)
            .filter(|node| situation.runs_coordinator(node))
            .map(|node| (pool_of(node), zone_of(node)))
            .collect();
        let (mut ranks, mut places) = (BTreeMap::new(), BTreeMap::new());
        let (mut sizes, mut raised) = (BTreeMap::<usize, usize>::new(), BTreeSet::new());
        for node in situation.nodes() {
            let worker = !node.control_plane();
            let (pool, zone) = (if worker { pool_of(node) } else { 0 }, zone_of(node));
            let in_zones = worker && pooled;
            let rank = Rank {
                worker,
                pool,
                with_the_coordinator: in_zones && last.contains(&(pool, zone)),
                zone: if in_zones { (zone.is_none(), zone) } else { (false, None) },
                runs_the_coordinator: situation.runs_coordinator(node),
                name: node.name,
            };
            ranks.insert(node.name, rank);
            if in_zones {
                let place = Place { pool: selectors.name(pool).to_owned(), zone: zone.map(str::to_owned) };
                places.insert(node.name, place);
                *sizes.entry(pool).or_default() += 1;
                if situation.raises(node) {
                    raised.insert(pool);
                }
            }
        }
        let pools = raised.into_iter().map(|pool| {
            let size = sizes.get(&pool).copied().unwrap_or_default();
            planned(workers, workers.pools.get(pool), selectors.name(pool), size)
        });
        Self { ranks, places, pools: pools.collect() }
    }

    pub(super) fn rank(&self, node: &NodeName) -> Option<Rank<'a>> {
        self.ranks.get(node).copied()
    }

    pub(super) fn place(&self, node: &NodeName) -> Option<Place> {
        self.places.get(node).cloned()
    }

    /// What is said for the pool that a worker belongs to.
    pub(super) fn on_blocked(&self, node: &NodeName) -> Option<OnBlocked> {
        let place = self.places.get(node)?;
        self.pools.iter().find(|pool| pool.name == place.pool)?.on_blocked
    }
}

/// What a pool leaves out it takes from what is said for all workers.
fn planned(workers: &Workers, pool: Option<&Pool>, name: &str, size: usize) -> PlannedPool {
    let share = pool.and_then(|pool| pool.max_unavailable).or(workers.max_unavailable);
    let canary = pool.and_then(|pool| pool.canary).or(workers.canary);
    PlannedPool {
        name: name.to_owned(),
        max_unavailable: share.map(|share| share.of(size)),
        canary: canary.filter(|canary| canary.nodes > 0),
        pause_after: pool.is_some_and(|pool| pool.pause_after),
        on_blocked: pool.and_then(|pool| pool.on_blocked),
    }
}

/// The selectors of a policy's pools, as far as they can be read.
pub(super) struct Selectors<'a> {
    pools: &'a [Pool],
    selectors: Vec<Option<Selector>>,
}

impl<'a> Selectors<'a> {
    pub(super) fn of(workers: &'a Workers) -> Self {
        let selectors = workers.pools.iter().map(|pool| pool.selector.parse().ok()).collect();
        Self { pools: &workers.pools, selectors }
    }

    /// The position of the first pool that selects a worker; behind all pools where none does.
    fn pool_of(&self, node: &Candidate<'_>) -> usize {
        let labels = node.object().and_then(|object| object.labels.as_ref());
        let selects = |selector: &Option<Selector>| selects(selector.as_ref(), labels);
        self.selectors.iter().position(selects).unwrap_or(self.pools.len())
    }

    fn name(&self, pool: usize) -> &'a str {
        self.pools.get(pool).map_or(OTHERS, |pool| pool.name.as_str())
    }

    /// The name of the pool that a worker belongs to.
    pub(super) fn pool_named(&self, node: &Candidate<'_>) -> &'a str {
        self.name(self.pool_of(node))
    }
}

fn selects(selector: Option<&Selector>, labels: Option<&Labels>) -> bool {
    selector.zip(labels).is_some_and(|(selector, labels)| selector.selects(labels))
}

/// What of a policy makes no sense, whatever the cluster.
pub(super) fn policy_rules(policy: &Policy) -> Vec<Refusal> {
    let workers = &policy.workers;
    let mut refusals = Vec::new();
    let shares = workers.pools.iter().map(|pool| pool.max_unavailable).chain([workers.max_unavailable]);
    for share in shares.flatten().filter(|share| !share.is_valid()) {
        refusals.push(Refusal::of(
            "max-unavailable",
            format!(
                "maxUnavailable {share} lets no worker go: allowed are a number from 1, or \"1%\" to \"100%\""
            ),
        ));
    }
    let mut names = BTreeSet::new();
    for pool in &workers.pools {
        if !is_pool_name(&pool.name) {
            refusals.push(Refusal::of("pool-name", bad_pool_name(&pool.name)));
        }
        if !names.insert(&pool.name) {
            refusals.push(Refusal::of(
                "pool-name",
                format!("two pools are called {}: give one of them another name", pool.name),
            ));
        }
        if let Err(error) = pool.selector.parse::<Selector>() {
            refusals.push(Refusal::of("pool-selector", format!("pool {}: {error}", pool.name)));
        }
    }
    if workers.failure_budget > 0 && policy.on_failure != OnFailure::Halt {
        refusals.push(Refusal::of(
            "failure-budget",
            format!(
                "a failure budget of {} lets the roll-out go on past a worker that failed, and onFailure {} puts it back: give \
                 one of the two",
                workers.failure_budget, policy.on_failure
            ),
        ));
    }
    refusals
}

/// Why a name is none for a pool, and what would be allowed.
pub fn bad_pool_name(name: &str) -> String {
    format!(
        "\"{name}\" is no name of a pool: allowed are up to {LONGEST_NAME} lower-case letters, digits and dashes, but not \
         \"{OTHERS}\", which is the pool of all workers that no other selects"
    )
}

/// What speaks against what is said of workers in this cluster.
pub(super) fn cluster_rules(situation: &Situation<'_>, policy: &Policy) -> Vec<Refusal> {
    let mut refusals = pool_rules(situation, &policy.workers);
    if !policy.accepts(DRAIN_ONLY_NODE) {
        refusals.extend(nowhere_to_go(situation, &policy.workers));
    }
    refusals
}

/// Where all nodes that take pods are drained at once, each drain but the first refuses to begin.
fn nowhere_to_go(situation: &Situation<'_>, workers: &Workers) -> Option<Refusal> {
    let takers = situation.nodes().filter(|node| node.object().is_some_and(NodeObject::takes_pods));
    let takers: Vec<&Candidate<'_>> = takers.collect();
    let arrangement = Arrangement::of(situation, workers);
    let (first, others) = takers.split_first()?;
    let place = arrangement.place(first.name)?;
    let pool = arrangement.pools.iter().find(|pool| pool.name == place.pool)?;
    let most = usize::try_from(pool.max_unavailable?).unwrap_or(usize::MAX);
    let together = |node: &&Candidate<'_>| {
        situation.raises(node) && arrangement.place(node.name).as_ref() == Some(&place)
    };
    let all = !others.is_empty() && takers.len() <= most && takers.iter().all(together);
    all.then(|| {
        let names: Vec<&str> = takers.iter().map(|node| node.name.as_str()).collect();
        Refusal::of(
            "max-unavailable",
            format!(
                "maxUnavailable takes all nodes that take pods away at once ({}): what is evicted there finds no room; give at \
                 most {}",
                names.join(", "),
                others.len()
            ),
        )
    })
}

/// A selector that selects nothing is more often wrong than meant.
fn pool_rules(situation: &Situation<'_>, workers: &Workers) -> Vec<Refusal> {
    if workers.pools.is_empty() {
        return Vec::new();
    }
    let candidates = || situation.nodes().filter(|node| !node.control_plane());
    let untold: Vec<&str> = candidates()
        .filter(|node| node.object().is_some_and(|object| object.labels.is_none()))
        .map(|node| node.name.as_str())
        .collect();
    if !untold.is_empty() {
        return vec![Refusal::of(
            "labels-unknown",
            format!(
                "no control plane tells the labels of {}, because there are too many: pools cannot be told apart; plan without \
                 pools",
                untold.join(", ")
            ),
        )];
    }
    let selectors = Selectors::of(workers);
    let taken: BTreeSet<usize> = candidates().map(|node| selectors.pool_of(node)).collect();
    let selected = |pool: &Pool| {
        let selector = pool.selector.parse().ok();
        candidates()
            .any(|node| selects(selector.as_ref(), node.object().and_then(|object| object.labels.as_ref())))
    };
    let empty = workers.pools.iter().enumerate().filter(|(position, _)| !taken.contains(position));
    empty
        .map(|(_, pool)| {
            let why = if selected(pool) {
                "selects only workers that pools before it select: move it up, or leave it out"
            } else {
                "selects no worker of this cluster: `kubectl get nodes --show-labels` shows their labels; mend the selector, \
                 or leave the pool out"
            };
            Refusal::of("pool-empty", format!("pool {}: the selector {} {why}", pool.name, pool.selector))
        })
        .collect()
}

#[cfg(test)]
mod tests;
