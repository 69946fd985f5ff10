//! The closed set of steps that a plan is made of.

use serde::{Deserialize, Serialize};

use crate::blocked::OnBlocked;
use crate::hooks::{self, NodeHook, NodeMoment};
use crate::name::{NameError, NodeName};
use crate::plan::Role;
use crate::v1;
use crate::version::{KubernetesVersion, VersionError};

/// Raised whenever a step's meaning changes; an agent refuses a journal or a lease of another version.
pub const STEP_LIST_VERSION: u32 = 5;

/// One typed step. There is none that runs an arbitrary command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Step {
    /// Reads the package repositories' lists anew. Disturbs nothing.
    RefreshPackages {},
    /// Downloads kubeadm, kubelet and kubectl without installing them. Disturbs nothing.
    FetchPackages {
        /// The target.
        version: KubernetesVersion,
    },
    /// Pulls the images that the target's kubeadm names, as far as the role needs them. Disturbs nothing.
    PullImages {
        /// The target.
        version: KubernetesVersion,
        /// Workers need fewer images.
        role: Role,
    },
    /// Refuses a node whose disks are too full for backups and packages.
    MeasureSpace {
        /// Control planes back up etcd.
        role: Role,
    },
    /// Every etcd member healthy, no alarm, no learner, and this member may be missed.
    EtcdQuorumGate {
        /// The operator consented to an outage of the API (one or two members).
        allow_api_outage: bool,
    },
    /// A verified snapshot of etcd in the node's backup folder.
    EtcdSnapshot {},
    /// Manifests, pki, kubeconfigs, kubelet files, `ConfigMap`s and package versions in the backup folder.
    BackUpNode {
        /// Only control planes have manifests and pki.
        role: Role,
    },
    /// A manifest of the protected paths, and copies of what is small in them, in the node's backup folder.
    SealProtectedPaths {},
    /// Leads the node's own repositories, which are split by minor, to those of the version.
    SwitchRepository {
        /// The target.
        version: KubernetesVersion,
    },
    /// Installs kubeadm at exactly the version, holds respected.
    InstallKubeadm {
        /// The target.
        version: KubernetesVersion,
    },
    /// `kubeadm upgrade apply`, on the first control plane only.
    KubeadmUpgradeApply {
        /// The target.
        version: KubernetesVersion,
        /// Names of preflight checks.
        ignore_preflight_errors: Vec<String>,
    },
    /// `kubeadm upgrade node`, on every other node.
    KubeadmUpgradeNode {
        /// What the kubeadm-config `ConfigMap` must say before this may run.
        version: KubernetesVersion,
        /// Names of preflight checks.
        ignore_preflight_errors: Vec<String>,
        /// Control planes have static pods to compare.
        role: Role,
    },
    /// The control plane of this node runs the version: containers, readyz and kubeadm-config say so.
    VerifyControlPlane {
        /// The target.
        version: KubernetesVersion,
    },
    /// Cordons the node and evicts its pods.
    Drain {
        /// How long it may take.
        timeout_seconds: u32,
        /// Delete pods that no controller would start again.
        delete_unmanaged_pods: bool,
        /// Delete pods whose emptyDir volumes go with them.
        delete_empty_dir_data: bool,
        /// Drain even where no other node takes pods.
        allow_only_schedulable_node: bool,
        /// What follows when evictions are still refused then.
        #[serde(default, skip_serializing_if = "OnBlocked::is_pause")]
        on_blocked: OnBlocked,
    },
    /// Installs kubelet and kubectl at exactly the version, holds respected.
    InstallKubelet {
        /// The target.
        version: KubernetesVersion,
    },
    /// Exports the protected paths, has the node's own command replace the system, and is done once they are back in the
    /// new one, whose kubeadm and kubelet are of the version.
    Redeploy {
        /// The target.
        version: KubernetesVersion,
        /// What the node's configuration names, for people to read: an agent that is configured otherwise refuses.
        command: Vec<String>,
        /// The operator consented to an outage of the API (one or two members of etcd).
        allow_api_outage: bool,
    },
    /// `kubeadm join`, on a machine that is in no cluster.
    KubeadmJoin {
        /// The cluster's.
        version: KubernetesVersion,
        /// Control planes get etcd and the cluster's certificates besides.
        role: Role,
        /// Names of preflight checks.
        ignore_preflight_errors: Vec<String>,
    },
    /// `kubeadm reset`, on a node that was drained: it is in no cluster afterwards.
    KubeadmReset {
        /// Control planes have a member of etcd to take away.
        role: Role,
    },
    /// Takes the member of etcd of a node that has left out of the cluster. By another control plane.
    RemoveEtcdMember {
        /// The node that has left.
        node: NodeName,
    },
    /// Deletes the Nodes of machines that have left. By a control plane.
    DeleteNode {
        /// The node that has left.
        node: NodeName,
        /// Those that have left together with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<NodeName>,
    },
    /// Reloads systemd and restarts the kubelet.
    RestartKubelet {
        /// What the running kubelet must be.
        version: KubernetesVersion,
    },
    /// The Node is Ready and its kubelet reports the version.
    VerifyNode {
        /// The target.
        version: KubernetesVersion,
    },
    /// Uncordons the node unless it was cordoned before its lease.
    RestoreSchedulability {},
    /// Compares the protected paths with their manifest, puts back what was sealed and changed, and fails for what it
    /// cannot.
    VerifyProtectedPaths {},
    /// Applies the manifests that lie on this node for the version, once its control plane is raised, and deletes what
    /// Liftlock applied before and is no longer among them.
    ApplyAddons {
        /// The target.
        version: KubernetesVersion,
        /// SHA-256 of the manifests, as every control plane reported it: an agent that finds others refuses.
        digest: String,
    },
    /// Calls hooks of the node's own configuration, one after the other. One that was cut off is called again.
    RunHooks {
        /// Before or after the node is raised.
        moment: NodeMoment,
        /// Which, in their order.
        hooks: Vec<NodeHook>,
        /// What the plan comes from.
        from_version: KubernetesVersion,
        /// The target.
        version: KubernetesVersion,
    },
}

