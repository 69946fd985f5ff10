//! One fleet on its course: it is raised, or raised and rolled back, and is struck at each point on the way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use liftlock_proto::plan::{Purpose, Role};
use liftlock_proto::v1::{NodePhase, Policy, Rollout, RolloutPhase};
use nix::sys::signal::{Signal, kill};

use crate::fleet::freeze::{Freezer, Watch};
use crate::fleet::link::Cut;
use crate::fleet::operator::Operator;
use crate::fleet::{Fleet, Terms, journals, proofs};
use crate::matrix::TO;
use crate::matrix::course::Course;
use crate::matrix::invariants::{self, Baseline, Silence};
use crate::matrix::points::{Blow, CrashPoint, Place};
use crate::standin::fault::{Action, Fault};
use crate::standin::release::STATIC_PODS;
use crate::standin::serve::Running;

/// Seconds that a lease lasts without renewal here.
const LEASE_TTL: u32 = 3;
/// How long a partition or a stopped agent lasts: well past the lease's end.
const SILENCE: Duration = Duration::from_millis(LEASE_TTL as u64 * 1000 + 2300);
/// How long a fleet may take to come to its next point or to its end.
const LIMIT: Duration = Duration::from_secs(100);
/// How long a roll-out that has ended may still come to a point: what ends it is told before it is put away.
const AFTERMATH: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What became of one point.
#[derive(Debug, Clone)]
pub(super) struct Met {
    pub(super) point: CrashPoint,
    /// When the fault ended, milliseconds since the Unix epoch; `None` if the point was never reached.
    pub(super) fault_ended_ms: Option<u64>,
    /// From the fault's end to the next journalled step or attempt.
    pub(super) recovery: Option<Duration>,
    /// Why it was not reached.
    pub(super) missed: String,
}

/// What became of a course.
#[derive(Debug)]
pub(super) struct Voyage {
    pub(super) course: Course,
    pub(super) met: Vec<Met>,
    /// Whether it ended raised, or rolled back, as its course says.
    pub(super) converged: bool,
    /// Why not, and what every process said last.
    pub(super) failure: String,
    pub(super) violations: Vec<String>,
    pub(super) wall: Duration,
}

/// Sails one course. Never fails: what went wrong is in the result.
pub(super) async fn sail(course: Course) -> Voyage {
    let started = Instant::now();
    let missed = |point: &CrashPoint| Met {
        point: point.clone(),
        fault_ended_ms: None,
        recovery: None,
        missed: "the fleet did not come so far".to_owned(),
    };
    let mut met: Vec<Met> = course.points.iter().map(missed).collect();
    let (converged, violations, failure) = match complete(&course, &mut met).await {
        Ok((violations, words)) => (true, violations, words),
        Err(error) => (false, Vec::new(), format!("{error:#}")),
    };
    Voyage { course, met, converged, failure, violations, wall: started.elapsed() }
}

/// The invariants that did not hold, and then what every process said last; an error where the course was not completed.
async fn complete(course: &Course, met: &mut [Met]) -> Result<(Vec<String>, String)> {
    let mut ship = Ship::launch(course).await.context("the fleet did not start")?;
    if let Err(error) = ship.sail(course, met).await {
        bail!("{error:#}\n{}", ship.fleet.last_words());
    }
    let judged = ship.judge(course, met).await;
    let violations = judged.unwrap_or_else(|error| vec![format!("the record does not read: {error:#}")]);
    let words = if violations.is_empty() { String::new() } else { ship.fleet.last_words() };
    Ok((violations, words))
}

/// A fleet under way.
pub(super) struct Ship {
    pub(super) fleet: Fleet,
    baseline: Baseline,
    silences: Vec<Silence>,
    _holds: Vec<Running>,
}

impl Ship {
    pub(super) async fn launch(course: &Course) -> Result<Self> {
        let terms = Terms { lease_ttl: Some(LEASE_TTL), links: true, ..Terms::default() };
        let fleet = Fleet::start_on(&course.shape(), terms).await?;
        let mut chance = course.chance();
        // An operator's own cordon has to outlive whatever happens.
        let mut nodes = course.nodes();
        nodes.retain(|(_, role)| {
            // On such a node there is nothing to drain and nothing to restore.
            let on_cordons = ["drain", "restore-schedulability"];
            course.of(*role).iter().all(|point| !on_cordons.contains(&point.stretch()))
        });
        let cordoned = nodes.get(chance.below(4)).map(|(node, _)| (*node).to_owned());
        if let Some(node) = &cordoned {
            fleet.cluster.cordon(node, true);
        }
        let baseline = Baseline::of(&fleet, cordoned)?;
        let mut holds = Vec::new();
        for (node, _) in course.nodes() {
            holds.push(hold_until_verified(&fleet, node)?);
        }
        Ok(Self { fleet, baseline, silences: Vec::new(), _holds: holds })
    }

