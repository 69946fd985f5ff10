use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::Purpose;
use liftlock_proto::version::KubernetesVersion;
use serde_json::json;

use super::*;
use crate::disk::memory::{AppendFault, MemoryDisk};
use crate::engine::context::TimeSpent;
use crate::engine::journal::Header;
use crate::engine::recovery::{Begun, Journals};
use crate::engine::step::StepPolicy;
use crate::twin::{Outcome, Shape, Twin};

const TTL: Duration = Duration::from_secs(30);

/// A node with one journal, on which each step has two effects.
#[derive(Clone)]
struct Bench {
    twin: Twin,
    disk: MemoryDisk,
    effects: Arc<Mutex<BTreeSet<String>>>,
    events: Arc<Mutex<Vec<String>>>,
    behaviour: Arc<Behaviour>,
}

/// How the steps behave.
#[derive(Default)]
struct Behaviour {
    /// Runs that fail halfway before one succeeds.
    fail: AtomicU32,
    /// Runs whose child is killed halfway.
    killed: AtomicU32,
    /// Runs that end well although their second effect did not come about.
    deceive: AtomicU32,
    /// Runs in the middle of which the agent dies.
    die: AtomicU32,
    /// Runs in the middle of which the lease runs out.
    outlast: AtomicU32,
    /// Checks that fail.
    blind: AtomicU32,
    /// Runs that are refused.
    refuse: AtomicU32,
    /// Undos that fail.
    cling: AtomicU32,
    attempts: AtomicU32,
}

fn take(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

struct FakeStep {
    bench: Bench,
    name: &'static str,
}

impl FakeStep {
    fn effect(&self, half: u8) -> String {
        format!("{}/{half}", self.name)
    }

    fn there(&self) -> Vec<String> {
        let effects = self.bench.effects.lock().unwrap();
        effects.iter().filter(|effect| effect.starts_with(&format!("{}/", self.name))).cloned().collect()
    }

    fn bring_about(&self, cx: &Context, half: u8) -> Result<(), StepFailure> {
        cx.permit()?;
        self.bench.effects.lock().unwrap().insert(self.effect(half));
        Ok(())
    }
}

#[async_trait]
impl StepRunner for FakeStep {
    async fn check(&self, _cx: &Context) -> Result<Observed, StepFailure> {
        if take(&self.bench.behaviour.blind) {
            return Err(StepFailure::Unproven("the API is gone".to_owned()));
        }
        Ok(match self.there().len() {
            0 => Observed::Absent,
            1 => Observed::Partial,
            _ => Observed::Done,
        })
    }

    async fn capture(&self, _cx: &Context) -> Result<PreState, StepFailure> {
        Ok(json!(self.there()))
    }

    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        assert_eq!(pre, &json!([]), "{} was given a half changed node as the one that was", self.name);
        let behaviour = &self.bench.behaviour;
        if take(&behaviour.refuse) {
            return Err(StepFailure::Refused("somebody has to act".to_owned()));
        }
        self.bring_about(cx, 1)?;
        cx.timed(TimeSpent::Child, cx.host.clock.sleep(Duration::from_millis(70))).await;
        if take(&behaviour.die) {
            pending::<()>().await;
        }
        if take(&behaviour.outlast) {
            cx.host.clock.sleep(TTL).await;
        }
        if take(&behaviour.fail) {
            return Err(StepFailure::Unproven("it broke".to_owned()));
        }
        if take(&behaviour.killed) {
            let argv = ["apt-get".to_owned()].into();
            let signal = "signal 9 (SIGKILL)".to_owned();
            return Err(HostError::CommandKilled { argv, signal, output: String::new() }.into());
        }
        if take(&behaviour.deceive) {
            return Ok(());
        }
        self.bring_about(cx, 2)
    }

    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        assert_eq!(pre, &json!([]));
        if take(&self.bench.behaviour.cling) {
            return Err(StepFailure::Unproven("somebody else holds the lock".to_owned()));
        }
        for half in [2, 1] {
            cx.permit()?;
            self.bench.effects.lock().unwrap().remove(&self.effect(half));
            if take(&self.bench.behaviour.die) {
                pending::<()>().await;
            }
        }
        Ok(())
    }

    fn policy(&self) -> StepPolicy {
        let attempts = self.bench.behaviour.attempts.load(Ordering::Relaxed).max(1);
        StepPolicy { attempts, ..StepPolicy::default() }
    }
}