/// What undoing a step means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reversal {
    /// It changes nothing that would have to be put back.
    Nothing,
    /// The agent puts back what it captured before.
    Automatic,
    /// `kubeadm upgrade apply --force` to the earlier version, as long as etcd's minor version stays.
    KubeadmForce,
    /// Nobody but an operator: what was before is gone.
    Never,
}

impl Step {
    /// Its stable name in journals, messages and on screens: `kubeadm-upgrade-apply`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RefreshPackages {} => "refresh-packages",
            Self::FetchPackages { .. } => "fetch-packages",
            Self::PullImages { .. } => "pull-images",
            Self::MeasureSpace { .. } => "measure-space",
            Self::EtcdQuorumGate { .. } => "etcd-quorum-gate",
            Self::EtcdSnapshot {} => "etcd-snapshot",
            Self::BackUpNode { .. } => "back-up-node",
            Self::SealProtectedPaths {} => "seal-protected-paths",
            Self::SwitchRepository { .. } => "switch-repository",
            Self::InstallKubeadm { .. } => "install-kubeadm",
            Self::KubeadmUpgradeApply { .. } => "kubeadm-upgrade-apply",
            Self::KubeadmUpgradeNode { .. } => "kubeadm-upgrade-node",
            Self::VerifyControlPlane { .. } => "verify-control-plane",
            Self::Drain { .. } => "drain",
            Self::InstallKubelet { .. } => "install-kubelet",
            Self::Redeploy { .. } => "redeploy",
            Self::KubeadmJoin { .. } => "kubeadm-join",
            Self::KubeadmReset { .. } => "kubeadm-reset",
            Self::RemoveEtcdMember { .. } => "remove-etcd-member",
            Self::DeleteNode { .. } => "delete-node",
            Self::RestartKubelet { .. } => "restart-kubelet",
            Self::VerifyNode { .. } => "verify-node",
            Self::RestoreSchedulability {} => "restore-schedulability",
            Self::VerifyProtectedPaths {} => "verify-protected-paths",
            Self::ApplyAddons { .. } => "apply-addons",
            Self::RunHooks { moment: NodeMoment::BeforeNode, .. } => "run-hooks-before",
            Self::RunHooks { moment: NodeMoment::AfterNode, .. } => "run-hooks-after",
        }
    }

    /// What it takes to undo it.
    pub fn reversal(&self) -> Reversal {
        match self {
            Self::SwitchRepository { .. }
            | Self::InstallKubeadm { .. }
            | Self::Drain { .. }
            | Self::KubeadmJoin { .. }
            | Self::InstallKubelet { .. }
            | Self::RestartKubelet { .. }
            | Self::KubeadmUpgradeNode { .. }
            | Self::ApplyAddons { .. } => Reversal::Automatic,
            Self::KubeadmUpgradeApply { .. } => Reversal::KubeadmForce,
            Self::Redeploy { .. }
            | Self::KubeadmReset { .. }
            | Self::RemoveEtcdMember { .. }
            | Self::DeleteNode { .. } => Reversal::Never,
            _ => Reversal::Nothing,
        }
    }
}

