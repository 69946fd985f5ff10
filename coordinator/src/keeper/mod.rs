//! The keeper of the lock: the shell around the pure core.
//!
//! It owns the present state. Every event goes the same way: the core says what follows ([`Rollout::after`]), that
//! is made durable, then remembered, then told to whoever watches; then the core says what each connected agent
//! should be told ([`decide`]), and each session is told each thing once.
//!
//! Invariants: one event at a time, the lock held across its commit. Nothing is sent that is not durable: a lease
//! is sent only as it was read back from the state that the commit left. After a commit that failed, the state is
//! as before and nothing more is recorded or granted.
//!
//! All methods that change something wait for the disk: call them from threads that may block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::Purpose;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::core::decide::{Decision, decide};
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::hold::Hold;
use crate::core::hooks::Call;
use crate::core::rollout::{Event, Lease, Rollout, TransitionError};
use crate::identity::authority::{Authority, IdentityError};
use crate::identity::token::TokenRefused;
use crate::store::records::{Change, Saved};
use crate::store::{Store, StoreError};

pub mod addons;
mod alerts;
mod between;
mod catalogue;
mod edit;
mod facts;
mod findings;
mod forecast;
mod hold;
mod hooks;
mod joining;
mod marks;
mod orders;
mod path;
mod plans;
mod queries;
mod questions;
mod sessions;
mod soak;
mod tokens;

#[cfg(test)]
mod tests;

pub use catalogue::{CatalogueSource, Fetched};
pub use facts::Whereabouts;
pub use hooks::HookOrder;
pub use orders::Order;
pub use path::LOOK_AGAIN;
pub use plans::Followed;
pub use sessions::{LEASE_TTL_MS, Outbox, SessionId};
pub use tokens::Certified;