    async fn sail(&mut self, course: &Course, met: &mut [Met]) -> Result<()> {
        let mut legs: Vec<(&str, Role)> = course.nodes();
        let raises = course.purpose == Purpose::Raise;
        let mut freezers = BTreeMap::new();
        if raises {
            freezers = self.arm_first(course).await?;
        }
        self.apply().await?;
        if !raises {
            self.stop_before_the_last(course).await?;
            freezers = self.arm_first(course).await?;
            self.fleet.cli(&["rollback", "--cluster"]).await?.success()?;
            legs.reverse();
        }
        for (node, role) in legs {
            let mut points: VecDeque<&mut Met> =
                met.iter_mut().filter(|met| met.point.role == role).collect();
            let mut freezer = freezers.remove(node);
            while let (Some(met), Some(waiting)) = (points.pop_front(), freezer.take()) {
                if let Err(error) = self.reach(waiting).await {
                    met.missed = format!("{error:#}");
                    break;
                }
                self.require_old_backups(course, node, &met.point)?;
                let next = points.front().map(|next| self.watch(node, &next.point)).transpose()?;
                let struck = self.strike(node, &met.point, next).await;
                let (ended_ms, next) = struck.with_context(|| format!("at {}", met.point))?;
                met.fault_ended_ms = Some(ended_ms);
                freezer = next;
            }
        }
        let wanted = if raises { RolloutPhase::Raised } else { RolloutPhase::RolledBack };
        let rollout = self.wait_for("the roll-out's end", is_over).await?;
        if rollout.phase() != wanted {
            bail!("it ended {:?}: {}", rollout.phase(), rollout.reason);
        }
        Ok(())
    }

    pub(super) async fn apply(&self) -> Result<()> {
        let accepted = ["api-outage", "drain-only-node"].map(str::to_owned).to_vec();
        let policy = Policy { drain_timeout_seconds: 60, accepted, ..Policy::default() };
        self.fleet.operator().await?.apply(&TO.to_string(), policy).await?;
        Ok(())
    }

    /// Raises every node but the last, on which the roll-out pauses.
    pub(super) async fn stop_before_the_last(&self, course: &Course) -> Result<()> {
        let nodes = course.nodes();
        let last = nodes.last().map(|(node, _)| *node).context("a course without nodes")?;
        let phase_of = |rollout: &Rollout, name: &str| {
            rollout.nodes.iter().find(|node| node.name == name).map(liftlock_proto::v1::RolloutNode::phase)
        };
        self.wait_for("the last lease", |rollout| {
            is_over(rollout) || phase_of(rollout, last) == Some(NodePhase::Leased)
        })
        .await?;
        self.fleet.cli(&["pause"]).await?.success()?;
        let rollout = self
            .wait_for("the last node to be raised", |rollout| {
                is_over(rollout) || phase_of(rollout, last) == Some(NodePhase::Raised)
            })
            .await?;
        if rollout.phase() != RolloutPhase::Paused {
            bail!("before any fault it came to be {:?}: {}", rollout.phase(), rollout.reason);
        }
        self.settle(false).await
    }

