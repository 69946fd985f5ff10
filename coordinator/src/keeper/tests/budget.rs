//! Workers that are leased side by side.

use liftlock_proto::workers::{Canary, Pool, Share, Workers};

use super::*;

/// Beside the control planes.
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];

/// What a control plane reports, with three workers that are changed like this.
fn report(agents: &[Agent], coordinator: &Coordinator, change: impl Fn(&mut v1::ClusterNode)) {
    for agent in &agents[..3] {
        let mut facts = facts(agent.node.as_str(), "v1.30.4");
        let nodes = &mut facts.cluster.as_mut().unwrap().nodes;
        let worker = nodes.pop().unwrap();
        let labels = |name: &str| {
            let first = v1::Label { key: "first".to_owned(), value: String::new() };
            if name == "w2" { vec![first] } else { vec![] }
        };
        nodes.extend(WORKERS.map(|name| v1::ClusterNode {
            name: name.to_owned(),
            labels: labels(name),
            ..worker.clone()
        }));
        nodes.iter_mut().for_each(&change);
        agent.says(coordinator, Said::Facts(Box::new(facts))).unwrap();
    }
}

/// A roll-out whose control planes are raised, and every agent: those of the control planes first.
pub(super) fn workers_are_due(coordinator: &Coordinator, workers: Workers) -> Vec<Agent> {
    let mut agents: Vec<Agent> =
        NODES[..3].iter().chain(&WORKERS).map(|node| coordinator.connect(node)).collect();
    report(&agents, coordinator, |_| {});
    let policy = Policy { workers, ..Policy::default() };
    let path = coordinator.keeper.plan("v1.31.2".parse().unwrap(), &policy).unwrap();
    coordinator.keeper.apply(&path, "alice").unwrap();
    prepare_all(coordinator, &agents);
    for index in 0..3 {
        report(&agents, coordinator, |_| {});
        assert_eq!(agents[index].grants().len(), 1, "{}", coordinator.rollout().reason);
        agents[index].ends(coordinator, index as u64 + 1, "");
    }
    agents
}

pub(super) fn two_at_a_time() -> Workers {
    Workers { max_unavailable: Some(Share::Nodes(2)), ..Workers::default() }
}

#[test]
fn no_more_is_begun_than_the_budget_allows_with_what_somebody_else_took_away() {
    let coordinator = Coordinator::asking_between_nodes();
    let mut agents = workers_are_due(&coordinator, two_at_a_time());
    report(&agents, &coordinator, |_| {});
    assert_eq!(agents[3].grants().len(), 1);
    assert!(agents[4].grants().is_empty(), "nobody has said how things are since");
    let cordoned = |node: &mut v1::ClusterNode| {
        node.unschedulable = node.name == "w3";
        node.ready = node.name != "w1";
    };
    report(&agents, &coordinator, cordoned);
    assert!(agents[4].grants().is_empty());
    let reason = coordinator.rollout().reason;
    assert!(
        reason.contains("w2 is not begun: w1, w3 are away") && reason.contains("no more than 2"),
        "{reason}"
    );
    report(&agents, &coordinator, |node| node.ready = node.name != "w1");
    assert_eq!(agents[4].grants().len(), 1, "what a lease took away closes no gate");
    report(&agents, &coordinator, |_| {});
    assert!(agents[5].grants().is_empty());
    agents[4].ends(&coordinator, 5, "");
    assert!(agents[5].grants().is_empty(), "nobody has said how things are since");
    report(&agents, &coordinator, |_| {});
    assert_eq!(agents[5].grants().len(), 1);
}

#[test]
fn a_report_under_a_lease_beside_which_another_began_is_recorded_once() {
    let coordinator = Coordinator::new();
    let mut agents = workers_are_due(&coordinator, two_at_a_time());
    assert_eq!((agents[3].grants().len(), agents[4].grants().len()), (1, 1));
    let started = v1::StepReport {
        fencing_token: 4,
        step: "drain".to_owned(),
        state: v1::StepState::Started.into(),
        attempt: 1,
        ..v1::StepReport::default()
    };
    for _ in 0..2 {
        agents[3].says(&coordinator, Said::StepReport(started.clone())).unwrap();
    }
    assert_eq!(coordinator.kinds().iter().filter(|kind| **kind == "step-started").count(), 1);
}

