//! The protected paths as they are before the first change, and copies of what is small in them.

use async_trait::async_trait;
use std::time::Duration;

use crate::backup::Backup;
use crate::backup::digest::FileDigest;
use crate::backup::index::Entry;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::HostError;
use crate::protect::manifest::Manifest;
use crate::protect::rules::Rules;
use crate::protect::{keep, manifest, repair};

pub(super) struct SealProtectedPaths;

#[async_trait]
impl StepRunner for SealProtectedPaths {
    /// What the backup's index names is whole. It stays the one of its plan, as the backup does.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let Some(backup) = Backup::find(cx).await? else {
            return Ok(Observed::Absent);
        };
        let sealed = Manifest::of(&cx.host, &backup).await?.is_some();
        Ok(if sealed { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let Backup { folder, mut index } = Backup::require(cx).await?;
        if index.entries.iter().any(|entry| entry.path == manifest::NAME) {
            return Ok(());
        }
        let rules = Rules::load(&cx.host).await?;
        let known = Manifest::earlier(cx).await?;
        let mut sealed = Manifest::take(&cx.host, &rules, known.as_ref()).await?;
        let pack = keep::pack(cx, &folder, &mut sealed).await?;
        let path = folder.path().join(manifest::NAME);
        let json = serde_json::to_vec(&sealed)
            .map_err(|source| HostError::Malformed { what: path.to_string(), why: source.to_string() })?;
        cx.host.files.write(&cx.permit()?, &path, &json, 0o600).await?;
        index.entries.push(Entry { path: keep::NAME.into(), digest: pack });
        index.entries.push(Entry { path: manifest::NAME.into(), digest: FileDigest::of(&json) });
        index.write(cx, &folder).await?;
        Ok(())
    }

    /// The last thing but the backup's own end: whatever led here, what was sealed is as it was.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        repair::restore(cx).await
    }

    /// A file that is written while it is read is whole a moment later.
    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 3, pause: Duration::from_secs(5) }
    }
}
