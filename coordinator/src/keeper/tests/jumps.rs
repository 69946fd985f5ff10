//! A time of day that jumps, and a coordinator that was away: what lasts lasts as long as it should, and windows are where they
//! are.

use liftlock_proto::workers::{Canary, Workers};

use super::budget::{two_at_a_time, workers_are_due};
use super::hold::saturday_nights;
use super::*;
use crate::core::alerts::Alert;
use crate::core::conduct::Conduct;

/// A time of day that can be set, and steady time, which goes by beside it.
#[derive(Default)]
struct Watch {
    unix_ms: AtomicU64,
    steady_ms: AtomicU64,
}

impl Clock for Arc<Watch> {
    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::Relaxed)
    }

    fn steady_ms(&self) -> u64 {
        self.steady_ms.load(Ordering::Relaxed)
    }
}

impl Watch {
    fn at(time: &str) -> Arc<Self> {
        let watch = Arc::new(Self::default());
        watch.set(time);
        watch
    }

    /// As NTP or an operator does.
    fn set(&self, time: &str) {
        let time: jiff::Timestamp = time.parse().unwrap();
        self.unix_ms.store(time.as_millisecond().try_into().unwrap(), Ordering::Relaxed);
    }

    fn pass(&self, seconds: u64) {
        for clock in [&self.unix_ms, &self.steady_ms] {
            clock.fetch_add(seconds * 1000, Ordering::Relaxed);
        }
    }

    fn coordinator(self: &Arc<Self>) -> Coordinator {
        self.coordinator_on(Arc::default(), tempfile::tempdir().unwrap())
    }

    fn coordinator_on(
        self: &Arc<Self>,
        store: Arc<MemoryStore>,
        state_dir: tempfile::TempDir,
    ) -> Coordinator {
        let authority = Authority::open(&state_dir.path().join("ca"), &Ticking::default()).unwrap();
        let keeper =
            Keeper::open(Box::new(Arc::clone(&store)), authority, Box::new(Arc::clone(self))).unwrap();
        Coordinator { keeper, store, state_dir }
    }
}

/// A canary of workers whose soak of a minute begins now, and every agent.
fn soaking(watch: &Arc<Watch>) -> (Coordinator, Vec<Agent>) {
    let coordinator = watch.coordinator();
    let canary = Some(Canary { nodes: 1, soak_seconds: 60 });
    let mut agents = workers_are_due(&coordinator, Workers { canary, ..two_at_a_time() });
    assert_eq!((agents[3].grants().len(), agents[4].grants().len()), (1, 0));
    agents[3].ends(&coordinator, 4, "");
    assert!(agents[4].grants().is_empty());
    (coordinator, agents)
}

#[test]
fn a_time_of_day_that_jumps_makes_no_soak_shorter_or_longer() {
    for jump in ["2026-11-29T12:00:00Z", "2026-11-28T11:00:00Z"] {
        let watch = Watch::at("2026-11-28T12:00:00Z");
        let (coordinator, mut agents) = soaking(&watch);
        watch.pass(10);
        watch.set(jump);
        coordinator.keeper.look_again();
        assert!(agents[4].grants().is_empty(), "{jump}");
        assert_eq!(coordinator.rollout().reason, "pool others: soaking, 50 s left", "{jump}");
        watch.pass(49);
        coordinator.keeper.look_again();
        assert!(agents[4].grants().is_empty(), "{jump}");
        watch.pass(1);
        coordinator.keeper.look_again();
        assert_eq!(agents[4].grants().len(), 1, "{jump}");
    }
}

#[test]
fn a_coordinator_that_was_away_counts_the_time_meanwhile_and_one_that_comes_back_earlier_soaks_no_longer_than_the_plan_says()
 {
    for (back, left_s) in [("2026-11-28T12:00:40Z", 20), ("2026-11-28T11:00:00Z", 60)] {
        let watch = Watch::at("2026-11-28T12:00:00Z");
        let (Coordinator { store, state_dir, .. }, _agents) = soaking(&watch);
        watch.set(back);
        let coordinator = watch.coordinator_on(store.copy(), state_dir);
        let mut agents: Vec<Agent> =
            ["cp1", "cp2", "cp3", "w1", "w2", "w3"].iter().map(|node| coordinator.connect(node)).collect();
        watch.pass(left_s - 1);
        coordinator.keeper.look_again();
        assert_eq!(coordinator.rollout().reason, "pool others: soaking, 1 s left", "{back}");
        watch.pass(1);
        coordinator.keeper.look_again();
        assert_eq!(agents[4].grants().len(), 1, "{back}");
    }
}

#[test]
fn what_prometheus_said_before_the_clock_was_set_back_counts_no_longer_than_it_would_have() {
    let watch = Watch::at("2026-11-28T12:00:00Z");
    let Coordinator { keeper, store, state_dir } = watch.coordinator();
    let coordinator = Coordinator { keeper: keeper.asking_for_alerts(), store, state_dir };
    let agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    coordinator
        .keeper
        .alerts_are(Ok(vec![Alert { labels: [("alertname".to_owned(), "A".to_owned())].into() }]));
    watch.set("2026-11-28T11:00:00Z");
    watch.pass(16);
    assert!(!coordinator.keeper.wants_alerts());
    coordinator.keeper.look_again();
    assert!(coordinator.keeper.wants_alerts());
}

/// A roll-out that is conducted in the nights of Saturdays, ready for its first lease.
fn in_windows(coordinator: &Coordinator) -> Vec<Agent> {
    let agents = coordinator.connect_all();
    let conduct: Conduct = saturday_nights();
    coordinator.keeper.apply_conducted(&coordinator.plan(), &conduct, None, "alice").unwrap();
    prepare_all(coordinator, &agents);
    agents
}

fn held_until(coordinator: &Coordinator) -> String {
    let ms = i64::try_from(coordinator.rollout().held_until_ms).unwrap();
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

#[test]
fn a_window_is_where_the_time_of_day_says_also_after_it_was_set() {
    let watch = Watch::at("2026-11-28T12:00:00Z");
    let coordinator = watch.coordinator();
    let mut agents = in_windows(&coordinator);
    // Forward by a day, over the whole window.
    watch.set("2026-11-29T12:00:00Z");
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants(), []);
    assert_eq!(held_until(&coordinator), "2026-12-05T21:00:00Z");
    // Back by an hour, from after its end: what takes 40 minutes fits once more.
    watch.set("2026-11-29T03:10:00Z");
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants(), []);
    watch.set("2026-11-29T02:10:00Z");
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants().len(), 1);
}

#[test]
fn a_coordinator_that_was_away_over_a_windows_end_lets_its_lease_end_and_begins_on_nobody_before_the_next() {
    let watch = Watch::at("2026-11-28T21:00:00Z");
    let coordinator = watch.coordinator();
    let mut agents = in_windows(&coordinator);
    assert_eq!(agents[0].grants().len(), 1);
    let Coordinator { store, state_dir, .. } = coordinator;
    watch.set("2026-11-29T12:00:00Z");
    let coordinator = watch.coordinator_on(store.copy(), state_dir);
    let mut back = coordinator.connect_with("cp1", 1, Some(held(1))).unwrap();
    let mut others: Vec<Agent> = NODES[1..].iter().map(|node| coordinator.connect(node)).collect();
    assert_eq!(back.grants().len(), 1, "it goes on with its lease");
    back.ends(&coordinator, 1, "");
    assert_eq!(coordinator.node("cp1").phase(), v1::NodePhase::Raised);
    assert_eq!(others[0].grants(), []);
    assert_eq!(held_until(&coordinator), "2026-12-05T21:00:00Z");
}
