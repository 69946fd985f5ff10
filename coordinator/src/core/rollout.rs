//! A roll-out: a plan that was applied, and how far it is. One total function moves it on.

use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::{OnFailure, Plan, PlannedNode, Purpose};
use serde::{Deserialize, Serialize};

use crate::core::conduct::Conduct;
use crate::core::hooks::{Moment, Progress as HookProgress, Target};
use crate::core::leg::{Leg, Next};
use crate::core::membership::Membership;
use crate::core::reversal::{etcd_has_moved_on, is_replaced};

/// Characters that are kept of why a worker could not be drained.
const REASON: usize = 500;

/// A plan that was applied, and how far it is. Its [`Phase`] follows from this and is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// What was applied.
    pub plan: Plan,
    /// What the operator wants of it now.
    pub intent: Intent,
    /// How far each node is, in the order of `plan.nodes`.
    pub nodes: Vec<NodeState>,
    /// Milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// The operator that applied it.
    pub started_by: String,
    /// Milliseconds since the Unix epoch, once it is final.
    pub ended_at_ms: Option<u64>,
    /// The failure that the plan's policy answered with a rollback: the node and what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    /// Which stop of its path the plan leads to, and which follow.
    #[serde(default)]
    pub leg: Leg,
    /// The pool after which it waits for an operator, as the plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_after: Option<String>,
    /// When nodes may be begun on, and what is asked before.
    #[serde(default, skip_serializing_if = "Conduct::is_default")]
    pub conduct: Conduct,
    /// Workers that could not be drained, and why: they are put back, and the roll-out goes on without them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<NodeName, String>,
    /// Nodes whose certificate was taken back while they held a lease: nothing is begun before an operator has said what
    /// follows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dismissed: BTreeSet<NodeName>,
    /// How far the hooks are, by moment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: BTreeMap<Moment, HookProgress>,
    /// `metadata.name` of the document that wants it, if it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// Go on to the end.
    Run,
    /// Finish what is under lease, then wait.
    Pause,
    /// Finish what is under lease, then end.
    Abort,
}

/// How far one node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum NodeState {
    /// Not prepared.
    Pending,
    /// Everything that could be fetched before a lease is there.
    Prepared,
    /// Preparing failed; nothing was changed.
    Unprepared {
        /// What, why, and what to do.
        failure: String,
    },
    /// Its agent holds the lease.
    Leased {
        /// The lease.
        lease: Lease,
        /// The step it reported last.
        progress: Progress,
        /// What the lease is for.
        purpose: Purpose,
    },
    /// It runs the target.
    Raised {
        /// The lease that raised it.
        lease: Lease,
        /// When its end was recorded, milliseconds since the Unix epoch.
        ended_at_ms: u64,
        /// Where its time went.
        timings: Timings,
    },
    /// Its lease ended before it was raised.
    Failed {
        /// The lease that failed.
        lease: Lease,
        /// When its end was recorded, milliseconds since the Unix epoch.
        ended_at_ms: u64,
        /// Where its time went.
        timings: Timings,
        /// The step that failed.
        progress: Progress,
        /// What, why, and what to do.
        failure: String,
        /// What the lease was for.
        #[serde(default, skip_serializing_if = "is_to_raise")]
        purpose: Purpose,
    },
    /// It failed, an operator said retry, and it waits for its lease. What was changed on it still is. So does a node that
    /// had a lease of which the store knows nothing.
    ToRetry {
        /// The lease that failed.
        lease: Lease,
        /// The step that failed; the last one where nobody knows.
        progress: Progress,
    },
    /// An operator said rollback, and it waits for its lease.
    ToRollBack {
        /// Its last lease.
        lease: Lease,
    },
    /// What was changed on it was put back.
    RolledBack {
        /// The lease that put it back.
        lease: Lease,
        /// When its end was recorded, milliseconds since the Unix epoch.
        ended_at_ms: u64,
        /// Where its time went.
        timings: Timings,
    },
}

/// A lease as the coordinator made it durable before it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Higher than that of every lease before it.
    pub token: FencingToken,
    /// Milliseconds since the Unix epoch.
    pub granted_at_ms: u64,
}

