//! Beginning with a document that is followed, wherever it stands: planned from fresh facts and applied, or why not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::core::planning::Refusal;
use crate::document::UpgradePlan;
use crate::keeper::{Followed, Keeper, KeeperError, addons};
use crate::rpc::operators::fresh_facts;

/// When a document that was refused is tried again though nothing is known to have changed: nodes read their package lists
/// anew each time.
const TRY_AGAIN: Duration = Duration::from_mins(5);

/// Why a document was not begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// Rules speak against it.
    Refused(Vec<Refusal>),
    /// It could not be tried, or what it was planned from has changed since.
    NotNow(Vec<String>),
}

impl fmt::Display for NotBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why: Vec<String> = match self {
            Self::Refused(refusals) => {
                refusals.iter().map(|Refusal { rule, message, .. }| format!("{rule}: {message}")).collect()
            }
            Self::NotNow(why) => why.clone(),
        };
        f.write_str(&why.join("; "))
    }
}

/// What came of one document's last attempt, so that agents are not asked again for nothing.
#[derive(Default)]
pub(super) struct Attempts {
    failed: Option<Failed>,
}

struct Failed {
    hash: String,
    /// What spoke against it as far as the coordinator knew before it asked anybody.
    known: Vec<Refusal>,
    why: NotBegun,
    at: Instant,
}

impl Attempts {
    /// Why the last attempt at what a document says failed, if it did.
    pub(super) fn failed(&self, hash: &str) -> Option<&NotBegun> {
        self.failed.as_ref().filter(|failed| failed.hash == hash).map(|failed| &failed.why)
    }

    /// Begins with a document, given with its hash, unless it was tried lately and nothing is known to be different.
    pub(super) async fn begin(
        &mut self,
        keeper: &Arc<Keeper>,
        followed: &Followed,
        document: &UpgradePlan,
        hash: &str,
    ) -> Result<(), NotBegun> {
        let conduct = document.conduct();
        let (target, policy) = document.clone().wanted();
        let known = keeper.plan_conducted(target, &policy, &conduct).err().unwrap_or_default();
        if let Some(before) = &self.failed
            && before.hash == hash
            && before.known == known
            && before.at.elapsed() < TRY_AGAIN
        {
            return Err(before.why.clone());
        }
        let tried = begin(keeper, followed, document, hash).await;
        self.failed = tried.as_ref().err().map(|why| Failed {
            hash: hash.to_owned(),
            known,
            why: why.clone(),
            at: Instant::now(),
        });
        tried
    }
}

/// Has the roll-out that goes on go on as a document says, which may say something else only of how it is conducted.
pub(super) async fn edit(
    keeper: &Arc<Keeper>,
    followed: &Followed,
    document: &UpgradePlan,
    hash: &str,
) -> Result<(), String> {
    let (keeper, followed, document) = (Arc::clone(keeper), followed.clone(), document.clone());
    let hash = hash.to_owned();
    let edited = spawn_blocking(move || keeper.edit_by_document(&document, &followed, hash)).await;
    edited.map_err(|error| error.to_string()).and_then(|done| done.map_err(|error| error.to_string()))
}

async fn begin(
    keeper: &Arc<Keeper>,
    followed: &Followed,
    document: &UpgradePlan,
    hash: &str,
) -> Result<(), NotBegun> {
    let silent = fresh_facts(keeper, true).await;
    if !silent.is_empty() {
        return Err(NotBegun::NotNow(silent.into_iter().map(|refusal| refusal.message).collect()));
    }
    let conduct = document.conduct();
    let (target, policy) = document.clone().wanted();
    if let Ok(path) = keeper.plan(target, &policy) {
        let against = addons::refused(&path, &keeper.preview_addons(&path).await);
        if !against.is_empty() {
            return Err(NotBegun::Refused(against));
        }
    }
    let (keeper, followed, hash) = (Arc::clone(keeper), followed.clone(), hash.to_owned());
    let name = document.name().cloned();
    let done = spawn_blocking(move || {
        let because = |error: KeeperError| NotBegun::NotNow(vec![error.to_string()]);
        match keeper.plan_conducted(target, &policy, &conduct) {
            Ok(path) => {
                keeper.apply_document(&path, &conduct, name.as_ref(), &followed, hash).map_err(because)?;
                tracing::info!(%followed, plan = %path.first.id, "a followed document is begun with");
                Ok(())
            }
            Err(refusals) if matches!(refusals.as_slice(), [only] if only.is_nothing_to_do()) => {
                keeper.fulfilled(&followed, hash).map_err(because)
            }
            Err(refusals) => Err(NotBegun::Refused(refusals)),
        }
    });
    done.await.unwrap_or_else(|error| Err(NotBegun::NotNow(vec![error.to_string()])))
}