    /// A freezer for the first point of each lease.
    async fn arm_first(&mut self, course: &Course) -> Result<BTreeMap<&'static str, Freezer>> {
        let mut armed = BTreeMap::new();
        for (node, role) in course.nodes() {
            if let Some(point) = course.of(role).first() {
                let watch = self.watch(node, point)?;
                armed.insert(node, self.fleet.freezer(node, &watch).await?);
            }
        }
        Ok(armed)
    }

    /// What to wait for. A rollback comes under a later lease than the raise that was before it, and only that raise
    /// has left a token in the fence before the lease that is meant.
    fn watch(&self, node: &str, point: &CrashPoint) -> Result<Watch> {
        let state_dir = self.fleet.cluster.machine(node)?.tree.agent_state();
        let after_token = match point.purpose {
            Purpose::Raise => 0,
            Purpose::RollBack => {
                let raises = journals::journals(&state_dir)?;
                let raises = raises.iter().filter(|journal| journal.header.purpose == Purpose::Raise);
                raises.map(|journal| journal.header.token.0).max().unwrap_or_default()
            }
        };
        Ok(Watch { state_dir, after_token, moment: point.moment() })
    }

    /// Waits until the agent is stopped at its point, or until the roll-out has ended without that.
    async fn reach(&self, freezer: Freezer) -> Result<()> {
        let over = async {
            let rollout = self.wait_for("the roll-out's end", is_over).await;
            tokio::time::sleep(AFTERMATH).await;
            rollout
        };
        tokio::select! {
            frozen = freezer.frozen(LIMIT) => frozen,
            rollout = over => {
                let rollout = rollout?;
                bail!("the roll-out came to be {:?} without it: {}", rollout.phase(), rollout.reason)
            }
        }
    }

    /// Retention has no turn before the last node's lease has ended.
    fn require_old_backups(&self, course: &Course, node: &str, point: &CrashPoint) -> Result<()> {
        let is_last = course.nodes().last().is_some_and(|(last, _)| *last == node);
        let (there, nodes) = (invariants::with_old_backup(&self.fleet), self.fleet.nodes());
        if there == nodes || course.purpose == Purpose::Raise && is_last && point.stretch() == "lease-ends" {
            return Ok(());
        }
        bail!("at {point} a backup was pruned already: it is there on {there:?} alone")
    }

    /// Strikes a node whose agent is stopped at the point, and arms what comes next on it before anything can go on.
    /// When the fault ended, and the next freezer.
    async fn strike(
        &mut self,
        node: &str,
        point: &CrashPoint,
        next: Option<Watch>,
    ) -> Result<(u64, Option<Freezer>)> {
        let child = match &point.place {
            Place::Journal(_) => None,
            Place::Child { at, .. } => {
                let fault = Fault::arm(&self.fleet.cluster.machine(node)?.tree, at, &Action::Pause)?;
                self.signal(node, Signal::SIGCONT)?;
                fault.reached(LIMIT).await?;
                Some(fault)
            }
        };
        let release = || child.as_ref().map_or(Ok(()), Fault::disarm);
        Ok(match point.blow {
            Blow::KillAgent => {
                self.fleet.kill_agent(node)?;
                let ended = now_ms();
                self.fleet.start_agent(node).await?;
                let next = self.arm(node, next).await?;
                release()?;
                (ended, next)
            }
            Blow::KillChild => {
                let next = self.arm(node, next).await?;
                let fault = child.as_ref().context("there is no child here")?;
                kill(fault.process()?, Signal::SIGKILL)?;
                let ended = now_ms();
                release()?;
                (ended, next)
            }
            Blow::KillCoordinator => {
                self.fleet.kill_coordinator()?;
                let ended = now_ms();
                let next = self.go_on(node, next).await?;
                release()?;
                self.fleet.start_coordinator().await?;
                (ended, next)
            }
            Blow::Reboot => {
                self.fleet.kill_agent(node)?;
                self.fleet.cluster.reboot(node)?;
                let ended = now_ms();
                release()?;
                self.fleet.start_agent(node).await?;
                (ended, self.arm(node, next).await?)
            }
            Blow::Partition(cut) => {
                self.fleet.link(node)?.set(cut);
                let from_ms = now_ms();
                let next = self.go_on(node, next).await?;
                release()?;
                tokio::time::sleep(SILENCE).await;
                self.fleet.link(node)?.set(Cut::Nothing);
                let to_ms = now_ms();
                self.note_silence(node, from_ms, to_ms);
                (to_ms, next)
            }
            Blow::Stop => {
                self.signal(node, Signal::SIGSTOP)?;
                let from_ms = now_ms();
                release()?;
                tokio::time::sleep(SILENCE).await;
                let ended = now_ms();
                self.note_silence(node, from_ms, ended);
                (ended, self.go_on(node, next).await?)
            }
        })
    }

    fn note_silence(&mut self, node: &str, from_ms: u64, to_ms: u64) {
        let lease_ends_ms = from_ms + u64::from(LEASE_TTL) * 1000;
        self.silences.push(Silence { node: node.to_owned(), lease_ends_ms, to_ms });
    }

    async fn arm(&mut self, node: &str, watch: Option<Watch>) -> Result<Option<Freezer>> {
        Ok(match watch {
            Some(watch) => Some(self.fleet.freezer(node, &watch).await?),
            None => None,
        })
    }

    /// Lets a stopped agent go on to its next point.
    async fn go_on(&mut self, node: &str, next: Option<Watch>) -> Result<Option<Freezer>> {
        if next.is_none() {
            self.signal(node, Signal::SIGCONT)?;
        }
        self.arm(node, next).await
    }

    fn signal(&mut self, node: &str, signal: Signal) -> Result<()> {
        self.fleet.agent(node)?.signal(signal)
    }

    /// Looks at the roll-out until a condition holds; a coordinator that is away for a moment is waited for.
    pub(super) async fn wait_for(&self, what: &str, condition: impl Fn(&Rollout) -> bool) -> Result<Rollout> {
        let end = tokio::time::Instant::now() + LIMIT;
        let mut operator: Option<Operator> = None;
        loop {
            if operator.is_none() {
                operator = self.fleet.operator().await.ok();
            }
            if let Some(connected) = &mut operator {
                match connected.rollout().await {
                    Ok(rollout) if condition(&rollout) => return Ok(rollout),
                    Ok(rollout) if tokio::time::Instant::now() > end => {
                        bail!("waited {LIMIT:?} for {what}: {rollout:#?}")
                    }
                    Ok(_) => {}
                    Err(_) => operator = None,
                }
            }
            if operator.is_none() && tokio::time::Instant::now() > end {
                bail!("waited {LIMIT:?} for {what}, and the coordinator does not answer");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every agent has put its journals away, and until a node that was rebooted at last is up; at the end of
    /// a raise until retention had its turn, too.
    async fn settle(&self, raised: bool) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let mut open = Vec::new();
            if raised {
                let old = invariants::with_old_backup(&self.fleet).into_iter();
                open.extend(old.map(|node| format!("{node}: the backup of an earlier plan")));
            }
            for machine in self.fleet.cluster.machines() {
                for journal in journals::journals(&machine.tree.agent_state())? {
                    if !journal.closed {
                        open.push(format!("{}: lease {}", machine.facts.name, journal.header.token));
                    }
                }
                let running = self.fleet.cluster.containers(&machine.facts.name);
                let starting = STATIC_PODS.into_iter().filter(|component| {
                    let runs = running.iter().any(|container| container.name == *component);
                    machine.tree.manifest(component).exists() && !runs
                });
                open.extend(starting.map(|component| format!("{}: {component}", machine.facts.name)));
            }
            if open.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("what does not come to its end, or does not start: {}", open.join(", "));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Holds the record against every invariant, and measures each recovery.
    pub(super) async fn judge(&self, course: &Course, met: &mut [Met]) -> Result<Vec<String>> {
        self.settle(course.purpose == Purpose::Raise).await?;
        proofs::nobody_is_marked(&self.fleet).await?;
        let history = self.fleet.operator().await?.history().await?;
        let mut moments: Vec<u64> = history
            .iter()
            .filter(|event| matches!(event.kind.as_str(), "lease-ended" | "rollout-ended"))
            .map(|event| event.at_ms)
            .collect();
        for machine in self.fleet.cluster.machines() {
            for journal in journals::journals(&machine.tree.agent_state())? {
                moments.push(journal.header.granted_at_ms);
                let goes_on = journal.records.iter().filter(|(_, event)| event.name() != "failed");
                moments.extend(goes_on.map(|(at_ms, _)| *at_ms));
            }
        }
        moments.sort_unstable();
        for met in met {
            if let Some(ended) = met.fault_ended_ms {
                let next = moments.iter().find(|moment| **moment > ended);
                met.recovery = next.map(|next| Duration::from_millis(next - ended));
            }
        }
        invariants::violations(&self.fleet, course, &self.baseline, &self.silences, &history)
    }
}

/// A kubelet that is Ready at once would leave nothing to do for verify-node: it reports once somebody waits for it.
fn hold_until_verified(fleet: &Fleet, node: &str) -> Result<Running> {
    let held = fleet.cluster.hold_report(node)?;
    let state_dir = fleet.cluster.machine(node)?.tree.agent_state();
    held.store(true, Ordering::Release);
    Ok(Running::spawn(async move {
        let verifies = || {
            let journal = journals::newest_after(&state_dir, 0).ok().flatten()?;
            let (_, last) = journal.records.last()?;
            Some(journal.step_of(last)? == "verify-node" && last.name() == "started")
        };
        while verifies() != Some(true) {
            tokio::time::sleep(LOOK_EVERY / 2).await;
        }
        held.store(false, Ordering::Release);
    }))
}

/// Whether nothing goes on by itself any more.
pub(super) fn is_over(rollout: &Rollout) -> bool {
    matches!(
        rollout.phase(),
        RolloutPhase::Raised | RolloutPhase::Aborted | RolloutPhase::Halted | RolloutPhase::RolledBack
    )
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
