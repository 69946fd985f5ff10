//! One schedule from its beginning to its end: N agents, a coordinator, the network between them and an operator, in
//! one thread and in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use liftlock::clock::Clock as CoordinatorClock;
use liftlock::document::UpgradePlan;
use liftlock::identity::authority::Authority;
use liftlock::keeper::{Keeper, Order};
use liftlock_agent::redeploy::import::import;
use liftlock_agent::session::Workplace;
use liftlock_agent::session::identity::{Enrolled, IdentityStore};
use liftlock_agent::steps;
use liftlock_agent::twin::{Budget, Fault, Meanwhile, Picture, Shape, Twin, World};
use liftlock_proto::enrollment::Identity;
use liftlock_proto::name::NodeName;
use liftlock_proto::retention::Retention;
use liftlock_proto::v1;
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::coordinator_message::Message as Told;
use tokio::sync::mpsc;
use tonic::Status;

use super::dice::Dice;
use super::disk::SimulatedDisk;
use super::laws::{Law, Laws, Violation};
use super::outside::Outside;
use super::process::{Polled, Process, Started};
use super::sabotage::{Sabotage, step_table};
use super::schedule::{Commit, End, Misfortune, Moment, Schedule, Verb};
use super::store::SimulatedStore;
use super::surroundings::HOOK;
use super::wire::{Arrived, NodeLine, Wire};
use super::workload::{FROM, NEW, TO, Wanted};

/// Messages that wait for an agent, as the coordinator's service has it.
const OUTBOX: usize = 64;

/// A roll-out that goes on for so long comes to no end.
const PATIENCE: Duration = Duration::from_hours(6);

/// What is left to do when a roll-out has ended: reports, acknowledgements, kubelets.
const AFTERMATH: Duration = Duration::from_secs(90);

/// The kernel writes back what nobody syncs after so long.
const WRITE_BACK: Duration = Duration::from_secs(35);

/// For so long a broken build does as if.
const OLD_FIRST: Duration = Duration::from_mins(3);

/// systemd's `RestartSec`.
const RESTART: Duration = Duration::from_secs(1);

/// How one schedule ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// What ended it for the first time: without anybody's help, unless the schedule has an operator speak.
    pub end: Option<Outcome>,
    /// Whether a plan was ever applied.
    pub applied: bool,
    /// Things that happened: messages that arrived, moments that came.
    pub events: u64,
    /// Misfortunes that struck, by kind.
    pub struck: BTreeMap<&'static str, u64>,
    /// The first law that was broken.
    pub violation: Option<Violation>,
    /// What happened, if it was asked for.
    pub story: Vec<String>,
}

/// Where a roll-out came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every node runs the target.
    Raised,
    /// Every node is as it was.
    RolledBack,
    /// An operator ended it.
    Aborted,
    /// Somebody has to decide.
    Asks,
}

/// Everything that is simulated.
struct Simulation<'a> {
    schedule: &'a Schedule,
    sabotage: Option<Sabotage>,
    authority: &'a Arc<Authority>,
    laws: Laws,
    dice: Dice,
    twin: Twin,
    wire: Wire,
    nodes: BTreeMap<String, Node>,
    store: SimulatedStore,
    clock_ahead_ms: i64,
    keeper: Option<Keeper>,
    outside: Outside,
    /// When it is started again; from the store, or from a copy of this commit.
    coordinator_back: Option<Duration>,
    /// What happens at a moment, in order.
    timed: BTreeMap<(Duration, usize), Misfortune>,
    began: Duration,
    now: Duration,
    operator: Operator,
    events: u64,
    /// How each node was at first.
    pictures: BTreeMap<String, Picture>,
    /// How each node was when a later stop of a path began, by the roll-out's number.
    at_stops: BTreeMap<u64, AtStop>,
    seen_commits: u64,
}

/// How the nodes were when a stop of a path began.
#[derive(Default)]
struct AtStop {
    pictures: BTreeMap<String, Picture>,
    /// A lease has been granted there: from now on they change.
    begun: bool,
}

struct Node {
    disk: SimulatedDisk,
    process: Option<Process>,
    /// When it is started again.
    back: Option<(Duration, End)>,
    stopped_until: Option<Duration>,
    disk_full_until: Option<Duration>,
}

/// What the operator has done.
#[derive(Default)]
struct Operator {
    applied: bool,
    /// At any time.
    ever_applied: bool,
    /// Looks again at this moment.
    looks_at: Duration,
    /// Where the roll-out came to rest first.
    rest: Option<Outcome>,
    retries: u32,
    rollbacks: u32,
    ended_at: Option<Duration>,
    /// Since when a roll-out is at rest that has passed a node over: what was put back comes up again.
    rests_since: Option<Duration>,
}

/// The coordinator's time of day.
struct Wall {
    twin: Twin,
    ahead_ms: i64,
}

impl CoordinatorClock for Wall {
    fn unix_ms(&self) -> u64 {
        self.twin.world().unix_ms("coordinator").saturating_add_signed(self.ahead_ms)
    }

