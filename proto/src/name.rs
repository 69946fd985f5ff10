//! Names and numbers that identify things on both sides.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a Kubernetes Node: a DNS-1123 subdomain. Safe as one component of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// The name of a plan: `p-` and the first 12 hexadecimal digits of its hash. Safe as one component of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanId(String);

/// A lease's number. Each lease that was ever granted has a higher one than all before it, across restarts
/// of the coordinator too. 0 is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

/// A text that is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {what}")]
pub struct NameError {
    /// What was given.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
}

impl NodeName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let label = |label: &str| {
            let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = label.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError {
                text: text.to_owned(),
                what: "a node's name: lower-case letters, digits, '-' and '.', at most 253 characters",
            })
        }
    }
}

impl PlanId {
    /// The id of the plan with this hash (lower-case hexadecimal SHA-256).
    pub fn of_hash(hash: &str) -> Result<Self, NameError> {
        format!("p-{}", hash.get(..12).unwrap_or(hash)).parse()
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlanId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix("p-").unwrap_or_default();
        if digits.len() == 12 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError { text: text.to_owned(), what: "a plan's id: p- and 12 hexadecimal digits" })
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

as_text!(NodeName, PlanId);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_cannot_climb_out_of_a_folder() {
        for text in ["", ".", "..", "a/b", "../a", "a..b", "A", "a_b", "-a", "a-", "a\0b", "a b"] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?} parsed");
        }
        assert!("cp1".parse::<NodeName>().is_ok());
        assert!("ip-10-0-0-1.eu-west-1.compute.internal".parse::<NodeName>().is_ok());
    }

    #[test]
    fn a_plan_id_is_p_and_twelve_hexadecimal_digits() {
        assert!("p-0123456789ab".parse::<PlanId>().is_ok());
        for text in ["", "p-", "p-0123", "p-0123456789aB", "../0123456789ab", "p-0123456789abc"] {
            assert!(text.parse::<PlanId>().is_err(), "{text:?} parsed");
        }
    }
}