/// A message that holds no step that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The `oneof` is empty: the other side is newer.
    #[error(
        "the message holds a step that this version of Liftlock does not know: bring both sides to one version"
    )]
    Unknown,
    /// A role that this version does not know.
    #[error("the message holds no role that this version of Liftlock knows")]
    Role,
    /// A purpose of a lease that this version does not know.
    #[error("the message holds no purpose of a lease that this version of Liftlock knows")]
    Purpose,
    /// A version that does not parse.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A node's name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl From<Step> for v1::Step {
    fn from(step: Step) -> Self {
        use v1::step::Kind;
        let role = |role: Role| v1::Role::from(role).into();
        let text = |version: KubernetesVersion| version.to_string();
        let kind = match step {
            Step::RefreshPackages {} => Kind::RefreshPackages(v1::RefreshPackages {}),
            Step::FetchPackages { version } => {
                Kind::FetchPackages(v1::FetchPackages { version: text(version) })
            }
            Step::PullImages { version, role: r } => {
                Kind::PullImages(v1::PullImages { version: text(version), role: role(r) })
            }
            Step::MeasureSpace { role: r } => Kind::MeasureSpace(v1::MeasureSpace { role: role(r) }),
            Step::EtcdQuorumGate { allow_api_outage } => {
                Kind::EtcdQuorumGate(v1::EtcdQuorumGate { allow_api_outage })
            }
            Step::EtcdSnapshot {} => Kind::EtcdSnapshot(v1::EtcdSnapshot {}),
            Step::BackUpNode { role: r } => Kind::BackUpNode(v1::BackUpNode { role: role(r) }),
            Step::SwitchRepository { version } => {
                Kind::SwitchRepository(v1::SwitchRepository { version: text(version) })
            }
            Step::InstallKubeadm { version } => {
                Kind::InstallKubeadm(v1::InstallKubeadm { version: text(version) })
            }
            Step::KubeadmUpgradeApply { version, ignore_preflight_errors } => {
                Kind::KubeadmUpgradeApply(v1::KubeadmUpgradeApply {
                    version: text(version),
                    ignore_preflight_errors,
                })
            }
            Step::KubeadmUpgradeNode { version, ignore_preflight_errors, role: r } => {
                Kind::KubeadmUpgradeNode(v1::KubeadmUpgradeNode {
                    version: text(version),
                    ignore_preflight_errors,
                    role: role(r),
                })
            }
            Step::VerifyControlPlane { version } => {
                Kind::VerifyControlPlane(v1::VerifyControlPlane { version: text(version) })
            }
            Step::Drain {
                timeout_seconds,
                delete_unmanaged_pods,
                delete_empty_dir_data,
                allow_only_schedulable_node,
                on_blocked,
            } => Kind::Drain(v1::Drain {
                timeout_seconds,
                delete_unmanaged_pods,
                delete_empty_dir_data,
                allow_only_schedulable_node,
                on_blocked: v1::OnBlocked::from(on_blocked).into(),
            }),
            Step::InstallKubelet { version } => {
                Kind::InstallKubelet(v1::InstallKubelet { version: text(version) })
            }
            Step::Redeploy { version, command, allow_api_outage } => {
                Kind::Redeploy(v1::Redeploy { version: text(version), command, allow_api_outage })
            }
            Step::KubeadmJoin { version, role: r, ignore_preflight_errors } => {
                Kind::KubeadmJoin(v1::KubeadmJoin {
                    version: text(version),
                    role: role(r),
                    ignore_preflight_errors,
                })
            }
            Step::KubeadmReset { role: r } => Kind::KubeadmReset(v1::KubeadmReset { role: role(r) }),
            Step::RemoveEtcdMember { node } => {
                Kind::RemoveEtcdMember(v1::RemoveEtcdMember { node: node.into() })
            }
            Step::DeleteNode { node, also } => Kind::DeleteNode(v1::DeleteNode {
                node: node.into(),
                also: also.into_iter().map(Into::into).collect(),
            }),
            Step::RestartKubelet { version } => {
                Kind::RestartKubelet(v1::RestartKubelet { version: text(version) })
            }
            Step::VerifyNode { version } => Kind::VerifyNode(v1::VerifyNode { version: text(version) }),
            Step::RestoreSchedulability {} => Kind::RestoreSchedulability(v1::RestoreSchedulability {}),
            Step::SealProtectedPaths {} => Kind::SealProtectedPaths(v1::SealProtectedPaths {}),
            Step::VerifyProtectedPaths {} => Kind::VerifyProtectedPaths(v1::VerifyProtectedPaths {}),
            Step::ApplyAddons { version, digest } => {
                Kind::ApplyAddons(v1::ApplyAddons { version: text(version), digest })
            }
            Step::RunHooks { moment, hooks, from_version, version } => Kind::RunHooks(v1::RunHooks {
                moment: v1::NodeMoment::from(moment).into(),
                hooks: hooks::messages(hooks),
                from_version: text(from_version),
                version: text(version),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Step> for Step {
    type Error = StepError;

    fn try_from(message: v1::Step) -> Result<Self, StepError> {
        use v1::step::Kind;
        Ok(match message.kind.ok_or(StepError::Unknown)? {
            Kind::RefreshPackages(_) => Self::RefreshPackages {},
            Kind::FetchPackages(m) => Self::FetchPackages { version: m.version.parse()? },
            Kind::PullImages(m) => {
                Self::PullImages { role: m.role().try_into()?, version: m.version.parse()? }
            }
            Kind::MeasureSpace(m) => Self::MeasureSpace { role: m.role().try_into()? },
            Kind::EtcdQuorumGate(m) => Self::EtcdQuorumGate { allow_api_outage: m.allow_api_outage },
            Kind::EtcdSnapshot(_) => Self::EtcdSnapshot {},
            Kind::BackUpNode(m) => Self::BackUpNode { role: m.role().try_into()? },
            Kind::SwitchRepository(m) => Self::SwitchRepository { version: m.version.parse()? },
            Kind::InstallKubeadm(m) => Self::InstallKubeadm { version: m.version.parse()? },
            Kind::KubeadmUpgradeApply(m) => Self::KubeadmUpgradeApply {
                version: m.version.parse()?,
                ignore_preflight_errors: m.ignore_preflight_errors,
            },
            Kind::KubeadmUpgradeNode(m) => Self::KubeadmUpgradeNode {
                role: m.role().try_into()?,
                version: m.version.parse()?,
                ignore_preflight_errors: m.ignore_preflight_errors,
            },
            Kind::VerifyControlPlane(m) => Self::VerifyControlPlane { version: m.version.parse()? },
            Kind::Drain(m) => Self::Drain {
                on_blocked: m.on_blocked().into(),
                timeout_seconds: m.timeout_seconds,
                delete_unmanaged_pods: m.delete_unmanaged_pods,
                delete_empty_dir_data: m.delete_empty_dir_data,
                allow_only_schedulable_node: m.allow_only_schedulable_node,
            },
            Kind::InstallKubelet(m) => Self::InstallKubelet { version: m.version.parse()? },
            Kind::Redeploy(m) => Self::Redeploy {
                version: m.version.parse()?,
                command: m.command,
                allow_api_outage: m.allow_api_outage,
            },
            Kind::KubeadmJoin(m) => Self::KubeadmJoin {
                role: m.role().try_into()?,
                version: m.version.parse()?,
                ignore_preflight_errors: m.ignore_preflight_errors,
            },
            Kind::KubeadmReset(m) => Self::KubeadmReset { role: m.role().try_into()? },
            Kind::RemoveEtcdMember(m) => Self::RemoveEtcdMember { node: m.node.parse()? },
            Kind::DeleteNode(m) => Self::DeleteNode {
                node: m.node.parse()?,
                also: m.also.iter().map(|node| node.parse()).collect::<Result<_, _>>()?,
            },
            Kind::RestartKubelet(m) => Self::RestartKubelet { version: m.version.parse()? },
            Kind::VerifyNode(m) => Self::VerifyNode { version: m.version.parse()? },
            Kind::RestoreSchedulability(_) => Self::RestoreSchedulability {},
            Kind::SealProtectedPaths(_) => Self::SealProtectedPaths {},
            Kind::VerifyProtectedPaths(_) => Self::VerifyProtectedPaths {},
            Kind::ApplyAddons(m) => Self::ApplyAddons { version: m.version.parse()?, digest: m.digest },
            Kind::RunHooks(m) => Self::RunHooks {
                moment: m.moment().try_into()?,
                from_version: m.from_version.parse()?,
                version: m.version.parse()?,
                hooks: hooks::hooks(m.hooks),
            },
        })
    }
}
