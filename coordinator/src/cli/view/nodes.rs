//! The nodes that the coordinator knows.

use std::fmt::Write as _;

use jiff::Timestamp;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{clock, moment};
use crate::cli::view::said;

/// Every node, by name.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct NodesView(pub Vec<NodeView>);

/// A node that the cluster has or that an agent speaks for.
#[derive(Debug, Serialize)]
pub struct NodeView {
    /// The Node's name.
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: &'static str,
    /// An agent has a certificate for it.
    pub enrolled: bool,
    /// The agent's stream is open.
    pub connected: bool,
    /// When the agent was last heard; null if never.
    pub last_seen: Option<Timestamp>,
    /// The cluster has such a Node object.
    pub in_cluster: bool,
    /// Null where no control plane has reported it.
    pub ready: Option<bool>,
    /// It is cordoned. Null where no control plane has reported it.
    pub unschedulable: Option<bool>,
    /// Of the kubelet that runs or, where the cluster does not say, that is installed.
    pub kubelet_version: Option<String>,
    /// Of the kubeadm that is installed.
    pub kubeadm_version: Option<String>,
    /// Of the kube-apiserver that runs here; null on workers.
    pub control_plane_version: Option<String>,
    /// What the package repositories offer for all three packages, oldest first.
    pub offered_versions: Vec<String>,
    /// Where its packages come from: `apt`, `dnf, split by minor`, `files in /var/lib/liftlock/offline`.
    pub packages: Option<String>,
    /// The agent's version.
    pub agent_version: Option<String>,
    /// The agent's resident memory.
    pub agent_memory_bytes: Option<u64>,
    /// What the agent could not read.
    pub errors: Vec<String>,
    /// Its machine is in no cluster; left out where it is in one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_joined: bool,
}

impl From<v1::ListNodesResponse> for NodesView {
    fn from(message: v1::ListNodesResponse) -> Self {
        Self(message.nodes.into_iter().map(Into::into).collect())
    }
}

impl From<v1::NodeEntry> for NodeView {
    fn from(message: v1::NodeEntry) -> Self {
        let (object, facts) = (message.cluster_node, message.facts.unwrap_or_default());
        let control_plane = facts.control_plane || object.as_ref().is_some_and(|object| object.control_plane);
        let running = object.as_ref().map(|object| object.kubelet_version.clone());
        Self {
            name: message.name,
            role: if control_plane { "control-plane" } else { "worker" },
            enrolled: message.enrolled,
            connected: message.connected,
            last_seen: moment(message.last_seen_ms),
            in_cluster: object.is_some(),
            ready: object.as_ref().map(|object| object.ready),
            unschedulable: object.as_ref().map(|object| object.unschedulable),
            kubelet_version: running.and_then(said).or_else(|| said(facts.kubelet_version)),
            kubeadm_version: said(facts.kubeadm_version),
            control_plane_version: said(facts.control_plane_version),
            offered_versions: facts.offered_versions,
            packages: facts.packages.map(|source| PackageSource::from(source).words()),
            agent_version: said(facts.agent_version),
            agent_memory_bytes: Some(facts.agent_memory_bytes).filter(|&bytes| bytes > 0),
            errors: facts.errors,
            not_joined: facts.not_joined,
        }
    }
}

impl NodeView {
    fn state(&self) -> Cell {
        match (self.ready, self.unschedulable) {
            (None, _) if self.not_joined => Cell::new(Tone::Notice, "not joined"),
            (None, _) => Cell::new(Tone::Bad, "not in the cluster"),
            (Some(false), _) => Cell::new(Tone::Bad, "not ready"),
            (Some(true), Some(true)) => Cell::new(Tone::Notice, "ready, cordoned"),
            (Some(true), _) => Cell::new(Tone::Good, "ready"),
        }
    }

    fn agent(&self) -> Cell {
        match (self.enrolled, self.connected) {
            (_, true) => {
                let version = self.agent_version.as_ref().map(|version| format!(", {version}"));
                Cell::new(Tone::Good, format!("connected{}", version.unwrap_or_default()))
            }
            (true, false) => Cell::new(Tone::Bad, "not connected"),
            (false, false) => Cell::new(Tone::Bad, "none"),
        }
    }
}

impl View for NodesView {
    fn table(&self, paint: Paint) -> String {
        if self.0.is_empty() {
            return "No node is known yet: `liftlock token create --node NAME` makes a token for its agent.\n".to_owned();
        }
        let mut table =
            Table::new(&["NODE", "ROLE", "STATE", "KUBELET", "CONTROL PLANE", "AGENT", "PACKAGES"]);
        for node in &self.0 {
            let told = |told: &Option<String>| Cell::plain(told.clone().unwrap_or_default());
            table.row(vec![
                Cell::plain(&node.name),
                Cell::plain(node.role),
                node.state(),
                told(&node.kubelet_version),
                told(&node.control_plane_version),
                node.agent(),
                told(&node.packages),
            ]);
        }
        let mut text = table.render(paint);
        for node in &self.0 {
            if !node.connected && node.last_seen.is_some() {
                let name = paint.paint(Tone::Notice, &format!("{}:", node.name));
                let _ = writeln!(text, "{name} its agent was last heard of at {}", clock(node.last_seen));
            }
            for error in &node.errors {
                let _ = writeln!(text, "{} {error}", paint.paint(Tone::Notice, &format!("{}:", node.name)));
            }
        }
        text
    }
}
