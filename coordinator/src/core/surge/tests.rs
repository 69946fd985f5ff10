use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::core::catalogue::Catalogue;
use crate::core::gates::tests::{cluster_at, sound_node, version};
use crate::core::leg::Stop;
use crate::core::path::{Path, make_path};
use crate::core::planning::is_sealed;
use crate::core::view::NodeView;

pub(super) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// Three control planes, two workers, and machines that have not joined.
pub(super) fn view(machines: &[&str]) -> ClusterView {
    let mut view = cluster_at(30);
    for machine in machines {
        let mut agent = view.nodes[&name("w1")].agent.clone().unwrap();
        agent.not_joined = true;
        agent.findings = sound_node(machine, false);
        view.nodes.insert(name(machine), NodeView { agent: Some(agent), object: None });
    }
    view
}

fn policy(workers: Workers) -> Policy {
    Policy { workers, ..Policy::default() }
}

fn surge() -> Workers {
    Workers { strategy: Strategy::Surge, ..Workers::default() }
}

fn blue_green() -> Workers {
    Workers { strategy: Strategy::BlueGreen, ..Workers::default() }
}

fn path(view: &ClusterView, to: u16, workers: Workers) -> Result<Path, Vec<Refusal>> {
    make_path(view, version(to), &policy(workers), &Catalogue::default())
}

/// What each plan of a path does.
pub(super) fn way(path: &Path) -> Vec<String> {
    let words = |plan: &Plan| match Membership::of(plan) {
        Some(membership) => membership.to_string(),
        None => plan.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" "),
    };
    path.plans().map(words).collect()
}

fn refusals(view: &ClusterView, workers: Workers) -> String {
    let refusals = path(view, 31, workers).unwrap_err();
    refusals.into_iter().map(|refusal| refusal.message).collect::<Vec<_>>().join("\n")
}

#[test]
fn control_planes_are_raised_and_then_machines_take_the_workers_places() {
    let path = path(&view(&["n1", "n2"]), 31, surge()).unwrap();
    assert_eq!(way(&path), ["cp1 cp2 cp3", "n1 takes the place of w1", "n2 takes the place of w2"]);
    for plan in path.onward {
        assert!(is_sealed(&plan));
        assert_eq!((plan.from_version, plan.to_version), (version(31), version(31)));
    }
}

#[test]
fn a_machine_that_has_left_takes_the_next_workers_place_where_there_are_no_more() {
    let path = path(&view(&["n1"]), 31, surge()).unwrap();
    assert_eq!(way(&path)[1..], ["n1 takes the place of w1", "w1 takes the place of w2"]);
}

#[test]
fn as_many_as_max_surge_says_join_before_as_many_leave() {
    let workers = Workers { max_surge: Some(Share::Percent(100)), ..surge() };
    let path = path(&view(&["n1", "n2", "n3"]), 31, workers.clone()).unwrap();
    assert_eq!(way(&path)[1..], ["n1, n2 take the places of w1, w2"]);
    let order: Vec<&str> = path.onward[0].nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(order, ["n1", "n2", "w1", "w2", "cp1"]);
    let fewer = self::path(&view(&["n1"]), 31, workers).unwrap();
    assert_eq!(fewer.onward.len(), 2, "no more can join at once than there are");
}

#[test]
fn machines_that_were_named_join_in_that_order() {
    let workers = Workers { with: vec!["n3".to_owned(), "n1".to_owned()], ..surge() };
    let path = path(&view(&["n1", "n2", "n3"]), 31, workers).unwrap();
    assert_eq!(way(&path)[1..], ["n3 takes the place of w1", "n1 takes the place of w2"]);
}

#[test]
fn where_control_planes_are_raised_already_only_workers_are_replaced() {
    let mut half = view(&["n1"]);
    let up = |path: &Path| way(path);
    let whole = path(&half, 31, surge()).unwrap();
    half.cluster.as_mut().unwrap().kubeadm_config_version = version(31);
    for cp in ["cp1", "cp2", "cp3"] {
        let node = half.nodes.get_mut(&name(cp)).unwrap();
        node.object.as_mut().unwrap().kubelet_version = Some(version(31));
        node.agent.as_mut().unwrap().control_plane_version = Some(version(31));
    }
    let rest = path(&half, 31, surge()).unwrap();
    assert_eq!(up(&rest), up(&whole)[1..]);
    assert_eq!(
        rest.first.hash, whole.onward[0].hash,
        "seen from here it is the plan that was seen from afar"
    );
    let mut done = half;
    take_places(
        &mut done,
        version(31),
        &Membership { leaves: vec![name("w1"), name("w2")], ..Membership::default() },
    );
    let nothing = path(&done, 31, surge()).unwrap_err();
    assert!(nothing.iter().all(Refusal::is_nothing_to_do), "{nothing:?}");
}

#[test]
fn every_plan_made_when_its_turn_has_come_is_the_one_that_was_made_before() {
    for workers in [surge(), blue_green()] {
        let mut view = view(&["n1", "n2"]);
        let path = path(&view, 31, workers.clone()).unwrap();
        view.cluster.as_mut().unwrap().kubeadm_config_version = version(31);
        for node in view.nodes.values_mut().filter(|node| node.is_control_plane()) {
            node.agent.as_mut().unwrap().control_plane_version = Some(version(31));
        }
        for ahead in &path.onward {
            let turn = Stop::of(ahead).membership().unwrap();
            let now = plan(&view, version(31), &turn, &policy(workers.clone())).unwrap();
            assert_eq!((&now.hash, Stop::of(ahead).difference(&now)), (&ahead.hash, None));
            take_places(&mut view, version(31), &turn);
        }
    }
}

