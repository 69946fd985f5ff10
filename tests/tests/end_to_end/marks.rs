//! Nodes that are not raised yet carry a taint while others are, and nobody does in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock_proto::not_raised::{EFFECT, KEY};
use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::{Shape, is_marked};
use liftlock_tests::standin::controllers::Workload;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::objects::text;
use serde_json::{Value, json};

use crate::{LIMIT, TO, end_of, node, policy, raised, small_fleet, until};

/// Raises until a worker's kubelet is being unpacked, when the control plane is raised.
async fn until_w1_is_in_hand(fleet: &Fleet) -> Fault {
    let tree = fleet.cluster.machine("w1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::AptUnpacked("kubelet".to_owned()), &Action::Pause).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    fault.reached(LIMIT).await.unwrap();
    assert_eq!(fleet.cluster.not_raised(), ["w1", "w2"], "{}", fleet.last_words());
    fault
}

async fn ends_without_marks(fleet: &Fleet, phase: RolloutPhase) {
    let rollout = end_of(fleet).await;
    assert_eq!(rollout.phase(), phase, "{}\n{}", rollout.reason, fleet.last_words());
    proofs::nobody_is_marked(fleet).await.unwrap();
}

/// Whether the marks that were there fitted, by every change of any Node: when a node is cordoned to be drained, those that
/// were raised before it are unmarked and those that come after it are marked.
fn marks_fitted(fleet: &Fleet, order: &[&str]) {
    let mut nodes: BTreeMap<String, Value> = BTreeMap::new();
    for change in fleet.cluster.objects.changes_after(0) {
        if change.key.resource != "nodes" {
            continue;
        }
        let name = change.key.name.clone();
        let cordoned = |node: &Value| node.pointer("/spec/unschedulable") == Some(&json!(true));
        let begins = cordoned(&change.object) && !nodes.get(&name).is_some_and(cordoned);
        nodes.insert(name.clone(), change.object);
        let Some(at) = order.iter().position(|node| *node == name).filter(|_| begins) else { continue };
        let marked: Vec<&str> =
            order.iter().copied().filter(|node| nodes.get(*node).is_some_and(is_marked)).collect();
        let expected = if at == 0 { &[] } else { &order[at..] };
        assert_eq!(marked, expected, "when {name} is drained");
    }
}

#[tokio::test]
async fn an_evicted_pod_lands_on_a_raised_node_and_foreign_taints_stay() {
    let fleet = Fleet::start(&Shape::new(1, 3)).await.unwrap();
    let valued = json!({"key": KEY, "effect": EFFECT, "value": "theirs"});
    let other = json!({"key": "shop", "effect": "PreferNoSchedule"});
    fleet.cluster.taint("w3", &valued);
    fleet.cluster.taint("w2", &other);
    // By load alone the scheduler would take w1 last.
    for number in 0..12 {
        fleet.cluster.add_daemon_pod(&format!("ballast-{number}"), "w1");
    }
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 6,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    let limit = Duration::from_secs(20);
    fleet.cluster.wait_for("shop", limit, |cluster| cluster.lowest_ready("shop") == Some(6)).await.unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    raised(&fleet, TO).await;
    let taints = |node: &str| fleet.cluster.node(node).pointer("/spec/taints").cloned();
    assert_eq!(taints("w3"), Some(json!([valued])), "somebody else's taint stays");
    assert_eq!(taints("w2"), Some(json!([other])));
    assert_eq!(taints("w1"), None);

    // While w2 and w3 were drained, w1 was raised and took whatever came.
    let mut begun = None;
    for change in fleet.cluster.objects.changes_after(0) {
        let cordoned = change.object.pointer("/spec/unschedulable") == Some(&json!(true));
        match change.key.resource.as_str() {
            "nodes" if cordoned => begun = Some(change.key.name.clone()),
            "pods" if change.kind == "MODIFIED" && change.key.name.starts_with("shop-") => {
                let lands_on = text(&change.object, "/spec/nodeName").unwrap_or_default();
                let starts = change.object.pointer("/status/phase") == Some(&json!("Pending"));
                if begun.as_deref() == Some("w2") && starts {
                    assert_eq!(lands_on, "w1", "{}", change.key.name);
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn marks_follow_the_roll_out_and_are_gone_before_the_next_node_is_drained() {
    let fleet = Fleet::start(&Shape::new(3, 2)).await.unwrap();
    let policy = liftlock_proto::v1::Policy { accepted: Vec::new(), ..policy() };
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
    raised(&fleet, TO).await;
    marks_fitted(&fleet, &["cp1", "cp2", "cp3", "w1", "w2"]);
}

#[tokio::test]
async fn nobody_is_marked_after_an_abort_though_the_coordinator_was_killed_in_between() {
    let mut fleet = small_fleet().await;
    let fault = until_w1_is_in_hand(&fleet).await;
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    ends_without_marks(&fleet, RolloutPhase::Aborted).await;
}

#[tokio::test]
async fn nobody_is_marked_after_a_rollback() {
    let fleet = small_fleet().await;
    fleet.cluster.add_unmanaged_pod("debug", "w2");
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(node(&rollout, "w2").phase(), NodePhase::Failed, "{}", fleet.last_words());
    assert_eq!(fleet.cluster.not_raised(), ["w2"]);
    fleet.cli(&["rollback", "--cluster"]).await.unwrap().success().unwrap();
    ends_without_marks(&fleet, RolloutPhase::RolledBack).await;
}

#[tokio::test]
async fn marks_that_nobody_could_take_away_are_told_and_go_once_an_agent_is_back() {
    let mut fleet = small_fleet().await;
    let fault = until_w1_is_in_hand(&fleet).await;
    fleet.kill_agent("cp1").unwrap();
    until(&fleet, "the coordinator to miss the agent", |rollout| !node(rollout, "cp1").connected).await;
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Aborted, "{}", fleet.last_words());
    assert!(rollout.taint.contains(KEY), "{}", rollout.taint);
    let status = fleet.cli(&["status"]).await.unwrap();
    assert!(status.stdout.contains(KEY), "{}", status.stdout);
    assert_eq!(fleet.cluster.not_raised(), ["w1", "w2"]);
    fleet.start_agent("cp1").await.unwrap();
    proofs::nobody_is_marked(&fleet).await.unwrap();
    until(&fleet, "nothing to be left to say", |rollout| rollout.taint.is_empty()).await;
}

#[tokio::test]
async fn an_agent_killed_while_nodes_are_marked_leaves_nothing_behind() {
    let mut fleet = small_fleet().await;
    let fault = until_w1_is_in_hand(&fleet).await;
    fleet.kill_agent("cp1").unwrap();
    fault.disarm().unwrap();
    until(&fleet, "w1 to be raised", |rollout| node(rollout, "w1").phase() == NodePhase::Raised).await;
    assert_eq!(fleet.cluster.not_raised(), ["w1", "w2"], "nobody was there to take it away");
    fleet.start_agent("cp1").await.unwrap();
    raised(&fleet, TO).await;
    marks_fitted(&fleet, &["cp1", "w1", "w2"]);
}
