//! What the agents report, put together: the cluster as a plan sees it.

use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::name::NodeName;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::version::KubernetesVersion;

use crate::core::selector::Labels;

/// The cluster as a plan sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// What a control plane reported last; `None` where none has.
    pub cluster: Option<ControlPlaneReport>,
    /// Nodes that the cluster has or that an agent speaks for.
    pub nodes: BTreeMap<NodeName, NodeView>,
    /// Where the coordinator runs, if on any of them.
    pub coordinator_on: BTreeSet<NodeName>,
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
    pub dns: Fact<Option<Replicas>>,
    /// What else a control plane looked for.
    pub findings: ClusterFindings,
}

/// Something that an agent looked for, or why it does not know.
pub type Fact<T> = Result<T, String>;

/// Why nobody knows what an agent says nothing of.
pub(crate) const UNSAID: &str = "its agent does not report it";

/// The fact of an agent that says nothing of it.
pub(crate) fn unsaid<T>() -> Fact<T> {
    Err(UNSAID.to_owned())
}

/// What a control plane looked for in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFindings {
    /// As etcd's members say it.
    pub etcd: Fact<Etcd>,
    /// Deployments and `DaemonSets` of kube-system that have fewer ready pods than they ask for, `CoreDNS` left out.
    pub unready_workloads: Fact<Vec<Workload>>,
    /// What kubeadm-config gives the control plane's components besides kubeadm's own arguments.
    pub extra_arguments: Fact<Vec<ExtraArgument>>,
    /// Kinds that some minor takes away for good, as far as objects of them are stored: `podsecuritypolicies.policy`.
    pub stored: Fact<Vec<StoredKind>>,
}

impl Default for ClusterFindings {
    fn default() -> Self {
        Self { etcd: unsaid(), unready_workloads: unsaid(), extra_arguments: unsaid(), stored: unsaid() }
    }
}

/// etcd, as its members say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Etcd {
    /// Learners too.
    pub members: Vec<EtcdMember>,
    /// `NOSPACE on cp2`
    pub alarms: Vec<String>,
    /// How large a member's database may become before it takes no more writes, in bytes.
    pub quota_bytes: u64,
}

/// One member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its name, or its id before it has started.
    pub name: String,
    /// `3.5.12`; empty where it did not answer.
    pub version: String,
    /// Of its database file; 0 where it did not answer.
    pub db_bytes: u64,
    /// Has no vote yet.
    pub learner: bool,
}

/// A workload of kube-system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `DaemonSet kube-proxy`
    pub name: String,
    /// Its pods.
    pub pods: Replicas,
}

/// An argument that kubeadm-config gives a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraArgument {
    /// `kube-apiserver`
    pub component: String,
    /// `--feature-gates`
    pub flag: String,
    /// `A=true,B=false`
    pub value: String,
}

/// A kind of which objects are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKind {
    /// `podsecuritypolicies.policy`
    pub kind: String,
    /// How many there are, at least.
    pub objects: u32,
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

impl NodeView {
    /// Has an API server, or is labelled so.
    pub fn is_control_plane(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.control_plane)
            || self.object.as_ref().is_some_and(|object| object.control_plane)
    }

    /// A machine that is in no cluster, and is nobody's to raise.
    pub fn is_fresh(&self) -> bool {
        self.object.is_none() && self.agent.as_ref().is_some_and(|agent| agent.not_joined)
    }

    /// What its kubelet reports.
    pub fn kubelet_version(&self) -> Option<KubernetesVersion> {
        self.object.as_ref().and_then(|object| object.kubelet_version)
    }
}

/// What an agent reports of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its stream is open now.
    pub connected: bool,
    /// Its machine is in no cluster.
    pub not_joined: bool,
    /// Has a kube-apiserver manifest or an admin.conf.
    pub control_plane: bool,
    /// What the running kube-apiserver is; `None` on workers, or where it could not be told.
    pub control_plane_version: Option<KubernetesVersion>,
    /// Versions that its repositories offer for all three packages.
    pub offered: Vec<KubernetesVersion>,
    /// Where they come from.
    pub packages: PackageSource,
    /// What could not be read.
    pub errors: Vec<String>,
    /// Manifests of static pods that are not what kubeadm makes of kubeadm-config.
    pub drift: Fact<Vec<Drift>>,
    /// What there would make an upgrade fail.
    pub obstacles: Fact<Vec<Obstacle>>,
    /// How its host is replaced as a whole; `None` where its configuration does not say.
    pub redeploy: Option<Redeploy>,
    /// The hooks of its configuration, and why one cannot be run where that is so.
    pub hooks: BTreeMap<String, Option<String>>,
    /// What else it looked for.
    pub findings: NodeFindings,
}

