//! A snapshot of etcd: proven while it streams in, rehearsed, compared with what etcd says, and proven again from the
//! disk. What cannot be restored stops the raise here, before its first change.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::api::patiently;
use super::static_pods;
use crate::backup::Folder;
use crate::backup::digest::{SnapshotProof, SnapshotWriter};
use crate::backup::rehearsal::{Rehearsal, rehearse};
use crate::backup::snapshot::{self, SnapshotFacts};
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::{EtcdHead, HostError, HostResult};

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
        let there = cx.host.files.stream(&snapshot::path(folder), &mut proof).await?;
        if !there {
            return Ok(None);
        }
        let known = SnapshotFacts::read(&cx.host, folder).await?.map(|facts| facts.digest());
        Ok(Some(proof.finish().is_ok_and(|proof| known == Some(proof))))
    }

    /// Takes a snapshot and proves that it can be restored and holds what etcd does.
    async fn take(cx: &Context, folder: &Folder) -> Result<(), StepFailure> {
        // After a power cut the agent may be up before etcd is.
        let before = patiently(cx, || cx.host.etcd.head()).await?;
        let file = cx.host.files.create(&cx.permit()?, &snapshot::path(folder)).await?;
        let mut writer = SnapshotWriter::new(file);
        cx.host.etcd.snapshot(&mut writer).await?;
        let digest = writer.finish().await?;
        let rehearsal =
            rehearse(&cx.host, folder, Some(&before.version), &cx.unit("rehearsal"), || Ok(cx.permit()?), cx)
                .await;
        let Rehearsal { contents, with } = rehearsal.map_err(|error| match error {
            // Neither says anything of the snapshot.
            HostError::LeaseLost(_) | HostError::CommandKilled { .. } => error.into(),
            error => unsafe_to_go_on(cx, &error.to_string()),
        })?;
        let keys = patiently(cx, || cx.host.etcd.keys(contents.revision)).await?;
        let EtcdHead { revision, .. } = before;
        let found = format!("the snapshot {} is of revision {}", snapshot::path(folder), contents.revision);
        if contents.revision < revision {
            return Err(unsafe_to_go_on(
                cx,
                &format!("{found}, and etcd was at {revision} before it was taken"),
            ));
        }
        if contents.keys != keys {
            let why =
                format!("{found} and holds {} keys, and etcd counts {keys} at that revision", contents.keys);
            return Err(unsafe_to_go_on(cx, &why));
        }
        cx.reporter
            .line(cx.step, &format!("revision {}, {keys} keys, rehearsed with {with}", contents.revision));
        let facts = SnapshotFacts {
            size: digest.size,
            sha256: digest.sha256,
            revision: contents.revision,
            keys,
            rehearsed_with: with,
        };
        Ok(facts.write(cx, folder).await?)
    }
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
        cx.timed(TimeSpent::Snapshot, Self::take(cx, &folder)).await
    }

    /// The snapshot stays. What comes after the undo is another upgrade, with a snapshot of its own.
    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Chosen { folder } = serde_json::from_value(pre.clone())?;
        Ok(Folder::named(cx, &folder)?.close(cx).await?)
    }

    /// Nothing on the node has changed yet, and what speaks against the snapshot is final whatever this says.
    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 3, ..StepPolicy::default() }
    }
}

fn unsafe_to_go_on(cx: &Context, why: &str) -> StepFailure {
    StepFailure::Refused(format!(
        "{why}. Nothing on {} was changed. A snapshot that cannot be restored is no backup: look at its disk and its etcd \
         (`etcdctl endpoint hashkv --cluster` compares the members), then retry the node",
        cx.node
    ))
}
