//! What is interrupted in the middle goes on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_tests::fleet::{Fleet, Terms, journals, proofs};
use liftlock_tests::standin::cluster::{Cluster, Shape};
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::systemd::Systemd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backups::copy_tree;
use crate::{LIMIT, TO, end_of, history, is_at, leases_of, node, policy, raised, small_fleet, until};

/// Starts the raise with a fault armed on a node, and waits until it was reached.
async fn raise_until(fleet: &Fleet, node: &str, point: &Point, action: &Action) -> Fault {
    let fault = Fault::arm(&fleet.cluster.machine(node).unwrap().tree, point, action).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    if let Err(error) = fault.reached(LIMIT).await {
        panic!("{error:#}\n{}", fleet.last_words());
    }
    fault
}

/// The process of the unit that runs on a node.
fn running_unit(systemd: &Systemd) -> (String, Pid) {
    let units = systemd.running_units();
    let [unit] = units.as_slice() else {
        panic!("one unit should run: {units:?}");
    };
    let pid = systemd.main_pid(unit).unwrap();
    (unit.clone(), Pid::from_raw(i32::try_from(pid).unwrap()))
}

/// Kills the agent while a child is at the point, starts it again, and lets the child go on.
async fn the_agent_is_killed_and_the_lease_goes_on(node: &str, point: &Point) {
    let mut fleet = small_fleet().await;
    let fault = raise_until(&fleet, node, point, &Action::Pause).await;
    let (unit, pid) = running_unit(&fleet.cluster.machine(node).unwrap().systemd);
    fleet.kill_agent(node).unwrap();
    until(&fleet, "the coordinator to miss the agent", |rollout| !crate::node(rollout, node).connected).await;
    let still = running_unit(&fleet.cluster.machine(node).unwrap().systemd);
    assert_eq!(still, (unit, pid), "a unit outlives the agent that started it");
    fleet.start_agent(node).await.unwrap();
    until(&fleet, "the agent to come back", |rollout| crate::node(rollout, node).connected).await;
    fault.disarm().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, node).await.len(), 1, "the lease goes on with the same token");
    let runs =
        history(&fleet).await.into_iter().filter(|event| event.kind == "lease-resumed" && event.node == node);
    assert_eq!(runs.count(), 1);
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

#[tokio::test]
async fn an_agent_killed_while_kubeadm_upgrade_apply_is_between_its_renames_goes_on() {
    let point = Point::KubeadmBetweenRenames("kube-apiserver".to_owned());
    the_agent_is_killed_and_the_lease_goes_on("cp1", &point).await;
}

#[tokio::test]
async fn an_agent_killed_while_dpkg_has_unpacked_kubeadm_goes_on() {
    the_agent_is_killed_and_the_lease_goes_on("cp1", &Point::AptUnpacked("kubeadm".to_owned())).await;
}

#[tokio::test]
async fn an_agent_killed_while_a_worker_gets_its_kubelet_goes_on() {
    the_agent_is_killed_and_the_lease_goes_on("w1", &Point::AptUnpacked("kubelet".to_owned())).await;
}

#[tokio::test]
async fn a_coordinator_killed_in_the_middle_goes_on_with_the_same_lease() {
    let mut fleet = small_fleet().await;
    let point = Point::KubeadmBetweenRenames("etcd".to_owned());
    let fault = raise_until(&fleet, "cp1", &point, &Action::Pause).await;
    let before = leases_of(&fleet, "cp1").await;
    fleet.kill_coordinator().unwrap();
    fault.disarm().unwrap();
    fleet.start_coordinator().await.unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "cp1").await, before);
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

#[tokio::test]
async fn coordinator_and_agent_killed_together_go_on_with_the_same_lease() {
    let mut fleet = small_fleet().await;
    let point = Point::KubeadmManifestReplaced("kube-controller-manager".to_owned());
    let fault = raise_until(&fleet, "cp1", &point, &Action::Pause).await;
    fleet.kill_agent("cp1").unwrap();
    fleet.kill_coordinator().unwrap();
    fault.disarm().unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.start_agent("cp1").await.unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "cp1").await.len(), 1);
}

