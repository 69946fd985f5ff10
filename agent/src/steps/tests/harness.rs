//! One node of a twin cluster under a lease, carried step by step as the engine does it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;

use super::{addons, hooks};
use crate::engine::context::{Captured, Context, PrepareContext, Reporter, TimeSpent};
use crate::engine::fence;
use crate::engine::lease::Lease;
use crate::engine::meter::Moments;
use crate::engine::step::{Observed, StepFailure};
use crate::redeploy::import::import;
use crate::steps::{preparation, runner};
use crate::twin::{Machine, Meanwhile, Outcome, Picture, Shape, Twin, redeploy};

pub(super) const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);
pub(super) const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

/// The agent's fence: a host without one is new.
const FENCE: &str = "/var/lib/liftlock/fence";

/// A node under a lease.
#[derive(Clone)]
pub(super) struct Leased {
    pub(super) twin: Twin,
    pub(super) node: &'static str,
    pub(super) steps: Vec<Step>,
    pub(super) captured: Captured,
    pub(super) lease: Arc<Lease>,
    pub(super) log: Arc<Log>,
}

/// What was reported.
#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<Vec<String>>,
    spent: Mutex<BTreeMap<&'static str, Moments>>,
}

impl Log {
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub(super) fn spent(&self, on: &'static str) -> Duration {
        self.spent.lock().unwrap().get(on).map(Moments::total).unwrap_or_default()
    }
}

impl Reporter for Log {
    fn line(&self, step: &str, line: &str) {
        self.lines.lock().unwrap().push(format!("{step}: {line}"));
    }

    fn spent(&self, on: TimeSpent, during: Range<Duration>) {
        let on = match on {
            TimeSpent::Child => "child",
            TimeSpent::Wait => "wait",
            TimeSpent::Snapshot => "snapshot",
        };
        self.spent.lock().unwrap().entry(on).or_default().add(during);
    }
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed(String),
    /// A fault ended the agent.
    Died,
}

pub(super) fn shape(control_planes: usize, workers: usize) -> Shape {
    Shape { control_planes, workers, version: FROM, offered: TO }
}

/// The steps that a coordinator plans for a role.
pub(super) fn steps_of(role: Role, version: KubernetesVersion) -> Vec<Step> {
    let ignore_preflight_errors = Vec::new();
    let control_plane = role.is_control_plane();
    let upgrade = if role == Role::FirstControlPlane {
        Step::KubeadmUpgradeApply { version, ignore_preflight_errors }
    } else {
        Step::KubeadmUpgradeNode { version, ignore_preflight_errors, role }
    };
    let mut steps = Vec::new();
    if control_plane {
        steps.extend([Step::EtcdQuorumGate { allow_api_outage: true }, Step::EtcdSnapshot {}]);
    }
    steps.extend([
        Step::BackUpNode { role },
        Step::SealProtectedPaths {},
        Step::InstallKubeadm { version },
        upgrade,
    ]);
    if control_plane {
        steps.push(Step::VerifyControlPlane { version });
    }
    steps.extend([
        drain_step(),
        Step::InstallKubelet { version },
        Step::RestartKubelet { version },
        Step::VerifyNode { version },
        Step::RestoreSchedulability {},
        Step::VerifyProtectedPaths {},
    ]);
    steps
}

pub(super) fn drain_step() -> Step {
    Step::Drain {
        timeout_seconds: 600,
        delete_unmanaged_pods: false,
        delete_empty_dir_data: false,
        allow_only_schedulable_node: true,
        on_blocked: OnBlocked::Pause,
    }
}

/// One node of each kind, ready for its lease.
pub(super) fn one_of_each() -> Vec<(&'static str, Leased)> {
    let twin = Twin::new(shape(3, 2));
    twin.world().cluster.add_pod("app", "w1", |_| {});
    let first = Leased::new(&twin, "cp1", Role::FirstControlPlane);
    let mut raised = first.fork();
    raised.carry_all();
    let mut second = Leased::new(&raised.twin.fork(), "cp2", Role::ControlPlane);
    addons::lay(&mut second);
    let mut worker = Leased::new(&raised.twin.fork(), "w1", Role::Worker);
    hooks::name(&mut worker, &[hooks::OUT], &[hooks::IN]);
    let switching = Leased::switching(&raised.twin.fork(), "w2", Role::Worker);
    let alone = Leased::new(&Twin::new(shape(1, 1)), "cp1", Role::FirstControlPlane);
    vec![
        ("the first of three control planes", first),
        ("the second control plane, with add-ons", second),
        ("a worker, with hooks", worker),
        ("the only control plane", alone),
        ("a worker whose repositories are split by minor", switching),
    ]
}