/// Which step of its sequence a node reported last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Position in the sequence, counted from 0.
    pub index: u32,
    /// Which run of it, counted from 1; 0 before the first step began.
    pub attempt: u32,
}

/// Where a lease's time went, in milliseconds, as the agent measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// From the grant's arrival to the end of the last step.
    pub lease_ms: u64,
    /// In child processes.
    pub child_ms: u64,
    /// In waits for Kubernetes.
    pub wait_ms: u64,
    /// In the etcd snapshot.
    pub snapshot_ms: u64,
}

/// Where a roll-out stands as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nodes prepare; no lease has been granted.
    Preparing,
    /// Leases are granted, as many at a time as the budget allows.
    Running,
    /// An operator said pause.
    Paused,
    /// A node failed: an operator says retry or abort. Or the next stop is not as it was planned.
    Halted {
        /// The node and what failed, or what is different.
        reason: String,
    },
    /// An operator said abort and a node is still under lease.
    Aborting,
    /// Every node is raised, and the roll-out to the next stop of the path has not begun.
    BetweenStops,
    /// Final: every node runs the target.
    Raised,
    /// Final: ended by an operator before every node was raised.
    Aborted,
    /// Nodes are put back one at a time, the last one first.
    RollingBack,
    /// Final: every node that was changed was put back.
    RolledBack,
}

