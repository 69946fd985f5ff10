//! One machine takes the place of another.

use std::time::Duration;

use liftlock_proto::v1::{ApplyRequest, MakePlanRequest, Policy, Replacement, Rollout, RolloutPhase};
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::{Cluster, Shape};
use liftlock_tests::standin::controllers::Workload;
use liftlock_tests::standin::fault::{Action, Fault, Point};

use crate::{LIMIT, end_of, history, until};

/// Three control planes and two workers, or fewer, and one machine that has not joined.
async fn fleet(control_planes: usize, workers: usize) -> Fleet {
    Fleet::start(&Shape { machines: 1, ..Shape::new(control_planes, workers) }).await.unwrap()
}

fn request(old: &str, accepted: &[&str]) -> MakePlanRequest {
    let replacement = Some(Replacement { old: old.to_owned(), with: "n1".to_owned() });
    let accepted = accepted.iter().map(|&one| one.to_owned()).collect();
    let policy = Policy { replacement, accepted, drain_timeout_seconds: 60, ..Policy::default() };
    MakePlanRequest { to_version: String::new(), policy: Some(policy), conduct: None }
}

async fn apply(fleet: &Fleet, old: &str, accepted: &[&str]) {
    let mut operator = fleet.operator().await.unwrap();
    let answer = operator.client.make_plan(request(old, accepted)).await.unwrap().into_inner();
    assert!(answer.refusals.is_empty(), "{:#?}", answer.refusals);
    operator
        .client
        .apply(ApplyRequest { plan: answer.plan, onward: Vec::new(), conduct: None, document: String::new() })
        .await
        .unwrap();
}

/// The rules that refuse it.
async fn refused(fleet: &Fleet, old: &str) -> Vec<String> {
    let mut operator = fleet.operator().await.unwrap();
    let answer = operator.client.make_plan(request(old, &[])).await.unwrap().into_inner();
    answer.refusals.into_iter().map(|refusal| refusal.rule).collect()
}

async fn replaced(fleet: &Fleet, old: &str) -> Rollout {
    let rollout = end_of(fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Raised, "{}\n{}", rollout.reason, fleet.last_words());
    assert!(fleet.cluster.node(old).is_null(), "the Node {old} is gone");
    let ready = |cluster: &Cluster| {
        let conditions = cluster.node("n1");
        conditions.pointer("/status/conditions/0/status").and_then(serde_json::Value::as_str) == Some("True")
    };
    fleet.cluster.wait_for("n1 to be Ready", LIMIT, ready).await.unwrap();
    proofs::one_lease_at_a_time(&history(fleet).await).unwrap();
    let failed = fleet
        .log_of("coordinator")
        .lines()
        .any(|line| line.contains("could not be marked") && line.contains("by=n1"));
    assert!(!failed, "a machine that has not joined changes no taints");
    no_secret_is_left(fleet);
    rollout
}

/// Bootstrap tokens and the certificate key, as the cluster has them, are in no log and in no file of Liftlock's.
fn no_secret_is_left(fleet: &Fleet) {
    let secrets: Vec<String> = fleet
        .cluster
        .objects
        .list("secrets", None)
        .iter()
        .flat_map(|secret| {
            {
                ["/stringData/token-secret", "/data/key"]
                    .into_iter()
                    .filter_map(|at| secret.pointer(at)?.as_str())
            }
            .map(str::to_owned)
            .collect::<Vec<_>>()
        })
        .collect();
    assert!(!secrets.is_empty(), "somebody was let in");
    let mut folders = vec![fleet.coordinator_state(), fleet.folder().join("log")];
    for name in fleet.nodes() {
        folders.push(fleet.cluster.machine(&name).unwrap().tree.agent_state());
    }
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().unwrap() {
            let path = entry.unwrap().path().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = std::fs::read(&path) {
                for secret in &secrets {
                    let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{path} holds a secret");
                }
            }
        }
    }
}

fn members(fleet: &Fleet) -> Vec<String> {
    fleet.cluster.etcd.members().into_iter().map(|member| member.name).collect()
}

#[tokio::test]
async fn a_machine_takes_a_workers_place_and_its_pods_move_there() {
    let fleet = fleet(1, 1).await;
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 2,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    let shop = |cluster: &Cluster| cluster.lowest_ready("shop") == Some(2);
    fleet.cluster.wait_for("shop", Duration::from_secs(20), shop).await.unwrap();
    apply(&fleet, "w1", &[]).await;
    replaced(&fleet, "w1").await;
    let w1 = fleet.cluster.machine("w1").unwrap();
    assert!(!w1.tree.at("/etc/kubernetes/kubelet.conf").exists() && w1.systemd.kubelet().running.is_none());
    let on = |node: &str| fleet.cluster.containers(node).iter().filter(|one| one.name == "shop").count();
    assert_eq!((on("w1"), on("n1")), (0, 2));
}

