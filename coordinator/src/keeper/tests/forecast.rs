//! Who is asked for what a forecast is made from.

use liftlock_proto::v1::answer::Outcome;

use super::*;
use crate::core::forecast::Workloads;

fn description() -> v1::WorkloadDescription {
    let room = |name: &str| v1::NodeRoom { name: name.to_owned(), schedulable: true, ..Default::default() };
    let owned = v1::PodGroup {
        nodes: vec![1, 1, 7],
        namespace: "shop".to_owned(),
        workload: "Deployment cart".to_owned(),
        ..Default::default()
    };
    let lone = v1::PodGroup {
        nodes: vec![0],
        namespace: "shop".to_owned(),
        pod: "debug".to_owned(),
        ..Default::default()
    };
    v1::WorkloadDescription {
        nodes: vec![room("No_Name"), room("w1")],
        pods: vec![owned, lone],
        ..Default::default()
    }
}

/// What comes of asking, while something happens on the agents' side.
async fn asked(coordinator: &Coordinator, meanwhile: impl Future<Output = ()>) -> Result<Workloads, String> {
    // In this order: the question is put before anybody looks for it.
    tokio::join!(biased; coordinator.keeper.workloads(), meanwhile).0
}

#[tokio::test]
async fn the_next_control_plane_is_asked_where_one_cannot_say_and_what_names_no_node_is_left_out() {
    let coordinator = Coordinator::new();
    let mut agents = coordinator.connect_all();
    let workloads = asked(&coordinator, async {
        let refused = Outcome::Failure("its API server is away".to_owned());
        let id = agents[0].question();
        agents[0].answers(&coordinator, id, refused);
        tokio::task::yield_now().await;
        let reply = v1::Reply { kind: Some(v1::reply::Kind::Workloads(description())) };
        let id = agents[1].question();
        agents[1].answers(&coordinator, id, Outcome::Reply(reply));
    });
    let workloads = workloads.await.unwrap();
    let names: Vec<&str> = workloads.nodes.keys().map(NodeName::as_str).collect();
    assert_eq!(names, ["w1"]);
    let seen: Vec<_> = workloads
        .pods
        .iter()
        .map(|group| (group.workload.as_str(), group.controlled, group.on.len()))
        .collect();
    assert_eq!(seen, [("Deployment shop/cart", true, 2), ("Pod shop/debug", false, 0)]);
}

#[tokio::test]
async fn what_machines_have_is_as_their_agents_said_last_and_missing_where_they_could_not_tell() {
    let coordinator = Coordinator::new();
    let agents = coordinator.connect_all();
    let room = |unread: &str| {
        let room = v1::RoomFacts {
            unread: unread.to_owned(),
            cpus: 4,
            memory_bytes: 1 << 30,
            architecture: "amd64".to_owned(),
        };
        v1::NodeFacts { room: Some(room), ..v1::NodeFacts::default() }
    };
    agents[0].says(&coordinator, Said::Facts(Box::new(room("")))).unwrap();
    let untold = room("what the kernel says in /proc/meminfo is malformed: it is not there");
    agents[1].says(&coordinator, Said::Facts(Box::new(untold))).unwrap();
    let machines = coordinator.keeper.lock().machines();
    let seen: Vec<_> = machines.iter().map(|(name, machine)| (name.as_str(), machine.cpus)).collect();
    assert_eq!(seen, [("cp1", 4)]);
}

#[tokio::test]
async fn where_no_control_plane_can_say_what_runs_the_reason_is_told() {
    let coordinator = Coordinator::new();
    let why = asked(&coordinator, async {}).await.unwrap_err();
    assert_eq!(why, "no control plane's agent is connected");
    let mut cp1 = coordinator.connect("cp1");
    let why = asked(&coordinator, async {
        let id = cp1.question();
        cp1.answers(
            &coordinator,
            id,
            Outcome::Refusal("the agent on cp1 does not know this question".to_owned()),
        );
    });
    assert_eq!(why.await.unwrap_err(), "the agent on cp1 does not know this question");
}