/// What an agent looked for on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFindings {
    /// How the kubelet is started.
    pub kubelet: Fact<Kubelet>,
    /// Whether the machine has cgroup v2, and v2 alone.
    pub cgroup_v2: Fact<bool>,
    /// What it swaps to: `/dev/sda2`.
    pub swap: Fact<Vec<String>>,
    /// The API server that its kubelet speaks to: `https://lb.example:6443`.
    pub kubelet_api_server: Fact<String>,
    /// Certificates that end within 30 days and that no upgrade renews.
    pub expiring: Fact<Vec<ExpiringCertificate>>,
    /// This control plane's own API server; on workers nobody looks.
    pub api_server: Fact<ApiServer>,
    /// The add-ons that lie there, by the folder's name: `v1.20.2`, `v1.20`. None on workers.
    pub addons: Fact<BTreeMap<String, Addons>>,
}

impl Default for NodeFindings {
    fn default() -> Self {
        Self {
            kubelet: unsaid(),
            cgroup_v2: unsaid(),
            swap: unsaid(),
            kubelet_api_server: unsaid(),
            expiring: unsaid(),
            api_server: unsaid(),
            addons: Ok(BTreeMap::new()),
        }
    }
}

/// How a kubelet is started: by its flags and its configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubelet {
    /// Of its command line, with the file that each stands in.
    pub flags: Vec<Setting>,
    /// Names of the feature gates that are set, on or off, with the file that each stands in.
    pub feature_gates: Vec<Setting>,
    /// Refuses to start where there is swap; so it does unless it is told otherwise.
    pub fails_on_swap: bool,
    /// Is told to start on cgroup v1 also where its release would not.
    pub starts_on_cgroup_v1: bool,
}

/// A name that a file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `--network-plugin`, `NodeLease`
    pub name: String,
    /// `/var/lib/kubelet/config.yaml`
    pub file: String,
}

/// A certificate that nobody will renew in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiringCertificate {
    /// `/etc/kubernetes/pki/ca.crt`
    pub path: String,
    /// `2026-12-24 18:00:00 +00:00`
    pub ends: String,
    /// Why an upgrade does not renew it.
    pub why: String,
}

/// A control plane's own API server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiServer {
    /// Where it listens: `https://10.0.0.1:6443`.
    pub address: String,
    /// What /readyz says instead of "ok"; empty where it is ready.
    pub unready: String,
    /// Versions of APIs that clients have asked it for since its start and that a later release does not serve.
    pub deprecated: Vec<RequestedApi>,
}

/// An API version that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestedApi {
    /// `policy/v1beta1/podsecuritypolicies`
    pub api: String,
    /// The minor that no longer serves it, as the API server says; 0 where it does not say.
    pub removed_in: u16,
}

/// The manifests of one version, as they lie on one control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addons {
    /// They would be applied.
    Whole {
        /// SHA-256, lower-case hexadecimal.
        digest: String,
    },
    /// None of them would.
    Refused {
        /// What, and what to do.
        why: String,
    },
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
    /// `containerd://1.6.8`
    pub container_runtime: String,
    /// `topology.kubernetes.io/zone`; `None` where it has no such label.
    pub zone: Option<String>,
    /// All of them; `None` where the control plane did not tell them, because there are too many.
    pub labels: Option<Labels>,
    /// Its annotation `liftlock.dev/on-blocked`; `None` where it has none.
    pub on_blocked: Option<String>,
}

impl NodeObject {
    /// Whether an ordinary pod that is evicted elsewhere may come here.
    pub fn takes_pods(&self) -> bool {
        self.ready && !self.unschedulable && !self.tainted
    }
}