    fn steady_ms(&self) -> u64 {
        u64::try_from(self.twin.world().now().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Runs a schedule. `tells` keeps its story.
pub fn run(
    schedule: &Schedule,
    sabotage: Option<Sabotage>,
    authority: &Arc<Authority>,
    tells: bool,
) -> Ended {
    let laws = Laws::new(schedule, tells);
    let mut simulation = Simulation::new(schedule, sabotage, authority, laws.clone());
    simulation.go_on();
    Ended {
        end: simulation.operator.rest,
        applied: simulation.operator.ever_applied,
        events: simulation.events,
        struck: laws.struck(),
        violation: laws.first_violation(),
        story: laws.story(),
    }
}

impl<'a> Simulation<'a> {
    fn new(
        schedule: &'a Schedule,
        sabotage: Option<Sabotage>,
        authority: &'a Arc<Authority>,
        laws: Laws,
    ) -> Self {
        let Schedule { control_planes, workers, .. } = *schedule;
        let twin = Twin::new(Shape { control_planes, workers, version: FROM, offered: TO });
        let began = {
            let mut world = twin.world();
            if let Some(node) = schedule.cordoned.as_ref().and_then(|node| world.cluster.nodes.get_mut(node))
            {
                node.unschedulable = true;
            }
            world.offered.extend(schedule.wanted.offered());
            if let Some(machine) = schedule.wanted.joins() {
                world.add_machine(machine, FROM);
            }
            for node in schedule.nodes() {
                if world.cluster.nodes.contains_key(&node) {
                    world.cluster.add_pod("app", &node, |_| {});
                }
            }
            stand_in_pools(&mut world, schedule);
            schedule.around.lay(&mut world);
            // Long enough for leases to be renewed meanwhile.
            let mut dice = Dice::apart(schedule.seed, 4);
            for pod in world.cluster.pods.values_mut() {
                pod.grace = dice.time(500..40_000);
            }
            if let Some(dead) = schedule.wanted.dead() {
                world.strike(dead, Fault::PowerFails);
            }
            world.now()
        };
        let mut names = schedule.nodes();
        names.retain(|node| schedule.wanted.dead() != Some(node));
        twin.world().watch(Arc::new(laws.clone()));
        laws.begins(began);
        let node = |name: &String| {
            let disk = SimulatedDisk::new(name, &laws, sabotage);
            let disk = if schedule.around.redeploy { disk.in_machine(&twin) } else { disk };
            let back = Some((began, End::Agent));
            let node = Node { disk, process: None, back, stopped_until: None, disk_full_until: None };
            (name.clone(), node)
        };
        let timed = schedule.misfortunes.iter().enumerate();
        let timed = timed.filter_map(|(index, one)| Some(((began + one.at()?, index), one.clone())));
        Self {
            schedule,
            sabotage,
            authority,
            dice: Dice::apart(schedule.seed, 3),
            wire: Wire::new(schedule.seed, &laws, sabotage),
            nodes: names.iter().map(node).collect(),
            store: SimulatedStore::new(&laws, &schedule.misfortunes),
            clock_ahead_ms: i64::try_from(schedule.around.clock_ahead.as_millis()).unwrap_or_default(),
            keeper: None,
            outside: Outside::new(&schedule.around, sabotage, &laws, began),
            coordinator_back: Some(began),
            timed: timed.collect(),
            began,
            now: began,
            operator: Operator { looks_at: began + Duration::from_secs(1), ..Operator::default() },
            events: 0,
            pictures: names
                .iter()
                .filter_map(|node| Some((node.clone(), twin.world().picture(node)?)))
                .collect(),
            at_stops: BTreeMap::new(),
            seen_commits: 0,
            laws,
            twin,
        }
    }

    fn go_on(&mut self) {
        self.laws.tick(self.now);
        self.wire.tick(self.now);
        loop {
            let mut moved = self.come_back();
            moved |= self.misfortunes();
            moved |= self.processes();
            moved |= self.wire.pump();
            moved |= self.arrivals();
            moved |= self.outside();
            moved |= self.operator();
            if self.laws.first_violation().is_some() {
                return;
            }
            if moved {
                continue;
            }
            if let Some(at) = self.operator.ended_at {
                if !self.all_is_well() || self.wire.is_parted() {
                    self.operator.ended_at = Some(self.now);
                } else if self.now >= at + AFTERMATH {
                    return self.look_at_the_end();
                }
            }
            if self.now > self.began + PATIENCE {
                // A power cut that broke the only control plane before anything was applied leaves nothing to end.
                if self.keeper.as_ref().is_some_and(|keeper| keeper.rollout(None).is_err()) {
                    if self.schedule.must_be_applied() {
                        let seen = format!("no plan was applied in {PATIENCE:?}");
                        self.laws.broken(Law::Applied, seen);
                    }
                    return;
                }
                let why = self.whereabouts();
                return self.laws.broken(Law::Ends, format!("it goes on after {PATIENCE:?}: {why}"));
            }
            self.time_passes();
        }
    }

    /// On to the next moment at which anything happens.
    fn time_passes(&mut self) {
        let backs = self.nodes.values().flat_map(|node| {
            let back = node.back.map(|(at, _)| at);
            back.into_iter().chain(node.stopped_until).chain(node.disk_full_until)
        });
        let others = self.wire.next().into_iter().chain(self.coordinator_back).chain(backs);
        let others = others.chain(self.outside.next());
        let others = others.chain(self.timed.keys().next().map(|(at, _)| *at));
        let next = others.chain([self.operator.looks_at]).filter(|at| *at > self.now).min();
        let mut world = self.twin.world();
        if let Some(next) = next {
            world.wake_at(next);
        }
        world.advance();
        drop(world);
        self.events += 1;
        self.clock_follows();
    }

    /// Takes the time from the twin, where it has gone on.
    fn clock_follows(&mut self) {
        self.now = self.twin.world().now();
        self.laws.tick(self.now);
        self.wire.tick(self.now);
    }

    /// Polls agents until each of them waits.
    fn processes(&mut self) -> bool {
        let mut moved = false;
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            while let Some(node) = self.nodes.get_mut(&name) {
                if node.stopped_until.is_some() {
                    break;
                }
                let Some(process) = &mut node.process else { break };
                let polled = process.poll();
                if polled == Polled::Nothing {
                    break;
                }
                moved = true;
                if polled == Polled::Ended {
                    self.end_process(&name, End::Agent, RESTART);
                } else {
                    self.laws.awaits(&name);
                    self.carry_out_ends();
                }
            }
        }
        moved
    }

    /// Ends what a misfortune ended in the middle of something.
    fn carry_out_ends(&mut self) {
        for (name, what, away) in self.laws.take_ended() {
            self.end_process(&name, what, away);
        }
    }

    fn end_process(&mut self, name: &str, what: End, away: Duration) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.process = None;
        node.stopped_until = None;
        node.back = Some((self.now + away, what));
        self.wire.process_ended(name, what.cuts_power());
        if what.cuts_power() {
            self.twin.world().strike(name, Fault::PowerFails);
            if let Some(path) = self.manifest_in_flight(name) {
                let mut world = self.twin.world();
                world.change(name, |machine| match what {
                    End::PowerAndManifest => {
                        machine.disk.remove(path.as_str().into());
                    }
                    End::PowerEmptiesManifest => machine.disk.put(path.as_str(), "", 0o600),
                    _ => {}
                });
            }
        }
        self.laws.tell(|| format!("{name}: {what:?} has ended, for {away:?}"));
    }

    /// The manifest that was moved last, if that is so short a time ago that the disk may not have it.
    fn manifest_in_flight(&self, name: &str) -> Option<String> {
        let world = self.twin.world();
        let unsynced = world.machine(name)?.unsynced.iter();
        let manifests = unsynced.filter(|(path, at)| {
            path.starts_with("/etc/kubernetes/manifests/") && **at + WRITE_BACK > self.now
        });
        manifests.max_by_key(|(_, at)| **at).map(|(path, _)| path.clone())
    }

    /// Starts again what has been away for long enough.
    fn come_back(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            if node.disk_full_until.is_some_and(|until| until <= now) {
                node.disk_full_until = None;
                node.disk.fill(false);
            }
            if node.stopped_until.is_some_and(|until| until <= now) {
                node.stopped_until = None;
                moved = true;
            }
            if let Some((_, what)) = node.back.take_if(|(at, _)| *at <= now) {
                node.disk.agent_starts(what.cuts_power());
                let meanwhile =
                    if what == End::AgentOnly { Meanwhile::Ended } else { Meanwhile::StillRunning };
                self.twin.restart(&name, meanwhile);
                self.clock_follows();
                self.start_agent(&name);
                moved = true;
            }
        }
        if self.coordinator_back.is_some_and(|at| at <= now) {
            self.coordinator_back = None;
            self.start_coordinator();
            moved = true;
        }
        moved
    }

