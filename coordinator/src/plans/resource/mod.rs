//! `liftlock serve --plans-kubeconfig FILE`: what objects of kind `UpgradePlan` in the cluster want is planned and applied,
//! once each, and what becomes of it is written into their status.
//!
//! The file is the one key to the cluster that a coordinator may have, and it opens nothing else (deploy/kubernetes/rbac.yaml):
//! nothing of a roll-out goes that way. Objects are listed anew at every look, so an API server that goes away, as those do that
//! are raised, is only asked again. What was begun with is remembered in the store by the object's uid, in one durable batch
//! with the roll-out; what a status says counts beside it, so that neither a store nor a status that was lost begins anything
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::LOOK;
use super::attempt::{self, Attempts, NotBegun};
use crate::clock::Clock;
use crate::keeper::{Followed, Keeper};

mod api;
mod definition;
mod event;
mod kubeconfig;
mod object;
mod status;
mod structural;

#[cfg(test)]
mod tests;

use api::{Api, ApiError};
pub use definition::definition;
use object::Object;
use status::{Acceptance, Status};

/// How long an API server may be away before operators are told: one that is raised is back sooner.
const PATIENCE: Duration = Duration::from_mins(2);

/// When a status is written again that the API server refused to take, or that somebody else has changed: where two coordinators
/// follow the same objects, each would have the last word for ever.
const WRITE_AGAIN: Duration = Duration::from_mins(1);

/// Follows the objects of the cluster.
pub struct ResourceFollower {
    keeper: Arc<Keeper>,
    clock: Box<dyn Clock>,
    kubeconfig: PathBuf,
    /// Where there is a connection, or was at the last request.
    api: Option<Api>,
    /// Since when the API has not answered.
    away: Option<Instant>,
    /// When a status was refused, and what operators are told until it is written again.
    unwritten: Option<(Instant, String)>,
    /// What was written last into each object's status, by uid.
    written: BTreeMap<String, Written>,
    /// Until when the API server asked to be left alone.
    left_alone_until: Option<Instant>,
    /// What came of the attempts at each object, by uid.
    attempts: BTreeMap<String, Attempts>,
    /// What operators were told last.
    said: Vec<String>,
}

/// A status as it was written.
struct Written {
    status: Status,
    at: Instant,
}

