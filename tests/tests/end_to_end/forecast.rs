//! What `liftlock plan` says of drains before any of them.

use std::time::Duration;

use liftlock_proto::v1::{NodePhase, Rollout, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::controllers::Workload;
use liftlock_tests::standin::objects::{Key, text};
use serde_json::{Value, json};

use crate::{end_of, node, small_fleet, until};

const PLAN: [&str; 4] = ["plan", "v1.31.2", "--accept", "api-outage"];

/// Runs a workload whose pods all lie on one worker, the other being cordoned meanwhile.
async fn workload_on(fleet: &Fleet, on: &str, beside: &str, replicas: usize) {
    fleet.cluster.cordon(beside, true);
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    let limit = Duration::from_secs(20);
    fleet
        .cluster
        .wait_for("shop", limit, |cluster| cluster.lowest_ready("shop") == Some(replicas))
        .await
        .unwrap();
    fleet.cluster.cordon(beside, false);
    let pods = fleet.cluster.objects.list("pods", Some("default"));
    assert!(pods.iter().all(|pod| text(pod, "/spec/nodeName") == Some(on)), "{pods:?}");
}

/// The forecast of a plan as programs read it.
async fn forecast(fleet: &Fleet, plan: &[&str]) -> Value {
    let answer = fleet.cli(&[plan, &["-o", "json"]].concat()).await.unwrap().success().unwrap();
    serde_json::from_str::<Value>(&answer.stdout).unwrap()["forecast"].clone()
}

fn kinds_and_nodes(forecast: &Value) -> Vec<(&str, &str)> {
    let findings = forecast["findings"].as_array().unwrap();
    findings.iter().map(|one| (one["kind"].as_str().unwrap(), one["node"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_budget_that_will_block_the_last_workers_drain_is_named_before_anything_is_touched_and_then_does() {
    let fleet = small_fleet().await;
    workload_on(&fleet, "w2", "w1", 2).await;
    fleet.cluster.add_budget("shop", 2);
    let said = fleet.cli(&PLAN).await.unwrap().success().unwrap();
    for part in [
        "Forecast: the roll-out will halt at a drain",
        "the drain of w2 will wait for the budget default/shop (minAvailable: 2: 0 may go, 2 healthy, 2 needed)",
        "2 pods of Deployment default/shop cannot go",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    let forecast = forecast(&fleet, &PLAN).await;
    assert_eq!(kinds_and_nodes(&forecast), [("blocked", "w2")]);
    let budget = json!({
        "namespace": "default", "name": "shop", "rule": "minAvailable: 2",
        "disruptions_allowed": 0, "current_healthy": 2, "desired_healthy": 2,
    });
    assert_eq!(forecast["findings"][0]["budgets"], json!([budget]));
    assert_eq!(forecast["duration_s"], Value::Null, "no node was raised here yet");
    proofs::only_cordoned(&fleet, &[]).unwrap();
    assert!(fleet.operator().await.unwrap().rollout().await.is_err(), "nothing was begun");

    let apply = [
        &["apply", "v1.31.2", "--accept", "api-outage"][..],
        &["--yes", "--detach", "--drain-timeout", "2s"],
    ];
    let begun = fleet.cli(&apply.concat()).await.unwrap().success().unwrap();
    assert!(begun.stdout.contains("will wait for the budget default/shop"), "{}", begun.stdout);
    let halted = end_of(&fleet).await;
    assert_eq!(node(&halted, "w1").phase(), NodePhase::Raised);
    assert_eq!(node(&halted, "w2").phase(), NodePhase::Failed);
    assert!(halted.reason.contains("budget shop needs 2 healthy pods"), "{}", halted.reason);
    fleet.cluster.remove_budget("shop");
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
}

#[tokio::test]
async fn downtime_missing_room_and_pods_that_nobody_starts_again_are_told_with_the_node_where_they_are_met() {
    let fleet = small_fleet().await;
    workload_on(&fleet, "w2", "w1", 1).await;
    let names: Vec<String> = fleet.cluster.objects.list("pods", Some("default")).iter().map(name).collect();
    for name in names {
        fleet.cluster.objects.update(&Key::new("pods", "default", &name), |pod| {
            pod["spec"]["containers"][0]["resources"] =
                json!({"requests": {"cpu": "2500m", "memory": "1Gi"}});
        });
    }
    let told = forecast(&fleet, &PLAN).await;
    assert_eq!(kinds_and_nodes(&told), [("downtime", "w2")]);
    fleet.cluster.objects.update(&Key::new("nodes", "", "w1"), |node| {
        node["status"]["allocatable"]["cpu"] = json!("2");
    });
    let told = forecast(&fleet, &PLAN).await;
    assert_eq!(kinds_and_nodes(&told), [("downtime", "w2"), ("no-room", "w2")]);
    let message = told["findings"][1]["message"].as_str().unwrap();
    assert!(message.contains("2.5 CPU and 1024 MiB, and at most 2 CPU"), "{message}");
    fleet.cluster.add_unmanaged_pod("debug", "w1");
    let told = forecast(&fleet, &PLAN).await;
    assert_eq!(kinds_and_nodes(&told)[0], ("refused", "w1"));
    assert_eq!(told["findings"][0]["workload"], "Pod default/debug");
    let told = forecast(&fleet, &[&PLAN[..], &["--delete-unmanaged-pods"]].concat()).await;
    assert_eq!(kinds_and_nodes(&told)[0], ("downtime", "w1"));
}

#[tokio::test]
async fn a_cluster_whose_api_has_no_budgets_of_policy_v1_is_forecast_by_those_of_v1beta1() {
    let (version, target) = (KubernetesVersion::new(1, 19, 7), KubernetesVersion::new(1, 20, 2));
    let fleet = Fleet::start(&Shape { version, offered: vec![target], ..Shape::new(1, 2) }).await.unwrap();
    workload_on(&fleet, "w2", "w1", 1).await;
    fleet.cluster.add_budget("shop", 1);
    let told = forecast(&fleet, &["plan", "v1.20.2", "--accept", "api-outage"]).await;
    assert_eq!(kinds_and_nodes(&told), [("blocked", "w2")]);
}

#[tokio::test]
async fn drains_of_workers_that_leave_are_forecast_with_the_room_that_machines_bring_and_come_as_they_were_told()
 {
    let fleet = Fleet::start(&Shape { machines: 2, ..Shape::new(1, 2) }).await.unwrap();
    workload_on(&fleet, "w2", "w1", 2).await;
    for name in fleet.cluster.objects.list("pods", Some("default")).iter().map(name) {
        fleet.cluster.objects.update(&Key::new("pods", "default", &name), |pod| {
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2500m"}});
        });
    }
    fleet.cluster.add_budget("shop", 1);
    let plan = [&PLAN[..], &["--strategy", "surge"]].concat();
    assert_eq!(
        kinds_and_nodes(&forecast(&fleet, &plan).await),
        [],
        "four CPUs each have room for one pod each"
    );
    let blue_green = [&PLAN[..], &["--strategy", "blue-green"]].concat();
    assert_eq!(kinds_and_nodes(&forecast(&fleet, &blue_green).await), []);

    let online = fleet.cluster.machine("n2").unwrap().tree.at("/sys/devices/system/cpu/online");
    std::fs::write(online, "0\n").unwrap();
    fleet.cluster.add_budget("shop", 2);
    let told = forecast(&fleet, &plan).await;
    assert_eq!(kinds_and_nodes(&told), [("blocked", "w2"), ("no-room", "w2")]);
    let message = told["findings"][1]["message"].as_str().unwrap();
    for said in [
        "1 pod of Deployment default/shop will not fit elsewhere once w2 is drained",
        "at most 1.5 CPU",
        "does not come back",
    ] {
        assert!(message.contains(said), "{said}: {message}");
    }
    let halted_at_n2 = forecast(&fleet, &["replace", "w2", "--with", "n2", "--dry-run"]).await;
    assert_eq!(kinds_and_nodes(&halted_at_n2)[0], ("blocked", "w2"));

    let apply = ["apply", "v1.31.2", "--accept", "api-outage", "--strategy", "surge"];
    let short = ["--yes", "--detach", "--drain-timeout", "2s"];
    fleet.cli(&[&apply[..], &short].concat()).await.unwrap().success().unwrap();
    let halted = |rollout: &Rollout| rollout.phase() == RolloutPhase::Halted;
    let halted = until(&fleet, "the drain of w2 to fail", halted).await;
    assert_eq!(node(&halted, "w2").phase(), NodePhase::Failed);
    assert!(halted.reason.contains("budget shop needs 2 healthy pods"), "{}", halted.reason);
    assert!(fleet.cluster.node("w1").is_null(), "w1 has left before");
}

#[tokio::test]
async fn a_pod_whose_volume_lies_on_its_node_is_said_to_wait_for_it() {
    let fleet = small_fleet().await;
    workload_on(&fleet, "w2", "w1", 1).await;
    let pod = fleet.cluster.objects.list("pods", Some("default")).iter().map(name).next().unwrap();
    fleet.cluster.objects.update(&Key::new("pods", "default", &pod), |pod| {
        pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    });
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["w2"]});
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {},
        "spec": {
            "claimRef": {"namespace": "default", "name": "data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    });
    fleet.cluster.objects.put(&Key::new("persistentvolumes", "", "pv-1"), volume);
    let told = forecast(&fleet, &PLAN).await;
    assert_eq!(kinds_and_nodes(&told), [("downtime", "w2"), ("no-room", "w2")]);
    let message = told["findings"][1]["message"].as_str().unwrap();
    assert!(
        message.contains("a volume that lies on one node") && message.contains("until it is back"),
        "{message}"
    );
}

fn name(pod: &Value) -> String {
    text(pod, "/metadata/name").unwrap_or_default().to_owned()
}
