//! Whether a workload has become what its manifest asks for.

use serde_json::Value;

/// What is still missing of a Deployment or a `DaemonSet`; `None` where nothing is, or nothing will come of itself: other
/// kinds, a Deployment that is paused, a `DaemonSet` whose pods somebody else replaces (`OnDelete`).
pub fn missing(object: &Value) -> Option<String> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    let (wanted, updated, available, all) = match object["kind"].as_str() {
        Some("Deployment") if object.pointer("/spec/paused") != Some(&Value::Bool(true)) => (
            object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
            number("/status/updatedReplicas"),
            number("/status/availableReplicas"),
            number("/status/replicas"),
        ),
        Some("DaemonSet")
            if object.pointer("/spec/updateStrategy/type").and_then(Value::as_str) != Some("OnDelete") =>
        {
            let wanted = number("/status/desiredNumberScheduled");
            (wanted, number("/status/updatedNumberScheduled"), number("/status/numberAvailable"), wanted)
        }
        _ => return None,
    };
    if !seen {
        return Some("its controller has not looked at it yet".to_owned());
    }
    (updated < wanted || available < wanted || all > updated)
        .then(|| format!("of {wanted} pods {updated} are of the new template and {available} available"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_there_once_all_of_its_pods_are_new_and_available_and_no_old_one_is_left() {
        let deployment = |status: Value| {
            missing(
                &json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}),
            )
        };
        let counts = |updated: u8, available: u8, all: u8| json!({"observedGeneration": 2, "updatedReplicas": updated, "availableReplicas": available, "replicas": all});
        assert_eq!(deployment(counts(2, 2, 2)), None);
        assert!(deployment(counts(1, 2, 2)).is_some());
        assert!(deployment(counts(2, 1, 2)).is_some());
        assert!(deployment(counts(2, 2, 3)).is_some());
        assert!(
            deployment(json!({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2}))
                .is_some()
        );
    }

    #[test]
    fn a_daemon_set_is_waited_for_unless_somebody_else_replaces_its_pods() {
        let set = |strategy: &str, updated: u8| {
            missing(&json!({
                "kind": "DaemonSet", "metadata": {"generation": 1}, "spec": {"updateStrategy": {"type": strategy}},
                "status": {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated,
                    "numberAvailable": 3},
            }))
        };
        assert_eq!(set("RollingUpdate", 3), None);
        assert!(set("RollingUpdate", 2).is_some());
        assert_eq!(set("OnDelete", 0), None);
        assert_eq!(missing(&json!({"kind": "ConfigMap"})), None);
    }
}
