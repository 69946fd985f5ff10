//! What a journal's events mean: one total function from a state and an event to the next state, or to why not.

use liftlock_proto::plan::Purpose;
use serde::{Deserialize, Serialize};

use crate::engine::context::Captured;
use crate::engine::step::PreState;

/// Something that happened under a lease. A journal is a list of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Event {
    /// A step is about to run. Durable before anything is touched.
    Started {
        /// Position in the lease's steps, counted from 0.
        index: usize,
        /// Which run of it under this lease, counted from 1.
        attempt: u32,
        /// What its undo needs, captured before its very first run.
        pre: PreState,
    },
    /// A step's effect was there before it ran.
    Adopted {
        /// Which.
        index: usize,
    },
    /// A step ran, or was found finished after a crash, and its postcondition holds.
    Succeeded {
        /// Which.
        index: usize,
        /// Where the time of this run went.
        spent: Spent,
    },
    /// A run of a step ended badly.
    Failed {
        /// Which.
        index: usize,
        /// What, why, and what to do.
        failure: String,
        /// Where the time of this run went.
        spent: Spent,
    },
    /// What a step changed is about to be put back.
    UndoStarted {
        /// Which.
        index: usize,
    },
    /// What a step changed was put back.
    Undone {
        /// Which.
        index: usize,
        /// Where the time of putting it back went.
        spent: Spent,
    },
    /// The lease has ended for this node. Nothing comes after.
    Ended(End),
}

impl Event {
    /// Its name in journals and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Adopted { .. } => "adopted",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::UndoStarted { .. } => "undo-started",
            Self::Undone { .. } => "undone",
            Self::Ended(_) => "ended",
        }
    }
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct End {
    /// What failed, why, and what to do; `None` if the lease's purpose is fulfilled.
    pub failure: Option<String>,
    /// From the grant's arrival to here, in milliseconds.
    pub lease_ms: u64,
    /// Where that time went.
    pub spent: Spent,
    /// The drain reached its time limit because evictions were refused.
    #[serde(default, skip_serializing_if = "is_not")]
    pub blocked: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_not(so: &bool) -> bool {
    !so
}

/// Where time went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spent {
    /// In child processes: kubeadm, the package manager, systemctl.
    pub child_ms: u64,
    /// In waits for Kubernetes.
    pub wait_ms: u64,
    /// In the etcd snapshot.
    pub snapshot_ms: u64,
}

impl Spent {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            child_ms: self.child_ms.saturating_add(other.child_ms),
            wait_ms: self.wait_ms.saturating_add(other.wait_ms),
            snapshot_ms: self.snapshot_ms.saturating_add(other.snapshot_ms),
        }
    }
}

/// How far a lease is, by its journal.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    purpose: Purpose,
    steps: Vec<Tracked>,
    captured: Captured,
    spent: Spent,
    end: Option<End>,
}

#[derive(Debug, Clone, PartialEq)]
struct Tracked {
    name: String,
    state: StepState,
}

/// How far one step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// Not begun under this lease.
    Pending,
    /// Begun, with no word on how it ended: only a check of the host can tell.
    Started(Runs),
    /// Its last run ended badly.
    Failed(Runs),
    /// Its effect was there already.
    Adopted,
    /// Its effect is there.
    Succeeded,
    /// Being put back, with no word on how that ended.
    Undoing,
    /// Put back.
    Undone,
}

/// How often a step ran under this lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Runs {
    /// Begun.
    pub started: u32,
    /// Ended badly. Those neither failed nor succeeded were cut off.
    pub failed: u32,
}

/// An event that does not follow from what came before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Two steps of one name could not be told apart.
    #[error("step {0} is in the list twice")]
    Twice(String),
    /// The list has no step at this position.
    #[error("there is no step {index}: the list has {steps}")]
    NoSuchStep {
        /// Counted from 0.
        index: usize,
        /// How many there are.
        steps: usize,
    },
    /// Something after the end.
    #[error("the lease has ended; nothing comes after")]
    AfterEnd,
    /// The step's own state does not allow it.
    #[error("step {step} {why}")]
    Step {
        /// Its name.
        step: String,
        /// Why.
        why: &'static str,
    },
    /// Raised, and yet a step is not done.
    #[error("not every step is done, so the node is not raised")]
    NotRaised,
    /// Put back, and yet something that a step changed is not.
    #[error("not every step is undone, so the node is not as it was")]
    NotPutBack,
}