    fn start_agent(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let (Ok(node_name), Ok(coordinator)) = (name.parse::<NodeName>(), "https://coordinator:7443".parse())
        else {
            return;
        };
        self.laws.tell(|| format!("{name}: the agent starts"));
        let (started, host) = (Started::default(), self.twin.host(name));
        let clock = Arc::clone(&host.clock);
        let line = NodeLine { wire: self.wire.clone(), node: name.to_owned(), clock };
        let place = Workplace {
            host,
            node: node_name.clone(),
            disk: Arc::new(node.disk.clone()),
            steps: step_table(self.sabotage),
            preparations: Arc::new(steps::preparation),
            tasks: Arc::new(started.clone()),
            line: Arc::new(line),
            // The shortest that there is: whatever may be removed is removed.
            retention: Retention { keep: Some(1), ..Retention::default() },
        };
        let store = IdentityStore::new(Arc::new(node.disk.clone()), "/var/lib/liftlock/identity".into());
        let identity =
            Identity { key_pem: String::new(), certificate_pem: String::new(), ca_pem: String::new() };
        // Nothing of it is ever looked at: the simulated line has no TLS, and the certificate lives for ever.
        let enrolled = Enrolled {
            identity,
            coordinator,
            node: node_name.clone(),
            renew_at_ms: u64::MAX,
            ends_at_ms: u64::MAX,
        };
        // As the unit of the new system does before the agent's, until it succeeds.
        let (around, laws, name) = (self.schedule.around.redeploy, self.laws.clone(), name.to_owned());
        let (host, node_name) = (self.twin.host(&name), node_name.clone());
        let before = async move {
            let Some(replacement) = host.redeploy.clone().filter(|_| around) else { return };
            laws.imports(&name, true);
            while let Err(error) = import(&host, &node_name, &replacement.store).await {
                laws.tell(|| format!("{name}: the import failed: {error}"));
                host.clock.sleep(RESTART).await;
            }
            laws.imports(&name, false);
        };
        node.process = Some(Process::start(place, started, store, enrolled, before));
    }