#[test]
fn after_a_restart_both_holders_get_their_leases_again_and_nobody_else_one() {
    let coordinator = Coordinator::new();
    let mut agents = workers_are_due(&coordinator, two_at_a_time());
    let before = [agents[3].grants(), agents[4].grants()];
    let coordinator = coordinator.restarted();
    let mut w3 = coordinator.connect_with("w3", 0, None).unwrap();
    for cp in &NODES[..3] {
        coordinator.connect_with(cp, 0, None).unwrap();
    }
    let mut back = ["w1", "w2"].map(|node| {
        let token = if node == "w1" { 4 } else { 5 };
        coordinator.connect_with(node, token, Some(held(token))).unwrap()
    });
    assert_eq!([back[0].grants(), back[1].grants()], before);
    assert!(w3.grants().is_empty());
}

#[test]
fn the_node_whose_machine_is_the_coordinators_is_known_by_its_mark_or_by_what_an_operator_says() {
    let marked = Some(Whereabouts::Marked("0123".to_owned()));
    let named = Some(Whereabouts::Node("cp2".parse().unwrap()));
    for (on, first) in [(marked, "cp2"), (named, "cp1"), (None, "cp1")] {
        let coordinator = Coordinator::new();
        let coordinator = Coordinator { keeper: coordinator.keeper.on(on.clone()), ..coordinator };
        let agents = coordinator.connect_all();
        for agent in &agents {
            let machine = if agent.node.as_str() == "cp1" { "0123" } else { "" }.to_owned();
            let facts = v1::NodeFacts { machine, ..facts(agent.node.as_str(), "v1.30.4") };
            agent.says(&coordinator, Said::Facts(Box::new(facts))).unwrap();
        }
        let last = coordinator.plan().first.nodes[2].name.to_string();
        assert_eq!(coordinator.plan().first.nodes[0].name.as_str(), first, "{on:?}");
        assert_eq!(last == "cp3", on.is_none(), "{on:?}: {last} is the last control plane");
    }
}

#[test]
fn canaries_soak_and_the_roll_out_goes_on_by_itself() {
    let coordinator = Coordinator::new();
    let canary = Some(Canary { nodes: 1, soak_seconds: 60 });
    let mut agents = workers_are_due(&coordinator, Workers { canary, ..two_at_a_time() });
    assert_eq!((agents[3].grants().len(), agents[4].grants().len()), (1, 0));
    agents[3].ends(&coordinator, 4, "");
    assert!(agents[4].grants().is_empty());
    let reason = coordinator.rollout().reason;
    assert!(reason.starts_with("pool others: soaking, ") && reason.ends_with(" s left"), "{reason}");
    let looks = (0..60).take_while(|_| {
        coordinator.keeper.look_again();
        coordinator.rollout().nodes.iter().all(|node| node.phase() != v1::NodePhase::Leased)
    });
    assert!(looks.count() < 60, "it never goes on");
    assert_eq!((agents[4].grants().len(), agents[5].grants().len()), (1, 1));
    let history = coordinator.keeper.history(None);
    let at = |kind: &str, token: u64| {
        let found = history
            .iter()
            .find(|(_, record)| record.kind.name() == kind && record.token == Some(FencingToken(token)));
        found.unwrap().1.at_ms
    };
    assert!(
        at("lease-granted", 5) >= at("lease-ended", 4) + 59_000,
        "a tick lies between an end and its record"
    );
}

#[test]
fn a_pause_after_a_pool_is_told_in_status_and_in_the_history_and_holds_after_a_restart() {
    let coordinator = Coordinator::new();
    let pool = Pool {
        name: "first".to_owned(),
        selector: "first".to_owned(),
        max_unavailable: None,
        canary: None,
        pause_after: true,
        on_blocked: None,
    };
    let mut agents = workers_are_due(&coordinator, Workers { pools: vec![pool], ..Workers::default() });
    assert_eq!(agents[4].grants().len(), 1, "w2 is the only one that its label selects");
    agents[4].ends(&coordinator, 4, "");
    assert!(agents[3].grants().is_empty());
    let coordinator = coordinator.restarted();
    let rollout = coordinator.rollout();
    assert_eq!(rollout.phase(), v1::RolloutPhase::Paused);
    assert!(rollout.reason.ends_with("paused after pool first"), "{}", rollout.reason);
    let history = coordinator.keeper.history(None);
    assert_eq!(history.last().unwrap().1.text, "the roll-out is paused after pool first, as the plan says");
    coordinator.keeper.order(&Order::Resume, "alice").unwrap();
    let rollout = coordinator.rollout();
    assert_eq!(rollout.phase(), v1::RolloutPhase::Running, "{}", rollout.reason);
}
