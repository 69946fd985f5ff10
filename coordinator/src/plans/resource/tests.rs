use std::collections::BTreeMap;

use liftlock_proto::v1;
use serde_json::{Value, json};

use super::object::Object;
use super::status::{Acceptance, Before, Status};
use super::*;
use crate::clock::SystemClock;
use crate::identity::authority::Authority;
use crate::store::memory::MemoryStore;

mod api_server;
mod conflicts;
mod events;

/// 2026-01-01T12:00:00Z
const NOW_MS: u64 = 1_767_268_800_000;

fn listed(spec: &Value) -> Value {
    json!({
        "apiVersion": "liftlock.dev/v1", "kind": "UpgradePlan",
        "metadata": {
            "name": "autumn", "uid": "00000000-0000-4000-8000-000000000001", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "77",
            "labels": {"argocd.argoproj.io/instance": "plans"}, "managedFields": [{"manager": "argocd"}],
        },
        "spec": spec,
    })
}

fn object(spec: &Value) -> Object {
    Object::read(listed(spec)).unwrap()
}

fn rollout(phase: v1::RolloutPhase, reason: &str) -> v1::Rollout {
    let node = |name: &str, phase: v1::NodePhase, step: &str| v1::RolloutNode {
        name: name.to_owned(),
        phase: phase.into(),
        step: step.to_owned(),
        step_number: 4,
        steps_total: 12,
        ..v1::RolloutNode::default()
    };
    v1::Rollout {
        plan: Some(v1::Plan {
            id: "p-0123456789ab".to_owned(),
            hash: "0".repeat(64),
            to_version: "v1.20.2".to_owned(),
            ..v1::Plan::default()
        }),
        phase: phase.into(),
        reason: reason.to_owned(),
        nodes: vec![
            node("cp1", v1::NodePhase::Raised, "restore-schedulability"),
            match phase {
                v1::RolloutPhase::Halted => node("w1", v1::NodePhase::Failed, "drain"),
                _ => node("w1", v1::NodePhase::Leased, "drain"),
            },
        ],
        started_at_ms: NOW_MS,
        stop: 1,
        ..v1::Rollout::default()
    }
}

fn status(acceptance: &Acceptance, rollout: Option<&v1::Rollout>, before: &Before, now_ms: u64) -> Value {
    serde_json::to_value(Status::of(acceptance, rollout, 3, before, now_ms)).unwrap()
}

/// Type, status and reason of each condition.
fn conditions(status: &Value) -> Vec<String> {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap().to_owned();
    let conditions = status["conditions"].as_array().unwrap().iter();
    conditions.map(|one| ["type", "status", "reason"].map(|field| text(one, field)).join(" ")).collect()
}

#[test]
fn the_definition_in_deploy_is_what_the_types_say() {
    let printed = serde_saphyr::to_string(&definition()).unwrap();
    let kept = include_str!("../../../../deploy/kubernetes/upgradeplans.yaml");
    assert_eq!(printed, kept, "liftlock schema --crd > deploy/kubernetes/upgradeplans.yaml");
}

/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>
#[test]
fn the_definition_is_structural_and_has_nothing_that_api_servers_forbid() {
    fn look(path: &str, node: &Value) {
        let fields = node.as_object().unwrap_or_else(|| panic!("{path} is no schema"));
        let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
        let typed = fields.get("type").is_some_and(Value::is_string);
        assert!(typed || open || fields.contains_key("x-kubernetes-int-or-string"), "{path} has no type");
        for forbidden in [
            "$ref",
            "$schema",
            "definitions",
            "dependencies",
            "default",
            "oneOf",
            "anyOf",
            "const",
            "examples",
            "title",
            "readOnly",
        ] {
            let unseen = (path, forbidden) == (".status", "default");
            assert!(unseen || !fields.contains_key(forbidden), "{path} has {forbidden}");
        }
        assert_ne!(fields.get("additionalProperties"), Some(&json!(false)), "{path}");
        assert!(
            !(fields.contains_key("properties") && fields.contains_key("additionalProperties")),
            "{path}"
        );
        let properties = fields.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            look(&format!("{path}.{name}"), schema);
        }
        for part in ["items", "additionalProperties"] {
            if let Some(schema) = fields.get(part) {
                look(&format!("{path}.{part}"), schema);
            }
        }
    }
    let definition = definition();
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    look("", schema);
    // What is not known there reaches the coordinator, which refuses it.
    for part in ["", "/properties/spec", "/properties/spec/properties/policy"] {
        assert_eq!(schema.pointer(part).unwrap()["x-kubernetes-preserve-unknown-fields"], true, "{part}");
    }
    let status = schema.pointer("/properties/status").unwrap();
    // The one default: an object that nobody has seen yet is not fulfilled. It has what its schema requires.
    let unseen = json!({"observedGeneration": -1, "phase": "Waiting", "conditions": []});
    assert_eq!(status["default"], unseen);
    assert_eq!(status["required"], json!(["observedGeneration", "phase", "conditions"]));
    assert_eq!(status.get("x-kubernetes-preserve-unknown-fields"), None);
    assert_eq!(status.pointer("/properties/conditions/x-kubernetes-list-map-keys"), Some(&json!(["type"])));
}

