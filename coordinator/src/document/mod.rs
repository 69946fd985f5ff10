//! The plan as a document: what an operator wants of the cluster, in YAML or JSON, for Git to keep, people to review and
//! editors to complete.
//!
//! ```yaml
//! apiVersion: liftlock.dev/v1
//! kind: UpgradePlan
//! metadata:
//!   name: to-v1.20.2
//! spec:
//!   toVersion: v1.20.2
//!   policy:
//!     drainTimeoutSeconds: 600
//!     accepted: [api-outage]
//! ```
//!
//! It says what is wanted and nothing of how: nodes, order and steps are the coordinator's to plan. What it says and what
//! options say come to the same version and [`Policy`]. Beside them it says how the roll-out is [conducted](Conduct).

use liftlock_proto::plan::Policy;
use liftlock_proto::version::KubernetesVersion;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::core::conduct::Conduct;

mod conduct;
mod control_planes;
mod difference;
mod hooks;
mod read;
mod schema;
mod spec;
mod values;
mod workers;

pub use conduct::{AlertsSpec, Days, LabelValues, WindowSpec};
pub use control_planes::ControlPlanesSpec;
pub use difference::{Difference, differences};
pub use hooks::{HookList, HookSpec, HooksSpec};
pub use read::{DocumentError, parse, parse_file};
pub use schema::schema;
pub use spec::{PolicySpec, Spec};
pub use values::{Count, GateName, ObjectName, PoolName, PreflightCheck, Seconds, SelectorText, ValueError};
pub use workers::{CanarySpec, PoolSpec, WorkersSpec};

/// What to raise a cluster to, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpgradePlan {
    /// The version of this format.
    pub api_version: ApiVersion,
    /// What the document is about.
    pub kind: Kind,
    /// What people and programs call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// What is wanted.
    pub spec: Spec,
    /// What `liftlock get` tells of the roll-out. It is not read.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>", transform = schema::told_only)]
    status: Unread,
}

/// Whatever stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "IgnoredAny")]
struct Unread;

impl From<IgnoredAny> for Unread {
    fn from(_: IgnoredAny) -> Self {
        Self
    }
}

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only one so far.
    #[serde(rename = "liftlock.dev/v1")]
    V1,
}

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// The upgrade of a cluster.
    UpgradePlan,
}

/// What a document is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// For people; it decides nothing.
    pub name: ObjectName,
}

impl UpgradePlan {
    /// The document that wants this, named after its target.
    pub fn new(to_version: KubernetesVersion, policy: Policy) -> Self {
        let workers = policy.workers.clone().into();
        let control_planes = policy.control_planes.clone().into();
        let hooks = HooksSpec::default().on_nodes(policy.node_hooks.clone());
        Self {
            api_version: ApiVersion::V1,
            kind: Kind::UpgradePlan,
            metadata: Some(Metadata { name: ObjectName::of_target(to_version) }),
            spec: Spec {
                to_version,
                policy: policy.into(),
                control_planes,
                workers,
                windows: Vec::new(),
                alerts: AlertsSpec::default(),
                hooks,
            },
            status: Unread,
        }
    }

    /// The same, with a roll-out that is conducted like this.
    #[must_use]
    pub fn conducted(mut self, conduct: Conduct) -> Self {
        let Conduct { windows, alerts, hooks } = conduct;
        self.spec.windows = windows.into_iter().map(Into::into).collect();
        self.spec.alerts = alerts.into();
        self.spec.hooks = HooksSpec::from(hooks).on_nodes(self.spec.hooks.of_nodes());
        self
    }

    /// The same, called so; named after its target where it has no other name.
    #[must_use]
    pub fn named(mut self, name: String) -> Self {
        if !name.is_empty() {
            self.metadata = Some(Metadata { name: ObjectName::decided(name) });
        }
        self
    }

    /// What it is called, if it says so.
    pub fn name(&self) -> Option<&ObjectName> {
        self.metadata.as_ref().map(|metadata| &metadata.name)
    }

    /// How its roll-out is to be conducted.
    pub fn conduct(&self) -> Conduct {
        Conduct {
            windows: self.spec.windows.iter().cloned().map(Into::into).collect(),
            alerts: self.spec.alerts.clone().into(),
            hooks: self.spec.hooks.clone().into(),
        }
    }

    /// What it wants, as plans are made from it.
    pub fn wanted(self) -> (KubernetesVersion, Policy) {
        let Spec { to_version, policy, control_planes, workers, windows: _, alerts: _, hooks } = self.spec;
        let (control_planes, workers) = (control_planes.into(), workers.into());
        (to_version, Policy { control_planes, workers, node_hooks: hooks.of_nodes(), ..policy.into() })
    }
}

#[cfg(test)]
mod tests;