impl Leased {
    /// A node whose package repositories are split by minor, and its lease.
    pub(super) fn switching(twin: &Twin, node: &'static str, role: Role) -> Self {
        let mut leased = Self::new(twin, node, role);
        leased.meddle(Machine::split_repositories);
        let first = leased.steps.iter().position(|step| step.name() == "install-kubeadm").unwrap();
        leased.steps.insert(first, Step::SwitchRepository { version: TO });
        leased
    }

    pub(super) fn new(twin: &Twin, node: &'static str, role: Role) -> Self {
        Self {
            twin: twin.clone(),
            node,
            steps: steps_of(role, TO),
            captured: Captured::new(),
            lease: Arc::new(Lease::new(FencingToken(7), Duration::MAX)),
            log: Arc::default(),
        }
    }

    /// The same lease on another cluster that is as this one is now.
    pub(super) fn fork(&self) -> Self {
        Self { twin: self.twin.fork(), log: Arc::default(), ..self.clone() }
    }

    pub(super) fn context(&self, step: &Step) -> Context {
        Context {
            host: self.twin.host(self.node),
            node: self.node.parse().unwrap(),
            plan: "p-0123456789ab".parse().unwrap(),
            step: step.name(),
            lease: Arc::clone(&self.lease),
            captured: Arc::new(self.captured.clone()),
            reporter: Arc::clone(&self.log) as Arc<dyn Reporter>,
        }
    }

    pub(super) fn picture(&self) -> Picture {
        // Kubelets report, containers start.
        self.twin.settle(Duration::from_secs(30));
        self.twin.world().picture(self.node).unwrap()
    }

    pub(super) fn changes(&self) -> Vec<String> {
        self.twin.world().changes(self.node).map(str::to_owned).collect()
    }

    pub(super) fn step(&self, name: &str) -> Step {
        self.steps.iter().find(|step| step.name() == name).unwrap().clone()
    }

    pub(super) fn check(&self, step: &Step) -> Result<Observed, StepFailure> {
        let cx = self.context(step);
        self.twin.drive(runner(step).unwrap().check(&cx)).done().unwrap()
    }

    /// One step, as the engine carries it out: with its attempts, and proven by its check.
    pub(super) fn carry(&mut self, step: &Step) -> End {
        let runner = runner(step).unwrap();
        let policy = runner.policy();
        let mut failed = 0;
        loop {
            let failure = match self.attempt(step) {
                Outcome::Done(Ok(())) => return End::Done,
                Outcome::Done(Err(failure)) => failure,
                // Its own command did that: the new system starts up.
                Outcome::Died if self.is_bare() => {
                    self.restart(Meanwhile::StillRunning);
                    if self.is_bare() {
                        return End::Died;
                    }
                    continue;
                }
                Outcome::Died => return End::Died,
                Outcome::Stuck => panic!("{} waits for ever", step.name()),
            };
            failed += 1;
            if failed >= policy.attempts || matches!(failure, StepFailure::Refused(_)) {
                return End::Failed(failure.to_string());
            }
            let cx = self.context(step);
            self.twin.drive(cx.host.clock.sleep(policy.pause));
        }
    }

    fn attempt(&mut self, step: &Step) -> Outcome<Result<(), StepFailure>> {
        let runner = runner(step).unwrap();
        let cx = self.context(step);
        let twin = self.twin.clone();
        let captured = &mut self.captured;
        twin.drive(async {
            if runner.check(&cx).await? == Observed::Done {
                return Ok(());
            }
            if !captured.contains_key(cx.step) {
                let pre = runner.capture(&cx).await?;
                captured.insert(cx.step.to_owned(), pre);
            }
            runner.run(&cx, &captured[cx.step]).await?;
            match runner.check(&cx).await? {
                Observed::Done => Ok(()),
                observed => Err(StepFailure::Unproven(format!("it ran, and its effect is {observed:?}"))),
            }
        })
    }

    /// All steps from one on; where it did not come to the end, the step at which it stopped.
    pub(super) fn carry_from(&mut self, first: usize) -> Result<(), (usize, End)> {
        for (index, step) in self.steps.clone().iter().enumerate().skip(first) {
            match self.carry(step) {
                End::Done => {}
                end => return Err((index, end)),
            }
        }
        Ok(())
    }

    pub(super) fn carry_all(&mut self) {
        assert_eq!(self.carry_from(0), Ok(()));
    }

    /// All steps before one.
    pub(super) fn carry_until(&mut self, name: &str) {
        for step in self.steps.clone().iter().take_while(|step| step.name() != name) {
            assert_eq!(self.carry(step), End::Done, "{}", step.name());
        }
    }

