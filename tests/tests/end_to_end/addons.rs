//! Manifests that lie on the control planes, from the plan that shows what they change to the cluster that has them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use liftlock_proto::v1::{Rollout, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::objects::Key;
use serde_json::{Value, json};

use crate::{TO, end_of, node, raised, small_fleet, until};

const PLAN: [&str; 4] = ["plan", "v1.31.2", "--accept", "api-outage"];

const MANIFESTS: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: metrics, namespace: default}\n\
                         spec: {replicas: 2, image: 'metrics:2'}\n---\n\
                         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: kube-system}\ndata: {a: '1'}\n";

fn lay(fleet: &Fleet, node: &str, folder: &str, manifests: &str) {
    let folder = fleet.cluster.machine(node).unwrap().tree.at("/etc/liftlock/addons").join(folder);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("all.yaml");
    fs::write(&file, manifests).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
}

fn deployment() -> Key {
    Key::new("deployments", "default", "metrics")
}

fn map(name: &str) -> Key {
    Key::new("configmaps", "kube-system", name)
}

/// What an earlier raise applied: the Deployment as it was, and a `ConfigMap` that is no longer among the manifests.
fn applied_before(fleet: &Fleet) {
    let ours = |kind: &str, key: &Key, more: Value| {
        let metadata =
            json!({"name": key.name, "namespace": key.namespace, "labels": {"liftlock.dev/addons": "true"}});
        let mut object = json!({"kind": kind, "metadata": metadata});
        for (name, value) in more.as_object().unwrap() {
            object[name] = value.clone();
        }
        let applied = object.clone();
        object["metadata"]["managedFields"] = json!([{"manager": "liftlock", "applied": applied}]);
        fleet.cluster.objects.put(key, object);
    };
    let name = |api: &str, kind: &str, Key { namespace, name, .. }: Key| json!({"apiVersion": api, "kind": kind, "namespace": namespace, "name": name});
    let record = json!({
        "set": "v1.30", "digest": "0".repeat(64), "plan": "p-ba9876543210", "complete": true,
        "objects": [name("apps/v1", "Deployment", deployment()), name("v1", "ConfigMap", map("gone"))],
    });
    ours(
        "Deployment",
        &deployment(),
        json!({"apiVersion": "apps/v1", "spec": {"replicas": 2, "image": "metrics:1"}}),
    );
    ours("ConfigMap", &map("gone"), json!({"apiVersion": "v1", "data": {}}));
    let data = json!({"applied.json": record.to_string()});
    ours("ConfigMap", &map("liftlock-addons"), json!({"apiVersion": "v1", "data": data}));
}

#[tokio::test]
async fn add_ons_are_shown_in_the_plan_and_applied_once_the_last_control_plane_is_raised() {
    let fleet = Fleet::start(&Shape::new(2, 1)).await.unwrap();
    applied_before(&fleet);
    for control_plane in ["cp1", "cp2"] {
        lay(&fleet, control_plane, "v1.31", MANIFESTS);
    }
    let plan = [&PLAN[..], &["--accept", "drain-only-node"]].concat();
    let said = fleet.cli(&plan).await.unwrap().success().unwrap();
    for part in [
        "Add-ons of v1.31.2, applied by cp2: 1 created, 1 changed, 1 pruned\n",
        "  created  ConfigMap kube-system/settings\n",
        "  changed  Deployment default/metrics: spec.image\n",
        "  pruned   ConfigMap kube-system/gone\n",
        "apply-addons",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    let json = fleet.cli(&[&plan[..], &["-o", "json"]].concat()).await.unwrap().success().unwrap();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["addons"][0]["changes"][1]["fields"], json!(["spec.image"]));
    assert!(fleet.cluster.objects.get(&map("settings")).is_none(), "a plan changes nothing");

    let mut policy = crate::policy();
    policy.accepted.push("drain-only-node".to_owned());
    fleet.operator().await.unwrap().apply("v1.31.2", policy).await.unwrap();
    let rollout = raised(&fleet, TO).await;
    assert_eq!(node(&rollout, "cp2").step, "apply-addons");
    assert_ne!(node(&rollout, "cp1").step, "apply-addons");
    assert_eq!(fleet.cluster.objects.get(&deployment()).unwrap()["spec"]["image"], "metrics:2");
    assert_eq!(fleet.cluster.objects.get(&map("settings")).unwrap()["data"]["a"], "1");
    assert!(fleet.cluster.objects.get(&map("gone")).is_none(), "it is no longer among the manifests");
}

#[tokio::test]
async fn on_a_path_each_stop_applies_its_own_add_ons_and_prunes_those_of_the_stop_before() {
    let offered = vec![KubernetesVersion::new(1, 30, 4), TO];
    let shape = Shape { version: KubernetesVersion::new(1, 29, 9), offered, ..Shape::new(1, 1) };
    let fleet = Fleet::start(&shape).await.unwrap();
    lay(&fleet, "cp1", "v1.30", &MANIFESTS.replace("metrics:2", "metrics:1").replace("settings", "earlier"));
    lay(&fleet, "cp1", "v1.31", MANIFESTS);
    let plan = [&PLAN[..], &["--accept", "drain-only-node"]].concat();
    let said = fleet.cli(&plan).await.unwrap().success().unwrap();
    for part in
        ["Add-ons of v1.30.4, applied by cp1: 2 created\n", "Add-ons of v1.31.2, applied by cp1: 2 created\n"]
    {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    let mut policy = crate::policy();
    policy.accepted.push("drain-only-node".to_owned());
    fleet.operator().await.unwrap().apply("v1.31.2", policy).await.unwrap();
    let reached = |rollout: &Rollout| rollout.stop == 2;
    until(&fleet, "the second stop's roll-out", reached).await;
    assert_eq!(fleet.cluster.objects.get(&deployment()).unwrap()["spec"]["image"], "metrics:1");
    assert!(fleet.cluster.objects.get(&map("earlier")).is_some());
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Raised, "{}", fleet.last_words());
    proofs::everything_runs(&fleet, TO).unwrap();
    assert_eq!(fleet.cluster.objects.get(&deployment()).unwrap()["spec"]["image"], "metrics:2");
    assert!(fleet.cluster.objects.get(&map("settings")).is_some());
    assert!(fleet.cluster.objects.get(&map("earlier")).is_none(), "it is no longer among the manifests");
}

#[tokio::test]
async fn add_ons_that_the_api_server_refuses_or_that_others_may_write_to_refuse_the_plan() {
    let fleet = small_fleet().await;
    lay(&fleet, "cp1", "v1.31.2", MANIFESTS);
    let theirs =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"replicas": 9}});
    fleet.cluster.objects.put(&deployment(), theirs);
    let refused = async |rule: &str, words: &str| {
        let said = fleet.cli(&PLAN).await.unwrap();
        assert_eq!(said.code, 3, "{}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains(rule) && said.stderr.contains(words), "{}", said.stderr);
    };
    refused("addons-refused", "conflict with \"kubectl\": .spec.replicas").await;
    let file = fleet.cluster.machine("cp1").unwrap().tree.at("/etc/liftlock/addons/v1.31.2/all.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    refused("addons-unreadable", "others than root may write to").await;
    fs::write(&file, "kind: ConfigMap\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    refused("addons-unreadable", "all.yaml, document 1: apiVersion is missing").await;
    proofs::only_cordoned(&fleet, &[]).unwrap();
}
