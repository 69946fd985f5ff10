//! What `kubeadm upgrade apply` and `kubeadm upgrade node` on a control plane have in common.

use std::time::Duration;

use liftlock_proto::version::KubernetesVersion;

use super::api::{ASK_EVERY, patiently};
use super::kubeadm::{self, Command};
use super::mark::Mark;
use super::static_pods::Earlier;
use super::{kubelet, static_pods};
use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, StepFailure};
use crate::host::{HostError, HostResult};

/// How long a control plane may take until it is Ready, on the way up from a power cut.
const READY_WITHIN: Duration = Duration::from_mins(5);

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

/// Puts back what a kubeadm that was cut off, and runs no more, has left missing.
pub(super) async fn mend(cx: &Context) -> Result<(), StepFailure> {
    let backup = Backup::require(cx).await?;
    static_pods::put_back_missing(cx, Some(&backup)).await?;
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
        kubelet::wait_until_ready(cx, None).await?;
        wait_until_all_are_ready(cx).await?;
    }
    command.run(cx).await?;
    let expected = static_pods::expected(cx, Some(&backup)).await?;
    static_pods::wait_until_like_manifests(cx, &expected, Some(version), Earlier::MayLinger).await?;
    static_pods::wait_for_own_api_server(cx).await?;
    Mark { version, seen: [].into() }.write(cx).await?;
    Ok(())
}

/// Waits until every control plane is Ready. kubeadm refuses while one is not, as after a power cut, and while one of
/// them comes back no other one is to go away.
pub(super) async fn wait_until_all_are_ready(cx: &Context) -> HostResult<()> {
    let clock = &cx.host.clock;
    let deadline = clock.monotonic() + READY_WITHIN;
    let mut said = Vec::new();
    cx.timed(TimeSpent::Wait, async {
        loop {
            let nodes = patiently(cx, || cx.host.kube.nodes()).await?;
            let unready = nodes.into_iter().filter(|node| node.control_plane && !node.ready);
            let unready: Vec<String> = unready.map(|node| node.name).collect();
            if unready.is_empty() {
                return Ok(());
            }
            let seen = format!("not Ready: {}", unready.join(", "));
            if clock.monotonic() >= deadline {
                let what = "every control plane to be Ready".to_owned();
                return Err(HostError::Timeout { what, limit: READY_WITHIN, seen });
            }
            if unready != said {
                cx.reporter.line(cx.step, &format!("waiting for control planes; {seen}"));
                said = unready;
            }
            clock.sleep(ASK_EVERY).await;
        }
    })
    .await
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
    kubelet::put_back_files(cx, backup).await
}
