//! Where a roll-out stands on its path: which stop its plan leads to, and which stops follow.

use std::collections::BTreeSet;

use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::plan::{Plan, PlannedNode, Role};
use liftlock_proto::strategy::Part;
use liftlock_proto::version::KubernetesVersion;
use serde::{Deserialize, Serialize};

use crate::core::membership::Membership;

/// Where a roll-out stands on its path. Only `next` ever changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    /// Which stop its plan leads to, counted from 1.
    pub stop: u32,
    /// The stops that follow, the nearest first.
    pub onward: Vec<Stop>,
    /// What has become of the nearest.
    pub next: Next,
}

/// A stop that lies ahead: enough of its plan to know it again, and to say what is different where it is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// The plan that leads there.
    pub id: PlanId,
    /// That plan's hash.
    pub hash: String,
    /// What the cluster is expected to run before.
    pub from_version: KubernetesVersion,
    /// What it runs afterwards.
    pub to_version: KubernetesVersion,
    /// The plan's nodes, in the order of leases.
    pub nodes: Vec<Passing>,
}

/// A node that a later plan raises.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passing {
    /// The Kubernetes Node's name.
    pub name: NodeName,
    /// What it is in that plan.
    pub role: Role,
    /// What it does in that plan.
    #[serde(default, skip_serializing_if = "Part::is_raise")]
    pub part: Part,
}

/// What has become of the nearest stop ahead.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Next {
    /// It begins by itself once this stop is reached.
    #[default]
    Awaited,
    /// Its roll-out has begun.
    Begun,
    /// The cluster is not as the path was made for.
    Halted {
        /// What is different, and what to do.
        reason: String,
    },
}

impl Default for Leg {
    fn default() -> Self {
        Self { stop: 1, onward: Vec::new(), next: Next::Awaited }
    }
}

impl Leg {
    /// The first leg of a path on which these plans follow.
    pub fn first(onward: &[Plan]) -> Self {
        Self { onward: onward.iter().map(Stop::of).collect(), ..Self::default() }
    }

    /// The leg that the next stop's roll-out is on.
    #[must_use]
    pub fn following(&self) -> Self {
        Self {
            stop: self.stop.saturating_add(1),
            onward: self.onward.get(1..).unwrap_or_default().to_vec(),
            next: Next::Awaited,
        }
    }

    /// The nearest stop, unless its roll-out has begun.
    pub fn ahead(&self) -> Option<&Stop> {
        self.onward.first().filter(|_| self.next != Next::Begun)
    }

    /// How many stops the whole path has.
    pub fn stops(&self) -> u32 {
        self.stop.saturating_add(u32::try_from(self.onward.len()).unwrap_or(u32::MAX))
    }
}

impl Stop {
    /// The stop that a plan leads to.
    pub fn of(plan: &Plan) -> Self {
        Self {
            id: plan.id.clone(),
            hash: plan.hash.clone(),
            from_version: plan.from_version,
            to_version: plan.to_version,
            nodes: plan.nodes.iter().map(Passing::of).collect(),
        }
    }

    /// Who joins and who leaves by its plan; `None` where that raises nodes where they are.
    pub fn membership(&self) -> Option<Membership> {
        Membership::of_parts(self.nodes.iter().map(|node| (&node.name, node.part)))
    }

    /// What sets a plan apart from the one that leads here; `None` where it is the same.
    pub fn difference(&self, now: &Plan) -> Option<String> {
        if self.hash == now.hash {
            return None;
        }
        let (then, there): (BTreeSet<&NodeName>, BTreeSet<&NodeName>) = (
            self.nodes.iter().map(|node| &node.name).collect(),
            now.nodes.iter().map(|node| &node.name).collect(),
        );
        let named = |names: Vec<&NodeName>, what: &str| {
            let names: Vec<&str> = names.into_iter().map(NodeName::as_str).collect();
            (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
        };
        let told: Vec<String> = [
            named(there.difference(&then).copied().collect(), "it raises also"),
            named(then.difference(&there).copied().collect(), "it does not raise"),
            (self.from_version != now.from_version)
                .then(|| format!("it comes from {} and not from {}", now.from_version, self.from_version)),
        ]
        .into_iter()
        .flatten()
        .collect();
        Some(if told.is_empty() {
            "its nodes take another order or other steps, or its add-ons are others".to_owned()
        } else {
            told.join("; ")
        })
    }
}

impl Passing {
    fn of(node: &PlannedNode) -> Self {
        Self { name: node.name.clone(), role: node.role, part: node.part() }
    }
}
