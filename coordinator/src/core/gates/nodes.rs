//! The Nodes, as the cluster sees them.

use std::collections::BTreeSet;

use super::{Consent, Finding, Gate, Look, When};
use crate::core::sequence;
use crate::core::view::NodeObject;

/// A drain moves pods onto the others, and kubeadm wants every control plane.
pub(super) static NOT_READY: Gate = Gate {
    name: "node-not-ready",
    about: "every Node is Ready",
    consent: Consent::Never,
    when: When::Between,
    look: Look::Cluster(|situation, _| {
        let nodes = situation.nodes().filter(|node| !node.excused);
        let unready = nodes.filter(|node| node.object().is_some_and(|object| !object.ready));
        unready
            .map(|node| {
                Finding::closed(format!(
                    "{name} is not Ready: mend it first, `kubectl describe node {name}` says what is wrong",
                    name = node.name
                ))
            })
            .collect()
    }),
};

/// Where the zone fails in the middle of an upgrade, nobody is left to end it. Nodes without the label are in no zone.
pub(super) static ONE_ZONE: Gate = Gate {
    name: "one-zone",
    about: "several control planes are not all in one zone",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let zones: Vec<Option<&str>> = situation
            .control_planes()
            .map(|node| node.object().and_then(|object| object.zone.as_deref()))
            .collect();
        let different: BTreeSet<_> = zones.iter().flatten().collect();
        match (zones.len(), different.first()) {
            (2.., Some(zone)) if different.len() == 1 && zones.iter().all(Option::is_some) => {
                vec![Finding::closed(format!(
                    "all {} control planes are in the zone {zone}: if it fails in the middle of the upgrade, the API is \
                     away and no node can be put back",
                    zones.len()
                ))]
            }
            _ => Vec::new(),
        }
    }),
};

/// The only node that takes pods cannot be emptied onto another one.
pub(super) static DRAIN_ONLY_NODE: Gate = Gate {
    name: sequence::DRAIN_ONLY_NODE,
    about: "what is evicted from a node finds room on another one",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let mut takers = situation.nodes().filter(|node| node.object().is_some_and(NodeObject::takes_pods));
        match (takers.next(), takers.next()) {
            (Some(only), None) if situation.raises(only) => vec![Finding::closed(format!(
                "{} is the only node that takes pods: what is evicted there waits until it is back",
                only.name
            ))],
            (None, _) => {
                // Ordinary pods are on nodes without a taint, cordoned or not.
                let emptied = situation
                    .to_raise()
                    .filter(|node| node.object().is_some_and(|object| !object.tainted))
                    .map(|node| node.name.as_str())
                    .collect::<Vec<_>>();
                let found = (!emptied.is_empty()).then(|| {
                    Finding::closed(format!(
                        "no node takes pods, as all without a taint are cordoned or not Ready: what is evicted from {} waits \
                         until one does; `kubectl uncordon` has a node take pods",
                        emptied.join(", ")
                    ))
                });
                found.into_iter().collect()
            }
            _ => Vec::new(),
        }
    }),
};
