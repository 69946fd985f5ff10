//! A plan: which nodes, in which order, each with its steps.

use serde::{Deserialize, Serialize};

use crate::blocked::OnBlocked;
use crate::control_planes::ControlPlanes;
use crate::hooks::NodeHooks;
use crate::name::{NameError, NodeName, PlanId};
use crate::packages::PackageSource;
use crate::step::{Step, StepError};
use crate::v1;
use crate::version::{KubernetesVersion, VersionError};
use crate::workers::{Place, PlannedPool, Workers};

/// What a node is in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs `kubeadm upgrade apply`.
    FirstControlPlane,
    /// Runs `kubeadm upgrade node` with static pods and etcd.
    ControlPlane,
    /// Runs `kubeadm upgrade node`.
    Worker,
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To carry out the steps of the plan.
    #[default]
    Raise,
    /// To put back what they changed, the last one first.
    RollBack,
}

/// What follows when a node has failed for good: every attempt that its steps allow was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing more is leased; an operator says retry, rollback or abort.
    #[default]
    Halt,
    /// The node that failed is put back, and then an operator is asked.
    RollBackNode,
    /// Every node that was changed is put back, the last one first.
    RollBackCluster,
}

impl OnFailure {
    /// Every one, in the order of its number in messages.
    pub const ALL: [Self; 3] = [Self::Halt, Self::RollBackNode, Self::RollBackCluster];

    /// Its name in options, documents and messages to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::RollBackNode => "roll-back-node",
            Self::RollBackCluster => "roll-back-cluster",
        }
    }
}

impl std::str::FromStr for OnFailure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("\"{text}\" is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl std::fmt::Display for OnFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operator decides before the roll-out starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// How long a drain may take, in seconds.
    pub drain_timeout_seconds: u32,
    /// Delete pods that no controller would start again.
    pub delete_unmanaged_pods: bool,
    /// Delete pods whose emptyDir volumes go with them.
    pub delete_empty_dir_data: bool,
    /// Names of kubeadm preflight checks whose errors are ignored.
    pub ignore_preflight_errors: Vec<String>,
    /// Names of gates that the operator consents to pass.
    pub accepted: Vec<String>,
    /// What follows when a node has failed for good.
    pub on_failure: OnFailure,
    /// Hosts are replaced as a whole, each by its own command, in the place of new packages of kubelet and kubectl.
    #[serde(skip_serializing_if = "is_off")]
    pub redeploy: bool,
    /// Workers are raised only at the last stop of a path, and where their kubelets would be too far behind.
    #[serde(skip_serializing_if = "is_off")]
    pub workers_skip_stops: bool,
    /// How workers are raised.
    #[serde(skip_serializing_if = "Workers::is_default")]
    pub workers: Workers,
    /// How control planes come to the version.
    #[serde(skip_serializing_if = "ControlPlanes::is_default")]
    pub control_planes: ControlPlanes,
    /// One machine takes the place of another, and nothing is raised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// What follows when a worker cannot be drained because budgets protect its pods.
    #[serde(skip_serializing_if = "OnBlocked::is_pause")]
    pub on_blocked: OnBlocked,
    /// What each node calls itself before and after it is raised.
    #[serde(skip_serializing_if = "NodeHooks::is_default")]
    pub node_hooks: NodeHooks,
}

/// A machine that takes the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replacement {
    /// The node that leaves the cluster.
    pub old: NodeName,
    /// The node that joins it: an agent that is enrolled, on a machine that has not joined.
    pub with: NodeName,
}

/// One node's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedNode {
    /// The Kubernetes Node's name.
    pub name: NodeName,
    /// What it is.
    pub role: Role,
    /// Run on all nodes side by side before any lease; they disturb nothing.
    pub prepare: Vec<Step>,
    /// Run in order under the node's lease.
    pub steps: Vec<Step>,
    /// Where a worker is; `None` where the plan has no pools, and of control planes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Where its packages come from.
    #[serde(default, skip_serializing_if = "PackageSource::is_default")]
    pub packages: PackageSource,
}

/// An upgrade of one cluster by one minor or less. Immutable once applied; its hash names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// Follows from the hash.
    pub id: PlanId,
    /// SHA-256 over everything else, lower-case hexadecimal.
    pub hash: String,
    /// What the control plane runs now.
    pub from_version: KubernetesVersion,
    /// What to reach.
    pub to_version: KubernetesVersion,
    /// In the order in which they are leased.
    pub nodes: Vec<PlannedNode>,
    /// What the operator decided beforehand.
    pub policy: Policy,
    /// The pools of its workers, in the order in which they are raised; empty where workers are raised one at a time, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PlannedPool>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_off(wish: &bool) -> bool {
    !wish
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            drain_timeout_seconds: 600,
            delete_unmanaged_pods: false,
            delete_empty_dir_data: false,
            ignore_preflight_errors: Vec::new(),
            accepted: Vec::new(),
            on_failure: OnFailure::default(),
            redeploy: false,
            workers_skip_stops: false,
            workers: Workers::default(),
            control_planes: ControlPlanes::default(),
            replacement: None,
            on_blocked: OnBlocked::default(),
            node_hooks: NodeHooks::default(),
        }
    }
}

impl Policy {
    /// Whether the operator consented to pass this gate.
    pub fn accepts(&self, gate: &str) -> bool {
        self.accepted.iter().any(|accepted| accepted == gate)
    }
}

impl Role {
    /// Whether the node runs static control-plane pods.
    pub fn is_control_plane(self) -> bool {
        self != Self::Worker
    }