impl State {
    /// The beginning of a lease: nothing done. `inherited` is what earlier leases of the same plan captured.
    pub fn new<'a>(
        purpose: Purpose,
        steps: impl IntoIterator<Item = &'a str>,
        inherited: Captured,
    ) -> Result<Self, Illegal> {
        let mut tracked: Vec<Tracked> = Vec::new();
        for name in steps {
            if tracked.iter().any(|earlier| earlier.name == name) {
                return Err(Illegal::Twice(name.to_owned()));
            }
            tracked.push(Tracked { name: name.to_owned(), state: StepState::Pending });
        }
        Ok(Self { purpose, steps: tracked, captured: inherited, spent: Spent::default(), end: None })
    }

    /// The state after an event, or why the event cannot follow.
    pub fn after(&self, event: &Event) -> Result<Self, Illegal> {
        if self.end.is_some() {
            return Err(Illegal::AfterEnd);
        }
        let mut next = self.clone();
        match event {
            Event::Started { index, attempt, pre } => {
                let runs = match self.going_forward(*index)? {
                    StepState::Pending => Runs::default(),
                    StepState::Started(runs) | StepState::Failed(runs) => runs,
                    _ => return Err(self.refuse(*index, "is done and cannot start again")),
                };
                if runs.started.checked_add(1) != Some(*attempt) {
                    return Err(self.refuse(*index, "starts with the wrong attempt number"));
                }
                let step = next.step_mut(*index)?;
                step.state = StepState::Started(Runs { started: *attempt, ..runs });
                let name = step.name.clone();
                if next.captured.entry(name).or_insert_with(|| pre.clone()) != pre {
                    return Err(self.refuse(*index, "starts with another captured state than at first"));
                }
            }
            Event::Adopted { index } => match self.going_forward(*index)? {
                StepState::Pending => next.step_mut(*index)?.state = StepState::Adopted,
                _ => return Err(self.refuse(*index, "was begun, so it cannot be adopted")),
            },
            Event::Succeeded { index, spent } => match self.going_forward(*index)? {
                StepState::Started(_) | StepState::Failed(_) => {
                    next.step_mut(*index)?.state = StepState::Succeeded;
                    next.spent = self.spent.plus(*spent);
                }
                _ => return Err(self.refuse(*index, "was not begun, so it cannot succeed")),
            },
            Event::Failed { index, spent, .. } => match self.going_forward(*index)? {
                StepState::Started(runs) => {
                    let failed = runs.failed.saturating_add(1);
                    next.step_mut(*index)?.state = StepState::Failed(Runs { failed, ..runs });
                    next.spent = self.spent.plus(*spent);
                }
                _ => return Err(self.refuse(*index, "does not run, so it cannot fail")),
            },
            Event::UndoStarted { index } => {
                if self.step(*index)?.state == StepState::Undoing || self.next_to_undo() != Some(*index) {
                    return Err(self.refuse(*index, "is not the next to be undone"));
                }
                next.step_mut(*index)?.state = StepState::Undoing;
            }
            Event::Undone { index, spent } => {
                if self.step(*index)?.state != StepState::Undoing {
                    return Err(self.refuse(*index, "is not being undone"));
                }
                let step = next.step_mut(*index)?;
                step.state = StepState::Undone;
                let name = step.name.clone();
                next.captured.remove(&name);
                next.spent = self.spent.plus(*spent);
            }
            Event::Ended(end) => {
                match self.purpose {
                    _ if end.failure.is_some() => {}
                    Purpose::Raise if self.all_done() && !self.unwinding() => {}
                    Purpose::Raise => return Err(Illegal::NotRaised),
                    Purpose::RollBack if self.next_to_undo().is_none() => {}
                    Purpose::RollBack => return Err(Illegal::NotPutBack),
                }
                next.end = Some(end.clone());
            }
        }
        Ok(next)
    }

    /// How far the step at this position is; `None` past the end of the list.
    pub fn step_state(&self, index: usize) -> Option<StepState> {
        self.steps.get(index).map(|step| step.state)
    }

    /// The first step that is not done, going forward.
    pub fn next_to_run(&self) -> Option<usize> {
        self.steps.iter().position(|step| !matches!(step.state, StepState::Adopted | StepState::Succeeded))
    }

    /// The last step that ever ran and was not put back.
    pub fn next_to_undo(&self) -> Option<usize> {
        self.steps.iter().rposition(|step| self.captured.contains_key(&step.name))
    }

    /// Whether steps are being put back: nothing goes forward under this lease any more.
    pub fn unwinding(&self) -> bool {
        self.purpose == Purpose::RollBack
            || self.steps.iter().any(|step| matches!(step.state, StepState::Undoing | StepState::Undone))
    }

    /// What the lease is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// What the steps captured, under this lease and earlier ones of its plan, and what was not put back since.
    pub fn captured(&self) -> &Captured {
        &self.captured
    }

    /// Where the time of the steps went.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// How the lease ended, once it has.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn all_done(&self) -> bool {
        self.next_to_run().is_none()
    }

    /// The state of a step that everything before it allows to move forward.
    fn going_forward(&self, index: usize) -> Result<StepState, Illegal> {
        let state = self.step(index)?.state;
        if self.unwinding() {
            return Err(self.refuse(index, "cannot go forward: the lease is being unwound"));
        }
        if self.next_to_run().is_some_and(|next| next < index) {
            return Err(self.refuse(index, "comes before the steps ahead of it are done"));
        }
        Ok(state)
    }

    fn step(&self, index: usize) -> Result<&Tracked, Illegal> {
        self.steps.get(index).ok_or(Illegal::NoSuchStep { index, steps: self.steps.len() })
    }

    fn step_mut(&mut self, index: usize) -> Result<&mut Tracked, Illegal> {
        let steps = self.steps.len();
        self.steps.get_mut(index).ok_or(Illegal::NoSuchStep { index, steps })
    }

    fn refuse(&self, index: usize, why: &'static str) -> Illegal {
        match self.step(index) {
            Ok(step) => Illegal::Step { step: step.name.clone(), why },
            Err(no_such_step) => no_such_step,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const STEPS: [&str; 3] = ["first", "second", "third"];

    fn state() -> State {
        State::new(Purpose::Raise, STEPS, Captured::new()).unwrap()
    }

    fn started(index: usize, attempt: u32) -> Event {
        Event::Started { index, attempt, pre: json!({ "of": index }) }
    }

    fn succeeded(index: usize) -> Event {
        Event::Succeeded { index, spent: Spent { child_ms: 5, ..Spent::default() } }
    }

    fn failed(index: usize) -> Event {
        Event::Failed { index, failure: "no".to_owned(), spent: Spent::default() }
    }

    fn ended(failure: Option<&str>) -> Event {
        Event::Ended(End {
            failure: failure.map(str::to_owned),
            lease_ms: 1,
            spent: Spent::default(),
            blocked: false,
        })
    }

    fn after(events: &[Event]) -> Result<State, Illegal> {
        events.iter().try_fold(state(), |state, event| state.after(event))
    }

    #[test]
    fn a_lease_goes_step_by_step_to_its_end() {
        let end = after(&[
            started(0, 1),
            succeeded(0),
            Event::Adopted { index: 1 },
            started(2, 1),
            failed(2),
            started(2, 2),
            succeeded(2),
            ended(None),
        ])
        .unwrap();
        assert!(end.end().is_some());
        assert_eq!(end.spent().child_ms, 10);
    }

    #[test]
    fn no_step_starts_before_the_one_ahead_of_it_is_done() {
        assert!(after(&[started(1, 1)]).is_err());
        assert!(after(&[started(0, 1), started(1, 1)]).is_err());
        assert!(after(&[started(0, 1), failed(0), Event::Adopted { index: 1 }]).is_err());
    }

    #[test]
    fn a_second_attempt_keeps_the_state_that_the_first_captured() {
        let other = Event::Started { index: 0, attempt: 2, pre: json!("half changed") };
        assert!(after(&[started(0, 1), failed(0), other]).is_err());
        let inherited = Captured::from([("first".to_owned(), json!("as it was"))]);
        let retried = State::new(Purpose::Raise, STEPS, inherited).unwrap();
        assert!(retried.after(&started(0, 1)).is_err(), "a later lease captured anew");
    }

    #[test]
    fn nothing_is_raised_before_its_last_step_is_done() {
        assert_eq!(after(&[started(0, 1), succeeded(0), ended(None)]), Err(Illegal::NotRaised));
        assert!(after(&[started(0, 1), ended(Some("it broke"))]).is_ok());
    }

    #[test]
    fn nothing_follows_the_end() {
        assert_eq!(after(&[ended(Some("no")), started(0, 1)]), Err(Illegal::AfterEnd));
    }

    #[test]
    fn unwinding_goes_backwards_over_all_that_ran() {
        let ran = [started(0, 1), succeeded(0), started(1, 1), failed(1)];
        let undo = |index| [Event::UndoStarted { index }, Event::Undone { index, spent: Spent::default() }];
        assert!(after(&[&ran[..], &undo(0)].concat()).is_err(), "the first was undone before the second");
        let unwound = after(&[&ran[..], &undo(1), &undo(0)].concat()).unwrap();
        assert_eq!(unwound.next_to_undo(), None);
        assert!(unwound.after(&started(0, 2)).is_err(), "went forward again");
        assert!(unwound.after(&ended(None)).is_err(), "unwound and yet raised");
    }

    #[test]
    fn what_an_earlier_lease_left_half_done_is_undone_too() {
        let inherited = Captured::from([("second".to_owned(), json!(1))]);
        let state = State::new(Purpose::Raise, STEPS, inherited).unwrap();
        assert_eq!(state.next_to_undo(), Some(1));
        assert!(state.after(&Event::UndoStarted { index: 1 }).is_ok());
    }

    #[test]
    fn a_list_with_one_step_twice_is_refused() {
        assert_eq!(
            State::new(Purpose::Raise, ["a", "b", "a"], Captured::new()),
            Err(Illegal::Twice("a".to_owned()))
        );
    }

    fn any_event() -> impl Strategy<Value = Event> {
        (0..7u8, 0..4usize, 0..4u32, any::<bool>()).prop_map(|(kind, index, attempt, flag)| match kind {
            0 => started(index, attempt),
            1 => Event::Adopted { index },
            2 => succeeded(index),
            3 => failed(index),
            4 => Event::UndoStarted { index },
            5 => Event::Undone { index, spent: Spent::default() },
            _ => ended(flag.then_some("no")),
        })
    }

    proptest! {
        #[test]
        fn whatever_happens_at_most_one_step_is_under_way_and_none_behind_it_was_begun(
            events in prop::collection::vec(any_event(), 0..60)
        ) {
            let mut state = state();
            for event in &events {
                let Ok(next) = state.after(event) else { continue };
                prop_assert!(state.end.is_none());
                prop_assert_ne!(&next, &state, "an event that says nothing was taken: {:?}", event);
                let open = |step: &Tracked| {
                    matches!(step.state, StepState::Started(_) | StepState::Failed(_) | StepState::Undoing)
                };
                if !next.unwinding() {
                    prop_assert!(next.steps.iter().filter(|step| open(step)).count() <= 1);
                    let first_open = next.next_to_run().unwrap_or(STEPS.len());
                    for later in next.steps.iter().skip(first_open + 1) {
                        prop_assert_eq!(later.state, StepState::Pending);
                    }
                }
                for step in &next.steps {
                    let ran = matches!(step.state, StepState::Started(_) | StepState::Failed(_) | StepState::Succeeded);
                    prop_assert!(!ran || next.captured.contains_key(&step.name), "{} ran uncaptured", step.name);
                }
                state = next;
            }
        }
    }
}
