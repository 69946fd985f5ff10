//! Agents' streams: what they say becomes events, what is decided is sent to them.

use std::collections::BTreeSet;

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::{PlannedNode, Purpose};
use liftlock_proto::step::{STEP_LIST_VERSION, Step};
use liftlock_proto::strategy::Part;
use liftlock_proto::v1;
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::coordinator_message::Message as Told;
use tokio::sync::mpsc;
use tonic::Status;

use super::questions::Unanswered;
use super::{Keeper, KeeperError, State};
use crate::core::blocked::decided_for;
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::membership::{Membership, ended_by, under_lease};
use crate::core::rollout::{Event, Lease, NodeState, Progress, Rollout, Timings};
use crate::identity::subject::Subject;
use crate::store::records::{Change, Enrolled};

/// How long a lease lasts without renewal, in milliseconds, unless the coordinator is told otherwise.
pub const LEASE_TTL_MS: u32 = 30_000;

/// A token this far above all that are known is no token but a fault of whoever reports it.
const LARGEST_LEAP: u64 = 1 << 32;

/// Bytes of an agent's text that are kept.
const TEXT_LIMIT: usize = 2000;

/// Names one stream of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(u64);

/// Where an agent's messages go, and at last why its stream ends. An agent that lets it run full is not listening,
/// and is cut off.
pub type Outbox = mpsc::Sender<Result<Told, Status>>;

/// One agent's open stream.
pub(super) struct Session {
    id: SessionId,
    outbox: Outbox,
    told: BTreeSet<Notice>,
    unanswered: Unanswered,
}

/// What a session is told only once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Notice {
    Prepare { rollout: u64 },
    Lease { token: FencingToken },
    Tidy { rollout: u64 },
}

impl Session {
    /// One that is not listening cannot be told why.
    fn end(self, why: Status) {
        let _ = self.outbox.try_send(Err(why));
    }
}

impl Keeper {
    /// Takes up an agent's stream after its Hello. An earlier stream of the same node ends.
    pub fn open_session(
        &self,
        node: &NodeName,
        hello: v1::Hello,
        outbox: Outbox,
    ) -> Result<SessionId, KeeperError> {
        if hello.step_list_version != STEP_LIST_VERSION {
            return Err(KeeperError::NotNow(format!(
                "the agent on {node} ({}) knows step list {}, this coordinator ({}) knows {STEP_LIST_VERSION}: install \
                 the same version of Liftlock on both",
                clipped(&hello.agent_version),
                hello.step_list_version,
                env!("CARGO_PKG_VERSION"),
            )));
        }
        let mut state = self.lock();
        if state.stopping {
            return Err(KeeperError::NotNow("the coordinator stops: dial again".to_owned()));
        }
        let held = hello.held.as_ref().map_or(0, |held| held.fencing_token);
        unless_unrecorded(self.raise_fence(&mut state, node, FencingToken(hello.highest_token.max(held))))?;

        state.last_session += 1;
        let id = SessionId(state.last_session);
        let session = Session { id, outbox, told: BTreeSet::new(), unanswered: Unanswered::new() };
        if let Some(earlier) = state.sessions.insert(node.clone(), session) {
            earlier.end(Status::aborted(format!("another session of {node} was opened")));
        }
        tracing::info!(%node, agent = %clipped(&hello.agent_version), held, "an agent connected");
        state.seen(node, self.clock.unix_ms());
        let coordinator_version = env!("CARGO_PKG_VERSION").to_owned();
        state.send(node, Told::Welcome(v1::Welcome { coordinator_version }));
        state.ask(&[node.clone()].into(), false, 0);
        state.unknown_leases.remove(node);
        state.heard.insert(node.clone());
        state.marks_of_a_new_session(node);
        if let Some(held) = hello.held {
            self.take_up_held(&mut state, node, held);
        }
        self.advance(&mut state);
        self.announce();
        Ok(id)
    }

