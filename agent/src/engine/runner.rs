//! Carries out a lease: check → capture → journal the intent → run → check again → journal the result, step by step,
//! and the way back. After a crash it goes on where the journal stands, and believes the host, not the journal.

use std::sync::Arc;
use std::time::Duration;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Purpose;
use liftlock_proto::step::Step;

use crate::engine::context::{Context, Reporter};
use crate::engine::journal::{Journal, JournalError};
use crate::engine::lease::{Lease, LeaseLost};
use crate::engine::meter::Meter;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::engine::transition::{End, Event, Runs, StepState};
use crate::host::{Host, HostError};

/// How often a step may be cut off by a crash under one lease before that counts as its failure: each cut-off
/// `kubeadm upgrade` leaves another copy of etcd's data on the disk.
const MAX_CUT_OFF: u32 = 5;

/// Hears of each step's events once they are durable.
pub trait Observer: Send + Sync {
    /// `attempt` is the run of the step that the event is about, counted from 1; 0 where it never ran.
    fn journalled(&self, step: &str, attempt: u32, event: &Event);
}

/// What carries out the steps of a plan; `None` for a step that does not run under a lease.
pub type StepTable = dyn Fn(&Step) -> Option<Box<dyn StepRunner>> + Send + Sync;

/// What an engine works with.
#[derive(Clone)]
pub struct Gear {
    /// The machine.
    pub host: Host,
    /// This node.
    pub node: NodeName,
    /// The lease, as long as it is held.
    pub lease: Arc<Lease>,
    /// Where words and times go.
    pub reporter: Arc<dyn Reporter>,
    /// Who hears of what was journalled.
    pub observer: Arc<dyn Observer>,
    /// What carries out each step.
    pub steps: Arc<StepTable>,
}