#[test]
fn what_delivers_an_object_says_nothing_of_the_plan_by_its_labels_and_annotations() {
    let spec = json!({"toVersion": "v1.20.2", "policy": {"accepted": ["api-outage"]}});
    let (document, hash) = object(&spec).document.unwrap();
    let file = "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nmetadata: {name: autumn}\nspec: {toVersion: v1.20.2, policy: \
                {accepted: [api-outage]}}\n";
    let same = crate::document::parse(file).unwrap();
    assert_eq!(document, same);
    assert_eq!(hash, super::super::wanted::hash(&same).unwrap());
    let another = object(&json!({"toVersion": "v1.20.3"})).document.unwrap().1;
    assert_ne!(hash, another);
}

#[test]
fn an_unknown_field_of_an_object_is_refused_by_its_name() {
    let why = |spec: Value| object(&spec).document.unwrap_err();
    let error = why(json!({"toVersion": "v1.20.2", "policy": {"acepted": ["api-outage"]}}));
    assert!(error.starts_with("spec.policy.acepted: there is no such field; allowed are "), "{error}");
    let error = why(json!({"toVersion": "v1.20.2", "paused": true}));
    assert!(error.starts_with("spec.paused: there is no such field"), "{error}");
    let mut beside = listed(&json!({"toVersion": "v1.20.2"}));
    beside["policy"] = json!({});
    let error = Object::read(beside).unwrap().document.unwrap_err();
    assert!(error.starts_with("policy: there is no such field"), "{error}");
}

