//! What the demo found, as one JSON object.

use serde::Serialize;

/// The whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Every check holds.
    pub(super) ok: bool,
    /// From the first process to the last one's end, in seconds.
    pub(super) wall_s: f64,
    /// From the plan's start to the last node, in seconds.
    pub(super) raise_s: f64,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) nodes: Vec<NodeReport>,
    pub(super) recovered: Recovered,
    pub(super) max_concurrent_leases: usize,
    pub(super) checks: Vec<Check>,
    /// Processes and folders that are still there after the end.
    pub(super) left_behind: Vec<String>,
}

/// One node, in seconds.
#[derive(Debug, Serialize)]
pub(super) struct NodeReport {
    pub(super) name: String,
    pub(super) role: &'static str,
    /// From the lease's arrival to its last step's end.
    pub(super) lease_s: f64,
    /// In kubeadm, the package manager and systemctl.
    pub(super) child_s: f64,
    /// What is left of the lease after children, waits for Kubernetes and the snapshot.
    pub(super) overhead_s: f64,
}

/// The agent that was killed.
#[derive(Debug, Serialize)]
pub(super) struct Recovered {
    pub(super) node: String,
    /// The step that ran.
    pub(super) killed_at: String,
    /// The lease went on with the same token, and kubeadm was not started a second time.
    pub(super) resumed: bool,
}

/// One check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) ok: bool,
    /// What was found, or what is wrong.
    pub(super) found: String,
}

impl Check {
    pub(super) fn of(result: anyhow::Result<String>) -> Self {
        match result {
            Ok(found) => Self { ok: true, found },
            Err(error) => Self { ok: false, found: format!("{error:#}") },
        }
    }
}

/// Where the story could not be told to its end.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    ok: bool,
    error: String,
}

pub(super) fn failed(error: &anyhow::Error) -> Failed {
    Failed { ok: false, error: format!("{error:#}") }
}

/// Milliseconds in seconds.
pub(super) fn seconds(milliseconds: u64) -> f64 {
    std::time::Duration::from_millis(milliseconds).as_secs_f64()
}
