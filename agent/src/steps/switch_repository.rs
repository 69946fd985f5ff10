//! The node's own package repositories, where they are split by minor.

use async_trait::async_trait;
use camino::Utf8PathBuf;
use liftlock_proto::version::KubernetesVersion;
use serde::{Deserialize, Serialize};

use super::package_versions::{self, kubernetes_version};
use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::HostResult;
use crate::packages::minor::{SplitFile, led_to, minors_of, split_files};

pub(super) struct SwitchRepository {
    pub(super) version: KubernetesVersion,
}

/// The files before, and which version could be installed from them again.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    files: Vec<(Utf8PathBuf, String)>,
    installed: Option<KubernetesVersion>,
}

#[async_trait]
impl StepRunner for SwitchRepository {
    /// Done where the node's files lead to the version's minor, and the package manager has looked there.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let found = split(cx).await?;
        Ok(match (led_to(&found, self.version.minor).is_empty(), leads_to(cx, self.version).await?) {
            (true, true) => Observed::Done,
            (true, false) => Observed::Partial,
            (false, _) => Observed::Absent,
        })
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        let installed = cx.timed(TimeSpent::Child, cx.host.packages.installed()).await?;
        let installed = installed.get("kubeadm").and_then(|version| kubernetes_version(version));
        let files = split(cx).await?.into_iter().map(|file| (file.path, file.content)).collect();
        Ok(serde_json::to_value(Before { files, installed })?)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Backup::require(cx).await?;
        lead_to(cx, self.version).await
    }

    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Before { files, installed } = serde_json::from_value(pre.clone())?;
        for (path, content) in &files {
            if cx.host.files.read(path).await?.as_deref() != Some(content.as_bytes()) {
                cx.host.files.rewrite(&cx.permit()?, path, content.as_bytes()).await?;
            }
        }
        match installed {
            // What is known of the earlier minor may be there still: then no network is needed.
            Some(version) if !leads_to(cx, version).await? => {
                refresh(cx, files.into_iter().map(|(path, _)| path).collect()).await
            }
            _ => Ok(()),
        }
    }

    fn policy(&self) -> StepPolicy {
        package_versions::policy()
    }
}

/// Leads the node's repositories to a version's minor, if they are split and do not lead there yet. What is put back has
/// to be found as well: an undo of an installation comes before that of the switch.
pub(super) async fn lead_to(cx: &Context, version: KubernetesVersion) -> Result<(), StepFailure> {
    let found = split(cx).await?;
    if found.is_empty() {
        return Ok(());
    }
    for SplitFile { path, content } in led_to(&found, version.minor) {
        cx.host.files.rewrite(&cx.permit()?, &path, content.as_bytes()).await?;
    }
    if leads_to(cx, version).await? {
        return Ok(());
    }
    refresh(cx, found.into_iter().map(|file| file.path).collect()).await?;
    if leads_to(cx, version).await? {
        return Ok(());
    }
    let minors: Vec<String> =
        minors_of(&split(cx).await?).into_iter().map(|minor| format!("v1.{minor}")).collect();
    Err(StepFailure::Unproven(format!(
        "the package repositories of {} lead to {} now and offer no kubeadm, kubelet and kubectl {version} there: look at \
         what the package manager says of them",
        cx.node,
        minors.join(", ")
    )))
}

async fn split(cx: &Context) -> HostResult<Vec<SplitFile>> {
    split_files(cx.host.files.as_ref(), &cx.host.layout).await
}

async fn leads_to(cx: &Context, version: KubernetesVersion) -> HostResult<bool> {
    cx.timed(TimeSpent::Child, cx.host.packages.installable(version)).await
}

async fn refresh(cx: &Context, files: Vec<Utf8PathBuf>) -> Result<(), StepFailure> {
    let permit = cx.permit()?;
    let refreshed = cx.host.packages.refresh_from(&permit, &files, cx);
    Ok(cx.timed(TimeSpent::Child, refreshed).await?)
}