#[tokio::test]
async fn while_a_holder_is_silent_nobody_else_gets_a_lease() {
    let terms = Terms { lease_ttl: Some(4), ..Terms::default() };
    let mut fleet = Fleet::start_on(&Shape::new(1, 2), terms).await.unwrap();
    let fault = raise_until(&fleet, "w1", &Point::AptUnpacked("kubeadm".to_owned()), &Action::Pause).await;
    fleet.kill_agent("w1").unwrap();
    fault.disarm().unwrap();
    let rollout =
        until(&fleet, "the coordinator to miss the agent", |rollout| !node(rollout, "w1").connected).await;
    assert_eq!(
        (node(&rollout, "w1").phase(), node(&rollout, "w2").phase()),
        (NodePhase::Leased, NodePhase::Prepared)
    );
    // The lease's time to live passes without a sign of its holder: still nobody else gets one.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rollout = fleet.operator().await.unwrap().rollout().await.unwrap();
    assert_eq!(
        (node(&rollout, "w1").phase(), node(&rollout, "w2").phase()),
        (NodePhase::Leased, NodePhase::Prepared)
    );
    fleet.start_agent("w1").await.unwrap();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn kubeadm_killed_between_its_renames_is_run_again_after_the_manifest_is_put_back() {
    let fleet = small_fleet().await;
    let point = Point::KubeadmBetweenRenames("kube-apiserver".to_owned());
    let fault = raise_until(&fleet, "cp1", &point, &Action::Pause).await;
    let machine = fleet.cluster.machine("cp1").unwrap();
    let (_, pid) = running_unit(&machine.systemd);
    assert!(!machine.tree.manifest("kube-apiserver").exists());
    kill(pid, Signal::SIGKILL).unwrap();
    fault.disarm().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "cp1").await.len(), 1);
}

#[tokio::test]
async fn a_package_manager_killed_in_the_middle_is_mended_and_run_again() {
    let fleet = small_fleet().await;
    let fault = raise_until(&fleet, "w1", &Point::AptUnpacked("kubelet".to_owned()), &Action::Pause).await;
    let (_, pid) = running_unit(&fleet.cluster.machine("w1").unwrap().systemd);
    kill(pid, Signal::SIGKILL).unwrap();
    fault.disarm().unwrap();
    raised(&fleet, TO).await;
}

