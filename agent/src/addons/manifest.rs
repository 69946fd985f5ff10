//! One file of manifests: documents of YAML, each an object or a list of them.

use serde_json::{Map, Value, json};

use super::LABEL;
use super::record;
use crate::host::objects::ObjectName;

/// An object as it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The file that it stands in.
    pub file: String,
    /// Which object it is.
    pub name: ObjectName,
    /// With Liftlock's label.
    pub object: Value,
}

/// The objects of a file, or why it has none: what, and what to do.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| format!("{file} does not read as YAML: {error}"))?;
    let mut manifests = Vec::new();
    for (number, document) in (1..).zip(documents) {
        let place = format!("{file}, document {number}");
        if document.is_null() {
            continue;
        }
        // `kind: List`, as `kubectl get -o yaml` writes it.
        match document {
            Value::Object(mut list)
                if list.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
                    && list.get("items").is_some_and(Value::is_array) =>
            {
                let Some(Value::Array(items)) = list.remove("items") else { continue };
                for item in items {
                    manifests.push(manifest(file, &place, item)?);
                }
            }
            document => manifests.push(manifest(file, &place, document)?),
        }
    }
    Ok(manifests)
}

fn manifest(file: &str, place: &str, mut object: Value) -> Result<Manifest, String> {
    let name = name(place, &object)?;
    if record::is_record(&name) {
        return Err(format!("{place}: the {name} is where Liftlock keeps what it applied: take it out"));
    }
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| format!("{place}: metadata is no map: write metadata.name"))?;
    // What only the API server may set, in a manifest that was read from one.
    for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
        metadata.remove(field);
    }
    let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    if labels.is_null() {
        *labels = json!({});
    }
    let labels = labels.as_object_mut();
    let labels = labels.ok_or_else(|| format!("{place}: metadata.labels is no map of names and values"))?;
    labels.insert(LABEL.to_owned(), json!("true"));
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    Ok(Manifest { file: file.to_owned(), name, object })
}

fn name(place: &str, object: &Value) -> Result<ObjectName, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = ObjectName {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    };
    let needed = [("apiVersion", &name.api_version), ("kind", &name.kind), ("metadata.name", &name.name)];
    for (field, value) in needed {
        if value.is_empty() {
            return Err(format!("{place}: {field} is missing or no text: every object needs one"));
        }
    }
    // All of them are parts of paths on the API server.
    let parts = [
        ("apiVersion", &name.api_version, 1),
        ("kind", &name.kind, 0),
        ("metadata.namespace", &name.namespace, 0),
        ("metadata.name", &name.name, 0),
    ];
    for (field, value, slashes) in parts {
        let is_part = |part: &str| {
            part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte))
                && !matches!(part, "." | "..")
        };
        if value.matches('/').count() > slashes || !value.split('/').all(is_part) {
            return Err(format!(
                "{place}: {field} {value:?} is no name: letters, digits, `-`, `.`, `_` and `:` are allowed"
            ));
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_many_documents_empty_ones_and_lists_and_every_object_gets_the_label() {
        let text = "# a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: kube-system}\n\
                    ---\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  \
                    metadata: {name: b, uid: 7, labels: {app: b}}\n  status: {replicas: 1}\n";
        let manifests = parse("all.yaml", text).unwrap();
        let names: Vec<String> = manifests.iter().map(|one| one.name.to_string()).collect();
        assert_eq!(names, ["ConfigMap kube-system/a", "Deployment b"]);
        for manifest in &manifests {
            assert_eq!(manifest.object["metadata"]["labels"][LABEL], "true");
        }
        let deployment = &manifests[1].object;
        assert_eq!(deployment["metadata"]["labels"]["app"], "b");
        assert!(deployment.get("status").is_none() && deployment["metadata"].get("uid").is_none());
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place_and_what_is_missing() {
        for (text, word) in [
            ("apiVersion: v1\nkind: ConfigMap\n", "metadata.name is missing"),
            ("kind: ConfigMap\nmetadata: {name: a}\n", "apiVersion is missing"),
            ("apiVersion: v1\nmetadata: {name: a}\n", "kind is missing"),
            ("just text", "apiVersion is missing"),
            ("a: [", "does not read as YAML"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}\n", "is no name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: .., namespace: x}\n", "is no name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: 'a?force=true'}\n", "is no name"),
            ("apiVersion: a/b/c\nkind: Pod\nmetadata: {name: a}\n", "is no name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: [x]}\n", "metadata.labels is no map"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n", "metadata.name is missing"),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: liftlock-addons, namespace: kube-system}\n",
                "where Liftlock keeps",
            ),
        ] {
            let why = parse("x.yaml", text).unwrap_err();
            assert!(why.contains(word) && why.starts_with("x.yaml"), "{text:?}: {why}");
        }
    }
}
