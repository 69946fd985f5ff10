//! A Node's taints, as far as the one of ours goes: everybody else's are carried over as they are.

use liftlock_proto::not_raised::{EFFECT, KEY};
use serde::Deserialize;
use serde_json::{Value, json};

use super::objects::ObjectMeta;

/// A Node and its taints, with whatever fields they have.
#[derive(Debug, Deserialize)]
pub(super) struct Taints {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    taints: Vec<Value>,
}

impl Taints {
    /// The Node's.
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The merge patch after which the Node carries our taint, or does not; `None` where that is so. It replaces the list
    /// as a whole, and the API server takes it only if nobody has changed the Node since it was read (409 otherwise).
    pub(super) fn patch(&self, marked: bool) -> Option<Value> {
        let mut taints = self.spec.taints.clone();
        if marked {
            // The API server takes one taint of a key and an effect. Somebody else's does as well.
            if taints.iter().any(takes_our_place) {
                return None;
            }
            taints.push(json!({"key": KEY, "effect": EFFECT}));
        } else {
            taints.retain(|taint| !is_ours(taint));
            if taints.len() == self.spec.taints.len() {
                return None;
            }
        }
        // In a merge patch, null removes a field.
        let taints = if taints.is_empty() { Value::Null } else { Value::Array(taints) };
        Some(json!({
            "metadata": {"resourceVersion": self.metadata.resource_version},
            "spec": {"taints": taints},
        }))
    }
}

fn text<'a>(taint: &'a Value, field: &str) -> &'a str {
    taint.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn takes_our_place(taint: &Value) -> bool {
    text(taint, "key") == KEY && text(taint, "effect") == EFFECT
}

/// Ours has no value.
fn is_ours(taint: &Value) -> bool {
    takes_our_place(taint) && text(taint, "value").is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(taints: &Value) -> Taints {
        let node = json!({"metadata": {"name": "w1", "resourceVersion": "7"}, "spec": {"taints": taints}});
        serde_json::from_value(node).unwrap()
    }

    fn ours() -> Value {
        json!({"key": KEY, "effect": EFFECT})
    }

    #[test]
    fn our_taint_is_added_once_and_taken_away_with_the_list_where_it_was_alone() {
        let bare: Taints = serde_json::from_value(json!({"metadata": {"name": "w1"}})).unwrap();
        assert_eq!(bare.patch(true).unwrap()["spec"], json!({"taints": [ours()]}));
        assert_eq!(bare.patch(false), None);
        let marked = node(&json!([ours()]));
        assert_eq!(marked.patch(true), None);
        let patch = json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": null}});
        assert_eq!(marked.patch(false), Some(patch));
    }

    #[test]
    fn foreign_taints_of_the_same_key_stay() {
        let valued = json!({"key": KEY, "effect": EFFECT, "value": "theirs"});
        let stronger = json!({"key": KEY, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"});
        assert_eq!(node(&json!([valued])).patch(true), None, "the API takes one of a key and an effect");
        assert_eq!(node(&json!([valued, stronger])).patch(false), None);
        let added = node(&json!([stronger])).patch(true).unwrap();
        assert_eq!(added["spec"]["taints"], json!([stronger, ours()]));
        let removed = node(&json!([ours(), stronger])).patch(false).unwrap();
        assert_eq!(removed["spec"]["taints"], json!([stronger]));
    }

    fn taint() -> impl Strategy<Value = Value> {
        let keys = prop::sample::select(vec![KEY, "node.kubernetes.io/unschedulable", "shop"]);
        let effects = prop::sample::select(vec![EFFECT, "NoSchedule", "NoExecute"]);
        let values = prop::sample::select(vec!["", "x"]);
        (keys, effects, values).prop_map(|(key, effect, value)| match value {
            "" => json!({"key": key, "effect": effect}),
            value => json!({"key": key, "effect": effect, "value": value}),
        })
    }

    proptest! {
        #[test]
        fn no_taint_but_ours_is_ever_changed_and_a_second_time_there_is_nothing_to_do(
            taints in prop::collection::vec(taint(), 0..5), marked: bool,
        ) {
            let foreign = |taints: &[Value]| -> Vec<Value> {
                taints.iter().filter(|taint| !is_ours(taint)).cloned().collect()
            };
            if let Some(patch) = node(&json!(taints)).patch(marked) {
                let after = patch["spec"]["taints"].as_array().cloned().unwrap_or_default();
                prop_assert_eq!(foreign(&after), foreign(&taints));
                prop_assert_eq!(after.contains(&ours()), marked);
                prop_assert_eq!(node(&json!(after)).patch(marked), None);
            }
        }
    }
}
