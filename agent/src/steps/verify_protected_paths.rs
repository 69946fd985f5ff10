//! The protected paths are as their classes demand; what was sealed and changed is put back.

use async_trait::async_trait;

use crate::backup::Backup;
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::protect::findings::find;
use crate::protect::manifest::Manifest;
use crate::protect::repair;
use crate::protect::rules::Rules;

pub(super) struct VerifyProtectedPaths;

#[async_trait]
impl StepRunner for VerifyProtectedPaths {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let backup = Backup::require(cx).await?;
        let Some(manifest) = Manifest::of(&cx.host, &backup).await? else {
            return Err(StepFailure::Refused(format!(
                "nothing was sealed in {}: run the plan's step seal-protected-paths first",
                backup.folder.path()
            )));
        };
        let findings = find(&cx.host, &cx.plan, &Rules::load(&cx.host).await?, &manifest).await?;
        Ok(if findings.is_empty() { Observed::Done } else { Observed::Partial })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        repair::restore(cx).await
    }

    /// What it put back stays. The undo of the seal looks again.
    async fn undo(&self, _: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }
}