    /// Takes what an agent says. Answers go to its outbox. Returns false when the session is no longer this node's.
    pub fn hear(&self, node: &NodeName, session: SessionId, said: Said) -> Result<bool, KeeperError> {
        let mut state = self.lock();
        if state.sessions.get(node).is_none_or(|present| present.id != session) {
            return Ok(false);
        }
        state.seen(node, self.clock.unix_ms());
        let heard = match said {
            Said::Hello(_) => {
                Err(KeeperError::Invalid(format!("the agent on {node} said Hello twice in one session")))
            }
            Said::Facts(facts) => {
                state.report_facts(node, *facts, self.clock.unix_ms());
                self.announce();
                Ok(())
            }
            Said::PrepareReport(report) => self.prepare_reported(&mut state, node, &report),
            Said::RenewLease(renewal) => {
                state.renew(node, &renewal);
                Ok(())
            }
            Said::StepReport(report) => self.step_reported(&mut state, node, &report),
            Said::OutputLine(line) => {
                state.last_output.insert(node.clone(), clipped(&line.line));
                self.announce();
                Ok(())
            }
            Said::LeaseEnd(end) => self.lease_ended(&mut state, node, &end),
            Said::Remark(remark) => self.remarked(&mut state, node, &remark),
            Said::RenewCertificateCsrDer(request) => {
                let certificate = self.renew_certificate(&state, node, &request)?;
                state.send(node, Told::CertificatePem(certificate));
                Ok(())
            }
            Said::Answer(answer) => state.answered(node, answer),
            Said::AskToJoin(asked) => {
                state.ask_to_join(node, &asked, self.clock.unix_ms());
                Ok(())
            }
            Said::NodesMarked(answer) => {
                state.marked(node, &answer);
                self.announce();
                Ok(())
            }
        };
        unless_unrecorded(heard)?;
        self.advance(&mut state);
        Ok(true)
    }

    /// The stream has ended. A holder that is silent keeps its lease.
    pub fn close_session(&self, node: &NodeName, session: SessionId) {
        let mut state = self.lock();
        if state.sessions.get(node).is_some_and(|present| present.id == session) {
            state.sessions.remove(node);
            tracing::info!(%node, "an agent disconnected");
            self.advance(&mut state);
            self.announce();
        }
    }

