use std::collections::BTreeMap;

use liftlock_proto::name::NodeName;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::Role;
use proptest::prelude::*;

use super::*;
use crate::core::catalogue::OPEN;
use crate::core::gates::tests::{sound_cluster, sound_node};
use crate::core::leg::Stop;
use crate::core::planning::make_plan;
use crate::core::sequence::API_OUTAGE;
use crate::core::view::{AgentView, ControlPlaneReport, Drift, NodeObject, Replicas, RequestedApi, Setting};

mod catalogue;

const fn minor(minor: u16, patch: u16) -> KubernetesVersion {
    KubernetesVersion::new(1, minor, patch)
}

/// What every repository offers: two releases of each minor.
fn everything() -> Vec<KubernetesVersion> {
    (19..=36).flat_map(|number| [minor(number, 2), minor(number, 7)]).collect()
}

fn node(name: &str, control_plane: bool, version: KubernetesVersion) -> NodeView {
    NodeView {
        agent: Some(AgentView {
            not_joined: false,
            connected: true,
            control_plane,
            control_plane_version: control_plane.then_some(version),
            offered: everything(),
            packages: PackageSource::default(),
            errors: Vec::new(),
            drift: Ok(vec![]),
            obstacles: Ok(vec![]),
            redeploy: None,
            hooks: BTreeMap::new(),
            findings: sound_node(name, control_plane),
        }),
        object: Some(NodeObject {
            kubelet_version: Some(version),
            control_plane,
            ready: true,
            unschedulable: false,
            tainted: control_plane,
            container_runtime: "containerd://1.7.2".to_owned(),
            zone: None,
            labels: Some(BTreeMap::new()),
            on_blocked: None,
        }),
    }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn view(control_planes: u32, workers: u32, version: KubernetesVersion) -> ClusterView {
    let control_planes_and_workers = (1..=control_planes)
        .map(|n| (format!("cp{n}"), true))
        .chain((1..=workers).map(|n| (format!("w{n}"), false)));
    let nodes = control_planes_and_workers
        .map(|(text, control_plane)| (name(&text), node(&text, control_plane, version)))
        .collect();
    let mut findings = sound_cluster(control_planes);
    for member in &mut findings.etcd.as_mut().unwrap().members {
        "3.5.26".clone_into(&mut member.version);
    }
    ClusterView {
        cluster: Some(ControlPlaneReport {
            kubeadm_config_version: version,
            etcd_members: control_planes,
            etcd_healthy_members: control_planes,
            dns: Ok(Some(Replicas { wanted: 2, ready: 2 })),
            findings,
        }),
        nodes,
        coordinator_on: BTreeSet::new(),
    }
}

fn agent<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut AgentView {
    view.nodes.get_mut(&name(node)).unwrap().agent.as_mut().unwrap()
}

fn kubelet(view: &mut ClusterView, node: &str, version: KubernetesVersion) {
    view.nodes.get_mut(&name(node)).unwrap().object.as_mut().unwrap().kubelet_version = Some(version);
}

fn path(view: &ClusterView, target: KubernetesVersion) -> Path {
    make_path(view, target, &Policy::default(), &OPEN).unwrap()
}

fn versions(path: &Path) -> Vec<(KubernetesVersion, KubernetesVersion)> {
    path.plans().map(|plan| (plan.from_version, plan.to_version)).collect()
}

fn refusals(view: &ClusterView, target: KubernetesVersion) -> Vec<Refusal> {
    make_path(view, target, &Policy::default(), &OPEN).unwrap_err()
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
    agent(&mut view, "cp2").drift = Ok(vec![Drift { path: "kube-apiserver.yaml".to_owned(), lines: vec![] }]);
    assert_eq!(refusals(&view, minor(21, 2)).len(), 1);
    let policy = Policy { accepted: vec!["drift".to_owned()], ..Policy::default() };
    assert!(make_path(&view, minor(21, 2), &policy, &OPEN).is_ok());
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
    let older = &refusals(&view, minor(29, 7))[0];
    assert_eq!(older.rule, "downgrade");
    for part in ["allowed are versions from v1.30.7 on", "liftlock rollback"] {
        assert!(older.message.contains(part), "{part}: {}", older.message);
    }
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
            raise(&mut now, planned.to_version, &BTreeSet::new());
        }
    }
}

