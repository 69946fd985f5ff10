//! Takes away the cordon that Liftlock set, and no other.

use std::time::Duration;

use async_trait::async_trait;

use super::api::patiently;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};

/// How long the node controller is waited for: it acts at once, unless it is busy or has no leader.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// The Node's annotation says whose the cordon is: a node that an operator had cordoned stays as it is, whatever
/// crashes and retries came in between.
pub(super) struct RestoreSchedulability;

#[async_trait]
impl StepRunner for RestoreSchedulability {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let node = patiently(cx, || cx.host.kube.node()).await?;
        Ok(if node.cordoned_by.is_none() { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        let node = patiently(cx, || cx.host.kube.node()).await?;
        Ok(PreState::Bool(node.cordoned_by.is_some()))
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        patiently(cx, || async { cx.host.kube.uncordon(&cx.permit()?).await }).await?;
        // Whoever is drained next is to find it open: its pods would go to nodes that are still to be drained.
        if !cx.timed(TimeSpent::Wait, cx.host.kube.wait_until_open(OPEN_WITHIN)).await? {
            cx.reporter.line(cx.step, "the taint of its cordon is still there: the node controller is late");
        }
        Ok(())
    }

    /// Steps that are undone after this one want the node cordoned, as it was; the undo of drain uncordons it.
    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        if *pre == PreState::Bool(true) {
            patiently(cx, || async { cx.host.kube.cordon(&cx.permit()?, &cx.plan).await }).await?;
        }
        Ok(())
    }
}
