//! A snapshot of etcd, proven while it streams in and again from the disk.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::api::patiently;
use super::static_pods;
use crate::backup::digest::{FileDigest, SnapshotProof, SnapshotWriter};
use crate::backup::{Folder, SNAPSHOT};
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::host::{HostError, HostResult};

const FACTS: &str = "etcd-snapshot.json";

pub(super) struct EtcdSnapshot;

/// Chosen before the run, so that a step that resumes goes on in the same folder.
#[derive(Serialize, Deserialize)]
struct Chosen {
    folder: String,
}

impl EtcdSnapshot {
    /// Whether the snapshot that lies on the disk proves itself: `None` where none lies there.
    async fn proven(cx: &Context, folder: &Folder) -> HostResult<Option<bool>> {
        let mut proof = SnapshotProof::default();
        let there = cx.host.files.stream(&folder.path().join(SNAPSHOT), &mut proof).await?;
        if !there {
            return Ok(None);
        }
        let known = facts(cx, folder).await?;
        Ok(Some(proof.finish().is_ok_and(|proof| known == Some(proof))))
    }
}

/// What is known of a folder's snapshot; `None` where there is none.
pub(super) async fn facts(cx: &Context, folder: &Folder) -> HostResult<Option<FileDigest>> {
    let path = folder.path().join(FACTS);
    let Some(json) = cx.host.files.read(&path).await? else {
        return Ok(None);
    };
    let malformed = |source: serde_json::Error| HostError::Malformed {
        what: format!("the backup {path}"),
        why: source.to_string(),
    };
    serde_json::from_slice(&json).map(Some).map_err(malformed)
}

#[async_trait]
impl StepRunner for EtcdSnapshot {
    /// An external etcd is not this node's to back up, and kubeadm does not touch it.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let proof = match Folder::newest(cx).await? {
            Some(folder) => cx.timed(TimeSpent::Snapshot, Self::proven(cx, &folder)).await?,
            None => None,
        };
        Ok(match proof {
            Some(false) => Observed::Partial,
            None if static_pods::etcd_is_local(cx, None).await? => Observed::Absent,
            Some(true) | None => Observed::Done,
        })
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        Ok(serde_json::to_value(Chosen { folder: Folder::choose(cx).await? })?)
    }

    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Chosen { folder } = serde_json::from_value(pre.clone())?;
        let folder = Folder::named(cx, &folder)?;
        folder.create(cx).await?;
        // After a power cut the agent may be up before etcd is.
        patiently(cx, || cx.host.etcd.alarms()).await?;
        cx.timed(TimeSpent::Snapshot, async {
            let file = cx.host.files.create(&cx.permit()?, &folder.path().join(SNAPSHOT)).await?;
            let mut writer = SnapshotWriter::new(file);
            cx.host.etcd.snapshot(&mut writer).await?;
            let digest = writer.finish().await?;
            let json = serde_json::to_vec_pretty(&digest)?;
            cx.host.files.write(&cx.permit()?, &folder.path().join(FACTS), &json, 0o600).await?;
            Ok(())
        })
        .await
    }

    /// The snapshot stays. What comes after the undo is another upgrade, with a snapshot of its own.
    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Chosen { folder } = serde_json::from_value(pre.clone())?;
        Ok(Folder::named(cx, &folder)?.close(cx).await?)
    }
}
