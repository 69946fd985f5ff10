//! The packages of kubelet and kubectl.

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::kubelet;
use super::package_versions::{self, Packages};
use crate::backup::Backup;
use crate::backup::packages::PackageState;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};

const KUBELET: Packages = Packages { names: &["kubelet", "kubectl"], program: "kubelet" };

pub(super) struct InstallKubelet {
    pub(super) version: KubernetesVersion,
}

#[async_trait]
impl StepRunner for InstallKubelet {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        KUBELET.observe(cx, self.version).await
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        KUBELET.capture(cx).await
    }

    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        KUBELET.install(cx, self.version, pre).await
    }

    /// The earlier kubelet runs again before the node takes pods: its packages and the files that it was proven with
    /// are put back, it is restarted, and its Node becomes Ready. This also undoes restart-kubelet, which is
    /// undone before, when the earlier kubelet is not there yet.
    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Some(backup) = Backup::find(cx).await? else {
            return Ok(());
        };
        let before: PackageState = serde_json::from_value(pre.clone())?;
        KUBELET.put_back(cx, pre).await?;
        kubelet::put_back_files(cx, &backup).await?;
        let Some(earlier) =
            before.installed.get("kubelet").and_then(|version| package_versions::kubernetes_version(version))
        else {
            return Ok(());
        };
        // Also where it runs already: a restart that an agent which is gone left under way is joined, and its unit forgotten.
        kubelet::restart(cx).await?;
        Ok(kubelet::wait_until_ready(cx, Some(earlier)).await?)
    }
    fn policy(&self) -> StepPolicy {
        package_versions::policy()
    }
}
