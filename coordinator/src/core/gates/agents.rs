//! Every node of the cluster has an agent that speaks for it and can fetch the target.

use super::{Consent, Finding, Gate, Look, When};

/// An agent whose name no Node has would upgrade a machine of another cluster.
pub(super) static WITHOUT_NODE: Gate = Gate {
    name: "agent-without-node",
    about: "every agent speaks for a Node of the cluster",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let strangers = situation.nodes().filter(|node| node.object().is_none());
        strangers
            .map(|node| {
                Finding::closed(format!(
                    "{name} has an agent and the cluster has no such Node: its name must be the Node's; enrol it again \
                     with `liftlock token create --node NODE`",
                    name = node.name
                ))
            })
            .collect()
    }),
};

/// A node that nobody raises falls behind.
pub(super) static MISSING: Gate = Gate {
    name: "node-without-agent",
    about: "every Node of the cluster has an agent",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let without = situation.nodes().filter(|node| node.object().is_some() && node.agent().is_none());
        without
            .map(|node| {
                Finding::closed(format!(
                    "{} is in the cluster and has no agent: install liftlock-agent there and enrol it",
                    node.name
                ))
            })
            .collect()
    }),
};

/// What it reported last may be long ago.
pub(super) static NOT_CONNECTED: Gate = Gate {
    name: "agent-not-connected",
    about: "every agent is connected",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let known = situation.nodes().filter(|node| node.object().is_some());
        let silent = known.filter(|node| node.agent().is_some_and(|agent| !agent.connected));
        silent
            .map(|node| {
                Finding::closed(format!(
                    "{}'s agent is not connected: look at `systemctl status liftlock-agent` there",
                    node.name
                ))
            })
            .collect()
    }),
};

/// What is not offered cannot be fetched.
pub(super) static VERSION_NOT_OFFERED: Gate = Gate {
    name: "version-not-offered",
    about: "the nodes' package repositories offer the target",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let target = situation.target;
        let nodes = situation.to_raise().filter(|node| node.object().is_some());
        let agents = nodes.filter_map(|node| Some((node, node.agent()?)));
        let without = agents.filter(|(_, agent)| agent.connected && !agent.offered.contains(&target));
        without
            .map(|(node, agent)| {
                let offered = agent.offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let offered = if offered.is_empty() { "nothing".to_owned() } else { offered };
                // Where they could not even be asked, no repository is missing.
                let errors = if agent.errors.is_empty() { String::new() } else { format!("; {}", agent.errors.join("; ")) };
                Finding::closed(format!(
                    "{}'s package repositories do not offer kubeadm, kubelet and kubectl at {target} (they offer \
                     {offered}): add the repository of {} there{errors}",
                    node.name,
                    target.minor_name()
                ))
            })
            .collect()
    }),
};
