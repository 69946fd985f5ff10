//! The kubelet's files and its service.

use std::time::Duration;

use liftlock_proto::argv;
use liftlock_proto::version::KubernetesVersion;

use crate::backup::{Backup, KUBELET_FILES};
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::StepFailure;
use crate::host::{HostResult, Limits, NodeCondition, UnitState};

const LIMITS: Limits = Limits { time: Duration::from_mins(2), silence: Duration::from_mins(2) };

/// How long a kubelet may take until its Node is Ready and names its version.
const READY_WITHIN: Duration = Duration::from_mins(5);

/// What systemd says of the kubelet.
pub(super) async fn state(cx: &Context) -> HostResult<UnitState> {
    cx.timed(TimeSpent::Child, cx.host.commands.unit_state("kubelet.service")).await
}

/// Makes systemd read the units that a package may have changed, and restarts the kubelet. Its pods run on.
pub(super) async fn restart(cx: &Context) -> Result<(), StepFailure> {
    for (unit, argv) in [
        ("daemon-reload", argv::systemctl_daemon_reload()),
        ("restart-kubelet", argv::systemctl_restart_kubelet()),
    ] {
        let (permit, unit) = (cx.permit()?, cx.unit(unit));
        let bounds = LIMITS.into();
        let child = cx.host.commands.run(&permit, &unit, &argv, &bounds, cx);
        cx.timed(TimeSpent::Child, child).await?;
    }
    let state = state(cx).await?;
    if state.active == "active" && state.main_pid != 0 {
        return Ok(());
    }
    Err(StepFailure::Unproven(format!(
        "kubelet.service is {} after its restart: `journalctl -u kubelet.service` on {} says why",
        state.active, cx.node
    )))
}

/// Stops the kubelet. What it started runs on.
pub(super) async fn stop(cx: &Context) -> HostResult<()> {
    let (permit, unit) = (cx.permit()?, cx.unit("stop-kubelet"));
    let (argv, bounds) = (argv::systemctl_stop_kubelet(), LIMITS.into());
    cx.timed(TimeSpent::Child, cx.host.commands.run(&permit, &unit, &argv, &bounds, cx)).await
}

/// Waits until this node is Ready, with a kubelet of this version or of any. Says so before, for whoever wonders.
pub(super) async fn wait_until_ready(cx: &Context, version: Option<KubernetesVersion>) -> HostResult<()> {
    let kubelet = version.map_or_else(String::new, |version| format!(" with kubelet {version}"));
    cx.reporter.line(cx.step, &format!("waiting for the Node {} to be Ready{kubelet}", cx.node));
    let ready = cx.host.kube.wait_for_node(NodeCondition { kubelet_version: version }, READY_WITHIN);
    cx.timed(TimeSpent::Wait, ready).await.map(drop)
}

/// Puts the kubelet's files back as they were.
pub(super) async fn put_back_files(cx: &Context, backup: &Backup) -> Result<(), StepFailure> {
    for path in KUBELET_FILES {
        if let Some((_, entry)) = backup.files(path).find(|(found, _)| found == path) {
            backup.put_back(cx, path, entry).await?;
            continue;
        }
        let path = cx.host.layout.at(path);
        if cx.host.files.exists(&path).await? {
            cx.host.files.remove_file(&cx.permit()?, &path).await?;
        }
    }
    Ok(())
}