fn skipping() -> Policy {
    Policy { workers_skip_stops: true, ..Policy::default() }
}

/// The names of each stop's nodes.
fn raised_at(path: &Path) -> Vec<Vec<&str>> {
    path.plans().map(|plan| plan.nodes.iter().map(|node| node.name.as_str()).collect()).collect()
}

#[test]
fn workers_that_skip_stops_are_raised_at_the_last_one_and_where_they_would_lag_too_far() {
    const ALL: [&str; 5] = ["cp1", "cp2", "cp3", "w1", "w2"];
    let at = |from, to| {
        let path = make_path(&view(3, 2, minor(from, 7)), minor(to, 2), &skipping(), &OPEN).unwrap();
        raised_at(&path).into_iter().map(|nodes| nodes == ALL).collect::<Vec<_>>()
    };
    assert_eq!(at(28, 31), [false, false, true]);
    assert_eq!(at(28, 33), [false, false, true, false, true]);
    assert_eq!(at(30, 31), [true]);
    assert_eq!(at(19, 21), [true, true], "kubeadm 1.21 raises no control plane beside a kubelet of 1.19");
    assert_eq!(at(27, 29), [false, true], "kubeadm 1.29 does beside one of 1.27");
}

#[test]
fn a_worker_that_skips_a_stop_needs_not_be_offered_it_and_says_nothing_of_where_the_control_plane_comes_from()
{
    let mut view = view(3, 2, minor(29, 7));
    agent(&mut view, "w1").offered.retain(|version| version.minor != 30);
    assert!(make_path(&view, minor(31, 2), &Policy::default(), &OPEN).is_err());
    let path = make_path(&view, minor(31, 2), &skipping(), &OPEN).unwrap();
    assert_eq!(versions(&path), [(minor(29, 7), minor(30, 7)), (minor(30, 7), minor(31, 2))]);
}

#[test]
fn a_kubelet_that_kubeadm_finds_too_old_is_raised_before_the_control_plane_goes_on() {
    let mut lagging = view(3, 2, minor(20, 7));
    kubelet(&mut lagging, "w1", minor(19, 7));
    let alone = make_plan(&lagging, minor(21, 2), &Policy::default()).unwrap_err();
    assert!(alone[0].message.contains("w1's kubelet runs v1.19.7"), "{alone:?}");
    let path = path(&lagging, minor(21, 2));
    assert_eq!(raised_at(&path)[0], ["w1"]);
    assert_eq!(versions(&path), [(minor(19, 7), minor(20, 7)), (minor(20, 7), minor(21, 2))]);
}

/// How far a kubelet may be behind an API server, as Kubernetes says it: two minors, three from kubelet 1.25 on.
fn within_the_skew(kubelet: KubernetesVersion, server: KubernetesVersion) -> bool {
    let allowed = if kubelet.minor >= 25 { 3 } else { 2 };
    kubelet.minor <= server.minor && server.minor - kubelet.minor <= allowed
}

/// How far behind every kubelet may be when kubeadm raises the first control plane.
fn kubeadm_goes_along(kubelet: KubernetesVersion, target: KubernetesVersion) -> bool {
    target.minor - kubelet.minor <= if target.minor >= 29 { 3 } else { 1 }
}

