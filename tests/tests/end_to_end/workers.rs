//! Workers that are raised side by side.

use std::collections::BTreeSet;
use std::fs;

use liftlock_proto::v1::{HistoryEvent, ListNodesRequest, NodePhase, Rollout, RolloutPhase};
use liftlock_tests::fleet::{Fleet, Terms, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::controllers::Workload;

use crate::{TO, end_of, history, node, until};

const ZONE: &str = "topology.kubernetes.io/zone";

const DOCUMENT: &str = "\
apiVersion: liftlock.dev/v1
kind: UpgradePlan
spec:
  toVersion: v1.31.2
  policy:
    accepted: [api-outage]
    drainTimeoutSeconds: 60
  workers:
    maxUnavailable: 50%
    pools:
      - name: gpu
        selector: kind in (gpu)
        pauseAfter: true
";

/// One control plane; w1 and w2 in zone b, w3, w4 and w5 in zone a, w5 with a GPU. Half of the four others is two.
#[tokio::test]
async fn workers_of_one_zone_are_raised_side_by_side_after_the_pool_that_comes_first() {
    let fleet = Fleet::start(&Shape::new(1, 5)).await.unwrap();
    for (node, zone) in [("w1", "b"), ("w2", "b"), ("w3", "a"), ("w4", "a"), ("w5", "a")] {
        fleet.cluster.label(node, ZONE, zone);
    }
    fleet.cluster.label("w5", "kind", "gpu");
    let mut operator = fleet.operator().await.unwrap();
    let told = operator.client.list_nodes(ListNodesRequest { ask_anew: true }).await.unwrap().into_inner();
    let machines: BTreeSet<String> = told.nodes.into_iter().map(|node| node.facts.unwrap().machine).collect();
    assert_eq!((machines.len(), machines.contains("")), (6, false), "each machine is told from the others");
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 3,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    fleet.cluster.add_budget("shop", 2);
    let limit = std::time::Duration::from_secs(20);
    fleet.cluster.wait_for("shop", limit, |cluster| cluster.lowest_ready("shop") == Some(3)).await.unwrap();

    let document = fleet.folder().join("plan.yaml");
    fs::write(&document, DOCUMENT).unwrap();
    let shown = fleet.cli(&["plan", "-f", document.as_str()]).await.unwrap().success().unwrap();
    for said in [
        "Pool gpu: w5 (zone a); one at a time; then a pause, until you say resume",
        "Pool others: w3, w4 (zone a), then w1, w2 (zone b); up to 2 at a time, of one zone",
    ] {
        assert!(shown.stdout.contains(said), "{said}: {}", shown.stdout);
    }
    fleet.cli(&["apply", "-f", document.as_str(), "--yes", "--detach"]).await.unwrap().success().unwrap();
    let paused = until(&fleet, "the pause", |rollout| rollout.phase() == RolloutPhase::Paused).await;
    assert_eq!(paused.reason, "paused after pool gpu");
    fleet.cli(&["resume"]).await.unwrap().success().unwrap();
    let end = end_of(&fleet).await;
    assert_eq!(end.phase(), RolloutPhase::Raised, "{}\n{}", end.reason, fleet.last_words());

    proofs::everything_runs(&fleet, TO).unwrap();
    proofs::holds_are_back(&fleet).unwrap();
    proofs::backups_are_whole(&fleet).unwrap();
    proofs::only_cordoned(&fleet, &[]).unwrap();
    assert!(fleet.cluster.lowest_ready("shop") >= Some(2), "the budget was not kept");
    let history = history(&fleet).await;
    let granted = history.iter().filter(|event| event.kind == "lease-granted");
    let mut order: Vec<&str> = granted.map(|event| event.node.as_str()).collect();
    assert_eq!(order.len(), 6, "{order:?}");
    order[2..4].sort_unstable();
    order[4..].sort_unstable();
    assert_eq!(order, ["cp1", "w5", "w3", "w4", "w1", "w2"]);
    let together: BTreeSet<Vec<String>> = proofs::holders(&history)
        .into_iter()
        .filter(|held| held.len() > 1)
        .map(|held| held.into_values().collect::<BTreeSet<_>>().into_iter().collect())
        .collect();
    assert_eq!(together, [["w1", "w2"], ["w3", "w4"]].map(|pair| pair.map(str::to_owned).to_vec()).into());
}

/// w2 is the canary; w3 fails and is borne; the coordinator runs on w1, which comes last.
#[tokio::test]
async fn the_others_follow_a_canary_that_has_soaked_and_go_on_past_one_that_failed_and_an_operator_is_asked_at_the_end()
 {
    let terms = Terms { on_node: Some("w1"), ..Terms::default() };
    let fleet = Fleet::start_on(&Shape::new(1, 4), terms).await.unwrap();
    fleet.cluster.add_unmanaged_pod("debug", "w3");
    let options = ["--max-unavailable", "2", "--canary", "1", "--soak", "5s", "--failure-budget", "1"];
    let apply = ["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"];
    fleet.cli(&[apply.as_slice(), &options].concat()).await.unwrap().success().unwrap();
    let soaking = until(&fleet, "the soak", |rollout| rollout.reason.contains("soaking")).await;
    assert_eq!(soaking.phase(), RolloutPhase::Running);
    assert!(is_phase(&soaking, "w2", NodePhase::Raised) && is_phase(&soaking, "w3", NodePhase::Prepared));
    let end = end_of(&fleet).await;
    assert_eq!(end.phase(), RolloutPhase::Halted, "{}", fleet.last_words());
    assert!(end.reason.starts_with("w3: ") && end.reason.contains("default/debug"), "{}", end.reason);
    for raised in ["cp1", "w1", "w2", "w4"] {
        assert!(is_phase(&end, raised, NodePhase::Raised), "{raised}: {end:#?}");
    }
    let history_so_far = history(&fleet).await;
    let granted: Vec<&HistoryEvent> =
        history_so_far.iter().filter(|event| event.kind == "lease-granted").collect();
    let order: Vec<&str> = granted.iter().map(|event| event.node.as_str()).collect();
    assert_eq!((&order[..2], order[4]), (["cp1", "w2"].as_slice(), "w1"), "{order:?}");
    let canary =
        history_so_far.iter().find(|event| event.kind == "lease-ended" && event.node == "w2").unwrap();
    assert!(granted[2].at_ms >= canary.at_ms + 5000, "{} is begun before the canary has soaked", order[2]);
    assert!(proofs::most_leases_at_once(&history_so_far) <= 2);

    fleet.cluster.remove_pod("debug");
    fleet.cli(&["retry", "w3"]).await.unwrap().success().unwrap();
    let end = end_of(&fleet).await;
    assert_eq!(end.phase(), RolloutPhase::Raised, "{}\n{}", end.reason, fleet.last_words());
    proofs::everything_runs(&fleet, TO).unwrap();
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

fn is_phase(rollout: &Rollout, name: &str, phase: NodePhase) -> bool {
    node(rollout, name).phase() == phase
}
