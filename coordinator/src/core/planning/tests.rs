use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::blocked::{NodePolicy, OnBlocked};
use liftlock_proto::name::NodeName;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::step::Step;
use liftlock_proto::workers::{Pool, Workers};

use super::*;
use crate::core::gates::tests::{sound_cluster, sound_node};
use crate::core::sequence::{API_OUTAGE, DRAIN_ONLY_NODE};
use crate::core::view::{AgentView, Drift, NodeObject, NodeView, Obstacle, Replicas};

const FROM: KubernetesVersion = KubernetesVersion::new(1, 19, 7);
const TO: KubernetesVersion = KubernetesVersion::new(1, 20, 2);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub(crate) fn view(control_planes: u32, workers: u32) -> ClusterView {
    let node = |name: &str, control_plane: bool| NodeView {
        agent: Some(AgentView {
            not_joined: false,
            connected: true,
            control_plane,
            control_plane_version: control_plane.then_some(FROM),
            offered: vec![FROM, TO, KubernetesVersion::new(1, 21, 1)],
            packages: PackageSource::default(),
            errors: Vec::new(),
            drift: Ok(vec![]),
            obstacles: Ok(vec![]),
            findings: sound_node(name, control_plane),
            redeploy: None,
            hooks: BTreeMap::new(),
        }),
        object: Some(NodeObject {
            kubelet_version: Some(FROM),
            control_plane,
            ready: true,
            unschedulable: false,
            tainted: control_plane,
            container_runtime: "containerd://1.4.4".to_owned(),
            zone: None,
            labels: Some(BTreeMap::new()),
            on_blocked: None,
        }),
    };
    let mut nodes = BTreeMap::new();
    nodes.extend((1..=control_planes).map(|n| format!("cp{n}")).map(|cp| (name(&cp), node(&cp, true))));
    nodes.extend((1..=workers).map(|n| format!("w{n}")).map(|w| (name(&w), node(&w, false))));
    ClusterView {
        cluster: Some(ControlPlaneReport {
            kubeadm_config_version: FROM,
            etcd_members: control_planes,
            etcd_healthy_members: control_planes,
            dns: Ok(Some(Replicas { wanted: 2, ready: 2 })),
            findings: sound_cluster(control_planes),
        }),
        nodes,
        coordinator_on: BTreeSet::new(),
    }
}

fn node<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut NodeView {
    view.nodes.get_mut(&name(node)).unwrap()
}

fn rules(view: &ClusterView, target: KubernetesVersion) -> Vec<&'static str> {
    match make_plan(view, target, &Policy::default()) {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals.iter().map(|refusal| refusal.rule).collect(),
    }
}

#[test]
fn control_planes_come_first_and_only_the_first_applies() {
    let plan = make_plan(&view(3, 2), TO, &Policy::default()).unwrap();
    let order: Vec<(&str, Role)> = plan.nodes.iter().map(|node| (node.name.as_str(), node.role)).collect();
    assert_eq!(
        order,
        [
            ("cp1", Role::FirstControlPlane),
            ("cp2", Role::ControlPlane),
            ("cp3", Role::ControlPlane),
            ("w1", Role::Worker),
            ("w2", Role::Worker),
        ]
    );
    let applies =
        plan.nodes.iter().flat_map(|node| &node.steps).filter(|step| step.name() == "kubeadm-upgrade-apply");
    assert_eq!(applies.count(), 1);
}

#[test]
fn a_verified_backup_stands_before_the_first_change_in_every_sequence() {
    let plan = make_plan(&view(3, 2), TO, &Policy::default()).unwrap();
    for node in &plan.nodes {
        let steps: Vec<&str> = node.steps.iter().map(liftlock_proto::step::Step::name).collect();
        let at = |wanted: &str| steps.iter().position(|step| *step == wanted).unwrap();
        assert!(at("back-up-node") < at("install-kubeadm"), "{}", node.name);
        if node.role.is_control_plane() {
            assert!(at("etcd-quorum-gate") < at("etcd-snapshot"), "{}", node.name);
            assert!(at("etcd-snapshot") < at("install-kubeadm"), "{}", node.name);
        }
    }
}

