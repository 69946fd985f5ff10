//! Deletes the Node of a machine that has left: the cluster counts on it no more, and what was bound to it goes.

use async_trait::async_trait;
use liftlock_proto::name::NodeName;

use super::api::patiently;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::host::HostResult;

pub(super) struct DeleteNode {
    pub(super) leaver: NodeName,
}

impl DeleteNode {
    async fn is_there(&self, cx: &Context) -> HostResult<bool> {
        let nodes = patiently(cx, || cx.host.kube.nodes()).await?;
        Ok(nodes.iter().any(|node| node.name == self.leaver.as_str()))
    }
}

#[async_trait]
impl StepRunner for DeleteNode {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        Ok(if self.is_there(cx).await? { Observed::Absent } else { Observed::Done })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(patiently(cx, || async { cx.host.kube.delete_node(&cx.permit()?, &self.leaver).await }).await?)
    }

    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        if self.is_there(cx).await? {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "the Node {} is deleted, and only a machine that joins makes one",
            self.leaver
        )))
    }
}
