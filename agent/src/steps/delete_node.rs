//! Deletes the Nodes of machines that have left: the cluster counts on them no more, and what was bound to them goes.

use async_trait::async_trait;
use liftlock_proto::name::NodeName;

use super::api::patiently;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::host::HostResult;

pub(super) struct DeleteNode {
    pub(super) leavers: Vec<NodeName>,
}

impl DeleteNode {
    /// Those of them that are still there.
    async fn left_over(&self, cx: &Context) -> HostResult<Vec<&NodeName>> {
        let nodes = patiently(cx, || cx.host.kube.nodes()).await?;
        let is_there = |leaver: &&NodeName| nodes.iter().any(|node| node.name == leaver.as_str());
        Ok(self.leavers.iter().filter(is_there).collect())
    }
}

#[async_trait]
impl StepRunner for DeleteNode {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let left = self.left_over(cx).await?.len();
        Ok(match left {
            0 => Observed::Done,
            left if left == self.leavers.len() => Observed::Absent,
            _ => Observed::Partial,
        })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        for leaver in self.left_over(cx).await? {
            patiently(cx, || async { cx.host.kube.delete_node(&cx.permit()?, leaver).await }).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let left: Vec<&NodeName> = self.left_over(cx).await?;
        let gone: Vec<&str> =
            self.leavers.iter().filter(|leaver| !left.contains(leaver)).map(NodeName::as_str).collect();
        if gone.is_empty() {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "the Node {} is deleted, and only a machine that joins makes one",
            gone.join(", ")
        )))
    }
}
