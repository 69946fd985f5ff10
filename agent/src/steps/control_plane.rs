//! What `kubeadm upgrade apply` and `kubeadm upgrade node` on a control plane have in common.

use liftlock_proto::version::KubernetesVersion;

use super::kubeadm::{self, Command};
use super::mark::Mark;
use super::static_pods::Earlier;
use super::{kubelet, static_pods};
use crate::backup::Backup;
use crate::engine::context::Context;
use crate::engine::step::{Observed, StepFailure};

/// What of the upgrade is there: done where kubeadm ended well in this plan and the containers run the version.
pub(super) async fn observe(cx: &Context, version: KubernetesVersion) -> Result<Observed, StepFailure> {
    let backup = Backup::find(cx).await?;
    let expected = static_pods::expected(cx, backup.as_ref()).await?;
    let unlike = static_pods::unlike_manifests(cx, &expected, Some(version), Earlier::MayLinger).await?;
    let ended_well = Mark::read(cx).await?.is_some_and(|mark| mark.version == version);
    if ended_well && unlike.is_empty() {
        return Ok(Observed::Done);
    }
    for component in expected {
        let manifest = static_pods::Manifest::read(cx, component).await?;
        if manifest.is_none_or(|manifest| manifest.version() == Some(version)) {
            return Ok(Observed::Partial);
        }
    }
    Ok(Observed::Absent)
}

/// Puts back what a kubeadm that was cut off has left missing, unless it still runs.
pub(super) async fn mend(cx: &Context, command: &Command) -> Result<(), StepFailure> {
    let backup = Backup::require(cx).await?;
    if !command.is_there(cx).await? {
        static_pods::put_back_missing(cx, Some(&backup)).await?;
    }
    Ok(())
}

/// Makes the node fit for kubeadm, runs it, and waits until the containers run the version.
pub(super) async fn upgrade(
    cx: &Context,
    version: KubernetesVersion,
    command: &Command,
) -> Result<(), StepFailure> {
    let backup = Backup::require(cx).await?;
    if !command.is_there(cx).await? {
        static_pods::put_back_missing(cx, Some(&backup)).await?;
        static_pods::settle(cx, Some(&backup)).await?;
        kubeadm::require_space(cx).await?;
        // After a power cut: kubeadm refuses while a control plane is not Ready.
        kubelet::wait_until_ready(cx, None).await?;
    }
    command.run(cx).await?;
    let expected = static_pods::expected(cx, Some(&backup)).await?;
    static_pods::wait_until_like_manifests(cx, &expected, Some(version), Earlier::MayLinger).await?;
    static_pods::wait_for_own_api_server(cx).await?;
    Mark { version, seen: [].into() }.write(cx).await?;
    Ok(())
}

/// Puts the node's control plane back as the backup has it, and waits until it runs.
pub(super) async fn put_back(cx: &Context, backup: &Backup) -> Result<(), StepFailure> {
    static_pods::refuse_etcd_downgrade(cx, backup).await?;
    put_back_files(cx, backup).await?;
    let expected = static_pods::expected(cx, Some(backup)).await?;
    static_pods::wait_until_like_manifests(cx, &expected, None, Earlier::Gone).await?;
    static_pods::wait_for_own_api_server(cx).await
}

/// Certificates and kubeconfigs before the manifests, which start what reads them; etcd's manifest before the API
/// server's.
pub(super) async fn put_back_files(cx: &Context, backup: &Backup) -> Result<(), StepFailure> {
    let (manifests, rest): (Vec<_>, Vec<_>) = backup
        .files("/etc/kubernetes/")
        .partition(|(path, _)| path.starts_with("/etc/kubernetes/manifests/"));
    for (path, entry) in rest.into_iter().chain(manifests) {
        if backup.put_back(cx, &path, entry).await? {
            cx.reporter.line(cx.step, &format!("{path} is put back as it was"));
        }
    }
    kubelet::put_back_files(cx, backup).await.map(drop)
}
