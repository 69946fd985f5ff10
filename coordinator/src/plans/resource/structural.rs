//! A JSON schema as a structural one, which is what API servers take
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>).
//!
//! Total: what a structural schema cannot say is left open there, and the coordinator, which reads every object as a
//! document, refuses it. So it is with unknown fields: an API server would drop them without a word, and is told to keep
//! them. No default is handed on: an API server would write it into the object, as if somebody had asked for it.

use serde_json::{Map, Value, json};

/// Keywords that mean the same in both.
const SAME: [&str; 11] = [
    "description",
    "enum",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "required",
    "type",
];

/// Formats that API servers know of those that schemas here have.
const FORMATS: [&str; 3] = ["date-time", "int32", "int64"];

/// Keeps what is not specified: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#controlling-pruning>
const OPEN: &str = "x-kubernetes-preserve-unknown-fields";

/// The structural schema that every value satisfies which satisfies this one.
pub(super) fn structural(schema: &Value) -> Value {
    let mut node = Map::new();
    let Some(fields) = schema.as_object() else {
        node.insert(OPEN.to_owned(), true.into());
        return Value::Object(node);
    };
    for (name, value) in fields {
        if SAME.contains(&name.as_str()) || name.starts_with("x-kubernetes-") {
            node.insert(name.clone(), value.clone());
        }
    }
    if let Some(format) = fields.get("format").filter(|format| FORMATS.iter().any(|known| *format == known)) {
        node.insert("format".to_owned(), format.clone());
    }
    for ways in ["oneOf", "anyOf"] {
        if let Some(ways) = fields.get(ways).and_then(Value::as_array) {
            node.extend(either(ways));
        }
    }
    if let Some(value) = fields.get("const") {
        node.insert("enum".to_owned(), json!([value]));
    }
    // Of a field that may be left out.
    if let Some(Value::Array(kinds)) = node.get("type").cloned() {
        let others: Vec<Value> = kinds.iter().filter(|kind| *kind != "null").cloned().collect();
        node.remove("type");
        match others.as_slice() {
            [only] => {
                node.insert("type".to_owned(), only.clone());
                node.insert("nullable".to_owned(), true.into());
            }
            [_, _] if ["integer", "string"].iter().all(|kind| others.iter().any(|other| other == kind)) => {
                node.insert("x-kubernetes-int-or-string".to_owned(), true.into());
            }
            _ => {
                node.insert(OPEN.to_owned(), true.into());
            }
        }
    }
    if let Some(Value::Object(properties)) = fields.get("properties") {
        let properties = properties.iter().map(|(name, schema)| (name.clone(), structural(schema)));
        node.insert("properties".to_owned(), Value::Object(properties.collect()));
    }
    if let Some(items) = fields.get("items") {
        node.insert("items".to_owned(), structural(items));
    }
    match fields.get("additionalProperties") {
        Some(Value::Bool(_)) => {
            node.insert(OPEN.to_owned(), true.into());
        }
        Some(schema) if !fields.contains_key("properties") => {
            node.insert("additionalProperties".to_owned(), structural(schema));
        }
        Some(_) | None => {}
    }
    if !["type", "x-kubernetes-int-or-string", OPEN].iter().any(|said| node.contains_key(*said)) {
        node.insert(OPEN.to_owned(), true.into());
    }
    Value::Object(node)
}

/// Ways that a structural schema has another word for: values of one text each, a whole number or a text, a value or
/// nothing.
fn either(ways: &[Value]) -> Map<String, Value> {
    let of_type = |way: &Value, kind: &str| way.get("type").is_some_and(|found| found == kind);
    let constants: Vec<Value> = ways.iter().flat_map(texts).collect();
    let mut node = Map::new();
    if ways.iter().all(|way| of_type(way, "string") && !texts(way).is_empty()) {
        node.insert("type".to_owned(), "string".into());
        node.insert("enum".to_owned(), constants.into());
        return node;
    }
    match ways {
        [way, nothing] | [nothing, way] if of_type(nothing, "null") => {
            if let Value::Object(way) = structural(way) {
                node = way;
            }
            node.insert("nullable".to_owned(), true.into());
        }
        [one, other]
            if (of_type(one, "integer") && of_type(other, "string"))
                || (of_type(one, "string") && of_type(other, "integer")) =>
        {
            node.insert("x-kubernetes-int-or-string".to_owned(), true.into());
        }
        _ => {
            node.insert(OPEN.to_owned(), true.into());
        }
    }
    node
}

/// The texts that are allowed, where only those are.
fn texts(way: &Value) -> Vec<Value> {
    match (way.get("const"), way.get("enum")) {
        (Some(text), _) => vec![text.clone()],
        (None, Some(Value::Array(texts))) => texts.clone(),
        (None, _) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_kept_for_the_coordinator_to_refuse_and_no_default_is_written_into_an_object() {
        let closed = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T", "type": "object",
            "properties": {"a": {"type": "integer", "format": "uint32", "minimum": 1, "default": 5}},
            "additionalProperties": false, "required": ["a"], "default": {"a": 5},
        });
        assert_eq!(
            structural(&closed),
            json!({
                "type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"],
                OPEN: true,
            })
        );
    }

    #[test]
    fn what_structural_schemas_say_in_other_words_is_said_in_them() {
        for (schema, expected) in [
            (json!({"type": ["string", "null"]}), json!({"type": "string", "nullable": true})),
            (json!({"type": ["integer", "string"]}), json!({"x-kubernetes-int-or-string": true})),
            (
                json!({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "%$"}]}),
                json!({"x-kubernetes-int-or-string": true}),
            ),
            (
                json!({"oneOf": [{"type": "string", "const": "a", "description": "b"}, {"type": "string", "enum": ["c"]}]}),
                json!({"type": "string", "enum": ["a", "c"]}),
            ),
            (
                json!({"anyOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}}, {"type": "null"}]}),
                json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "nullable": true}),
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
            ),
            (
                json!({"type": "array", "items": {"const": "a", "type": "string"}}),
                json!({"type": "array", "items": {"type": "string", "enum": ["a"]}}),
            ),
        ] {
            assert_eq!(structural(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn what_a_structural_schema_cannot_say_is_left_to_the_coordinator() {
        for schema in [
            json!(true),
            json!({}),
            json!({"$ref": "#/$defs/A"}),
            json!({"type": ["boolean", "string"]}),
            json!({"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]}),
        ] {
            assert_eq!(structural(&schema), json!({ OPEN: true }), "{schema}");
        }
    }
}