#[test]
fn the_same_view_gives_the_same_hash_and_another_policy_another() {
    let plan = make_plan(&view(3, 2), TO, &Policy::default()).unwrap();
    assert_eq!(plan, make_plan(&view(3, 2), TO, &Policy::default()).unwrap());
    let other = Policy { delete_unmanaged_pods: true, ..Policy::default() };
    assert_ne!(plan.hash, make_plan(&view(3, 2), TO, &other).unwrap().hash);
    assert!(is_sealed(&plan));
}

#[test]
fn a_plan_that_was_changed_on_the_way_is_not_sealed() {
    let mut plan = make_plan(&view(3, 2), TO, &Policy::default()).unwrap();
    plan.nodes.swap(0, 4);
    assert!(!is_sealed(&plan));
}

#[test]
fn versions_that_cannot_be_reached_in_one_raise_are_refused() {
    assert_eq!(rules(&view(3, 2), KubernetesVersion::new(1, 21, 1)), ["skipped-minor"]);
    let older = rules(&view(3, 2), KubernetesVersion::new(1, 19, 6));
    assert!(older.contains(&"downgrade"), "{older:?}");
    assert!(rules(&view(3, 2), KubernetesVersion::new(1, 20, 9)).contains(&"version-not-offered"));
}

#[test]
fn a_cluster_without_a_reporting_control_plane_is_refused() {
    let mut view = view(3, 2);
    view.cluster = None;
    assert_eq!(rules(&view, TO), ["no-control-plane"]);
}

#[test]
fn every_node_needs_a_connected_agent_that_the_cluster_knows() {
    let mut without = view(3, 3);
    node(&mut without, "w2").agent = None;
    assert_eq!(rules(&without, TO), ["node-without-agent"]);

    let mut silent = view(3, 3);
    node(&mut silent, "w2").agent.as_mut().unwrap().connected = false;
    assert_eq!(rules(&silent, TO), ["agent-not-connected"]);

    let mut stranger = view(3, 3);
    node(&mut stranger, "w2").object = None;
    assert_eq!(rules(&stranger, TO), ["agent-without-node"]);
}

#[test]
fn a_kubelet_outside_the_skew_or_a_node_that_is_not_ready_is_refused() {
    let mut newer = view(3, 3);
    node(&mut newer, "w1").object.as_mut().unwrap().kubelet_version = Some(KubernetesVersion::new(1, 20, 3));
    assert_eq!(rules(&newer, TO), ["kubelet-skew"]);

    let mut old = view(3, 3);
    node(&mut old, "w1").object.as_mut().unwrap().kubelet_version = Some(KubernetesVersion::new(1, 17, 0));
    assert_eq!(rules(&old, TO), ["kubelet-skew"]);

    let mut down = view(3, 3);
    node(&mut down, "w1").object.as_mut().unwrap().ready = false;
    assert_eq!(rules(&down, TO), ["node-not-ready"]);
}

#[test]
fn etcd_without_every_member_healthy_is_refused() {
    let mut view = view(3, 2);
    view.cluster.as_mut().unwrap().etcd_healthy_members = 2;
    assert_eq!(rules(&view, TO), ["quorum"]);
}

#[test]
fn an_outage_and_an_only_node_need_consent_by_name() {
    assert_eq!(rules(&view(1, 1), TO), [API_OUTAGE, DRAIN_ONLY_NODE]);
    assert_eq!(rules(&view(2, 2), TO), [API_OUTAGE]);
    let policy =
        Policy { accepted: vec![API_OUTAGE.to_owned(), DRAIN_ONLY_NODE.to_owned()], ..Policy::default() };
    assert!(make_plan(&view(1, 1), TO, &policy).is_ok());
}

#[test]
fn consent_to_what_cannot_be_accepted_is_refused() {
    let policy = Policy { accepted: vec!["downgrade".to_owned()], ..Policy::default() };
    let refusals = make_plan(&view(3, 2), TO, &policy).unwrap_err();
    assert_eq!(refusals[0].rule, "unknown-consent");
}

