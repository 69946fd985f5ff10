//! The plan as a document: planned, applied, compared with what runs, and printed to be read again.

use std::fs;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use liftlock_proto::v1::RolloutPhase;
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use serde_json::Value;

use crate::{LIMIT, TO, end_of, raised, small_fleet, until};

const DOCUMENT: &str = "\
apiVersion: liftlock.dev/v1
kind: UpgradePlan
metadata:
  name: autumn
spec:
  toVersion: v1.31.2
  policy:
    accepted: [api-outage]
    drainTimeoutSeconds: 60
";

/// The plans that a document leads to, stop by stop.
async fn plans_of(fleet: &Fleet, document: &str) -> Vec<String> {
    let answer = fleet.cli_with_input(&["plan", "-f", "-", "-o", "json"], document).await.unwrap();
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    let onward = answer["onward"].as_array().unwrap();
    [&answer["plan"]].into_iter().chain(onward).map(|plan| plan["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_document_is_compared_with_what_runs_before_while_and_after_it_is_applied() {
    let fleet = small_fleet().await;
    let file = fleet.folder().join("plan.yaml");
    fs::write(&file, DOCUMENT).unwrap();
    let diff = ["diff", "-f", file.as_str()];
    let before = fleet.cli(&diff).await.unwrap();
    assert_eq!(before.code, 1, "{before:?}");
    for words in ["spec.toVersion", "v1.31.2", "v1.30.4", "cp1, control-plane", "w2, kubelet"] {
        assert!(before.stdout.contains(words), "{words}: {}", before.stdout);
    }

    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let fault = Fault::arm(tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    let applied = fleet.cli(&["apply", "-f", file.as_str(), "--yes", "--detach"]).await.unwrap();
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    fault.reached(LIMIT).await.unwrap();
    let meanwhile = fleet.cli(&diff).await.unwrap();
    assert_eq!(meanwhile.code, 0, "what is on its way is what the document wants: {meanwhile:?}");
    let other = DOCUMENT.replace("drainTimeoutSeconds: 60", "onFailure: roll-back-node");
    let meanwhile = fleet.cli_with_input(&["diff", "-f", "-", "-o", "json"], &other).await.unwrap();
    assert_eq!(meanwhile.code, 1, "{meanwhile:?}");
    let found: Value = serde_json::from_str(&meanwhile.stdout).unwrap();
    let fields: Vec<&str> =
        found["differences"].as_array().unwrap().iter().map(|one| one["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["spec.policy.drainTimeoutSeconds", "spec.policy.onFailure"]);
    fault.disarm().unwrap();
    raised(&fleet, TO).await;
    let after = fleet.cli(&diff).await.unwrap();
    assert_eq!(after.code, 0, "{after:?}");

    let missing = fleet.cli(&["diff", "-f", "/no/such/plan.yaml"]).await.unwrap();
    assert_eq!(missing.code, 7, "an error is told from a difference: {missing:?}");
}

#[tokio::test]
async fn what_get_prints_plans_the_same_path_again() {
    let stop = KubernetesVersion::new(1, 30, 4);
    let version = KubernetesVersion::new(1, 29, 9);
    let fleet = Fleet::start(&Shape { version, offered: vec![stop, TO], ..Shape::new(1, 2) }).await.unwrap();
    // It opens in two hours, for seven: everything is prepared, and nobody is begun on.
    let time = |hours: i64| {
        let moment = Timestamp::now() + SignedDuration::from_hours(hours);
        moment.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string()
    };
    let window = format!(
        "  windows: [{{days: [mon, tue, wed, thu, fri, sat, sun], from: \"{}\", to: \"{}\", timeZone: UTC}}]\n",
        time(2),
        time(9)
    );
    let document = DOCUMENT.replace("    drain", "    workersSkipStops: true\n    drain") + &window;
    let planned = plans_of(&fleet, &document).await;
    assert_eq!(planned.len(), 2, "there is a stop on the way: {planned:?}");

    // Preparing changes nothing that a plan is made of.
    let applied = fleet.cli_with_input(&["apply", "-f", "-", "--yes", "--detach"], &document).await.unwrap();
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    until(&fleet, "the window to be waited for", |rollout| rollout.reason.contains("waits for the window"))
        .await;
    let yaml = fleet.cli(&["get", "-o", "yaml"]).await.unwrap().success().unwrap().stdout;
    let json = fleet.cli(&["get", "-o", "json"]).await.unwrap().success().unwrap().stdout;
    assert!(yaml.starts_with("apiVersion: liftlock.dev/v1\nkind: UpgradePlan\n"), "{yaml}");
    let told: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(told["spec"]["toVersion"], "v1.31.2", "the target is the last stop, not the first");
    assert_eq!(told["status"]["plan"]["id"], planned[0].as_str());
    assert_eq!(
        (&told["metadata"]["name"], &told["status"]["rollout"]["document"]),
        (&"autumn".into(), &"autumn".into())
    );
    for verb in ["status", "history"] {
        let told = fleet.cli(&[verb]).await.unwrap().success().unwrap().stdout;
        assert!(told.contains("document autumn"), "{verb}: {told}");
    }
    for document in [&yaml, &json] {
        let same = fleet.cli_with_input(&["diff", "-f", "-"], document).await.unwrap();
        assert_eq!(same.code, 0, "{same:?}");
    }
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Aborted);
    for document in [&yaml, &json] {
        assert_eq!(plans_of(&fleet, document).await, planned);
    }
}
