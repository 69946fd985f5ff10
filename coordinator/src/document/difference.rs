//! What sets two documents apart, field by field.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Spec;

/// A field in which two documents differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `spec.policy.onFailure`
    pub field: String,
    /// What the first says.
    pub one: Value,
    /// What the other says.
    pub other: Value,
}

/// Every field in which they differ, in alphabetical order; what a document leaves out counts as its default.
///
/// # Errors
/// Where a document has no form as JSON, which none lacks.
pub fn differences(one: &Spec, other: &Spec) -> Result<Vec<Difference>, serde_json::Error> {
    let mut found = Vec::new();
    compare("spec", &serde_json::to_value(one)?, &serde_json::to_value(other)?, &mut found);
    Ok(found)
}

fn compare(field: &str, one: &Value, other: &Value, found: &mut Vec<Difference>) {
    match (one, other) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let value = |fields: &serde_json::Map<String, Value>| {
                    fields.get(name).cloned().unwrap_or(Value::Null)
                };
                compare(&format!("{field}.{name}"), &value(left), &value(right), found);
            }
        }
        // A mapping that is left out is one in which nothing is said.
        (Value::Object(_), Value::Null) => compare(field, one, &Value::Object(Map::new()), found),
        (Value::Null, Value::Object(_)) => compare(field, &Value::Object(Map::new()), other, found),
        _ if one == other => {}
        _ => found.push(Difference { field: field.to_owned(), one: one.clone(), other: other.clone() }),
    }
}
