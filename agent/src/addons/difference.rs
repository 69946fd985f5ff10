//! What sets two states of an object apart.

use serde_json::Value;

/// What the API server keeps of an object for itself.
const OF_THE_SERVER: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"];

/// What controllers write down about an object.
const OF_CONTROLLERS: [&str; 3] = [
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// An object without what the API server and controllers add to it: what somebody asked for.
pub fn asked_for(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in OF_THE_SERVER {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            for annotation in OF_CONTROLLERS {
                annotations.remove(annotation);
            }
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}

/// Paths of the fields that differ, without their values: `spec.template.spec.containers[0].image`.
pub fn fields(now: &Value, then: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(String::new(), now, then, &mut found);
    found
}

fn compare(path: String, now: &Value, then: &Value, found: &mut Vec<String>) {
    match (now, then) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(added) {
                let dot = if path.is_empty() { "" } else { "." };
                let null = &Value::Null;
                let below = format!("{path}{dot}{name}");
                compare(below, a.get(name).unwrap_or(null), b.get(name).unwrap_or(null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (number, (now, then)) in a.iter().zip(b).enumerate() {
                compare(format!("{path}[{number}]"), now, then, found);
            }
        }
        _ if now == then => {}
        _ => found.push(path),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_differ_are_named_and_no_value_is_told() {
        let now = json!({"spec": {"replicas": 1, "containers": [{"image": "a:1"}], "gone": true}, "data": {"k": "v"}});
        let then =
            json!({"spec": {"replicas": 1, "containers": [{"image": "a:2"}], "new": 1}, "data": {"k": "w"}});
        assert_eq!(fields(&now, &then), ["data.k", "spec.containers[0].image", "spec.gone", "spec.new"]);
        assert_eq!(fields(&now, &now), Vec::<String>::new());
    }

    #[test]
    fn what_servers_and_controllers_write_is_nothing_that_somebody_asked_for() {
        let object = json!({
            "metadata": {"name": "a", "uid": "1", "resourceVersion": "7", "managedFields": [],
                "annotations": {"deployment.kubernetes.io/revision": "2"}},
            "spec": {}, "status": {"replicas": 1},
        });
        assert_eq!(asked_for(object), json!({"metadata": {"name": "a"}, "spec": {}}));
    }
}
