//! How control planes come to a version: which machines they are in the end.

use serde::{Deserialize, Serialize};

use crate::strategy::Strategy;
use crate::v1;

/// How control planes come to the version. The default: each is raised where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ControlPlanes {
    /// Whether they stay where they are, or other machines take their places once they are raised, one at a time.
    #[serde(skip_serializing_if = "Strategy::is_in_place")]
    pub strategy: Strategy,
    /// With [`Strategy::Surge`]: every control plane that there is in the end, as they were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl ControlPlanes {
    /// Whether nothing was said of them.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<ControlPlanes> for v1::ControlPlanes {
    fn from(ControlPlanes { strategy, nodes }: ControlPlanes) -> Self {
        Self { strategy: v1::Strategy::from(strategy).into(), nodes }
    }
}

impl From<v1::ControlPlanes> for ControlPlanes {
    fn from(message: v1::ControlPlanes) -> Self {
        let strategy = message.strategy().into();
        Self { strategy, nodes: message.nodes }
    }
}
