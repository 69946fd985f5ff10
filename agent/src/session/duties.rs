//! What this node is doing for the coordinator. It goes on while connections come and go.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use liftlock_proto::retention::Retention;
use liftlock_proto::step::Step;
use liftlock_proto::v1;
use liftlock_proto::v1::agent_message::Message;

use crate::disk::Disk;
use crate::engine::fence::{Fence, FenceError};
use crate::engine::idle::Turn;
use crate::engine::journal::{Header, Journal};
use crate::engine::lease::Lease;
use crate::engine::recovery::{Begun, Journals};
use crate::engine::runner::{Engine, Gear, StepTable, Stopped};
use crate::engine::step::Preparation;
use crate::engine::transition::{End, Spent};
use crate::host::Host;
use crate::session::StartError;
use crate::session::asking::{Asking, Mailbox};
use crate::session::inquiry::{Asked, Inquiry};
use crate::session::line::Line;
use crate::session::marking::{Marking, Order};
use crate::session::outbox::Outbox;
use crate::session::preparing::Preparing;
use crate::session::questions::{Idleness, Questions};
use crate::session::tasks::{Task, TaskFailed, Tasks};
use crate::session::tidying::tidy;
use crate::session::voice::Voice;

/// What carries out preparations; `None` for a step that needs a lease.
pub type PreparationTable = dyn Fn(&Step) -> Option<Box<dyn Preparation>> + Send + Sync;

/// What the agent works on and with.
#[derive(Clone)]
pub struct Workplace {
    /// The machine.
    pub host: Host,
    /// This node.
    pub node: NodeName,
    /// The agent's own files.
    pub disk: Arc<dyn Disk>,
    /// What carries out steps under a lease.
    pub steps: Arc<StepTable>,
    /// What carries out preparations.
    pub preparations: Arc<PreparationTable>,
    /// What carries on beside the conversation.
    pub tasks: Arc<dyn Tasks>,
    /// How the coordinator is reached.
    pub line: Arc<dyn Line>,
    /// Which backups stay after a roll-out that ended well.
    pub retention: Retention,
}

/// Everything under way.
pub(crate) struct Duties {
    place: Workplace,
    journals: Journals,
    fence: Arc<Mutex<Fence>>,
    outbox: Arc<Outbox>,
    held: Option<Held>,
    /// A newer lease; it begins when the engine of the one before has stopped.
    next: Option<Granted>,
    preparing: Preparing,
    inquiry: Inquiry,
    questions: Questions,
    mailbox: Arc<Mailbox>,
    marking: Marking,
    turn: Turn,
    /// Why nobody knows which lease was here last.
    unreadable: Option<String>,
}

/// The lease that this node is in the middle of.
struct Held {
    plan: PlanId,
    token: FencingToken,
    stage: Stage,
}

enum Stage {
    /// Its journal is open and nothing runs: the agent was restarted, or the lease lapsed. A grant goes on with it.
    Open,
    /// An engine carries it out.
    Running(Running),
    /// It has ended here; the coordinator is told until it says that it knows.
    Ended(v1::LeaseEnd),
}

struct Running {
    lease: Arc<Lease>,
    voice: Arc<Voice>,
    ttl: Duration,
    engine: Task<Outcome>,
    /// The coordinator took the lease back: the journal is put away as soon as the engine stops.
    taken_back: bool,
}

struct Granted {
    lease: Box<Header>,
    ttl: Duration,
    /// On the monotonic clock.
    deadline: Duration,
}

/// Something under way that has ended, before anybody drew the conclusions.
pub(crate) enum Finished {
    Engine(Result<Outcome, TaskFailed>),
    Preparing(v1::PrepareReport),
    Inquiry(Box<v1::NodeFacts>),
    Question(v1::Answer),
    Marking(v1::NodesMarked),
}

/// How an engine stopped.
pub(crate) enum Outcome {
    /// The lease ended, and the journal says how.
    Ended(End),
    /// The lease could not begin or be recorded. No journal says so, only this.
    Refused(String),
    /// The lease is not this agent's now; its journal is open.
    Lost(String),
}

