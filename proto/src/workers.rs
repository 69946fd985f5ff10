//! How workers are raised: how many may be away at once, in which pools, and what goes first.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::blocked::{self, NodePolicy, OnBlocked};
use crate::strategy::Strategy;
use crate::v1;

/// How long canaries, and nodes that have taken others' places, are looked at where nothing is said, in seconds.
pub const SOAK_SECONDS: u32 = 600;

/// How workers are raised. The default: one at a time, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Workers {
    /// How many workers of a pool may be away at once, those that failed or that somebody else took away included. `None`:
    /// one is leased at a time, whatever else is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Share>,
    /// So many workers may fail before nothing more is begun.
    pub failure_budget: u32,
    /// What goes first in each pool that says nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// In the order in which they are raised. Workers that none of them selects come last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// What is decided otherwise for single workers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodePolicy>,
    /// Whether they are raised where they are, or other machines take their places.
    #[serde(skip_serializing_if = "Strategy::is_in_place")]
    pub strategy: Strategy,
    /// With [`Strategy::Surge`]: so many machines join before as many workers leave. `None`: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<Share>,
    /// With a strategy that replaces: the machines that join, in this order, as they were given; empty: those that have not
    /// joined, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    /// With [`Strategy::BlueGreen`]: how long the new nodes are looked at before the old ones leave, in seconds. `None`:
    /// [`SOAK_SECONDS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak_seconds: Option<u32>,
}

/// A part of a pool's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Nodes(u32),
    /// So many of a hundred.
    Percent(u32),
}

/// The workers that are raised first, one at a time, and how long they are looked at before the others follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// How many; 0: none.
    pub nodes: u32,
    /// How long nothing else of the pool is begun after the last of them has ended, in seconds.
    pub soak_seconds: u32,
}

/// Workers that are raised together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// What people call it.
    pub name: String,
    /// A label selector as kubectl takes it: `pool=gpu,tier in (a,b),!legacy`.
    pub selector: String,
    /// In the place of what is said for all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Share>,
    /// In the place of what is said for all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Once it is raised the roll-out waits for an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause_after: bool,
    /// In the place of what is said for all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_blocked: Option<OnBlocked>,
}

/// A pool as a plan has it: with numbers in the place of shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedPool {
    /// What people call it.
    pub name: String,
    /// How many of its workers may be away at once; `None`: one is leased at a time, whatever else is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// What goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Once it is raised the roll-out waits for an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause_after: bool,
    /// What follows when one of its workers cannot be drained; `None`: what is said for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_blocked: Option<OnBlocked>,
}

/// Where a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Place {
    /// The name of its pool.
    pub pool: String,
    /// Its zone; `None` where nobody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A text or a number that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given} is no share of workers: allowed are a whole number from 1, such as 2, or \"1%\" to \"100%\""
)]
pub struct ShareError {
    /// As it was given.
    given: String,
}

impl Workers {
    /// Whether it asks for nothing but the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says in which order workers are raised or how many at once: what is decided for single ones does not.
    pub fn arranges(&self) -> bool {
        *self != Self { nodes: self.nodes.clone(), ..Self::default() }
    }
}

impl Share {
    /// Of so many workers: rounded down, and at least one.
    pub fn of(self, workers: usize) -> u32 {
        match self {
            Self::Nodes(nodes) => nodes.max(1),
            Self::Percent(percent) => {
                let workers = u64::try_from(workers).unwrap_or(u64::MAX);
                let share = workers.saturating_mul(percent.into()) / 100;
                u32::try_from(share).unwrap_or(u32::MAX).max(1)
            }
        }
    }

    /// Whether there is such a share.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Nodes(nodes) => nodes > 0,
            Self::Percent(percent) => (1..=100).contains(&percent),
        }
    }

    fn checked(self, given: impl fmt::Display) -> Result<Self, ShareError> {
        if self.is_valid() { Ok(self) } else { Err(ShareError { given: given.to_string() }) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(nodes) => nodes.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let digits = |text: &str| {
            let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            all.then(|| text.parse::<u32>().ok()).flatten()
        };
        let share = match text.strip_suffix('%') {
            Some(percent) => digits(percent).map(Self::Percent),
            None => digits(text).map(Self::Nodes),
        };
        let given = format!("{text:?}");
        share.ok_or_else(|| ShareError { given: given.clone() })?.checked(given)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nodes(nodes) => serializer.serialize_u32(*nodes),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    /// A number is one of nodes; a text is a percentage, so that no text is taken for a number.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrPercentage;

        impl Visitor<'_> for NumberOrPercentage {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1, or \"1%\" to \"100%\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Share, E> {
                let nodes = u32::try_from(number).unwrap_or_default();
                Share::Nodes(nodes).checked(number).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Share, E> {
                let nodes = u32::try_from(number).unwrap_or_default();
                Share::Nodes(nodes).checked(number).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Share, E> {
                match text.parse() {
                    Ok(share @ Share::Percent(_)) => Ok(share),
                    Ok(Share::Nodes(_)) => Err(E::custom(ShareError { given: format!("{text:?}") })),
                    Err(error) => Err(E::custom(error)),
                }
            }
        }

        deserializer.deserialize_any(NumberOrPercentage)
    }
}