    /// Ends every stream and opens no other: the coordinator stops.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for (_, session) in std::mem::take(&mut state.sessions) {
            session.end(Status::unavailable("the coordinator stops"));
        }
        self.announce();
    }

    /// Whether [`Keeper::stop`] was called.
    pub fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// No token that any agent has ever seen is granted again, even by a coordinator whose store was put back from
    /// an old copy; and what was done under a lease that such a store does not know is not taken for undone.
    fn raise_fence(
        &self,
        state: &mut State,
        node: &NodeName,
        reported: FencingToken,
    ) -> Result<(), KeeperError> {
        let known = state.saved.fence;
        if reported == FencingToken(0) || state.knows_of(node, reported) {
            return Ok(());
        }
        if reported.0.saturating_sub(known.0) > LARGEST_LEAP {
            return Err(KeeperError::Invalid(format!(
                "the agent on {node} reports fencing token {reported}, and {known} is the highest that was ever granted: \
                 its state directory is damaged; enrol it anew with an empty one"
            )));
        }
        let text = format!(
            "{node} has seen lease {reported}, of which the store knows nothing: the store is an older copy; no number up \
             to {} will be used again",
            reported.max(known)
        );
        tracing::warn!("{text}");
        let record = HistoryRecord {
            node: Some(node.clone()),
            token: Some(reported),
            ..self.record(HistoryKind::FenceRaised, text)
        };
        let lease = Lease { token: reported, granted_at_ms: self.clock.unix_ms() };
        let found = Event::LeaseFound { node: node.clone(), lease };
        let after = |(number, rollout): (u64, &Rollout)| {
            let after = rollout.after(&found).ok().filter(|after| after != rollout)?;
            Some((number, after))
        };
        let rollouts = state.saved.newest().and_then(after).into_iter().collect();
        let fence = Some(reported.max(known));
        Ok(self.commit(state, Change { fence, rollouts, history: vec![record], ..Change::default() })?)
    }

    /// The agent has an open journal. If its lease is the present one, [`Keeper::advance`] sends it again.
    fn take_up_held(&self, state: &mut State, node: &NodeName, held: v1::HeldLease) {
        let token = FencingToken(held.fencing_token);
        let result = match (held.ended, state.lease_of(node)) {
            (Some(end), _) => self.lease_ended(state, node, &end),
            (None, Some(lease)) if lease.token == token => {
                let text = format!("{node} is back and holds lease {token}");
                let record = state.about(node, token, self.record(HistoryKind::LeaseResumed, text));
                let change = Change { history: vec![record], ..Change::default() };
                self.commit(state, change).map_err(KeeperError::from)
            }
            (None, present) => {
                if !state.granted(token) {
                    state.unknown_leases.insert(node.clone(), token);
                }
                state.refuse(node, token, present);
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::error!(%node, %error, "what the agent holds could not be taken up");
        }
    }

    fn prepare_reported(
        &self,
        state: &mut State,
        node: &NodeName,
        report: &v1::PrepareReport,
    ) -> Result<(), KeeperError> {
        if !state.goes_on(&report.plan_id) {
            tracing::info!(%node, plan = %clipped(&report.plan_id), "a report about a plan that is over was ignored");
            return Ok(());
        }
        let failure = (!report.failure.is_empty()).then(|| clipped(&report.failure));
        let event = Event::PrepareReported { node: node.clone(), failure: failure.clone() };
        let (_, rollout) = state.present()?;
        if rollout.after(&event)? == *rollout {
            return Ok(());
        }
        let record = match failure {
            None => self.record(HistoryKind::NodePrepared, format!("{node} has fetched what it needs")),
            Some(failure) => {
                self.record(HistoryKind::NodeUnprepared, format!("{node} could not be prepared: {failure}"))
            }
        };
        let record =
            HistoryRecord { plan: Some(rollout.plan.id.clone()), node: Some(node.clone()), ..record };
        self.happen(state, &event, vec![record])
    }

    fn step_reported(
        &self,
        state: &mut State,
        node: &NodeName,
        report: &v1::StepReport,
    ) -> Result<(), KeeperError> {
        let token = FencingToken(report.fencing_token);
        let (step, failure) = (clipped(&report.step), clipped(&report.failure));
        let again = if report.attempt > 1 { format!(", attempt {}", report.attempt) } else { String::new() };
        let (kind, text) = match report.state() {
            v1::StepState::Started => (HistoryKind::StepStarted, format!("{node} began {step}{again}")),
            v1::StepState::Adopted => (HistoryKind::StepAdopted, format!("{node} found {step} done")),
            v1::StepState::Succeeded => (HistoryKind::StepSucceeded, format!("{node} did {step}")),
            v1::StepState::Failed => (HistoryKind::StepFailed, format!("{node} failed at {step}: {failure}")),
            v1::StepState::Undone => (HistoryKind::StepUndone, format!("{node} undid {step}")),
            v1::StepState::Unspecified => {
                return Err(KeeperError::Invalid(format!(
                    "{node} reports no state of {step} that this version knows"
                )));
            }
        };
        let progress = Progress { index: report.index, attempt: report.attempt };
        let record = state.about(node, token, self.record(kind, text));
        if state.lease_of(node).is_none_or(|lease| lease.token != token) {
            let present = state.lease_of(node);
            state.refuse(node, token, present);
            return Ok(());
        }
        if state
            .last_step_record(node, token)
            .is_some_and(|last| (last.kind, &last.text) == (kind, &record.text))
        {
            return Ok(());
        }
        self.happen(state, &Event::StepReported { node: node.clone(), token, progress }, vec![record])
    }

    /// Under an earlier lease, nobody counts on it any more.
    fn remarked(&self, state: &mut State, node: &NodeName, remark: &v1::Remark) -> Result<(), KeeperError> {
        let token = FencingToken(remark.fencing_token);
        if state.lease_of(node).is_none_or(|lease| lease.token != token) {
            return Ok(());
        }
        let text = format!("{node} {}: {}", clipped(&remark.step), clipped(&remark.text));
        let record = state.about(node, token, self.record(HistoryKind::StepRemarked, text));
        Ok(self.commit(state, Change { history: vec![record], ..Change::default() })?)
    }

    fn lease_ended(&self, state: &mut State, node: &NodeName, end: &v1::LeaseEnd) -> Result<(), KeeperError> {
        let token = FencingToken(end.fencing_token);
        let failure = (!end.failure.is_empty()).then(|| clipped(&end.failure));
        if state.lease_of(node).is_some_and(|lease| lease.token == token) {
            let (timings, at_ms) = (timings(end.timings.as_ref()), self.clock.unix_ms());
            let event = match &failure {
                Some(failure) if end.blocked && state.passes_over(node) => Event::DrainBlocked {
                    node: node.clone(),
                    token,
                    failure: failure.clone(),
                    timings,
                    at_ms,
                },
                _ => {
                    Event::LeaseEnded { node: node.clone(), token, failure: failure.clone(), timings, at_ms }
                }
            };
            let record = match failure {
                None if state.rolls_back(node) => {
                    self.record(HistoryKind::LeaseEnded, format!("{node} is rolled back"))
                }
                None => self.record(HistoryKind::LeaseEnded, state.done_by(node)),
                Some(failure) => self.record(HistoryKind::LeaseFailed, format!("{node} failed: {failure}")),
            };
            let record = state.about(node, token, record);
            self.happen(state, &event, vec![record])?;
            if Membership::of(&state.present()?.1.plan).is_some() {
                // Who is in the cluster is another matter now.
                state.ask_everybody();
            }
        }
        // An end that was recorded before, or one of a lease that nobody counts on any more: either way the agent may
        // close its journal.
        if state.unknown_leases.get(node) == Some(&token) {
            state.unknown_leases.remove(node);
        }
        state.send(node, Told::LeaseEndRecorded(v1::LeaseEndRecorded { fencing_token: token.0 }));
        Ok(())
    }
}

