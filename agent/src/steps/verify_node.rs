//! The Node is Ready and its kubelet reports the version. A control plane is, besides, rid of the containers of before,
//! and some controller-manager leads again: the next node's drain counts on that, and a worker may not ask.

use async_trait::async_trait;
use futures::join;
use liftlock_proto::version::KubernetesVersion;

use super::api::patiently;
use super::static_pods::{self, Earlier};
use super::{controllers, kubelet};
use crate::backup::Backup;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::host::HostResult;

pub(super) struct VerifyNode {
    pub(super) version: KubernetesVersion,
}

/// The static pods that this node must have; none on a worker.
async fn expected(cx: &Context) -> HostResult<Vec<&'static str>> {
    if !static_pods::are_here(cx).await? {
        return Ok(Vec::new());
    }
    static_pods::expected(cx, Backup::find(cx).await?.as_ref()).await
}

#[async_trait]
impl StepRunner for VerifyNode {
    /// A Node stays Ready for a while after its kubelet has stopped, but only the new kubelet reports the version.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let node = patiently(cx, || cx.host.kube.node()).await?;
        let raised = node.ready
            && node.kubelet_version == self.version.to_string()
            && static_pods::unlike_manifests(cx, &expected(cx).await?, Some(self.version), Earlier::Gone)
                .await?
                .is_empty()
            && controllers::are_led(cx).await?;
        Ok(if raised { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let expected = expected(cx).await?;
        let settled =
            static_pods::wait_until_like_manifests(cx, &expected, Some(self.version), Earlier::Gone);
        let (ready, settled, led) = join!(
            kubelet::wait_until_ready(cx, Some(self.version)),
            settled,
            controllers::wait_until_led(cx)
        );
        ready?;
        settled?;
        led
    }

    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }
}
