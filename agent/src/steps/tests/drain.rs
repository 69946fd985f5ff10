//! What a drain leaves, refuses, waits for, and whose cordon it is.

use std::time::Duration;

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;

use super::harness::{End, Leased, drain_step, shape};
use crate::engine::step::Observed;
use crate::host::PodState;
use crate::twin::{Budget, Fault, Meanwhile, NodeObject, Twin};

type NewPod = (&'static str, fn(&mut PodState));

fn worker(pods: &[NewPod]) -> Leased {
    let twin = Twin::new(shape(3, 2));
    for (app, change) in pods {
        twin.world().cluster.add_pod(app, "w1", change);
    }
    Leased::new(&twin, "w1", Role::Worker)
}

fn drain(leased: &mut Leased, step: &Step) -> End {
    leased.carry(step)
}

fn with_policy(unmanaged: bool, empty_dir: bool) -> Step {
    Step::Drain {
        timeout_seconds: 600,
        delete_unmanaged_pods: unmanaged,
        delete_empty_dir_data: empty_dir,
        allow_only_schedulable_node: false,
        on_blocked: OnBlocked::Pause,
    }
}

fn names_on(leased: &Leased, node: &str) -> Vec<String> {
    let world = leased.twin.world();
    let on_node = world.cluster.pods.values().filter(|pod| pod.node.as_deref() == Some(node));
    on_node.map(|pod| pod.state.name.clone()).collect()
}

fn protect(leased: &Leased, app: &str, min_available: usize) {
    let budget = Budget { name: format!("{app}-budget"), min_available };
    leased.twin.world().cluster.budgets.insert(app.to_owned(), budget);
}

#[test]
fn daemon_sets_and_mirror_pods_are_left_alone() {
    let mut leased = worker(&[("app", |_| {}), ("app", |_| {})]);
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
    assert_eq!(names_on(&leased, "w1"), ["kube-proxy-w1-3"]);
    assert!(leased.twin.world().cluster.pods.values().filter(|pod| pod.app == "app").count() == 2, "moved");

    let mut control_plane = Leased::new(&Twin::new(shape(3, 2)), "cp1", Role::FirstControlPlane);
    assert_eq!(drain(&mut control_plane, &drain_step()), End::Done);
    assert!(!control_plane.changes().iter().any(|change| change.starts_with("evict")));
}

#[test]
fn unmanaged_and_empty_dir_pods_are_refused_by_name_before_the_first_eviction() {
    let mut leased = worker(&[
        ("app", |_| {}),
        ("bare", |pod| pod.controller = None),
        ("cache", |pod| pod.empty_dir = true),
    ]);
    let End::Failed(why) = drain(&mut leased, &with_policy(false, false)) else { panic!() };
    assert!(why.contains("default/bare-w1") && why.contains("default/cache-w1"), "{why}");
    assert!(!why.contains("default/app-w1"), "{why}");
    assert_eq!(leased.changes(), [""; 0], "neither cordoned nor evicted");

    let End::Failed(why) = drain(&mut leased, &with_policy(true, false)) else { panic!() };
    assert!(!why.contains("default/bare-w1") && why.contains("default/cache-w1"), "{why}");
    assert_eq!(drain(&mut leased, &with_policy(true, true)), End::Done);
}

#[test]
fn no_pod_is_evicted_while_no_controller_manager_leads() {
    let twin = Twin::new(shape(1, 1));
    twin.world().cluster.add_pod("app", "cp1", |_| {});
    let mut leased = Leased::new(&twin, "cp1", Role::FirstControlPlane);
    leased.meddle(|machine| {
        machine.stuck.insert("kube-controller-manager".to_owned());
        machine.containers.remove("kube-controller-manager");
    });
    let End::Failed(why) = drain(&mut leased, &drain_step()) else { panic!() };
    assert!(why.contains("a controller-manager to lead"), "{why}");
    assert!(!leased.changes().iter().any(|change| change.starts_with("evict")), "{:?}", leased.changes());
    leased.meddle(|machine| machine.stuck.clear());
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
}

#[test]
fn finished_pods_go_whatever_the_policy() {
    let mut leased = worker(&[("job", |pod| {
        pod.controller = None;
        pod.empty_dir = true;
        pod.finished = true;
    })]);
    assert_eq!(drain(&mut leased, &with_policy(false, false)), End::Done);
    assert_eq!(names_on(&leased, "w1").len(), 1);
}

#[test]
fn a_budget_is_waited_for_and_asked_again_as_soon_as_it_allows_more() {
    let mut leased = worker(&[("app", |_| {}), ("app", |_| {})]);
    protect(&leased, "app", 1);
    let started = leased.twin.world().now();
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
    // One after the other: its successor is ready 2 s after the first has begun to end.
    let took = leased.since(started);
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(leased.log.lines().iter().any(|line| line.contains("app-budget")), "{:?}", leased.log.lines());
}

#[test]
fn a_budget_that_never_allows_it_ends_the_drain_at_its_time_out_and_is_named() {
    let mut leased = worker(&[("app", |_| {}), ("other", |_| {})]);
    protect(&leased, "app", 1);
    let started = leased.twin.world().now();
    let End::Failed(why) = drain(&mut leased, &drain_step()) else { panic!() };
    let took = leased.since(started);
    assert!(took >= Duration::from_mins(10) && took < Duration::from_secs(610), "{took:?}");
    assert!(why.contains("app-budget") && why.contains("default/app-w1"), "{why}");
    assert!(!why.contains("other"), "{why}");
    assert!(
        leased.log.lines().len() <= 42,
        "a line now and then, not one a retry: {}",
        leased.log.lines().len()
    );
    assert_eq!(leased.log.spent("wait"), took);
}

fn with_word(on_blocked: OnBlocked) -> Step {
    Step::Drain {
        timeout_seconds: 600,
        delete_unmanaged_pods: false,
        delete_empty_dir_data: false,
        allow_only_schedulable_node: true,
        on_blocked,
    }
}

#[test]
fn where_the_plan_says_force_protected_pods_are_deleted_once_the_time_is_over_and_no_others() {
    let mut leased = worker(&[("app", |_| {}), ("other", |_| {})]);
    protect(&leased, "app", 1);
    let started = leased.twin.world().now();
    assert_eq!(drain(&mut leased, &with_word(OnBlocked::Force)), End::Done);
    assert!(leased.since(started) >= Duration::from_mins(10));
    let changes = leased.changes();
    let deleted: Vec<&String> = changes.iter().filter(|change| change.starts_with("delete")).collect();
    assert!(deleted.len() == 1 && deleted[0].contains("default/app-w1"), "{changes:?}");
    let told = leased.log.lines().into_iter().filter(|line| line.contains("onBlocked: force")).count();
    assert_eq!(told, 1, "{:?}", leased.log.lines());
}

#[test]
fn an_api_that_is_away_is_no_word_of_a_budget_and_deletes_nothing() {
    let mut leased = worker(&[("app", |_| {})]);
    leased.twin.world().api_is_away_until = Duration::MAX;
    assert!(matches!(drain(&mut leased, &with_word(OnBlocked::Force)), End::Failed(_)));
    assert!(!leased.changes().iter().any(|change| change.starts_with("delete")), "{:?}", leased.changes());
}

#[test]
fn all_evictions_are_asked_for_at_once() {
    let mut leased = worker(&[("app", (|_| {}) as fn(&mut PodState)); 40]);
    for pod in leased.twin.world().cluster.pods.values_mut() {
        pod.grace = Duration::from_secs(10);
    }
    let started = leased.twin.world().now();
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
    assert_eq!(leased.since(started), Duration::from_secs(10));
}

#[test]
fn the_only_node_that_takes_pods_is_not_drained_without_consent() {
    let mut leased = Leased::new(&Twin::new(shape(1, 1)), "w1", Role::Worker);
    let End::Failed(why) = drain(&mut leased, &with_policy(false, false)) else { panic!() };
    assert!(why.contains("--accept drain-only-node"), "{why}");
    assert_eq!(leased.changes(), [""; 0]);
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
}

#[test]
fn a_node_that_is_not_ready_or_cordoned_or_tainted_takes_no_pods() {
    let breaks: [fn(&mut NodeObject); 3] =
        [|node| node.ready = false, |node| node.unschedulable = true, |node| node.tainted = true];
    for break_it in breaks {
        let mut leased = worker(&[("app", |_| {})]);
        break_it(leased.twin.world().cluster.nodes.get_mut("w2").unwrap());
        assert!(matches!(drain(&mut leased, &with_policy(false, false)), End::Failed(_)));
    }
}

#[test]
fn a_cordon_that_an_operator_set_stays_whatever_happens_in_between() {
    let before = worker(&[("app", |_| {})]);
    let raised = before.fork();
    let mut first = Leased::new(&raised.twin, "cp1", Role::FirstControlPlane);
    first.carry_all();
    raised.twin.world().cluster.nodes.get_mut("w1").unwrap().unschedulable = true;
    for nth in 1.. {
        let mut leased = raised.fork();
        leased.twin.inject("w1", nth, Fault::AgentDies);
        let end = leased.carry_from(0);
        let struck = leased.twin.struck().is_some();
        if struck {
            assert!(end.is_err());
            leased.restart(Meanwhile::Ended);
            leased.captured.clear();
            leased.carry_all();
        }
        let world = leased.twin.world();
        let node = &world.cluster.nodes["w1"];
        assert!(node.unschedulable && node.cordoned_by.is_none(), "fault {nth}: {node:?}");
        if !struck {
            break;
        }
    }
}

#[test]
fn an_api_server_that_is_away_for_a_moment_does_not_end_a_drain() {
    let mut leased = worker(&[("app", |_| {})]);
    let now = leased.twin.world().now();
    leased.twin.world().api_is_away_until = now + Duration::from_secs(20);
    leased.twin.world().wake_at(now + Duration::from_secs(20));
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
    leased.twin.world().api_is_away_until = Duration::MAX;
    assert!(matches!(leased.carry(&Step::RestoreSchedulability {}), End::Failed(_)), "but not for ever");
}

#[test]
fn a_drained_node_is_done_and_one_with_a_new_pod_is_not() {
    let mut leased = worker(&[("app", |_| {})]);
    assert_eq!(leased.check(&drain_step()).unwrap(), Observed::Absent);
    assert_eq!(drain(&mut leased, &drain_step()), End::Done);
    assert_eq!(leased.check(&drain_step()).unwrap(), Observed::Done);
    leased.twin.world().cluster.add_pod("late", "w1", |_| {});
    assert_eq!(leased.check(&drain_step()).unwrap(), Observed::Partial);
}
