//! Rules that name the nodes on which something may be: those of pods, and those of volumes that lie on one node.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";

/// A `PersistentVolume`, as far as it says where it can be had.
#[derive(Deserialize)]
pub(super) struct VolumeObject {
    #[serde(default)]
    spec: VolumeSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSpec {
    claim_ref: Option<ClaimRef>,
    node_affinity: VolumeAffinity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClaimRef {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VolumeAffinity {
    required: Option<NodeRule>,
}

/// A node selector: one of its terms has to hold, and all of that
/// (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#node-affinity>).
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NodeRule {
    node_selector_terms: Vec<Term>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Term {
    match_expressions: Vec<Requirement>,
    match_fields: Vec<Requirement>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

/// Where something may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The names of nodes, where it is bound to some.
    pub(super) only_on: Option<BTreeSet<String>>,
    /// Something else says where, too.
    pub(super) otherwise: bool,
}

impl Bounds {
    /// On these nodes and no others.
    pub(super) fn to(nodes: BTreeSet<String>) -> Self {
        Self { only_on: Some(nodes), otherwise: false }
    }

    /// Where both allow it.
    pub(super) fn and(self, other: Self) -> Self {
        let only_on = match (self.only_on, other.only_on) {
            (Some(one), Some(two)) => Some(&one & &two),
            (one, two) => one.or(two),
        };
        Self { only_on, otherwise: self.otherwise || other.otherwise }
    }
}

impl VolumeObject {
    /// The namespace and name of the claim that it is for, and its rule, where it has both.
    pub(super) fn bound(self) -> Option<((String, String), NodeRule)> {
        let ClaimRef { namespace, name } = self.spec.claim_ref?;
        Some(((namespace, name), self.spec.node_affinity.required?))
    }
}

impl NodeRule {
    /// What it says; nodes are found by the values of their label for the hostname.
    pub(super) fn bounds(&self, hostnames: &BTreeMap<String, BTreeSet<String>>) -> Bounds {
        let mut all = Some(BTreeSet::new());
        let mut otherwise = false;
        for term in &self.node_selector_terms {
            let Bounds { only_on, otherwise: more } = term.bounds(hostnames);
            otherwise |= more;
            all = all.zip(only_on).map(|(all, nodes)| &all | &nodes);
        }
        Bounds { only_on: all, otherwise }
    }
}

impl Term {
    fn bounds(&self, hostnames: &BTreeMap<String, BTreeSet<String>>) -> Bounds {
        let labels = self.match_expressions.iter().map(|requirement| {
            let named = requirement.values.iter().filter_map(|value| hostnames.get(value)).flatten();
            (requirement, HOSTNAME, named.cloned().collect::<BTreeSet<String>>())
        });
        let fields = self
            .match_fields
            .iter()
            .map(|requirement| (requirement, "metadata.name", requirement.values.iter().cloned().collect()));
        let bounds = labels.chain(fields).map(|(requirement, key, nodes)| {
            if requirement.key == key && requirement.operator == "In" {
                Bounds::to(nodes)
            } else {
                Bounds { only_on: None, otherwise: true }
            }
        });
        bounds.fold(Bounds::default(), Bounds::and)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bounds(terms: &Value) -> (Option<Vec<String>>, bool) {
        let rule: NodeRule = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
        let hostnames = ["w1", "w2"].map(|name| (format!("{name}.example"), [name.to_owned()].into()));
        let Bounds { only_on, otherwise } = rule.bounds(&hostnames.into());
        (only_on.map(|nodes| nodes.into_iter().collect()), otherwise)
    }

    #[test]
    fn a_rule_names_nodes_by_hostname_or_name_and_whatever_else_it_says_is_not_reckoned_with() {
        let is = |key: &str, values: &[&str]| json!({"key": key, "operator": "In", "values": values});
        let hosts = |values: &[&str]| json!({"matchExpressions": [is(HOSTNAME, values)]});
        let some = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
        let zone = is("topology.kubernetes.io/zone", &["a"]);
        let not = json!({"key": HOSTNAME, "operator": "NotIn", "values": ["w1.example"]});
        for (terms, expected) in [
            (json!([hosts(&["w1.example"])]), (some(&["w1"]), false)),
            (json!([hosts(&["w1.example"]), hosts(&["w2.example"])]), (some(&["w1", "w2"]), false)),
            (json!([hosts(&["gone.example"])]), (some(&[]), false)),
            (json!([{"matchFields": [is("metadata.name", &["w2"])]}]), (some(&["w2"]), false)),
            (json!([{"matchExpressions": [is(HOSTNAME, &["w1.example"]), zone]}]), (some(&["w1"]), true)),
            (json!([hosts(&["w1.example"]), {"matchExpressions": [zone]}]), (None, true)),
            (json!([{"matchExpressions": [not]}]), (None, true)),
        ] {
            assert_eq!(bounds(&terms), expected, "{terms}");
        }
    }
}
