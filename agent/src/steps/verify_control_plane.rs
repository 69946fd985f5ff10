//! What runs on a control plane, by its containers, its API server and kubeadm-config; never by kubeadm's words.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::api::patiently;
use super::static_pods::{self, Earlier};
use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};

/// How long an API server that is up takes to show it.
const AT_ONCE: Duration = Duration::from_secs(5);

pub(super) struct VerifyControlPlane {
    pub(super) version: KubernetesVersion,
}

#[async_trait]
impl StepRunner for VerifyControlPlane {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let backup = Backup::find(cx).await?;
        let expected = static_pods::expected(cx, backup.as_ref()).await?;
        let kube = &cx.host.kube;
        let proven = static_pods::unlike_manifests(cx, &expected, Some(self.version), Earlier::MayLinger)
            .await?
            .is_empty()
            && kube.wait_for_own_api_server(self.version, AT_ONCE).await.is_ok()
            && kube.kubeadm_config_version().await.is_ok_and(|cluster| cluster == self.version);
        Ok(if proven { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let backup = Backup::find(cx).await?;
        let expected = static_pods::expected(cx, backup.as_ref()).await?;
        static_pods::wait_until_like_manifests(cx, &expected, Some(self.version), Earlier::MayLinger).await?;
        let answered = cx.host.kube.wait_for_own_api_server(self.version, static_pods::LIMIT);
        cx.timed(TimeSpent::Wait, answered).await?;
        let cluster = patiently(cx, || cx.host.kube.kubeadm_config_version()).await?;
        if cluster == self.version {
            return Ok(());
        }
        Err(StepFailure::Unproven(format!(
            "the containers of {} run {}, but kubeadm-config says {cluster}: `kubeadm upgrade apply` has not ended; \
             retry the node",
            cx.node, self.version
        )))
    }

    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }
}
