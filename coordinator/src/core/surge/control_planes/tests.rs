use liftlock_proto::control_planes::ControlPlanes;
use liftlock_proto::step::Step;
use liftlock_proto::workers::Workers;

use super::super::tests::{name, view, way};
use super::*;
use crate::core::catalogue::Catalogue;
use crate::core::gates::tests::version;
use crate::core::leg::Stop;
use crate::core::path::{Path, make_path};
use crate::core::surge::{plan, take_places};

fn policy(nodes: &[&str]) -> Policy {
    let nodes = nodes.iter().map(|name| (*name).to_owned()).collect();
    let control_planes = ControlPlanes { strategy: Strategy::Surge, nodes };
    Policy { control_planes, ..Policy::default() }
}

fn path(view: &ClusterView, policy: &Policy) -> Result<Path, Vec<Refusal>> {
    make_path(view, version(31), policy, &Catalogue::default())
}

fn refusals(view: &ClusterView, policy: &Policy) -> String {
    let refusals = path(view, policy).unwrap_err();
    refusals.into_iter().map(|refusal| refusal.message).collect::<Vec<_>>().join("\n")
}

#[test]
fn once_every_node_is_raised_machines_take_control_planes_places_one_at_a_time() {
    let path = path(&view(&["n1", "n2", "n3"]), &policy(&["n3", "n1", "n2"])).unwrap();
    let places = ["n3 takes the place of cp1", "n1 takes the place of cp2", "n2 takes the place of cp3"];
    assert_eq!(way(&path), [&["cp1 cp2 cp3 w1 w2"], &places[..]].concat());
    for plan in &path.onward {
        let [new, old, actor] = &plan.nodes[..] else { panic!("{plan:?}") };
        let roles = [new.role, old.role, actor.role];
        assert!(roles.iter().all(|role| role.is_control_plane()), "{roles:?}");
        assert!(old.steps.iter().any(|step| matches!(step, Step::EtcdSnapshot {})));
        let ends = |step: &Step| matches!(step, Step::RemoveEtcdMember { node } if *node == old.name);
        assert!(actor.steps.iter().any(ends), "{actor:?}");
    }
}

#[test]
fn who_is_named_and_there_stays_and_of_the_others_the_coordinators_own_node_leaves_last() {
    let mut view = view(&["n1", "n2"]);
    view.coordinator_on = [name("cp1")].into();
    let way = |nodes: &[&str]| way(&path(&view, &policy(nodes)).unwrap())[1..].to_vec();
    assert_eq!(way(&["n1", "cp2", "n2"]), ["n1 takes the place of cp3", "n2 takes the place of cp1"]);
    assert_eq!(way(&["cp3", "cp2", "cp1"]), [""; 0], "they are who is there");
}

#[test]
fn control_planes_go_before_workers_where_both_are_replaced() {
    let workers = Workers { strategy: Strategy::Surge, with: vec!["n2".to_owned()], ..Workers::default() };
    let policy = Policy { workers, ..policy(&["n1", "cp2", "cp3"]) };
    let path = path(&view(&["n1", "n2"]), &policy).unwrap();
    let places = ["n1 takes the place of cp1", "n2 takes the place of w1", "w1 takes the place of w2"];
    assert_eq!(way(&path), [&["cp1 cp2 cp3"], &places[..]].concat());
}

#[test]
fn every_plan_made_when_its_turn_has_come_is_the_one_that_was_made_before() {
    let mut view = view(&["n1", "n2", "n3"]);
    let policy = policy(&["n1", "n2", "n3"]);
    let path = path(&view, &policy).unwrap();
    view.cluster.as_mut().unwrap().kubeadm_config_version = version(31);
    for node in view.nodes.values_mut().filter(|node| node.object.is_some()) {
        node.object.as_mut().unwrap().kubelet_version = Some(version(31));
        if node.is_control_plane() {
            node.agent.as_mut().unwrap().control_plane_version = Some(version(31));
        }
    }
    for (at, ahead) in path.onward.iter().enumerate() {
        let from_here = self::path(&view, &policy).unwrap();
        assert_eq!(way(&from_here), way(&path)[at + 1..], "what is left is what an apply from here does");
        let turn = Stop::of(ahead).membership().unwrap();
        let now = plan(&view, version(31), &turn, &policy).unwrap();
        assert_eq!((&now.hash, Stop::of(ahead).difference(&now)), (&ahead.hash, None));
        take_places(&mut view, version(31), &turn);
    }
    let nothing = self::path(&view, &policy).unwrap_err();
    assert!(nothing.iter().all(Refusal::is_nothing_to_do), "{nothing:?}");
}

#[test]
fn what_speaks_against_replacing_control_planes_is_named_with_what_would_be_allowed() {
    let few = refusals(&view(&["n1"]), &policy(&["n1"]));
    assert!(few.contains("names 1 and the cluster has 3 (cp1, cp2, cp3)") && few.contains("name 3"), "{few}");
    let unknown = refusals(&view(&["n1"]), &policy(&["n9", "cp2", "cp3"]));
    assert!(
        unknown.contains("names n9") && unknown.contains("(cp1, cp2, cp3)") && unknown.contains("(n1)"),
        "{unknown}"
    );
    let worker = refusals(&view(&["n1"]), &policy(&["w1", "cp2", "cp3"]));
    assert!(worker.contains("names w1"), "{worker}");
    let mut without = view(&["n1"]);
    without.nodes.get_mut(&name("n1")).unwrap().agent.as_mut().unwrap().offered.clear();
    let without = refusals(&without, &policy(&["n1", "cp2", "cp3"]));
    assert!(without.contains("n1's package repositories do not offer"), "{without}");
    let mut alone = view(&["n1"]);
    alone.nodes.retain(|name, _| !["cp2", "cp3"].contains(&name.as_str()));
    let cluster = alone.cluster.as_mut().unwrap();
    (cluster.etcd_members, cluster.etcd_healthy_members) = (1, 1);
    let policy_alone = Policy { accepted: vec!["api-outage".to_owned()], ..policy(&["n1"]) };
    let alone = refusals(&alone, &policy_alone);
    assert!(alone.contains("nobody could let machines join"), "{alone}");
}

#[test]
fn what_makes_no_sense_of_control_planes_is_refused_whatever_the_cluster() {
    let rules = |policy: &Policy| -> Vec<String> {
        policy_rules(policy).into_iter().map(|one| one.message).collect()
    };
    assert_eq!(rules(&Policy::default()), [""; 0]);
    assert_eq!(rules(&policy(&["n1"])), [""; 0]);
    let strategy = |strategy, nodes: &[&str]| {
        let mut policy = policy(nodes);
        policy.control_planes.strategy = strategy;
        policy
    };
    let surge = Workers { strategy: Strategy::Surge, ..Workers::default() };
    let with = Workers { with: vec!["n1".to_owned()], ..surge.clone() };
    let wrong = [
        ("in-place", strategy(Strategy::InPlace, &["n1"])),
        ("blue-green", strategy(Strategy::BlueGreen, &["n1"])),
        ("needs controlPlanes.nodes", strategy(Strategy::Surge, &[])),
        ("n1 twice", policy(&["n1", "n1"])),
        ("needs workers.with", Policy { workers: surge, ..policy(&["n1"]) }),
        ("in workers.with", Policy { workers: with, ..policy(&["n1"]) }),
        ("redeploy", Policy { redeploy: true, ..policy(&["n1"]) }),
    ];
    for (said, policy) in wrong {
        let found = rules(&policy);
        assert!(found.len() == 1 && found[0].contains(said), "{said}: {found:?}");
    }
}
