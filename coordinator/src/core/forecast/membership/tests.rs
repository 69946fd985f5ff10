//! Strategies and replacements by example, and what holds of every cluster.

use std::collections::BTreeMap;

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::{Policy, Role};
use liftlock_proto::step::Step;
use liftlock_proto::workers::Workers;
use proptest::prelude::*;

use super::*;
use crate::core::forecast::simulation::Place;
use crate::core::forecast::tests::{ENDLESS, TO, any_pods, budget, node, plan, shop, workers};
use crate::core::forecast::{
    Cause, Durations, Forbidden, Lack, Machine, PodGroup, Requests, RoleDuration, Room, What, durations,
    forecast,
};
use crate::core::rollout::{Lease, NodeState, Rollout, Timings};
use crate::core::sequence::{empty, end_memberships, join, keep_a_snapshot, leave};

/// What happens to each, in the order of leases; who ends memberships is cp1.
fn with_parts(parts: &[(&str, Role, Vec<Step>)], policy: &Policy) -> Plan {
    let names: Vec<&str> = parts.iter().map(|(name, _, _)| *name).collect();
    let mut plan = plan(&names, TO, policy);
    for (planned, (_, role, steps)) in plan.nodes.iter_mut().zip(parts) {
        (planned.role, planned.steps) = (*role, steps.clone());
    }
    plan
}

fn names(nodes: &[&str]) -> Vec<NodeName> {
    nodes.iter().map(|name| node(name)).collect()
}

