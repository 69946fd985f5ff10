//! What is wanted, from where somebody else keeps it: `liftlock serve --plans DIR` follows a folder, and
//! `--plans-kubeconfig FILE` the objects of kind `UpgradePlan` in the cluster ([`resource`]).
//!
//! The folder is a Git checkout or a mounted `ConfigMap`, and somebody else changes it. One document in it counts as what is
//! wanted. It is acted upon when it was the same in two looks, so none that is half written is, and when no roll-out goes
//! on. A hash of it is remembered with the roll-out that it starts, in one durable batch: what was aborted, rolled back or
//! fulfilled is not begun again before the document says something else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::keeper::{Followed, Keeper};

mod attempt;
mod folder;
pub mod resource;
mod wanted;

#[cfg(test)]
mod tests;

use attempt::Attempts;
use wanted::Wanted;

/// Between two looks at what is followed.
const LOOK: Duration = Duration::from_secs(2);

/// Follows a folder.
pub struct Follower {
    keeper: Arc<Keeper>,
    folder: PathBuf,
    /// The hash of the document that the last look found.
    seen: Option<String>,
    attempts: Attempts,
}

impl Follower {
    /// Begins with nothing seen.
    pub fn new(keeper: Arc<Keeper>, folder: PathBuf) -> Self {
        Self { keeper, folder, seen: None, attempts: Attempts::default() }
    }

    /// Looks again and again, and reports what operators should know.
    pub async fn follow(mut self) {
        loop {
            let said = self.look().await.err().into_iter().collect();
            self.keeper.report_plans(said);
            sleep(LOOK).await;
        }
    }

    /// One look. What it leaves undone is said.
    async fn look(&mut self) -> Result<(), String> {
        let folder = self.folder.clone();
        let found = spawn_blocking(move || folder::documents(&folder)).await;
        let files = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let wanted = wanted::only_one(&self.folder, &files)?;
        let followed = Followed::File { name: wanted.file.clone() };
        if self.keeper.acted_on(&followed).as_ref() == Some(&wanted.hash) {
            return Ok(());
        }
        if self.seen.replace(wanted.hash.clone()).as_ref() != Some(&wanted.hash) {
            return Ok(());
        }
        if let Some(plan) = self.keeper.unfinished() {
            let Wanted { file, document, hash } = &wanted;
            let edited = attempt::edit(&self.keeper, &followed, document, hash).await;
            return edited
                .map_err(|why| format!("{file} waits until the roll-out of plan {plan} has ended: {why}"));
        }
        let begun = self.attempts.begin(&self.keeper, &followed, &wanted.document, &wanted.hash).await;
        begun.map_err(|why| format!("{} is refused: {why}", wanted.file))
    }
}
