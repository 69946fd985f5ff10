//! What operators order.

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, Policy};
use liftlock_proto::version::KubernetesVersion;

use super::{Followed, Keeper, KeeperError};
use crate::core::conduct::Conduct;
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::leg::Leg;
use crate::core::membership::Membership;
use crate::core::path::{Path, make_path};
use crate::core::planning::Refusal;
use crate::core::rollout::{Event, Rollout};
use crate::document::ObjectName;
use crate::store::records::Change;

/// An order about the present roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Finish the node under lease, then wait.
    Pause,
    /// Go on.
    Resume,
    /// Finish the node under lease, then end.
    Abort,
    /// Lease a failed node again.
    Retry(NodeName),
    /// Put back what was changed on a node; `None`: on every one.
    Rollback(Option<NodeName>),
}

impl Keeper {
    /// The path that follows from what is known now, or everything that speaks against it. Changes nothing.
    pub fn plan(&self, target: KubernetesVersion, policy: &Policy) -> Result<Path, Vec<Refusal>> {
        let catalogue = self.catalogue().map_err(|unread| vec![unread.into()])?;
        make_path(&self.lock().view(), target, policy, &catalogue)
    }

    /// Starts the roll-out of a path's first plan, if the same path follows from what is known now.
    pub fn apply(&self, path: &Path, operator: &str) -> Result<(), KeeperError> {
        self.start(path, &Conduct::default(), None, operator, None)
    }

    /// The same, conducted like this, and wanted by a document of this name.
    pub fn apply_conducted(
        &self,
        path: &Path,
        conduct: &Conduct,
        name: Option<&ObjectName>,
        operator: &str,
    ) -> Result<(), KeeperError> {
        self.start(path, conduct, name, operator, None)
    }

    /// The same for a document that is followed, given by its name and its hash. Only where no roll-out goes on, between two stops of a
    /// path neither, and never again for the same document.
    pub fn apply_document(
        &self,
        path: &Path,
        conduct: &Conduct,
        name: Option<&ObjectName>,
        followed: &Followed,
        document: String,
    ) -> Result<(), KeeperError> {
        self.start(path, conduct, name, &followed.to_string(), Some((followed, document)))
    }