    fn start_coordinator(&mut self) {
        self.laws.tell(|| "the coordinator starts".to_owned());
        self.store.coordinator_starts();
        let clock = Wall { twin: self.twin.clone(), ahead_ms: self.clock_ahead_ms };
        let keeper = Keeper::open(Box::new(self.store.clone()), Arc::clone(self.authority), Box::new(clock));
        match keeper {
            Ok(keeper) => {
                let keeper = keeper.asking_between_nodes().marking_nodes(true);
                let keeper = keeper.with_hooks([HOOK.to_owned()].into());
                let asks = self.schedule.around.alarms.is_some();
                self.keeper = Some(if asks { keeper.asking_for_alerts() } else { keeper });
                self.wire.listen(true);
            }
            Err(_) => self.coordinator_back = Some(self.now + RESTART),
        }
        self.coordinator_lives_on();
    }

    fn end_coordinator(&mut self, away: Duration) {
        self.laws.tell(|| format!("the coordinator has ended, for {away:?}"));
        self.keeper = None;
        self.outside.end();
        self.wire.listen(false);
        self.coordinator_back = Some(self.now + away);
    }

    /// After whatever the coordinator did: whether it ended in the middle of it.
    fn coordinator_lives_on(&mut self) {
        if let Some(away) = self.store.ended() {
            self.end_coordinator(away);
        } else if let Some(lasts) = self.store.full()
            && self.coordinator_back.is_none()
        {
            // It goes on without its store until somebody makes room and starts it anew.
            self.coordinator_back = Some(self.now + lasts);
        }
    }