impl ResourceFollower {
    /// Begins with nothing seen.
    pub fn new(keeper: Arc<Keeper>, clock: Box<dyn Clock>, kubeconfig: PathBuf) -> Self {
        Self {
            keeper,
            clock,
            kubeconfig,
            api: None,
            away: None,
            unwritten: None,
            written: BTreeMap::new(),
            left_alone_until: None,
            attempts: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    /// Looks again and again, and reports what operators should know.
    pub async fn follow(mut self) {
        loop {
            self.said = self.look().await;
            self.keeper.report_plans(self.said.clone());
            sleep(LOOK).await;
        }
    }

    /// One look; what operators should know.
    async fn look(&mut self) -> Vec<String> {
        if self.is_left_alone() {
            return self.said.clone();
        }
        let listed = match self.list().await {
            Ok(listed) => listed,
            Err(error) => {
                self.leave_alone(&error);
                return self.unlisted(&error);
            }
        };
        self.away = None;
        let (mut objects, mut said) = (Vec::new(), Vec::new());
        for object in listed.into_iter().map(Object::read) {
            match object {
                Ok(object) => objects.push(object),
                Err(why) => said.push(why),
            }
        }
        // Those that were made first come first: each waits until what was begun before it has ended.
        objects.sort_by(|one, other| (&one.created, &one.name).cmp(&(&other.created, &other.name)));
        let there: BTreeSet<&str> = objects.iter().map(|object| object.uid.as_str()).collect();
        self.attempts.retain(|uid, _| there.contains(uid.as_str()));
        self.written.retain(|uid, _| there.contains(uid.as_str()));
        self.unwritten = self.unwritten.take().filter(|(at, _)| at.elapsed() < WRITE_AGAIN);
        for object in &objects {
            let acceptance = self.accept(object).await;
            match &acceptance {
                Acceptance::Waiting(why) => said.push(format!("upgradeplan {} waits: {why}", object.name)),
                Acceptance::Refused { why, .. } => {
                    said.push(format!("upgradeplan {} is refused: {why}", object.name));
                }
                Acceptance::Begun | Acceptance::AlreadyThere | Acceptance::BegunElsewhere => {}
            }
            said.extend(self.write_status(object, &acceptance).await);
        }
        said.extend(self.unwritten.iter().map(|(_, why)| why.clone()));
        said
    }

    async fn list(&mut self) -> Result<Vec<Value>, ApiError> {
        let api = if let Some(api) = self.api.take() {
            api
        } else {
            let path = self.kubeconfig.clone();
            let opened = spawn_blocking(move || Api::open(&path)).await;
            opened.unwrap_or_else(|error| {
                let server = self.kubeconfig.display().to_string();
                Err(ApiError::Unreachable { server, why: error.to_string() })
            })?
        };
        // After whatever failure the file is read anew: its token may have been replaced.
        let listed = api.list().await?;
        self.api = Some(api);
        Ok(listed)
    }

    /// What operators should know where nothing could be listed: for a while what they were told last.
    fn unlisted(&mut self, error: &ApiError) -> Vec<String> {
        let since = *self.away.get_or_insert_with(Instant::now);
        if error.may_pass() && since.elapsed() < PATIENCE {
            tracing::debug!(%error, "the UpgradePlans are listed again in a moment");
            return self.said.clone();
        }
        vec![format!(
            "no UpgradePlan is followed: {error}; see deploy/kubernetes and {}",
            self.kubeconfig.display()
        )]
    }

    /// Begins with an object where that is due.
    async fn accept(&mut self, object: &Object) -> Acceptance {
        let (document, hash) = match &object.document {
            Ok(read) => read,
            Err(why) => return Acceptance::Refused { rule: "unreadable".to_owned(), why: why.clone() },
        };
        let followed = Followed::Object { name: object.name.clone(), uid: object.uid.clone() };
        if let Some(acceptance) = self.acted_on(&followed, hash) {
            return acceptance;
        }
        if object.before.accepted(object.generation) {
            return Acceptance::BegunElsewhere;
        }
        if object.is_deleted {
            return Acceptance::Waiting("it is being deleted: nothing is begun for it".to_owned());
        }
        if let Some(plan) = self.keeper.unfinished() {
            let waits = format!("until the roll-out of plan {plan} has ended");
            // What it says of its own roll-out may count at once.
            if self.keeper.rollout_of(&object.uid).is_some_and(|rollout| rollout.ended_at_ms == 0) {
                return match attempt::edit(&self.keeper, &followed, document, hash).await {
                    Ok(()) => Acceptance::Begun,
                    Err(why) => Acceptance::Waiting(format!("{waits}: {why}")),
                };
            }
            // What was refused before stays refused meanwhile: nobody looks at it again before that has ended.
            let attempts = self.attempts.entry(object.uid.clone()).or_default();
            return attempts.failed(hash).and_then(refused).unwrap_or(Acceptance::Waiting(waits));
        }
        let attempts = self.attempts.entry(object.uid.clone()).or_default();
        match attempts.begin(&self.keeper, &followed, document, hash).await {
            Ok(()) => self.acted_on(&followed, hash).unwrap_or(Acceptance::Begun),
            Err(why) => refused(&why).unwrap_or_else(|| Acceptance::Waiting(why.to_string())),
        }
    }

    /// What became of what an object says, if it was acted upon.
    fn acted_on(&self, followed: &Followed, hash: &str) -> Option<Acceptance> {
        let Followed::Object { uid, .. } = followed else { return None };
        self.keeper.acted_on(followed).filter(|acted_on| acted_on == hash)?;
        Some(if self.keeper.rollout_of(uid).is_some() { Acceptance::Begun } else { Acceptance::AlreadyThere })
    }

    /// Writes an object's status, if it says something else than before; what operators should know.
    async fn write_status(&mut self, object: &Object, acceptance: &Acceptance) -> Option<String> {
        if self.unwritten.is_some() || self.is_left_alone() {
            return None;
        }
        let elsewhere = *acceptance == Acceptance::BegunElsewhere;
        if elsewhere && object.before.ended() {
            return None;
        }
        // While a roll-out of an earlier spec goes on, it is that which is told; one that has ended is not this spec's.
        let rollout = self.keeper.rollout_of(&object.uid);
        let rollout = rollout.filter(|rollout| *acceptance == Acceptance::Begun || rollout.ended_at_ms == 0);
        let now_ms = self.clock.unix_ms();
        let status = Status::of(acceptance, rollout.as_ref(), object.generation, &object.before, now_ms);
        let (Some(whole), Some(api)) = (object.with_status(&status), &self.api) else {
            return None;
        };
        let earlier = self.written.get(&object.uid).filter(|earlier| earlier.status.says_the_same(&status));
        // Whoever began with it says how it goes on; where nobody does, it stays as this coordinator left it.
        if earlier.is_some_and(|earlier| elsewhere || earlier.at.elapsed() < WRITE_AGAIN) {
            return Some(format!(
                "the status of upgradeplan {} is changed by somebody else: one coordinator may follow the objects of a cluster, \
                 and their definition has to be that of its version (`liftlock schema --crd`)",
                object.name
            ));
        }
        match api.put_status(&object.name, &whole).await {
            Ok(()) => {
                if let Some(news) = status.news(&object.before) {
                    let told = api.post_event(&event::event(object, &news, now_ms)).await;
                    let _ =
                        told.inspect_err(|error| tracing::debug!(%error, "there is no event of a change"));
                }
                self.written.insert(object.uid.clone(), Written { status, at: Instant::now() });
            }
            Err(error) if error.may_pass() || error.is_of_another_object() => {
                tracing::debug!(%error, name = object.name, "the status is written at the next look");
                self.leave_alone(&error);
            }
            Err(error) => {
                let said = format!(
                    "the status of upgradeplan {} cannot be written, and what it says is done all the same: {error}",
                    object.name
                );
                self.unwritten = Some((Instant::now(), said));
            }
        }
        None
    }

    /// Asks the API server for nothing as long as it wants that.
    fn leave_alone(&mut self, error: &ApiError) {
        self.left_alone_until = error.retry_after().map(|wanted| Instant::now() + wanted);
    }

    fn is_left_alone(&self) -> bool {
        self.left_alone_until.is_some_and(|until| Instant::now() < until)
    }
}

/// Where rules speak against it.
fn refused(why: &NotBegun) -> Option<Acceptance> {
    let NotBegun::Refused(refusals) = why else { return None };
    let rule = refusals.first()?.rule.to_owned();
    Some(Acceptance::Refused { rule, why: why.to_string() })
}
