//! Which steps a node of each role takes, and in which order.

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Policy, Role};
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;

/// The consent that one or two etcd members need: their API goes away while they are raised.
pub const API_OUTAGE: &str = "api-outage";
/// The consent that draining the only node that takes pods needs.
pub const DRAIN_ONLY_NODE: &str = "drain-only-node";

/// What a node does before any lease, side by side with the others. It disturbs nothing.
pub fn prepare(role: Role, version: KubernetesVersion) -> Vec<Step> {
    vec![
        Step::RefreshPackages {},
        Step::FetchPackages { version },
        Step::PullImages { version, role },
        Step::MeasureSpace { role },
    ]
}

/// The same for a node whose package repositories are split by minor: they are led to the version's right before its
/// first package is installed, and so led back only after its last one is.
pub fn with_switched_repository(mut steps: Vec<Step>, version: KubernetesVersion) -> Vec<Step> {
    let first = steps.iter().position(|step| matches!(step, Step::InstallKubeadm { .. }));
    steps.insert(first.unwrap_or(steps.len()), Step::SwitchRepository { version });
    steps
}

/// What a node does under its lease, in this order: a verified backup before the first change, the control plane
/// before its kubelet, the node empty before its kubelet changes, and at the end the proof that what is protected is as
/// it was. `replacement` is the command that replaces the whole system: then nothing but that changes the kubelet.
pub fn under_lease(
    role: Role,
    version: KubernetesVersion,
    policy: &Policy,
    replacement: Option<&[String]>,
) -> Vec<Step> {
    let ignore_preflight_errors = policy.ignore_preflight_errors.clone();
    let mut steps = Vec::new();
    if role.is_control_plane() {
        steps.push(Step::EtcdQuorumGate { allow_api_outage: policy.accepts(API_OUTAGE) });
        steps.push(Step::EtcdSnapshot {});
    }
    steps.push(Step::BackUpNode { role });
    steps.push(Step::SealProtectedPaths {});
    steps.push(Step::InstallKubeadm { version });
    steps.push(match role {
        Role::FirstControlPlane => Step::KubeadmUpgradeApply { version, ignore_preflight_errors },
        Role::ControlPlane | Role::Worker => {
            Step::KubeadmUpgradeNode { version, ignore_preflight_errors, role }
        }
    });
    if role.is_control_plane() {
        steps.push(Step::VerifyControlPlane { version });
    }
    steps.extend([
        drain(policy),
        replacement.map_or(Step::InstallKubelet { version }, |command| Step::Redeploy {
            version,
            command: command.to_vec(),
            allow_api_outage: policy.accepts(API_OUTAGE),
        }),
        Step::RestartKubelet { version },
        Step::VerifyNode { version },
        Step::RestoreSchedulability {},
        Step::VerifyProtectedPaths {},
    ]);
    steps
}

fn drain(policy: &Policy) -> Step {
    Step::Drain {
        timeout_seconds: policy.drain_timeout_seconds,
        delete_unmanaged_pods: policy.delete_unmanaged_pods,
        delete_empty_dir_data: policy.delete_empty_dir_data,
        allow_only_schedulable_node: policy.accepts(DRAIN_ONLY_NODE),
        on_blocked: OnBlocked::default(),
    }
}

/// What a machine does before the lease under which it joins. Images are kubeadm's to pull: before the join nobody there may
/// ask which they are.
pub fn prepare_to_join(version: KubernetesVersion) -> Vec<Step> {
    vec![Step::RefreshPackages {}, Step::FetchPackages { version }, Step::MeasureSpace { role: Role::Worker }]
}

/// How a machine joins: with the packages of what the cluster runs, and proven to be a node of it.
pub fn join(role: Role, version: KubernetesVersion, policy: &Policy) -> Vec<Step> {
    let ignore_preflight_errors = policy.ignore_preflight_errors.clone();
    let mut steps = vec![
        // It is no control plane yet, whatever it is going to be.
        Step::BackUpNode { role: Role::Worker },
        Step::InstallKubeadm { version },
        Step::InstallKubelet { version },
        Step::KubeadmJoin { version, role, ignore_preflight_errors },
    ];
    if role.is_control_plane() {
        steps.push(Step::VerifyControlPlane { version });
    }
    steps.push(Step::VerifyNode { version });
    steps
}

/// How a node leaves: backed up, empty, and with a member of etcd that can be missed.
pub fn leave(role: Role, policy: &Policy) -> Vec<Step> {
    let mut steps = Vec::new();
    if role.is_control_plane() {
        steps.push(Step::EtcdQuorumGate { allow_api_outage: policy.accepts(API_OUTAGE) });
        steps.push(Step::EtcdSnapshot {});
    }
    steps.extend([Step::BackUpNode { role }, drain(policy), Step::KubeadmReset { role }]);
    steps
}

/// How a machine that has joined leaves again because its plan is rolled back. Its earlier state was backed up before it joined,
/// and the cluster has every member that it had before.
pub fn leave_again(role: Role, policy: &Policy) -> Vec<Step> {
    vec![drain(policy), Step::KubeadmReset { role }]
}

/// How a worker's pods are moved to others while it stays where it is, cordoned.
pub fn empty(policy: &Policy) -> Vec<Step> {
    vec![Step::BackUpNode { role: Role::Worker }, drain(policy)]
}

/// How a control plane keeps how things are before machines join.
pub fn keep_a_snapshot() -> Vec<Step> {
    vec![Step::EtcdSnapshot {}, Step::BackUpNode { role: Role::ControlPlane }]
}

/// How a control plane ends the memberships of nodes that have left, of which one at most was a control plane. Where that could not
/// back itself up, this one keeps a snapshot of etcd before its members change.
pub fn end_memberships(leavers: &[NodeName], role: Role, answered: bool) -> Vec<Step> {
    let Some((node, also)) = leavers.split_first() else { return Vec::new() };
    let mut steps = Vec::new();
    if role.is_control_plane() {
        if !answered {
            steps.extend([Step::EtcdSnapshot {}, Step::BackUpNode { role }]);
        }
        steps.push(Step::RemoveEtcdMember { node: node.clone() });
    }
    steps.push(Step::DeleteNode { node: node.clone(), also: also.to_vec() });
    steps
}
