//! Hooks that a node calls itself: names, of which its agent's own configuration says what they run.

use serde::{Deserialize, Serialize};

use crate::step::StepError;
use crate::v1;

/// Characters of the longest name of a hook.
pub const LONGEST_NAME: u32 = 63;

/// What a name of a hook is made of, as a pattern.
pub const NAME_PATTERN: &str = "^[a-z0-9-]+$";

/// A text that is no name of a hook; what it says goes on from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no name of a hook: allowed are up to {LONGEST_NAME} of lower-case letters, digits and dashes")]
pub struct NoHookName;

/// Refuses what is no name of a hook.
///
/// # Errors
/// Where it is empty, longer than [`LONGEST_NAME`], or made of anything else than [`NAME_PATTERN`].
pub fn check_name(name: &str) -> Result<(), NoHookName> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let short = u32::try_from(name.len()).is_ok_and(|length| (1..=LONGEST_NAME).contains(&length));
    if short && name.bytes().all(fine) { Ok(()) } else { Err(NoHookName) }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_hook_is_of_one_to_63_lower_case_letters_digits_and_dashes() {
        let longest = "x".repeat(63);
        assert!(["a", "load-balancer-out", "7", "-", &longest].iter().all(|name| check_name(name).is_ok()));
        let longer = "x".repeat(64);
        for name in ["", "A", "a_b", "a.b", "ä", "a b", "../a", &longer] {
            assert_eq!(check_name(name), Err(NoHookName), "{name}");
        }
    }
}
