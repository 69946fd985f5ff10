use std::collections::BTreeMap;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Role;
use proptest::prelude::*;

use super::*;
use crate::core::leg::Stop;
use crate::core::sequence::{API_OUTAGE, DRIFT};
use crate::core::view::{AgentView, ControlPlaneReport, Drift, NodeObject, Replicas};

const fn minor(minor: u16, patch: u16) -> KubernetesVersion {
    KubernetesVersion::new(1, minor, patch)
}

/// What every repository offers: two releases of each minor.
fn everything() -> Vec<KubernetesVersion> {
    (19..=36).flat_map(|number| [minor(number, 2), minor(number, 7)]).collect()
}

fn node(control_plane: bool, version: KubernetesVersion) -> NodeView {
    NodeView {
        agent: Some(AgentView {
            connected: true,
            control_plane,
            control_plane_version: control_plane.then_some(version),
            offered: everything(),
            errors: Vec::new(),
            drift: vec![],
            obstacles: vec![],
        }),
        object: Some(NodeObject {
            kubelet_version: Some(version),
            control_plane,
            ready: true,
            unschedulable: false,
            tainted: control_plane,
        }),
    }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn view(control_planes: u32, workers: u32, version: KubernetesVersion) -> ClusterView {
    let mut nodes = BTreeMap::new();
    nodes.extend((1..=control_planes).map(|n| (name(&format!("cp{n}")), node(true, version))));
    nodes.extend((1..=workers).map(|n| (name(&format!("w{n}")), node(false, version))));
    ClusterView {
        cluster: Some(ControlPlaneReport {
            kubeadm_config_version: version,
            etcd_members: control_planes,
            etcd_healthy_members: control_planes,
            dns: Some(Replicas { wanted: 2, ready: 2 }),
        }),
        nodes,
    }
}

fn agent<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut AgentView {
    view.nodes.get_mut(&name(node)).unwrap().agent.as_mut().unwrap()
}

fn kubelet(view: &mut ClusterView, node: &str, version: KubernetesVersion) {
    view.nodes.get_mut(&name(node)).unwrap().object.as_mut().unwrap().kubelet_version = Some(version);
}

fn path(view: &ClusterView, target: KubernetesVersion) -> Path {
    make_path(view, target, &Policy::default()).unwrap()
}

fn versions(path: &Path) -> Vec<(KubernetesVersion, KubernetesVersion)> {
    path.plans().map(|plan| (plan.from_version, plan.to_version)).collect()
}

fn refusals(view: &ClusterView, target: KubernetesVersion) -> Vec<Refusal> {
    make_path(view, target, &Policy::default()).unwrap_err()
}

#[test]
fn every_minor_between_is_a_stop_at_its_newest_release_and_every_node_is_raised_at_each() {
    let path = path(&view(3, 2, minor(19, 7)), minor(21, 2));
    assert_eq!(versions(&path), [(minor(19, 7), minor(20, 7)), (minor(20, 7), minor(21, 2))]);
    assert_eq!(path.last().to_version, minor(21, 2));
    for plan in path.plans() {
        let order: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(order, ["cp1", "cp2", "cp3", "w1", "w2"]);
        assert_eq!(plan.nodes[0].role, Role::FirstControlPlane);
    }
}

#[test]
fn a_target_within_one_minor_is_a_path_of_one_plan() {
    let view = view(3, 2, minor(19, 7));
    let policy = Policy::default();
    let alone = make_plan(&view, minor(20, 2), &policy).unwrap();
    assert_eq!(path(&view, minor(20, 2)), Path { first: alone, onward: vec![] });
}

#[test]
fn a_stop_is_at_a_release_that_every_node_is_offered() {
    let mut view = view(3, 2, minor(19, 7));
    agent(&mut view, "w2").offered.retain(|version| *version != minor(20, 7));
    assert_eq!(versions(&path(&view, minor(21, 2)))[0].1, minor(20, 2));
}

#[test]
fn a_minor_without_a_common_release_is_refused_in_a_sentence_that_names_node_and_minor() {
    let mut without = view(3, 2, minor(19, 7));
    agent(&mut without, "w2").offered.retain(|version| version.minor != 20);
    let against = refusals(&without, minor(22, 2));
    let [Refusal { rule: "version-not-offered", message, acceptable: false }] = against.as_slice() else {
        panic!("{against:?}")
    };
    assert!(message.contains("w2") && message.contains("v1.20") && message.contains("v1.22.2"), "{message}");
    assert!(!message.contains("w1"), "{message}");

    let mut apart = view(3, 2, minor(19, 7));
    agent(&mut apart, "w1").offered.retain(|version| *version != minor(20, 7));
    agent(&mut apart, "w2").offered.retain(|version| *version != minor(20, 2));
    let against = refusals(&apart, minor(22, 2));
    assert!(against[0].message.contains("w1 v1.20.2; w2 v1.20.7"), "{against:?}");
}

#[test]
fn what_speaks_against_a_later_stop_says_which_and_is_told_once() {
    let mut view = view(1, 3, minor(19, 7));
    agent(&mut view, "w2").offered.retain(|version| *version != minor(21, 2));
    let against = refusals(&view, minor(21, 2));
    let rules: Vec<&str> = against.iter().map(|refusal| refusal.rule).collect();
    assert_eq!(rules, [API_OUTAGE, "version-not-offered"]);
    assert!(!against[0].message.contains("stop"), "{against:?}");
    assert!(against[1].message.starts_with("at stop 2 of 2, v1.21.2: w2"), "{against:?}");
}

#[test]
fn what_kubeadm_makes_anew_at_the_first_stop_is_no_drift_at_the_second() {
    let mut view = view(3, 2, minor(19, 7));
    agent(&mut view, "cp2").drift = vec![Drift { path: "kube-apiserver.yaml".to_owned(), lines: vec![] }];
    assert_eq!(refusals(&view, minor(21, 2)).len(), 1);
    let policy = Policy { accepted: vec![DRIFT.to_owned()], ..Policy::default() };
    assert!(make_path(&view, minor(21, 2), &policy).is_ok());
}

#[test]
fn a_raise_that_was_begun_is_finished_before_the_next_minor() {
    let mut view = view(3, 2, minor(19, 7));
    view.cluster.as_mut().unwrap().kubeadm_config_version = minor(20, 2);
    agent(&mut view, "cp1").control_plane_version = Some(minor(20, 2));
    kubelet(&mut view, "cp1", minor(20, 2));
    let path = path(&view, minor(21, 2));
    assert_eq!(versions(&path), [(minor(19, 7), minor(20, 2)), (minor(20, 2), minor(21, 2))]);
    assert_eq!(path.first.nodes.len(), 4);
}

#[test]
fn a_downgrade_and_a_target_far_beyond_what_is_offered_are_refused_at_once() {
    let view = view(3, 2, minor(30, 7));
    assert_eq!(refusals(&view, minor(29, 7))[0].rule, "downgrade");
    let far = refusals(&view, KubernetesVersion::new(1, u16::MAX, 0));
    assert_eq!(far.len(), 1, "{far:?}");
    assert!(far[0].message.contains("v1.37"), "{far:?}");
}

#[test]
fn a_path_with_a_plan_that_was_changed_on_the_way_is_not_sealed() {
    let mut path = path(&view(3, 2, minor(19, 7)), minor(21, 2));
    assert_eq!(path.unsealed(), None);
    path.onward[0].nodes.swap(0, 1);
    assert_eq!(path.unsealed().map(|plan| plan.to_version), Some(minor(21, 2)));
}

#[test]
fn a_plan_that_is_another_than_the_one_ahead_is_told_by_what_sets_it_apart() {
    let planned = path(&view(3, 3, minor(19, 7)), minor(20, 7)).first;
    let ahead = Stop::of(&planned);
    assert_eq!(ahead.difference(&planned), None);
    let differs = |view: ClusterView| ahead.difference(&path(&view, minor(20, 7)).first).unwrap();
    assert_eq!(differs(view(3, 4, minor(19, 7))), "it raises also w4");
    assert_eq!(differs(view(3, 2, minor(19, 7))), "it does not raise w3");
    let earlier = differs(view(3, 3, minor(19, 2)));
    assert!(earlier.contains("v1.19.2") && earlier.contains("v1.19.7"), "{earlier}");
    let policy = Policy { delete_unmanaged_pods: true, ..Policy::default() };
    let other = make_plan(&view(3, 3, minor(19, 7)), minor(20, 7), &policy).unwrap();
    assert!(ahead.difference(&other).unwrap().contains("other steps"));
}

proptest! {
    /// What is promised for a later stop is what is planned once the stop before is reached.
    #[test]
    fn a_later_plan_is_the_one_that_is_made_when_its_turn_comes(
        from in 19_u16..33, distance in 1_u16..4, workers in 2_u32..5,
    ) {
        let mut now = view(3, workers, minor(from, 2));
        let path = path(&now, minor(from + distance, 7));
        prop_assert_eq!(path.plans().count(), usize::from(distance));
        for planned in path.plans() {
            let then = make_plan(&now, planned.to_version, &planned.policy).unwrap();
            prop_assert_eq!(&then, planned);
            raise(&mut now, planned.to_version);
        }
    }
}
