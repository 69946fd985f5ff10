//! Downloads kubeadm, kubelet and kubectl, so that the lease does not wait for a network.

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use crate::engine::context::PrepareContext;
use crate::engine::step::{Preparation, StepFailure};

pub(super) struct FetchPackages {
    pub(super) version: KubernetesVersion,
}

#[async_trait]
impl Preparation for FetchPackages {
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        Ok(cx.host.packages.download(self.version, cx).await?)
    }
}