/// The shell around the core.
pub struct Keeper {
    store: Box<dyn Store>,
    authority: Arc<Authority>,
    clock: Box<dyn Clock>,
    /// Where one is kept.
    catalogue: Option<CatalogueSource>,
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

/// What is saved, and what is only known while the coordinator runs.
#[derive(Default)]
struct State {
    saved: Saved,
    sessions: BTreeMap<NodeName, sessions::Session>,
    last_session: u64,
    /// The number of the last question to any agent.
    last_question: u64,
    facts: BTreeMap<NodeName, facts::Reported>,
    /// Whether gates are asked again before each node, and what came of it last.
    between: Option<between::Between>,
    /// Where the coordinator runs, as far as that is known.
    machine: Option<Whereabouts>,
    /// What is known of alerts, where a Prometheus is asked.
    alerts: Option<alerts::Alerts>,
    /// Why the node that is due is not begun on.
    held: Option<Hold>,
    /// Names of the hooks in the coordinator's configuration, where somebody calls them.
    hooks: Option<BTreeSet<String>>,
    /// The hook that is to end well next.
    hook: Option<Call>,
    /// Whether control planes are told which nodes are not raised yet, and what came of it last.
    marks: Option<marks::Marks>,
    last_seen_ms: BTreeMap<NodeName, u64>,
    last_output: BTreeMap<NodeName, String>,
    /// Nodes whose agents have said what they hold since this coordinator started.
    heard: BTreeSet<NodeName>,
    /// Leases that agents hold and that the store does not know, because it is an older copy.
    unknown_leases: BTreeMap<NodeName, FencingToken>,
    /// The canaries that are looked at.
    soak: Option<soak::Soak>,
    /// What is seen of the cluster while a path stands between two stops.
    look: Option<path::Look>,
    /// What operators should know of the documents that are followed.
    plans: Vec<String>,
    /// How long a lease lasts without renewal, in milliseconds.
    lease_ttl_ms: u32,
    /// The first commit that failed.
    failure: Option<String>,
    stopping: bool,
}

/// Why something was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done as things stand.
    #[error("{0}")]
    NotNow(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is not for whoever asked.
    #[error("{0}")]
    Denied(String),
    /// An agent was asked and tried, and could not.
    #[error("{0}")]
    Agent(String),
    /// An agent was asked and did not answer.
    #[error("{0}")]
    Unanswered(String),
    /// The core refuses the event.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The token buys nothing.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// A certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Keeper {
    /// Takes up what the store holds.
    pub fn open(
        store: Box<dyn Store>,
        authority: impl Into<Arc<Authority>>,
        clock: Box<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let saved = Saved::load(store.as_ref())?;
        let state = Mutex::new(State { saved, lease_ttl_ms: LEASE_TTL_MS, ..State::default() });
        let revision = watch::Sender::new(0);
        Ok(Self { store, authority: authority.into(), clock, catalogue: None, state, revision })
    }

    /// The same with leases that last so many milliseconds without renewal.
    #[must_use]
    pub fn with_lease_ttl(self, ttl_ms: u32) -> Self {
        self.lock().lease_ttl_ms = ttl_ms;
        self
    }

    /// The same, raising only to what this catalogue has. It is read for every plan.
    #[must_use]
    pub fn with_catalogue(self, catalogue: Option<CatalogueSource>) -> Self {
        Self { catalogue, ..self }
    }

    /// The same on this machine: the node that it is, if it is one, is raised last of its class.
    #[must_use]
    pub fn on(self, machine: Option<Whereabouts>) -> Self {
        self.lock().machine = machine;
        self
    }

    /// The same, asking the gates that are asked between nodes before each of them.
    #[must_use]
    pub fn asking_between_nodes(self) -> Self {
        self.lock().between = Some(between::Between::default());
        self
    }

    /// The same, having control planes keep the taint of nodes that are not raised where it belongs: on those nodes while a
    /// roll-out goes on, or, where it is not `wished`, nowhere.
    #[must_use]
    pub fn marking_nodes(self, wished: bool) -> Self {
        self.lock().marks = Some(marks::Marks::new(wished));
        self
    }

    /// Changes whenever something that an operator can see may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Why nothing can be recorded any more, if that is so.
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change durable, then part of the state. The one way in which anything saved changes.
    fn commit(&self, state: &mut State, change: Change) -> Result<(), StoreError> {
        let result = state.saved.commit(self.store.as_ref(), change);
        if let Err(error) = &result
            && !matches!(error, StoreError::TooLarge { .. })
            && state.failure.is_none()
        {
            tracing::error!(%error, "nothing more is recorded or granted");
            state.failure = Some(error.to_string());
        }
        self.announce();
        result
    }

    fn announce(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Carries an event of the present roll-out through the core and records what follows.
    fn happen(
        &self,
        state: &mut State,
        event: &Event,
        history: Vec<HistoryRecord>,
    ) -> Result<(), KeeperError> {
        self.happen_with(state, event, Change { history, ..Change::default() })
    }

    /// The same in one batch with what else is remembered.
    fn happen_with(&self, state: &mut State, event: &Event, mut change: Change) -> Result<(), KeeperError> {
        let (number, before) = state.present()?;
        let after = before.after(event)?;
        if let Event::LeaseGranted { lease, .. } = event {
            change.fence = Some(lease.token);
        }
        if after.answered != before.answered
            && let Some(failure) = &after.answered
        {
            let text = format!("{failure}: {} is the plan's policy", after.plan.policy.on_failure);
            change.history.push(HistoryRecord {
                plan: Some(after.plan.id.clone()),
                ..self.record(HistoryKind::RollbackOrdered, text)
            });
        }
        if after.paused_after != before.paused_after
            && let Some(pool) = &after.paused_after
        {
            let text = format!("the roll-out is paused after pool {pool}, as the plan says");
            let record = self.record(HistoryKind::Paused, text);
            change.history.push(HistoryRecord { plan: Some(after.plan.id.clone()), ..record });
        }
        for (node, _) in after.quarantined.iter().filter(|(node, _)| !before.quarantined.contains_key(*node))
        {
            let text = format!(
                "{node} could not be drained: it is put back, and the roll-out goes on without it; `liftlock retry {node}` once \
                 nothing blocks it any more"
            );
            change.history.push(HistoryRecord {
                plan: Some(after.plan.id.clone()),
                node: Some(node.clone()),
                ..self.record(HistoryKind::NodeQuarantined, text)
            });
        }
        if after.is_final() && !before.is_final() {
            change.history.push(self.ended(&after));
        }
        if after != *before {
            change.rollouts.insert(number, after);
        }
        Ok(self.commit(state, change)?)
    }

    /// Tells each session what it should be told now, once. Leases are granted one after the other by the core's word, and a
    /// stop of a path that is reached is left for the next.
    fn advance(&self, state: &mut State) {
        let seen = |state: &State| (state.held.clone(), state.wants_alerts(), state.hook.clone());
        let before = seen(state);
        self.carry_on(state);
        if seen(state) != before {
            self.announce();
        }
    }

    fn carry_on(&self, state: &mut State) {
        loop {
            self.tell_marks(state);
            while let Some((node, purpose)) = state.tell(self.clock.as_ref()) {
                if let Err(error) = self.grant(state, &node, purpose) {
                    tracing::error!(%node, %error, "no lease was granted");
                    return;
                }
            }
            match self.go_on_from_the_stop(state) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(%error, "the next stop did not begin");
                    return;
                }
            }
        }
    }

