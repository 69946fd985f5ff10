//! `kubeadm upgrade apply`, on the first control plane.

use async_trait::async_trait;
use liftlock_proto::argv;
use liftlock_proto::version::KubernetesVersion;

use super::api::patiently;
use super::kubeadm::{Command, PAUSE};
use super::mark::Mark;
use super::{control_plane, kubelet, package_versions};
use crate::backup::Backup;
use crate::backup::packages::PackageState;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::HostResult;

pub(super) struct KubeadmUpgradeApply {
    pub(super) version: KubernetesVersion,
    pub(super) ignore_preflight_errors: Vec<String>,
}

impl KubeadmUpgradeApply {
    /// The first run of this plan.
    fn plain(&self) -> Command {
        let argv = argv::kubeadm_upgrade_apply(self.version, &self.ignore_preflight_errors);
        Command { unit: "kubeadm-apply", argv }
    }

    /// A run after one that was cut off: `--force` goes on over what kubeadm's checks take for a cluster in between.
    /// The version policy was passed by the first run.
    fn again(&self) -> Command {
        let argv = argv::kubeadm_upgrade_apply_force(self.version, &self.ignore_preflight_errors);
        Command { unit: "kubeadm-apply-again", argv }
    }

    /// What kubeadm-config says; `None` while there is no API server to ask, as after a crash.
    async fn cluster_version(cx: &Context) -> Option<KubernetesVersion> {
        cx.host.kube.kubeadm_config_version().await.ok()
    }
}

#[async_trait]
impl StepRunner for KubeadmUpgradeApply {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let observed = control_plane::observe(cx, self.version).await?;
        // Half done is half done whatever the cluster says, and it may be its API server that is missing.
        if observed == Observed::Partial {
            return Ok(observed);
        }
        let at_target = Self::cluster_version(cx).await == Some(self.version);
        Ok(match observed {
            Observed::Done if !at_target => Observed::Partial,
            Observed::Absent if at_target => Observed::Partial,
            observed => observed,
        })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        // The backup holds all of it, and still does when a retry comes under another lease.
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let (plain, again) = (self.plain(), self.again());
        let command = if plain.is_there(cx).await? {
            plain
        } else if again.is_there(cx).await? || self.check(cx).await? == Observed::Partial {
            again
        } else {
            plain
        };
        control_plane::upgrade(cx, self.version, &command).await?;
        let cluster = patiently(cx, || cx.host.kube.kubeadm_config_version()).await?;
        if cluster == self.version {
            return Ok(());
        }
        Err(StepFailure::Unproven(format!(
            "kubeadm ended well, but kubeadm-config says {cluster} and not {}: look at its output above and at \
             `kubectl -n kube-system get configmap kubeadm-config -o yaml`",
            self.version
        )))
    }

    /// The backup's files bring this node's containers back. Where kubeadm-config has moved already, the earlier
    /// kubeadm then writes it, the kubelet's configuration and the add-ons back with `--force`. The step that
    /// installed the new kubeadm is undone later, so the earlier one is installed here.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let Some(backup) = Backup::find(cx).await? else {
            return Ok(());
        };
        self.plain().settle(cx).await?;
        self.again().settle(cx).await?;
        control_plane::put_back(cx, &backup).await?;
        if let Some(earlier) = backup.index.cluster_version
            && (going_back(cx, earlier).await?
                || patiently(cx, || cx.host.kube.kubeadm_config_version()).await? != earlier)
        {
            // kubeadm-config is the first thing that kubeadm takes back and the add-ons are the last: an undo that is
            // cut off in between has to know.
            Mark { version: earlier, seen: [].into() }.write(cx).await?;
            let before = PackageState::before(cx, &backup).await?;
            package_versions::put_back(cx, &before, &["kubeadm"]).await?;
            kubelet::wait_until_ready(cx, None).await?;
            control_plane::wait_until_all_are_ready(cx).await?;
            let argv = argv::kubeadm_upgrade_apply_force(earlier, &self.ignore_preflight_errors);
            Command { unit: "kubeadm-apply-back", argv }.run(cx).await?;
            control_plane::put_back(cx, &backup).await?;
        }
        Ok(Mark::remove(cx).await?)
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 2, pause: PAUSE }
    }
}

/// Whether an earlier undo has begun to bring the cluster back to this version.
async fn going_back(cx: &Context, earlier: KubernetesVersion) -> HostResult<bool> {
    Ok(Mark::read(cx).await?.is_some_and(|mark| mark.version == earlier))
}
