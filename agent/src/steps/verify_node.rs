//! The Node is Ready and its kubelet reports the version.

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::api::patiently;
use super::kubelet;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};

pub(super) struct VerifyNode {
    pub(super) version: KubernetesVersion,
}

#[async_trait]
impl StepRunner for VerifyNode {
    /// A Node stays Ready for a while after its kubelet has stopped, but only the new kubelet reports the version.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let node = patiently(cx, || cx.host.kube.node()).await?;
        let raised = node.ready && node.kubelet_version == self.version.to_string();
        Ok(if raised { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(kubelet::wait_until_ready(cx, Some(self.version)).await?)
    }

    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }
}
