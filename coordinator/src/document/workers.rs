//! How workers are raised, as a document says it.

use liftlock_proto::blocked::{NodePolicy, OnBlocked};
use liftlock_proto::strategy::Strategy;
use liftlock_proto::workers::{Canary, Pool, SOAK_SECONDS, Share, Workers};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::values::{Count, ObjectName, PoolName, SelectorText};

/// How workers are raised: the fields of [`Workers`], each checked where it stands. Where it is left out: one at a time, by
/// name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkersSpec {
    /// How many workers of a pool may be away at once, such as 2 or "20%" (of the pool, rounded down, at least one); those that
    /// failed, are not Ready or are cordoned by somebody else count. They are of one zone at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::share")]
    pub max_unavailable: Option<Share>,
    /// So many workers may fail before nothing more is begun.
    pub failure_budget: Count,
    /// What is raised first in each pool that says nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// In the order in which they are raised. A worker that several select belongs to the first; those that none selects are
    /// the last pool, `others`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolSpec>,
    /// What is decided otherwise for single workers; the nearest word counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeSpec>,
    /// Whether workers are raised where they are (`in-place`), or other machines join at the version and workers leave: some at
    /// a time (`surge`), or all at once and only after the new ones were looked at (`blue-green`).
    #[serde(skip_serializing_if = "Strategy::is_in_place")]
    #[schemars(schema_with = "schema::strategy")]
    pub strategy: Strategy,
    /// With `surge`: so many machines join before as many workers leave, such as 2 or "20%" (of the workers, rounded down, at
    /// least one). Where it is left out: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::share")]
    pub max_surge: Option<Share>,
    /// With `surge` and `blue-green`: the machines that join, in this order. Where it is left out: those that have not joined and
    /// whose agents are connected, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    /// With `blue-green`: how long the new nodes are looked at before the old ones leave, in seconds. Where it is left out: 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak_seconds: Option<Count>,
}

/// The workers of a pool that are raised first, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanarySpec {
    /// How many; 0: none.
    pub nodes: Count,
    /// How long nothing else of the pool is begun after the last of them has ended, in seconds.
    #[serde(default = "soak")]
    pub soak_seconds: Count,
}

fn soak() -> Count {
    Count::decided(SOAK_SECONDS)
}

/// Workers that are raised together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// What people call it; each has a name of its own.
    pub name: PoolName,
    /// Which workers belong to it, by their labels, as `kubectl -l` takes it: `pool=gpu,tier in (a,b),!legacy`.
    pub selector: SelectorText,
    /// In the place of what is said for all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::share")]
    pub max_unavailable: Option<Share>,
    /// In the place of what is said for all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// Once it is raised the roll-out waits for `liftlock resume`.
    #[serde(default, deserialize_with = "super::values::true_or_false")]
    pub pause_after: bool,
    /// In the place of what the policy says for all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::on_blocked")]
    pub on_blocked: Option<OnBlocked>,
}

/// What is decided for one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// The Node's name.
    pub name: ObjectName,
    /// What follows when it cannot be drained because budgets protect its pods.
    #[schemars(schema_with = "schema::on_blocked")]
    pub on_blocked: OnBlocked,
}

impl WorkersSpec {
    /// Whether it asks for nothing but the default.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Canary> for CanarySpec {
    fn from(Canary { nodes, soak_seconds }: Canary) -> Self {
        Self { nodes: Count::decided(nodes), soak_seconds: Count::decided(soak_seconds) }
    }
}

impl From<CanarySpec> for Canary {
    fn from(CanarySpec { nodes, soak_seconds }: CanarySpec) -> Self {
        Self { nodes: nodes.into(), soak_seconds: soak_seconds.into() }
    }
}

impl From<Pool> for PoolSpec {
    fn from(pool: Pool) -> Self {
        let Pool { name, selector, max_unavailable, canary, pause_after, on_blocked } = pool;
        Self {
            name: PoolName::decided(name),
            selector: SelectorText::decided(selector),
            max_unavailable,
            canary: canary.map(Into::into),
            pause_after,
            on_blocked,
        }
    }
}

impl From<PoolSpec> for Pool {
    fn from(spec: PoolSpec) -> Self {
        let PoolSpec { name, selector, max_unavailable, canary, pause_after, on_blocked } = spec;
        Self {
            name: name.into(),
            selector: selector.into(),
            max_unavailable,
            canary: canary.map(Into::into),
            pause_after,
            on_blocked,
        }
    }
}

impl From<NodePolicy> for NodeSpec {
    fn from(NodePolicy { name, on_blocked }: NodePolicy) -> Self {
        Self { name: ObjectName::decided(name), on_blocked }
    }
}

impl From<NodeSpec> for NodePolicy {
    fn from(NodeSpec { name, on_blocked }: NodeSpec) -> Self {
        Self { name: name.into(), on_blocked }
    }
}

impl From<Workers> for WorkersSpec {
    fn from(workers: Workers) -> Self {
        let Workers {
            max_unavailable,
            failure_budget,
            canary,
            pools,
            nodes,
            strategy,
            max_surge,
            with,
            soak_seconds,
        } = workers;
        Self {
            max_unavailable,
            failure_budget: Count::decided(failure_budget),
            canary: canary.map(Into::into),
            pools: pools.into_iter().map(Into::into).collect(),
            nodes: nodes.into_iter().map(Into::into).collect(),
            strategy,
            max_surge,
            with,
            soak_seconds: soak_seconds.map(Count::decided),
        }
    }
}

impl From<WorkersSpec> for Workers {
    fn from(spec: WorkersSpec) -> Self {
        let WorkersSpec {
            max_unavailable,
            failure_budget,
            canary,
            pools,
            nodes,
            strategy,
            max_surge,
            with,
            soak_seconds,
        } = spec;
        Self {
            max_unavailable,
            failure_budget: failure_budget.into(),
            canary: canary.map(Into::into),
            pools: pools.into_iter().map(Into::into).collect(),
            nodes: nodes.into_iter().map(Into::into).collect(),
            strategy,
            max_surge,
            with,
            soak_seconds: soak_seconds.map(Into::into),
        }
    }
}