    /// A step that must fail; its words.
    pub(super) fn fail(&mut self, name: &str) -> String {
        match self.carry(&self.step(name)) {
            End::Failed(why) => why,
            end => panic!("{name} ended: {end:?}"),
        }
    }

    /// The backup folders of this plan.
    pub(super) fn backups(&self) -> Vec<Utf8PathBuf> {
        let world = self.twin.world();
        let tmp = Utf8Path::new("/etc/kubernetes/tmp");
        let names = world.machine(self.node).unwrap().disk.list(tmp);
        names.iter().filter(|name| name.starts_with("liftlock-")).map(|name| tmp.join(name)).collect()
    }

    /// Virtual time since an earlier moment.
    pub(super) fn since(&self, started: Duration) -> Duration {
        self.twin.world().now().saturating_sub(started)
    }

    /// Changes the machine behind the agent's back.
    pub(super) fn meddle<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        self.twin.world().change(self.node, change).unwrap()
    }

    /// Runs a step once more although it is done.
    pub(super) fn run_again(&self, step: &Step) -> Result<(), StepFailure> {
        let cx = self.context(step);
        let run = async { runner(step).unwrap().run(&cx, &self.captured[cx.step]).await };
        self.twin.drive(run).done().unwrap()
    }

    pub(super) fn undo(&self, step: &Step) -> End {
        let cx = self.context(step);
        let Some(pre) = self.captured.get(cx.step) else {
            return End::Done;
        };
        match self.twin.drive(runner(step).unwrap().undo(&cx, pre)) {
            Outcome::Done(Ok(())) => End::Done,
            Outcome::Done(Err(failure)) => End::Failed(failure.to_string()),
            Outcome::Died => End::Died,
            Outcome::Stuck => panic!("the undo of {} waits for ever", step.name()),
        }
    }

    /// Undoes steps from the last that ran back to the first; where it did not come to the end, where it stopped.
    pub(super) fn unwind_from(&self, last: usize) -> Result<(), (usize, End)> {
        for (index, step) in self.steps.iter().enumerate().take(last + 1).rev() {
            match self.undo(step) {
                End::Done => {}
                end => return Err((index, end)),
            }
        }
        Ok(())
    }

    pub(super) fn restart(&self, meanwhile: Meanwhile) {
        self.twin.restart(self.node, meanwhile);
        let Some(replacement) = self.twin.world().redeploy.clone() else { return };
        // As the unit does before the agent's: until it succeeds, or is killed itself.
        loop {
            let (host, node) = (self.twin.host(self.node), self.node.parse().unwrap());
            match self.twin.drive(import(&host, &node, &replacement.store)) {
                Outcome::Done(Err(error)) if self.twin.struck().is_none() => panic!("{error}"),
                Outcome::Done(Err(_)) => {}
                Outcome::Done(Ok(_)) | Outcome::Died => return,
                Outcome::Stuck => panic!("the import waits for ever"),
            }
        }
    }

    /// Whether the host was replaced and nothing was brought back yet.
    pub(super) fn is_bare(&self) -> bool {
        self.twin.world().redeploy.is_some() && self.meddle(|machine| !machine.disk.exists(FENCE.into()))
    }

    /// The lease of a plan that replaces the host as a whole, which its configuration allows.
    pub(super) fn redeploying(twin: &Twin, node: &'static str, role: Role) -> Self {
        twin.world().redeploy = Some(Arc::new(redeploy::replacement()));
        let mut leased = Self::new(twin, node, role);
        for step in &mut leased.steps {
            if step.name() == "install-kubelet" {
                let command = vec![redeploy::COMMAND.to_owned()];
                *step = Step::Redeploy { version: TO, command, allow_api_outage: true };
            }
        }
        leased.meddle(|machine| {
            machine.disk.put(redeploy::COMMAND, "#!", 0o755);
            machine.disk.make_folder("/mnt/persistent/liftlock".into(), 0o700);
            machine.disk.put(FENCE, fence::written(FencingToken(7)), 0o600);
        });
        leased
    }

    /// A retry: a new lease that remembers what the earlier ones captured.
    pub(super) fn lease_again(&mut self, token: u64) {
        self.lease = Arc::new(Lease::new(FencingToken(token), Duration::MAX));
        self.meddle(|machine| machine.disk.put(FENCE, fence::written(FencingToken(token)), 0o600));
    }

    pub(super) fn prepare(&self, step: &Step) -> Result<(), StepFailure> {
        let cx = PrepareContext {
            host: self.twin.host(self.node),
            node: self.node.parse().unwrap(),
            plan: "p-0123456789ab".parse().unwrap(),
            step: step.name(),
            reporter: Arc::clone(&self.log) as Arc<dyn Reporter>,
        };
        self.twin.drive(preparation(step).unwrap().run(&cx)).done().unwrap()
    }
}
