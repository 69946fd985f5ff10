//! The document's JSON schema, from the very types that read it; what it says is also what errors say would be allowed.

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::hooks::{LONGEST_NAME, NAME_PATTERN};
use liftlock_proto::plan::OnFailure;
use liftlock_proto::strategy::Strategy;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::UpgradePlan;
use super::hooks::CalledOn;
use crate::core::gates;
use crate::core::window::Day;

/// The JSON schema (draft 2020-12) that every document satisfies.
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<UpgradePlan>()
}

/// What a field would take, in words; a field is named as in `spec.policy.accepted[2]`.
pub(super) fn allowed(field: &str) -> Option<String> {
    let schema = schema().to_value();
    let mut here = &schema;
    for part in field.split(['.', '[']).filter(|part| !part.is_empty()) {
        here = if part.ends_with(']') {
            here.get("items")?
        } else {
            let known = here.get("properties").and_then(|fields| fields.get(part));
            known.or_else(|| here.get("additionalProperties"))?
        };
    }
    in_words(here)
}

fn in_words(schema: &Value) -> Option<String> {
    let number = |bound: &str| schema.get(bound).and_then(Value::as_u64);
    if let Some(values) = values(schema) {
        return Some(values);
    }
    let kind = match schema.get("type")? {
        // Only a share is of two kinds.
        Value::Array(kinds) if kinds.contains(&"string".into()) && kinds.contains(&"integer".into()) => {
            return Some("a whole number from 1, or a text from \"1%\" to \"100%\"".to_owned());
        }
        // Of a field that may be left out.
        Value::Array(kinds) => kinds.first()?.as_str()?,
        kind => kind.as_str()?,
    };
    Some(match (kind, number("minimum"), number("maximum")) {
        ("integer", Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
        ("boolean", ..) => "true or false".to_owned(),
        ("array", ..) => {
            format!("a list, each entry {}", schema.get("items").and_then(in_words).unwrap_or_default())
        }
        ("object", ..) => {
            let fields = schema.get("properties").and_then(Value::as_object);
            match fields.map(|fields| fields.keys().map(String::as_str).collect::<Vec<_>>()) {
                Some(fields) => format!("a mapping with the fields {}", fields.join(", ")),
                None => "a mapping".to_owned(),
            }
        }
        ("string", ..) => match schema.get("examples").and_then(|examples| examples.get(0)) {
            Some(example) => format!("a text such as {}", example.as_str()?),
            None => "a text".to_owned(),
        },
        (other, ..) => other.to_owned(),
    })
}

/// `halt, roll-back-node or roll-back-cluster`
fn values(schema: &Value) -> Option<String> {
    let entries = |name: &str| schema.get(name)?.as_array();
    let texts: Vec<&str> = match entries("enum") {
        Some(texts) => texts.iter().filter_map(Value::as_str).collect(),
        None => entries("oneOf")?.iter().filter_map(|way| way.get("const")?.as_str()).collect(),
    };
    match texts.split_last()? {
        (only, []) => Some((*only).to_owned()),
        (last, others) => Some(format!("{} or {last}", others.join(", "))),
    }
}

/// A released version of Kubernetes.
pub(super) fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^v?1\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)$",
        "examples": ["v1.20.2"],
    })
}

/// A part of a pool's workers: the least number is for numbers, the pattern for texts.
pub(super) fn share(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["integer", "string"],
        "minimum": 1,
        "maximum": u32::MAX,
        "pattern": "^([1-9]|[1-9][0-9]|100)%$",
        "examples": [2, "20%"],
    })
}

/// What follows a failure.
pub(super) fn on_failure(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": OnFailure::ALL.map(OnFailure::name) })
}

/// Days of the week, at least one.
pub(super) fn days(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "string", "enum": Day::ALL.map(Day::name) },
        "minItems": 1,
    })
}

/// A time of day in whole minutes.
pub(super) fn time_of_day(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$", "examples": ["22:00"] })
}

/// A name of the IANA time zone database.
pub(super) fn time_zone(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "examples": ["Europe/Berlin"] })
}

/// What a hook is called in a configuration.
pub(super) fn hook_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": LONGEST_NAME, "pattern": NAME_PATTERN, "examples": ["announce"] })
}

/// Who calls a hook.
pub(super) fn hook_caller(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": CalledOn::ALL.map(CalledOn::name) })
}

/// An address that is told over HTTP.
pub(super) fn hook_url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^https?://[^@]+$", "examples": ["https://chat.example/upgrades"] })
}

/// What follows when a worker cannot be drained.
pub(super) fn on_blocked(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": OnBlocked::ALL.map(OnBlocked::name) })
}

/// How workers come to a version.
pub(super) fn strategy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Strategy::ALL.map(Strategy::name) })
}

/// The same of control planes, of which etcd has one set of members.
pub(super) fn control_planes_strategy(_: &mut SchemaGenerator) -> Schema {
    let one_at_a_time = [Strategy::InPlace, Strategy::Surge];
    json_schema!({ "type": "string", "enum": one_at_a_time.map(Strategy::name) })
}

/// What the coordinator tells and does not read: schemas call that read-only.
pub(super) fn told_only(schema: &mut Schema) {
    schema.remove("writeOnly");
    schema.insert("readOnly".to_owned(), true.into());
}

/// Restricts a text to the gates that can be consented to.
pub(super) fn one_of_the_gates(schema: &mut Schema) {
    schema.insert("enum".to_owned(), gates::consents().collect::<Vec<_>>().into());
}
