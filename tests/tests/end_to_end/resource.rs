//! Objects of kind `UpgradePlan` in the cluster, which the coordinator follows.

use std::fs;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use liftlock_proto::v1::RolloutPhase;
use liftlock_tests::fleet::{Fleet, Terms};
use liftlock_tests::standin::cluster::{Cluster, Shape};
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::objects::Key;
use serde_json::Value;

use crate::{LIMIT, TO, end_of, history, raised};

const CONSENT: &str = "{accepted: [api-outage]}";

/// As Argo CD or Flux delivers one.
fn deliver(fleet: &Fleet, name: &str, version: &str, policy: &str) {
    deliver_with(fleet, name, version, &format!("policy: {policy}"));
}

fn deliver_with(fleet: &Fleet, name: &str, version: &str, more: &str) {
    let manifest = format!(
        "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nmetadata:\n  name: {name}\n  labels: {{team: platform}}\nspec:\n  \
         toVersion: {version}\n  {more}\n"
    );
    fleet.cluster.apply(&manifest).unwrap();
}

fn key(name: &str) -> Key {
    Key::new("upgradeplans", "", name)
}

fn object(fleet: &Fleet, name: &str) -> Value {
    fleet.cluster.objects.get(&key(name)).unwrap_or_default()
}

/// A condition's status, reason and message.
fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |field: &str| found[field].as_str().map(str::to_owned);
    Some((text("status")?, text("reason")?, text("message")?))
}

/// Waits until a condition of an object's present spec is so, for such a reason; its message.
async fn until(fleet: &Fleet, name: &str, kind: &str, is: &str, reason: &str) -> String {
    let what = format!("upgradeplan {name} to be {kind} {is} {reason}");
    let so = |object: &Value| {
        let present = object.pointer("/status/observedGeneration") == object.pointer("/metadata/generation");
        let condition = condition(object, kind).filter(|(status, why, _)| status == is && why == reason);
        condition.filter(|_| present).map(|(_, _, message)| message)
    };
    let waited = fleet.cluster.wait_for(&what, LIMIT, |_| so(&object(fleet, name)).is_some()).await;
    match waited {
        Ok(()) => so(&object(fleet, name)).unwrap_or_default(),
        Err(error) => panic!("{error:#}\n{:#}\n{}", object(fleet, name), fleet.last_words()),
    }
}

/// The reasons of an object's events, by their names in the order in which they were made.
fn reasons(fleet: &Fleet, name: &str) -> Vec<String> {
    let events = fleet.cluster.objects.list("events", Some("default"));
    let about = events.into_iter().filter(|event| event["involvedObject"]["name"] == name);
    about.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
}

async fn applied(fleet: &Fleet) -> Vec<String> {
    let applied = history(fleet).await.into_iter().filter(|event| event.kind == "plan-applied");
    applied.map(|event| event.operator).collect()
}

async fn status(fleet: &Fleet) -> String {
    let status = fleet.cli(&["status"]).await.unwrap();
    format!("{}{}", status.stdout, status.stderr)
}