#[test]
fn what_is_no_object_of_kubernetes_is_not_taken_for_one() {
    for (field, value, why) in [
        ("name", json!("../etcd"), "is no name"),
        ("uid", json!("a/b"), "is no uid"),
        ("uid", Value::Null, "no metadata.uid"),
        ("creationTimestamp", Value::Null, "no metadata.creationTimestamp"),
    ] {
        let mut object = listed(&json!({"toVersion": "v1.20.2"}));
        object["metadata"][field] = value;
        let error = Object::read(object).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_refused_object_says_by_which_rule_and_every_one_of_them() {
    let refused = Acceptance::Refused {
        rule: "api-outage".to_owned(),
        why: "api-outage: one member; drain-only-node: one worker".to_owned(),
    };
    let status = status(&refused, None, &Before::default(), NOW_MS);
    assert_eq!(
        conditions(&status),
        [
            "Accepted False ApiOutage",
            "Progressing False Refused",
            "Succeeded Unknown Refused",
            "Degraded False Refused",
            "Ready False ApiOutage",
            "Reconciling False Refused",
            "Stalled True ApiOutage"
        ]
    );
    assert_eq!(status["conditions"][0]["message"], "api-outage: one member; drain-only-node: one worker");
    assert_eq!(status["phase"], "Refused");
    assert_eq!(status["observedGeneration"], 3);
    assert_eq!(status.get("planId"), None);
}

#[test]
fn the_status_of_a_roll_out_says_how_far_it_is_and_what_asks_for_an_operator() {
    let of =
        |phase, reason| status(&Acceptance::Begun, Some(&rollout(phase, reason)), &Before::default(), NOW_MS);
    let running = of(v1::RolloutPhase::Running, "");
    assert_eq!(
        conditions(&running),
        [
            "Accepted True Begun",
            "Progressing True Running",
            "Succeeded Unknown Running",
            "Degraded False Running",
            "Ready False Running",
            "Reconciling True Running",
            "Stalled False Running"
        ]
    );
    let nodes = json!({"total": 2, "raised": 1, "failed": 0, "current": "w1", "step": "drain"});
    assert_eq!(running["nodes"], nodes);
    assert_eq!(running["conditions"][1]["message"], "w1 at step 4 of 12, drain; 1 of 2 nodes are raised");
    assert_eq!(
        (&running["planId"], &running["startedAt"]),
        (&json!("p-0123456789ab"), &json!("2026-01-01T12:00:00Z"))
    );
    assert_eq!(running.get("endedAt"), None);

    let halted = of(v1::RolloutPhase::Halted, "w1: drain: a budget allows none");
    assert_eq!(
        conditions(&halted)[1..],
        [
            "Progressing False Halted",
            "Succeeded Unknown Halted",
            "Degraded True Halted",
            "Ready False Halted",
            "Reconciling False Halted",
            "Stalled True Halted"
        ]
    );
    let message = halted["conditions"][3]["message"].as_str().unwrap();
    assert!(
        message.starts_with("w1: drain: a budget allows none; mend what failed, then `liftlock retry w1`"),
        "{message}"
    );

    let mut raised = rollout(v1::RolloutPhase::Raised, "");
    raised.ended_at_ms = NOW_MS + 1000;
    let raised = status(&Acceptance::Begun, Some(&raised), &Before::default(), NOW_MS);
    assert_eq!(conditions(&raised)[1..3], ["Progressing False Raised", "Succeeded True Raised"]);
    assert_eq!(raised["endedAt"], "2026-01-01T12:00:01Z");
    assert_eq!(conditions(&of(v1::RolloutPhase::Aborted, ""))[2], "Succeeded False Aborted");
    let back = of(v1::RolloutPhase::RolledBack, "w1: drain: a budget allows none");
    assert_eq!(conditions(&back)[2..4], ["Succeeded False RolledBack", "Degraded True RolledBack"]);
}

/// Objects as a coordinator leaves them, and as nobody has seen them yet, by what has become of them.
fn told() -> BTreeMap<String, Value> {
    let refused = Acceptance::Refused { rule: "downgrade".to_owned(), why: "downgrade: no".to_owned() };
    let waiting = Acceptance::Waiting("until another roll-out has ended".to_owned());
    let mut cases = vec![
        ("refused", refused.clone(), None),
        ("refused while an earlier spec is rolled out", refused, Some(v1::RolloutPhase::Running)),
        ("waiting", waiting.clone(), None),
        ("waiting while an earlier spec is rolled out", waiting, Some(v1::RolloutPhase::Running)),
        ("already there", Acceptance::AlreadyThere, None),
        ("begun elsewhere", Acceptance::BegunElsewhere, None),
    ];
    let phases = [
        ("preparing", v1::RolloutPhase::Preparing),
        ("running", v1::RolloutPhase::Running),
        ("paused", v1::RolloutPhase::Paused),
        ("between stops", v1::RolloutPhase::BetweenStops),
        ("aborting", v1::RolloutPhase::Aborting),
        ("rolling back", v1::RolloutPhase::RollingBack),
        ("halted", v1::RolloutPhase::Halted),
        ("aborted", v1::RolloutPhase::Aborted),
        ("rolled back", v1::RolloutPhase::RolledBack),
        ("raised", v1::RolloutPhase::Raised),
    ];
    cases.extend(phases.map(|(case, phase)| (case, Acceptance::Begun, Some(phase))));
    let mut told = BTreeMap::new();
    for (case, acceptance, phase) in cases {
        let rollout = phase.map(|phase| rollout(phase, "w1: drain"));
        let status = Status::of(&acceptance, rollout.as_ref(), 3, &Before::default(), NOW_MS);
        let object = object(&json!({"toVersion": "v1.20.2"})).with_status(&status).unwrap();
        let mut edited = object.clone();
        edited["metadata"]["generation"] = 4.into();
        told.insert(case.to_owned(), object);
        told.insert(format!("{case}, edited since"), edited);
    }
    let mut unseen = listed(&json!({"toVersion": "v1.20.2"}));
    unseen["status"] = definition()
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default")
        .cloned()
        .unwrap();
    told.insert("nobody has seen it".to_owned(), unseen);
    told
}

/// What kstatus (of cli-utils, as Flux asks it) and the health check (in Lua 5.1, as Argo CD runs it) have said of these objects:
/// `tests/fixtures/real/gitops`.
#[test]
fn flux_and_argo_cd_take_an_object_for_fulfilled_once_every_node_is_raised_and_never_before() {
    let recorded = |text: &str| serde_json::from_str::<BTreeMap<String, Value>>(text).unwrap();
    let objects = recorded(include_str!("../../../../tests/fixtures/real/gitops/objects.json"));
    assert!(
        told() == objects,
        "there are other objects: both have to be asked again, see `about` beside the recordings"
    );
    let kstatus = recorded(include_str!("../../../../tests/fixtures/real/gitops/kstatus.json"));
    let argo_cd = recorded(include_str!("../../../../tests/fixtures/real/gitops/argocd.json"));
    for case in told().keys() {
        let expected = match case.as_str() {
            "already there" | "raised" => ("Current", "Healthy"),
            "refused"
            | "refused while an earlier spec is rolled out"
            | "halted"
            | "aborted"
            | "rolled back" => ("Failed", "Degraded"),
            "paused" => ("InProgress", "Suspended"),
            _ => ("InProgress", "Progressing"),
        };
        let said = (kstatus[case].as_str().unwrap(), argo_cd[case]["status"].as_str().unwrap());
        assert_eq!(said, expected, "{case}");
    }
    let message = argo_cd["halted"]["message"].as_str().unwrap();
    assert!(message.contains("w1: drain") && message.contains("liftlock retry w1"), "{message}");
    let lua = include_str!("../../../../deploy/kubernetes/argocd-health.lua");
    let ran = include_str!("../../../../tests/fixtures/real/gitops/argocd-health.lua");
    assert_eq!(lua, ran, "another health check: it has to be run again");
}

#[tokio::test]
async fn nothing_is_begun_for_an_object_that_is_being_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(&folder.path().join("ca"), &SystemClock).unwrap();
    let store = Box::new(Arc::new(MemoryStore::default()));
    let keeper = Arc::new(Keeper::open(store, authority, Box::new(SystemClock)).unwrap());
    let mut follower = ResourceFollower::new(keeper, Box::new(SystemClock), folder.path().join("kubeconfig"));
    let mut deleted = listed(&json!({"toVersion": "v1.20.2"}));
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T12:00:00Z");
    deleted["metadata"]["finalizers"] = json!(["resources-finalizer.argocd.argoproj.io"]);
    let acceptance = follower.accept(&Object::read(deleted).unwrap()).await;
    assert!(matches!(&acceptance, Acceptance::Waiting(why) if why.contains("deleted")), "{acceptance:?}");
}

#[test]
fn while_an_earlier_spec_is_rolled_out_nothing_is_said_to_have_succeeded() {
    let waiting = Acceptance::Waiting("until the roll-out of plan p-0123456789ab has ended".to_owned());
    let status = status(&waiting, Some(&rollout(v1::RolloutPhase::Running, "")), &Before::default(), NOW_MS);
    assert_eq!(
        conditions(&status)[..3],
        ["Accepted Unknown Waiting", "Progressing True Running", "Succeeded Unknown Running"]
    );
    assert_eq!(status["phase"], "Running");
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes_and_nothing_is_written_that_is_there_already() {
    let of = |phase, before: &Before, now_ms| {
        Status::of(&Acceptance::Begun, Some(&rollout(phase, "")), 3, before, now_ms)
    };
    let first = of(v1::RolloutPhase::Preparing, &Before::default(), NOW_MS);
    let written = object(&json!({"toVersion": "v1.20.2"})).with_status(&first).unwrap();
    // The whole object as it was listed, so that another write since is a conflict.
    assert_eq!(written["metadata"], listed(&json!({}))["metadata"]);
    let known = Object::read(written.clone()).unwrap();
    assert_eq!(known.with_status(&of(v1::RolloutPhase::Preparing, &known.before, NOW_MS + 60_000)), None);

    let running = of(v1::RolloutPhase::Running, &known.before, NOW_MS + 60_000);
    let running = known.with_status(&running).unwrap();
    let since = |status: &Value, at: usize| status["status"]["conditions"][at]["lastTransitionTime"].clone();
    assert_eq!(since(&running, 1), since(&written, 1));
    let before = Before::read(running.get("status"));
    let paused = known.with_status(&of(v1::RolloutPhase::Paused, &before, NOW_MS + 60_000)).unwrap();
    assert_eq!((since(&paused, 0), since(&paused, 1)), (since(&written, 0), json!("2026-01-01T12:01:00Z")));
}

#[test]
fn a_status_that_others_wrote_is_read_as_far_as_it_reads() {
    let status = json!({
        "observedGeneration": 3,
        "conditions": [
            {"type": "Healthy"}, 5,
            {"type": "Accepted", "status": "True", "reason": "Begun", "message": "", "observedGeneration": 3,
             "lastTransitionTime": "2026-01-01T12:00:00Z"},
        ],
    });
    let before = Before::read(Some(&status));
    assert!(before.accepted(3) && !before.accepted(4) && !before.ended());
    for junk in [json!(null), json!([]), json!({"conditions": {}}), json!({"observedGeneration": "3"})] {
        assert!(!Before::read(Some(&junk)).accepted(3), "{junk}");
    }
}

#[test]
fn a_message_of_any_length_fits_into_a_condition() {
    let why = "é".repeat(100_000);
    let refused = Acceptance::Refused { rule: "downgrade".to_owned(), why };
    let status = status(&refused, None, &Before::default(), NOW_MS);
    assert_eq!(status["conditions"][0]["message"].as_str().unwrap().chars().count(), 8193);
}

#[test]
fn the_role_lets_the_coordinator_list_objects_write_their_status_and_tell_events_and_nothing_else() {
    let rbac = include_str!("../../../../deploy/kubernetes/rbac.yaml");
    let objects = serde_saphyr::from_str_multiple::<Value, Vec<Value>>(rbac).unwrap();
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(
        kinds,
        ["ServiceAccount", "Secret", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]
    );
    assert_eq!(
        objects[2]["rules"],
        json!([
            {"apiGroups": ["liftlock.dev"], "resources": ["upgradeplans"], "verbs": ["get", "list"]},
            {"apiGroups": ["liftlock.dev"], "resources": ["upgradeplans/status"], "verbs": ["update"]},
        ])
    );
    assert_eq!(objects[3]["roleRef"]["name"], objects[2]["metadata"]["name"]);
    let account = json!([{"kind": "ServiceAccount", "name": "liftlock-plans", "namespace": "kube-system"}]);
    assert_eq!(objects[3]["subjects"], account);
    let events = json!([{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]);
    assert_eq!((&objects[4]["rules"], &objects[4]["metadata"]["namespace"]), (&events, &json!("default")));
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": objects[4]["metadata"]["name"]});
    assert_eq!((&objects[5]["roleRef"], &objects[5]["metadata"]["namespace"]), (&role, &json!("default")));
    assert_eq!(objects[5]["subjects"], account);
}

#[tokio::test]
async fn an_object_that_another_store_began_is_not_begun_with_again() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(&folder.path().join("ca"), &SystemClock).unwrap();
    let store = Box::new(Arc::new(MemoryStore::default()));
    let keeper = Arc::new(Keeper::open(store, authority, Box::new(SystemClock)).unwrap());
    let kubeconfig = folder.path().join("kubeconfig");
    let mut follower = ResourceFollower::new(keeper, Box::new(SystemClock), kubeconfig);
    let begun = Status::of(
        &Acceptance::Begun,
        Some(&rollout(v1::RolloutPhase::Running, "")),
        3,
        &Before::default(),
        NOW_MS,
    );
    let new = object(&json!({"toVersion": "v1.20.2"}));
    let told = Object::read(new.with_status(&begun).unwrap()).unwrap();
    let acceptance = follower.accept(&told).await;
    assert_eq!(acceptance, Acceptance::BegunElsewhere);
    let status = status(&acceptance, None, &told.before, NOW_MS);
    assert_eq!(
        conditions(&status),
        [
            "Accepted True BegunElsewhere",
            "Progressing Unknown Unknown",
            "Succeeded Unknown Unknown",
            "Degraded Unknown Unknown",
            "Ready False Unknown",
            "Reconciling False Unknown",
            "Stalled False Unknown"
        ]
    );
    // Another spec is another matter, and so is one that was never accepted.
    let edited = Object { generation: 4, ..told.clone() };
    let tried =
        |acceptance| matches!(acceptance, Acceptance::Refused { rule, .. } if rule == "no-control-plane");
    assert!(tried(follower.accept(&edited).await));
    assert!(tried(follower.accept(&new).await));
}