impl State {
    /// A node with an open journal of a lease that the store does not know.
    pub(super) fn holder_of_unknown_lease(&self) -> Option<NodeName> {
        self.unknown_leases.keys().next().cloned()
    }

    /// A node of the present roll-out that has not said yet what it holds, since this coordinator started.
    pub(super) fn silent(&self) -> Option<NodeName> {
        let (_, rollout) = self.saved.newest()?;
        let mut names = rollout.nodes().map(|(planned, _)| &planned.name);
        names.find(|node| self.waits_to_hear(node)).cloned()
    }

    /// Whether a node of the present roll-out has not said yet what it holds, since this coordinator started.
    pub(super) fn waits_to_hear(&self, node: &NodeName) -> bool {
        let planned = self.saved.newest().is_some_and(|(_, rollout)| rollout.node(node).is_some());
        planned && !self.heard.contains(node) && !self.dismissed(node)
    }

    /// Whether an operator took a node's certificate back, which says that nothing is to be expected of it any more.
    fn dismissed(&self, node: &NodeName) -> bool {
        let revocation = self.saved.revocations.get(&Subject::agent(node));
        let enrolled_s = self.saved.enrolled.get(node).map_or(0, Enrolled::at_s);
        revocation.is_some_and(|revocation| enrolled_s <= revocation.up_to_s)
    }

    /// Whether the store knows this lease.
    fn granted(&self, token: FencingToken) -> bool {
        let mut records = self.saved.history.values();
        records.any(|record| record.kind == HistoryKind::LeaseGranted && record.token == Some(token))
    }

    /// Whether the store has granted this lease, or has heard of it from this node before.
    fn knows_of(&self, node: &NodeName, token: FencingToken) -> bool {
        let mut records = self.saved.history.values().filter(|record| record.token == Some(token));
        records.any(|record| match record.kind {
            HistoryKind::LeaseGranted => true,
            HistoryKind::FenceRaised => record.node.as_ref() == Some(node),
            _ => false,
        })
    }

