//! Definitions of kinds: what they make the API server serve, and when it does.

use serde_json::{Value, json};

/// Whether an object is the definition of a kind.
pub fn defines(object: &Value, api_version: &str, kind: &str) -> bool {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let Some((group, version)) = api_version.split_once('/') else { return false };
    // Before apiextensions/v1 there may be one version alone.
    let versions = object.pointer("/spec/versions").and_then(Value::as_array);
    let has = versions.is_some_and(|versions| versions.iter().any(|one| one["name"] == version))
        || text("/spec/version") == Some(version);
    is_definition(object)
        && text("/spec/group") == Some(group)
        && text("/spec/names/kind") == Some(kind)
        && has
}

/// Whether an object is one.
pub fn is_definition(object: &Value) -> bool {
    object["kind"] == "CustomResourceDefinition"
}

/// Whether the API server serves what a definition defines.
pub fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|one| one["type"] == "Established" && one["status"] == json!("True"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_tells_which_kinds_it_brings() {
        let definition = json!({
            "kind": "CustomResourceDefinition",
            "spec": {"group": "example.com", "names": {"kind": "Widget"}, "versions": [{"name": "v1"}, {"name": "v2"}]},
        });
        assert!(defines(&definition, "example.com/v2", "Widget"));
        for (api_version, kind) in
            [("example.com/v3", "Widget"), ("example.com/v1", "Gadget"), ("v1", "Widget")]
        {
            assert!(!defines(&definition, api_version, kind), "{api_version} {kind}");
        }
    }
}
