//! A worker whose pods a budget protects: the roll-out halts, passes it over, or deletes them, as the plan says.

use std::time::Duration;

use liftlock_proto::blocked::ON_BLOCKED;
use liftlock_proto::v1::{NodePhase, NodePolicy, OnBlocked, Policy, Pool, RolloutPhase, Workers};
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::controllers::Workload;
use liftlock_tests::standin::objects::Key;
use liftlock_tests::standin::packages::Dpkg;
use serde_json::json;

use crate::{TO, end_of, history, leases_of, node, policy, raised, small_fleet};

/// A cluster with one protected pod, which runs on w1.
async fn protected_on_w1() -> Fleet {
    let fleet = small_fleet().await;
    fleet.cluster.cordon("w2", true);
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 1,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    fleet.cluster.add_budget("shop", 1);
    let limit = Duration::from_secs(20);
    fleet.cluster.wait_for("shop", limit, |cluster| cluster.lowest_ready("shop") == Some(1)).await.unwrap();
    fleet.cluster.cordon("w2", false);
    fleet
}

fn with(on_blocked: OnBlocked) -> Policy {
    Policy { drain_timeout_seconds: 2, on_blocked: on_blocked.into(), ..policy() }
}

/// w1 is passed over and everything else is raised; then nothing blocks it any more, and it is raised by a retry.
async fn passes_over_w1(fleet: &Fleet, policy: Policy) {
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
    let rollout = end_of(fleet).await;
    let phases = ["cp1", "w1", "w2"].map(|name| node(&rollout, name).phase());
    assert_eq!(
        phases,
        [NodePhase::Raised, NodePhase::Quarantined, NodePhase::Raised],
        "{}",
        fleet.last_words()
    );
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    assert!(rollout.reason.contains("raised, but for what could not be drained: w1"), "{}", rollout.reason);
    assert!(
        node(&rollout, "w1").failure.contains("The disruption budget shop"),
        "{}",
        node(&rollout, "w1").failure
    );
    let status = fleet.cli(&["status"]).await.unwrap();
    assert!(status.stdout.contains("liftlock retry w1"), "{}", status.stdout);
    proofs::only_cordoned(fleet, &[]).unwrap();
    let dpkg = Dpkg::read(&fleet.cluster.machine("w1").unwrap().tree).unwrap();
    assert_eq!(dpkg.get("kubeadm").unwrap().version, "1.30.4-1.1", "it is as it was");
    assert!(history(fleet).await.iter().any(|event| event.kind == "node-quarantined" && event.node == "w1"));
    assert_eq!(fleet.cluster.lowest_ready("shop"), Some(1), "the budget was kept");

    fleet.cluster.remove_budget("shop");
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    raised(fleet, TO).await;
    assert_eq!(leases_of(fleet, "w1").await.len(), 3);
}

#[tokio::test]
async fn a_worker_that_cannot_be_drained_is_quarantined_and_the_others_are_raised() {
    let fleet = protected_on_w1().await;
    passes_over_w1(&fleet, with(OnBlocked::Skip)).await;
}

#[tokio::test]
async fn a_nodes_annotation_says_what_follows_there_and_the_plan_by_name_says_more() {
    let fleet = protected_on_w1().await;
    fleet.cluster.objects.update(&Key::new("nodes", "", "w1"), |node| {
        node["metadata"]["annotations"][ON_BLOCKED] = json!("force");
    });
    let named = NodePolicy { name: "w1".to_owned(), on_blocked: OnBlocked::Skip.into() };
    let workers = Workers { nodes: vec![named], ..Workers::default() };
    passes_over_w1(&fleet, Policy { workers: Some(workers), ..with(OnBlocked::Pause) }).await;
}

#[tokio::test]
async fn a_pools_word_says_what_follows_on_its_workers() {
    let fleet = protected_on_w1().await;
    fleet.cluster.objects.update(&Key::new("nodes", "", "w1"), |node| {
        node["metadata"]["labels"]["kind"] = json!("shop");
    });
    let pool = Pool {
        name: "shop".to_owned(),
        selector: "kind=shop".to_owned(),
        on_blocked: Some(OnBlocked::Skip.into()),
        ..Pool::default()
    };
    let workers = Workers { pools: vec![pool], ..Workers::default() };
    passes_over_w1(&fleet, Policy { workers: Some(workers), ..with(OnBlocked::Pause) }).await;
}

#[tokio::test]
async fn without_a_word_a_worker_that_cannot_be_drained_halts_the_roll_out() {
    let fleet = protected_on_w1().await;
    fleet.operator().await.unwrap().apply(&TO.to_string(), with(OnBlocked::Pause)).await.unwrap();
    let rollout = end_of(&fleet).await;
    let phases = ["w1", "w2"].map(|name| node(&rollout, name).phase());
    assert_eq!(phases, [NodePhase::Failed, NodePhase::Prepared], "{}", fleet.last_words());
    proofs::only_cordoned(&fleet, &["w1"]).unwrap_err();
    assert!(fleet.cluster.is_cordoned("w1"), "until somebody has spoken");
}

#[tokio::test]
async fn protected_pods_are_deleted_after_the_time_limit_where_an_operator_said_so_and_the_history_names_them()
 {
    let fleet = protected_on_w1().await;
    fleet.operator().await.unwrap().apply(&TO.to_string(), with(OnBlocked::Force)).await.unwrap();
    raised(&fleet, TO).await;
    let remarks: Vec<String> = history(&fleet)
        .await
        .into_iter()
        .filter(|event| event.kind == "step-remarked")
        .map(|event| format!("{}: {}", event.node, event.text))
        .collect();
    // From w1 its successor goes to w2, where the budget protects it as well.
    let [first, second] = remarks.as_slice() else { panic!("{remarks:?}") };
    assert!(first.starts_with("w1: ") && first.contains("default/shop-"), "{first}");
    assert!(second.starts_with("w2: ") && second.contains("default/shop-"), "{second}");
}