    fn start(
        &self,
        path: &Path,
        conduct: &Conduct,
        name: Option<&ObjectName>,
        operator: &str,
        document: Option<(&Followed, String)>,
    ) -> Result<(), KeeperError> {
        if let Some(plan) = path.unsealed() {
            return Err(KeeperError::Invalid(format!(
                "plan {} is not what its hash says: it was changed after it was made; make it again with `liftlock plan`",
                plan.id
            )));
        }
        let mut state = self.lock();
        let last = state.saved.newest();
        let number = last.map_or(1, |(number, _)| number + 1);
        let followed = document.is_some();
        let mut change = match document {
            Some((followed, document)) if state.acted_on(followed) == Some(&document) => {
                return Err(KeeperError::NotNow("this document was begun with before".to_owned()));
            }
            Some((followed, document)) => followed.remember(document, Some(number)),
            None => Change::default(),
        };
        let at_ms = self.clock.unix_ms();
        if let Some((number, present)) = last
            && !present.is_final()
        {
            if !present.is_raised() || followed {
                return Err(KeeperError::NotNow(format!(
                    "the roll-out of plan {} has not ended: see `liftlock status`; only one goes on at a time",
                    present.plan.id
                )));
            }
            if let Some(emptied) = present.nodes_that_wait_emptied() {
                return Err(KeeperError::NotNow(format!(
                    "the roll-out that goes on has emptied {emptied} for its next plan: `liftlock rollback --cluster` goes back, \
                     `liftlock abort` leaves everything as it is; apply another plan after that"
                )));
            }
            // Whoever applies another path between two stops ends the earlier one here.
            let ended = present.after(&Event::Aborted { at_ms })?;
            change.history.push(self.ended(&ended));
            change.rollouts.insert(number, ended);
        }
        if let Some((_, present)) = last
            && let Some(call) = present.hook_after()
        {
            return Err(KeeperError::NotNow(format!(
                "the roll-out of plan {} has ended, and no other begins before the hooks after it have: {}; see `liftlock \
                 status`, and pass over it by `liftlock edit` with a document that has it no more in spec.hooks",
                present.plan.id,
                call.waiting()
            )));
        }
        let (plan, target) = (&path.first, path.last().to_version);
        let catalogue = self.catalogue()?;
        let refused = |refusals: Vec<Refusal>| {
            let why: Vec<String> = refusals.into_iter().map(|refusal| refusal.message).collect();
            KeeperError::NotNow(format!("plan {} cannot be started now: {}", plan.id, why.join("; ")))
        };
        let now = make_path(&state.view(), target, &plan.policy, &catalogue).map_err(refused)?;
        let refusals = state.conduct_refusals(path, conduct, self.clock.as_ref());
        if !refusals.is_empty() {
            return Err(refused(refusals));
        }
        if !now.is(path) {
            return Err(KeeperError::NotNow(format!(
                "the cluster has changed since plan {} was made, it would be {} now: look at it with `liftlock plan {target}` \
                 and apply that",
                plan.id, now.first.id
            )));
        }
        let way = |plan: &Plan| match Membership::of(plan) {
            Some(membership) => membership.to_string(),
            None => format!("to {}", plan.to_version),
        };
        let way: Vec<String> = path.plans().map(way).collect();
        let named = name.map(|name| format!(", document {name}")).unwrap_or_default();
        change.history.push(HistoryRecord {
            plan: Some(plan.id.clone()),
            operator: Some(operator.to_owned()),
            ..self.record(
                HistoryKind::PlanApplied,
                format!("{} {} on {} nodes{named}", plan.from_version, way.join(", then "), plan.nodes.len()),
            )
        });
        let leg = Leg::first(&now.onward);
        let rollout = Rollout::start(now.first, operator.to_owned(), at_ms);
        let rollout = rollout.wanted_by(name.map(ToString::to_string));
        change.rollouts.insert(number, rollout.on(leg).conducted(conduct.clone()));
        state.last_output.clear();
        state.ask_anew();
        state.forget_alerts();
        self.commit(&mut state, change)?;
        self.advance(&mut state);
        Ok(())
    }

    /// Carries out an order about the present roll-out.
    pub fn order(&self, order: &Order, operator: &str) -> Result<(), KeeperError> {
        let mut state = self.lock();
        let at_ms = self.clock.unix_ms();
        let (event, kind, text) = match order {
            Order::Pause => (Event::Paused, HistoryKind::Paused, "the roll-out is paused".to_owned()),
            Order::Resume => (Event::Resumed, HistoryKind::Resumed, "the roll-out goes on".to_owned()),
            Order::Abort => {
                (Event::Aborted { at_ms }, HistoryKind::Aborted, "the roll-out is aborted".to_owned())
            }
            Order::Retry(node) => (
                Event::Retried { node: node.clone() },
                HistoryKind::Retried,
                format!("{node} is tried again"),
            ),
            Order::Rollback(node) => (
                Event::RollbackOrdered { node: node.clone() },
                HistoryKind::RollbackOrdered,
                match node {
                    Some(node) => format!("{node} is to be rolled back"),
                    None => "every node that was changed is to be rolled back".to_owned(),
                },
            ),
        };
        let (_, rollout) = state.present()?;
        let node = match order {
            Order::Retry(node) | Order::Rollback(Some(node)) => Some(node.clone()),
            _ => None,
        };
        let record = HistoryRecord {
            plan: Some(rollout.plan.id.clone()),
            node: node.clone(),
            operator: Some(operator.to_owned()),
            ..self.record(kind, text)
        };
        self.happen(&mut state, &event, vec![record])?;
        if let Some(node) = node {
            state.forget_prepared(&node);
        }
        state.ask_anew();
        self.advance(&mut state);
        Ok(())
    }
}