    /// What was recorded last of a lease's steps.
    fn last_step_record(&self, node: &NodeName, token: FencingToken) -> Option<&HistoryRecord> {
        let newest_first = self.saved.history.values().rev();
        let began =
            |record: &&HistoryRecord| record.kind == HistoryKind::LeaseGranted && record.token == Some(token);
        let lease = newest_first.take_while(|record| !began(record));
        let mut steps = lease.filter(|record| record.kind.is_of_step());
        steps.find(|record| record.node.as_ref() == Some(node) && record.token == Some(token))
    }

    /// What a node's session was asked and has not answered, if it has one.
    pub(super) fn unanswered_of(&mut self, node: &NodeName) -> Option<&mut Unanswered> {
        self.sessions.get_mut(node).map(|session| &mut session.unanswered)
    }

    /// Ends a node's session.
    pub(super) fn cut_off(&mut self, node: &NodeName, why: &str) {
        self.heard.remove(node);
        self.unknown_leases.remove(node);
        if let Some(session) = self.sessions.remove(node) {
            session.end(Status::permission_denied(why));
        }
    }

    /// A node that could not be prepared is told to prepare again.
    pub(super) fn forget_prepared(&mut self, node: &NodeName) {
        if let Some(session) = self.sessions.get_mut(node) {
            session.told.retain(|notice| !matches!(notice, Notice::Prepare { .. }));
        }
    }

    /// Sends to a node's session, if it has one; one that does not listen is cut off.
    pub(super) fn send(&mut self, node: &NodeName, told: Told) {
        let Some(session) = self.sessions.get(node) else {
            return;
        };
        if session.outbox.try_send(Ok(told)).is_err() {
            tracing::warn!(%node, "the agent does not take its messages: its session ends");
            self.sessions.remove(node);
        }
    }

    pub(super) fn send_prepare(&mut self, number: u64, rollout: &Rollout, node: &NodeName) {
        // Asked for every node that is not prepared, whenever anybody says anything.
        if self.first_time(node, Notice::Prepare { rollout: number })
            && let Some((planned, _)) = rollout.node(node)
        {
            let (plan_id, steps) = (rollout.plan.id.to_string(), messages(&planned.prepare));
            self.send(node, Told::Prepare(v1::Prepare { plan_id, steps }));
        }
    }

    pub(super) fn send_tidy(&mut self, number: u64, rollout: &Rollout, node: &NodeName) {
        if self.first_time(node, Notice::Tidy { rollout: number }) {
            let plan_id = rollout.plan.id.to_string();
            self.send(node, Told::TidyBackups(v1::TidyBackups { plan_id }));
        }
    }

    pub(super) fn send_lease(&mut self, rollout: &Rollout, node: &NodeName, lease: Lease, purpose: Purpose) {
        let Some((planned, _)) = rollout.node(node) else {
            return;
        };
        if !self.first_time(node, Notice::Lease { token: lease.token }) {
            return;
        }
        let (steps, purpose) = under_lease(&rollout.plan, planned, purpose);
        let grant = v1::Grant {
            plan_id: rollout.plan.id.to_string(),
            plan_hash: rollout.plan.hash.clone(),
            fencing_token: lease.token.0,
            ttl_ms: self.lease_ttl_ms,
            role: v1::Role::from(planned.role).into(),
            steps: messages(&steps),
            purpose: v1::Purpose::from(purpose).into(),
        };
        self.send(node, Told::Grant(grant));
    }

    fn first_time(&mut self, node: &NodeName, notice: Notice) -> bool {
        self.sessions.get_mut(node).is_some_and(|session| session.told.insert(notice))
    }

    fn seen(&mut self, node: &NodeName, at_ms: u64) {
        self.last_seen_ms.insert(node.clone(), at_ms);
    }

    /// Whether the plan says to pass over this node where it cannot be drained.
    fn passes_over(&self, node: &NodeName) -> bool {
        let planned = self.saved.newest().and_then(|(_, rollout)| Some(rollout.node(node)?.0));
        planned.is_some_and(|planned| decided_for(planned) == OnBlocked::Skip)
    }

