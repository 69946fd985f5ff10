//! What each step of a plan does on a node, one file a step.
//!
//! A step sees the machine only through [`Host`](crate::host::Host). Its `check` asks the machine, never the
//! journal; where the machine does not show whether a child ended well, the step leaves a [`mark`].

use liftlock_proto::step::Step;

use crate::engine::step::{Preparation, StepRunner};

mod api;
mod apply_addons;
mod back_up_node;
mod control_plane;
mod controllers;
mod delete_node;
mod drain;
mod etcd_quorum_gate;
mod etcd_snapshot;
mod fetch_packages;
mod install_kubeadm;
mod install_kubelet;
mod kubeadm;
mod kubeadm_join;
mod kubeadm_reset;
mod kubeadm_upgrade_apply;
mod kubeadm_upgrade_node;
mod kubelet;
mod mark;
mod measure_space;
mod package_versions;
mod pull_images;
mod redeploy;
mod refresh_packages;
mod remove_etcd_member;
mod restart_kubelet;
mod restore_schedulability;
mod run_hooks;
mod seal_protected_paths;
mod static_pods;
mod switch_repository;
mod verify_control_plane;
mod verify_node;
mod verify_protected_paths;

#[cfg(test)]
mod tests;

/// What carries out a step under a lease, or `None` for a preparation.
pub fn runner(step: &Step) -> Option<Box<dyn StepRunner>> {
    match step {
        Step::RefreshPackages {}
        | Step::FetchPackages { .. }
        | Step::PullImages { .. }
        | Step::MeasureSpace { .. } => None,
        Step::EtcdQuorumGate { allow_api_outage } => {
            Some(Box::new(etcd_quorum_gate::EtcdQuorumGate { allow_api_outage: *allow_api_outage }))
        }
        Step::EtcdSnapshot {} => Some(Box::new(etcd_snapshot::EtcdSnapshot)),
        Step::BackUpNode { role } => Some(Box::new(back_up_node::BackUpNode { role: *role })),
        Step::SealProtectedPaths {} => Some(Box::new(seal_protected_paths::SealProtectedPaths)),
        Step::SwitchRepository { version } => {
            Some(Box::new(switch_repository::SwitchRepository { version: *version }))
        }
        Step::InstallKubeadm { version } => {
            Some(Box::new(install_kubeadm::InstallKubeadm { version: *version }))
        }
        Step::KubeadmUpgradeApply { version, ignore_preflight_errors } => {
            Some(Box::new(kubeadm_upgrade_apply::KubeadmUpgradeApply {
                version: *version,
                ignore_preflight_errors: ignore_preflight_errors.clone(),
            }))
        }
        Step::KubeadmUpgradeNode { version, ignore_preflight_errors, role } => {
            Some(kubeadm_upgrade_node::runner(*role, *version, ignore_preflight_errors))
        }
        Step::VerifyControlPlane { version } => {
            Some(Box::new(verify_control_plane::VerifyControlPlane { version: *version }))
        }
        Step::Drain {
            timeout_seconds,
            delete_unmanaged_pods,
            delete_empty_dir_data,
            allow_only_schedulable_node,
            on_blocked,
        } => Some(Box::new(drain::Drain {
            timeout: std::time::Duration::from_secs((*timeout_seconds).into()),
            delete_unmanaged_pods: *delete_unmanaged_pods,
            delete_empty_dir_data: *delete_empty_dir_data,
            allow_only_schedulable_node: *allow_only_schedulable_node,
            on_blocked: *on_blocked,
        })),
        Step::InstallKubelet { version } => {
            Some(Box::new(install_kubelet::InstallKubelet { version: *version }))
        }
        Step::Redeploy { version, command, allow_api_outage } => Some(Box::new(redeploy::Redeploy {
            version: *version,
            command: command.clone(),
            gate: etcd_quorum_gate::EtcdQuorumGate { allow_api_outage: *allow_api_outage },
        })),
        Step::KubeadmJoin { version, role, ignore_preflight_errors } => {
            Some(Box::new(kubeadm_join::KubeadmJoin {
                version: *version,
                role: *role,
                ignore_preflight_errors: ignore_preflight_errors.clone(),
            }))
        }
        Step::KubeadmReset { role } => Some(Box::new(kubeadm_reset::KubeadmReset { role: *role })),
        Step::RemoveEtcdMember { node } => {
            Some(Box::new(remove_etcd_member::RemoveEtcdMember { member: node.clone() }))
        }
        Step::DeleteNode { node, also } => {
            let leavers = std::iter::once(node).chain(also).cloned().collect();
            Some(Box::new(delete_node::DeleteNode { leavers }))
        }
        Step::RestartKubelet { version } => {
            Some(Box::new(restart_kubelet::RestartKubelet { version: *version }))
        }
        Step::VerifyNode { version } => Some(Box::new(verify_node::VerifyNode { version: *version })),
        Step::RestoreSchedulability {} => Some(Box::new(restore_schedulability::RestoreSchedulability)),
        Step::VerifyProtectedPaths {} => Some(Box::new(verify_protected_paths::VerifyProtectedPaths)),
        Step::ApplyAddons { version, digest } => {
            Some(Box::new(apply_addons::ApplyAddons { version: *version, digest: digest.clone() }))
        }
        Step::RunHooks { moment, hooks, from_version, version } => Some(Box::new(run_hooks::RunHooks {
            moment: *moment,
            hooks: hooks.clone(),
            from_version: *from_version,
            version: *version,
        })),
    }
}

/// What carries out a preparation, or `None` for a step that needs a lease.
pub fn preparation(step: &Step) -> Option<Box<dyn Preparation>> {
    match step {
        Step::RefreshPackages {} => Some(Box::new(refresh_packages::RefreshPackages)),
        Step::FetchPackages { version } => {
            Some(Box::new(fetch_packages::FetchPackages { version: *version }))
        }
        Step::PullImages { version, role } => {
            Some(Box::new(pull_images::PullImages { version: *version, role: *role }))
        }
        Step::MeasureSpace { role } => Some(Box::new(measure_space::MeasureSpace { role: *role })),
        _ => None,
    }
}
