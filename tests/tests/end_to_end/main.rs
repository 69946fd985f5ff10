//! The real coordinator, agents and command line on stand-in clusters, from end to end.

#![expect(clippy::disallowed_methods, reason = "the tests stand on the other side of the host boundary")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends at what it did not expect"
)]

mod addons;
mod backups;
mod bad_input;
mod blocked;
mod catalogue;
mod dnf;
mod documents;
mod forecast;
mod gates;
mod holds;
mod hooks;
mod interruptions;
mod marks;
mod operators;
mod package_sources;
mod paths;
mod plans;
mod protection;
mod raise;
mod redeploy;
mod replace;
mod resource;
mod rollback;
mod surge;
mod workers;

use std::time::Duration;

use liftlock_proto::v1::{HistoryEvent, NodePhase, Policy, Rollout, RolloutNode, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;

/// The usual target.
const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

/// How long a roll-out may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_mins(3);

/// A cluster of one control plane and two workers: an outage of its API is consented to.
async fn small_fleet() -> Fleet {
    Fleet::start(&Shape::new(1, 2)).await.unwrap()
}

/// What an operator of such a cluster consents to.
fn policy() -> Policy {
    Policy { drain_timeout_seconds: 60, accepted: vec!["api-outage".to_owned()], ..Policy::default() }
}

/// Follows the roll-out until it ends or halts.
async fn end_of(fleet: &Fleet) -> Rollout {
    let mut operator = fleet.operator().await.unwrap();
    match operator.watch_to_the_end(LIMIT).await {
        Ok(rollout) => rollout,
        Err(error) => panic!("{error:#}\n{}", fleet.last_words()),
    }
}

/// Follows the roll-out until a condition holds.
async fn until(fleet: &Fleet, what: &str, condition: impl FnMut(&Rollout) -> bool) -> Rollout {
    let mut operator = fleet.operator().await.unwrap();
    match operator.watch_until(what, LIMIT, condition).await {
        Ok(rollout) => rollout,
        Err(error) => panic!("{error:#}\n{}", fleet.last_words()),
    }
}

/// Follows the roll-out to its end, which has to be that every node is raised, and checks everything there is.
async fn raised(fleet: &Fleet, version: KubernetesVersion) -> Rollout {
    let rollout = end_of(fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Raised, "{}\n{}", rollout.reason, fleet.last_words());
    let history = fleet.operator().await.unwrap().history().await.unwrap();
    proofs::everything_runs(fleet, version).unwrap();
    proofs::holds_are_back(fleet).unwrap();
    proofs::backups_are_whole(fleet).unwrap();
    proofs::one_lease_at_a_time(&history).unwrap();
    proofs::nobody_is_marked(fleet).await.unwrap();
    rollout
}

/// A node of a roll-out.
fn node<'a>(rollout: &'a Rollout, name: &str) -> &'a RolloutNode {
    rollout.nodes.iter().find(|node| node.name == name).unwrap()
}

/// Whether a node is at a step under a lease.
fn is_at(rollout: &Rollout, name: &str, step: &str) -> bool {
    let node = node(rollout, name);
    node.phase() == NodePhase::Leased && node.step == step
}

/// Everything that happened.
async fn history(fleet: &Fleet) -> Vec<HistoryEvent> {
    fleet.operator().await.unwrap().history().await.unwrap()
}

/// The tokens of the leases that a node had.
async fn leases_of(fleet: &Fleet, node: &str) -> Vec<u64> {
    proofs::leases_by_node(&history(fleet).await).remove(node).unwrap_or_default()
}