#[test]
fn a_preflight_name_that_could_be_an_option_is_refused() {
    let policy = Policy { ignore_preflight_errors: vec!["all,--force".to_owned()], ..Policy::default() };
    assert_eq!(make_plan(&view(3, 2), TO, &policy).unwrap_err()[0].rule, "preflight-name");
}

#[test]
fn what_runs_the_target_already_is_left_out() {
    let mut view = view(3, 2);
    view.cluster.as_mut().unwrap().kubeadm_config_version = TO;
    let cp1 = node(&mut view, "cp1");
    cp1.object.as_mut().unwrap().kubelet_version = Some(TO);
    cp1.agent.as_mut().unwrap().control_plane_version = Some(TO);
    let plan = make_plan(&view, TO, &Policy::default()).unwrap();
    assert_eq!(plan.from_version, FROM);
    let order: Vec<(&str, Role)> = plan.nodes.iter().map(|node| (node.name.as_str(), node.role)).collect();
    assert_eq!(order[0], ("cp2", Role::ControlPlane));
    assert_eq!(order.len(), 4);
}

#[test]
fn a_cluster_that_runs_the_target_has_nothing_to_raise_and_nothing_to_consent_to() {
    for (control_planes, etcd_members) in [(3, 3), (1, 1)] {
        let mut view = view(control_planes, 2);
        let cluster = view.cluster.as_mut().unwrap();
        cluster.kubeadm_config_version = TO;
        cluster.etcd_members = etcd_members;
        for node in view.nodes.values_mut() {
            node.object.as_mut().unwrap().kubelet_version = Some(TO);
            node.agent.as_mut().unwrap().control_plane_version = Some(TO);
        }
        assert_eq!(rules(&view, TO), ["nothing-to-do"]);
    }
}

#[test]
fn a_cluster_whose_coredns_is_not_ready_is_not_raised_and_one_of_two_needs_consent() {
    let with = |dns| {
        let mut view = view(3, 2);
        view.cluster.as_mut().unwrap().dns = Ok(dns);
        view
    };
    let counted = |wanted, ready| with(Some(Replicas { wanted, ready }));
    for none_ready in [counted(2, 0), counted(0, 0)] {
        assert_eq!(rules(&none_ready, TO), ["coredns-unready"]);
    }
    assert_eq!(rules(&counted(2, 1), TO), ["coredns-degraded"]);
    let policy = Policy { accepted: vec!["coredns-degraded".to_owned()], ..Policy::default() };
    assert!(make_plan(&counted(2, 1), TO, &policy).is_ok());
    assert!(make_plan(&counted(2, 0), TO, &policy).is_err(), "kubeadm would wait for it all the same");
    assert!(make_plan(&with(None), TO, &Policy::default()).is_ok(), "DNS of another kind");
}

#[test]
fn a_manifest_that_was_edited_by_hand_needs_consent_and_its_lines_are_shown() {
    let mut view = view(3, 2);
    let lines = (0..9).map(|n| format!("-    - --edited={n}")).collect();
    let path = "/etc/kubernetes/manifests/kube-apiserver.yaml".to_owned();
    node(&mut view, "cp2").agent.as_mut().unwrap().drift = Ok(vec![Drift { path, lines }]);
    let refusals = make_plan(&view, TO, &Policy::default()).unwrap_err();
    let [Refusal { rule, message, acceptable: true }] = refusals.as_slice() else { panic!("{refusals:?}") };
    assert_eq!(*rule, "drift");
    for part in ["cp2", "kube-apiserver.yaml", "--edited=0", "…", "--accept drift"] {
        assert!(message.contains(part), "{message}");
    }
    let policy = Policy { accepted: vec!["drift".to_owned()], ..Policy::default() };
    assert!(make_plan(&view, TO, &policy).is_ok());
}

