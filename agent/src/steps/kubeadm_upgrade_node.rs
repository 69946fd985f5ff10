//! `kubeadm upgrade node`, on every node but the first control plane.

use std::collections::BTreeMap;

use async_trait::async_trait;
use liftlock_proto::argv;
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;
use serde::Deserialize;

use super::api::patiently;
use super::kubeadm::{Command, PAUSE};
use super::mark::Mark;
use super::{control_plane, kubelet};
use crate::backup::digest::FileDigest;
use crate::backup::{Backup, KUBELET_FILES};
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::HostResult;

const KUBELET_CONFIGURATION: &str = "/var/lib/kubelet/config.yaml";

/// The step for a role.
pub(super) fn runner(role: Role, version: KubernetesVersion, ignored: &[String]) -> Box<dyn StepRunner> {
    let upgrade = UpgradeNode { version, argv: argv::kubeadm_upgrade_node(ignored) };
    if role.is_control_plane() { Box::new(ControlPlane(upgrade)) } else { Box::new(Worker(upgrade)) }
}

struct UpgradeNode {
    version: KubernetesVersion,
    argv: argv::Argv,
}

impl UpgradeNode {
    fn command(&self) -> Command {
        Command { unit: "kubeadm-node", argv: self.argv.clone() }
    }

    /// kubeadm takes the target from kubeadm-config: run too early, it would carry out another upgrade.
    async fn require_raised_cluster(&self, cx: &Context) -> Result<(), StepFailure> {
        let cluster = patiently(cx, || cx.host.kube.kubeadm_config_version()).await?;
        if cluster == self.version {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "kubeadm-config says {cluster}, and `kubeadm upgrade node` would go there instead of {}: `kubeadm \
             upgrade apply {}` has to end well on the first control plane before",
            self.version, self.version
        )))
    }
}

fn policy() -> StepPolicy {
    StepPolicy { attempts: 2, pause: PAUSE }
}

/// Static pods and, where it is local, etcd.
struct ControlPlane(UpgradeNode);

#[async_trait]
impl StepRunner for ControlPlane {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        control_plane::observe(cx, self.0.version).await
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        // The backup holds all of it.
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let command = self.0.command();
        // One that still runs is joined: this was asked before it began, and meanwhile there may be no API server to answer.
        if !command.is_there(cx).await? {
            // Before anything is asked: where a crash took this node's etcd, nobody answers either.
            control_plane::mend(cx).await?;
            self.0.require_raised_cluster(cx).await?;
        }
        control_plane::upgrade(cx, self.0.version, &command).await
    }

    /// The backup's files are enough: kubeadm-config belongs to the whole cluster, of which only this node goes back.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        match Backup::find(cx).await? {
            Some(backup) => {
                self.0.command().settle(cx).await?;
                Mark::remove(cx).await?;
                control_plane::put_back(cx, &backup).await
            }
            None => Ok(()),
        }
    }

    fn policy(&self) -> StepPolicy {
        policy()
    }
}

/// Nothing but the kubelet's files. They may be the same before and after, and then show nothing; so the mark says
/// that kubeadm ended well, for as long as the files are what kubeadm left. Without a mark kubeadm runs: on a
/// worker that takes less than a second and writes the same again.
struct Worker(UpgradeNode);

impl Worker {
    async fn files(cx: &Context) -> HostResult<BTreeMap<String, String>> {
        let mut seen = BTreeMap::new();
        for path in KUBELET_FILES {
            if let Some(digest) = FileDigest::of_file(&cx.host, &cx.host.layout.at(path)).await? {
                seen.insert(path.to_owned(), digest.sha256);
            }
        }
        Ok(seen)
    }

    /// What a power cut may leave of the file does not start a kubelet.
    async fn require_kubelet_configuration(cx: &Context) -> Result<(), StepFailure> {
        #[derive(Deserialize)]
        struct Document {
            kind: String,
        }
        let path = cx.host.layout.at(KUBELET_CONFIGURATION);
        let yaml = cx.host.files.read(&path).await?.unwrap_or_default();
        let document =
            std::str::from_utf8(&yaml).ok().and_then(|yaml| serde_saphyr::from_str::<Document>(yaml).ok());
        if document.is_some_and(|document| document.kind == "KubeletConfiguration") {
            return Ok(());
        }
        Err(StepFailure::Unproven(format!(
            "kubeadm ended well, but {path} holds no KubeletConfiguration: look at its output above and retry the node"
        )))
    }
}

#[async_trait]
impl StepRunner for Worker {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let Some(mark) = Mark::read(cx).await? else {
            return Ok(Observed::Absent);
        };
        let holds = mark.version == self.0.version && mark.seen == Self::files(cx).await?;
        Ok(if holds { Observed::Done } else { Observed::Partial })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        // The backup holds all of it.
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Backup::require(cx).await?;
        self.0.require_raised_cluster(cx).await?;
        self.0.command().run(cx).await?;
        Self::require_kubelet_configuration(cx).await?;
        Mark { version: self.0.version, seen: Self::files(cx).await? }.write(cx).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let Some(backup) = Backup::find(cx).await? else {
            return Ok(());
        };
        self.0.command().settle(cx).await?;
        Mark::remove(cx).await?;
        kubelet::put_back_files(cx, &backup).await
    }

    fn policy(&self) -> StepPolicy {
        policy()
    }
}
