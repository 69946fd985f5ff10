use liftlock_proto::plan::Plan;
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Canary, Share};
use proptest::prelude::*;

use super::*;
use crate::core::planning::{is_sealed, make_plan, tests as planning};
use crate::core::view::ClusterView;

const TO: KubernetesVersion = KubernetesVersion::new(1, 20, 2);

/// A worker with labels such as `pool=gpu` and perhaps a zone.
fn place(view: &mut ClusterView, node: &str, labels: &[&str], zone: Option<&str>) {
    let node = view.nodes.get_mut(&node.parse::<NodeName>().unwrap()).unwrap();
    let object = node.object.as_mut().unwrap();
    object.zone = zone.map(str::to_owned);
    let labels = labels.iter().map(|label| label.split_once('=').unwrap());
    object.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
}

/// Three control planes; w1 to w4, of which w2 and w4 have GPUs.
fn view() -> ClusterView {
    let mut view = planning::view(3, 4);
    place(&mut view, "w1", &["kind=cpu"], Some("b"));
    place(&mut view, "w2", &["kind=gpu", "old=yes"], Some("b"));
    place(&mut view, "w3", &["kind=cpu"], Some("a"));
    place(&mut view, "w4", &["kind=gpu"], None);
    view
}

fn pool(name: &str, selector: &str) -> Pool {
    let (name, selector) = (name.to_owned(), selector.to_owned());
    Pool { name, selector, max_unavailable: None, canary: None, pause_after: false, on_blocked: None }
}

fn policy(workers: Workers) -> Policy {
    Policy { workers, ..Policy::default() }
}

fn two_at_a_time(pools: Vec<Pool>) -> Policy {
    policy(Workers { max_unavailable: Some(Share::Nodes(2)), pools, ..Workers::default() })
}

fn order(plan: &Plan) -> Vec<&str> {
    plan.nodes.iter().map(|node| node.name.as_str()).collect()
}

