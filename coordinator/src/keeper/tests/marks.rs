//! Who is told which nodes are not raised yet, and when.

use super::*;

impl Agent {
    /// The ids and nodes of what it was told to mark since the last time.
    fn marks(&mut self) -> Vec<v1::MarkNodes> {
        let mark = |told| if let Told::MarkNodes(mark) = told { Some(mark) } else { None };
        self.received().into_iter().filter_map(mark).collect()
    }

    /// Answers the last order, and returns whom it named.
    fn marked(&mut self, coordinator: &Coordinator, failure: &str) -> (Vec<String>, u32) {
        let order = self.marks().pop().expect("it was not told anything");
        let answer =
            v1::NodesMarked { id: order.id, failure: failure.to_owned(), ..v1::NodesMarked::default() };
        self.says(coordinator, Said::NodesMarked(answer)).unwrap();
        (order.nodes, order.pause_ms)
    }
}

fn marking(coordinator: Coordinator) -> Coordinator {
    Coordinator { keeper: coordinator.keeper.marking_nodes(true), ..coordinator }
}

/// A roll-out whose first control plane holds lease 1; every control plane has said that nobody is marked.
fn running_with_marks() -> (Coordinator, Vec<Agent>) {
    let coordinator = marking(Coordinator::new());
    let mut agents: Vec<Agent> = Vec::new();
    for node in NODES {
        let mut agent = coordinator.connect(node);
        if node != "w1" {
            assert_eq!(agent.marked(&coordinator, ""), (vec![], 0), "{node}");
        }
        agents.push(agent);
    }
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    assert_eq!(agents[0].grants().len(), 1);
    (coordinator, agents)
}

#[test]
fn a_node_is_granted_its_lease_once_those_that_are_not_raised_are_marked() {
    let (coordinator, mut agents) = running_with_marks();
    agents[0].ends(&coordinator, 1, "");
    assert!(agents[1].grants().is_empty(), "the scheduler does not know yet");
    assert_eq!(agents[0].marked(&coordinator, ""), (["cp2", "cp3", "w1"].map(str::to_owned).to_vec(), 0));
    assert_eq!(agents[1].grants().len(), 1);
    assert!(agents.iter_mut().all(|agent| agent.marks().is_empty()), "it is told once");
    assert_eq!(coordinator.rollout().reason, "");
}

#[test]
fn marks_that_fail_hold_nobody_up_and_are_tried_by_another_after_a_pause_and_told() {
    let (coordinator, mut agents) = running_with_marks();
    agents[0].ends(&coordinator, 1, "");
    agents[0].marked(&coordinator, "the API is away");
    let told = coordinator.rollout();
    assert!(told.taint.contains("the API is away"), "{}", told.taint);
    assert_eq!(told.reason, "", "nothing is held");
    assert_eq!(coordinator.node("cp2").phase(), v1::NodePhase::Leased);
    let (nodes, pause_ms) = agents[2].marked(&coordinator, "the same");
    assert_eq!((nodes.len(), pause_ms), (3, 5000), "not by the one under lease");
    let (_, pause_ms) = agents[0].marked(&coordinator, "");
    assert_eq!(pause_ms, 10_000);
    assert_eq!(coordinator.rollout().taint, "");
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for_long() {
    let (coordinator, mut agents) = running_with_marks();
    agents[0].ends(&coordinator, 1, "");
    coordinator.keeper.look_again();
    assert!(agents[1].grants().is_empty());
    // Each look at the clock is a second.
    for _ in 0..40 {
        coordinator.keeper.look_again();
    }
    assert_eq!(agents[1].grants().len(), 1);
    let last = agents[0].marks().pop().unwrap();
    assert_eq!(last.nodes.len(), 3, "it may answer yet");
}

#[test]
fn what_one_agent_was_told_is_told_to_another_once_it_is_gone_and_to_it_again_when_it_is_back() {
    let (coordinator, mut agents) = running_with_marks();
    agents[0].ends(&coordinator, 1, "");
    agents.remove(0).leaves(&coordinator);
    let wanted = ["cp2", "cp3", "w1"].map(str::to_owned).to_vec();
    assert_eq!(agents[1].marked(&coordinator, ""), (wanted.clone(), 0), "cp2 is due");
    assert_eq!(agents[0].grants().len(), 1);
    // It may have been about to carry out what it was told first.
    let mut back = coordinator.connect("cp1");
    assert_eq!(back.marked(&coordinator, ""), (wanted, 0));
}

#[test]
fn at_the_end_nobody_is_to_be_marked_and_after_a_restart_that_is_said_again() {
    let (coordinator, mut agents) = running_with_marks();
    agents[0].ends(&coordinator, 1, "");
    agents[0].marked(&coordinator, "");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    agents[1].ends(&coordinator, 2, "");
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Aborted);
    assert_eq!(agents[0].marked(&coordinator, "no answer"), (vec![], 0));
    assert!(coordinator.rollout().taint.contains("no answer"), "{}", coordinator.rollout().taint);

    let coordinator = marking(coordinator.restarted());
    assert!(
        coordinator.rollout().taint.contains("may still carry the taint"),
        "{}",
        coordinator.rollout().taint
    );
    let mut back = coordinator.connect("cp2");
    assert_eq!(back.marked(&coordinator, ""), (vec![], 0));
    assert_eq!(coordinator.rollout().taint, "");
}

#[test]
fn where_it_is_not_wished_nobody_is_marked_and_what_was_is_taken_away() {
    let coordinator = Coordinator::new();
    let coordinator = Coordinator { keeper: coordinator.keeper.marking_nodes(false), ..coordinator };
    let mut agents = coordinator.connect_all();
    for agent in &mut agents[..3] {
        assert_eq!(agent.marked(&coordinator, ""), (vec![], 0), "{}", agent.node);
    }
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    assert_eq!(agents[0].grants().len(), 1);
    agents[0].ends(&coordinator, 1, "");
    assert_eq!(agents[1].grants().len(), 1);
    assert!(agents.iter_mut().all(|agent| agent.marks().is_empty()));
}