/// What follows from something that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It was told, or will be.
    Told,
    /// The lease ran out before the coordinator renewed it: only a new Hello makes it grant it again.
    LeaseLapsed,
}

/// A bug in the agent. The journal is as after a crash, so the cure is the same: start anew.
#[derive(Debug, thiserror::Error)]
#[error(
    "the agent failed in the middle of a lease ({0}); it stops here, and goes on from its journal when it is started again"
)]
pub(crate) struct EngineFailed(String);

impl Duties {
    /// Finds what an earlier run of the agent was in the middle of.
    pub(crate) fn open(place: Workplace, outbox: Arc<Outbox>) -> Result<Self, StartError> {
        let state_dir = place.host.layout.state_dir.clone();
        let folder = state_dir.join("journal");
        let journals = Journals::new(Arc::clone(&place.disk), folder, place.node.clone())?;
        let fence = Fence::open(Arc::clone(&place.disk), state_dir.join("fence"))?;
        let mut inquiry = Inquiry::default();
        let mut unreadable = None;
        let held = match journals.held() {
            Ok(journal) => journal.as_ref().map(Held::of),
            Err(error) => {
                // The agent stays up, so that the coordinator hears of it: as a fact now, as a refusal of each lease.
                tracing::error!(%error, "no lease can go on or begin on this node");
                inquiry.always(error.to_string());
                unreadable = Some(error.to_string());
                None
            }
        };
        if let Some(held) = &held {
            tracing::info!(plan = %held.plan, token = %held.token, "in the middle of a lease");
        }
        let preparing = Preparing::default();
        Ok(Self {
            place,
            journals,
            fence: Arc::new(Mutex::new(fence)),
            outbox,
            held,
            next: None,
            preparing,
            inquiry,
            questions: Questions::default(),
            mailbox: Arc::default(),
            marking: Marking::default(),
            turn: Turn::default(),
            unreadable,
        })
    }

