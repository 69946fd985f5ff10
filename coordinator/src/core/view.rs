//! What the agents report, put together: the cluster as a plan sees it.

use std::collections::BTreeMap;

use liftlock_proto::name::NodeName;
use liftlock_proto::version::KubernetesVersion;

/// The cluster as a plan sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// What a control plane reported last; `None` where none has.
    pub cluster: Option<ControlPlaneReport>,
    /// Nodes that the cluster has or that an agent speaks for.
    pub nodes: BTreeMap<NodeName, NodeView>,
}

/// What a control plane sees of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneReport {
    /// kubernetesVersion in kubeadm-config.
    pub kubeadm_config_version: KubernetesVersion,
    /// Voting members; 0 where etcd is external.
    pub etcd_members: u32,
    /// Members that answered and are well.
    pub etcd_healthy_members: u32,
    /// The Deployment of kubeadm's `CoreDNS`; `None` where there is none.
    pub dns: Option<Replicas>,
}

/// Pods of a Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// How many it asks for.
    pub wanted: u32,
    /// How many of them are ready.
    pub ready: u32,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// As its agent reports it; `None` where it has none, or never reported.
    pub agent: Option<AgentView>,
    /// As the cluster reports it; `None` where the cluster has no such Node.
    pub object: Option<NodeObject>,
}

/// What an agent reports of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its stream is open now.
    pub connected: bool,
    /// Has a kube-apiserver manifest or an admin.conf.
    pub control_plane: bool,
    /// What the running kube-apiserver is; `None` on workers, or where it could not be told.
    pub control_plane_version: Option<KubernetesVersion>,
    /// Versions that its repositories offer for all three packages.
    pub offered: Vec<KubernetesVersion>,
    /// What could not be read.
    pub errors: Vec<String>,
    /// Manifests of static pods that are not what kubeadm makes of kubeadm-config.
    pub drift: Vec<Drift>,
    /// What there would make an upgrade fail.
    pub obstacles: Vec<Obstacle>,
    /// How its host is replaced as a whole; `None` where its configuration does not say.
    pub redeploy: Option<Redeploy>,
}

/// How a host is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeploy {
    /// The command that does it, by the node's own configuration.
    pub command: Vec<String>,
    /// Why it cannot be done as the node is now: what, and what to do.
    pub refusal: Option<String>,
}

/// Something on one node that has to be put right before any upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// `stray-manifest`, `certificate-expired`
    pub rule: &'static str,
    /// What, why, and what to do.
    pub message: String,
}

/// A manifest that was edited by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// `/etc/kubernetes/manifests/kube-apiserver.yaml`
    pub path: String,
    /// `-` before what kubeadm would take away, `+` before what it would bring.
    pub lines: Vec<String>,
}

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// What its kubelet reports.
    pub kubelet_version: Option<KubernetesVersion>,
    /// Has a control-plane label.
    pub control_plane: bool,
    /// The Ready condition is True.
    pub ready: bool,
    /// Is cordoned.
    pub unschedulable: bool,
    /// A taint keeps ordinary pods away.
    pub tainted: bool,
}

impl NodeObject {
    /// Whether an ordinary pod that is evicted elsewhere may come here.
    pub fn takes_pods(&self) -> bool {
        self.ready && !self.unschedulable && !self.tainted
    }
}
