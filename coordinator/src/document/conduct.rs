//! How a roll-out is conducted, as a document says it: each value checked where it stands.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::values::ValueError;
use crate::core::alerts::AlertFilter;
use crate::core::window::{Day, TimeOfDay, Window, Zone};

/// A part of the week in which nodes may be begun on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowSpec {
    /// The days on which it opens.
    #[schemars(schema_with = "schema::days")]
    pub days: Days,
    /// When it opens.
    #[schemars(schema_with = "schema::time_of_day")]
    pub from: TimeOfDay,
    /// When it closes; on the following day where that is not after `from`.
    #[schemars(schema_with = "schema::time_of_day")]
    pub to: TimeOfDay,
    /// Where these are times of day: a name of the IANA time zone database.
    #[schemars(schema_with = "schema::time_zone")]
    pub time_zone: Zone,
}

/// Which of the alerts that fire hold the roll-out: all, but for those of severity `none`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AlertsSpec {
    /// Names of alerts that hold nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Only alerts that have each of these labels, with one of its values, hold the roll-out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub only_matching: BTreeMap<String, LabelValues>,
}

impl AlertsSpec {
    /// Whether it is as if nothing had been said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<AlertsSpec> for AlertFilter {
    fn from(spec: AlertsSpec) -> Self {
        let AlertsSpec { ignore, only_matching } = spec;
        let only_matching = only_matching.into_iter().map(|(label, values)| (label, values.into()));
        Self { ignore, only_matching: only_matching.collect() }
    }
}

impl From<AlertFilter> for AlertsSpec {
    fn from(filter: AlertFilter) -> Self {
        let AlertFilter { ignore, only_matching } = filter;
        let only_matching = only_matching.into_iter().map(|(label, values)| (label, LabelValues(values)));
        Self { ignore, only_matching: only_matching.collect() }
    }
}

/// At least one value of a label: with none no alert would ever hold the roll-out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
#[schemars(with = "Vec<String>", extend("minItems" = 1))]
pub struct LabelValues(Vec<String>);

impl TryFrom<Vec<String>> for LabelValues {
    type Error = ValueError;

    fn try_from(values: Vec<String>) -> Result<Self, ValueError> {
        if values.is_empty() {
            return Err(ValueError::of(
                "a label without a value is on no alert, so that none would hold: allowed is at least one value"
                    .to_owned(),
            ));
        }
        Ok(Self(values))
    }
}

impl From<LabelValues> for Vec<String> {
    fn from(LabelValues(values): LabelValues) -> Self {
        values
    }
}

/// At least one day of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Day>", into = "Vec<Day>")]
pub struct Days(Vec<Day>);

impl TryFrom<Vec<Day>> for Days {
    type Error = ValueError;

    fn try_from(days: Vec<Day>) -> Result<Self, ValueError> {
        if days.is_empty() {
            let allowed = Day::ALL.map(Day::name).join(", ");
            return Err(ValueError::of(format!(
                "a window without a day never opens: allowed is at least one of {allowed}"
            )));
        }
        Ok(Self(days))
    }
}

impl From<Days> for Vec<Day> {
    fn from(Days(days): Days) -> Self {
        days
    }
}

impl From<WindowSpec> for Window {
    fn from(spec: WindowSpec) -> Self {
        let WindowSpec { days: Days(days), from, to, time_zone } = spec;
        Self { days, from, to, time_zone }
    }
}

impl From<Window> for WindowSpec {
    fn from(window: Window) -> Self {
        let Window { days, from, to, time_zone } = window;
        Self { days: Days(days), from, to, time_zone }
    }
}