    /// The highest token ever seen here; 0 if none.
    pub(crate) fn highest_token(&self) -> FencingToken {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner).highest()
    }

    /// What Hello says of the lease.
    pub(crate) fn held(&self) -> Option<v1::HeldLease> {
        let held = self.held.as_ref()?;
        let ended = match &held.stage {
            Stage::Ended(end) => Some(end.clone()),
            Stage::Open | Stage::Running(_) => None,
        };
        Some(v1::HeldLease { plan_id: held.plan.to_string(), fencing_token: held.token.0, ended })
    }

    /// The last report of the step under way, for a coordinator that may have missed it.
    pub(crate) fn last_report(&self) -> Option<v1::StepReport> {
        self.running().and_then(|(_, running)| running.voice.last_report())
    }

    /// The lease to renew, and how long each renewal lasts.
    pub(crate) fn to_renew(&self) -> Option<(v1::RenewLease, Duration)> {
        let (held, running) = self.running()?;
        if running.taken_back {
            return None;
        }
        let renew = v1::RenewLease { plan_id: held.plan.to_string(), fencing_token: held.token.0 };
        Some((renew, running.ttl))
    }

    /// One line for people.
    pub(crate) fn status(&self) -> String {
        match self.held.as_ref().map(|held| (held.token, &held.stage)) {
            None => "no lease".to_owned(),
            Some((token, Stage::Open)) => format!("lease {token} waits for the coordinator"),
            Some((token, Stage::Running(_))) => format!("lease {token} is being carried out"),
            Some((token, Stage::Ended(_))) => format!("the end of lease {token} is to be told"),
        }
    }

    /// Another session begins: what was asked in the last one is answered to nobody.
    pub(crate) fn of_another_session(&mut self) {
        self.inquiry.of_another_session();
        self.outbox.forget_what_facts_answer();
    }

    /// Reads the node's facts, after a pause, and puts them in the outbox.
    pub(crate) fn inquire(&mut self, refresh: bool, pause: Duration, number: u64) {
        self.inquiry.ask(&self.place, Asked { refresh, pause, number });
    }

    /// Answers an operator's question; the answer goes into the outbox.
    pub(crate) fn answer(&mut self, id: u64, asked: Option<v1::Asked>) {
        let idle = || idle(&self.turn, self.held.as_ref(), self.unreadable.as_deref());
        self.questions.ask(&self.place, id, asked, idle);
    }

    /// The answer to what the engine asks for under its lease.
    pub(crate) fn join_answer(&self, answer: v1::JoinAnswer) {
        self.mailbox.put(answer);
    }

    /// The roll-out has ended well: backups that the settings do not keep are removed, and what nothing else needs.
    pub(crate) fn tidy(&self) {
        let idle = match idle(&self.turn, self.held.as_ref(), self.unreadable.as_deref()) {
            Ok(idle) => idle,
            Err(why) => return tracing::info!(why, "no backup is removed now"),
        };
        let (place, journals) = (self.place.clone(), self.journals.clone());
        let tidying = async move { tidy(&place, &journals, &idle).await };
        self.place.tasks.start_blocking(Box::pin(tidying));
    }

    /// Has these Nodes and no others carry the taint of what is not raised yet; what came of it goes into the outbox.
    pub(crate) fn mark(&mut self, id: u64, nodes: BTreeSet<NodeName>, pause: Duration) {
        self.marking.ask(&self.place, Order { id, nodes, pause });
    }

    /// Does what disturbs nothing.
    pub(crate) fn prepare(&mut self, plan: PlanId, steps: Vec<Step>) {
        self.preparing.begin(&self.place, &self.outbox, plan, steps);
    }

    /// A lease arrived: begins it, goes on with it, or only renews it.
    pub(crate) fn grant(&mut self, lease: Box<Header>, ttl: Duration) {
        let (plan, token) = (lease.plan.clone(), lease.token);
        let highest = self.highest_token();
        if token < highest {
            return self.refuse(&plan, token, &FenceError::Stale { offered: token, highest }.to_string());
        }
        let deadline = self.place.host.clock.monotonic().saturating_add(ttl);
        let granted = Granted { lease, ttl, deadline };
        match self.held.as_mut().map(|held| (held.token == token && held.plan == plan, &mut held.stage)) {
            Some((true, Stage::Running(running))) if !running.taken_back => {
                running.ttl = ttl;
                running.lease.renew(deadline);
            }
            Some((true, Stage::Ended(end))) => self.outbox.push(Message::LeaseEnd(end.clone())),
            Some((same, Stage::Running(running))) => {
                if !same {
                    running.lease.lose(&format!("lease {token} was granted after it"));
                    running.taken_back = true;
                }
                self.next = Some(granted);
            }
            _ => self.begin(granted),
        }
    }

    /// A renewal was answered; `sent` is the moment on the monotonic clock when it was asked for.
    pub(crate) fn renewed(&mut self, token: FencingToken, sent: Duration, ttl: Duration) {
        if let Some(Held { token: held, stage: Stage::Running(running), .. }) = &mut self.held
            && *held == token
        {
            running.ttl = ttl;
            running.lease.renew(sent.saturating_add(ttl));
        }
    }

    /// The lease is over for the coordinator: nothing more is started, and its journal is put away.
    pub(crate) async fn over(&mut self, token: FencingToken, why: &str) -> Result<(), StartError> {
        match &mut self.held {
            Some(Held { token: held, stage: Stage::Running(running), .. }) if *held == token => {
                tracing::warn!(%token, why, "the lease was taken back");
                running.lease.lose(why);
                running.taken_back = true;
                Ok(())
            }
            Some(held) if held.token == token => {
                tracing::info!(%token, why, "the lease is over");
                self.put_away().await
            }
            _ => Ok(()),
        }
    }

    /// Waits until something under way has ended, for ever if nothing is. Dropped before it is ready, it loses nothing;
    /// what it returns goes to [`Self::take`] before it is called again.
    pub(crate) async fn finished(&mut self) -> Finished {
        tokio::select! {
            biased;
            outcome = engine(&mut self.held) => Finished::Engine(outcome),
            report = self.preparing.done() => Finished::Preparing(report),
            facts = self.inquiry.done(&self.place) => Finished::Inquiry(Box::new(facts)),
            answer = self.questions.done() => Finished::Question(answer),
            marked = self.marking.done(&self.place) => Finished::Marking(marked),
        }
    }

    /// Draws the conclusions, and puts what is to be told in the outbox.
    pub(crate) async fn take(&mut self, finished: Finished) -> Result<Done, EngineFailed> {
        match finished {
            Finished::Engine(Ok(outcome)) => return self.stopped(outcome).await,
            Finished::Engine(Err(error)) => return Err(EngineFailed(error.to_string())),
            Finished::Preparing(report) => self.outbox.push(Message::PrepareReport(report)),
            Finished::Inquiry(facts) => self.outbox.push(Message::Facts(facts)),
            Finished::Question(answer) => self.outbox.push(Message::Answer(answer)),
            Finished::Marking(marked) => self.outbox.push(Message::NodesMarked(marked)),
        }
        Ok(Done::Told)
    }

    async fn stopped(&mut self, outcome: Outcome) -> Result<Done, EngineFailed> {
        let Some(held) = &mut self.held else {
            return Ok(Done::Told);
        };
        let taken_back = matches!(&held.stage, Stage::Running(running) if running.taken_back);
        let mut done = Done::Told;
        match outcome {
            Outcome::Lost(why) => {
                tracing::warn!(token = %held.token, why, "the lease stopped before its end");
                held.stage = Stage::Open;
                if !taken_back {
                    done = Done::LeaseLapsed;
                }
            }
            Outcome::Ended(end) => held.ended(lease_end(&held.plan, held.token, end), &self.outbox),
            Outcome::Refused(failure) => {
                tracing::error!(token = %held.token, %failure, "the lease cannot be carried out");
                let end =
                    End { failure: Some(failure), lease_ms: 0, spent: Spent::default(), blocked: false };
                held.ended(lease_end(&held.plan, held.token, end), &self.outbox);
            }
        }
        if taken_back {
            self.put_away().await.map_err(|error| EngineFailed(error.to_string()))?;
        }
        if let Some(next) = self.next.take() {
            self.begin(next);
            done = Done::Told;
        }
        Ok(done)
    }

    fn begin(&mut self, granted: Granted) {
        let Granted { lease: header, ttl, deadline } = granted;
        let (plan, token) = (header.plan.clone(), header.token);
        tracing::info!(%plan, %token, steps = header.steps.len(), "a lease begins or goes on");
        let lease = Arc::new(Lease::new(token, deadline));
        let voice = Arc::new(Voice::new(Arc::clone(&self.outbox), plan.clone(), token));
        let asking = Asking {
            outbox: Arc::clone(&self.outbox),
            mailbox: Arc::clone(&self.mailbox),
            clock: Arc::clone(&self.place.host.clock),
        };
        let gear = Gear {
            host: Host { invitations: Arc::new(asking), ..self.place.host.clone() },
            node: self.place.node.clone(),
            lease: Arc::clone(&lease),
            reporter: Arc::clone(&voice) as _,
            observer: Arc::clone(&voice) as _,
            steps: Arc::clone(&self.place.steps),
        };
        let (fence, journals) = (Arc::clone(&self.fence), self.journals.clone());
        let turn = self.turn.clone();
        // A thread of its own: each fsync of the journal blocks, and nothing else must wait for it.
        let work = async move {
            let _busy = turn.take().await;
            carry_out(&fence, &journals, *header, gear).await
        };
        let engine = Task::start_blocking(self.place.tasks.as_ref(), work);
        let running = Running { lease, voice, ttl, engine, taken_back: false };
        self.held = Some(Held { plan, token, stage: Stage::Running(running) });
    }

    /// Puts the held lease's journal away and forgets the lease. A coordinator that took it back is told once nothing
    /// runs any more: one whose store is an older copy lets nobody else act before that.
    async fn put_away(&mut self) -> Result<(), StartError> {
        if let Some(Held { plan, token, stage }) = self.held.take() {
            if let Stage::Open = stage {
                self.refuse(&plan, token, "it was taken back before its end; nothing of it runs any more");
            }
            let journals = self.journals.clone();
            let close = async move { journals.close(&plan, token) };
            let closed = Task::start_blocking(self.place.tasks.as_ref(), close);
            closed.await.map_err(|error| StartError::Thread(error.to_string()))??;
        }
        Ok(())
    }

    fn refuse(&self, plan: &PlanId, token: FencingToken, why: &str) {
        tracing::error!(%plan, %token, why, "a lease was refused");
        let end = End { failure: Some(why.to_owned()), lease_ms: 0, spent: Spent::default(), blocked: false };
        self.outbox.push(Message::LeaseEnd(lease_end(plan, token, end)));
    }

    fn running(&self) -> Option<(&Held, &Running)> {
        let held = self.held.as_ref()?;
        match &held.stage {
            Stage::Running(running) => Some((held, running)),
            Stage::Open | Stage::Ended(_) => None,
        }
    }
}