/// Why an engine stopped before the lease's end. The journal stays open; the same lease can go on with it.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The lease is not this agent's now.
    #[error(transparent)]
    LeaseLost(#[from] LeaseLost),
    /// What is to happen next cannot be recorded, so it does not happen.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A step that has failed for good.
#[derive(Debug, PartialEq, Eq)]
struct GivenUp {
    /// What, why, and what to do.
    failure: String,
    /// Evictions were refused up to its time limit.
    blocked: bool,
}

impl From<String> for GivenUp {
    fn from(failure: String) -> Self {
        Self { failure, blocked: false }
    }
}

/// How one attempt at a step ended, short of success.
enum Setback {
    /// Nothing more may be done now.
    Stopped(Stopped),
    /// The step did not do its work.
    Failed(StepFailure),
}

impl From<LeaseLost> for Setback {
    fn from(lost: LeaseLost) -> Self {
        Self::Stopped(lost.into())
    }
}

impl From<JournalError> for Setback {
    fn from(error: JournalError) -> Self {
        Self::Stopped(error.into())
    }
}

impl From<StepFailure> for Setback {
    fn from(failure: StepFailure) -> Self {
        match failure {
            // No fault of the step: it must not count as an attempt, nor be recorded as a failure.
            StepFailure::Host(HostError::LeaseLost(lost)) => lost.into(),
            failure => Self::Failed(failure),
        }
    }
}

/// One lease being carried out.
pub struct Engine {
    journal: Box<Journal>,
    gear: Gear,
    meter: Arc<Meter>,
    /// The clock at the grant's arrival, or at the restart, and how long the lease had run by then.
    began: (Duration, Duration),
}

impl Engine {
    /// An engine that goes on where the journal stands.
    pub fn new(journal: Box<Journal>, gear: Gear) -> Self {
        let clock = &gear.host.clock;
        let before = clock.unix_ms().saturating_sub(journal.header().granted_at_ms);
        let began = (clock.monotonic(), Duration::from_millis(before));
        let meter = Arc::new(Meter::new(Arc::clone(&gear.reporter)));
        Self { journal, gear, meter, began }
    }

    /// The journal, when the engine has stopped.
    pub fn into_journal(self) -> Box<Journal> {
        self.journal
    }

    /// Carries the lease to its end: every step done, or the first that fails; where its purpose is to roll back, every
    /// step undone that earlier leases of the plan ran. A lease that was being unwound when the agent stopped is unwound
    /// to its end.
    pub async fn run(&mut self) -> Result<End, Stopped> {
        if let Some(end) = self.journal.state().end() {
            return Ok(end.clone());
        }
        if self.journal.state().purpose() == Purpose::RollBack {
            let left = self.undo_all().await?;
            return self.end(left.map(|left| format!("the node is not put back: {left}")));
        }
        if self.journal.state().unwinding() {
            return self.unwind("the agent was restarted while the node was being put back".to_owned()).await;
        }
        while let Some(index) = self.journal.state().next_to_run() {
            if let Err(GivenUp { failure, blocked }) = self.step(index).await? {
                return self.end_as(Some(failure), blocked);
            }
        }
        self.end(None)
    }

    /// Puts back what the steps of this plan changed on this node, last one first, and ends the lease with the
    /// failure that made it necessary.
    pub async fn unwind(&mut self, failure: String) -> Result<End, Stopped> {
        if let Some(end) = self.journal.state().end() {
            return Ok(end.clone());
        }
        let end = match self.undo_all().await? {
            Some(left) => format!("{failure}. Putting the node back did not succeed either: {left}"),
            None => format!("{failure}. What was changed on the node was put back"),
        };
        self.end(Some(end))
    }

    /// Undoes every step that ran, the last one first; why it stopped, if it did.
    async fn undo_all(&mut self) -> Result<Option<String>, Stopped> {
        while let Some(index) = self.journal.state().next_to_undo() {
            if let Err(left) = self.undo(index).await? {
                return Ok(Some(left));
            }
        }
        Ok(None)
    }

    /// One step to its end: `Ok(Err(_))` if it failed for good.
    async fn step(&mut self, index: usize) -> Result<Result<(), GivenUp>, Stopped> {
        let (cx, runner) = match self.runner(index) {
            Ok(found) => found,
            Err(failure) => return Ok(Err(failure.into())),
        };
        let policy = runner.policy();
        let mut failed = self.runs(index).map_or(0, |runs| runs.failed);
        loop {
            cx.permit()?;
            let failure = match self.attempt(index, runner.as_ref(), &cx).await {
                Ok(()) => return Ok(Ok(())),
                Err(Setback::Stopped(stopped)) => return Err(stopped),
                Err(Setback::Failed(failure)) => failure,
            };
            failed = failed.saturating_add(1);
            // What was refused stays refused until somebody acts.
            let last = failed >= policy.attempts || matches!(failure, StepFailure::Refused(_));
            let blocked = matches!(failure, StepFailure::Blocked(_));
            let pause = policy.pause_after(failed, &failure);
            let failure = format!("step {}: {failure}", cx.step);
            if last {
                return Ok(Err(GivenUp { failure, blocked }));
            }
            tracing::warn!(%failure, "trying again");
            self.gear.host.clock.sleep(pause).await;
        }
    }

    async fn attempt(&mut self, index: usize, runner: &dyn StepRunner, cx: &Context) -> Result<(), Setback> {
        let before = self.meter.spent();
        let observed = runner.check(cx).await?;
        let runs = self.runs(index);
        match (observed, runs) {
            (Observed::Done, None) => return Ok(self.journal(index, cx, &Event::Adopted { index })?),
            (Observed::Done, Some(_)) => {
                let spent = self.meter.since(before);
                return Ok(self.journal(index, cx, &Event::Succeeded { index, spent })?);
            }
            (Observed::Absent | Observed::Partial, _) => {}
        }
        let Runs { started, failed } = runs.unwrap_or_default();
        let cut_off = started.saturating_sub(failed);
        if cut_off >= MAX_CUT_OFF {
            let why = format!(
                "it was cut off {cut_off} times (the agent or the machine stopped in the middle of it): find out why \
                 before `liftlock retry`"
            );
            return Err(StepFailure::Unproven(why).into());
        }
        let pre = match self.journal.state().captured().get(cx.step) {
            Some(first) => first.clone(),
            None => runner.capture(cx).await?,
        };
        cx.permit()?;
        self.journal(
            index,
            cx,
            &Event::Started { index, attempt: started.saturating_add(1), pre: pre.clone() },
        )?;
        match run_and_prove(runner, cx, &pre).await {
            Ok(()) => {
                let spent = self.meter.since(before);
                Ok(self.journal(index, cx, &Event::Succeeded { index, spent })?)
            }
            Err(Setback::Failed(failure)) => {
                let spent = self.meter.since(before);
                self.journal(index, cx, &Event::Failed { index, failure: failure.to_string(), spent })?;
                Err(Setback::Failed(failure))
            }
            stopped => stopped,
        }
    }

    async fn undo(&mut self, index: usize) -> Result<Result<(), String>, Stopped> {
        let (cx, runner) = match self.runner(index) {
            Ok(found) => found,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(pre) = cx.captured(cx.step).cloned() else {
            return Ok(Err(format!("step {} captured nothing", cx.step)));
        };
        cx.permit()?;
        if self.journal.state().step_state(index) != Some(StepState::Undoing) {
            self.journal(index, &cx, &Event::UndoStarted { index })?;
        }
        let (policy, before) = (runner.policy(), self.meter.spent());
        let mut failed = 0;
        loop {
            cx.permit()?;
            let failure = match runner.undo(&cx, &pre).await.map_err(Setback::from) {
                Ok(()) => break,
                Err(Setback::Stopped(stopped)) => return Err(stopped),
                Err(Setback::Failed(failure)) => failure,
            };
            failed += 1;
            if failed >= policy.attempts || matches!(failure, StepFailure::Refused(_)) {
                return Ok(Err(format!("step {}: {failure}", cx.step)));
            }
            tracing::warn!(step = cx.step, %failure, "trying again to put back what it changed");
            self.gear.host.clock.sleep(policy.pause_after(failed, &failure)).await;
        }
        self.journal(index, &cx, &Event::Undone { index, spent: self.meter.since(before) })?;
        Ok(Ok(()))
    }

    fn end(&mut self, failure: Option<String>) -> Result<End, Stopped> {
        self.end_as(failure, false)
    }

    fn end_as(&mut self, failure: Option<String>, blocked: bool) -> Result<End, Stopped> {
        let (from, before) = self.began;
        let lease = self.gear.host.clock.monotonic().saturating_sub(from).saturating_add(before);
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let end = End { failure, lease_ms, spent: self.journal.state().spent(), blocked };
        self.journal.append(self.gear.host.clock.unix_ms(), &Event::Ended(end.clone()))?;
        Ok(end)
    }

    fn journal(&mut self, index: usize, cx: &Context, event: &Event) -> Result<(), JournalError> {
        let attempt = match event {
            Event::Started { attempt, .. } => *attempt,
            _ => self.runs(index).map_or(0, |runs| runs.started),
        };
        self.journal.append(self.gear.host.clock.unix_ms(), event)?;
        tracing::info!(step = cx.step, attempt, event = event.name(), "journalled");
        self.gear.observer.journalled(cx.step, attempt, event);
        Ok(())
    }

    /// How often the step ran, if it was begun under this lease and is not done.
    fn runs(&self, index: usize) -> Option<Runs> {
        match self.journal.state().step_state(index) {
            Some(StepState::Started(runs) | StepState::Failed(runs)) => Some(runs),
            _ => None,
        }
    }

    fn runner(&self, index: usize) -> Result<(Context, Box<dyn StepRunner>), String> {
        let step = self.journal.header().steps.get(index);
        let step = step.ok_or_else(|| format!("the lease has no step {index}"))?;
        let runner = (self.gear.steps)(step).ok_or_else(|| {
            format!("step {} does not run under a lease, and yet the plan says so", step.name())
        })?;
        Ok((self.context(step), runner))
    }

    fn context(&self, step: &Step) -> Context {
        Context {
            host: self.gear.host.clone(),
            node: self.gear.node.clone(),
            plan: self.journal.header().plan.clone(),
            step: step.name(),
            lease: Arc::clone(&self.gear.lease),
            captured: Arc::new(self.journal.state().captured().clone()),
            reporter: Arc::clone(&self.meter) as Arc<dyn Reporter>,
        }
    }
}

async fn run_and_prove(runner: &dyn StepRunner, cx: &Context, pre: &PreState) -> Result<(), Setback> {
    runner.run(cx, pre).await?;
    match runner.check(cx).await? {
        Observed::Done => Ok(()),
        Observed::Partial => Err(unproven("it ran, and only a part of its effect is there").into()),
        Observed::Absent => Err(unproven("it ran, and nothing of its effect is there").into()),
    }
}

fn unproven(why: &str) -> StepFailure {
    StepFailure::Unproven(why.to_owned())
}

#[cfg(test)]
mod tests;