#[test]
fn what_an_agent_found_in_the_way_is_told_also_where_no_cluster_is_seen() {
    let mut view = view(3, 2);
    let message = "certificates have expired".to_owned();
    node(&mut view, "cp2").agent.as_mut().unwrap().obstacles =
        Ok(vec![Obstacle { rule: "certificate-expired", message }]);
    assert_eq!(rules(&view, TO), ["certificate-expired"]);
    view.cluster = None;
    assert_eq!(rules(&view, TO), ["certificate-expired", "no-control-plane"]);
}

#[test]
fn a_redeploy_is_planned_where_every_node_says_how_and_is_refused_by_name_where_one_does_not() {
    let policy = Policy { redeploy: true, accepted: vec![API_OUTAGE.to_owned()], ..Policy::default() };
    let command = vec!["/usr/local/sbin/replace-system".to_owned()];
    let mut view = view(1, 2);
    for entry in view.nodes.values_mut() {
        entry.agent.as_mut().unwrap().redeploy = Some(Redeploy { command: command.clone(), refusal: None });
    }
    let plan = make_plan(&view, TO, &policy).unwrap();
    for node in &plan.nodes {
        let names: Vec<&str> = node.steps.iter().map(liftlock_proto::step::Step::name).collect();
        let at = |name: &str| names.iter().position(|step| *step == name);
        assert_eq!(at("install-kubelet"), None);
        assert!(at("drain") < at("redeploy") && at("redeploy") < at("restart-kubelet"), "{names:?}");
        assert!(
            node.steps.iter().any(|step| argv::commands(step, &node.packages).contains(&command)),
            "the plan shows it"
        );
    }
    let without = make_plan(&view, TO, &Policy { redeploy: false, ..policy.clone() }).unwrap();
    assert!(without.nodes.iter().all(|node| node.steps.iter().all(|step| step.name() != "redeploy")));

    node(&mut view, "w1").agent.as_mut().unwrap().redeploy = None;
    let full = Some(Redeploy { command, refusal: Some("the store is gone".to_owned()) });
    node(&mut view, "w2").agent.as_mut().unwrap().redeploy = full;
    let refusals = make_plan(&view, TO, &policy).unwrap_err();
    let found: Vec<_> = refusals.iter().map(|refusal| (refusal.rule, refusal.acceptable)).collect();
    assert_eq!(found, [("redeploy-not-configured", false), ("redeploy-refused", false)], "{refusals:?}");
    assert!(refusals[0].message.contains("w1") && refusals[1].message.contains("the store is gone"));
}

/// What the plan says of each node, and by which rules it is refused.
fn words(view: &ClusterView, policy: &Policy) -> Result<Vec<(String, OnBlocked)>, Vec<String>> {
    let plan = make_plan(view, TO, policy);
    let plan =
        plan.map_err(|refusals| refusals.into_iter().map(|refusal| refusal.message).collect::<Vec<_>>())?;
    Ok(plan.nodes.iter().map(|node| (node.name.to_string(), blocked::decided_for(node))).collect())
}

fn for_node(name: &str, on_blocked: OnBlocked) -> NodePolicy {
    NodePolicy { name: name.to_owned(), on_blocked }
}

#[test]
fn the_nearest_word_says_what_follows_a_blocked_drain_and_control_planes_are_never_passed_over() {
    let mut view = view(1, 3);
    for (worker, word) in [("w1", "skip"), ("w2", "force")] {
        node(&mut view, worker).object.as_mut().unwrap().on_blocked = Some(word.to_owned());
    }
    let policy = Policy {
        accepted: vec![API_OUTAGE.to_owned()],
        on_blocked: OnBlocked::Force,
        workers: Workers { nodes: vec![for_node("w2", OnBlocked::Pause)], ..Workers::default() },
        ..Policy::default()
    };
    let expected = [
        ("cp1", OnBlocked::Pause),
        ("w1", OnBlocked::Skip),
        ("w2", OnBlocked::Pause),
        ("w3", OnBlocked::Force),
    ];
    assert_eq!(words(&view, &policy), Ok(expected.map(|(node, word)| (node.to_owned(), word)).to_vec()));
    let plan = make_plan(&view, TO, &policy).unwrap();
    assert!(plan.pools.is_empty(), "a word for one worker puts nobody into pools");
}

