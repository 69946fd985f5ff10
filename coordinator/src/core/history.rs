//! What is kept of everything that happened.

use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use serde::{Deserialize, Serialize};

/// One durable record. Its sequence number is its key in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRecord {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What kind of thing.
    pub kind: HistoryKind,
    /// The plan concerned, if any.
    pub plan: Option<PlanId>,
    /// The node concerned, if any.
    pub node: Option<NodeName>,
    /// The lease concerned, if any.
    pub token: Option<FencingToken>,
    /// The operator that asked for it, if one did.
    pub operator: Option<String>,
    /// For people.
    pub text: String,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum HistoryKind {
    PlanApplied,
    NodePrepared,
    NodeUnprepared,
    LeaseGranted,
    LeaseResumed,
    StepStarted,
    StepAdopted,
    StepSucceeded,
    StepFailed,
    StepUndone,
    LeaseEnded,
    LeaseFailed,
    Paused,
    Resumed,
    Aborted,
    Retried,
    RollbackOrdered,
    RolloutEnded,
    TokenCreated,
    TokenUsed,
    TokenRevoked,
    NodeEnrolled,
    FenceRaised,
    BackupsPruned,
    StopReached,
    PathHalted,
    Edited,
    NodeQuarantined,
    StepRemarked,
    HookBegan,
    HookSucceeded,
    HookFailed,
}

impl HistoryKind {
    /// Whether it tells of a step under a lease.
    pub fn is_of_step(self) -> bool {
        matches!(
            self,
            Self::StepStarted | Self::StepAdopted | Self::StepSucceeded | Self::StepFailed | Self::StepUndone
        )
    }

    /// Its name in messages and tables: `lease-granted`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PlanApplied => "plan-applied",
            Self::NodePrepared => "node-prepared",
            Self::NodeUnprepared => "node-unprepared",
            Self::LeaseGranted => "lease-granted",
            Self::LeaseResumed => "lease-resumed",
            Self::StepStarted => "step-started",
            Self::StepAdopted => "step-adopted",
            Self::StepSucceeded => "step-succeeded",
            Self::StepFailed => "step-failed",
            Self::StepUndone => "step-undone",
            Self::LeaseEnded => "lease-ended",
            Self::LeaseFailed => "lease-failed",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Aborted => "aborted",
            Self::Retried => "retried",
            Self::RollbackOrdered => "rollback-ordered",
            Self::RolloutEnded => "rollout-ended",
            Self::TokenCreated => "token-created",
            Self::TokenUsed => "token-used",
            Self::TokenRevoked => "token-revoked",
            Self::NodeEnrolled => "node-enrolled",
            Self::FenceRaised => "fence-raised",
            Self::BackupsPruned => "backups-pruned",
            Self::StopReached => "stop-reached",
            Self::PathHalted => "path-halted",
            Self::Edited => "edited",
            Self::NodeQuarantined => "node-quarantined",
            Self::StepRemarked => "step-remarked",
            Self::HookBegan => "hook-began",
            Self::HookSucceeded => "hook-succeeded",
            Self::HookFailed => "hook-failed",
        }
    }
}
