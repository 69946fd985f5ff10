//! Which pods a label selector selects.

use std::collections::BTreeMap;

use serde::Deserialize;

type Labels = BTreeMap<String, String>;

/// A `LabelSelector`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector {
    match_labels: Labels,
    match_expressions: Vec<Requirement>,
}

#[derive(Debug, Clone, Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl Selector {
    /// It asks for nothing: what that means is its reader's to say.
    pub(super) fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether these labels are all that it asks for. An empty one asks for nothing.
    pub(super) fn selects(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.is_met(labels))
    }
}

impl Requirement {
    fn is_met(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let among = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_selects_by_labels_and_by_each_of_the_four_operators() {
        let labels: Labels =
            [("app", "shop"), ("tier", "web")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let selects = |selector: serde_json::Value| {
            serde_json::from_value::<Selector>(selector).unwrap().selects(&labels)
        };
        let by = |key: &str, operator: &str, values: &[&str]| {
            selects(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(selects(json!({"matchLabels": {"app": "shop"}})));
        assert!(!selects(json!({"matchLabels": {"app": "shop", "tier": "db"}})));
        assert!(selects(json!({})));
        assert!(by("app", "In", &["cart", "shop"]) && !by("app", "In", &["cart"]) && !by("x", "In", &["y"]));
        assert!(!by("app", "NotIn", &["shop"]) && by("app", "NotIn", &["cart"]) && by("x", "NotIn", &["y"]));
        assert!(by("app", "Exists", &[]) && !by("x", "Exists", &[]));
        assert!(!by("app", "DoesNotExist", &[]) && by("x", "DoesNotExist", &[]));
        assert!(!by("app", "Like", &["shop"]));
    }
}
