//! Add-ons: what is applied, what is deleted, and what never is.

use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;
use liftlock_proto::v1::AddonChangeKind;
use serde_json::{Value, json};

use super::harness::{End, Leased, TO, shape};
use crate::addons::preview::preview;
use crate::addons::record::Record;
use crate::addons::set::{Set, Trusted};
use crate::addons::{Addons, LABEL};
use crate::host::objects::ObjectName;
use crate::twin::Twin;

const FOLDER: &str = "/etc/liftlock/addons/v1.31";
const RECORD: &str = "/api/v1/namespaces/kube-system/configmaps/liftlock-addons";
const DNS: &str = "/apis/apps/v1/namespaces/kube-system/deployments/dns";
const NEW: &str = "/api/v1/namespaces/kube-system/configmaps/new";
const OLD: &str = "/api/v1/namespaces/kube-system/configmaps/old";

const MANIFESTS: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: dns, namespace: kube-system}\n\
                         spec: {replicas: 2, image: 'dns:2'}\n---\n\
                         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new, namespace: kube-system}\ndata: {a: '1'}\n";

fn name(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn ours(api_version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": "kube-system", "labels": {LABEL: "true"}});
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// The record of an earlier plan that has applied these.
fn record(leased: &Leased, objects: &[ObjectName]) {
    let record = Record {
        set: "v1.30".to_owned(),
        digest: "0".repeat(64),
        plan: "p-ba9876543210".to_owned(),
        complete: true,
        objects: objects.to_vec(),
    };
    let metadata = json!({"name": "liftlock-addons", "namespace": "kube-system", "labels": {LABEL: "true"}});
    let data = json!({"applied.json": serde_json::to_string(&record).unwrap()});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
    put(leased, RECORD, None, map);
}

fn put(leased: &Leased, path: &str, by: Option<&str>, object: Value) {
    leased.twin.world().cluster.stored.put(path, by, object);
}

fn get(leased: &Leased, path: &str) -> Option<Value> {
    leased.twin.world().cluster.stored.get(path).cloned()
}

fn set(leased: &Leased) -> Trusted {
    let host = leased.twin.host(leased.node);
    leased.twin.drive(Set::of_version(&host, TO)).done().unwrap().unwrap().unwrap()
}

/// Lays these manifests on the node and plans them.
fn plan(leased: &mut Leased, manifests: &str) {
    leased.meddle(|machine| machine.disk.put(format!("{FOLDER}/all.yaml"), manifests, 0o644));
    let digest = set(leased).unwrap().digest;
    leased.steps.retain(|step| step.name() != "apply-addons");
    leased.steps.push(Step::ApplyAddons { version: TO, digest });
}

/// Add-ons of the new version, of which one is new, one is another and one is gone, and those of the earlier one in the
/// cluster.
pub(super) fn lay(leased: &mut Leased) {
    put(leased, DNS, None, ours("apps/v1", "Deployment", "dns", &json!({"replicas": 2, "image": "dns:1"})));
    put(leased, OLD, None, ours("v1", "ConfigMap", "old", &json!({"a": 1})));
    let applied =
        [name("apps/v1", "Deployment", "kube-system", "dns"), name("v1", "ConfigMap", "kube-system", "old")];
    record(leased, &applied);
    plan(leased, MANIFESTS);
}

/// A control plane that has a backup and nothing left but its add-ons.
fn ready() -> Leased {
    let twin = Twin::new(shape(1, 1));
    let mut leased = Leased::new(&twin, "cp1", Role::FirstControlPlane);
    leased.carry_until("install-kubeadm");
    lay(&mut leased);
    leased
}

fn apply(leased: &mut Leased) -> End {
    let step = leased.step("apply-addons");
    leased.carry(&step)
}

#[test]
fn what_the_manifests_have_is_there_and_what_they_no_longer_have_is_deleted() {
    let mut leased = ready();
    assert_eq!(apply(&mut leased), End::Done);
    let dns = get(&leased, DNS).unwrap();
    assert_eq!((&dns["spec"]["image"], &dns["metadata"]["labels"][LABEL]), (&json!("dns:2"), &json!("true")));
    assert_eq!(get(&leased, NEW).unwrap()["data"]["a"], "1");
    assert_eq!(get(&leased, OLD), None);
    let record = get(&leased, RECORD).unwrap()["data"]["applied.json"].as_str().unwrap().to_owned();
    let record: Record = serde_json::from_str(&record).unwrap();
    assert!(record.complete && record.plan == "p-0123456789ab", "{record:?}");
    let names: Vec<String> = record.objects.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ConfigMap kube-system/new", "Deployment kube-system/dns"]);
}

#[test]
fn nothing_is_deleted_but_what_liftlock_applied_and_nothing_that_takes_others_things_with_it() {
    let mut leased = ready();
    let namespace = "/api/v1/namespaces/shop";
    put(
        &leased,
        namespace,
        None,
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {LABEL: "true"}}}),
    );
    // Somebody made it anew since.
    put(&leased, OLD, Some("kubectl"), json!({"kind": "ConfigMap", "metadata": {"name": "old"}}));
    let others = "/api/v1/namespaces/kube-system/configmaps/others";
    put(&leased, others, Some("kubectl"), json!({"kind": "ConfigMap", "metadata": {"name": "others"}}));
    record(
        &leased,
        &[
            name("v1", "Namespace", "", "shop"),
            name("v1", "ConfigMap", "kube-system", "old"),
            // The same object by another version of its API.
            name("apps/v1", "Deployment", "kube-system", "dns"),
            name("extensions/v1beta1", "Deployment", "kube-system", "dns"),
        ],
    );
    assert_eq!(apply(&mut leased), End::Done);
    for path in [namespace, OLD, others, DNS] {
        assert!(get(&leased, path).is_some(), "{path} is gone");
    }
    assert!(
        leased.log.lines().iter().any(|line| line.contains("Namespace shop is left")),
        "{:?}",
        leased.log.lines()
    );
}

