//! kubeadm's package.

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::package_versions::{self, Packages};
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};

const KUBEADM: Packages = Packages { names: &["kubeadm"], program: "kubeadm" };

pub(super) struct InstallKubeadm {
    pub(super) version: KubernetesVersion,
}

#[async_trait]
impl StepRunner for InstallKubeadm {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        KUBEADM.observe(cx, self.version).await
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        KUBEADM.capture(cx).await
    }

    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        KUBEADM.install(cx, self.version, pre).await
    }

    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        KUBEADM.put_back(cx, pre).await
    }
    fn policy(&self) -> StepPolicy {
        package_versions::policy()
    }
}