    /// The coordinator's process beside its keeper.
    fn outside(&mut self) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let moved = self.outside.go_on(keeper, self.now);
        // Also a call that could not be recorded may have found the store full.
        self.coordinator_lives_on();
        if moved {
            self.watch_grants();
        }
        moved
    }

    /// Hands the coordinator what has arrived.
    fn arrivals(&mut self) -> bool {
        let mut moved = false;
        while let Some(arrived) = self.wire.arrive() {
            moved = true;
            self.events += 1;
            self.hear(arrived);
            self.coordinator_lives_on();
            self.watch_grants();
        }
        moved
    }

    fn hear(&mut self, arrived: Arrived) {
        let Some(keeper) = &self.keeper else { return };
        let Arrived { connection, node, session, said } = arrived;
        let Ok(name) = node.parse::<NodeName>() else { return };
        if self.listens_to_no(&node, said.as_ref()) {
            return;
        }
        match (said, session) {
            (None, Some(session)) => keeper.close_session(&name, session),
            (Some(Said::Hello(hello)), None) => {
                self.laws.tell(|| {
                    let held = hello.held.as_ref().map(|held| (held.fencing_token, held.ended.is_some()));
                    format!("{node} says Hello, has seen {}, holds {held:?}", hello.highest_token)
                });
                let (outbox, inbox) = mpsc::channel(OUTBOX);
                match keeper.open_session(&name, hello, outbox) {
                    Ok(session) => self.wire.opened(connection, session, inbox),
                    Err(error) => {
                        self.wire.refuse(connection, Status::failed_precondition(error.to_string()));
                    }
                }
            }
            // The session has ended, and the agent hung up or does not know yet.
            (_, None) => {}
            (Some(said), Some(session)) => match keeper.hear(&name, session, said) {
                Ok(true) => {}
                Ok(false) => self.wire.refuse(connection, Status::aborted("the session has ended")),
                Err(error) => {
                    keeper.close_session(&name, session);
                    self.wire.refuse(connection, Status::invalid_argument(error.to_string()));
                }
            },
        }
    }

    /// Every lease in the store is one that was or will be sent: compared with those before.
    fn watch_grants(&mut self) {
        let commits = self.store.commits();
        if commits == self.seen_commits || self.keeper.is_none() {
            return;
        }
        self.seen_commits = commits;
        self.look_at_the_stop();
        if self.sabotage == Some(Sabotage::TwoLeases) {
            self.lease_another();
        }
    }

    /// Before anything is done at a later stop of a path, the nodes are as its rollback is to leave them.
    fn look_at_the_stop(&mut self) {
        let Some(stop) = self.store.newest().filter(|number| *number > 1) else { return };
        let begun = !self.store.leases().is_empty();
        if self.at_stops.get(&stop).is_some_and(|at_stop| at_stop.begun) {
            return;
        }
        let pictures =
            self.nodes.keys().filter_map(|node| Some((node.clone(), self.picture(node)?))).collect();
        self.at_stops.insert(stop, AtStop { pictures, begun });
    }

    /// A coordinator that does not count: the node after the one under lease gets one as well.
    fn lease_another(&mut self) {
        let Some(rollout) = self.keeper.as_ref().and_then(|keeper| keeper.rollout(None).ok()) else { return };
        let Some(plan) = rollout.plan else { return };
        let leased = rollout.nodes.iter().position(|node| node.phase() == v1::NodePhase::Leased);
        let Some(leased) = leased.filter(|leased| rollout.nodes[*leased].step.is_empty()) else { return };
        let Some(next) = plan.nodes.get(leased + 1) else { return };
        let grant = v1::Grant {
            plan_id: plan.id,
            plan_hash: plan.hash,
            fencing_token: rollout.nodes[leased].fencing_token + 1,
            ttl_ms: liftlock::keeper::LEASE_TTL_MS,
            role: next.role,
            steps: next.steps.clone(),
            purpose: v1::Purpose::Raise.into(),
        };
        self.wire.forge(&next.name, &Told::Grant(grant));
    }

    /// A coordinator that knows no order: while it says that nothing is begun, whoever is to leave gets a lease. Whether that is so.
    fn lets_the_old_leave_first(&mut self, rollout: &v1::Rollout) -> bool {
        let Wanted::Replacement { old, dead: false } = &self.schedule.wanted else { return false };
        if self.sabotage != Some(Sabotage::OldFirst) || self.now > self.began + OLD_FIRST {
            return false;
        }
        let of_old = rollout.nodes.iter().find(|node| node.name == *old);
        let planned = rollout.plan.iter().find_map(|plan| {
            let node = plan.nodes.iter().find(|node| node.name == *old)?;
            Some((plan.id.clone(), plan.hash.clone(), node))
        });
        if let Some((plan_id, plan_hash, node)) = planned
            && of_old.is_some_and(|node| node.phase() == v1::NodePhase::Prepared)
        {
            let grant = v1::Grant {
                plan_id,
                plan_hash,
                fencing_token: 1,
                ttl_ms: liftlock::keeper::LEASE_TTL_MS,
                role: node.role,
                steps: node.steps.clone(),
                purpose: v1::Purpose::Raise.into(),
            };
            self.wire.forge(old, &Told::Grant(grant));
        }
        true
    }

    /// Of the lease that nobody knows of but the broken build the keeper hears nothing.
    fn listens_to_no(&self, node: &str, said: Option<&Said>) -> bool {
        let old = matches!(&self.schedule.wanted, Wanted::Replacement { old, dead: false } if old == node);
        if self.sabotage != Some(Sabotage::OldFirst) || !old || self.now > self.began + OLD_FIRST {
            return false;
        }
        if let Some(Said::RenewLease(renewal)) = said {
            let renewed = v1::LeaseRenewed {
                fencing_token: renewal.fencing_token,
                ttl_ms: liftlock::keeper::LEASE_TTL_MS,
            };
            self.wire.forge(node, &Told::LeaseRenewed(renewed));
        }
        matches!(said, Some(Said::RenewLease(_) | Said::StepReport(_) | Said::LeaseEnd(_)))
    }

    /// What strikes at a moment of its own.
    fn misfortunes(&mut self) -> bool {
        let mut moved = false;
        while let Some(entry) = self.timed.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let misfortune = entry.remove();
            moved = true;
            self.laws.strikes(&misfortune);
            self.strike(misfortune);
        }
        moved
    }

    fn strike(&mut self, misfortune: Misfortune) {
        let now = self.now;
        match misfortune {
            Misfortune::Ends { node, what, away, .. } => {
                if self.nodes.get(&node).is_some_and(|node| node.process.is_some()) {
                    self.end_process(&node, what, away);
                }
            }
            Misfortune::Stopped { node, lasts, .. } => {
                if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.process.is_some()) {
                    node.stopped_until = Some(now + lasts);
                }
            }
            Misfortune::DiskFull { node, lasts, .. } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.disk.fill(true);
                    node.disk_full_until = Some(now + lasts);
                }
            }
            Misfortune::Partition { node, way, lasts, .. } => self.wire.part(&node, way, now + lasts),
            Misfortune::Reset { node, .. } => self.wire.reset(&node),
            Misfortune::CoordinatorEnds { away, .. } => self.end_coordinator(away),
            Misfortune::CoordinatorRestored { copy, away, .. } => {
                if self.store.put_back(copy) {
                    self.end_coordinator(away);
                }
            }
            Misfortune::ClockSet { node: Some(node), by_ms, .. } => {
                self.twin.world().wall_clock_off_by.insert(node, by_ms);
            }
            Misfortune::ClockSet { node: None, by_ms, .. } => {
                self.twin.world().wall_clock_off_by.insert("coordinator".to_owned(), by_ms);
            }
            Misfortune::ApiAway { lasts, .. } => {
                let mut world = self.twin.world();
                world.api_is_away_until = now + lasts;
                world.wake_at(now + lasts);
            }
            Misfortune::Order { verb, .. } => {
                self.order(&verb);
            }
            // They strike at a change or a commit.
            Misfortune::ChangeFails { .. } | Misfortune::ChildDies { .. } | Misfortune::StoreFull { .. } => {}
        }
    }

    fn order(&mut self, verb: &Verb) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let named = |name: &String| name.parse::<NodeName>().ok();
        let order = match verb {
            Verb::Pause => Order::Pause,
            Verb::Resume => Order::Resume,
            Verb::Abort => Order::Abort,
            Verb::Retry(node) => match named(node) {
                Some(node) => Order::Retry(node),
                None => return false,
            },
            Verb::RollBackNode(node) => Order::Rollback(named(node)),
            Verb::RollBackCluster => Order::Rollback(None),
            Verb::Edit => return self.edit(),
        };
        let result = keeper.order(&order, "simulated");
        self.laws.tell(|| format!("an operator says {verb:?}: {result:?}"));
        let taken = result.is_ok();
        self.coordinator_lives_on();
        self.watch_grants();
        taken
    }

    /// The operator says that nodes are begun on only inside of windows from now on, and looks whether anything else is another.
    fn edit(&mut self) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let before = keeper.rollout(None);
        let conduct = self.schedule.edited_conduct();
        let document = UpgradePlan::new(self.schedule.wanted.target(), self.schedule.policy());
        let result = match self.sabotage {
            Some(Sabotage::EditsAreLost) => before.as_ref().map(drop).map_err(ToString::to_string),
            Some(Sabotage::EditsAbort) => {
                keeper.order(&Order::Abort, "simulated").map_err(|error| error.to_string())
            }
            _ => keeper.edit(&document.conducted(conduct), "simulated").map_err(|error| error.to_string()),
        };
        self.laws.tell(|| format!("an operator edits: {result:?}"));
        if let (Ok(()), Ok(before), Ok(after)) = (&result, before, keeper.rollout(None)) {
            let sealed = |rollout: &v1::Rollout| rollout.plan.as_ref().map(|plan| plan.hash.clone());
            let ended = |rollout: &v1::Rollout| {
                let phase = rollout.phase();
                [v1::RolloutPhase::Aborted, v1::RolloutPhase::RolledBack].contains(&phase)
            };
            if sealed(&before) != sealed(&after) || ended(&before) != ended(&after) {
                let seen = format!("it was {:?} and is {:?}", before.phase(), after.phase());
                self.laws.broken(Law::EditsConduct, seen);
            }
            self.laws.edited();
        }
        self.coordinator_lives_on();
        self.watch_grants();
        result.is_ok()
    }

    /// The operator applies a plan, and once nothing goes on by itself any more, decides.
    fn operator(&mut self) -> bool {
        if self.now < self.operator.looks_at || self.operator.ended_at.is_some() {
            return false;
        }
        self.operator.looks_at = self.now + Duration::from_secs(3);
        let Some(keeper) = &self.keeper else { return false };
        // A clock of the coordinator's own, which ticks about as often.
        keeper.look_again();
        // The answer to an earlier try may have been lost with the coordinator, after the roll-out was stored.
        self.operator.applied |= keeper.rollout(None).is_ok();
        self.operator.ever_applied |= self.operator.applied;
        if !self.operator.applied && self.sabotage == Some(Sabotage::PlansAreLost) {
            return false;
        }
        if !self.operator.applied {
            let (policy, mut conduct) = (self.schedule.policy(), self.schedule.conduct());
            if self.sabotage == Some(Sabotage::LongWindows) && !conduct.windows.is_empty() {
                conduct = self.schedule.conduct_of_long_windows();
            }
            let path = match keeper.plan_conducted(self.schedule.wanted.target(), &policy, &conduct) {
                Ok(path) => path,
                Err(refusals) => {
                    let why = || refusals.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>();
                    self.laws.tell(|| format!("no plan is made: {}", why().join("; ")));
                    return false;
                }
            };
            let applied = keeper.apply_conducted(&path, &conduct, None, "simulated");
            self.laws.tell(|| format!("an operator applies the plan: {applied:?}"));
            self.operator.applied = applied.is_ok();
            self.operator.ever_applied |= applied.is_ok();
            if self.sabotage == Some(Sabotage::OldFirst) && self.schedule.wanted.joins().is_some() {
                self.order(&Verb::Pause);
            }
            self.coordinator_lives_on();
            self.watch_grants();
            return true;
        }
        let Ok(rollout) = keeper.rollout(None) else {
            // A copy of the store from before the plan was applied.
            self.operator.applied = false;
            return false;
        };
        let leased = rollout.nodes.iter().any(|node| node.phase() == v1::NodePhase::Leased);
        match rollout.phase() {
            v1::RolloutPhase::Raised => self.ends(Outcome::Raised),
            v1::RolloutPhase::RolledBack => self.ends(Outcome::RolledBack),
            v1::RolloutPhase::Aborted => self.ends(Outcome::Aborted),
            v1::RolloutPhase::Paused if self.lets_the_old_leave_first(&rollout) => false,
            v1::RolloutPhase::Paused if !leased && self.all_is_well() => self.order(&Verb::Resume),
            v1::RolloutPhase::Halted if !leased && self.all_is_well() => {
                self.has_settled() && self.decide(&rollout)
            }
            _ => false,
        }
    }

    /// Whether what was passed over has had the time to come up again, where anything was.
    fn has_settled(&mut self) -> bool {
        if self.laws.passed_over().is_empty() {
            return true;
        }
        let since = *self.operator.rests_since.get_or_insert(self.now);
        self.now >= since + AFTERMATH
    }

    /// Nothing is away, and nothing is going to happen.
    fn all_is_well(&self) -> bool {
        let nodes = self.nodes.values().all(|node| {
            node.process.is_some() && node.stopped_until.is_none() && node.disk_full_until.is_none()
        });
        nodes && self.timed.is_empty() && self.coordinator_back.is_none() && self.store.full().is_none()
    }

    fn ends(&mut self, outcome: Outcome) -> bool {
        self.laws.tell(|| format!("the roll-out has ended: {outcome:?}"));
        self.operator.rest.get_or_insert(outcome);
        self.operator.ended_at = Some(self.now);
        // What would befall it now is another story.
        self.timed.clear();
        self.laws.no_more_misfortunes();
        true
    }

    /// The roll-out asks, and the operator says retry, or rollback.
    fn decide(&mut self, rollout: &v1::Rollout) -> bool {
        if self.operator.rest.is_none() {
            self.operator.rest = Some(Outcome::Asks);
            if self.schedule.needs_nobody() {
                let seen =
                    format!("nothing has happened that needs anybody, and it asks: {}", rollout.reason);
                self.laws.broken(Law::AsksNobody, seen);
            }
        }
        self.look_at_the_passed_over(rollout);
        self.operator.rests_since = None;
        if self.schedule.wanted.asks() && self.dice.percent(50) {
            self.laws.tell(|| "an operator takes the budget away that blocks".to_owned());
            self.twin.world().cluster.budgets.clear();
        }
        let stuck = rollout.nodes.iter().find(|node| {
            use v1::NodePhase::{Failed, Quarantined, RolledBack};
            matches!(node.phase(), Failed | RolledBack | Quarantined)
        });
        let verb = match stuck {
            // The next stop is not as it was planned.
            None if rollout.nodes.iter().all(|node| node.phase() == v1::NodePhase::Raised) => Verb::Abort,
            Some(node) if self.operator.retries < 3 && self.dice.percent(60) => {
                self.operator.retries += 1;
                Verb::Retry(node.name.clone())
            }
            _ if self.operator.rollbacks < 6 => {
                self.operator.rollbacks += 1;
                Verb::RollBackCluster
            }
            Some(node) if self.operator.retries < 9 => {
                self.operator.retries += 1;
                Verb::Retry(node.name.clone())
            }
            _ => {
                let seen = format!("neither retry nor rollback ends it: {}", rollout.reason);
                self.laws.broken(Law::Ends, seen);
                return true;
            }
        };
        self.order(&verb)
    }

    /// Where everything stands, for whoever wonders why it does not end.
    fn whereabouts(&self) -> String {
        let rollout = self.keeper.as_ref().and_then(|keeper| keeper.rollout(None).ok());
        rollout.map_or_else(
            || "there is no roll-out".to_owned(),
            |rollout| {
                let nodes = rollout.nodes.iter().map(|node| {
                    let connected = if node.connected { "" } else { " (not connected)" };
                    format!("{} {:?} at {}{connected}", node.name, node.phase(), node.step)
                });
                let nodes: Vec<String> = nodes.collect();
                format!("{:?} {} {}", rollout.phase(), rollout.reason, nodes.join(", "))
            },
        )
    }

    /// Whether the end is what it says.
    fn look_at_the_end(&mut self) {
        let Some(rollout) = self.keeper.as_ref().and_then(|keeper| keeper.rollout(None).ok()) else { return };
        let aborted = rollout.phase() == v1::RolloutPhase::Aborted;
        for node in &rollout.nodes {
            let seen = match node.phase() {
                v1::NodePhase::Raised => match &self.schedule.wanted {
                    Wanted::Replacement { old, .. } => self.why_not_replaced(&node.name, old),
                    _ => self.why_not_raised(&node.name, rollout.plan.as_ref()),
                },
                v1::NodePhase::RolledBack | v1::NodePhase::Pending | v1::NodePhase::Prepared if !aborted => {
                    self.why_not_as_it_was(&node.name)
                }
                _ => Vec::new(),
            };
            if !seen.is_empty() {
                let seen = format!("{} is {:?}, and yet: {}", node.name, node.phase(), seen.join("; "));
                self.laws.broken(Law::EndIsTrue, seen);
            }
        }
        // Where nobody is left to ask, somebody takes the taint away once there is.
        let marked = self.still_marked();
        if !marked.is_empty() {
            let seen =
                format!("it is over, and these still carry the taint of what is not raised: {marked:?}");
            self.laws.broken(Law::EndIsTrue, seen);
        }
        let leased: BTreeSet<usize> = self.store.leases().into_keys().collect();
        if !leased.is_empty() {
            self.laws.broken(Law::EndIsTrue, format!("leases are left: {leased:?}"));
        }
        for (name, node) in &self.nodes {
            let open = node.disk.open_journals();
            if !open.is_empty() && node.process.is_some() {
                let seen = format!("{name} keeps journals open: {}", open.join(", "));
                self.laws.broken(Law::EndIsTrue, seen);
            }
        }
    }

    /// Whoever could not be drained is as it was, and said to be passed over.
    fn look_at_the_passed_over(&self, rollout: &v1::Rollout) {
        for name in self.laws.passed_over() {
            let told = rollout.nodes.iter().find(|node| node.name == name);
            let told = told
                .is_some_and(|node| node.phase() == v1::NodePhase::Quarantined && !node.failure.is_empty());
            if !told {
                self.laws.broken(Law::PassedOver, format!("{name} was passed over, and nobody is told"));
            }
            let mut why =
                if self.twin.world().api_is_up() { self.why_not_as_it_was(&name) } else { Vec::new() };
            // What the control planes brought to the cluster stays.
            why.retain(|why| {
                !["kube-proxy:", "kubeadm-config:"].iter().any(|of_all| why.starts_with(of_all))
            });
            if !why.is_empty() {
                let seen = format!("{name} was passed over, and yet: {}", why.join("; "));
                self.laws.broken(Law::PassedOver, seen);
            }
        }
    }

    fn still_marked(&self) -> Vec<String> {
        let world = self.twin.world();
        let marked = world.cluster.nodes.iter().filter(|(_, node)| node.not_raised && world.api_is_up());
        marked.map(|(name, _)| name.clone()).collect()
    }

    /// Of a node whose part in a replacement is done.
    fn why_not_replaced(&self, name: &str, old: &str) -> Vec<String> {
        let world = self.twin.world();
        let mut why = Vec::new();
        let (there, member) = (world.cluster.nodes.get(name), |name: &str| {
            world.cluster.etcd_members.iter().any(|member| member == name)
        });
        if name == NEW {
            let control_plane = old.starts_with("cp");
            if !there.is_some_and(|node| node.ready && !node.unschedulable && node.kubelet_version == FROM) {
                why.push(format!("its Node is {there:?}"));
            }
            if member(NEW) != control_plane {
                why.push(format!("the members of etcd are {:?}", world.cluster.etcd_members));
            }
        } else if name == old {
            // Its kubelet may try to start again and again: without this it speaks to no cluster.
            let kubeconfig = "/etc/kubernetes/kubelet.conf";
            if world.machine(name).is_some_and(|machine| machine.disk.exists(kubeconfig.into())) {
                why.push("its machine is still in the cluster".to_owned());
            }
        } else if world.cluster.nodes.contains_key(old) || member(old) {
            why.push(format!("it was to end the membership of {old}"));
        }
        why
    }

    fn why_not_raised(&self, name: &str, plan: Option<&v1::Plan>) -> Vec<String> {
        let target = plan.and_then(|plan| plan.to_version.parse().ok()).unwrap_or(TO);
        let world = self.twin.world();
        let mut why = Vec::new();
        let (Some(machine), Some(node)) = (world.machine(name), world.cluster.nodes.get(name)) else {
            return vec!["there is no such node".to_owned()];
        };
        let cordoned = self.schedule.cordoned.as_deref() == Some(name);
        if node.unschedulable != cordoned || node.cordoned_by.is_some() {
            why.push(format!("its cordon is {}, and was {cordoned}", node.unschedulable));
        }
        if !node.ready || node.kubelet_version != target {
            why.push(format!("its Node is ready: {}, at {}", node.ready, node.kubelet_version));
        }
        for (package, state) in &machine.packages {
            if !state.held || !state.configured || state.version != format!("{}-1.1", target.bare()) {
                why.push(format!("{package} is {state:?}"));
            }
        }
        for (component, container) in &machine.containers {
            if component != "etcd" && !container.image.ends_with(&target.to_string()) {
                why.push(format!("{component} runs {}", container.image));
            }
        }
        why.extend(self.schedule.around.why_not_added(&world).filter(|_| node.control_plane));
        if node.control_plane && machine.containers.len() < 4 {
            let running: Vec<&String> = machine.containers.keys().collect();
            why.push(format!("it runs only {running:?}"));
        }
        why
    }

    fn why_not_as_it_was(&self, name: &str) -> Vec<String> {
        let at_stop = self.store.newest().and_then(|number| self.at_stops.get(&number));
        let before = at_stop.map_or(&self.pictures, |at_stop| &at_stop.pictures).get(name);
        match (self.picture(name), before) {
            (Some(now), Some(before)) => now.differences(before),
            _ => vec!["there is no such node".to_owned()],
        }
    }

    /// A node at this moment, whether it carries the taint of what is not raised or not: that is looked at by itself.
    fn picture(&self, name: &str) -> Option<Picture> {
        let mut world = self.twin.world();
        let mark = |world: &mut World, mark| {
            let node = world.cluster.nodes.get_mut(name);
            node.is_some_and(|node| std::mem::replace(&mut node.not_raised, mark))
        };
        let marked = mark(&mut world, false);
        let picture = world.picture(name);
        mark(&mut world, marked);
        picture
    }
}

