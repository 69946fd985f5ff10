//! Running kubeadm.

use std::time::Duration;

use futures::future::try_join_all;
use liftlock_proto::argv::Argv;

use super::back_up_node::BackUpNode;
use super::static_pods::{self, Earlier};
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::StepFailure;
use crate::host::{HostError, HostResult, Limits, Replicas};
use crate::protect::rules::{Program, Rules};

/// kubeadm says nothing while it waits up to five minutes for a static pod to change (`UpgradeManifestTimeout`), so
/// the limit on silence is longer; it waits for ever for a `CoreDNS` that does not become ready, so there is one.
const LIMITS: Limits = Limits { time: Duration::from_mins(30), silence: Duration::from_mins(6) };

/// Before kubeadm runs again. What it may have left in between is waited for, not this.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What etcd may write while kubeadm copies it, and the manifests.
const MARGIN: u64 = 64 << 20;

/// A kubeadm command and the unit that it runs as: one unit for each command, so that a restarted agent knows what
/// it finds running.
pub(super) struct Command {
    /// The last part of the unit's name.
    pub(super) unit: &'static str,
    /// `kubeadm upgrade …`
    pub(super) argv: Argv,
}

impl Command {
    /// Whether an agent that is gone has started it and nobody has taken its result yet.
    pub(super) async fn is_there(&self, cx: &Context) -> HostResult<bool> {
        let unit = format!("{}.service", cx.unit(self.unit));
        let asked = cx.host.commands.unit_state(&unit);
        Ok(cx.timed(TimeSpent::Child, asked).await?.active != "inactive")
    }

    /// Waits for the end of one that an agent which is gone left running; how it ended does not matter.
    pub(super) async fn settle(&self, cx: &Context) -> Result<(), StepFailure> {
        if self.is_there(cx).await? {
            match self.end(cx).await {
                Err(error) if error.ended_badly() => {}
                ended => ended?,
            }
        }
        Ok(())
    }

    /// Runs it, or joins it where it runs already. One that was ended at a limit is told of with what it may have been
    /// waiting for.
    pub(super) async fn run(&self, cx: &Context) -> Result<(), StepFailure> {
        match self.end(cx).await {
            Err(error @ HostError::CommandLimit { .. }) => {
                Err(StepFailure::Unproven(format!("{error}. {}", diagnosis(cx).await)))
            }
            ended => Ok(ended?),
        }
    }

    /// Runs it, or joins it, to its end. It cannot write what is sealed.
    async fn end(&self, cx: &Context) -> HostResult<()> {
        let bounds = Rules::load(&cx.host).await?.bounds(Program::Kubeadm, &cx.host.layout, LIMITS);
        let (permit, unit) = (cx.permit()?, cx.unit(self.unit));
        let child = cx.host.commands.run(&permit, &unit, &self.argv, &bounds, cx);
        let ended = cx.timed(TimeSpent::Child, child).await;
        make_durable(cx).await?;
        ended
    }
}

/// kubeadm syncs nothing: without this, a power cut long after the step takes a manifest that it moved, or empties it.
async fn make_durable(cx: &Context) -> HostResult<()> {
    let sources = BackUpNode::sources(cx).await?;
    let synced = sources.iter().map(|source| async {
        let path = cx.host.layout.at(source);
        cx.host.files.make_durable(&path).await
    });
    try_join_all(synced).await.map(drop)
}

/// What of all that kubeadm waits for without a word is not there now.
async fn diagnosis(cx: &Context) -> String {
    let kube = &cx.host.kube;
    let mut waits = Vec::new();
    match kube.nodes().await {
        Err(error) => waits.push(format!("the API ({error})")),
        Ok(nodes) => {
            let unready = nodes.iter().filter(|node| node.control_plane && !node.ready);
            waits.extend(unready.map(|node| format!("the control plane {} to be Ready", node.name)));
        }
    }
    if let Ok(Some(Replicas { wanted, ready: 0 })) = kube.cluster_dns().await {
        waits.push(format!("CoreDNS (0 of {wanted} pods are ready)"));
    }
    let expected = static_pods::expected(cx, None).await.unwrap_or_default();
    match static_pods::unlike_manifests(cx, &expected, None, Earlier::MayLinger).await {
        Ok(findings) => waits.extend(findings.into_iter().map(|finding| format!("a static pod ({finding})"))),
        Err(error) => waits.push(format!("the container runtime ({error})")),
    }
    if waits.is_empty() {
        return "What it was waiting for is not to be seen from here: API, CoreDNS, control planes and static pods are \
                well"
            .to_owned();
    }
    format!("It was probably waiting for: {}", waits.join("; "))
}

/// Refuses to run kubeadm where its copy of etcd's data would not fit. It makes one in every run and removes none.
pub(super) async fn require_space(cx: &Context) -> Result<(), StepFailure> {
    let files = &cx.host.files;
    let backups = cx.host.layout.backups();
    let need = files.size_of_tree(&cx.host.layout.at("/var/lib/etcd")).await? + MARGIN;
    let free = files.space(&backups).await?.free;
    if free >= need {
        return Ok(());
    }
    let mut left = Vec::new();
    let mut held = 0;
    for name in files.list(&backups).await? {
        if name.starts_with("kubeadm-backup-etcd-") {
            held += files.size_of_tree(&backups.join(&name)).await?;
            left.push(name);
        }
    }
    let copies = if left.is_empty() {
        String::new()
    } else {
        let held = mebibytes(held);
        format!(
            ". Its copies of earlier runs hold {held} MiB there, if you need them no more: {}",
            left.join(", ")
        )
    };
    Err(StepFailure::Refused(format!(
        "kubeadm copies etcd's data to {backups} in every run, which needs {} MiB, and {} MiB are free: make room on that \
         file system, then `liftlock retry {}`{copies}",
        mebibytes(need),
        mebibytes(free),
        cx.node
    )))
}

/// In whole MiB, rounded up.
pub(super) fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
