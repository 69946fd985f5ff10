//! Paths of several stops.

use liftlock_proto::v1::{GetRequest, HistoryEvent, Policy, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;

use crate::{LIMIT, TO, history, is_at, policy, until};

/// The stop on the way from v1.29.9 to the usual target.
const STOP: KubernetesVersion = KubernetesVersion::new(1, 30, 4);

fn shape(control_planes: usize, workers: usize) -> Shape {
    let version = KubernetesVersion::new(1, 29, 9);
    Shape { version, offered: vec![STOP, TO], ..Shape::new(control_planes, workers) }
}

/// The nodes in the order of their leases.
fn leased(history: &[HistoryEvent]) -> Vec<&str> {
    history.iter().filter(|event| event.kind == "lease-granted").map(|event| event.node.as_str()).collect()
}

fn count(history: &[HistoryEvent], kind: &str) -> usize {
    history.iter().filter(|event| event.kind == kind).count()
}

/// Every node was raised at each stop, and has a whole backup of each.
fn every_node_was_raised_twice(fleet: &Fleet, history: &[HistoryEvent]) {
    proofs::everything_runs(fleet, TO).unwrap();
    proofs::holds_are_back(fleet).unwrap();
    proofs::only_cordoned(fleet, &[]).unwrap();
    proofs::one_lease_at_a_time(history).unwrap();
    assert_eq!(leased(history), [fleet.nodes(), fleet.nodes()].concat());
    assert_eq!((count(history, "stop-reached"), count(history, "rollout-ended")), (1, 2));
    for machine in fleet.cluster.machines() {
        let backups = proofs::backups_of(fleet, &machine.facts.name).unwrap();
        assert_eq!(backups.len(), 2, "{backups:?}");
        for backup in backups {
            proofs::backup_is_whole(&backup, machine.facts.control_plane).unwrap();
        }
    }
}

#[tokio::test]
async fn two_minors_are_raised_stop_by_stop_though_the_coordinator_is_killed_between_them() {
    let mut fleet = Fleet::start(&shape(3, 2)).await.unwrap();
    let policy = Policy { accepted: vec![], ..policy() };
    let first = fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
    assert_eq!((first.stop, first.onward[0].to_version.as_str()), (1, "v1.31.2"));
    let plan_id = first.plan.unwrap().id;

    // An agent that is away when the stop is reached keeps the path there.
    until(&fleet, "the last node's lease", |rollout| is_at(rollout, "w2", "drain")).await;
    fleet.kill_agent("cp2").unwrap();
    let between = until(&fleet, "the stop", |rollout| rollout.phase() == RolloutPhase::BetweenStops).await;
    assert!(between.nodes.iter().all(|node| node.fencing_token > 0), "{between:#?}");
    proofs::everything_runs(&fleet, STOP).unwrap();
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    let waits = until(&fleet, "the other agents to be back", |rollout| {
        rollout.nodes.iter().filter(|node| node.connected).count() == 4 && rollout.reason.contains("cp2")
    });
    assert_eq!(waits.await.phase(), RolloutPhase::BetweenStops);
    fleet.start_agent("cp2").await.unwrap();

    // Whoever follows the first stop's roll-out is led through to the end.
    let mut operator = fleet.operator().await.unwrap();
    let mut stream = operator.client.watch(GetRequest { plan_id }).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let watched = tokio::time::timeout(LIMIT, async {
        while let Some(rollout) = stream.message().await.unwrap() {
            seen.push((rollout.stop, rollout.phase()));
            assert_ne!(rollout.phase(), RolloutPhase::Halted, "{}\n{}", rollout.reason, fleet.last_words());
        }
    });
    assert!(watched.await.is_ok(), "{seen:?}\n{}", fleet.last_words());
    assert_eq!(seen.first(), Some(&(1, RolloutPhase::BetweenStops)));
    assert_eq!(seen.last(), Some(&(2, RolloutPhase::Raised)));
    every_node_was_raised_twice(&fleet, &history(&fleet).await);
}

#[tokio::test]
async fn apply_follows_a_path_through_every_stop_to_its_end() {
    let fleet = Fleet::start(&shape(1, 2)).await.unwrap();
    fleet.cli(&["gates", "v1.31.2", "--accept", "api-outage"]).await.unwrap().success().unwrap();
    let applied = fleet.cli(&["apply", "v1.31.2", "--yes", "--accept", "api-outage"]).await.unwrap();
    assert_eq!(applied.code, 0, "{}{}\n{}", applied.stdout, applied.stderr, fleet.last_words());
    for said in [
        "Path: v1.29.9 → v1.30.4 → v1.31.2, 2 stops",
        "v1.29.9 → v1.30.4, stop 1 of 2, nodes: 3",
        "a stop is reached: every node runs v1.30.4",
        "v1.30.4 → v1.31.2, stop 2 of 2, nodes: 3",
        "raised: every node runs v1.31.2",
    ] {
        assert!(applied.stdout.contains(said), "{said}: {}", applied.stdout);
    }
    every_node_was_raised_twice(&fleet, &history(&fleet).await);
}