fn of(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// These join, and then as many workers leave.
fn turn(joins: &[&str], leaves: &[&str], policy: &Policy) -> Plan {
    let joining = joins.iter().map(|name| (*name, Role::Worker, join(Role::Worker, TO, policy)));
    let leaving = leaves.iter().map(|name| (*name, Role::Worker, leave(Role::Worker, policy)));
    let end = ("cp1", Role::ControlPlane, end_memberships(&names(leaves), Role::Worker, true));
    with_parts(&joining.chain(leaving).chain([end]).collect::<Vec<_>>(), policy)
}

/// All of these join and take the pods of all workers, which then leave.
fn blue_green(joins: &[&str], old: &[&str], policy: &Policy) -> Path {
    let snapshot = ("cp1", Role::ControlPlane, keep_a_snapshot());
    let joining = joins.iter().map(|name| (*name, Role::Worker, join(Role::Worker, TO, policy)));
    let emptied = old.iter().map(|name| (*name, Role::Worker, empty(policy)));
    let first = with_parts(&[snapshot].into_iter().chain(joining).chain(emptied).collect::<Vec<_>>(), policy);
    Path { first, onward: vec![turn(&[], old, policy)] }
}

fn surge(turns: &[(&[&str], &[&str])]) -> Path {
    let mut plans = turns.iter().map(|(joins, leaves)| turn(joins, leaves, &Policy::default()));
    Path { first: plans.next().unwrap(), onward: plans.collect() }
}

const GIB: u64 = 1 << 30;

fn machine(cpus: u64) -> Machine {
    Machine { cpus, memory_bytes: 8 * GIB, architecture: "amd64".to_owned() }
}

/// Workers w1, w2, … with endless room, pods on them, and machines with so many CPUs.
fn cluster(count: usize, machines: &[(&str, u64)], pods: Vec<PodGroup>) -> Workloads {
    let machines = machines.iter().map(|(name, cpus)| (node(name), machine(*cpus))).collect();
    Workloads { nodes: workers(count), pods, machines, ..Workloads::default() }
}

fn met(path: &Path, workloads: &Workloads) -> Vec<(String, u32, What)> {
    let found = forecast(path, workloads).findings;
    found.into_iter().map(|finding| (finding.node.to_string(), finding.pods, finding.what)).collect()
}

/// Where every pod is in the end.
fn places(path: &Path, workloads: &Workloads) -> Vec<String> {
    let mut simulation = Simulation::of(workloads);
    for (number, plan) in path.plans().enumerate() {
        replaced(&mut simulation, path, number, plan, workloads);
    }
    let place = |place| match place {
        Place::On(name) => name.to_string(),
        other => format!("{other:?}"),
    };
    simulation.pods().iter().map(|pod| place(pod.place)).collect()
}

fn no_room(cpu_m: u64, lack: Lack) -> What {
    What::NoRoom { cpu_m, memory_bytes: 0, lack, comes_back: false }
}

#[test]
fn what_leaves_finds_room_on_what_has_joined_and_is_moved_once() {
    let pods = PodGroup { cpu_m: 500, ..shop(&["w1", "w2", "w3"]) };
    let path = surge(&[(&["n1"], &["w1"]), (&["n2"], &["w2"]), (&["w1"], &["w3"])]);
    let workloads = cluster(3, &[("n1", 4), ("n2", 4), ("w1", 4)], vec![pods]);
    assert_eq!(met(&path, &workloads), []);
    assert_eq!(
        places(&path, &workloads),
        ["n1", "n2", "w1"],
        "none went to a worker that was still to leave"
    );
}

#[test]
fn a_machine_brings_what_the_kubelets_defaults_and_the_pods_of_daemon_sets_leave() {
    let agents = Requests { cpu_m: 250, memory_bytes: GIB, pods: 3 };
    let more = Requests { cpu_m: 100, memory_bytes: 2 * GIB, pods: 2 };
    let goers = [Room { unmoved: agents, ..ENDLESS }, Room { unmoved: more, ..ENDLESS }];
    let room = machine(4).room(&node("n1"), Role::Worker, TO, goers.iter());
    assert_eq!((room.cpu_m, room.memory_bytes, room.pods), (3750, 6 * GIB - (100 << 20), 107));
    assert!(
        room.labels.contains("kubernetes.io/arch=amd64") && room.labels.contains("kubernetes.io/hostname=n1")
    );
    assert!(room.taints.is_empty() && room.schedulable);
    let tiny = Machine { memory_bytes: 1, ..machine(0) }.room(&node("n1"), Role::Worker, TO, goers.iter());
    assert_eq!((tiny.cpu_m, tiny.memory_bytes), (0, 0));
    let tainted = [Room { taints: [7].into(), ..ENDLESS }];
    let control_plane = machine(4).room(&node("n1"), Role::ControlPlane, TO, tainted.iter());
    assert_eq!(control_plane.taints, [7].into());
    let closed = machine(4).room(&node("n1"), Role::ControlPlane, TO, [ENDLESS].iter());
    assert!(!closed.taints.is_empty(), "kubeadm taints it though the old one had its taint taken away");
}

#[test]
fn what_a_smaller_machine_cannot_take_is_told_and_that_its_node_does_not_come_back() {
    let pods = PodGroup { cpu_m: 1500, ..shop(&["w1", "w1", "w1"]) };
    let workloads = cluster(1, &[("n1", 4)], vec![pods]);
    let path = surge(&[(&["n1"], &["w1"])]);
    let lack = Lack::Room { cpu_m: 1000, memory_bytes: 8 * GIB - (100 << 20) };
    let down = What::Downtime(Cause::AllOnOneNode);
    assert_eq!(
        met(&path, &workloads),
        [("w1".to_owned(), 3, down), ("w1".to_owned(), 1, no_room(1500, lack))]
    );
    let said = forecast(&path, &workloads).findings[1].to_string();
    assert!(said.contains("once w1 is drained") && said.contains("does not come back"), "{said}");
}

#[test]
fn labels_that_nobody_gives_a_new_node_keep_pods_from_it() {
    let asking = |label: &str| PodGroup { node_labels: vec![label.to_owned()], ..shop(&["w1", "w2"]) };
    let path = surge(&[(&["n1"], &["w1"]), (&["w1"], &["w2"])]);
    let met_by = |label: &str| {
        let mut workloads = cluster(2, &[("n1", 4), ("w1", 4)], vec![asking(label)]);
        for room in workloads.nodes.values_mut() {
            room.labels.insert(label.to_owned());
        }
        met(&path, &workloads)
    };
    assert_eq!(met_by("kubernetes.io/os=linux"), []);
    let lacking = [("w2".to_owned(), 2, no_room(0, Lack::Node))];
    assert_eq!(met_by("disk=ssd")[1..], lacking, "w1 lost its label with its Node");
}

#[test]
fn pods_that_are_bound_to_a_node_that_leaves_are_pending_until_a_machine_of_that_name_joins() {
    let bound = PodGroup { only_on: Some([node("w1")].into()), ..shop(&["w1"]) };
    let other = PodGroup { workload: "Deployment default/cart".to_owned(), ..shop(&["w2", "w2"]) };
    let workloads = cluster(2, &[("n1", 4), ("w1", 4)], vec![bound, other]);
    let path = surge(&[(&["n1"], &["w1"]), (&["w1"], &["w2"])]);
    let met = met(&path, &workloads);
    assert_eq!(met[1], ("w1".to_owned(), 1, no_room(0, Lack::Bound)));
    assert_eq!(places(&path, &workloads)[0], "w1");
    assert_eq!(places(&surge(&[(&["n1"], &["w1"])]), &workloads)[0], "Pending");
    let said = forecast(&path, &workloads).findings[1].to_string();
    assert!(said.contains("a volume that lies on one node, or a rule, binds them"), "{said}");
}

#[test]
fn a_drain_that_a_budget_blocks_is_told_and_what_it_keeps_has_to_find_room_in_the_end() {
    let pods = PodGroup { budgets: vec![0], cpu_m: 1500, ..shop(&["w1", "w2"]) };
    let mut workloads = cluster(2, &[("n1", 1), ("n2", 4)], vec![pods]);
    workloads.budgets = vec![budget(2, 2)];
    for room in workloads.nodes.values_mut() {
        room.cpu_m = 0;
    }
    let path = surge(&[(&["n1"], &["w1"]), (&["n2"], &["w2"])]);
    let blocked = |healthy| What::Blocked {
        on_blocked: OnBlocked::Pause,
        budgets: vec![crate::core::forecast::Budget { healthy, ..budget(2, 2) }],
    };
    let met = met(&path, &workloads);
    assert_eq!(met[0], ("w1".to_owned(), 1, blocked(2)));
    assert!(matches!(met[1], (_, 1, What::NoRoom { lack: Lack::Room { cpu_m: 1000, .. }, .. })), "{met:?}");
    assert_eq!(met[2], ("w2".to_owned(), 1, blocked(2)), "what waited found room on n2");
    assert_eq!(places(&path, &workloads), ["n2", "n2"]);
}

#[test]
fn until_its_turn_an_old_node_takes_what_finds_room_nowhere_else_and_then_has_to_give_it_back() {
    let pods = PodGroup { cpu_m: 1500, ..shop(&["w1", "w2"]) };
    let workloads = cluster(2, &[("n1", 2)], vec![pods]);
    let path = blue_green(&["n1"], &["w1", "w2"], &Policy::default());
    let lack = Lack::Room { cpu_m: 500, memory_bytes: 8 * GIB - (100 << 20) };
    assert_eq!(met(&path, &workloads), [("w2".to_owned(), 1, no_room(1500, lack))]);
    assert_eq!(places(&path, &workloads), ["n1", "Pending"]);
}

#[test]
fn what_the_policy_does_not_allow_is_refused_at_a_node_that_leaves_too() {
    let lone = PodGroup { workload: "Pod default/debug".to_owned(), controlled: false, ..shop(&["w1"]) };
    let workloads = cluster(1, &[("n1", 4)], vec![lone]);
    let path = surge(&[(&["n1"], &["w1"])]);
    assert_eq!(met(&path, &workloads), [("w1".to_owned(), 1, What::Refused(Forbidden::Unmanaged))]);
    assert_eq!(places(&path, &workloads), ["Gone"]);
}

#[test]
fn of_a_node_that_nobody_hears_only_what_its_pods_need_elsewhere_is_told() {
    let pods = PodGroup { budgets: vec![0], cpu_m: 1500, ..shop(&["w1", "w1"]) };
    let mut workloads = cluster(1, &[("n1", 2)], vec![pods]);
    workloads.budgets = vec![budget(2, 2)];
    let policy = Policy::default();
    let joins = ("n1", Role::Worker, join(Role::Worker, TO, &policy));
    let ends = ("cp1", Role::ControlPlane, end_memberships(&names(&["w1"]), Role::Worker, false));
    let path = Path { first: with_parts(&[joins, ends], &policy), onward: Vec::new() };
    let lack = Lack::Room { cpu_m: 500, memory_bytes: 8 * GIB - (100 << 20) };
    assert_eq!(met(&path, &workloads), [("w1".to_owned(), 1, no_room(1500, lack))]);
}

#[test]
fn where_nobody_knows_what_room_a_machine_brings_nothing_is_played_and_it_is_named() {
    let workloads = cluster(1, &[], vec![shop(&["w1"])]);
    let found = forecast(&surge(&[(&["n1"], &["w1"])]), &workloads);
    assert_eq!((found.findings, found.unmeasured), (Vec::new(), vec![node("n1")]));
}

#[test]
fn joins_and_drains_take_as_long_as_such_leases_did_and_new_nodes_are_looked_at() {
    let ended = |plan: &Plan, lease_ms: &[u64]| {
        let mut rollout = Rollout::start(plan.clone(), "alice".to_owned(), 0);
        let lease = Lease { token: FencingToken(1), granted_at_ms: 0 };
        let timings = Timings::default();
        let raised = |ended_at_ms: &u64| NodeState::Raised { lease, ended_at_ms: *ended_at_ms, timings };
        rollout.nodes = lease_ms.iter().map(raised).collect();
        rollout
    };
    let policy =
        Policy { workers: Workers { soak_seconds: Some(7), ..Workers::default() }, ..Policy::default() };
    let path = blue_green(&["n1"], &["w1"], &policy);
    let first = ended(&path.first, &[1000, 20_000, 3000]);
    let unknown = durations(&path, [&first]);
    let known: Vec<(Part, u64)> = unknown.roles.iter().map(|one| (one.part, one.lease_ms)).collect();
    assert_eq!(known, [(Part::End, 1000), (Part::Join, 20_000), (Part::Empty, 3000)]);
    assert_eq!(unknown.total_ms, None, "nobody left here yet");
    let second = ended(&path.onward[0], &[4000, 500]);
    let Durations { roles, total_ms } = durations(&path, [&first, &second]);
    assert_eq!(
        total_ms,
        Some(1000 + 20_000 + 3000 + 7000 + 4000 + 1000),
        "the median of two is the longer one"
    );
    assert!(roles.iter().all(|RoleDuration { part, .. }| !part.is_raise()));
}

proptest! {
    #[test]
    fn whoever_comes_and_goes_no_pod_is_lost_no_node_is_filled_beyond_its_room_and_who_has_left_is_empty(
        (rooms, pods) in prop::collection::vec((0..9000_u64, 0..9000_u64, 0..9_u32), 1..6)
            .prop_flat_map(|rooms| { let nodes = rooms.len(); (Just(rooms), any_pods(nodes, 2)) }),
        counts in prop::collection::vec((0..5_u32, 0..5_u32), 2),
        cpus in prop::collection::vec(0..6_u64, 1..4), at_once in 1..4usize,
        bound in prop::collection::vec(any::<bool>(), 12), moves_all_first in any::<bool>(),
    ) {
        let old: Vec<String> = (1..=rooms.len()).map(|number| format!("w{number}")).collect();
        let new: Vec<String> = (1..=cpus.len()).map(|number| format!("n{number}")).collect();
        let room = |(name, (cpu_m, memory_bytes, pods)): (&String, _)| {
            (node(name), Room { cpu_m, memory_bytes, pods, schedulable: true, ..Room::default() })
        };
        let nodes: BTreeMap<NodeName, Room> = old.iter().zip(rooms).map(room).collect();
        let mut workloads = cluster(0, &[], pods);
        workloads.nodes = nodes;
        workloads.budgets = counts.into_iter().map(|(healthy, needed)| budget(healthy, needed)).collect();
        for (group, bound) in workloads.pods.iter_mut().zip(bound) {
            group.only_on = bound.then(|| group.on.iter().cloned().collect());
        }
        workloads.machines = new.iter().zip(cpus).map(|(name, cpus)| (node(name), machine(cpus))).collect();
        for name in &old {
            workloads.machines.insert(node(name), machine(2));
        }
        let mut waiting = new.clone();
        let path = if moves_all_first {
            blue_green(&of(&new), &of(&old), &Policy::default())
        } else {
            let mut plans = Vec::new();
            for leaves in old.chunks(at_once) {
                let joins: Vec<String> = waiting.drain(..leaves.len().min(waiting.len())).collect();
                plans.push(turn(&of(&joins), &of(leaves), &Policy::default()));
                waiting.extend(leaves.iter().cloned());
            }
            Path { first: plans.remove(0), onward: plans }
        };
        let mut simulation = Simulation::of(&workloads);
        let (all, before) = (simulation.pods().len(), simulation.overcommitted());
        let mut told_of = 0;
        for (number, plan) in path.plans().enumerate() {
            for (_, (_, pods, what)) in replaced(&mut simulation, &path, number, plan, &workloads) {
                told_of += if matches!(what, What::NoRoom { .. }) { pods } else { 0 };
            }
            let there = simulation.nodes();
            for pod in simulation.pods() {
                match pod.place {
                    Place::On(name) => prop_assert!(there.contains(&name), "a pod is on {name}, which has left"),
                    Place::Pending => prop_assert!(told_of > 0),
                    Place::Gone => prop_assert!(!pod.group().controlled),
                }
            }
            prop_assert!(simulation.overcommitted() <= before);
        }
        prop_assert_eq!(simulation.pods().len(), all);
        let pending = simulation.pods().iter().filter(|pod| pod.place == Place::Pending).count();
        prop_assert!(pending <= usize::try_from(told_of).unwrap());
        for pod in simulation.pods() {
            if let (Place::On(name), Some(only_on)) = (pod.place, &pod.group().only_on) {
                prop_assert!(only_on.contains(name), "a pod that is bound elsewhere is on {name}");
            }
        }
        let left: BTreeSet<NodeName> = simulation.nodes().into_iter().cloned().collect();
        let stay: BTreeSet<NodeName> = if moves_all_first {
            names(&of(&new)).into_iter().collect()
        } else {
            path.plans().flat_map(|plan| &plan.nodes).filter(|one| one.part() == Part::Join).map(|one| one.name.clone()).collect()
        };
        prop_assert_eq!(left, stay);
    }
}
