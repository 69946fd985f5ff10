//! What room for pods a machine has once it has joined.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;

use super::{Requests, Room};

/// Where less memory is left than that the kubelet evicts pods, so it is not for them; unless it is told otherwise it keeps nothing else
/// back for itself or for the system, and no CPU
/// (<https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#hard-eviction-thresholds>,
/// <https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/>).
const KEPT_BACK_BYTES: u64 = 100 << 20;

/// How many pods a kubelet runs unless it is told otherwise: `maxPods` of
/// <https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/>.
const MAX_PODS: u32 = 110;

/// A taint that no pod bears, for what is known to have one and not which.
const UNBORNE: u32 = u32::MAX;

/// A machine, as its agent tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// How many are online.
    pub cpus: u64,
    /// All of its memory, in bytes.
    pub memory_bytes: u64,
    /// As Kubernetes calls it: `amd64`.
    pub architecture: String,
}

impl Machine {
    /// Its room once it has joined in a role: what the kubelet's defaults leave, less what pods ask for that no drain moves. As many
    /// of these are there as on the fullest of the nodes that go. A control plane has the taints of the one whose place it takes,
    /// and some taint where that has none, as kubeadm gives it one.
    pub(super) fn room<'a>(
        &self,
        name: &NodeName,
        role: Role,
        version: KubernetesVersion,
        goers: impl Iterator<Item = &'a Room>,
    ) -> Room {
        let (mut unmoved, mut taints) = (Requests::default(), BTreeSet::new());
        for goer in goers {
            unmoved = unmoved.most(goer.unmoved);
            if role.is_control_plane() {
                taints.clone_from(&goer.taints);
            }
        }
        if role.is_control_plane() && taints.is_empty() {
            taints.insert(UNBORNE);
        }
        Room {
            cpu_m: self.cpus.saturating_mul(1000).saturating_sub(unmoved.cpu_m),
            memory_bytes: self
                .memory_bytes
                .saturating_sub(KEPT_BACK_BYTES)
                .saturating_sub(unmoved.memory_bytes),
            pods: MAX_PODS.saturating_sub(unmoved.pods),
            schedulable: true,
            labels: self.labels(name, role, version).into_iter().collect(),
            taints,
            unmoved,
        }
    }

    /// Those that the kubelet and kubeadm give every node
    /// (<https://kubernetes.io/docs/reference/labels-annotations-taints/>).
    fn labels(&self, name: &NodeName, role: Role, version: KubernetesVersion) -> Vec<String> {
        let Self { architecture, .. } = self;
        let mut labels = vec![
            format!("kubernetes.io/hostname={name}"),
            "kubernetes.io/os=linux".to_owned(),
            "beta.kubernetes.io/os=linux".to_owned(),
            format!("kubernetes.io/arch={architecture}"),
            format!("beta.kubernetes.io/arch={architecture}"),
        ];
        if role.is_control_plane() {
            // The one was added in 1.20, the other went in 1.24.
            if version.minor >= 20 {
                labels.push("node-role.kubernetes.io/control-plane=".to_owned());
            }
            if version.minor < 24 {
                labels.push("node-role.kubernetes.io/master=".to_owned());
            }
        }
        labels
    }
}

impl Requests {
    fn most(self, other: Self) -> Self {
        Self {
            cpu_m: self.cpu_m.max(other.cpu_m),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            pods: self.pods.max(other.pods),
        }
    }
}
