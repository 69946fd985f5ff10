//! How control planes come to the version, as a document says it.

use liftlock_proto::control_planes::ControlPlanes;
use liftlock_proto::strategy::Strategy;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::schema;

/// How control planes come to the version: the fields of [`ControlPlanes`]. Where it is left out: each is raised where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ControlPlanesSpec {
    /// Whether control planes stay where they are (`in-place`), or, once they are raised, machines join at the version and take the
    /// places of those that `nodes` does not name, one at a time (`surge`).
    #[serde(skip_serializing_if = "Strategy::is_in_place", deserialize_with = "in_place_or_surge")]
    #[schemars(schema_with = "schema::control_planes_strategy")]
    pub strategy: Strategy,
    /// With `surge`: every control plane that there is in the end, as many as there are now: those that stay, and machines that
    /// have not joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

fn in_place_or_surge<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Strategy, D::Error> {
    match Strategy::deserialize(deserializer)? {
        strategy @ Strategy::BlueGreen => {
            Err(de::Error::unknown_variant(strategy.name(), &["in-place", "surge"]))
        }
        strategy => Ok(strategy),
    }
}

impl ControlPlanesSpec {
    /// Whether nothing was said of them.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<ControlPlanes> for ControlPlanesSpec {
    fn from(ControlPlanes { strategy, nodes }: ControlPlanes) -> Self {
        Self { strategy, nodes }
    }
}

impl From<ControlPlanesSpec> for ControlPlanes {
    fn from(ControlPlanesSpec { strategy, nodes }: ControlPlanesSpec) -> Self {
        Self { strategy, nodes }
    }
}