impl From<Share> for v1::Share {
    fn from(share: Share) -> Self {
        let amount = match share {
            Share::Nodes(nodes) => v1::share::Amount::Nodes(nodes),
            Share::Percent(percent) => v1::share::Amount::Percent(percent),
        };
        Self { amount: Some(amount) }
    }
}

fn share(message: Option<v1::Share>) -> Option<Share> {
    match message?.amount? {
        v1::share::Amount::Nodes(nodes) => Some(Share::Nodes(nodes)),
        v1::share::Amount::Percent(percent) => Some(Share::Percent(percent)),
    }
}

impl From<Canary> for v1::Canary {
    fn from(Canary { nodes, soak_seconds }: Canary) -> Self {
        Self { nodes, soak_seconds }
    }
}

impl From<v1::Canary> for Canary {
    fn from(v1::Canary { nodes, soak_seconds }: v1::Canary) -> Self {
        Self { nodes, soak_seconds }
    }
}

impl From<Workers> for v1::Workers {
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
            max_unavailable: max_unavailable.map(Into::into),
            failure_budget,
            canary: canary.map(Into::into),
            pools: pools.into_iter().map(Into::into).collect(),
            nodes: nodes.into_iter().map(Into::into).collect(),
            strategy: v1::Strategy::from(strategy).into(),
            max_surge: max_surge.map(Into::into),
            with,
            soak_seconds,
        }
    }
}

impl From<v1::Workers> for Workers {
    fn from(message: v1::Workers) -> Self {
        let strategy = message.strategy().into();
        let v1::Workers {
            max_unavailable,
            failure_budget,
            canary,
            pools,
            nodes,
            strategy: _,
            max_surge,
            with,
            soak_seconds,
        } = message;
        Self {
            max_unavailable: share(max_unavailable),
            failure_budget,
            canary: canary.map(Into::into),
            pools: pools.into_iter().map(Into::into).collect(),
            nodes: nodes.into_iter().map(Into::into).collect(),
            strategy,
            max_surge: share(max_surge),
            with,
            soak_seconds,
        }
    }
}

impl From<Pool> for v1::Pool {
    fn from(pool: Pool) -> Self {
        let Pool { name, selector, max_unavailable, canary, pause_after, on_blocked } = pool;
        Self {
            name,
            selector,
            max_unavailable: max_unavailable.map(Into::into),
            canary: canary.map(Into::into),
            pause_after,
            on_blocked: on_blocked.map(blocked::number),
        }
    }
}

impl From<v1::Pool> for Pool {
    fn from(message: v1::Pool) -> Self {
        let v1::Pool { name, selector, max_unavailable, canary, pause_after, on_blocked } = message;
        Self {
            name,
            selector,
            max_unavailable: share(max_unavailable),
            canary: canary.map(Into::into),
            pause_after,
            on_blocked: on_blocked.map(blocked::numbered),
        }
    }
}

impl From<PlannedPool> for v1::PlannedPool {
    fn from(pool: PlannedPool) -> Self {
        let PlannedPool { name, max_unavailable, canary, pause_after, on_blocked } = pool;
        let on_blocked = on_blocked.map(blocked::number);
        Self { name, max_unavailable, canary: canary.map(Into::into), pause_after, on_blocked }
    }
}

impl From<v1::PlannedPool> for PlannedPool {
    fn from(message: v1::PlannedPool) -> Self {
        let v1::PlannedPool { name, max_unavailable, canary, pause_after, on_blocked } = message;
        let on_blocked = on_blocked.map(blocked::numbered);
        Self { name, max_unavailable, canary: canary.map(Into::into), pause_after, on_blocked }
    }
}

impl From<Place> for v1::Place {
    fn from(Place { pool, zone }: Place) -> Self {
        Self { pool, zone }
    }
}

impl From<v1::Place> for Place {
    fn from(v1::Place { pool, zone }: v1::Place) -> Self {
        Self { pool, zone }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_is_a_number_or_a_percentage_and_nothing_else() {
        assert_eq!("2".parse(), Ok(Share::Nodes(2)));
        assert_eq!("20%".parse(), Ok(Share::Percent(20)));
        for refused in ["", "0", "0%", "101%", "-1", "+1", "1.5", "20 %", "%", "two", "99999999999"] {
            let error = refused.parse::<Share>().unwrap_err().to_string();
            assert!(error.contains(refused) && error.contains("\"1%\" to \"100%\""), "{error}");
        }
    }

    #[test]
    fn a_percentage_rounds_down_and_is_at_least_one_node() {
        let of = |percent, workers| Share::Percent(percent).of(workers);
        assert_eq!((of(20, 14), of(20, 15), of(20, 4), of(100, 7), of(50, 0)), (2, 3, 1, 7, 1));
        assert_eq!(Share::Nodes(3).of(2), 3);
    }

    proptest! {
        #[test]
        fn no_share_is_larger_than_its_part_but_for_the_one_node_without_which_nothing_would_go_on(
            percent in 1u32..=100, workers in 0usize..10_000,
        ) {
            let share = Share::Percent(percent).of(workers);
            let exact = f64::from(percent) * f64::from(u32::try_from(workers).unwrap()) / 100.0;
            prop_assert!(share == 1 || f64::from(share) <= exact);
            prop_assert!(f64::from(share) > exact - 1.0);
        }
    }
}
