//! Deliberately broken builds. The product's code knows nothing of them: each is something of the simulated world that
//! does what broken code would do, and each must be caught.

use std::sync::Arc;

use async_trait::async_trait;
use clap::ValueEnum;
use liftlock_agent::engine::context::{Context, TimeSpent};
use liftlock_agent::engine::runner::StepTable;
use liftlock_agent::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use liftlock_agent::host::{Limits, NodeCondition};
use liftlock_agent::steps;
use liftlock_proto::argv::{self, Argv};
use liftlock_proto::step::Step;
use std::time::Duration;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// The node forgets which tokens it has seen, and does not say which it saw.
    NoTokenCheck,
    /// The journal's appends return before their bytes are durable.
    NoFsync,
    /// The coordinator leases the next node as well.
    TwoLeases,
    /// Whatever cordon there is, it is taken away.
    UnconditionalUncordon,
    /// The taint of what is not raised is set and never taken away.
    MarksStay,
    /// kubeadm runs again without a look at the manifests.
    ManifestLeftMissing,
    /// What is put back stays cordoned.
    CordonStays,
    /// The coordinator never hears that a lease has ended.
    EndsAreLost,
    /// What applies a plan loses it.
    PlansAreLost,
    /// How a hook ended is not looked at.
    HooksUnread,
    /// What Prometheus says is not looked at.
    AlertsUnread,
    /// Windows end half an hour too late.
    LongWindows,
    /// What an operator edits is not kept.
    EditsAreLost,
    /// What an operator edits ends the roll-out.
    EditsAbort,
    /// Whoever is to leave is leased before the machine that takes its place has joined.
    OldFirst,
}

/// What carries out the steps, broken or not.
pub(super) fn step_table(sabotage: Option<Sabotage>) -> Arc<StepTable> {
    match sabotage {
        Some(Sabotage::UnconditionalUncordon) => Arc::new(|step| match step {
            Step::RestoreSchedulability {} => Some(Box::new(Uncordon)),
            step => steps::runner(step),
        }),
        Some(Sabotage::CordonStays) => Arc::new(|step| {
            let runner = steps::runner(step)?;
            let drains = matches!(step, Step::Drain { .. });
            Some(if drains { Box::new(NeverUndone(runner)) } else { runner })
        }),
        Some(Sabotage::ManifestLeftMissing) => Arc::new(|step| {
            let runner = steps::runner(step)?;
            let argv = match step {
                Step::KubeadmUpgradeApply { version, .. } => argv::kubeadm_upgrade_apply(*version, &[]),
                Step::KubeadmUpgradeNode { .. } => argv::kubeadm_upgrade_node(&[]),
                _ => return Some(runner),
            };
            Some(Box::new(BareKubeadm { runner, argv }))
        }),
        _ => Arc::new(steps::runner),
    }
}

struct Uncordon;

#[async_trait]
impl StepRunner for Uncordon {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let node = cx.host.kube.node().await?;
        Ok(if node.unschedulable { Observed::Absent } else { Observed::Done })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(cx.host.kube.uncordon(&cx.permit()?).await?)
    }

    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 20, ..StepPolicy::default() }
    }
}

struct NeverUndone(Box<dyn StepRunner>);

#[async_trait]
impl StepRunner for NeverUndone {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        self.0.check(cx).await
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        self.0.capture(cx).await
    }

    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        self.0.run(cx, pre).await
    }

    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }

    fn policy(&self) -> StepPolicy {
        self.0.policy()
    }
}

struct BareKubeadm {
    runner: Box<dyn StepRunner>,
    argv: Argv,
}

#[async_trait]
impl StepRunner for BareKubeadm {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        self.runner.check(cx).await
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        self.runner.capture(cx).await
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let limits = Limits { time: Duration::from_mins(30), silence: Duration::from_mins(6) };
        let bounds = limits.into();
        let any = NodeCondition { kubelet_version: None };
        cx.host.kube.wait_for_node(any, Duration::from_mins(5)).await?;
        let unit = cx.unit("kubeadm");
        let permit = cx.permit()?;
        let child = cx.host.commands.run(&permit, &unit, &self.argv, &bounds, cx);
        Ok(cx.timed(TimeSpent::Child, child).await?)
    }

    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        self.runner.undo(cx, pre).await
    }

    fn policy(&self) -> StepPolicy {
        self.runner.policy()
    }
}