#[test]
fn blue_green_moves_all_pods_by_one_plan_and_has_the_old_nodes_leave_by_the_next() {
    let path = path(&view(&["n1", "n2", "n3"]), 31, blue_green()).unwrap();
    assert_eq!(way(&path)[1..], ["n1, n2 join and take the pods of w1, w2", "w1, w2 leave"]);
    let order: Vec<&str> = path.onward[0].nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(order, ["cp1", "n1", "n2", "w1", "w2"]);
    let few = refusals(&view(&["n1"]), blue_green());
    assert!(
        few.contains("2 machines are needed that have not joined") && few.contains("there are 1: n1"),
        "{few}"
    );
    let named = Workers { with: vec!["n1".to_owned()], ..blue_green() };
    assert!(self::path(&view(&["n1"]), 31, named).is_ok(), "an operator knows what has room");
}

#[test]
fn what_speaks_against_replacing_workers_is_named_with_what_would_be_allowed() {
    let none = refusals(&view(&[]), surge());
    assert!(
        none.contains("w1, w2")
            && none.contains("one machine is needed that has not joined")
            && none.contains("none"),
        "{none}"
    );
    let unknown = refusals(&view(&["n1"]), Workers { with: vec!["w9".to_owned()], ..surge() });
    assert!(unknown.contains("workers.with names w9") && unknown.contains("(n1)"), "{unknown}");
    let mut without = view(&["n1"]);
    without.nodes.get_mut(&name("n1")).unwrap().agent.as_mut().unwrap().offered.clear();
    assert!(refusals(&without, surge()).contains("n1's package repositories do not offer"));
    let mut silent = view(&["n1"]);
    silent.nodes.get_mut(&name("w2")).unwrap().agent.as_mut().unwrap().connected = false;
    assert!(refusals(&silent, surge()).contains("w2"));
}

#[test]
fn what_is_said_of_workers_that_stay_is_refused_where_they_leave_and_the_other_way_round() {
    let rules = |policy: &Policy| -> Vec<String> {
        policy_rules(policy).into_iter().map(|one| one.message).collect()
    };
    assert_eq!(rules(&policy(surge())), [""; 0]);
    let wrong: [(&str, Workers); 6] = [
        ("workers.maxSurge", Workers { max_surge: Some(Share::Nodes(1)), ..Workers::default() }),
        ("workers.with", Workers { with: vec!["n1".to_owned()], ..Workers::default() }),
        ("workers.soakSeconds", Workers { soak_seconds: Some(1), ..surge() }),
        ("workers.maxUnavailable", Workers { max_unavailable: Some(Share::Nodes(2)), ..surge() }),
        ("workers.failureBudget", Workers { failure_budget: 1, ..blue_green() }),
        ("n1 twice", Workers { with: vec!["n1".to_owned(), "n1".to_owned()], ..surge() }),
    ];
    for (field, workers) in wrong {
        let found = rules(&policy(workers));
        assert!(found.len() == 1 && found[0].contains(field), "{field}: {found:?}");
    }
    let skips = Policy { on_blocked: OnBlocked::Skip, redeploy: true, ..policy(surge()) };
    assert_eq!(rules(&skips).len(), 2);
}

#[test]
fn workers_too_far_behind_for_the_last_stop_are_refused_by_the_skew() {
    let mut view = view(&["n1"]);
    for node in ["w1", "w2"] {
        view.nodes.get_mut(&name(node)).unwrap().object.as_mut().unwrap().kubelet_version = Some(version(27));
    }
    let why = refusals(&view, surge());
    assert!(why.contains("raise that kubelet first"), "{why}");
}

proptest! {
    #[test]
    fn every_worker_leaves_once_nobody_joins_who_is_there_and_there_is_never_one_too_few(
        workers in 1_usize..12,
        machines in 1_usize..12,
        max_surge in 1_u32..12,
    ) {
        let named = |letter: &str, count: usize| -> Vec<NodeName> {
            (1..=count).map(|number| name(&format!("{letter}{number:02}"))).collect()
        };
        let (old, fresh) = (named("w", workers), named("n", machines));
        let surge = Workers { max_surge: Some(Share::Nodes(max_surge)), ..surge() };
        let (mut there, mut outside): (BTreeSet<NodeName>, BTreeSet<NodeName>) =
            (old.iter().cloned().collect(), fresh.iter().cloned().collect());
        let mut left = Vec::new();
        for turn in turns(&old, fresh, &surge) {
            prop_assert_eq!(turn.joins.len(), turn.leaves.len());
            prop_assert!((1..=usize::try_from(max_surge).unwrap()).contains(&turn.joins.len()));
            for joining in &turn.joins {
                prop_assert!(outside.remove(joining) && there.insert(joining.clone()));
            }
            for leaving in turn.leaves {
                prop_assert!(there.remove(&leaving) && outside.insert(leaving.clone()));
                prop_assert!(there.len() >= workers);
                left.push(leaving);
            }
        }
        prop_assert_eq!(left, old);
    }
}