    fn grant(&self, state: &mut State, node: &NodeName, purpose: Purpose) -> Result<(), KeeperError> {
        let token = FencingToken(state.saved.fence.0.saturating_add(1));
        if token == state.saved.fence {
            return Err(KeeperError::NotNow("the fencing tokens are used up".to_owned()));
        }
        let soak_time_ms = state.soak_time_ms(self.clock.as_ref());
        let lease = Lease { token, granted_at_ms: self.clock.unix_ms() };
        let plan = state.saved.newest().map(|(_, rollout)| rollout.plan.id.clone());
        let record = HistoryRecord {
            plan,
            node: Some(node.clone()),
            token: Some(token),
            ..self.record(
                HistoryKind::LeaseGranted,
                match purpose {
                    Purpose::Raise => format!("lease {token} was granted to {node}"),
                    Purpose::RollBack => format!("lease {token} was granted to {node}, to roll it back"),
                },
            )
        };
        self.happen(
            state,
            &Event::LeaseGranted { node: node.clone(), lease, purpose, soak_time_ms },
            vec![record],
        )
    }

    /// That a roll-out has ended, and how.
    fn ended(&self, rollout: &Rollout) -> HistoryRecord {
        let text = format!("the roll-out has ended: {}", phase_word(rollout));
        HistoryRecord { plan: Some(rollout.plan.id.clone()), ..self.record(HistoryKind::RolloutEnded, text) }
    }

    fn record(&self, kind: HistoryKind, text: String) -> HistoryRecord {
        HistoryRecord {
            at_ms: self.clock.unix_ms(),
            kind,
            plan: None,
            node: None,
            token: None,
            operator: None,
            text,
        }
    }
}

impl State {
    /// The newest roll-out and its number, or that there is none.
    fn present(&self) -> Result<(u64, &Rollout), KeeperError> {
        self.saved.newest().ok_or_else(|| {
            let none = "there is no roll-out yet: start one with `liftlock apply VERSION`";
            let said = std::iter::once(none).chain(self.plans.iter().map(String::as_str));
            KeeperError::NotFound(said.collect::<Vec<_>>().join("; "))
        })
    }

    fn connected(&self) -> BTreeSet<NodeName> {
        self.sessions.keys().cloned().collect()
    }

    /// Sends what is due from the recorded state, and returns the node that is to be granted a lease.
    fn tell(&mut self, clock: &dyn Clock) -> Option<(NodeName, Purpose)> {
        let (number, rollout) = self.saved.newest()?;
        let rollout = rollout.clone();
        self.look_for_hooks(&rollout);
        let (stranger, silent) = (self.holder_of_unknown_lease(), self.silent());
        self.follow_soak(&rollout, clock);
        let mut due = None;
        for decision in decide(&rollout, &self.connected(), self.soak_time_ms(clock)) {
            match decision {
                Decision::Prepare { node } => self.send_prepare(number, &rollout, &node),
                Decision::Tidy { node } => self.send_tidy(number, &rollout, &node),
                Decision::Resume { node, lease, purpose } => {
                    self.send_lease(&rollout, &node, lease, purpose);
                }
                // A store that was put back from an old copy does not know the newest lease, nor that it is an old copy.
                // Until everybody has said what he holds, and its holder has reported its end, nobody else may act.
                Decision::Grant { node, purpose } => {
                    if due.is_none()
                        && silent.is_none()
                        && stranger.as_ref().is_none_or(|holder| *holder == node)
                        && self.may_begin(&rollout, &node, clock)
                        && !self.awaits_marks(&rollout, &node)
                    {
                        due = Some((node, purpose));
                    }
                }
            }
        }
        due.filter(|_| self.failure.is_none())
    }
}

/// `raised`, `aborted`, … as people and logs read it.
fn phase_word(rollout: &Rollout) -> &'static str {
    use crate::core::rollout::Phase;
    match rollout.phase() {
        Phase::Preparing => "preparing",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Halted { .. } => "halted",
        Phase::Aborting => "aborting",
        Phase::BetweenStops => "between stops",
        Phase::Raised => "raised",
        Phase::Aborted => "aborted",
        Phase::RollingBack => "rolling back",
        Phase::RolledBack => "rolled back",
    }
}