/// Where the kubelet is away for a while: kubeadm waits for what nobody starts. And where it dies once more after Liftlock
/// has restarted it: the process that Liftlock knows of is another one by then.
#[tokio::test]
async fn a_kubelet_killed_while_kubeadm_waits_for_it_and_again_after_its_restart_is_taken_as_it_comes_back() {
    let fleet = small_fleet().await;
    let machine = fleet.cluster.machine("cp1").unwrap();
    let point = Point::KubeadmBetweenRenames("kube-apiserver".to_owned());
    let fault = raise_until(&fleet, "cp1", &point, &Action::Pause).await;
    machine.systemd.stop_kubelet();
    fault.disarm().unwrap();
    let replaced =
        |cluster: &Cluster| cluster.machine("cp1").unwrap().tree.manifest("kube-apiserver").exists();
    fleet.cluster.wait_for("kubeadm's second rename", LIMIT, replaced).await.unwrap();
    machine.systemd.kill_kubelet(&machine.tree).unwrap();

    // Until it reports, the step that waits for it goes on.
    let held = fleet.cluster.hold_report("cp1").unwrap();
    held.store(true, Ordering::Release);
    until(&fleet, "the node to be verified", |rollout| is_at(rollout, "cp1", "verify-node")).await;
    let before = machine.systemd.kubelet().starts;
    machine.systemd.kill_kubelet(&machine.tree).unwrap();
    held.store(false, Ordering::Release);
    raised(&fleet, TO).await;
    assert_eq!(machine.systemd.kubelet().starts, before + 1, "nobody restarted it but systemd");
    assert_eq!(leases_of(&fleet, "cp1").await.len(), 1);
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

/// The copy knows lease 1 of cp1 and nothing of lease 2, which w1 holds when the copy is put back.
#[tokio::test]
async fn a_coordinator_put_back_from_an_old_backup_in_the_middle_grants_no_token_again() {
    let mut fleet = small_fleet().await;
    let point = Point::KubeadmBetweenRenames("etcd".to_owned());
    let fault = raise_until(&fleet, "cp1", &point, &Action::Pause).await;
    let (state, copy) = (fleet.coordinator_state(), fleet.folder().join("old"));
    fleet.kill_coordinator().unwrap();
    copy_tree(&state, &copy);
    fleet.start_coordinator().await.unwrap();
    fault.disarm().unwrap();
    let worker = fleet.cluster.machine("w1").unwrap().tree.clone();
    let fault = Fault::arm(&worker, &Point::AptUnpacked("kubeadm".to_owned()), &Action::Pause).unwrap();
    fault.reached(LIMIT).await.unwrap();
    let lost = journals::fence(&worker.agent_state()).unwrap();

    fleet.kill_coordinator().unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&copy, &state).unwrap();
    fleet.start_coordinator().await.unwrap();
    until(&fleet, "the agents to come back", |rollout| rollout.nodes.iter().all(|node| node.connected)).await;
    fault.disarm().unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Raised, "{}\n{}", rollout.reason, fleet.last_words());

    let mut leases = Vec::new();
    for name in fleet.nodes() {
        let state = fleet.cluster.machine(&name).unwrap().tree.agent_state();
        let own: Vec<u64> =
            journals::journals(&state).unwrap().iter().map(|journal| journal.header.token.0).collect();
        assert_eq!(journals::fence(&state).unwrap(), *own.last().unwrap(), "{name}: {own:?}");
        leases.extend(own);
    }
    let kinds: Vec<String> = history(&fleet).await.into_iter().map(|event| event.kind).collect();
    assert!(kinds.iter().any(|kind| kind == "fence-raised"), "{kinds:?}");
    let granted: Vec<u64> = proofs::leases_by_node(&history(&fleet).await).into_values().flatten().collect();
    assert!(
        granted.iter().filter(|token| **token > 1).all(|token| *token > lost),
        "{granted:?}, after {lost}"
    );
    let count = leases.len();
    leases.sort_unstable();
    leases.dedup();
    assert_eq!(leases.len(), count, "no token names two leases: {leases:?}");
    proofs::everything_runs(&fleet, TO).unwrap();
    proofs::holds_are_back(&fleet).unwrap();
}

#[tokio::test]
async fn a_drain_that_a_budget_blocks_goes_on_when_the_budget_allows_it() {
    let mut fleet = small_fleet().await;
    fleet.cluster.add_workload(liftlock_tests::standin::controllers::Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 2,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    fleet.cluster.add_budget("shop", 2);
    let limit = Duration::from_secs(20);
    fleet.cluster.wait_for("shop", limit, |cluster| cluster.lowest_ready("shop") == Some(2)).await.unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    until(&fleet, "w1's drain", |rollout| is_at(rollout, "w1", "drain")).await;
    fleet.cluster.wait_for("the cordon", limit, |cluster| cluster.is_cordoned("w1")).await.unwrap();
    // The agent is killed in the middle of the drain as well: the node's own cordon is not taken for an operator's.
    fleet.kill_agent("w1").unwrap();
    fleet.start_agent("w1").await.unwrap();
    until(&fleet, "the agent to come back", |rollout| node(rollout, "w1").connected).await;
    fleet.cluster.add_budget("shop", 1);
    raised(&fleet, TO).await;
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

#[tokio::test]
async fn an_api_that_is_gone_is_one_clear_error_and_a_retry_ends_well() {
    let terms = Terms { api_timeout: Some(8), ..Terms::default() };
    let fleet = Fleet::start_on(&Shape::new(1, 2), terms).await.unwrap();
    let fault = raise_until(&fleet, "w1", &Point::AptUnpacked("kubeadm".to_owned()), &Action::Pause).await;
    fleet.cluster.set_api_gone(true);
    fault.disarm().unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::Failed);
    let failure = &node(&rollout, "w1").failure;
    assert!(failure.contains("kubeadm-upgrade-node") && failure.contains("API"), "{failure}");
    assert_eq!(node(&rollout, "w2").phase(), NodePhase::Prepared, "nobody else begins after a failure");
    fleet.cluster.set_api_gone(false);
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    let tokens = leases_of(&fleet, "w1").await;
    assert_eq!(tokens.len(), 2, "a retry is a new lease");
}
