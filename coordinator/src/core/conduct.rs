//! How a roll-out is conducted: when nodes may be begun on, and what is asked before.
//!
//! It stands beside the plan and is not part of its hash: the plan says what is done to each node, and was agreed to
//! step by step; the conduct only holds nodes back. So it may be changed while the roll-out goes on.

use serde::{Deserialize, Serialize};

use crate::core::alerts::AlertFilter;
use crate::core::hooks::Hooks;
use crate::core::window::Window;

/// How a roll-out is conducted. By default nothing holds a node back but the gates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conduct {
    /// Nodes are begun on only inside one of them; at any time where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Which alerts hold it, where the coordinator asks a Prometheus.
    #[serde(skip_serializing_if = "AlertFilter::is_default")]
    pub alerts: AlertFilter,
    /// What the coordinator calls before and after plans, pools and nodes.
    #[serde(skip_serializing_if = "Hooks::is_default")]
    pub hooks: Hooks,
}

impl Conduct {
    /// Whether it is as if nothing had been said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
