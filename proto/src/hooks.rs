//! Hooks that a node calls itself: names, of which its agent's own configuration says what they run.

use serde::{Deserialize, Serialize};

use crate::step::StepError;
use crate::v1;

/// What each node calls before and after it is raised, in the order in which it is called.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeHooks {
    /// Before anything is changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<NodeHook>,
    /// Once it takes pods again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<NodeHook>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeHook {
    /// As the agent's configuration has it.
    pub name: String,
    /// How long it may take.
    pub timeout_seconds: u32,
}

/// When a node calls hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeMoment {
    /// Before anything of it is changed.
    BeforeNode,
    /// Once it takes pods again.
    AfterNode,
}

impl NodeHooks {
    /// Whether there is none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl NodeMoment {
    /// `before-node`
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeNode => "before-node",
            Self::AfterNode => "after-node",
        }
    }
}

impl From<NodeHooks> for v1::NodeHooks {
    fn from(NodeHooks { before, after }: NodeHooks) -> Self {
        Self { before: messages(before), after: messages(after) }
    }
}

impl From<v1::NodeHooks> for NodeHooks {
    fn from(v1::NodeHooks { before, after }: v1::NodeHooks) -> Self {
        Self { before: hooks(before), after: hooks(after) }
    }
}

impl From<NodeMoment> for v1::NodeMoment {
    fn from(moment: NodeMoment) -> Self {
        match moment {
            NodeMoment::BeforeNode => Self::BeforeNode,
            NodeMoment::AfterNode => Self::AfterNode,
        }
    }
}

impl TryFrom<v1::NodeMoment> for NodeMoment {
    type Error = StepError;

    fn try_from(message: v1::NodeMoment) -> Result<Self, StepError> {
        match message {
            v1::NodeMoment::Unspecified => Err(StepError::Unknown),
            v1::NodeMoment::BeforeNode => Ok(Self::BeforeNode),
            v1::NodeMoment::AfterNode => Ok(Self::AfterNode),
        }
    }
}

/// As messages have them.
pub(crate) fn messages(hooks: Vec<NodeHook>) -> Vec<v1::NodeHook> {
    let message = |NodeHook { name, timeout_seconds }| v1::NodeHook { name, timeout_seconds };
    hooks.into_iter().map(message).collect()
}

/// Those of a message.
pub(crate) fn hooks(messages: Vec<v1::NodeHook>) -> Vec<NodeHook> {
    let hook = |v1::NodeHook { name, timeout_seconds }| NodeHook { name, timeout_seconds };
    messages.into_iter().map(hook).collect()
}