impl Held {
    fn of(journal: &Journal) -> Self {
        let Header { plan, token, .. } = journal.header().clone();
        let stage = match journal.state().end() {
            Some(end) => Stage::Ended(lease_end(&plan, token, end.clone())),
            None => Stage::Open,
        };
        Self { plan, token, stage }
    }

    fn ended(&mut self, end: v1::LeaseEnd, outbox: &Outbox) {
        tracing::info!(token = %self.token, failure = end.failure, "the lease has ended here");
        outbox.push(Message::LeaseEnd(end.clone()));
        self.stage = Stage::Ended(end);
    }
}

/// Proof that there is no lease here, or why something that needs that is refused.
fn idle(turn: &Turn, held: Option<&Held>, unreadable: Option<&str>) -> Idleness {
    match (held, unreadable) {
        (Some(held), _) => Err(format!(
            "this node holds lease {}, which may need its backups: wait until it has ended",
            held.token
        )),
        (None, Some(why)) => Err(format!("nobody knows which lease was here last: {why}")),
        (None, None) => turn.idle().ok_or_else(|| {
            "this node's backups are being pruned or rehearsed already, or a lease ends this moment: ask again".to_owned()
        }),
    }
}

/// Waits for the engine, for ever if none runs.
async fn engine(held: &mut Option<Held>) -> Result<Outcome, TaskFailed> {
    match held {
        Some(Held { stage: Stage::Running(running), .. }) => (&mut running.engine).await,
        _ => std::future::pending().await,
    }
}

