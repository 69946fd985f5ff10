//! Nodes that do not stay: other machines join at the version, and they leave.

use std::time::Duration;

use liftlock_proto::v1::{NodePhase, Policy, Rollout, RolloutPhase, Strategy, Workers};
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::{Cluster, Shape};
use liftlock_tests::standin::controllers::Workload;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::objects::Key;

use crate::{LIMIT, TO, end_of, history, leases_of, node, policy, until};

/// One control plane, so many workers, and machines that have not joined.
async fn fleet(workers: usize, machines: usize) -> Fleet {
    Fleet::start(&Shape { machines, ..Shape::new(1, workers) }).await.unwrap()
}

fn by(strategy: Strategy, soak_seconds: Option<u32>) -> Policy {
    let workers = Workers { strategy: strategy.into(), soak_seconds, ..Workers::default() };
    Policy { workers: Some(workers), ..policy() }
}

async fn apply(fleet: &Fleet, policy: Policy) {
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
}

/// The end of the last plan of the path.
async fn done(fleet: &Fleet) -> Rollout {
    let last = |rollout: &Rollout| {
        let over = rollout.onward.is_empty() && rollout.phase() == RolloutPhase::Raised;
        assert_ne!(rollout.phase(), RolloutPhase::Halted, "{}\n{}", rollout.reason, fleet.last_words());
        over
    };
    let rollout = until(fleet, "the end of the path", last).await;
    proofs::one_lease_at_a_time(&history(fleet).await).unwrap();
    rollout
}