    /// Its name on screens: `control-plane`.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstControlPlane => "first-control-plane",
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

/// A message that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An id or a node's name is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A version is malformed.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A step or a role is unknown.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::FirstControlPlane => Self::FirstControlPlane,
            Role::ControlPlane => Self::ControlPlane,
            Role::Worker => Self::Worker,
        }
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = StepError;

    fn try_from(role: v1::Role) -> Result<Self, StepError> {
        match role {
            v1::Role::Unspecified => Err(StepError::Role),
            v1::Role::FirstControlPlane => Ok(Self::FirstControlPlane),
            v1::Role::ControlPlane => Ok(Self::ControlPlane),
            v1::Role::Worker => Ok(Self::Worker),
        }
    }
}

impl From<Purpose> for v1::Purpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Raise => Self::Raise,
            Purpose::RollBack => Self::RollBack,
        }
    }
}

impl TryFrom<v1::Purpose> for Purpose {
    type Error = StepError;

    fn try_from(purpose: v1::Purpose) -> Result<Self, StepError> {
        match purpose {
            v1::Purpose::Unspecified => Err(StepError::Purpose),
            v1::Purpose::Raise => Ok(Self::Raise),
            v1::Purpose::RollBack => Ok(Self::RollBack),
        }
    }
}

impl From<Policy> for v1::Policy {
    fn from(policy: Policy) -> Self {
        let Policy {
            drain_timeout_seconds,
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors,
            accepted,
            on_failure,
            redeploy,
            workers_skip_stops,
            workers,
            control_planes,
            replacement,
            on_blocked,
            node_hooks,
        } = policy;
        Self {
            drain_timeout_seconds,
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors,
            accepted,
            on_failure: v1::OnFailure::from(on_failure).into(),
            redeploy,
            workers_skip_stops,
            workers: (!workers.is_default()).then(|| workers.into()),
            control_planes: (!control_planes.is_default()).then(|| control_planes.into()),
            replacement: replacement.map(Into::into),
            on_blocked: v1::OnBlocked::from(on_blocked).into(),
            node_hooks: (!node_hooks.is_default()).then(|| node_hooks.into()),
        }
    }
}

impl From<OnFailure> for v1::OnFailure {
    fn from(policy: OnFailure) -> Self {
        match policy {
            OnFailure::Halt => Self::Halt,
            OnFailure::RollBackNode => Self::RollBackNode,
            OnFailure::RollBackCluster => Self::RollBackCluster,
        }
    }
}

impl From<v1::OnFailure> for OnFailure {
    fn from(message: v1::OnFailure) -> Self {
        match message {
            v1::OnFailure::Halt => Self::Halt,
            v1::OnFailure::RollBackNode => Self::RollBackNode,
            v1::OnFailure::RollBackCluster => Self::RollBackCluster,
        }
    }
}

impl From<Replacement> for v1::Replacement {
    fn from(Replacement { old, with }: Replacement) -> Self {
        Self { old: old.into(), with: with.into() }
    }
}

impl TryFrom<v1::Replacement> for Replacement {
    type Error = NameError;

    fn try_from(message: v1::Replacement) -> Result<Self, NameError> {
        Ok(Self { old: message.old.parse()?, with: message.with.parse()? })
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = NameError;

    fn try_from(message: v1::Policy) -> Result<Self, NameError> {
        let (on_failure, on_blocked) = (message.on_failure().into(), message.on_blocked().into());
        let v1::Policy {
            drain_timeout_seconds,
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors,
            accepted,
            on_failure: _,
            redeploy,
            workers_skip_stops,
            workers,
            control_planes,
            replacement,
            on_blocked: _,
            node_hooks,
        } = message;
        Ok(Self {
            drain_timeout_seconds,
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors,
            accepted,
            on_failure,
            redeploy,
            workers_skip_stops,
            workers: workers.map(Into::into).unwrap_or_default(),
            control_planes: control_planes.map(Into::into).unwrap_or_default(),
            replacement: replacement.map(TryInto::try_into).transpose()?,
            on_blocked,
            node_hooks: node_hooks.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<PlannedNode> for v1::PlannedNode {
    fn from(node: PlannedNode) -> Self {
        Self {
            name: node.name.into(),
            role: v1::Role::from(node.role).into(),
            prepare: node.prepare.into_iter().map(Into::into).collect(),
            steps: node.steps.into_iter().map(Into::into).collect(),
            place: node.place.map(Into::into),
            packages: Some(node.packages).filter(|source| !source.is_default()).map(Into::into),
        }
    }
}

impl TryFrom<v1::PlannedNode> for PlannedNode {
    type Error = PlanError;

    fn try_from(message: v1::PlannedNode) -> Result<Self, PlanError> {
        Ok(Self {
            role: message.role().try_into()?,
            name: message.name.parse()?,
            prepare: steps(message.prepare)?,
            steps: steps(message.steps)?,
            place: message.place.map(Into::into),
            packages: message.packages.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<Plan> for v1::Plan {
    fn from(plan: Plan) -> Self {
        Self {
            id: plan.id.into(),
            hash: plan.hash,
            from_version: plan.from_version.to_string(),
            to_version: plan.to_version.to_string(),
            nodes: plan.nodes.into_iter().map(Into::into).collect(),
            policy: Some(plan.policy.into()),
            pools: plan.pools.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Plan> for Plan {
    type Error = PlanError;

    fn try_from(message: v1::Plan) -> Result<Self, PlanError> {
        Ok(Self {
            id: message.id.parse()?,
            hash: message.hash,
            from_version: message.from_version.parse()?,
            to_version: message.to_version.parse()?,
            nodes: message.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            policy: message.policy.unwrap_or_default().try_into()?,
            pools: message.pools.into_iter().map(Into::into).collect(),
        })
    }
}

/// The steps in a message, or the first that this version does not know.
pub fn steps(messages: Vec<v1::Step>) -> Result<Vec<Step>, StepError> {
    messages.into_iter().map(TryInto::try_into).collect()
}