proptest! {
    /// Node after node, in the order of the plans, and wherever the raise is left.
    #[test]
    fn no_state_on_a_path_breaks_the_skew(
        from in 19_u16..33, distance in 0_u16..6, behind in prop::collection::vec(0_u16..4, 2..5),
        skips in any::<bool>(), patch in prop::sample::select(vec![2_u16, 7]),
    ) {
        let workers = u32::try_from(behind.len()).unwrap();
        let mut view = view(3, workers, minor(from, 2));
        for (number, behind) in (1..).zip(&behind) {
            kubelet(&mut view, &format!("w{number}"), minor(from.saturating_sub(*behind).max(19), 2));
        }
        let policy = Policy { workers_skip_stops: skips, ..Policy::default() };
        let Ok(path) = make_path(&view, minor((from + distance).min(36), patch), &policy, &OPEN) else { return Ok(()) };
        let mut servers: BTreeMap<NodeName, KubernetesVersion> =
            (1..=3).map(|n| (name(&format!("cp{n}")), minor(from, 2))).collect();
        let mut kubelets: BTreeMap<NodeName, KubernetesVersion> = view
            .nodes
            .iter()
            .filter_map(|(name, node)| Some((name.clone(), node.object.as_ref()?.kubelet_version?)))
            .collect();
        for plan in path.plans() {
            prop_assert!(plan.to_version.minor <= servers[&name("cp1")].minor + 1, "one minor at a time");
            for planned in &plan.nodes {
                if planned.role == Role::FirstControlPlane {
                    for kubelet in kubelets.values() {
                        prop_assert!(kubeadm_goes_along(*kubelet, plan.to_version), "{} at {}", kubelet, plan.to_version);
                    }
                }
                if planned.role.is_control_plane() {
                    servers.insert(planned.name.clone(), plan.to_version);
                }
                let (oldest, newest) = (*servers.values().min().unwrap(), *servers.values().max().unwrap());
                prop_assert!(newest.minor - oldest.minor <= 1);
                for (node, kubelet) in &kubelets {
                    let own = servers.get(node).copied().unwrap_or(oldest);
                    prop_assert!(kubelet.minor <= own.minor, "{} runs {} under {}", node, kubelet, own);
                    prop_assert!(within_the_skew(*kubelet, newest.max(own)), "{} runs {} under {}", node, kubelet, newest);
                }
                kubelets.insert(planned.name.clone(), plan.to_version);
            }
        }
        for kubelet in kubelets.values() {
            prop_assert_eq!(*kubelet, path.last().to_version);
        }
    }

    /// The keeper plans one stop at a time, and comes to the same plans.
    #[test]
    fn a_stop_alone_is_planned_as_on_its_path(from in 24_u16..31, distance in 1_u16..6, skips in any::<bool>()) {
        let mut now = view(3, 3, minor(from, 2));
        let policy = Policy { workers_skip_stops: skips, ..Policy::default() };
        let path = make_path(&now, minor(from + distance, 7), &policy, &OPEN).unwrap();
        let plans: Vec<&Plan> = path.plans().collect();
        for (number, planned) in plans.iter().enumerate() {
            let after = plans.get(number + 1).map(|plan| plan.to_version);
            let then = make_stop(&now, planned.to_version, after, &policy, &OPEN).unwrap();
            prop_assert_eq!(&then, *planned);
            let spared = spared(&now, after, &policy);
            raise(&mut now, planned.to_version, &spared);
        }
    }
}

/// What a gate says of the way to a target.
fn on_the_way(view: &ClusterView, target: KubernetesVersion, gate: &str) -> (Verdict, Vec<String>) {
    let all = gates_on_the_way(view, target, &Policy::default(), &OPEN);
    let (_, verdict, messages) = all.into_iter().find(|(asked, ..)| asked.name == gate).unwrap();
    (verdict, messages)
}

