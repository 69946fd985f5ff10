//! The few fields of API objects that the agent reads: the same in every Kubernetes version from 1.19 on.

use std::collections::BTreeMap;

use liftlock_proto::blocked::ON_BLOCKED;
use serde::Deserialize;

use crate::host::{CORDONED_BY, NodeState, PodState};

/// A list, or one page of it.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ObjectMeta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) resource_version: String,
    pub(super) labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owner_references: Vec<OwnerReference>,
    pub(super) deletion_timestamp: Option<String>,
}

impl ObjectMeta {
    /// Has the label that kubeadm gives the cluster's DNS.
    pub(super) fn is_cluster_dns(&self) -> bool {
        self.labels.get("k8s-app").is_some_and(|app| app == "kube-dns")
    }

    /// It is the picture of a static pod.
    pub(super) fn is_mirror(&self) -> bool {
        self.annotations.contains_key(MIRROR_ANNOTATION)
    }

    /// Who would start it again.
    pub(super) fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct OwnerReference {
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Node {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

impl Node {
    /// Whether no cordon keeps pods away, nor the taint of one that is gone.
    pub(super) fn is_open(&self) -> bool {
        !self.spec.unschedulable && self.spec.taints.iter().all(|taint| taint.key != CORDON_TAINT)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Taint {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: String,
    pub(super) effect: String,
}

impl Taint {
    /// Whether it keeps pods away that do not tolerate it; a cordon's own is told apart by `spec.unschedulable`.
    pub(super) fn keeps_away(&self) -> bool {
        self.key != CORDON_TAINT && matches!(self.effect.as_str(), "NoSchedule" | "NoExecute")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    conditions: Vec<Condition>,
    node_info: NodeInfo,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Condition {
    pub(super) fn is_ready(&self) -> bool {
        self.kind == "Ready" && self.status == "True"
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    kubelet_version: String,
    container_runtime_version: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodSpec {
    volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    empty_dir: Option<serde::de::IgnoredAny>,
    persistent_volume_claim: Option<Claim>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    claim_name: String,
}

impl Volume {
    /// The name of the claim whose volume it is.
    pub(super) fn claim(&self) -> Option<&str> {
        self.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str())
    }

    /// Its data go with the pod.
    pub(super) fn is_empty_dir(&self) -> bool {
        self.empty_dir.is_some()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

/// The answer of `/version`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    pub(super) git_version: String,
}

/// The label was renamed in 1.20; the older one went in 1.24.
const CONTROL_PLANE_LABELS: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// Set by the node controller while `spec.unschedulable` is true.
const CORDON_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Where a Node is, if somebody says so.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Set by a kubelet on the mirror of a static pod.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

impl From<Node> for NodeState {
    fn from(Node { metadata, spec, status }: Node) -> Self {
        Self {
            kubelet_version: status.node_info.kubelet_version,
            ready: status.conditions.iter().any(Condition::is_ready),
            unschedulable: spec.unschedulable,
            cordoned_by: metadata.annotations.get(CORDONED_BY).filter(|_| spec.unschedulable).cloned(),
            tainted: spec.taints.iter().any(Taint::keeps_away),
            control_plane: CONTROL_PLANE_LABELS.iter().any(|label| metadata.labels.contains_key(*label)),
            container_runtime: status.node_info.container_runtime_version,
            zone: metadata.labels.get(ZONE_LABEL).cloned().unwrap_or_default(),
            labels: metadata.labels,
            on_blocked: metadata.annotations.get(ON_BLOCKED).cloned().unwrap_or_default(),
            name: metadata.name,
        }
    }
}

impl From<Pod> for PodState {
    fn from(Pod { metadata, spec, status }: Pod) -> Self {
        Self {
            controller: metadata.controller().map(|owner| owner.kind.clone()),
            mirror: metadata.is_mirror(),
            empty_dir: spec.volumes.iter().any(Volume::is_empty_dir),
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            terminating: metadata.deletion_timestamp.is_some(),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body after the head of a recorded `curl -i`.
    fn body(recorded: &str) -> &str {
        recorded.split_once("\r\n\r\n").map_or(recorded, |(_, body)| body)
    }

    fn node(recorded: &str) -> NodeState {
        serde_json::from_str::<Node>(body(recorded)).unwrap().into()
    }

    #[test]
    fn a_control_plane_node_of_1_19_is_read() {
        let read = node(include_str!("../../../tests/fixtures/real/api/node-control-plane/stdout"));
        let expected = NodeState {
            name: "cp1".to_owned(),
            kubelet_version: "v1.19.7".to_owned(),
            ready: true,
            unschedulable: false,
            cordoned_by: None,
            tainted: true,
            control_plane: true,
            container_runtime: "containerd://1.6.20".to_owned(),
            zone: String::new(),
            labels: read.labels.clone(),
            on_blocked: String::new(),
        };
        assert_eq!(read, expected);
        assert_eq!(read.labels.get("kubernetes.io/hostname").map(String::as_str), Some("cp1"));
    }

    #[test]
    fn a_cordoned_worker_is_unschedulable_and_not_tainted_otherwise() {
        let read = node(include_str!("../../../tests/fixtures/real/api/cordon-self/stdout"));
        assert!(read.unschedulable && !read.tainted && !read.control_plane && read.ready);
        let back = node(include_str!("../../../tests/fixtures/real/api/uncordon-self/stdout"));
        assert!(!back.unschedulable);
    }

    #[test]
    fn the_pods_of_a_node_are_read_with_their_controllers() {
        let list: List<Pod> = serde_json::from_str(body(include_str!(
            "../../../tests/fixtures/real/api/pods-kube-system/stdout"
        )))
        .unwrap();
        let pods: Vec<PodState> = list.items.into_iter().map(PodState::from).collect();
        let of = |start: &str| pods.iter().find(|pod| pod.name.starts_with(start)).unwrap();
        assert_eq!(of("coredns-").controller.as_deref(), Some("ReplicaSet"));
        assert_eq!(of("kube-proxy-").controller.as_deref(), Some("DaemonSet"));
        let static_pod = of("kube-apiserver-");
        assert_eq!((static_pod.controller.as_deref(), static_pod.mirror), (Some("Node"), true));
        let failed = of("upgrade-health-check-");
        assert!(failed.finished && failed.terminating);
        assert_eq!(pods.iter().filter(|pod| pod.finished || pod.terminating).count(), 1);
    }

    #[test]
    fn an_empty_dir_of_any_kind_is_seen() {
        let pod = |volumes: &str| -> PodState {
            let text = format!(r#"{{"metadata": {{"name": "p"}}, "spec": {{"volumes": {volumes}}}}}"#);
            serde_json::from_str::<Pod>(&text).unwrap().into()
        };
        assert!(pod(r#"[{"name": "x", "emptyDir": {}}]"#).empty_dir);
        assert!(
            pod(r#"[{"name": "y", "configMap": {}}, {"name": "x", "emptyDir": {"medium": "Memory"}}]"#)
                .empty_dir
        );
        assert!(!pod(r#"[{"name": "y", "configMap": {"name": "z"}}]"#).empty_dir);
    }
}