impl Reporter for Bench {
    fn line(&self, _step: &str, _line: &str) {}
    fn spent(&self, _on: TimeSpent, _during: std::ops::Range<Duration>) {}
}

impl Observer for Bench {
    fn journalled(&self, step: &str, attempt: u32, event: &Event) {
        self.events.lock().unwrap().push(format!("{step} {} {attempt}", event.name()));
    }
}

const STEPS: [&str; 3] = ["etcd-snapshot", "restart-kubelet", "restore-schedulability"];

fn version() -> KubernetesVersion {
    "v1.20.2".parse().unwrap()
}

fn header(token: u64) -> Header {
    let steps = vec![
        Step::EtcdSnapshot {},
        Step::RestartKubelet { version: version() },
        Step::RestoreSchedulability {},
    ];
    let (node, plan) = ("cp1".parse().unwrap(), "p-0123456789ab".parse().unwrap());
    Header::new(node, plan, "0123456789ab".to_owned(), FencingToken(token), Purpose::Raise, steps)
}

impl Bench {
    fn new(behaviour: Behaviour) -> Self {
        let from = "v1.19.7".parse().unwrap();
        Self {
            twin: Twin::new(Shape { control_planes: 1, workers: 0, version: from, offered: version() }),
            disk: MemoryDisk::default(),
            effects: Arc::default(),
            events: Arc::default(),
            behaviour: Arc::new(behaviour),
        }
    }

    fn journals(&self) -> Journals {
        Journals::new(Arc::new(self.disk.clone()), "/journal".into(), "cp1".parse().unwrap()).unwrap()
    }

    fn gear(&self, token: u64) -> Gear {
        let host = self.twin.host("cp1");
        let deadline = host.clock.monotonic() + TTL;
        let bench = self.clone();
        Gear {
            node: "cp1".parse().unwrap(),
            lease: Arc::new(Lease::new(FencingToken(token), deadline)),
            reporter: Arc::new(self.clone()),
            observer: Arc::new(self.clone()),
            steps: Arc::new(move |step| {
                Some(Box::new(FakeStep { bench: bench.clone(), name: step.name() }) as _)
            }),
            host,
        }
    }

    /// The lease as a (re)started agent carries it out.
    fn engine(&self, token: u64) -> Result<Engine, JournalError> {
        let granted_at_ms = self.twin.host("cp1").clock.unix_ms();
        match self.journals().begin(Header { granted_at_ms, ..header(token) })? {
            Begun::Run(journal) => Ok(Engine::new(journal, self.gear(token))),
            Begun::Ended(end) => panic!("it ended before: {end:?}"),
        }
    }

    fn run(&self, token: u64) -> Outcome<Result<End, Stopped>> {
        let mut engine = self.engine(token).unwrap();
        self.twin.drive(engine.run())
    }

    fn ended(&self, token: u64) -> End {
        self.run(token).done().expect("the engine stands still").expect("the lease has ended")
    }