/// The Nodes of the cluster, each with its kubelet's version.
fn nodes(fleet: &Fleet) -> Vec<(String, String)> {
    let of = |node: &serde_json::Value, at: &str| {
        node.pointer(at).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let nodes = fleet.cluster.objects.list("nodes", None);
    let mut nodes: Vec<(String, String)> = nodes
        .iter()
        .map(|node| (of(node, "/metadata/name"), of(node, "/status/nodeInfo/kubeletVersion")))
        .collect();
    nodes.sort();
    nodes
}

fn names(fleet: &Fleet) -> Vec<String> {
    nodes(fleet).into_iter().map(|(name, _)| name).collect()
}

/// Nobody is cordoned, and nobody carries a mark of ours.
fn nothing_of_ours_is_left(fleet: &Fleet) {
    proofs::only_cordoned(fleet, &[]).unwrap();
    for node in fleet.cluster.objects.list("nodes", None) {
        assert!(!node.to_string().contains("liftlock.dev/not-raised"), "{node}");
    }
}

async fn shop(fleet: &Fleet) {
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 2,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    let ready = |cluster: &Cluster| cluster.lowest_ready("shop") == Some(2);
    fleet.cluster.wait_for("shop", Duration::from_secs(20), ready).await.unwrap();
}

fn on(fleet: &Fleet, node: &str) -> usize {
    fleet.cluster.containers(node).iter().filter(|one| one.name == "shop").count()
}

#[tokio::test]
async fn one_machine_takes_the_first_workers_place_and_that_one_the_seconds() {
    let fleet = fleet(2, 1).await;
    let wanted = ["v1.31.2", "--accept", "api-outage", "--strategy", "surge", "--drain-timeout", "1m"];
    let plan = fleet.cli(&[&["plan"], &wanted[..]].concat()).await.unwrap().success().unwrap().stdout;
    for said in ["Path: v1.30.4 → v1.31.2, 3 stops", "n1 takes the place of w1", "w1 takes the place of w2"]
    {
        assert!(plan.contains(said), "{said}: {plan}");
    }
    let applied = fleet.cli(&[&["apply", "--yes"], &wanted[..]].concat()).await.unwrap();
    assert_eq!(applied.code, 0, "{}{}\n{}", applied.stdout, applied.stderr, fleet.last_words());
    for said in
        ["n1: joined", "w1: left", "w1: joined", "w2: left", "cp1: done", "done: w1 takes the place of w2"]
    {
        assert!(applied.stdout.contains(said), "{said}: {}", applied.stdout);
    }
    done(&fleet).await;
    let at = |name: &str| (name.to_owned(), TO.to_string());
    assert_eq!(nodes(&fleet), [at("cp1"), at("n1"), at("w1")]);
    nothing_of_ours_is_left(&fleet);
}

#[tokio::test]
async fn so_many_machines_join_before_as_many_workers_leave_one_after_the_other() {
    let fleet = fleet(2, 2).await;
    shop(&fleet).await;
    let mut policy = by(Strategy::Surge, None);
    policy.workers.as_mut().unwrap().max_surge = Some(liftlock_proto::workers::Share::Percent(100).into());
    apply(&fleet, policy).await;
    let rollout = done(&fleet).await;
    let order: Vec<&str> = rollout.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(order, ["n1", "n2", "w1", "w2", "cp1"]);
    assert_eq!(names(&fleet), ["cp1", "n1", "n2"]);
    assert_eq!(on(&fleet, "n1") + on(&fleet, "n2"), 2);
    nothing_of_ours_is_left(&fleet);
}

#[tokio::test]
async fn what_had_joined_leaves_again_and_what_was_drained_is_opened_where_an_operator_rolls_back() {
    let fleet = fleet(1, 1).await;
    fleet.cluster.add_unmanaged_pod("debug", "w1");
    apply(&fleet, by(Strategy::Surge, None)).await;
    let halted = until(&fleet, "the drain to fail", |rollout| rollout.phase() == RolloutPhase::Halted).await;
    assert_eq!(node(&halted, "n1").phase(), NodePhase::Joined);
    let alone = fleet.cli(&["rollback", "--node", "n1"]).await.unwrap();
    assert!(alone.code != 0 && alone.stderr.contains("--cluster"), "{}", alone.stderr);
    fleet.cli(&["rollback", "--cluster"]).await.unwrap().success().unwrap();
    let back = end_of(&fleet).await;
    assert_eq!(back.phase(), RolloutPhase::RolledBack, "{}\n{}", back.reason, fleet.last_words());
    assert_eq!(nodes(&fleet), [("cp1".to_owned(), TO.to_string()), ("w1".to_owned(), "v1.30.4".to_owned())]);
    let n1 = fleet.cluster.machine("n1").unwrap();
    assert!(!n1.tree.at("/etc/kubernetes/kubelet.conf").exists());
    nothing_of_ours_is_left(&fleet);
    proofs::one_lease_at_a_time(&history(&fleet).await).unwrap();

    // And once more from here, with nothing in the way.
    fleet.cluster.remove_pod("debug");
    apply(&fleet, by(Strategy::Surge, None)).await;
    done(&fleet).await;
    assert_eq!(names(&fleet), ["cp1", "n1"]);
}

#[tokio::test]
async fn a_join_that_fails_for_good_is_taken_back_though_agent_and_coordinator_die_on_the_way() {
    let mut fleet = fleet(1, 1).await;
    let tree = fleet.cluster.machine("n1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmJoining, &Action::Die).unwrap();
    apply(&fleet, by(Strategy::Surge, None)).await;
    let halted = until(&fleet, "the join to fail", |rollout| rollout.phase() == RolloutPhase::Halted).await;
    assert_eq!(node(&halted, "n1").phase(), NodePhase::Failed);
    fault.disarm().unwrap();
    let fault = Fault::arm(&tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    fleet.cli(&["rollback", "--cluster"]).await.unwrap().success().unwrap();
    fault.reached(LIMIT).await.unwrap();
    fleet.kill_agent("n1").unwrap();
    fleet.kill_coordinator().unwrap();
    fault.disarm().unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.start_agent("n1").await.unwrap();
    let back = end_of(&fleet).await;
    assert_eq!(back.phase(), RolloutPhase::RolledBack, "{}\n{}", back.reason, fleet.last_words());
    assert_eq!(names(&fleet), ["cp1", "w1"]);
    assert_eq!(leases_of(&fleet, "n1").await.len(), 2);
    nothing_of_ours_is_left(&fleet);
}

#[tokio::test]
async fn once_a_worker_has_left_nothing_goes_back_and_a_retry_goes_on() {
    let fleet = fleet(1, 1).await;
    let tree = fleet.cluster.machine("w1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmStarted, &Action::Die).unwrap();
    apply(&fleet, by(Strategy::Surge, None)).await;
    let halted = until(&fleet, "the reset to fail", |rollout| rollout.phase() == RolloutPhase::Halted).await;
    assert_eq!(node(&halted, "w1").step, "kubeadm-reset");
    let status = fleet.cli(&["status"]).await.unwrap().stdout;
    assert!(status.contains("liftlock retry w1") && !status.contains("rollback"), "{status}");
    let refused = fleet.cli(&["rollback", "--cluster"]).await.unwrap();
    assert!(refused.code != 0 && refused.stderr.contains("comes back only by joining"), "{}", refused.stderr);
    fault.disarm().unwrap();
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    done(&fleet).await;
    assert_eq!(names(&fleet), ["cp1", "n1"]);
    nothing_of_ours_is_left(&fleet);
}

#[tokio::test]
async fn all_pods_are_moved_and_looked_at_before_the_old_nodes_leave() {
    let fleet = fleet(2, 2).await;
    shop(&fleet).await;
    apply(&fleet, by(Strategy::BlueGreen, Some(3))).await;
    let looked_at = |rollout: &Rollout| rollout.reason.contains("the new nodes are looked at");
    let soaking = until(&fleet, "the new nodes to be looked at", looked_at).await;
    assert_eq!(soaking.phase(), RolloutPhase::BetweenStops);
    assert_eq!(names(&fleet), ["cp1", "n1", "n2", "w1", "w2"], "the old ones are still there");
    done(&fleet).await;
    assert_eq!(names(&fleet), ["cp1", "n1", "n2"]);
    assert_eq!(on(&fleet, "n1") + on(&fleet, "n2"), 2);
    nothing_of_ours_is_left(&fleet);
}

#[tokio::test]
async fn until_the_old_nodes_leave_a_rollback_goes_back_to_them() {
    let fleet = fleet(1, 1).await;
    shop(&fleet).await;
    apply(&fleet, by(Strategy::BlueGreen, Some(3600))).await;
    let looked_at = |rollout: &Rollout| rollout.reason.contains("the new nodes are looked at");
    until(&fleet, "the new nodes to be looked at", looked_at).await;
    assert_eq!(on(&fleet, "n1"), 2);
    let other =
        fleet.cli(&["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"]).await.unwrap();
    for said in ["has emptied w1 for its next plan", "`liftlock abort`"] {
        assert!(other.code != 0 && other.stderr.contains(said), "{said}: {}{}", other.stdout, other.stderr);
    }
    fleet.cli(&["rollback", "--cluster"]).await.unwrap().success().unwrap();
    let back = end_of(&fleet).await;
    assert_eq!(back.phase(), RolloutPhase::RolledBack, "{}\n{}", back.reason, fleet.last_words());
    assert_eq!(names(&fleet), ["cp1", "w1"]);
    let moved =
        |cluster: &Cluster| cluster.containers("w1").iter().filter(|one| one.name == "shop").count() == 2;
    fleet.cluster.wait_for("the pods to be back", LIMIT, moved).await.unwrap();
    nothing_of_ours_is_left(&fleet);
}

#[tokio::test]
async fn once_they_are_raised_machines_take_control_planes_places_and_no_quorum_is_lost_on_the_way() {
    let mut fleet = Fleet::start(&Shape { machines: 2, ..Shape::new(3, 2) }).await.unwrap();
    let wanted = ["v1.31.2", "--control-planes", "n2,cp1,n1", "--drain-timeout", "1m"];
    let plan = fleet.cli(&[&["plan"], &wanted[..]].concat()).await.unwrap().success().unwrap().stdout;
    let places = ["n2 takes the place of cp2", "n1 takes the place of cp3"];
    for said in [&["Path: v1.30.4 → v1.31.2, 3 stops", "until those are n2, cp1, n1"], &places[..]].concat()
    {
        assert!(plan.contains(said), "{said}: {plan}");
    }
    let tree = fleet.cluster.machine("n2").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmJoining, &Action::Pause).unwrap();
    fleet.cli(&[&["apply", "--yes", "--detach"], &wanted[..]].concat()).await.unwrap().success().unwrap();
    fault.reached(LIMIT).await.unwrap();
    fleet.kill_coordinator().unwrap();
    fleet.kill_agent("n2").unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.start_agent("n2").await.unwrap();
    fault.disarm().unwrap();
    done(&fleet).await;
    let at = |name: &str| (name.to_owned(), TO.to_string());
    assert_eq!(nodes(&fleet), ["cp1", "n1", "n2", "w1", "w2"].map(at));
    let members: Vec<String> = fleet.cluster.etcd.members().into_iter().map(|member| member.name).collect();
    assert_eq!(members, ["cp1", "n2", "n1"]);
    assert!(fleet.cluster.etcd.has_quorum() && fleet.cluster.etcd.most_stopped() <= 1);
    nothing_of_ours_is_left(&fleet);
    let again = fleet.cli(&[&["plan"], &wanted[..]].concat()).await.unwrap();
    assert!(
        again.stdout.contains("nothing") || again.stderr.contains("nothing"),
        "{}{}",
        again.stdout,
        again.stderr
    );
}

/// Its Node, as somebody deletes it.
fn delete(fleet: &Fleet, node: &str) {
    fleet.cluster.objects.remove(&Key::new("nodes", "", node));
}

/// The kubelet registers its Node at its start.
fn restart_kubelet(fleet: &Fleet, node: &str) {
    let machine = fleet.cluster.machine(node).unwrap();
    machine.systemd.restart_kubelet(&machine.tree).unwrap();
}

#[tokio::test]
async fn no_worker_leaves_for_a_machine_whose_node_somebody_deleted() {
    let fleet = fleet(1, 1).await;
    let tree = fleet.cluster.machine("n1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmJoining, &Action::Pause).unwrap();
    apply(&fleet, by(Strategy::Surge, None)).await;
    fault.reached(LIMIT).await.unwrap();
    fleet.cli(&["pause"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    until(&fleet, "n1 to have joined", |rollout| node(rollout, "n1").phase() == NodePhase::Joined).await;
    delete(&fleet, "n1");
    fleet.cli(&["resume"]).await.unwrap().success().unwrap();
    let gone = "n1 has joined and its Node is gone";
    let held = until(&fleet, "the next node to be held", |rollout| rollout.reason.contains(gone)).await;
    assert_eq!(node(&held, "w1").phase(), NodePhase::Prepared);
    restart_kubelet(&fleet, "n1");
    done(&fleet).await;
    assert_eq!(names(&fleet), ["cp1", "n1"]);
}

#[tokio::test]
async fn a_retry_has_no_worker_leave_for_a_machine_whose_node_was_deleted_meanwhile() {
    let fleet = fleet(1, 1).await;
    fleet.cluster.add_unmanaged_pod("debug", "w1");
    apply(&fleet, by(Strategy::Surge, None)).await;
    until(&fleet, "the drain to fail", |rollout| rollout.phase() == RolloutPhase::Halted).await;
    fleet.cluster.remove_pod("debug");
    delete(&fleet, "n1");
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    let gone = "n1 has joined and its Node is gone";
    until(&fleet, "the retry to be held", |rollout| rollout.reason.contains(gone)).await;
    assert_eq!(names(&fleet), ["cp1", "w1"]);
    restart_kubelet(&fleet, "n1");
    done(&fleet).await;
    assert_eq!(names(&fleet), ["cp1", "n1"]);
}

#[tokio::test]
async fn no_old_node_leaves_once_a_new_ones_node_was_deleted_while_it_was_looked_at() {
    let fleet = fleet(1, 1).await;
    apply(&fleet, by(Strategy::BlueGreen, Some(10))).await;
    let looked_at = |rollout: &Rollout| rollout.reason.contains("the new nodes are looked at");
    until(&fleet, "the new nodes to be looked at", looked_at).await;
    delete(&fleet, "n1");
    let gone = "n1 has joined and its Node is gone";
    let held = until(&fleet, "the next plan to be held", |rollout| rollout.reason.contains(gone)).await;
    assert_eq!(held.phase(), RolloutPhase::BetweenStops);
    assert_eq!(names(&fleet), ["cp1", "w1"], "the old one is still there");
    restart_kubelet(&fleet, "n1");
    done(&fleet).await;
    assert_eq!(names(&fleet), ["cp1", "n1"]);
}
