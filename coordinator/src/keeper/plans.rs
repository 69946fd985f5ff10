//! What is remembered of the documents that are followed, in a folder or in the cluster (see [`crate::plans`]).

use std::fmt;

use liftlock_proto::name::PlanId;
use liftlock_proto::v1;

use super::{Keeper, KeeperError, State};
use crate::core::leg::Next;
use crate::core::rollout::Rollout;
use crate::store::records::{ActedOn, ActedOnObject, Change};

/// Where a document stands that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// In a file of the folder, which holds one at a time.
    File {
        /// The file's name.
        name: String,
    },
    /// In an object of kind `UpgradePlan` in the cluster.
    Object {
        /// `metadata.name`
        name: String,
        /// `metadata.uid`: an object that is made again is another one.
        uid: String,
    },
}

/// The operator as whom it is applied.
impl fmt::Display for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name } => write!(f, "plans:{name}"),
            Self::Object { name, .. } => write!(f, "upgradeplan:{name}"),
        }
    }
}

impl Followed {
    /// That this document is not acted upon again, once what it says is begun with under the roll-out's number.
    pub(super) fn remember(&self, document: String, rollout: Option<u64>) -> Change {
        match self {
            Self::File { .. } => Change { acted_on: Some(ActedOn { document }), ..Change::default() },
            Self::Object { uid, .. } => Change {
                object: Some((uid.clone(), ActedOnObject { document, rollout })),
                ..Change::default()
            },
        }
    }
}

impl State {
    /// The hash of what a followed document said when it was begun with or found fulfilled last.
    pub(super) fn acted_on(&self, followed: &Followed) -> Option<&str> {
        match followed {
            Followed::File { .. } => Some(self.saved.acted_on.as_ref()?.document.as_str()),
            Followed::Object { uid, .. } => Some(self.saved.objects.get(uid)?.document.as_str()),
        }
    }
}

impl Keeper {
    /// The hash of what a followed document said when it was begun with or found fulfilled last: it is not acted upon again.
    pub fn acted_on(&self, followed: &Followed) -> Option<String> {
        self.lock().acted_on(followed).map(str::to_owned)
    }

    /// The plan of the roll-out that has not ended, or whose last hooks have not.
    pub fn unfinished(&self) -> Option<PlanId> {
        let state = self.lock();
        let goes_on = |rollout: &Rollout| !rollout.is_final() || rollout.hook_after().is_some();
        let goes_on = state.saved.newest().filter(|(_, rollout)| goes_on(rollout));
        goes_on.map(|(_, rollout)| rollout.plan.id.clone())
    }

    /// The roll-out that an object began, or the one that carries on its path.
    pub fn rollout_of(&self, uid: &str) -> Option<v1::Rollout> {
        let state = self.lock();
        let mut number = state.saved.objects.get(uid)?.rollout?;
        let mut rollout = state.saved.rollouts.get(&number)?;
        while rollout.leg.next == Next::Begun
            && let Some(next) = state.saved.rollouts.get(&(number + 1))
        {
            (number, rollout) = (number + 1, next);
        }
        Some(state.told(number, rollout, state.soak_time_ms(self.clock.as_ref())))
    }

    /// Remembers that there is nothing to do for a document.
    pub fn fulfilled(&self, followed: &Followed, document: String) -> Result<(), KeeperError> {
        let mut state = self.lock();
        Ok(self.commit(&mut state, followed.remember(document, None))?)
    }

    /// What operators should know of the documents that are followed from now on. What is new is logged, once.
    pub fn report_plans(&self, said: Vec<String>) {
        let mut state = self.lock();
        if state.plans == said {
            return;
        }
        for new in said.iter().filter(|new| !state.plans.contains(new)) {
            tracing::warn!("{new}");
        }
        state.plans = said;
        drop(state);
        self.announce();
    }
}