/// The fence first, then the journal, then the steps.
async fn carry_out(fence: &Mutex<Fence>, journals: &Journals, mut header: Header, gear: Gear) -> Outcome {
    let admitted = fence.lock().unwrap_or_else(PoisonError::into_inner).admit(header.token);
    if let Err(error) = admitted {
        return Outcome::Refused(error.to_string());
    }
    header.granted_at_ms = gear.host.clock.unix_ms();
    let journal = match journals.begin(header) {
        Ok(Begun::Run(journal)) => journal,
        Ok(Begun::Ended(end)) => return Outcome::Ended(end),
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    match Engine::new(journal, gear).run().await {
        Ok(end) => Outcome::Ended(end),
        Err(Stopped::LeaseLost(lost)) => Outcome::Lost(lost.to_string()),
        Err(Stopped::Journal(error)) => Outcome::Refused(error.to_string()),
    }
}

fn lease_end(plan: &PlanId, token: FencingToken, end: End) -> v1::LeaseEnd {
    let Spent { child_ms, wait_ms, snapshot_ms } = end.spent;
    v1::LeaseEnd {
        plan_id: plan.to_string(),
        fencing_token: token.0,
        failure: end.failure.unwrap_or_default(),
        timings: Some(v1::Timings { lease_ms: end.lease_ms, child_ms, wait_ms, snapshot_ms }),
        blocked: end.blocked,
    }
}
