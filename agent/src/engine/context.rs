//! What a step is given: the host, its lease, and somewhere to report to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use liftlock_proto::name::{NodeName, PlanId};

use crate::engine::lease::{Lease, LeaseLost, Permit};
use crate::engine::step::PreState;
use crate::host::{Host, Lines};

/// Where a step's words and times go. The real one sends them to the coordinator.
pub trait Reporter: Send + Sync {
    /// A line that a child printed, or that the step has to say (what a drain waits for).
    fn line(&self, step: &str, line: &str);
    /// Something that the step is about to do and that the history should have.
    fn remark(&self, step: &str, text: &str) {
        self.line(step, text);
    }
    /// Time that went by in a child process, a wait for Kubernetes, or the snapshot: from when to when on the monotonic
    /// clock. Such times may overlap.
    fn spent(&self, on: TimeSpent, during: Range<Duration>);
}

/// Where a lease's time can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSpent {
    /// kubeadm, the package manager, systemctl.
    Child,
    /// Drain, Ready, API server, containers.
    Wait,
    /// The etcd snapshot.
    Snapshot,
}

/// What steps captured before they ran, by step name. It outlives a lease: when a failed node is leased again for the
/// same plan, what the first attempt captured is still here, so that nobody takes a half changed node for the one
/// that was.
pub type Captured = BTreeMap<String, PreState>;

/// What a step is given.
#[derive(Clone)]
pub struct Context {
    /// The machine.
    pub host: Host,
    /// This node.
    pub node: NodeName,
    /// The plan that the lease belongs to.
    pub plan: PlanId,
    /// The step's name, for reports and unit names.
    pub step: &'static str,
    /// The lease under which the step runs.
    pub lease: Arc<Lease>,
    /// What the steps of this plan have captured on this node so far.
    pub captured: Arc<Captured>,
    /// Where words and times go.
    pub reporter: Arc<dyn Reporter>,
}

impl Context {
    /// Proof, made now, that the lease is still this agent's. Ask right before each side effect.
    pub fn permit(&self) -> Result<Permit, LeaseLost> {
        self.lease.permit(self.host.clock.as_ref())
    }

    /// What a step captured before it ran for the first time; `None` if its effect was there before it ever ran.
    pub fn captured(&self, step: &str) -> Option<&PreState> {
        self.captured.get(step)
    }

    /// The name of the transient unit of this step's child: the same after a restart of the agent, and under a later
    /// lease of the same plan, so that a child that still runs is joined and never doubled.
    pub fn unit(&self, what: &str) -> String {
        format!("liftlock-{}-{}-{what}", self.plan, self.step)
    }

    /// Runs something and reports where its time went.
    pub async fn timed<T>(&self, on: TimeSpent, work: impl Future<Output = T>) -> T {
        let started = self.host.clock.monotonic();
        let result = work.await;
        self.reporter.spent(on, started..self.host.clock.monotonic());
        result
    }
}

/// What a preparation is given: no lease, so nothing that asks for a [`Permit`] can be called with it.
#[derive(Clone)]
pub struct PrepareContext {
    /// The machine.
    pub host: Host,
    /// This node.
    pub node: NodeName,
    /// The plan that is being prepared.
    pub plan: PlanId,
    /// The step's name, for reports and unit names.
    pub step: &'static str,
    /// Where words and times go.
    pub reporter: Arc<dyn Reporter>,
}

impl PrepareContext {
    /// The name of the transient unit of this preparation's child, the same after a restart of the agent.
    pub fn unit(&self, what: &str) -> String {
        format!("liftlock-{}-{}-{what}", self.plan, self.step)
    }
}

impl Lines for PrepareContext {
    fn line(&self, line: &str) {
        self.reporter.line(self.step, line);
    }
}

impl Lines for Context {
    fn line(&self, line: &str) {
        self.reporter.line(self.step, line);
    }
}
