//! What follows when a worker cannot be drained because budgets protect its pods.

use serde::{Deserialize, Serialize};

use crate::v1;

/// The annotation of a Node that says what follows there: `pause`, `skip` or `force`.
pub const ON_BLOCKED: &str = "liftlock.dev/on-blocked";

/// What follows when the drain of a worker has reached its time limit and evictions are still refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBlocked {
    /// The node has failed: what its policy for failures says.
    #[default]
    Pause,
    /// It is put back and quarantined, and the roll-out goes on with the others.
    Skip,
    /// The pods that are protected are deleted.
    Force,
}

/// What an operator decides for one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePolicy {
    /// The Node's name, as it was given: whether there is such a worker is looked at when a plan is made.
    pub name: String,
    /// What follows when it cannot be drained.
    pub on_blocked: OnBlocked,
}

impl OnBlocked {
    /// Every one, in the order of its number in messages.
    pub const ALL: [Self; 3] = [Self::Pause, Self::Skip, Self::Force];

    /// Its name in options, documents, annotations and messages to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Skip => "skip",
            Self::Force => "force",
        }
    }

    /// Whether it is what follows where nobody says anything.
    pub fn is_pause(&self) -> bool {
        *self == Self::Pause
    }
}

impl std::str::FromStr for OnBlocked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("\"{text}\" is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl std::fmt::Display for OnBlocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<OnBlocked> for v1::OnBlocked {
    fn from(policy: OnBlocked) -> Self {
        match policy {
            OnBlocked::Pause => Self::Pause,
            OnBlocked::Skip => Self::Skip,
            OnBlocked::Force => Self::Force,
        }
    }
}

impl From<v1::OnBlocked> for OnBlocked {
    fn from(message: v1::OnBlocked) -> Self {
        match message {
            v1::OnBlocked::Pause => Self::Pause,
            v1::OnBlocked::Skip => Self::Skip,
            v1::OnBlocked::Force => Self::Force,
        }
    }
}

/// Its number in a message.
pub(crate) fn number(policy: OnBlocked) -> i32 {
    v1::OnBlocked::from(policy).into()
}

/// The one of this number in a message; an unknown one deletes and passes over nothing.
pub(crate) fn numbered(number: i32) -> OnBlocked {
    v1::OnBlocked::try_from(number).unwrap_or_default().into()
}

impl From<NodePolicy> for v1::NodePolicy {
    fn from(NodePolicy { name, on_blocked }: NodePolicy) -> Self {
        Self { name, on_blocked: number(on_blocked) }
    }
}

impl From<v1::NodePolicy> for NodePolicy {
    fn from(message: v1::NodePolicy) -> Self {
        Self { on_blocked: message.on_blocked().into(), name: message.name }
    }
}
