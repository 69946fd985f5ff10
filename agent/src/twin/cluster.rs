//! What the API server shows.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock_proto::version::KubernetesVersion;

use super::objects::Stored;
use crate::host::{NodeState, PodState, Replicas};

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// The Ready condition.
    pub ready: bool,
    /// As its kubelet reported it last.
    pub kubelet_version: KubernetesVersion,
    /// `spec.unschedulable`
    pub unschedulable: bool,
    /// The annotation that says that the cordon is Liftlock's.
    pub cordoned_by: Option<String>,
    /// A taint that keeps ordinary pods away.
    pub tainted: bool,
    /// Carries Liftlock's taint of what is not raised yet.
    pub not_raised: bool,
    /// By its label.
    pub control_plane: bool,
    /// Its other labels.
    pub labels: BTreeMap<String, String>,
    /// `topology.kubernetes.io/zone`; empty where it has no such label.
    pub zone: String,
    /// Liftlock's annotation that says what follows a blocked drain; empty where it has none.
    pub on_blocked: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// What a drain sees of it.
    pub state: PodState,
    /// Where it was bound to.
    pub node: Option<String>,
    /// Its label; a budget selects by it.
    pub app: String,
    /// Its Ready condition.
    pub ready: bool,
    /// How long its end takes.
    pub grace: Duration,
}

/// A `PodDisruptionBudget`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Its name.
    pub name: String,
    /// `spec.minAvailable`
    pub min_available: usize,
}

/// What the API server shows.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// In the kubeadm-config `ConfigMap`.
    pub version: KubernetesVersion,
    /// Of the kube-proxy `DaemonSet`'s image.
    pub proxy_version: KubernetesVersion,
    /// By name.
    pub nodes: BTreeMap<String, NodeObject>,
    /// By uid.
    pub pods: BTreeMap<String, Pod>,
    /// By the app that they select.
    pub budgets: BTreeMap<String, Budget>,
    /// Names, which are those of the control planes.
    pub etcd_members: Vec<String>,
    /// `CoreDNS`.
    pub dns: Option<Replicas>,
    /// Of any other kind, by path.
    pub stored: Stored,
    /// Bootstrap tokens.
    pub(super) tokens: Vec<String>,
}

impl Cluster {
    pub(super) fn new(version: KubernetesVersion) -> Self {
        Self {
            version,
            proxy_version: version,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            budgets: BTreeMap::new(),
            etcd_members: Vec::new(),
            dns: Some(Replicas { wanted: 2, ready: 2 }),
            stored: Stored::default(),
            tokens: Vec::new(),
        }
    }

    pub(super) fn join(&mut self, name: &str, control_plane: bool, version: KubernetesVersion) {
        let object = NodeObject {
            ready: true,
            kubelet_version: version,
            unschedulable: false,
            cordoned_by: None,
            tainted: control_plane,
            not_raised: false,
            control_plane,
            labels: BTreeMap::new(),
            zone: String::new(),
            on_blocked: String::new(),
        };
        self.nodes.insert(name.to_owned(), object);
        if control_plane && !self.etcd_members.iter().any(|member| member == name) {
            self.etcd_members.push(name.to_owned());
        }
        self.add_pod("kube-proxy", name, |pod| {
            pod.controller = Some("DaemonSet".to_owned());
        });
    }

    /// Adds a running pod, by default of a `ReplicaSet`.
    pub fn add_pod(&mut self, app: &str, node: &str, change: impl FnOnce(&mut PodState)) {
        let name = format!("{app}-{node}-{}", self.pods.len());
        let mut state = PodState {
            namespace: "default".to_owned(),
            uid: name.clone(),
            name: name.clone(),
            controller: Some("ReplicaSet".to_owned()),
            mirror: false,
            empty_dir: false,
            finished: false,
            terminating: false,
        };
        change(&mut state);
        let pod = Pod {
            state,
            node: Some(node.to_owned()),
            app: app.to_owned(),
            ready: true,
            grace: Duration::from_secs(1),
        };
        self.pods.insert(name, pod);
    }

    /// The budget that does not allow this pod to go now, in the API server's words.
    pub(super) fn blocked(&self, uid: &str) -> Option<String> {
        let pod = self.pods.get(uid)?;
        let budget = self.budgets.get(&pod.app)?;
        if !pod.ready || pod.state.terminating || pod.state.finished {
            return None;
        }
        let healthy = self
            .pods
            .values()
            .filter(|other| other.app == pod.app && other.ready && !other.state.terminating)
            .count();
        let Budget { name, min_available } = budget;
        (healthy <= *min_available).then(|| {
            format!(
                "Cannot evict pod as it would violate the pod's disruption budget. The disruption budget {name} needs \
                 {min_available} healthy pods and has {healthy} currently"
            )
        })
    }

    /// Binds pods that wait for a node; their uids.
    pub(super) fn place_pods(&mut self) -> Vec<String> {
        let takes_pods = |node: &&NodeObject| node.ready && !node.unschedulable && !node.tainted;
        let mut placed = Vec::new();
        let mut load: BTreeMap<String, (bool, usize)> = BTreeMap::new();
        for (name, node) in self.nodes.iter().filter(|(_, node)| takes_pods(node)) {
            let bound = self.pods.values().filter(|pod| pod.node.as_deref() == Some(name)).count();
            load.insert(name.clone(), (node.not_raised, bound));
        }
        for (uid, pod) in self.pods.iter_mut().filter(|(_, pod)| pod.node.is_none()) {
            let Some((name, (_, bound))) = load.iter_mut().min_by_key(|(_, preference)| **preference) else {
                break;
            };
            *bound += 1;
            pod.node = Some(name.clone());
            placed.push(uid.clone());
        }
        placed
    }

    pub(super) fn node_state(&self, name: &str) -> Option<NodeState> {
        let node = self.nodes.get(name)?;
        Some(NodeState {
            name: name.to_owned(),
            kubelet_version: node.kubelet_version.to_string(),
            ready: node.ready,
            unschedulable: node.unschedulable,
            cordoned_by: node.cordoned_by.clone(),
            tainted: node.tainted,
            control_plane: node.control_plane,
            container_runtime: "containerd://1.7.13".to_owned(),
            zone: node.zone.clone(),
            labels: node.labels.clone(),
            on_blocked: node.on_blocked.clone(),
        })
    }
}