/// Something that happened to a roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node prepared, or could not.
    PrepareReported {
        /// Which.
        node: NodeName,
        /// What went wrong, if anything.
        failure: Option<String>,
    },
    /// A lease is to be granted. It becomes durable with this event, before it is sent.
    LeaseGranted {
        /// To which node.
        node: NodeName,
        /// The lease.
        lease: Lease,
        /// What it is for.
        purpose: Purpose,
        /// The time that soaks go by when it was granted, milliseconds since the Unix epoch: not always that of the day.
        soak_time_ms: u64,
    },
    /// A step began, or ended.
    StepReported {
        /// Whose.
        node: NodeName,
        /// Under which lease.
        token: FencingToken,
        /// Which step, and which run of it.
        progress: Progress,
    },
    /// A lease ended.
    LeaseEnded {
        /// Whose.
        node: NodeName,
        /// Which.
        token: FencingToken,
        /// What went wrong, if anything.
        failure: Option<String>,
        /// Where its time went.
        timings: Timings,
        /// When it was recorded, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A worker's drain reached its time limit because evictions were refused, and the plan says to pass over such a node.
    DrainBlocked {
        /// Whose lease ended with that.
        node: NodeName,
        /// Which.
        token: FencingToken,
        /// What blocks.
        failure: String,
        /// Where its time went.
        timings: Timings,
        /// When it was recorded, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// An agent has seen a lease that the store knows nothing of, because it was put back from an older copy.
    LeaseFound {
        /// Whose.
        node: NodeName,
        /// The lease, granted nobody knows when: as of now.
        lease: Lease,
    },
    /// The certificate of a node that holds a lease was taken back: it renews and reports nothing any more.
    HolderDismissed {
        /// Which.
        node: NodeName,
        /// The lease that it held.
        token: FencingToken,
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// An operator said pause.
    Paused,
    /// An operator said resume.
    Resumed,
    /// An operator said abort.
    Aborted {
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// An operator said to lease a failed node again.
    Retried {
        /// Which.
        node: NodeName,
    },
    /// An operator said to put back what was changed.
    RollbackOrdered {
        /// On which node; `None`: on every one.
        node: Option<NodeName>,
    },
    /// The roll-out to the next stop begins. Becomes durable together with it.
    NextStopBegun {
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// It is conducted otherwise from now on.
    Edited {
        /// How.
        conduct: Conduct,
    },
    /// A hook is about to be called. Becomes durable with this event, before it is.
    HookBegan {
        /// When it is due, and what about.
        moment: Moment,
        /// What is called.
        target: Target,
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A hook has ended.
    HookEnded {
        /// When it was due, and what about.
        moment: Moment,
        /// What was called.
        target: Target,
        /// What went wrong, if anything.
        failure: Option<String>,
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// The cluster is not as the next stop was planned for, and an operator is asked.
    NextStopRefused {
        /// What is different, and what to do.
        why: String,
    },
}

/// Why an event does not fit the roll-out as it is. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The plan has no such node.
    #[error("node {node} is not in plan {plan}: `liftlock status` shows those that are")]
    UnknownNode {
        /// What was named.
        node: NodeName,
        /// The plan.
        plan: String,
    },
    /// A token of another lease.
    #[error("lease {token} of node {node} is not its present lease ({present}): it may start nothing more")]
    StaleToken {
        /// Whose.
        node: NodeName,
        /// What was named.
        token: FencingToken,
        /// `lease 7`, or `it has none`.
        present: String,
    },
    /// A second lease beyond the budget, or a lease for a node that must not have one now.
    #[error("node {node} cannot be leased now: {why}")]
    NotLeasable {
        /// Which.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// Only what failed can be retried.
    #[error(
        "node {node} is {state}, and only a node that failed or was rolled back is retried: `liftlock status` shows which are"
    )]
    NotFailed {
        /// Which.
        node: NodeName,
        /// What it is.
        state: &'static str,
    },
    /// What was never changed, or what others came to stand upon, is not put back.
    #[error("{what} cannot be rolled back: {why}")]
    NotToRollBack {
        /// `node w1`, or `the cluster`.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// Nothing changes a final roll-out.
    #[error("the roll-out of plan {plan} has ended: start another with `liftlock apply`")]
    Final {
        /// The plan.
        plan: String,
    },
    /// Pausing what is being aborted, resuming what is not paused, and the like.
    #[error("cannot {what} this roll-out: {why}")]
    NotNow {
        /// `pause`, `resume`, `abort`, `go on from`
        what: &'static str,
        /// Why.
        why: &'static str,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_to_raise(purpose: &Purpose) -> bool {
    *purpose == Purpose::Raise
}

impl NodeState {
    /// Its name in messages and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Prepared => "prepared",
            Self::Leased { .. } => "leased",
            Self::Raised { .. } => "raised",
            Self::Unprepared { .. } | Self::Failed { .. } => "failed",
            Self::ToRetry { .. } => "to-retry",
            Self::ToRollBack { .. } => "to-roll-back",
            Self::RolledBack { .. } => "rolled-back",
        }
    }

    /// The lease it holds now.
    pub fn lease(&self) -> Option<Lease> {
        match self {
            Self::Leased { lease, .. } => Some(*lease),
            _ => None,
        }
    }

    /// Whether it ever had a lease.
    pub(super) fn is_begun(&self) -> bool {
        !matches!(self, Self::Pending | Self::Prepared | Self::Unprepared { .. })
    }

    /// Whether a lease may have changed something on it that is still so.
    fn may_be_changed(&self) -> bool {
        matches!(
            self,
            Self::Leased { .. }
                | Self::Raised { .. }
                | Self::Failed { .. }
                | Self::ToRetry { .. }
                | Self::ToRollBack { .. }
        )
    }

    /// The position of the last step that was begun on it, as far as that is known; all of them once it is raised.
    fn reached(&self, planned: &PlannedNode) -> Option<usize> {
        match self {
            Self::Raised { .. } => planned.steps.len().checked_sub(1),
            Self::Leased { progress, .. }
            | Self::Failed { progress, .. }
            | Self::ToRetry { progress, .. }
                if progress.attempt > 0 =>
            {
                usize::try_from(progress.index).ok()
            }
            _ => None,
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Unprepared { failure } | Self::Failed { failure, .. } => Some(failure),
            _ => None,
        }
    }
}

impl Rollout {
    /// A roll-out of a plan that begins now.
    pub fn start(plan: Plan, started_by: String, at_ms: u64) -> Self {
        let nodes = plan.nodes.iter().map(|_| NodeState::Pending).collect();
        Self {
            plan,
            intent: Intent::Run,
            nodes,
            started_at_ms: at_ms,
            started_by,
            ended_at_ms: None,
            answered: None,
            leg: Leg::default(),
            paused_after: None,
            conduct: Conduct::default(),
            quarantined: BTreeMap::new(),
            dismissed: BTreeSet::new(),
            hooks: BTreeMap::new(),
            document: None,
        }
    }

    /// The same on a leg of a path.
    #[must_use]
    pub fn on(self, leg: Leg) -> Self {
        Self { leg, ..self }
    }

    /// The same, conducted like this.
    #[must_use]
    pub fn conducted(self, conduct: Conduct) -> Self {
        Self { conduct, ..self }
    }

    /// The same, wanted by the document of this name.
    #[must_use]
    pub fn wanted_by(self, document: Option<String>) -> Self {
        Self { document, ..self }
    }

    /// Each node of the plan with its state, in the order of leases.
    pub fn nodes(&self) -> impl Iterator<Item = (&PlannedNode, &NodeState)> {
        self.plan.nodes.iter().zip(&self.nodes)
    }

    /// The state of one node.
    pub fn node(&self, name: &NodeName) -> Option<(&PlannedNode, &NodeState)> {
        self.nodes().find(|(planned, _)| planned.name == *name)
    }

    /// The nodes under lease.
    pub fn leased(&self) -> impl Iterator<Item = (&PlannedNode, Lease)> {
        self.nodes().filter_map(|(planned, state)| Some((planned, state.lease()?)))
    }

    /// Where it stands as a whole.
    pub fn phase(&self) -> Phase {
        let failed = || {
            let (planned, failure) = self.beyond_the_failure_budget()?;
            Some(Phase::Halted { reason: format!("{}: {failure}", planned.name) })
        };
        let all = |wanted: fn(&NodeState) -> bool| self.nodes.iter().all(wanted);
        if self.is_raised() {
            return self.phase_at_the_stop();
        }
        // Who is quarantined is put back on the way, and says nothing of the others.
        let any = |wanted: fn(&NodeState) -> bool| {
            self.nodes()
                .any(|(planned, state)| !self.quarantined.contains_key(&planned.name) && wanted(state))
        };
        let rolled_back = any(|state| matches!(state, NodeState::RolledBack { .. }));
        let owes_an_end = self.owes_an_end();
        if rolled_back && !owes_an_end && !self.nodes.iter().any(NodeState::may_be_changed) {
            return Phase::RolledBack;
        }
        let goes_back = |state: &NodeState| {
            matches!(
                state,
                NodeState::ToRollBack { .. } | NodeState::Leased { purpose: Purpose::RollBack, .. }
            )
        };
        if self.intent != Intent::Abort && (owes_an_end || any(goes_back)) {
            return failed().unwrap_or(Phase::RollingBack);
        }
        let at_the_end = || self.at_the_end_of_the_failure_budget().map(|reason| Phase::Halted { reason });
        let halted = || failed().or_else(|| self.stands_apart()).or_else(at_the_end);
        match (self.intent, self.leased().next()) {
            (Intent::Abort, Some(_)) => Phase::Aborting,
            (Intent::Abort, None) => Phase::Aborted,
            (Intent::Pause, _) => halted().unwrap_or(Phase::Paused),
            (Intent::Run, _) => halted().unwrap_or_else(|| {
                let untouched = all(|state| matches!(state, NodeState::Pending | NodeState::Prepared));
                if untouched && self.nodes.contains(&NodeState::Pending) {
                    Phase::Preparing
                } else {
                    Phase::Running
                }
            }),
        }
    }

    /// Whether every node runs what the plan leads to.
    pub fn is_raised(&self) -> bool {
        self.nodes.iter().all(|state| matches!(state, NodeState::Raised { .. }))
    }

    /// Where it stands once every node is raised.
    fn phase_at_the_stop(&self) -> Phase {
        if self.leg.ahead().is_none() {
            return Phase::Raised;
        }
        match (self.intent, &self.leg.next) {
            (Intent::Abort, _) => Phase::Aborted,
            (_, Next::Halted { reason }) => Phase::Halted { reason: reason.clone() },
            (Intent::Pause, _) => Phase::Paused,
            (Intent::Run, _) => Phase::BetweenStops,
        }
    }

    /// Halted because a node was put back and others were not: by an operator's or the policy's word, or, once nothing else is
    /// left to do, because it could not be drained.
    fn stands_apart(&self) -> Option<Phase> {
        let is_back = |state: &NodeState| matches!(state, NodeState::RolledBack { .. });
        let by_a_word = |name: &NodeName| !self.quarantined.contains_key(name);
        let back = self.nodes().find(|(node, state)| is_back(state) && by_a_word(&node.name));
        let Some((back, _)) = back else { return self.raised_but_for_some() };
        let because = self.answered.as_ref().map(|failure| format!(" ({failure})")).unwrap_or_default();
        let reason =
            format!("{} was rolled back{because}, and others run {}", back.name, self.plan.to_version);
        Some(Phase::Halted { reason })
    }

    /// Halted because all that is left is what could not be drained.
    fn raised_but_for_some(&self) -> Option<Phase> {
        let is_done = |(planned, state): (&PlannedNode, &NodeState)| match state {
            NodeState::Raised { .. } => true,
            NodeState::RolledBack { .. } => self.quarantined.contains_key(&planned.name),
            _ => false,
        };
        if self.quarantined.is_empty() || !self.nodes().all(is_done) {
            return None;
        }
        self.passed_over()
            .map(|passed_over| Phase::Halted { reason: format!("raised, but for {passed_over}") })
    }

    /// What could not be drained, if anything, each with why.
    pub(super) fn passed_over(&self) -> Option<String> {
        let each: Vec<String> =
            self.quarantined.iter().map(|(node, why)| format!("{node} ({why})")).collect();
        (!each.is_empty()).then(|| format!("what could not be drained: {}", each.join("; ")))
    }

    /// Whether nothing can change it any more.
    pub fn is_final(&self) -> bool {
        matches!(self.phase(), Phase::Raised | Phase::Aborted | Phase::RolledBack)
    }

    /// The roll-out after the event. Total: every event fits every state or is refused with the reason. An event
    /// that was recorded before (a report sent again after a lost connection) changes nothing.
    pub fn after(&self, event: &Event) -> Result<Self, TransitionError> {
        let mut next = self.clone();
        match event {
            Event::PrepareReported { node, failure } => {
                let state = next.state_mut(node)?;
                if matches!(state, NodeState::Pending | NodeState::Unprepared { .. }) {
                    *state = match failure {
                        None => NodeState::Prepared,
                        Some(failure) => NodeState::Unprepared { failure: failure.clone() },
                    };
                }
            }
            Event::LeaseGranted { node, lease, purpose, soak_time_ms } => {
                let refused = |why| TransitionError::NotLeasable { node: node.clone(), why };
                let due = self.due(*soak_time_ms).map_err(|wait| refused(wait.to_string()))?;
                if !due.iter().any(|(due, due_for)| due.name == *node && due_for == purpose) {
                    let due: Vec<&str> = due.iter().map(|(due, _)| due.name.as_str()).collect();
                    return Err(refused(format!("node {} comes first", due.join(" and "))));
                }
                if let Some(call) = self.hook_in_the_way(node) {
                    return Err(refused(format!("{call} has not ended well")));
                }
                let (lease, purpose) = (*lease, *purpose);
                *next.state_mut(node)? = NodeState::Leased { lease, progress: Progress::default(), purpose };
            }
            Event::StepReported { node, token, progress } => {
                let state = next.state_mut(node)?;
                match state {
                    NodeState::Leased { lease, progress: reported, .. } if lease.token == *token => {
                        *reported = *progress;
                    }
                    _ => return Err(stale(node, *token, state)),
                }
            }
            Event::LeaseEnded { node, token, failure, timings, at_ms } => {
                next.end_lease(node, *token, failure.as_deref(), *timings, *at_ms)?;
            }
            Event::DrainBlocked { node, token, failure, timings, at_ms } => {
                next.quarantine(node, *token, failure, *timings, *at_ms)?;
            }
            // It may have changed anything: the node is leased again, which proves what is done, and a rollback does not
            // pass it over.
            Event::LeaseFound { node, lease } => {
                let (planned, state) = self.node(node).ok_or_else(|| self.unknown(node))?;
                if !state.may_be_changed() && !self.is_final() {
                    let last = planned.steps.len().saturating_sub(1);
                    let progress = Progress { index: u32::try_from(last).unwrap_or(u32::MAX), attempt: 1 };
                    *next.state_mut(node)? = NodeState::ToRetry { lease: *lease, progress };
                }
            }
            Event::HolderDismissed { node, token, at_ms } => next.dismiss(node, *token, *at_ms)?,
            Event::Paused => {
                next.change_intent("pause", Intent::Pause)?;
            }
            Event::Resumed => {
                // Where the next stop was refused, it is looked at once more: what spoke against it may be over.
                let refused = matches!(self.leg.next, Next::Halted { .. });
                if refused {
                    next.leg.next = Next::Awaited;
                }
                if self.intent == Intent::Run && !refused && self.dismissed.is_empty() {
                    return Err(TransitionError::NotNow {
                        what: "resume",
                        why: "it is not paused; `liftlock status` shows what it waits for",
                    });
                }
                next.change_intent("resume", Intent::Run)?;
                next.dismissed.clear();
            }
            Event::Aborted { at_ms } => {
                next.change_intent("abort", Intent::Abort)?;
                next.note_end(*at_ms);
            }
            Event::Retried { node } => {
                next.refuse_final()?;
                next.answered = None;
                next.quarantined.remove(node);
                next.dismissed.remove(node);
                if matches!(next.state_mut(node)?, NodeState::RolledBack { .. }) {
                    next.forget_hooks_of(node);
                }
                // Where machines join and leave, what goes back goes back as a whole.
                let changes_members = Membership::of(&next.plan).is_some();
                let state = next.state_mut(node)?;
                *state = match state {
                    NodeState::Unprepared { .. } => NodeState::Pending,
                    // What was fetched for its first lease is there. To fetch it again would ask an API server that
                    // may be away for the very reason that the node failed.
                    NodeState::Failed { lease, purpose: Purpose::RollBack, .. } if changes_members => {
                        NodeState::ToRollBack { lease: *lease }
                    }
                    NodeState::Failed { lease, progress, .. } => {
                        NodeState::ToRetry { lease: *lease, progress: *progress }
                    }
                    NodeState::RolledBack { .. } => NodeState::Prepared,
                    _ => {
                        return Err(TransitionError::NotFailed { node: node.clone(), state: state.name() });
                    }
                };
            }
            Event::RollbackOrdered { node } => {
                next.answered = None;
                next.order_rollback(node.as_ref())?;
                next.quarantined.retain(|name, _| node.as_ref().is_some_and(|node| node != name));
                next.dismissed.retain(|name| node.as_ref().is_some_and(|node| node != name));
            }
            Event::NextStopBegun { at_ms } => {
                if self.hook_after().is_some() {
                    let why = "a hook after this one has not ended well";
                    return Err(TransitionError::NotNow { what: "go on from", why });
                }
                next.leave_the_stop(Next::Begun)?;
                next.note_end(*at_ms);
            }
            Event::Edited { conduct } => {
                // The hooks after it are still to be called.
                if self.hook_after().is_none() {
                    next.refuse_final()?;
                }
                next.conduct = conduct.clone();
                next.settle_what_was_passed(self);
            }
            Event::HookBegan { moment, target, at_ms } => next.begin_hook(moment, target, *at_ms)?,
            Event::HookEnded { moment, target, failure, at_ms } => {
                next.end_hook(moment, target, failure.as_deref(), *at_ms);
            }
            Event::NextStopRefused { why } => next.leave_the_stop(Next::Halted { reason: why.clone() })?,
        }
        Ok(next)
    }

    fn leave_the_stop(&mut self, next: Next) -> Result<(), TransitionError> {
        self.refuse_final()?;
        if self.phase() != Phase::BetweenStops {
            return Err(TransitionError::NotNow {
                what: "go on from",
                why: "it does not wait for the next stop",
            });
        }
        self.leg.next = next;
        Ok(())
    }

    /// A control plane is put back only while no node after it has been raised: what comes later in the order relies on it (an
    /// older control plane under newer kubelets, kubeadm-config of another version than the others). On a worker nobody does.
    fn order_rollback(&mut self, node: Option<&NodeName>) -> Result<(), TransitionError> {
        self.refuse_final()?;
        let what = node.map_or_else(|| "the cluster".to_owned(), |node| format!("node {node}"));
        let refused = |why: String| TransitionError::NotToRollBack { what: what.clone(), why };
        let changes_members = Membership::of(&self.plan).is_some();
        if self.is_raised() && !changes_members {
            return Err(refused(format!(
                "every node is raised to {}, and what was raised at a stop of a path stays: `liftlock abort` ends the path \
                 here",
                self.plan.to_version
            )));
        }
        if let Some((holder, lease)) = self.leased().next() {
            return Err(refused(format!(
                "{} holds lease {}: `liftlock pause`, and wait for its end",
                holder.name, lease.token
            )));
        }
        if changes_members {
            return self.order_way_back(node);
        }
        let (from, count) = match node {
            None => (0, self.nodes.len()),
            Some(node) => {
                self.state_mut(node)?;
                let at = self.plan.nodes.iter().position(|planned| planned.name == *node).unwrap_or_default();
                let relied_on =
                    self.plan.nodes.get(at).is_some_and(|planned| planned.role.is_control_plane());
                let mut later = self.nodes().skip(at + 1).filter(|_| relied_on);
                if let Some((later, _)) = later.find(|(_, state)| state.may_be_changed()) {
                    return Err(refused(format!(
                        "{} comes after it and was changed: roll that back first, or all with --cluster",
                        later.name
                    )));
                }
                (at, 1)
            }
        };
        for (planned, state) in self.nodes().skip(from).take(count) {
            if state.reached(planned).is_some_and(|reached| etcd_has_moved_on(&self.plan, planned, reached)) {
                return Err(refused(format!(
                    "{} has gone on to etcd of another minor version, whose data the earlier one refuses: roll forward \
                     with `liftlock retry`, or restore etcd's snapshot and lose what was written since",
                    planned.name
                )));
            }
        }
        for (planned, state) in self.nodes().skip(from).take(count) {
            if state.reached(planned).is_some_and(|reached| is_replaced(planned, reached)) {
                return Err(refused(format!(
                    "the system of {} was replaced as a whole, and nobody has the earlier one: roll forward with \
                     `liftlock retry`, or put the earlier system back by hand",
                    planned.name
                )));
            }
        }
        let mut any = false;
        for state in self.nodes.iter_mut().skip(from).take(count) {
            if let NodeState::Raised { lease, .. }
            | NodeState::Failed { lease, .. }
            | NodeState::ToRetry { lease, .. } = state
            {
                *state = NodeState::ToRollBack { lease: *lease };
                any = true;
            }
        }
        if any {
            Ok(())
        } else {
            Err(refused("nothing was changed there, so there is nothing to put back".to_owned()))
        }
    }

    pub(super) fn end_lease(
        &mut self,
        node: &NodeName,
        token: FencingToken,
        failure: Option<&str>,
        timings: Timings,
        at_ms: u64,
    ) -> Result<(), TransitionError> {
        let state = self.state_mut(node)?;
        let raising = matches!(state, NodeState::Leased { purpose: Purpose::Raise, .. });
        *state = match state {
            NodeState::Leased { lease, progress, purpose } if lease.token == token => match failure {
                None if *purpose == Purpose::RollBack => {
                    NodeState::RolledBack { lease: *lease, ended_at_ms: at_ms, timings }
                }
                None => NodeState::Raised { lease: *lease, ended_at_ms: at_ms, timings },
                Some(failure) => NodeState::Failed {
                    lease: *lease,
                    ended_at_ms: at_ms,
                    timings,
                    progress: *progress,
                    failure: failure.to_owned(),
                    purpose: *purpose,
                },
            },
            NodeState::Raised { lease, .. }
            | NodeState::Failed { lease, .. }
            | NodeState::ToRetry { lease, .. }
            | NodeState::ToRollBack { lease }
            | NodeState::RolledBack { lease, .. }
                if lease.token == token =>
            {
                return Ok(());
            }
            _ => return Err(stale(node, token, state)),
        };
        if raising {
            self.answer();
        }
        let done_with = raising || self.quarantined.contains_key(node);
        if done_with && self.intent == Intent::Run && self.phase() != Phase::RollingBack {
            self.paused_after = self.to_pause_after(node);
            self.intent = if self.paused_after.is_some() { Intent::Pause } else { Intent::Run };
        }
        self.note_end(at_ms);
        Ok(())
    }

    /// Ends the lease of a worker that could not be drained, and has it put back. On a worker nobody relies. Where an operator
    /// has said abort, it has failed like any other.
    fn quarantine(
        &mut self,
        node: &NodeName,
        token: FencingToken,
        failure: &str,
        timings: Timings,
        at_ms: u64,
    ) -> Result<(), TransitionError> {
        let worker = self.node(node).is_some_and(|(planned, _)| !planned.role.is_control_plane());
        let aborts = self.intent == Intent::Abort;
        match self.state_mut(node)? {
            state @ NodeState::Leased { purpose: Purpose::Raise, .. }
                if worker && !aborts && state.lease().is_some_and(|lease| lease.token == token) =>
            {
                if let Some(lease) = state.lease() {
                    *state = NodeState::ToRollBack { lease };
                }
                self.quarantined.insert(node.clone(), failure.chars().take(REASON).collect());
                Ok(())
            }
            _ => self.end_lease(node, token, Some(failure), timings, at_ms),
        }
    }

    /// What the policy says of nodes that could not be raised, once nothing is under lease. A rollback that fails is
    /// nobody's to answer but an operator's, and so is all that follows where a holder was dismissed.
    fn answer(&mut self) {
        if self.intent == Intent::Abort || self.leased().next().is_some() || !self.dismissed.is_empty() {
            return;
        }
        let failed: Vec<(NodeName, String)> = self
            .nodes()
            .filter_map(|(planned, state)| match state {
                NodeState::Failed { failure, purpose: Purpose::Raise, .. } => {
                    Some((planned.name.clone(), failure.clone()))
                }
                _ => None,
            })
            .collect();
        // Where there is no way back, an operator decides.
        let answered: Vec<String> = failed
            .into_iter()
            .filter(|(node, _)| match self.plan.policy.on_failure {
                OnFailure::Halt => false,
                OnFailure::RollBackNode => self.order_rollback(Some(node)).is_ok(),
                OnFailure::RollBackCluster => self.order_rollback(None).is_ok(),
            })
            .map(|(node, failure)| format!("{node}: {failure}"))
            .collect();
        if !answered.is_empty() {
            self.answered = Some(answered.join("; "));
        }
    }

    fn change_intent(&mut self, what: &'static str, intent: Intent) -> Result<(), TransitionError> {
        self.refuse_final()?;
        if self.intent == Intent::Abort {
            return Err(TransitionError::NotNow {
                what,
                why: "it is being aborted, and ends once nothing is under lease",
            });
        }
        self.intent = intent;
        self.paused_after = None;
        Ok(())
    }

    fn refuse_final(&self) -> Result<(), TransitionError> {
        if self.is_final() { Err(TransitionError::Final { plan: self.plan.id.to_string() }) } else { Ok(()) }
    }

    fn note_end(&mut self, at_ms: u64) {
        if self.is_final() {
            self.ended_at_ms = Some(at_ms);
        }
    }

    fn state_mut(&mut self, name: &NodeName) -> Result<&mut NodeState, TransitionError> {
        let position = self.plan.nodes.iter().position(|planned| planned.name == *name);
        let unknown = self.unknown(name);
        position.and_then(|index| self.nodes.get_mut(index)).ok_or(unknown)
    }

    fn unknown(&self, name: &NodeName) -> TransitionError {
        TransitionError::UnknownNode { node: name.clone(), plan: self.plan.id.to_string() }
    }
}

fn stale(node: &NodeName, token: FencingToken, state: &NodeState) -> TransitionError {
    let present =
        state.lease().map_or_else(|| "it has none".to_owned(), |lease| format!("lease {}", lease.token));
    TransitionError::StaleToken { node: node.clone(), token, present }
}

#[cfg(test)]
mod tests;
