//! What is wanted: a version, and what an operator decides beforehand.

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::control_planes::ControlPlanes;
use liftlock_proto::hooks::NodeHooks;
use liftlock_proto::plan::{OnFailure, Policy};
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::Workers;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conduct::{AlertsSpec, WindowSpec};
use super::control_planes::ControlPlanesSpec;
use super::hooks::HooksSpec;
use super::schema;
use super::values::{self, GateName, PreflightCheck, Seconds};
use super::workers::WorkersSpec;

/// What is wanted of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// What every node is to run, such as v1.20.2. Minors between it and what runs are stops on the way.
    #[schemars(schema_with = "schema::version")]
    pub to_version: KubernetesVersion,
    /// What is decided beforehand.
    #[serde(default)]
    pub policy: PolicySpec,
    /// How control planes come to the version.
    #[serde(default, skip_serializing_if = "ControlPlanesSpec::is_default")]
    pub control_planes: ControlPlanesSpec,
    /// How workers are raised.
    #[serde(default, skip_serializing_if = "WorkersSpec::is_default")]
    pub workers: WorkersSpec,
    /// Nodes are begun on only inside one of these windows; at any time where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowSpec>,
    /// Which alerts hold the roll-out, where the coordinator asks a Prometheus.
    #[serde(default, skip_serializing_if = "AlertsSpec::is_default")]
    pub alerts: AlertsSpec,
    /// What is called before and after plans, pools and nodes.
    #[serde(default, skip_serializing_if = "HooksSpec::is_default")]
    pub hooks: HooksSpec,
}

/// What an operator decides before the roll-out starts: the fields of [`Policy`] but for its nodes, each checked where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicySpec {
    /// How long the drain of a node may take, in seconds.
    pub drain_timeout_seconds: Seconds,
    /// Delete pods that no controller would start again.
    #[serde(deserialize_with = "values::true_or_false")]
    pub delete_unmanaged_pods: bool,
    /// Delete pods whose emptyDir volumes are lost with them.
    #[serde(deserialize_with = "values::true_or_false")]
    pub delete_empty_dir_data: bool,
    /// Names of kubeadm preflight checks whose errors are ignored, such as `CoreDNSMigration`.
    pub ignore_preflight_errors: Vec<PreflightCheck>,
    /// Gates that are passed though they are closed; `liftlock gates` lists them.
    pub accepted: Vec<GateName>,
    /// What follows when a node has failed for good.
    #[schemars(schema_with = "schema::on_failure")]
    pub on_failure: OnFailure,
    /// Each host is replaced as a whole, by the command in its own configuration; its protected paths are kept.
    #[serde(deserialize_with = "values::true_or_false")]
    pub redeploy: bool,
    /// Workers are raised only at the last stop of a path, and where their kubelets would be too far behind.
    #[serde(deserialize_with = "values::true_or_false")]
    pub workers_skip_stops: bool,
    /// What follows when a worker cannot be drained because budgets protect its pods; pools and single workers may have a word
    /// of their own.
    #[serde(skip_serializing_if = "OnBlocked::is_pause")]
    #[schemars(schema_with = "schema::on_blocked")]
    pub on_blocked: OnBlocked,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Policy::default().into()
    }
}

impl From<Policy> for PolicySpec {
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
            workers: _,
            control_planes: _,
            // It is done once, and wanted of no cluster for good.
            replacement: _,
            on_blocked,
            // Beside what the coordinator calls.
            node_hooks: _,
        } = policy;
        Self {
            drain_timeout_seconds: Seconds::decided(drain_timeout_seconds),
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors: ignore_preflight_errors
                .into_iter()
                .map(PreflightCheck::decided)
                .collect(),
            accepted: accepted.into_iter().map(GateName::decided).collect(),
            on_failure,
            redeploy,
            workers_skip_stops,
            on_blocked,
        }
    }
}

impl From<PolicySpec> for Policy {
    fn from(spec: PolicySpec) -> Self {
        let PolicySpec {
            drain_timeout_seconds,
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors,
            accepted,
            on_failure,
            redeploy,
            workers_skip_stops,
            on_blocked,
        } = spec;
        Self {
            drain_timeout_seconds: drain_timeout_seconds.into(),
            delete_unmanaged_pods,
            delete_empty_dir_data,
            ignore_preflight_errors: ignore_preflight_errors.into_iter().map(Into::into).collect(),
            accepted: accepted.into_iter().map(Into::into).collect(),
            on_failure,
            redeploy,
            workers_skip_stops,
            workers: Workers::default(),
            control_planes: ControlPlanes::default(),
            replacement: None,
            on_blocked,
            node_hooks: NodeHooks::default(),
        }
    }
}
