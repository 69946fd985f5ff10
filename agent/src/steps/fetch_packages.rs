//! Downloads kubeadm, kubelet and kubectl, so that the lease does not wait for a network.

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::measure_space::{room_for_downloads, too_full};
use crate::engine::context::PrepareContext;
use crate::engine::step::{Preparation, StepFailure};

pub(super) struct FetchPackages {
    pub(super) version: KubernetesVersion,
}

impl FetchPackages {
    async fn has_room(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        let findings = too_full(cx, room_for_downloads(cx).await?).await?;
        if findings.is_empty() {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "{} has too little room to fetch the packages of {}: {}; nothing was installed: free some, then `liftlock retry {}`",
            cx.node,
            self.version,
            findings.join("; "),
            cx.node
        )))
    }
}

#[async_trait]
impl Preparation for FetchPackages {
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        self.has_room(cx).await?;
        if let Err(error) = cx.host.packages.download(self.version, cx).await {
            // A disk that filled up meanwhile is told with its numbers: package managers have each their own words for it.
            self.has_room(cx).await?;
            return Err(error.into());
        }
        Ok(())
    }
}