/// Labels, zones and annotations of workers, and the budget that lets nobody go.
fn stand_in_pools(world: &mut World, schedule: &Schedule) {
    let Some(pools) = schedule.wanted.pools() else { return };
    for (position, standing) in pools.workers.iter().enumerate() {
        let labels = pools.labels(position);
        if let Some(node) = world.cluster.nodes.get_mut(&format!("w{}", position + 1)) {
            node.labels = labels;
            standing.zone.unwrap_or_default().clone_into(&mut node.zone);
        }
    }
    let Some(blocked) = &pools.blocked else { return };
    if let Some(node) = world.cluster.nodes.get_mut(&blocked.node) {
        node.on_blocked = blocked.annotation.map(|word| word.name().to_owned()).unwrap_or_default();
    }
    world.cluster.add_pod("guarded", &blocked.node, |_| {});
    let budget = Budget { name: "guard".to_owned(), min_available: 1 };
    world.cluster.budgets.insert("guarded".to_owned(), budget);
}

impl Misfortune {
    /// When it strikes, where it has a moment of its own.
    fn at(&self) -> Option<Duration> {
        match self {
            Self::Ends { at: Moment::At(at), .. }
            | Self::CoordinatorEnds { at: Commit::At(at), .. }
            | Self::DiskFull { at, .. }
            | Self::Stopped { at, .. }
            | Self::Partition { at, .. }
            | Self::Reset { at, .. }
            | Self::CoordinatorRestored { at, .. }
            | Self::ClockSet { at, .. }
            | Self::ApiAway { at, .. }
            | Self::Order { at, .. } => Some(*at),
            _ => None,
        }
    }
}