    /// Whether the lease that it holds is to put it back.
    fn rolls_back(&self, node: &NodeName) -> bool {
        let state = self.saved.newest().and_then(|(_, rollout)| Some(rollout.node(node)?.1));
        matches!(state, Some(NodeState::Leased { purpose: Purpose::RollBack, .. }))
    }

    /// What a node has come to, in words, that fulfilled its lease.
    fn done_by(&self, node: &NodeName) -> String {
        let planned = self.saved.newest().and_then(|(_, rollout)| Some(rollout.node(node)?.0));
        let ended: Vec<&str> = planned.into_iter().flat_map(ended_by).map(NodeName::as_str).collect();
        let done = match planned.map(PlannedNode::part).unwrap_or_default() {
            Part::Raise => "is raised".to_owned(),
            Part::Join => "has joined".to_owned(),
            Part::Empty => "is emptied: its pods are moved, and it stays cordoned".to_owned(),
            Part::Leave => "has left".to_owned(),
            Part::End if ended.is_empty() => "keeps a snapshot of how things are before".to_owned(),
            Part::End => format!("has ended what {} left", ended.join(", ")),
        };
        format!("{node} {done}")
    }

    pub(super) fn lease_of(&self, node: &NodeName) -> Option<Lease> {
        let (_, rollout) = self.saved.newest()?;
        rollout.node(node).and_then(|(_, state): (_, &NodeState)| state.lease())
    }

    /// Whether this plan's roll-out is the present one and has not ended.
    fn goes_on(&self, plan: &str) -> bool {
        let present = self.saved.newest().filter(|(_, rollout)| !rollout.is_final());
        present.is_some_and(|(_, rollout)| rollout.plan.id.as_str() == plan)
    }

    fn renew(&mut self, node: &NodeName, renewal: &v1::RenewLease) {
        let token = FencingToken(renewal.fencing_token);
        match self.lease_of(node) {
            Some(lease) if lease.token == token => {
                let ttl_ms = self.lease_ttl_ms;
                self.send(node, Told::LeaseRenewed(v1::LeaseRenewed { fencing_token: token.0, ttl_ms }));
            }
            present => self.refuse(node, token, present),
        }
    }

    fn refuse(&mut self, node: &NodeName, token: FencingToken, present: Option<Lease>) {
        let present =
            present.map_or_else(|| "it holds none".to_owned(), |lease| format!("it holds {}", lease.token));
        let reason = format!("lease {token} is not the present lease of {node} ({present})");
        tracing::warn!("{reason}");
        self.send(node, Told::LeaseRefused(v1::LeaseRefused { fencing_token: token.0, reason }));
    }

    pub(super) fn about(&self, node: &NodeName, token: FencingToken, record: HistoryRecord) -> HistoryRecord {
        let plan = self.saved.newest().map(|(_, rollout)| rollout.plan.id.clone());
        HistoryRecord { plan, node: Some(node.clone()), token: Some(token), ..record }
    }
}

/// What could not be recorded was told to operators, and nothing is granted any more. Sessions go on nevertheless: a
/// holder whose lease is renewed comes to its end, and tells it again once that can be recorded.
fn unless_unrecorded(result: Result<(), KeeperError>) -> Result<(), KeeperError> {
    match result {
        Err(KeeperError::Store(error)) => {
            tracing::error!(%error, "a report was not recorded");
            Ok(())
        }
        other => other,
    }
}

/// An agent's words, short enough to keep, without control characters other than ends of lines.
pub(super) fn clipped(text: &str) -> String {
    let mut kept: String =
        text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).take(TEXT_LIMIT).collect();
    while kept.len() > TEXT_LIMIT {
        kept.pop();
    }
    kept
}

fn messages(steps: &[Step]) -> Vec<v1::Step> {
    steps.iter().cloned().map(Into::into).collect()
}

fn timings(message: Option<&v1::Timings>) -> Timings {
    let v1::Timings { lease_ms, child_ms, wait_ms, snapshot_ms } = message.copied().unwrap_or_default();
    Timings { lease_ms, child_ms, wait_ms, snapshot_ms }
}
