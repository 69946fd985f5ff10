//! Reads the package repositories' lists anew.

use async_trait::async_trait;

use crate::engine::context::PrepareContext;
use crate::engine::step::{Preparation, StepFailure};

pub(super) struct RefreshPackages;

#[async_trait]
impl Preparation for RefreshPackages {
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        Ok(cx.host.packages.refresh(cx).await?)
    }
}
