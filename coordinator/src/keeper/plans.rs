//! What is remembered of the folder of documents that is followed (see [`crate::plans`]).

use liftlock_proto::name::PlanId;

use super::{Keeper, KeeperError};
use crate::store::records::{ActedOn, Change};

impl Keeper {
    /// The hash of the document that was begun with or found fulfilled last: it is not acted upon again.
    pub fn acted_on(&self) -> Option<String> {
        self.lock().saved.acted_on.as_ref().map(|acted_on| acted_on.document.clone())
    }

    /// The plan of the roll-out that has not ended.
    pub fn unfinished(&self) -> Option<PlanId> {
        let state = self.lock();
        let goes_on = state.saved.newest().filter(|(_, rollout)| !rollout.is_final());
        goes_on.map(|(_, rollout)| rollout.plan.id.clone())
    }

    /// Remembers that there is nothing to do for a document.
    pub fn fulfilled(&self, document: String) -> Result<(), KeeperError> {
        let mut state = self.lock();
        Ok(self.commit(&mut state, Change { acted_on: Some(ActedOn { document }), ..Change::default() })?)
    }

    /// What operators should know of the folder from now on; `None`: nothing.
    pub fn report_plans(&self, said: Option<String>) {
        let mut state = self.lock();
        if state.plans == said {
            return;
        }
        if let Some(said) = &said {
            tracing::warn!("{said}");
        }
        state.plans = said;
        drop(state);
        self.announce();
    }
}