fn refused(view: &ClusterView, policy: &Policy) -> String {
    let refusals = make_plan(view, TO, policy).unwrap_err();
    let lines = refusals.iter().map(|refusal| format!("{}: {}", refusal.rule, refusal.message));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn where_nothing_is_said_of_workers_a_plan_has_no_pools_and_goes_by_name() {
    let plan = make_plan(&view(), TO, &Policy::default()).unwrap();
    assert_eq!(order(&plan), ["cp1", "cp2", "cp3", "w1", "w2", "w3", "w4"]);
    assert!(plan.pools.is_empty() && plan.nodes.iter().all(|node| node.place.is_none()));
    let bare = make_plan(&planning::view(3, 4), TO, &Policy::default()).unwrap();
    assert_eq!(plan.hash, bare.hash, "labels and zones are none of its business");
    let json = serde_json::to_string(&plan).unwrap();
    assert!(!json.contains("\"workers\"") && !json.contains("\"pools\""), "{json}");
}

#[test]
fn workers_go_pool_by_pool_and_zone_by_zone_and_those_in_no_zone_last() {
    let plan = make_plan(&view(), TO, &two_at_a_time(vec![])).unwrap();
    assert_eq!(order(&plan), ["cp1", "cp2", "cp3", "w3", "w1", "w2", "w4"]);
    let names: Vec<&str> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!((names, plan.pools[0].max_unavailable), (vec![OTHERS], Some(2)));
    let plan = make_plan(&view(), TO, &two_at_a_time(vec![pool("gpu", "kind=gpu")])).unwrap();
    assert_eq!(order(&plan), ["cp1", "cp2", "cp3", "w2", "w4", "w3", "w1"]);
    assert!(is_sealed(&plan));
    let place = plan.nodes[3].place.clone().unwrap();
    assert_eq!((place.pool.as_str(), place.zone.as_deref()), ("gpu", Some("b")));
    let mut other = plan;
    other.pools[0].max_unavailable = Some(3);
    assert!(!is_sealed(&other), "what a pool allows is part of what the hash names");
}

#[test]
fn a_worker_that_two_pools_select_belongs_to_the_first_of_them() {
    let pools = vec![pool("old", "old"), pool("gpu", "kind in (gpu)")];
    let plan = make_plan(&view(), TO, &two_at_a_time(pools)).unwrap();
    let of = |node: &str| {
        let planned = plan.nodes.iter().find(|planned| planned.name.as_str() == node).unwrap();
        planned.place.as_ref().map(|place| place.pool.as_str())
    };
    assert_eq!([of("cp1"), of("w2"), of("w4"), of("w1")], [None, Some("old"), Some("gpu"), Some(OTHERS)]);
}

#[test]
fn what_a_pool_leaves_out_it_takes_from_what_is_said_for_all_workers() {
    let canary = Some(Canary { nodes: 1, soak_seconds: 60 });
    let none = Some(Canary { nodes: 0, soak_seconds: 0 });
    let gpu = Pool { max_unavailable: Some(Share::Percent(50)), canary: none, ..pool("gpu", "kind=gpu") };
    let workers = Workers {
        max_unavailable: Some(Share::Percent(100)),
        canary,
        pools: vec![gpu],
        ..Workers::default()
    };
    let plan = make_plan(&view(), TO, &policy(workers)).unwrap();
    let told: Vec<_> = plan.pools.iter().map(|pool| (pool.max_unavailable, pool.canary)).collect();
    assert_eq!(told, [(Some(1), None), (Some(2), canary)]);
}

#[test]
fn the_node_that_runs_the_coordinator_comes_last_of_its_class() {
    let mut view = view();
    let on = |view: &mut ClusterView, node: &str| view.coordinator_on = [node.parse().unwrap()].into();
    on(&mut view, "w1");
    let by_name = make_plan(&view, TO, &Policy::default()).unwrap();
    assert_eq!(order(&by_name), ["cp1", "cp2", "cp3", "w2", "w3", "w4", "w1"]);
    let in_zones = make_plan(&view, TO, &two_at_a_time(vec![])).unwrap();
    assert_eq!(
        order(&in_zones),
        ["cp1", "cp2", "cp3", "w3", "w4", "w2", "w1"],
        "its zone comes last, so that it can"
    );
    on(&mut view, "cp1");
    let plan = make_plan(&view, TO, &Policy::default()).unwrap();
    assert_eq!(order(&plan)[..3], ["cp2", "cp3", "cp1"]);
    let roles: Vec<&str> = plan.nodes[..3].iter().map(|node| node.role.name()).collect();
    assert_eq!(roles, ["first-control-plane", "control-plane", "control-plane"]);
}

#[test]
fn pools_that_make_no_sense_are_refused_by_name() {
    let refusals = refused(
        &view(),
        &Policy {
            on_failure: OnFailure::RollBackNode,
            ..policy(Workers {
                max_unavailable: Some(Share::Percent(0)),
                failure_budget: 1,
                pools: vec![
                    pool("GPU", "kind=gpu"),
                    pool("a", "kind=="),
                    pool("a", "kind=>"),
                    pool(OTHERS, "x"),
                ],
                ..Workers::default()
            })
        },
    );
    for (rule, word) in [
        ("max-unavailable", "\"1%\" to \"100%\""),
        ("pool-name", "\"GPU\" is no name of a pool"),
        ("pool-name", "two pools are called a"),
        ("pool-name", "the pool of all workers that no other selects"),
        ("pool-selector", "pool a: \"kind=>\" is no label selector"),
        ("failure-budget", "give one of the two"),
        ("pool-empty", "pool others: the selector x selects no worker"),
    ] {
        let told = refusals.lines().any(|line| line.starts_with(rule) && line.contains(word));
        assert!(told, "{rule}, {word}: {refusals}");
    }
    let hidden = two_at_a_time(vec![pool("gpu", "kind=gpu"), pool("old", "old")]);
    assert!(
        refused(&view(), &hidden)
            .contains("pool old: the selector old selects only workers that pools before it")
    );
}

#[test]
fn a_budget_that_takes_every_node_away_that_takes_pods_is_refused_unless_consented_to() {
    let view = planning::view(3, 2);
    let why = refused(&view, &two_at_a_time(vec![]));
    assert!(why.contains("max-unavailable") && why.contains("w1, w2") && why.contains("at most 1"), "{why}");
    let accepted = Policy { accepted: vec![DRAIN_ONLY_NODE.to_owned()], ..two_at_a_time(vec![]) };
    assert!(make_plan(&view, TO, &accepted).is_ok());
    assert!(make_plan(&planning::view(3, 3), TO, &two_at_a_time(vec![])).is_ok());
    let mut in_zones = view;
    place(&mut in_zones, "w1", &[], Some("a"));
    assert!(make_plan(&in_zones, TO, &two_at_a_time(vec![])).is_ok(), "they are not drained at once");
}

#[test]
fn pools_are_refused_where_nobody_tells_the_labels() {
    let mut view = view();
    view.nodes.get_mut(&"w3".parse::<NodeName>().unwrap()).unwrap().object.as_mut().unwrap().labels = None;
    assert!(
        refused(&view, &two_at_a_time(vec![pool("gpu", "kind=gpu")]))
            .contains("labels-unknown: no control plane tells the labels of w3")
    );
    assert!(
        make_plan(&view, TO, &two_at_a_time(vec![])).is_ok(),
        "where there are no pools, labels decide nothing"
    );
}

proptest! {
    #[test]
    fn every_worker_has_its_place_and_pools_and_their_zones_stand_together(
        labels in prop::collection::vec((0..3usize, prop::option::of(0..3usize)), 6), coordinator in 0..9usize,
    ) {
        let mut view = planning::view(3, 6);
        for (number, (label, zone)) in labels.iter().enumerate() {
            let zone = zone.map(|zone| ["a", "b", "c"][zone]);
            place(&mut view, &format!("w{}", number + 1), &[["k=x", "k=y", "k=z"][*label]], zone);
        }
        let on = view.nodes.keys().nth(coordinator).unwrap().clone();
        view.coordinator_on = [on.clone()].into();
        let mut pools = vec![pool("x", "k=x"), pool("y", "k in (x,y)")];
        pools.retain(|pool| labels.iter().any(|(label, _)| if pool.name == "x" { *label == 0 } else { *label == 1 }));
        let plan = make_plan(&view, TO, &two_at_a_time(pools)).unwrap();
        let places: Vec<_> = plan.nodes[3..].iter().map(|node| node.place.clone().unwrap()).collect();
        let mut together: Vec<_> = places.clone();
        together.dedup();
        let count = together.len();
        together.sort_by(|one, other| (&one.pool, &one.zone).cmp(&(&other.pool, &other.zone)));
        together.dedup();
        prop_assert_eq!(together.len(), count, "a zone or a pool is left and come back to: {:?}", places);
        let after_it = plan.nodes.iter().skip_while(|node| node.name != on).skip(1);
        let of_its_class = plan.nodes.iter().find(|node| node.name == on).unwrap();
        let same = |node: &&liftlock_proto::plan::PlannedNode| {
            node.role.is_control_plane() == of_its_class.role.is_control_plane()
                && node.place.as_ref().map(|place| &place.pool) == of_its_class.place.as_ref().map(|place| &place.pool)
        };
        prop_assert_eq!(after_it.filter(same).count(), 0);
        let names: BTreeSet<_> = plan.nodes.iter().map(|node| &node.name).collect();
        prop_assert_eq!(names.len(), 9);
    }
}