#[tokio::test]
async fn a_new_control_plane_takes_the_place_of_one_of_three_and_no_quorum_is_lost_on_the_way() {
    let fleet = fleet(3, 1).await;
    apply(&fleet, "cp3", &[]).await;
    replaced(&fleet, "cp3").await;
    assert_eq!(members(&fleet), ["cp1", "cp2", "n1"]);
    assert!(fleet.cluster.etcd.has_quorum() && fleet.cluster.etcd.most_stopped() <= 1);
}

#[tokio::test]
async fn a_dead_control_plane_is_replaced_and_its_member_goes_first() {
    let mut fleet = fleet(3, 1).await;
    fleet.kill_agent("cp3").unwrap();
    let machine = fleet.cluster.machine("cp3").unwrap();
    for component in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        fleet.cluster.set_broken("cp3", component, true);
    }
    let silent = |cluster: &Cluster| cluster.etcd.members().iter().any(|member| member.running.is_none());
    fleet.cluster.wait_for("etcd on cp3 to stop", LIMIT, silent).await.unwrap();
    machine.systemd.stop_kubelet();
    fleet.cluster.set_ready("cp3", false);
    assert_eq!(refused(&fleet, "cp3").await, ["node-is-gone"]);
    apply(&fleet, "cp3", &["node-is-gone"]).await;
    let rollout = replaced(&fleet, "cp3").await;
    let order: Vec<&str> = rollout.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(order, ["cp1", "n1"]);
    assert_eq!(members(&fleet), ["cp1", "cp2", "n1"]);
}

#[tokio::test]
async fn agent_and_coordinator_killed_while_kubeadm_joins_go_on_with_the_same_lease() {
    let mut fleet = fleet(3, 1).await;
    let tree = fleet.cluster.machine("n1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmJoining, &Action::Pause).unwrap();
    apply(&fleet, "cp3", &[]).await;
    fault.reached(LIMIT).await.unwrap();
    fleet.kill_agent("n1").unwrap();
    fleet.kill_coordinator().unwrap();
    fault.disarm().unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.start_agent("n1").await.unwrap();
    replaced(&fleet, "cp3").await;
    assert_eq!(crate::leases_of(&fleet, "n1").await.len(), 1);
    assert_eq!(members(&fleet), ["cp1", "cp2", "n1"]);
}

#[tokio::test]
async fn a_kubeadm_killed_in_the_middle_of_a_join_leaves_no_second_member_behind() {
    let fleet = fleet(3, 1).await;
    let tree = fleet.cluster.machine("n1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmJoining, &Action::Die).unwrap();
    apply(&fleet, "cp3", &[]).await;
    fault.reached(LIMIT).await.unwrap();
    fault.disarm().unwrap();
    replaced(&fleet, "cp3").await;
    assert_eq!(members(&fleet), ["cp1", "cp2", "n1"]);
}

#[tokio::test]
async fn an_agent_killed_while_its_node_is_reset_goes_on_and_the_node_leaves() {
    let mut fleet = fleet(1, 2).await;
    let tree = fleet.cluster.machine("w1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    apply(&fleet, "w1", &[]).await;
    fault.reached(LIMIT).await.unwrap();
    fleet.kill_agent("w1").unwrap();
    until(&fleet, "the coordinator to miss the agent", |rollout| !crate::node(rollout, "w1").connected).await;
    fault.disarm().unwrap();
    fleet.start_agent("w1").await.unwrap();
    replaced(&fleet, "w1").await;
}

#[tokio::test]
async fn a_machine_that_has_not_joined_is_shown_as_such_and_raised_by_no_plan() {
    let fleet = fleet(1, 1).await;
    let nodes = fleet.cli(&["nodes"]).await.unwrap().success().unwrap().stdout;
    let line = nodes.lines().find(|line| line.starts_with("n1")).unwrap();
    assert!(line.contains("not joined"), "{line}");
    let accept = ["--accept", "api-outage", "--accept", "drain-only-node"];
    let plan = fleet.cli(&[&["plan", "v1.31.2"], &accept[..]].concat()).await.unwrap().success().unwrap();
    assert!(!plan.stdout.contains("n1"), "{}", plan.stdout);
    let shown = fleet.cli(&["replace", "w1", "--with", "n1", "--dry-run"]).await.unwrap().success().unwrap();
    assert!(shown.stdout.contains("n1 takes the place of w1"), "{}", shown.stdout);
    assert_eq!(refused(&fleet, "cp1").await, ["no-other-control-plane"]);
}