/// Waits until `status` says something.
async fn status_says(fleet: &Fleet, words: &str) {
    let said = async {
        while !status(fleet).await.contains(words) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = tokio::time::timeout(LIMIT, said).await.is_ok();
    assert!(in_time, "waited for status to say {words:?}\n{}", fleet.last_words());
}

async fn start() -> Fleet {
    let terms = Terms { follow_objects: true, ..Terms::default() };
    Fleet::start_on(&Shape::new(1, 2), terms).await.unwrap()
}

/// Holds the roll-out in its first lease.
fn held(fleet: &Fleet) -> Fault {
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    Fault::arm(tree, &Point::KubeadmImagePull, &Action::Pause).unwrap()
}

#[tokio::test]
async fn what_an_object_in_the_cluster_wants_is_done_once_and_told_in_its_conditions() {
    let mut fleet = start().await;
    deliver(&fleet, "autumn", "v1.31.2", "{}");
    let why = until(&fleet, "autumn", "Accepted", "False", "ApiOutage").await;
    assert!(why.starts_with("api-outage: "), "{why}");
    status_says(&fleet, "upgradeplan autumn is refused: api-outage: ").await;
    deliver(&fleet, "back", "v1.29.0", CONSENT);
    until(&fleet, "back", "Accepted", "False", "Downgrade").await;
    // A field that nobody knows is not dropped without a word.
    deliver(&fleet, "misspelt", "v1.31.2", "{acepted: [api-outage]}");
    let why = until(&fleet, "misspelt", "Accepted", "False", "Unreadable").await;
    assert!(why.starts_with("spec.policy.acepted: there is no such field; allowed are "), "{why}");
    assert!(applied(&fleet).await.is_empty());

    let fault = held(&fleet);
    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    fault.reached(LIMIT).await.unwrap();
    until(&fleet, "autumn", "Progressing", "True", "Running").await;
    // Another that wants the same waits for its end, and one that is edited meanwhile too.
    deliver(&fleet, "same", "v1.31.2", CONSENT);
    let why = until(&fleet, "same", "Accepted", "Unknown", "Waiting").await;
    assert!(why.starts_with("until the roll-out of plan p-"), "{why}");
    deliver(&fleet, "autumn", "v1.31.2", "{}");
    until(&fleet, "autumn", "Accepted", "Unknown", "Waiting").await;
    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    until(&fleet, "autumn", "Accepted", "True", "Begun").await;

    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    fault.disarm().unwrap();
    // The only API server goes away in the middle, and is found again.
    let rollout = raised(&fleet, TO).await;
    assert_eq!(rollout.started_by, "upgradeplan:autumn");
    until(&fleet, "autumn", "Succeeded", "True", "Raised").await;
    let status = object(&fleet, "autumn")["status"].take();
    assert_eq!(status["planId"], rollout.plan.unwrap().id);
    assert_eq!((&status["nodes"]["total"], &status["nodes"]["raised"]), (&3.into(), &3.into()));
    until(&fleet, "same", "Accepted", "True", "AlreadyThere").await;
    until(&fleet, "same", "Succeeded", "True", "Raised").await;
    until(&fleet, "back", "Accepted", "False", "Downgrade").await;
    assert_eq!(applied(&fleet).await, ["upgradeplan:autumn"]);
    let is_told = |_: &Cluster| {
        let last = |name: &str| reasons(&fleet, name).pop();
        let told = [last("autumn"), last("back"), last("same")];
        told == ["Raised", "Downgrade", "Raised"].map(|reason| Some(reason.to_owned()))
    };
    fleet.cluster.wait_for("the last event of each object", LIMIT, is_told).await.unwrap();
    for name in ["autumn", "back", "same", "misspelt"] {
        let told = reasons(&fleet, name);
        assert!(
            told.windows(2).all(|two| two[0] != two[1]),
            "an event says what the one before it said: {told:?}"
        );
    }
    assert_eq!(reasons(&fleet, "misspelt").first().map(String::as_str), Some("Unreadable"));
}

#[tokio::test]
async fn another_window_in_the_object_whose_roll_out_goes_on_counts_at_once_and_nothing_else_does() {
    let fleet = start().await;
    let fault = held(&fleet);
    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    fault.reached(LIMIT).await.unwrap();
    until(&fleet, "autumn", "Reconciling", "True", "Running").await;
    let day = (Timestamp::now() + SignedDuration::from_hours(48)).to_zoned(TimeZone::UTC).strftime("%a");
    let day = day.to_string().to_lowercase();
    let shut = format!(
        "policy: {CONSENT}\n  windows: [{{days: [{day}], from: \"02:00\", to: \"06:00\", timeZone: UTC}}]"
    );
    // Another object is not that of the roll-out.
    deliver_with(&fleet, "same", "v1.31.2", &shut);
    until(&fleet, "same", "Accepted", "Unknown", "Waiting").await;
    assert!(!history(&fleet).await.iter().any(|event| event.kind == "edited"));
    deliver_with(&fleet, "autumn", "v1.31.2", &format!("{shut}\n  workers: {{failureBudget: 1}}"));
    let why = until(&fleet, "autumn", "Accepted", "Unknown", "Waiting").await;
    assert!(why.contains("spec.workers.failureBudget"), "{why}");

    deliver_with(&fleet, "autumn", "v1.31.2", &shut);
    until(&fleet, "autumn", "Accepted", "True", "Begun").await;
    fleet.cluster.objects.remove(&key("same"));
    fault.disarm().unwrap();
    status_says(&fleet, "waits for the window").await;
    let edits: Vec<_> = history(&fleet).await.into_iter().filter(|event| event.kind == "edited").collect();
    assert_eq!(edits.iter().map(|edit| edit.operator.as_str()).collect::<Vec<_>>(), ["upgradeplan:autumn"]);
    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    until(&fleet, "autumn", "Ready", "True", "Raised").await;
    assert_eq!(applied(&fleet).await, ["upgradeplan:autumn"]);
}

#[tokio::test]
async fn an_object_that_is_deleted_stops_nothing_and_one_that_is_made_again_is_another() {
    let fleet = start().await;
    let fault = held(&fleet);
    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    fault.reached(LIMIT).await.unwrap();
    until(&fleet, "autumn", "Accepted", "True", "Begun").await;
    fleet.cluster.objects.remove(&key("autumn"));
    deliver(&fleet, "winter", "v1.31.2", CONSENT);
    until(&fleet, "winter", "Accepted", "Unknown", "Waiting").await;
    fleet.cluster.objects.remove(&key("winter"));
    assert!(status(&fleet).await.contains("running"), "{}", status(&fleet).await);
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Aborted);
    let nodes = fleet.nodes();
    fleet.operator().await.unwrap().wait_for_facts(&nodes, LIMIT).await.unwrap();

    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    until(&fleet, "autumn", "Succeeded", "True", "Raised").await;
    assert_eq!(applied(&fleet).await, ["upgradeplan:autumn", "upgradeplan:autumn"]);
}

