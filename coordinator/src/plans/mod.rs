//! `liftlock serve --plans DIR`: what a folder says is wanted is planned and applied, once.
//!
//! The folder is a Git checkout or a mounted `ConfigMap`, and somebody else changes it. One document in it counts as what is
//! wanted. It is acted upon when it was the same in two looks, so none that is half written is, and when no roll-out goes
//! on. A hash of it is remembered with the roll-out that it starts, in one durable batch: what was aborted, rolled back or
//! fulfilled is not begun again before the document says something else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::core::planning::Refusal;
use crate::keeper::{Keeper, KeeperError};
use crate::rpc::operators::fresh_facts;

mod folder;
mod wanted;

#[cfg(test)]
mod tests;

use wanted::Wanted;

/// Between two looks at the folder.
const LOOK: Duration = Duration::from_secs(2);

/// When a document that was refused is tried again though nothing is known to have changed: nodes read their package lists
/// anew each time.
const TRY_AGAIN: Duration = Duration::from_mins(5);

/// Follows a folder.
pub struct Follower {
    keeper: Arc<Keeper>,
    folder: PathBuf,
    /// The hash of the document that the last look found.
    seen: Option<String>,
    refused: Option<Refused>,
}

/// A document that could not be begun with.
struct Refused {
    hash: String,
    /// What spoke against it as far as the coordinator knew before it asked anybody.
    known: Vec<Refusal>,
    said: String,
    at: Instant,
}

impl Follower {
    /// Begins with nothing seen.
    pub fn new(keeper: Arc<Keeper>, folder: PathBuf) -> Self {
        Self { keeper, folder, seen: None, refused: None }
    }

    /// Looks again and again, and reports what operators should know.
    pub async fn follow(mut self) {
        loop {
            let said = self.look().await.err();
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
        if self.keeper.acted_on().as_ref() == Some(&wanted.hash) {
            return Ok(());
        }
        if self.seen.replace(wanted.hash.clone()).as_ref() != Some(&wanted.hash) {
            return Ok(());
        }
        if let Some(plan) = self.keeper.unfinished() {
            return self.edit(wanted).await.map_err(|(file, why)| {
                format!("{file} waits until the roll-out of plan {plan} has ended: {why}")
            });
        }
        self.try_it(wanted).await
    }

    /// What says something else only of how the roll-out that goes on is conducted, counts at once.
    async fn edit(&self, wanted: Wanted) -> Result<(), (String, String)> {
        let keeper = Arc::clone(&self.keeper);
        let Wanted { file, document, hash } = wanted;
        let name = file.clone();
        let edited = spawn_blocking(move || keeper.edit_by_document(&document, &name, hash)).await;
        let edited = edited.map_err(|error| error.to_string());
        edited.and_then(|done| done.map_err(|error| error.to_string())).map_err(|why| (file, why))
    }

    async fn try_it(&mut self, wanted: Wanted) -> Result<(), String> {
        let (target, policy) = wanted.document.clone().wanted();
        let known = self.keeper.plan(target, &policy).err().unwrap_or_default();
        if let Some(before) = &self.refused
            && before.hash == wanted.hash
            && before.known == known
            && before.at.elapsed() < TRY_AGAIN
        {
            return Err(before.said.clone());
        }
        let tried = self.begin(&wanted).await;
        self.refused = tried.as_ref().err().map(|said| Refused {
            hash: wanted.hash,
            known,
            said: said.clone(),
            at: Instant::now(),
        });
        tried
    }

    /// Plans the document from fresh facts and applies the plan, or says why not.
    async fn begin(&self, wanted: &Wanted) -> Result<(), String> {
        let silent = fresh_facts(&self.keeper, true).await;
        if !silent.is_empty() {
            let why: Vec<String> = silent.into_iter().map(|refusal| refusal.message).collect();
            return Err(refused(&wanted.file, &why));
        }
        let (keeper, file) = (Arc::clone(&self.keeper), wanted.file.clone());
        let (document, hash) = (wanted.document.clone(), wanted.hash.clone());
        let done = spawn_blocking(move || {
            let conduct = document.conduct();
            let (target, policy) = document.wanted();
            let because = |error: KeeperError| refused(&file, &[error.to_string()]);
            match keeper.plan_conducted(target, &policy, &conduct) {
                Ok(path) => {
                    keeper.apply_document(&path, &conduct, &file, hash).map_err(because)?;
                    tracing::info!(%file, plan = %path.first.id, "a followed document is begun with");
                    Ok(())
                }
                Err(refusals) if matches!(refusals.as_slice(), [only] if only.is_nothing_to_do()) => {
                    keeper.fulfilled(hash).map_err(because)
                }
                Err(refusals) => {
                    let why: Vec<String> = refusals
                        .into_iter()
                        .map(|Refusal { rule, message, .. }| format!("{rule}: {message}"))
                        .collect();
                    Err(refused(&file, &why))
                }
            }
        });
        done.await.map_err(|error| error.to_string())?
    }
}

fn refused(file: &str, why: &[String]) -> String {
    format!("{file} is refused: {}", why.join("; "))
}