    fn effects(&self) -> usize {
        self.effects.lock().unwrap().len()
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

fn all(counter: u32) -> AtomicU32 {
    AtomicU32::new(counter)
}

#[test]
fn a_lease_runs_each_step_once_and_ends_with_where_its_time_went() {
    let bench = Bench::new(Behaviour::default());
    let end = bench.ended(7);
    assert_eq!(end.failure, None);
    assert_eq!((end.spent.child_ms, end.lease_ms), (210, 210));
    let expected: Vec<String> =
        STEPS.iter().flat_map(|step| [format!("{step} started 1"), format!("{step} succeeded 1")]).collect();
    assert_eq!(bench.events(), expected);
    assert_eq!(bench.effects(), 6);
}

#[test]
fn what_is_there_already_is_adopted_and_not_run() {
    let bench = Bench::new(Behaviour::default());
    bench.effects.lock().unwrap().extend(["restart-kubelet/1".to_owned(), "restart-kubelet/2".to_owned()]);
    assert_eq!(bench.ended(7).failure, None);
    assert!(bench.events().contains(&"restart-kubelet adopted 0".to_owned()));
}

#[test]
fn a_crash_at_any_append_is_recovered_from_and_no_effect_comes_before_its_intent() {
    let appends = 2 * STEPS.len() + 1;
    for at in 0..appends {
        for fault in [AppendFault::Lost, AppendFault::Torn, AppendFault::Unacknowledged] {
            let bench = Bench::new(Behaviour::default());
            let mut engine = bench.engine(7).unwrap();
            bench.disk.fail_append(at, fault);
            let stopped = bench.twin.drive(engine.run()).done().unwrap().unwrap_err();
            assert!(matches!(stopped, Stopped::Journal(_)), "append {at} {fault:?}: {stopped}");
            // Each step appends twice: before the even ones nothing of the step may be there, after the odd ones all.
            assert_eq!(bench.effects(), at.div_ceil(2) * 2, "append {at} {fault:?}");
            if let Begun::Run(journal) = bench.journals().begin(header(7)).unwrap() {
                let mut engine = Engine::new(journal, bench.gear(7));
                let end = bench.twin.drive(engine.run()).done().unwrap().unwrap();
                assert_eq!(end.failure, None, "append {at} {fault:?}");
            } else {
                assert!(at == appends - 1 && fault == AppendFault::Unacknowledged);
            }
            assert_eq!(bench.effects(), 6, "append {at} {fault:?}");
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_a_run_is_settled_by_looking_and_keeps_the_first_captured_state() {
    let bench = Bench::new(Behaviour { die: all(3), ..Behaviour::default() });
    for _ in 0..3 {
        assert_eq!(bench.run(7).done().map(|_| ()), None, "it did not die");
    }
    assert_eq!(bench.ended(7).failure, None);
    let events = bench.events();
    assert_eq!(
        events[..5],
        [
            "etcd-snapshot started 1",
            "etcd-snapshot started 2",
            "etcd-snapshot started 3",
            "etcd-snapshot started 4",
            "etcd-snapshot succeeded 4"
        ]
    );
}

#[test]
fn a_step_that_is_cut_off_again_and_again_ends_the_lease() {
    let bench = Bench::new(Behaviour { die: all(u32::MAX), ..Behaviour::default() });
    for _ in 0..MAX_CUT_OFF {
        assert_eq!(bench.run(7).done().map(|_| ()), None, "it did not die");
    }
    let failure = bench.ended(7).failure.unwrap();
    assert!(failure.contains("etcd-snapshot") && failure.contains("cut off 5 times"), "{failure}");
}

#[test]
fn a_step_is_tried_as_often_as_its_policy_says() {
    let behaviour = Behaviour { fail: all(2), attempts: all(3), ..Behaviour::default() };
    let bench = Bench::new(behaviour);
    assert_eq!(bench.ended(7).failure, None);
    let events = bench.events();
    assert_eq!(
        events[..6],
        [
            "etcd-snapshot started 1",
            "etcd-snapshot failed 1",
            "etcd-snapshot started 2",
            "etcd-snapshot failed 2",
            "etcd-snapshot started 3",
            "etcd-snapshot succeeded 3"
        ]
    );
}

#[test]
fn a_step_whose_child_was_killed_is_tried_again_at_once_and_then_after_a_pause() {
    for (killed, pauses) in [(1, 0), (2, 1)] {
        let bench = Bench::new(Behaviour { killed: all(killed), attempts: all(3), ..Behaviour::default() });
        let end = bench.ended(7);
        assert_eq!(end.failure, None);
        let paused = end.lease_ms - end.spent.child_ms;
        assert_eq!(
            u128::from(paused),
            pauses * StepPolicy::default().pause.as_millis(),
            "killed {killed} times"
        );
    }
}

#[test]
fn the_first_step_that_fails_for_good_ends_the_lease_and_none_after_it_begins() {
    let bench = Bench::new(Behaviour { fail: all(2), attempts: all(2), ..Behaviour::default() });
    assert_eq!(bench.ended(7).failure.as_deref(), Some("step etcd-snapshot: it broke"));
    assert_eq!(bench.effects(), 1);
    assert!(matches!(bench.journals().begin(header(7)), Ok(Begun::Ended(_))), "the end is not durable");
}

#[test]
fn a_run_that_ends_well_without_its_effect_counts_as_failed() {
    let bench = Bench::new(Behaviour { deceive: all(1), ..Behaviour::default() });
    let failure = bench.ended(7).failure.unwrap();
    assert!(failure.contains("only a part of its effect is there"), "{failure}");
}

#[test]
fn a_host_that_cannot_be_looked_at_fails_the_step_after_its_attempts_and_not_sooner() {
    let bench = Bench::new(Behaviour { blind: all(1), attempts: all(2), ..Behaviour::default() });
    assert_eq!(bench.ended(7).failure, None);
    let bench = Bench::new(Behaviour { blind: all(9), attempts: all(2), ..Behaviour::default() });
    assert_eq!(bench.ended(7).failure.as_deref(), Some("step etcd-snapshot: the API is gone"));
    assert_eq!(bench.effects(), 0);
}

#[test]
fn a_refusal_ends_the_step_at_once_whatever_its_attempts() {
    let bench = Bench::new(Behaviour { refuse: all(1), attempts: all(5), ..Behaviour::default() });
    assert_eq!(bench.ended(7).failure.as_deref(), Some("step etcd-snapshot: somebody has to act"));
    assert_eq!(bench.effects(), 0);
}

#[test]
fn a_lease_that_runs_out_stops_before_the_next_effect_and_records_no_failure() {
    let bench = Bench::new(Behaviour { outlast: all(1), ..Behaviour::default() });
    let stopped = bench.run(7).done().unwrap().unwrap_err();
    assert!(matches!(stopped, Stopped::LeaseLost(_)), "{stopped}");
    assert_eq!((bench.effects(), bench.events()), (1, vec!["etcd-snapshot started 1".to_owned()]));
    // Granted again, with the same token, it goes on.
    assert_eq!(bench.ended(7).failure, None);
    assert_eq!(bench.effects(), 6);
}

#[test]
fn on_a_full_disk_nothing_is_begun() {
    let bench = Bench::new(Behaviour::default());
    let mut engine = bench.engine(7).unwrap();
    bench.disk.limit(Some(20));
    let stopped = bench.twin.drive(engine.run()).done().unwrap().unwrap_err().to_string();
    assert!(stopped.contains("the disk is full") && stopped.contains("liftlock retry"), "{stopped}");
    assert_eq!(bench.effects(), 0);
    bench.disk.limit(None);
    assert_eq!(bench.ended(7).failure, None);
}

#[test]
fn a_retry_takes_the_node_for_what_it_was_before_the_first_lease() {
    let bench = Bench::new(Behaviour { fail: all(1), ..Behaviour::default() });
    assert!(bench.ended(7).failure.is_some());
    bench.journals().close(&header(7).plan, FencingToken(7)).unwrap();
    // The fake step asserts that what it is given is the node without any effect.
    assert_eq!(bench.ended(8).failure, None);
    assert_eq!(bench.effects(), 6);
}

/// The events of putting back what [`failed_halfway`] ran.
const PUT_BACK: [&str; 4] = [
    "restart-kubelet undo-started 0",
    "restart-kubelet undone 0",
    "etcd-snapshot undo-started 0",
    "etcd-snapshot undone 0",
];

fn failed_halfway() -> (Bench, Engine) {
    let bench = Bench::new(Behaviour::default());
    let mut engine = bench.engine(7).unwrap();
    bench.effects.lock().unwrap().insert("restore-schedulability/9".to_owned());
    for index in 0..2 {
        assert_eq!(bench.twin.drive(engine.step(index)).done().unwrap().unwrap(), Ok(()));
    }
    bench.effects.lock().unwrap().remove("restore-schedulability/9");
    bench.events();
    (bench, engine)
}

#[test]
fn unwinding_puts_back_what_ran_last_first() {
    let (bench, mut engine) = failed_halfway();
    let end = bench.twin.drive(engine.unwind("it broke".to_owned())).done().unwrap().unwrap();
    assert_eq!(end.failure.as_deref(), Some("it broke. What was changed on the node was put back"));
    assert_eq!(bench.events(), PUT_BACK);
    assert_eq!(bench.effects(), 0);
}

#[test]
fn a_lease_to_roll_back_undoes_what_an_earlier_one_ran_and_ends_well() {
    let (bench, engine) = failed_halfway();
    drop(engine);
    let lease = Header { purpose: Purpose::RollBack, ..header(8) };
    let Begun::Run(journal) = bench.journals().begin(lease).unwrap() else { panic!() };
    let end = bench.twin.drive(Engine::new(journal, bench.gear(8)).run()).done().unwrap().unwrap();
    assert_eq!(end.failure, None);
    assert_eq!(bench.events(), PUT_BACK);
    assert_eq!(bench.effects(), 0);
}

#[test]
fn an_undo_is_tried_as_often_as_its_policy_says() {
    for (attempts, expected) in [(2, None), (1, Some("step restart-kubelet: somebody else holds the lock"))] {
        let (bench, engine) = failed_halfway();
        drop(engine);
        bench.behaviour.attempts.store(attempts, Ordering::Relaxed);
        bench.behaviour.cling.store(1, Ordering::Relaxed);
        let lease = Header { purpose: Purpose::RollBack, ..header(8) };
        let Begun::Run(journal) = bench.journals().begin(lease).unwrap() else { panic!() };
        let end = bench.twin.drive(Engine::new(journal, bench.gear(8)).run()).done().unwrap().unwrap();
        let failure =
            end.failure.as_deref().map(|failure| failure.trim_start_matches("the node is not put back: "));
        assert_eq!(failure, expected, "{attempts} attempts");
    }
}

#[test]
fn a_crash_at_any_append_of_an_unwinding_is_recovered_from_and_ends_unwound() {
    for at in 0..5 {
        for fault in [AppendFault::Lost, AppendFault::Torn, AppendFault::Unacknowledged] {
            let (bench, mut engine) = failed_halfway();
            bench.disk.fail_append(at, fault);
            let stopped = bench.twin.drive(engine.unwind("it broke".to_owned())).done().unwrap().unwrap_err();
            assert!(matches!(stopped, Stopped::Journal(_)), "append {at} {fault:?}: {stopped}");
            let end = match bench.journals().begin(header(7)).unwrap() {
                Begun::Ended(end) => end,
                Begun::Run(journal) => {
                    let mut engine = Engine::new(journal, bench.gear(7));
                    // Until the first undo is durable the lease goes forward again when it is granted again.
                    if !engine.journal.state().unwinding() {
                        assert!(at == 0 && fault != AppendFault::Unacknowledged);
                        continue;
                    }
                    bench.twin.drive(engine.run()).done().unwrap().unwrap()
                }
            };
            assert!(end.failure.is_some_and(|failure| failure.contains("was put back")));
            assert_eq!(bench.effects(), 0, "append {at} {fault:?}");
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_an_undo_is_recovered_from() {
    let (bench, mut engine) = failed_halfway();
    bench.behaviour.die.store(1, Ordering::Relaxed);
    assert_eq!(bench.twin.drive(engine.unwind("it broke".to_owned())).done().map(|_| ()), None);
    let end = bench.ended(7);
    assert!(end.failure.unwrap().contains("was put back"));
    assert_eq!(bench.effects(), 0);
}

#[test]
fn a_step_that_does_not_run_under_a_lease_ends_it() {
    let bench = Bench::new(Behaviour::default());
    let Begun::Run(journal) = bench.journals().begin(header(7)).unwrap() else { panic!() };
    let mut engine = Engine::new(journal, Gear { steps: Arc::new(|_| None), ..bench.gear(7) });
    let end = bench.twin.drive(engine.run()).done().unwrap().unwrap();
    assert!(end.failure.unwrap().contains("does not run under a lease"));
}
