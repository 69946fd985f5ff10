//! What a step is to the engine.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::engine::context::{Context, PrepareContext};
use crate::engine::lease::LeaseLost;
use crate::host::HostError;

/// What a step sees of its own effect on the host. Read-only and cheap: it is asked after every crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed {
    /// Nothing of it is there.
    Absent,
    /// Begun and not finished; running the step again finishes it.
    Partial,
    /// Its postcondition holds.
    Done,
}

/// What a step captured before it ran: enough to undo it. Journalled before the run.
pub type PreState = serde_json::Value;

/// How the engine treats a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPolicy {
    /// How often it is run before it counts as failed; at least 1.
    pub attempts: u32,
    /// How long the engine waits between attempts, for whatever stood in the way to pass.
    pub pause: Duration,
}

impl StepPolicy {
    /// How long the engine waits after the step has failed for the nth time. What was killed had nothing in its way: it
    /// is tried again at once, though only once, since what kills it again may be a want of memory.
    pub fn pause_after(&self, failed: u32, failure: &StepFailure) -> Duration {
        if failed == 1 && failure.was_killed() { Duration::ZERO } else { self.pause }
    }
}

impl Default for StepPolicy {
    fn default() -> Self {
        Self { attempts: 1, pause: Duration::from_secs(2) }
    }
}

/// Why a step could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// The machine said no.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A gate is closed, and only somebody's act opens it: what, why, and what to do. Final, whatever the policy's
    /// attempts.
    #[error("{0}")]
    Refused(String),
    /// Budgets protected pods for as long as the drain may take.
    #[error(transparent)]
    Blocked(HostError),
    /// The step ran and its postcondition does not hold.
    #[error("{0}")]
    Unproven(String),
    /// A captured state does not read.
    #[error("the state that this step captured before it ran does not read: {0}")]
    PreState(#[from] serde_json::Error),
}

impl StepFailure {
    /// Whether somebody killed what the step ran, which says nothing of how the node is.
    pub fn was_killed(&self) -> bool {
        matches!(self, Self::Host(HostError::CommandKilled { .. }))
    }
}

impl From<LeaseLost> for StepFailure {
    fn from(lost: LeaseLost) -> Self {
        Self::Host(lost.into())
    }
}

/// One step of a node's sequence.
///
/// The engine calls: check → (Done: adopt) → capture → journal the intent → run → check again → journal the
/// result. After a crash it calls check first, always. `run` after a crash gets the pre-state of the first
/// attempt. Every method may be called again after any crash and must end in the same state.
#[async_trait]
pub trait StepRunner: Send + Sync {
    /// What of the step's effect is there.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure>;
    /// What undoing will need. Changes nothing.
    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure>;
    /// Brings the effect about.
    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure>;
    /// Puts back what was before; tolerates a partial run and a second call.
    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure>;
    /// How the engine treats it.
    fn policy(&self) -> StepPolicy {
        StepPolicy::default()
    }
}

/// One step that runs before any lease, on every node side by side: it disturbs nothing, so it needs no
/// [`Permit`](crate::engine::lease::Permit), no journal and no undo. It may run again at any time and then ends at once
/// where its work is done.
#[async_trait]
pub trait Preparation: Send + Sync {
    /// Brings the node nearer to its lease, or says what would fail later.
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure>;
}
