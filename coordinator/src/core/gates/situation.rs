//! What gates look at: the cluster as the agents report it, and what is to be made of it.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::version::KubernetesVersion;

use super::Finding;
use crate::core::catalogue::{Catalogue, OPEN};
use crate::core::view::{AgentView, ClusterView, ControlPlaneReport, Fact, NodeObject, NodeView};

/// A cluster, and the version that it is to run.
pub struct Situation<'a> {
    view: &'a ClusterView,
    /// To be reached.
    pub target: KubernetesVersion,
    nodes: Vec<Candidate<'a>>,
    catalogue: &'a Catalogue,
    ahead: bool,
}

/// A node that may be raised.
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Stays at what it runs.
    pub spared: bool,
    /// The roll-out itself may have taken it away: what it is like closes no gate.
    pub excused: bool,
    node: &'a NodeView,
}

impl<'a> Situation<'a> {
    /// The cluster as it is seen, and where it is to go.
    pub fn new(view: &'a ClusterView, target: KubernetesVersion) -> Self {
        let nodes = view.nodes.iter().filter(|(_, node)| !node.is_fresh());
        let nodes =
            nodes.map(|(name, node)| Candidate { name, spared: false, excused: false, node }).collect();
        Self { view, target, nodes, catalogue: &OPEN, ahead: false }
    }

    /// The same, with these nodes staying at what they run.
    #[must_use]
    pub fn sparing(mut self, spared: &BTreeSet<NodeName>) -> Self {
        for node in &mut self.nodes {
            node.spared = spared.contains(node.name);
        }
        self
    }

    /// The same, while a roll-out may have taken these nodes away.
    #[must_use]
    pub fn excusing(mut self, away: &BTreeSet<NodeName>) -> Self {
        for node in &mut self.nodes {
            node.excused = away.contains(node.name);
        }
        self
    }

    /// The same, with versions only as this catalogue has them.
    #[must_use]
    pub fn under(self, catalogue: &'a Catalogue) -> Self {
        Self { catalogue, ..self }
    }

    /// The same, of a cluster that is not there yet: another raise comes before, and the view says what it will be like
    /// then, as far as that can be known.
    #[must_use]
    pub fn ahead(self) -> Self {
        Self { ahead: true, ..self }
    }

    /// Whether another raise comes before, so that what it brings is not known yet.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// What an operator says of versions.
    pub fn catalogue(&self) -> &'a Catalogue {
        self.catalogue
    }

    /// What a control plane reported last.
    pub fn cluster(&self) -> Option<&'a ControlPlaneReport> {
        self.view.cluster.as_ref()
    }

    /// Every node, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Candidate<'a>> {
        self.nodes.iter()
    }

    /// Those that do not run the target yet and are not spared.
    pub fn to_raise(&self) -> impl Iterator<Item = &Candidate<'a>> {
        self.nodes().filter(|node| self.raises(node))
    }

    /// Whether a node is one of those.
    pub fn raises(&self, node: &Candidate<'_>) -> bool {
        !node.spared && !node.runs(self.target)
    }

    /// Whether the coordinator runs there.
    pub fn runs_coordinator(&self, node: &Candidate<'_>) -> bool {
        self.view.coordinator_on.contains(node.name)
    }

    /// Those that have an API server.
    pub fn control_planes(&self) -> impl Iterator<Item = &Candidate<'a>> {
        self.nodes().filter(|node| node.control_plane())
    }
}

/// What each of these nodes' agents found, judged; what one does not know becomes a finding that says so. Nodes without
/// agents are left to the gate that asks for one.
pub(super) fn judged<'a: 's, 's, T: 's>(
    nodes: impl Iterator<Item = &'s Candidate<'a>>,
    what: &str,
    fact: impl Fn(&'s AgentView) -> &'s Fact<T>,
    judge: impl Fn(&'s Candidate<'a>, &'s T) -> Option<String>,
) -> Vec<Finding> {
    let agents = nodes.filter_map(|node| Some((node, node.agent()?)));
    agents
        .filter_map(|(node, agent)| match fact(agent) {
            Ok(found) => judge(node, found).map(Finding::closed),
            Err(why) => Some(Finding::unknown(&format!("{what} on {}", node.name), why)),
        })
        .collect()
}

impl<'a> Candidate<'a> {
    /// As its agent reports it.
    pub fn agent(&self) -> Option<&'a AgentView> {
        self.node.agent.as_ref()
    }

    /// As the cluster reports it.
    pub fn object(&self) -> Option<&'a NodeObject> {
        self.node.object.as_ref()
    }

    /// Has an API server, or is labelled so.
    pub fn control_plane(&self) -> bool {
        self.node.is_control_plane()
    }

    /// What its kubelet reports.
    pub fn kubelet_version(&self) -> Option<KubernetesVersion> {
        self.node.kubelet_version()
    }

    /// Whether nothing of this node is left to raise.
    pub fn runs(&self, target: KubernetesVersion) -> bool {
        let control_plane = !self.control_plane()
            || self.agent().and_then(|agent| agent.control_plane_version) == Some(target);
        control_plane && self.kubelet_version() == Some(target)
    }
}