#[test]
fn what_any_minor_on_the_way_removes_is_told_before_the_path_begins_with_the_stop_where_it_goes() {
    let mut view = view(3, 2, minor(23, 7));
    let flag = Setting { name: "--network-plugin".to_owned(), file: "/etc/default/kubelet".to_owned() };
    agent(&mut view, "w1").findings.kubelet.as_mut().unwrap().flags = vec![flag];
    let asked = RequestedApi { api: "policy/v1beta1/podsecuritypolicies".to_owned(), removed_in: 25 };
    agent(&mut view, "cp2").findings.api_server.as_mut().unwrap().deprecated = vec![asked];
    let against = refusals(&view, minor(26, 2));
    let rules: Vec<&str> = against.iter().map(|refusal| refusal.rule).collect();
    assert_eq!(rules, ["removed-kubelet-flag", "removed-api"]);
    assert!(against[0].message.starts_with("w1's kubelet"), "{against:?}");
    assert!(against[1].message.starts_with("at stop 2 of 3, v1.25.7: "), "{against:?}");
    for refusal in against {
        assert_eq!(on_the_way(&view, minor(26, 2), refusal.rule), (Verdict::Refused, vec![refusal.message]));
    }
    assert_eq!(on_the_way(&view, minor(26, 2), "swap"), (Verdict::Passed, vec![]));
}

#[test]
fn what_a_spared_worker_uses_is_told_at_the_stop_where_it_is_raised_for_every_minor_it_passes() {
    let mut view = view(3, 2, minor(29, 7));
    let gate =
        Setting { name: "KubeletPodResources".to_owned(), file: "/var/lib/kubelet/config.yaml".to_owned() };
    agent(&mut view, "w1").findings.kubelet.as_mut().unwrap().feature_gates = vec![gate];
    let told = |policy: &Policy| {
        let against = make_path(&view, minor(31, 2), policy, &OPEN).unwrap_err();
        assert_eq!((against.len(), against[0].rule), (1, "removed-feature-gate"), "{against:?}");
        assert!(against[0].message.contains("(gone in 1.30)"), "{against:?}");
        against[0].message.starts_with("at stop 2 of 2, v1.31.2: ")
    };
    assert!(!told(&Policy::default()));
    assert!(told(&skipping()));
}

#[test]
fn what_an_earlier_stop_brings_is_looked_at_once_it_is_there_and_refuses_nothing_before() {
    let with_etcd = |number| {
        let mut view = view(3, 2, minor(number, 7));
        view.cluster.as_mut().unwrap().findings = sound_cluster(3);
        view
    };
    assert!(make_path(&with_etcd(32), minor(34, 2), &Policy::default(), &OPEN).is_ok());
    let there = make_stop(&with_etcd(33), minor(34, 2), None, &Policy::default(), &OPEN).unwrap_err();
    assert_eq!((there.len(), there[0].rule), (1, "etcd-version"), "{there:?}");
    assert_eq!(refusals(&with_etcd(33), minor(35, 2)), there);
}

#[test]
fn what_nobody_knows_is_told_once_and_one_consent_covers_every_stop() {
    let mut view = view(3, 2, minor(19, 7));
    agent(&mut view, "w1").findings.swap = Err("permission denied".to_owned());
    let against = refusals(&view, minor(22, 2));
    assert_eq!((against.len(), against[0].rule), (1, "swap"), "{against:?}");
    assert_eq!(on_the_way(&view, minor(22, 2), "swap"), (Verdict::Unknown, vec![against[0].message.clone()]));
    let policy = Policy { accepted: vec!["swap".to_owned()], ..Policy::default() };
    assert_eq!(make_path(&view, minor(22, 2), &policy, &OPEN).unwrap().plans().count(), 3);
}

#[test]
fn gates_are_asked_up_to_the_stop_that_cannot_be_had_and_one_says_why() {
    let mut view = view(1, 2, minor(19, 7));
    agent(&mut view, "w2").offered.retain(|version| version.minor != 20);
    let (verdict, messages) = on_the_way(&view, minor(22, 2), "version-not-offered");
    assert_eq!((verdict, messages.len()), (Verdict::Refused, 1));
    assert!(messages[0].contains("repositories of w2 offer no kubeadm"), "{messages:?}");
    assert_eq!(on_the_way(&view, minor(22, 2), API_OUTAGE).0, Verdict::Refused);
}