#[test]
fn fields_that_others_own_are_changed_only_where_the_nodes_own_configuration_says_so() {
    let mut leased = ready();
    let theirs =
        json!({"kind": "Deployment", "metadata": {"name": "dns"}, "spec": {"replicas": 2, "image": "dns:1"}});
    put(&leased, DNS, Some("kubectl"), theirs);
    let why = leased.fail("apply-addons");
    for part in
        ["all.yaml", "Deployment kube-system/dns", "conflict with \"kubectl\": .spec.image", "take-over"]
    {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(get(&leased, DNS).unwrap()["spec"]["image"], "dns:1");
    let addons = Addons { take_over: true, ..Addons::default() };
    leased.twin.world().addons = std::sync::Arc::new(addons);
    assert!(leased.fail("apply-addons").contains("digest"), "that is a part of what the plan was made with");
    plan(&mut leased, MANIFESTS);
    assert_eq!(apply(&mut leased), End::Done);
    assert_eq!(get(&leased, DNS).unwrap()["spec"]["image"], "dns:2");
}

#[test]
fn add_ons_that_are_not_those_of_the_plan_or_that_others_may_write_to_are_not_applied() {
    let mut leased = ready();
    let file = format!("{FOLDER}/all.yaml");
    leased.meddle(|machine| machine.disk.put(&file, format!("{MANIFESTS}# more\n"), 0o644));
    let why = leased.fail("apply-addons");
    assert!(why.contains("digest") && why.contains("nothing was applied"), "{why}");
    leased.meddle(|machine| machine.disk.put(&file, MANIFESTS, 0o666));
    let why = leased.fail("apply-addons");
    assert!(why.contains("others than root may write to"), "{why}");
    assert_eq!((get(&leased, NEW), get(&leased, OLD).is_some()), (None, true));
}

#[test]
fn a_kind_is_defined_and_served_before_objects_of_it_are_applied() {
    let mut leased = ready();
    let widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w, namespace: shop}\nspec: {a: 1}\n---\n\
                  apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.example.com}\n\
                  spec: {group: example.com, names: {kind: Widget, plural: widgets}, versions: [{name: v1}]}\n---\n\
                  apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    plan(&mut leased, widget);
    assert_eq!(apply(&mut leased), End::Done);
    assert!(get(&leased, "/apis/example.com/v1/namespaces/shop/widgets/w").is_some());
    let unserved = "apiVersion: example.com/v2\nkind: Widget\nmetadata: {name: w}\n";
    plan(&mut leased, unserved);
    let why = leased.fail("apply-addons");
    assert!(why.contains("serves no Widget of example.com/v2"), "{why}");
}

#[test]
fn an_undo_brings_back_what_was_there_also_what_was_deleted() {
    let mut leased = ready();
    let before = leased.picture();
    assert_eq!(apply(&mut leased), End::Done);
    assert_ne!(leased.picture(), before);
    assert_eq!(leased.undo(&leased.step("apply-addons")), End::Done);
    assert_eq!(leased.picture().differences(&before), Vec::<String>::new());
}

#[test]
fn a_preview_tells_what_becomes_of_each_object_and_changes_nothing() {
    let leased = ready();
    let (changes, digest) = (leased.changes(), set(&leased).unwrap().digest);
    let host = leased.twin.host("cp1");
    let told = leased.twin.drive(preview(&host, TO, &digest)).done().unwrap().unwrap().unwrap();
    let told: Vec<(AddonChangeKind, String, Vec<String>)> =
        told.changes.into_iter().map(|one| (one.kind(), one.object, one.fields)).collect();
    let expected = [
        (AddonChangeKind::Created, "ConfigMap kube-system/new", vec![]),
        (AddonChangeKind::Changed, "Deployment kube-system/dns", vec!["spec.image".to_owned()]),
        (AddonChangeKind::Pruned, "ConfigMap kube-system/old", vec![]),
    ];
    assert_eq!(told, expected.map(|(kind, object, fields)| (kind, object.to_owned(), fields)));
    assert_eq!(leased.changes(), changes);
    let other = leased.twin.drive(preview(&host, TO, "other")).done().unwrap().unwrap().unwrap_err();
    assert!(other.contains("plan again"), "{other}");
}
