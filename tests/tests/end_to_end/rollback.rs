//! What cannot be raised goes back to where it was.

use liftlock_proto::v1::{NodePhase, OnFailure, Policy, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::packages::Dpkg;

use crate::{LIMIT, TO, end_of, leases_of, node, policy, raised, small_fleet, until};

/// Where the clusters come from.
const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);

/// Starts a raise that fails at a node's drain, which comes after its kubeadm.
async fn fails_at_the_drain_of(fleet: &Fleet, name: &str) {
    fleet.cluster.add_unmanaged_pod("debug", name);
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(fleet).await;
    assert_eq!((rollout.phase(), node(&rollout, name).phase()), (RolloutPhase::Halted, NodePhase::Failed));
    assert_eq!(node(&rollout, name).step, "drain");
}

async fn roll_back(fleet: &Fleet, scope: &[&str]) {
    fleet.cli(&[&["rollback"], scope].concat()).await.unwrap().success().unwrap();
}

/// Everything on every node runs the earlier version, with its holds, and takes pods.
fn is_as_before(fleet: &Fleet) {
    proofs::everything_runs(fleet, FROM).unwrap();
    proofs::holds_are_back(fleet).unwrap();
    proofs::only_cordoned(fleet, &[]).unwrap();
}

#[tokio::test]
async fn a_worker_that_failed_is_put_back_alone_and_raised_by_a_retry() {
    let fleet = small_fleet().await;
    fails_at_the_drain_of(&fleet, "w1").await;
    roll_back(&fleet, &["--node", "w1"]).await;
    let rollout = end_of(&fleet).await;
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::RolledBack, "{}", fleet.last_words());
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    let kubeadm = || {
        let dpkg = Dpkg::read(&fleet.cluster.machine("w1").unwrap().tree).unwrap();
        dpkg.get("kubeadm").unwrap().version.clone()
    };
    assert_eq!(kubeadm(), "1.30.4-1.1");
    assert_eq!(fleet.cluster.kubeadm_config_version(), TO.to_string(), "the control plane stays where it is");
    proofs::only_cordoned(&fleet, &[]).unwrap();

    fleet.cluster.remove_pod("debug");
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "w1").await.len(), 3);
}

#[tokio::test]
async fn a_control_plane_that_failed_after_its_apply_is_put_back_and_the_roll_out_ends() {
    let fleet = small_fleet().await;
    fails_at_the_drain_of(&fleet, "cp1").await;
    assert_eq!(fleet.cluster.kubeadm_config_version(), TO.to_string());
    roll_back(&fleet, &["--node", "cp1"]).await;
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::RolledBack, "{}\n{}", rollout.reason, fleet.last_words());
    is_as_before(&fleet);
}

#[tokio::test]
async fn a_node_that_fails_for_good_goes_back_by_itself_where_the_policy_says_so() {
    let fleet = small_fleet().await;
    fleet.cluster.add_unmanaged_pod("debug", "cp1");
    let policy = Policy { on_failure: OnFailure::RollBackNode.into(), ..policy() };
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::RolledBack, "{}\n{}", rollout.reason, fleet.last_words());
    assert!(
        rollout.reason.contains("cp1: step drain: ") && rollout.reason.contains("debug"),
        "{}",
        rollout.reason
    );
    is_as_before(&fleet);
}

#[tokio::test]
async fn a_cluster_is_put_back_from_its_last_node_to_its_first() {
    let fleet = small_fleet().await;
    fails_at_the_drain_of(&fleet, "w2").await;
    let early = fleet.cli(&["rollback", "--node", "cp1"]).await.unwrap();
    assert!(early.code != 0 && early.stderr.contains("comes after it"), "{}", early.stderr);
    roll_back(&fleet, &["--cluster"]).await;
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::RolledBack, "{}\n{}", rollout.reason, fleet.last_words());
    is_as_before(&fleet);
    let last = |tokens: Vec<u64>| tokens.last().copied();
    let (cp1, w1, w2) = (
        last(leases_of(&fleet, "cp1").await),
        last(leases_of(&fleet, "w1").await),
        last(leases_of(&fleet, "w2").await),
    );
    assert!(w2 < w1 && w1 < cp1, "{w2:?} {w1:?} {cp1:?}");
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_a_rollback_goes_on_with_it() {
    let mut fleet = small_fleet().await;
    fails_at_the_drain_of(&fleet, "cp1").await;
    let tree = fleet.cluster.machine("cp1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::AptUnpacked("kubeadm".to_owned()), &Action::Pause).unwrap();
    roll_back(&fleet, &["--cluster"]).await;
    fault.reached(LIMIT).await.unwrap();
    fleet.kill_agent("cp1").unwrap();
    until(&fleet, "the coordinator to miss the agent", |rollout| !node(rollout, "cp1").connected).await;
    fault.disarm().unwrap();
    fleet.start_agent("cp1").await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::RolledBack, "{}\n{}", rollout.reason, fleet.last_words());
    is_as_before(&fleet);
    assert_eq!(leases_of(&fleet, "cp1").await.len(), 2, "the lease to roll back goes on with its token");
}