#[tokio::test]
async fn a_status_that_may_not_be_written_is_told_once_and_what_the_object_wants_is_done_all_the_same() {
    let fleet = start().await;
    let role = Key::new("clusterroles", "", "liftlock-plans");
    let granted = fleet.cluster.objects.get(&role).unwrap();
    fleet.cluster.objects.update(&role, |role| {
        role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"][0] != "upgradeplans/status");
    });
    let fault = held(&fleet);
    deliver(&fleet, "autumn", "v1.31.2", CONSENT);
    fault.reached(LIMIT).await.unwrap();
    let words = "the status of upgradeplan autumn cannot be written";
    status_says(&fleet, words).await;
    assert!(status(&fleet).await.contains("upgradeplans/status"), "{}", status(&fleet).await);
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Aborted);

    fleet.cluster.objects.put(&role, granted);
    until(&fleet, "autumn", "Succeeded", "False", "Aborted").await;
    let log = fleet.log_of("coordinator");
    assert_eq!(log.matches(words).count(), 1, "{log}");
    assert_eq!(applied(&fleet).await, ["upgradeplan:autumn"]);

    // Without the list nothing is followed, and that is said.
    fleet.cluster.objects.remove(&role);
    status_says(&fleet, "no UpgradePlan is followed: upgradeplans.liftlock.dev is forbidden: ").await;
    // A key that others may read is none.
    let kubeconfig = fleet.plans_kubeconfig();
    fs::set_permissions(&kubeconfig, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    status_says(&fleet, "chmod 0600").await;
}