#[test]
fn a_pools_word_counts_before_the_plans_and_after_the_nodes_own() {
    let mut view = view(1, 4);
    for worker in ["w1", "w2", "w3"] {
        let labels = BTreeMap::from([("kind".to_owned(), "gpu".to_owned())]);
        node(&mut view, worker).object.as_mut().unwrap().labels = Some(labels);
    }
    node(&mut view, "w1").object.as_mut().unwrap().on_blocked = Some("pause".to_owned());
    let gpu = Pool {
        name: "gpu".to_owned(),
        selector: "kind=gpu".to_owned(),
        max_unavailable: None,
        canary: None,
        pause_after: false,
        on_blocked: Some(OnBlocked::Skip),
    };
    let workers =
        Workers { pools: vec![gpu], nodes: vec![for_node("w2", OnBlocked::Force)], ..Workers::default() };
    let policy = Policy {
        accepted: vec![API_OUTAGE.to_owned()],
        on_blocked: OnBlocked::Force,
        workers,
        ..Policy::default()
    };
    let expected = [
        ("cp1", OnBlocked::Pause),
        ("w1", OnBlocked::Pause),
        ("w2", OnBlocked::Force),
        ("w3", OnBlocked::Skip),
        ("w4", OnBlocked::Force),
    ];
    assert_eq!(words(&view, &policy), Ok(expected.map(|(node, word)| (node.to_owned(), word)).to_vec()));
    let plan = make_plan(&view, TO, &policy).unwrap();
    let pools: Vec<_> = plan.pools.iter().map(|pool| (pool.name.as_str(), pool.on_blocked)).collect();
    assert_eq!(pools, [("gpu", Some(OnBlocked::Skip)), ("others", None)]);
}

#[test]
fn words_for_nodes_that_take_none_are_refused_by_name() {
    let mut view = view(1, 2);
    node(&mut view, "w2").object.as_mut().unwrap().on_blocked = Some("never".to_owned());
    let nodes = ["w1", "w1", "cp1", "w9"].map(|node| for_node(node, OnBlocked::Skip)).to_vec();
    let workers = Workers { nodes, ..Workers::default() };
    let policy = Policy { accepted: vec![API_OUTAGE.to_owned()], workers, ..Policy::default() };
    let refusals = words(&view, &policy).unwrap_err();
    let expected = [
        "w1, which is named twice",
        "cp1, which is a control plane",
        "w9, which is no node",
        "\"never\" is none of",
    ];
    assert_eq!(refusals.len(), expected.len(), "{refusals:?}");
    for (refusal, expected) in refusals.iter().zip(expected) {
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn without_a_word_plans_and_their_hashes_are_as_they_always_were() {
    let json = serde_json::to_string(&make_plan(&view(3, 2), TO, &Policy::default()).unwrap()).unwrap();
    assert!(!json.contains("onBlocked") && !json.contains("\"nodes\":[]"), "{json}");
}

#[test]
fn where_repositories_are_split_by_minor_they_are_switched_before_the_first_package_and_elsewhere_nothing_changes()
 {
    let policy = Policy { accepted: vec![API_OUTAGE.to_owned()], ..Policy::default() };
    let mut view = view(1, 2);
    let usual = make_plan(&view, TO, &policy).unwrap();
    node(&mut view, "w2").agent.as_mut().unwrap().packages.split_by_minor = true;
    let split = make_plan(&view, TO, &policy).unwrap();
    assert_ne!(split.hash, usual.hash);
    for (planned, before) in split.nodes.iter().zip(&usual.nodes) {
        let mut expected = before.clone();
        if planned.name == name("w2") {
            expected.packages.split_by_minor = true;
            let first = expected.steps.iter().position(|step| step.name() == "install-kubeadm").unwrap();
            expected.steps.insert(first, Step::SwitchRepository { version: TO });
        }
        assert_eq!(*planned, expected);
    }
    assert!(
        !serde_json::to_string(&usual).unwrap().contains("\"packages\":"),
        "what goes without saying is not hashed"
    );
}
