//! The values of a document that have a rule of their own: each is checked where it is read, so that the error knows its
//! line.

use std::fmt;

use liftlock_proto::argv;
use liftlock_proto::version::KubernetesVersion;
use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::schema;
use crate::core::selector::Selector;
use crate::core::{gates, pools};

/// The longest name of an object in Kubernetes
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names>).
const LONGEST_NAME: usize = 253;

/// A value that its field does not take: what it is, and what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

/// What an object is called, a document or a node: a DNS subdomain, as names in Kubernetes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend(
    "maxLength" = LONGEST_NAME,
    "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
))]
pub struct ObjectName(String);

/// A gate that can be consented to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(transform = schema::one_of_the_gates, with = "String")]
pub struct GateName(String);

/// A preflight check of kubeadm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9-]+$"))]
pub struct PreflightCheck(String);

/// A time-out in whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "u32")]
#[schemars(with = "u32", extend("minimum" = 1, "maximum" = u32::MAX))]
pub struct Seconds(u32);

/// A whole number, zero included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(into = "u32")]
#[schemars(with = "u32", extend("minimum" = 0, "maximum" = u32::MAX))]
pub struct Count(u32);

/// What a pool of workers is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("maxLength" = 63, "pattern" = "^[a-z0-9-]+$"))]
pub struct PoolName(String);

/// A label selector, as `kubectl -l` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["pool=gpu"]))]
pub struct SelectorText(String);

impl ValueError {
    pub(super) fn of(why: String) -> Self {
        Self(why)
    }
}

impl ObjectName {
    /// `to-v1.20.2`
    pub(super) fn of_target(version: KubernetesVersion) -> Self {
        Self(format!("to-{version}"))
    }

    /// Of a document that was accepted already.
    pub(super) fn decided(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl GateName {
    /// Of a policy that was accepted already, perhaps by a coordinator that knows more gates.
    pub(super) fn decided(name: String) -> Self {
        Self(name)
    }
}

impl PreflightCheck {
    /// Of a policy that was accepted already.
    pub(super) fn decided(name: String) -> Self {
        Self(name)
    }
}

impl PoolName {
    /// Of a policy that was accepted already.
    pub(super) fn decided(name: String) -> Self {
        Self(name)
    }
}

impl SelectorText {
    /// Of a policy that was accepted already.
    pub(super) fn decided(selector: String) -> Self {
        Self(selector)
    }
}

impl Count {
    /// Of a policy that was accepted already, or a default.
    pub(super) fn decided(number: u32) -> Self {
        Self(number)
    }
}

impl Seconds {
    /// Of a policy that was accepted already.
    pub(super) fn decided(seconds: u32) -> Self {
        Self(seconds)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let label = |label: &str| {
            label.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
                && label.bytes().next().is_some_and(alphanumeric)
                && label.bytes().last().is_some_and(alphanumeric)
        };
        if text.len() <= LONGEST_NAME && text.split('.').all(label) {
            return Ok(Self(text));
        }
        Err(ValueError(format!(
            "\"{text}\" is no name: allowed are up to {LONGEST_NAME} of lower-case letters, digits, dashes and dots, with a \
             letter or a digit at each end and beside each dot"
        )))
    }
}

impl TryFrom<String> for GateName {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        if gates::consents().any(|gate| gate == text) {
            return Ok(Self(text));
        }
        let known: Vec<&str> = gates::consents().collect();
        Err(ValueError(format!(
            "\"{text}\" is no gate that can be accepted: allowed are {}",
            known.join(", ")
        )))
    }
}

impl TryFrom<String> for PreflightCheck {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        if argv::preflight_check_name(&text) {
            return Ok(Self(text));
        }
        Err(ValueError(format!(
            "\"{text}\" is not the name of a kubeadm preflight check: allowed are letters, digits and dashes, such as \
             CoreDNSMigration"
        )))
    }
}

impl TryFrom<String> for PoolName {
    type Error = ValueError;

    fn try_from(name: String) -> Result<Self, ValueError> {
        if pools::is_pool_name(&name) { Ok(Self(name)) } else { Err(ValueError(pools::bad_pool_name(&name))) }
    }
}

impl TryFrom<String> for SelectorText {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        match text.parse::<Selector>() {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(ValueError(error.to_string())),
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeNumber { least: 1 }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeNumber { least: 0 }).map(Self)
    }
}

/// A number, and no text that says one.
struct WholeNumber {
    least: u32,
}

impl Visitor<'_> for WholeNumber {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.least, u32::MAX)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
        let fits = u32::try_from(number).ok().filter(|&number| number >= self.least);
        fits.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u32, E> {
        let fits = u32::try_from(number).ok().filter(|&number| number >= self.least);
        fits.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }
}

/// A truth value, and no text that says one.
pub(super) fn true_or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct TruthValue;

    impl Visitor<'_> for TruthValue {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: de::Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }
    }

    deserializer.deserialize_any(TruthValue)
}

impl From<ObjectName> for String {
    fn from(ObjectName(name): ObjectName) -> Self {
        name
    }
}

impl From<GateName> for String {
    fn from(GateName(name): GateName) -> Self {
        name
    }
}

impl From<PreflightCheck> for String {
    fn from(PreflightCheck(name): PreflightCheck) -> Self {
        name
    }
}

impl From<Seconds> for u32 {
    fn from(Seconds(seconds): Seconds) -> Self {
        seconds
    }
}

impl From<PoolName> for String {
    fn from(PoolName(name): PoolName) -> Self {
        name
    }
}

impl From<SelectorText> for String {
    fn from(SelectorText(text): SelectorText) -> Self {
        text
    }
}

impl From<Count> for u32 {
    fn from(Count(number): Count) -> Self {
        number
    }
}
