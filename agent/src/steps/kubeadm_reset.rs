//! `kubeadm reset`, on a node that was drained: it leaves the cluster.
//!
//! kubeadm takes the node's member out of etcd first, and only warns where it cannot
//! (cmd/kubeadm/app/cmd/phases/reset/removeetcdmember.go): whoever deletes the Node looks after that.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::argv;
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;

use super::kubeadm::{Command, PAUSE};
use super::kubeadm_join::traces;
use super::kubelet;
use super::mark::Mark;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};

/// How long a container has to end by itself.
const GRACE: Duration = Duration::from_secs(30);

pub(super) struct KubeadmReset {
    pub(super) role: Role,
}

fn command() -> Command {
    Command { unit: "kubeadm-reset", argv: argv::kubeadm_reset() }
}

/// Runs kubeadm, and ends what it left running: of containers that it could not end it only warns.
pub(super) async fn reset(cx: &Context) -> Result<(), StepFailure> {
    command().run(cx).await?;
    if kubelet::state(cx).await?.active == "active" {
        kubelet::stop(cx).await?;
    }
    cx.timed(TimeSpent::Wait, cx.host.runtime.stop_all(&cx.permit()?, GRACE)).await?;
    if traces(cx).await? {
        return Err(StepFailure::Unproven(format!(
            "kubeadm ended well, and {} still has something of a cluster in /etc/kubernetes or /var/lib/etcd: look at its \
             output above",
            cx.node
        )));
    }
    Ok(())
}

/// The version does not matter to a machine that has none any more.
const NONE: KubernetesVersion = KubernetesVersion::new(1, 0, 0);

#[async_trait]
impl StepRunner for KubeadmReset {
    /// The traces go before etcd's data and the kubelet's: only the mark says that kubeadm came to its end.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let ended = Mark::read(cx).await?.is_some();
        Ok(match (traces(cx).await?, ended) {
            (true, _) => Observed::Absent,
            (false, false) => Observed::Partial,
            (false, true) => Observed::Done,
        })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        if self.role.is_control_plane() {
            cx.reporter.line(cx.step, "its member leaves etcd first");
        }
        reset(cx).await?;
        Ok(Mark { version: NONE, seen: [].into() }.write(cx).await?)
    }

    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Err(StepFailure::Refused(format!(
            "{} has left the cluster or begun to, and nobody puts that back: go on with `liftlock retry {}`; a machine that \
             has left joins again with `liftlock replace`",
            cx.node, cx.node
        )))
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 2, pause: PAUSE }
    }
}
