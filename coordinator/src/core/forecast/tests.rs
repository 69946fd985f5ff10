//! Each kind of finding by example, and what holds of every cluster.

use liftlock_proto::name::FencingToken;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{Plan, PlannedNode, Policy, Role};
use liftlock_proto::step::Step;
use liftlock_proto::strategy::Part;
use liftlock_proto::workers::{Canary, PlannedPool};
use proptest::prelude::*;

use super::simulation::{Place, Simulation};
use super::*;
use crate::core::rollout::{Lease, NodeState, Rollout, Timings};

pub(super) const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

pub(super) const ENDLESS: Room = Room {
    cpu_m: u64::MAX,
    memory_bytes: u64::MAX,
    pods: u32::MAX,
    schedulable: true,
    labels: BTreeSet::new(),
    taints: BTreeSet::new(),
    unmoved: Requests { cpu_m: 0, memory_bytes: 0, pods: 0 },
};

pub(super) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(super) fn plan(nodes: &[&str], to_version: KubernetesVersion, policy: &Policy) -> Plan {
    let planned = |name: &&str| PlannedNode {
        name: node(name),
        role: if name.starts_with("cp") { Role::FirstControlPlane } else { Role::Worker },
        prepare: Vec::new(),
        steps: Vec::new(),
        place: None,
        packages: PackageSource::default(),
    };
    Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: String::new(),
        from_version: KubernetesVersion::new(1, 30, 4),
        to_version,
        nodes: nodes.iter().map(planned).collect(),
        policy: policy.clone(),
        pools: Vec::new(),
    }
}

fn path(nodes: &[&str]) -> Path {
    Path { first: plan(nodes, TO, &Policy::default()), onward: Vec::new() }
}

pub(super) fn shop(on: &[&str]) -> PodGroup {
    PodGroup {
        on: on.iter().map(|name| node(name)).collect(),
        workload: "Deployment default/shop".to_owned(),
        controlled: true,
        ready: true,
        ..PodGroup::default()
    }
}

pub(super) fn budget(healthy: u32, needed: u32) -> Budget {
    Budget {
        name: "default/shop".to_owned(),
        rule: format!("minAvailable: {needed}"),
        allowed: healthy.saturating_sub(needed),
        healthy,
        needed,
        unhealthy_may_go: false,
    }
}

/// So many nodes w1, w2, … with endless room.
pub(super) fn workers(count: usize) -> BTreeMap<NodeName, Room> {
    (1..=count).map(|number| (node(&format!("w{number}")), ENDLESS)).collect()
}

fn on_two_workers(budgets: Vec<Budget>, pods: Vec<PodGroup>) -> Workloads {
    Workloads { nodes: workers(2), budgets, pods, ..Workloads::default() }
}

/// The findings of a roll-out over w1 and w2.
fn findings(workloads: &Workloads) -> Vec<(String, u32, What)> {
    let found = forecast(&path(&["w1", "w2"]), workloads).findings;
    found.into_iter().map(|finding| (finding.node.to_string(), finding.pods, finding.what)).collect()
}

#[test]
fn a_budget_that_allows_nothing_blocks_the_drains_of_every_node_with_its_pods_and_is_named_with_its_numbers()
{
    let pods = PodGroup { budgets: vec![0], ..shop(&["w1", "w2"]) };
    let workloads = on_two_workers(vec![budget(2, 2)], vec![pods]);
    let blocked = |node: &str| {
        (node.to_owned(), 1, What::Blocked { on_blocked: OnBlocked::Pause, budgets: vec![budget(2, 2)] })
    };
    assert_eq!(findings(&workloads), [blocked("w1"), blocked("w2")]);
    let said = forecast(&path(&["w2"]), &workloads).findings[0].to_string();
    for part in ["drain of w2", "default/shop", "minAvailable: 2", "0 may go, 2 healthy, 2 needed"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// The same, with a word for w1.
fn with_a_word(mut path: Path, word: OnBlocked) -> Path {
    let drain = Step::Drain {
        timeout_seconds: 600,
        delete_unmanaged_pods: false,
        delete_empty_dir_data: false,
        allow_only_schedulable_node: false,
        on_blocked: word,
    };
    path.first.nodes[0].steps = vec![drain, Step::InstallKubeadm { version: TO }];
    path
}

#[test]
fn what_follows_a_blocked_drain_is_said_by_the_word_for_that_node_and_only_without_one_the_roll_out_halts() {
    let pods = PodGroup { budgets: vec![0], ..shop(&["w1", "w2"]) };
    let workloads = on_two_workers(vec![budget(2, 2)], vec![pods]);
    let met = |word| forecast(&with_a_word(path(&["w1", "w2"]), word), &workloads).findings;
    let halts = |word| met(word).iter().map(|finding| finding.what.halts()).collect::<Vec<_>>();
    assert_eq!(halts(OnBlocked::Pause), [true, true]);
    assert_eq!(halts(OnBlocked::Skip), [false, true], "w2 has no word of its own");
    assert_eq!(
        halts(OnBlocked::Force),
        [false, true],
        "what was deleted on w1 runs on w2 and is protected there"
    );
    assert_eq!(met(OnBlocked::Force)[1].pods, 2);
    for (word, part) in [
        (
            OnBlocked::Pause,
            "0 may go, 2 healthy, 2 needed); 1 pod of Deployment default/shop cannot go: scale it up",
        ),
        (
            OnBlocked::Skip,
            "After its time limit w1 is put back and passed over, and the roll-out asks for it at the end",
        ),
        (OnBlocked::Force, "After its time limit it is deleted whatever the budget says"),
    ] {
        let said = met(word)[0].to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn what_is_deleted_whatever_its_budget_says_has_to_find_room_and_may_be_down_like_all_that_goes() {
    let pods = PodGroup { budgets: vec![0], cpu_m: 500, ..shop(&["w1"]) };
    let mut workloads = on_two_workers(vec![budget(1, 1)], vec![pods]);
    workloads.nodes.insert(node("w2"), Room { cpu_m: 400, ..ENDLESS });
    let found = forecast(&with_a_word(path(&["w1", "w2"]), OnBlocked::Force), &workloads).findings;
    let told: Vec<What> = found.into_iter().map(|finding| finding.what).collect();
    let lack = Lack::Room { cpu_m: 400, memory_bytes: u64::MAX };
    let expected = [
        What::Blocked { on_blocked: OnBlocked::Force, budgets: vec![budget(1, 1)] },
        What::Downtime(Cause::OneReplica),
        What::NoRoom { cpu_m: 500, memory_bytes: 0, lack, comes_back: true },
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_budget_that_allows_one_lets_all_go_one_after_the_other_and_nothing_is_down_meanwhile() {
    let pods = PodGroup { budgets: vec![0], ..shop(&["w1", "w1", "w1"]) };
    assert_eq!(findings(&on_two_workers(vec![budget(3, 2)], vec![pods])), []);
}

#[test]
fn where_what_went_finds_no_room_the_budget_lets_no_more_go() {
    let pods = PodGroup { budgets: vec![0], cpu_m: 500, ..shop(&["w1", "w1", "w1"]) };
    let mut workloads = on_two_workers(vec![budget(3, 2)], vec![pods]);
    workloads.nodes.insert(node("w2"), Room { cpu_m: 400, ..ENDLESS });
    let lack = Lack::Room { cpu_m: 400, memory_bytes: u64::MAX };
    let stuck = Budget { allowed: 0, healthy: 2, ..budget(3, 2) };
    let expected = [
        ("w1".to_owned(), 1, What::NoRoom { cpu_m: 500, memory_bytes: 0, lack, comes_back: true }),
        ("w1".to_owned(), 2, What::Blocked { on_blocked: OnBlocked::Pause, budgets: vec![stuck] }),
    ];
    assert_eq!(findings(&workloads), expected);
}

/// The same, with w1 and w2 drained at once.
fn side_by_side(mut path: Path, canary: Option<Canary>) -> Path {
    let name = "w".to_owned();
    for planned in path.first.nodes.iter_mut().filter(|planned| planned.role == Role::Worker) {
        planned.place = Some(liftlock_proto::workers::Place { pool: name.clone(), zone: None });
    }
    path.first.pools =
        vec![PlannedPool { name, max_unavailable: Some(2), canary, pause_after: false, on_blocked: None }];
    path
}

#[test]
fn what_is_drained_at_once_finds_room_only_on_the_others() {
    let pods = PodGroup { cpu_m: 500, ..shop(&["w1", "w2", "w3"]) };
    let mut workloads = Workloads { nodes: workers(3), pods: vec![pods], ..Workloads::default() };
    workloads.nodes.insert(node("w3"), Room { cpu_m: 1200, ..ENDLESS });
    let one_by_one = path(&["w1", "w2"]);
    assert_eq!(forecast(&one_by_one, &workloads).findings, []);
    let found = forecast(&side_by_side(one_by_one, None), &workloads).findings;
    let lack = Lack::Room { cpu_m: 200, memory_bytes: u64::MAX };
    let told: Vec<_> = found.into_iter().map(|finding| (finding.node.to_string(), finding.what)).collect();
    assert_eq!(
        told,
        [("w2".to_owned(), What::NoRoom { cpu_m: 500, memory_bytes: 0, lack, comes_back: true })]
    );
}

#[test]
fn a_pod_with_two_budgets_blocks_for_ever_whatever_they_allow() {
    let pods = PodGroup { budgets: vec![0, 1], ..shop(&["w1", "w2"]) };
    let other = Budget { name: "default/all".to_owned(), ..budget(2, 0) };
    let workloads = on_two_workers(vec![budget(2, 0), other], vec![pods]);
    let found = forecast(&path(&["w1"]), &workloads).findings;
    assert_eq!(found.len(), 1);
    let said = found[0].to_string();
    assert!(said.contains("default/shop and default/all"), "{said}");
}

#[test]
fn a_pod_that_is_not_ready_goes_where_its_budget_is_met_without_it_or_does_not_mind() {
    let unready = PodGroup { ready: false, budgets: vec![0], ..shop(&["w1"]) };
    let met = |budget: Budget| findings(&on_two_workers(vec![budget], vec![unready.clone()]));
    assert_eq!(met(Budget { allowed: 0, healthy: 2, ..budget(0, 2) }), []);
    assert_eq!(met(Budget { unhealthy_may_go: true, ..budget(0, 2) }), []);
    assert!(matches!(met(budget(1, 2)).as_slice(), [(_, 1, What::Blocked { .. })]));
}

#[test]
fn a_workload_of_one_pod_is_down_while_it_moves_and_that_is_told_once() {
    let found = findings(&on_two_workers(Vec::new(), vec![shop(&["w1"])]));
    assert_eq!(found, [("w1".to_owned(), 1, What::Downtime(Cause::OneReplica))]);
}

#[test]
fn a_job_is_interrupted_wherever_its_pods_are_and_whether_they_are_ready_or_not() {
    let job = PodGroup { workload: "Job default/report".to_owned(), ..shop(&["w1", "w2"]) };
    let starting = PodGroup { ready: false, workload: "Job default/backup".to_owned(), ..shop(&["w2"]) };
    let found = findings(&on_two_workers(Vec::new(), vec![job, starting]));
    let interrupted = || What::Downtime(Cause::Interrupted);
    assert_eq!(found, [("w1".to_owned(), 1, interrupted()), ("w2".to_owned(), 1, interrupted())]);
    let pods = PodGroup { workload: "Job default/report".to_owned(), ..shop(&["w1", "w1"]) };
    let said = forecast(&path(&["w1"]), &on_two_workers(Vec::new(), vec![pods])).findings[0].to_string();
    assert!(said.starts_with("2 pods of Job default/report will be interrupted"), "{said}");
}

#[test]
fn a_pod_of_a_stateful_set_whose_volume_lies_on_its_node_waits_for_it_and_the_others_stay_up() {
    let on = |name: &str| PodGroup {
        workload: "StatefulSet default/db".to_owned(),
        only_on: Some([node(name)].into()),
        budgets: vec![0],
        ..shop(&[name])
    };
    let mut workloads = on_two_workers(vec![budget(3, 2)], vec![on("w1"), on("w2"), on("w3")]);
    workloads.nodes = workers(3);
    let found = forecast(&path(&["w1", "w2", "w3"]), &workloads).findings;
    let expected = What::NoRoom { cpu_m: 0, memory_bytes: 0, lack: Lack::Bound, comes_back: true };
    let told: Vec<_> = found.iter().map(|finding| (finding.node.as_str(), &finding.what)).collect();
    assert_eq!(
        told,
        [("w1", &expected), ("w2", &expected), ("w3", &expected)],
        "each is back before the next goes"
    );
    let said = found[0].to_string();
    assert!(
        said.contains("a volume that lies on one node")
            && said.ends_with("until it is back they are pending"),
        "{said}"
    );
}

#[test]
fn a_pod_that_was_evicted_goes_to_a_raised_node_rather_than_to_one_that_waits() {
    let pods = PodGroup { cpu_m: 10, ..shop(&["w2"]) };
    let mut workloads = Workloads { nodes: workers(3), pods: vec![pods], ..Workloads::default() };
    workloads.nodes.insert(node("w1"), Room { memory_bytes: 1 << 30, ..ENDLESS });
    let workers_in_order = plan(&["w1", "w2", "w3"], TO, &Policy::default());
    let mut simulation = Simulation::of(&workloads);
    raised_in_place(&mut simulation, &workers_in_order);
    assert_eq!(
        simulation.pods()[0].place,
        Place::On(&node("w1")),
        "though w3 is emptier, and it stays there"
    );
}

#[test]
fn budgets_are_taken_by_what_their_controllers_counted_whatever_rule_they_were_made_by() {
    let pods = PodGroup { budgets: vec![0], ..shop(&["w1", "w1", "w1", "w1"]) };
    let met = |rule: &str, allowed, needed| {
        let budget = Budget { rule: rule.to_owned(), allowed, ..budget(4, needed) };
        findings(&on_two_workers(vec![budget], vec![pods.clone()]))
    };
    assert_eq!(met("maxUnavailable: 25%", 1, 3), []);
    assert_eq!(met("minAvailable: 50%", 2, 2), []);
    for (rule, needed) in [("maxUnavailable: 0", 4), ("minAvailable: 100%", 4)] {
        let found = met(rule, 0, needed);
        assert!(matches!(found.as_slice(), [(_, 4, What::Blocked { .. })]), "{rule}: {found:?}");
    }
}

#[test]
fn what_two_budgets_keep_is_told_though_it_is_not_ready_and_both_would_let_that_go() {
    let unready = PodGroup { ready: false, budgets: vec![0, 1], ..shop(&["w1"]) };
    let lenient = || Budget { unhealthy_may_go: true, ..budget(2, 1) };
    let found = findings(&on_two_workers(vec![lenient(), lenient()], vec![unready]));
    assert!(matches!(found.as_slice(), [(_, 1, What::Blocked { .. })]), "{found:?}");
}

#[test]
fn a_workload_whose_pods_may_not_share_a_node_waits_where_every_node_has_one() {
    let apart = PodGroup { apart: true, ..shop(&["w1", "w2", "w3"]) };
    let workloads = Workloads { nodes: workers(3), pods: vec![apart], ..Workloads::default() };
    let found = forecast(&path(&["w1", "w2", "w3"]), &workloads).findings;
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|one| matches!(one.what, What::NoRoom { lack: Lack::Apart, .. })), "{found:?}");
    let bound = PodGroup { bound_otherwise: true, ..shop(&["w1", "w2"]) };
    let unknown = forecast(&path(&["w1"]), &on_two_workers(Vec::new(), vec![bound]));
    assert_eq!(unknown.bound_otherwise, 2, "it is said of how many nobody knows");
}

#[test]
fn a_workload_whose_pods_are_all_on_one_node_is_down_unless_a_budget_spaces_them_out() {
    let together = || shop(&["w1", "w1"]);
    let found = findings(&on_two_workers(Vec::new(), vec![together()]));
    assert_eq!(found[0], ("w1".to_owned(), 2, What::Downtime(Cause::AllOnOneNode)));
    let spaced = PodGroup { budgets: vec![0], ..together() };
    assert_eq!(findings(&on_two_workers(vec![budget(2, 1)], vec![spaced])), []);
    assert_eq!(
        findings(&Workloads { nodes: workers(3), pods: vec![shop(&["w1", "w3"])], ..Workloads::default() }),
        []
    );
}

#[test]
fn what_the_policy_does_not_allow_is_refused_by_the_drain_and_with_its_word_an_unmanaged_pod_ends() {
    let lone = PodGroup { workload: "Pod default/debug".to_owned(), controlled: false, ..shop(&["w2"]) };
    let scratch = PodGroup { empty_dir: true, ..shop(&["w1", "w2"]) };
    let workloads = on_two_workers(Vec::new(), vec![lone, scratch]);
    let expected = [
        ("w1".to_owned(), 1, What::Refused(Forbidden::EmptyDir)),
        ("w2".to_owned(), 1, What::Refused(Forbidden::Unmanaged)),
        ("w2".to_owned(), 1, What::Refused(Forbidden::EmptyDir)),
    ];
    assert_eq!(findings(&workloads), expected);
    let policy = Policy { delete_unmanaged_pods: true, delete_empty_dir_data: true, ..Policy::default() };
    let path = Path { first: plan(&["w1", "w2"], TO, &policy), onward: Vec::new() };
    let found = forecast(&path, &workloads).findings;
    let ends: Vec<_> = found.iter().filter(|one| one.what == What::Downtime(Cause::NoController)).collect();
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].workload, "Pod default/debug");
    assert!(!found.iter().any(|finding| finding.what.halts()), "{found:?}");
}

#[test]
fn pods_that_fit_nowhere_else_are_told_with_what_is_missing() {
    let lack = |room: Room, pods: PodGroup| {
        let mut workloads = on_two_workers(Vec::new(), vec![pods]);
        workloads.nodes.insert(node("w2"), room);
        let found = forecast(&path(&["w1"]), &workloads).findings;
        found.into_iter().find_map(|finding| match finding.what {
            What::NoRoom { lack, .. } => Some(lack),
            _ => None,
        })
    };
    let asking = || PodGroup { cpu_m: 500, memory_bytes: 1 << 30, ..shop(&["w1"]) };
    assert_eq!(lack(ENDLESS, asking()), None);
    assert_eq!(lack(Room { schedulable: false, ..ENDLESS }, asking()), Some(Lack::Node));
    assert_eq!(lack(Room { taints: [1].into(), ..ENDLESS }, asking()), Some(Lack::Node));
    assert_eq!(
        lack(Room { taints: [1].into(), ..ENDLESS }, PodGroup { tolerates: [1].into(), ..asking() }),
        None
    );
    let ssd = || PodGroup { node_labels: vec!["disk=ssd".to_owned()], ..asking() };
    assert_eq!(lack(ENDLESS, ssd()), Some(Lack::Node));
    assert_eq!(lack(Room { labels: ["disk=ssd".to_owned()].into(), ..ENDLESS }, ssd()), None);
    let full = Room { memory_bytes: 1 << 20, ..ENDLESS };
    assert_eq!(lack(full, asking()), Some(Lack::Room { cpu_m: u64::MAX, memory_bytes: 1 << 20 }));
    assert!(matches!(lack(Room { pods: 0, ..ENDLESS }, asking()), Some(Lack::Room { .. })));
    let apart = PodGroup { apart: true, ..shop(&["w1", "w2"]) };
    assert_eq!(lack(ENDLESS, apart), Some(Lack::Apart));
}

#[test]
fn a_pod_that_waits_for_room_comes_back_with_its_node_and_is_there_for_the_next_drain() {
    let mut workloads = on_two_workers(Vec::new(), vec![PodGroup { cpu_m: 2, ..shop(&["w1", "w2"]) }]);
    for room in workloads.nodes.values_mut() {
        room.cpu_m = 3;
    }
    let found = findings(&workloads);
    let nodes: Vec<&str> = found.iter().map(|(node, _, _)| node.as_str()).collect();
    assert_eq!(nodes, ["w1", "w2"]);
    assert!(
        found.iter().all(|(_, pods, what)| *pods == 1 && matches!(what, What::NoRoom { .. })),
        "{found:?}"
    );
}

#[test]
fn what_was_told_at_a_stop_is_not_told_again_at_the_next() {
    let pods = PodGroup { budgets: vec![0], ..shop(&["w1", "w2"]) };
    let workloads = on_two_workers(vec![budget(2, 2)], vec![pods]);
    let onward = plan(&["w1", "w2"], KubernetesVersion::new(1, 32, 1), &Policy::default());
    let path = Path { onward: vec![onward], ..path(&["w1"]) };
    let found = forecast(&path, &workloads).findings;
    let at: Vec<_> = found.iter().map(|one| (one.node.as_str(), one.to_version.minor)).collect();
    assert_eq!(at, [("w1", 31), ("w2", 32)]);
}

#[test]
fn a_node_that_was_cordoned_before_takes_no_pods_after_its_drain_either() {
    let mut workloads = on_two_workers(Vec::new(), vec![shop(&["w2"])]);
    workloads.nodes.insert(node("w1"), Room { schedulable: false, ..ENDLESS });
    let found = findings(&workloads);
    assert!(matches!(
        found.as_slice(),
        [(_, _, What::Downtime(_)), (_, 1, What::NoRoom { lack: Lack::Node, .. })]
    ));
}

#[test]
fn a_path_takes_as_long_as_the_median_of_earlier_leases_of_each_role_and_unknown_where_one_is_missing() {
    let raised = |name: &'static str, lease_ms: &'static [u64]| {
        lease_ms.iter().map(move |ms| {
            let mut rollout = Rollout::start(plan(&[name], TO, &Policy::default()), "alice".to_owned(), 0);
            let lease = Lease { token: FencingToken(1), granted_at_ms: 1000 };
            let timings = Timings::default();
            rollout.nodes = vec![NodeState::Raised { lease, ended_at_ms: 1000 + ms, timings }];
            rollout
        })
    };
    let workers: Vec<Rollout> = raised("w1", &[9000, 60_000, 70_000]).collect();
    let unknown = durations(&path(&["cp1", "w1", "w2"]), &workers);
    let worker = RoleDuration { role: Role::Worker, part: Part::Raise, lease_ms: 60_000, leases: 3 };
    assert_eq!(unknown, Durations { roles: vec![worker], total_ms: None });
    let all: Vec<Rollout> = workers.into_iter().chain(raised("cp1", &[100_000])).collect();
    assert_eq!(durations(&path(&["cp1", "w1", "w2"]), &all).total_ms, Some(220_000));
    let canary = Some(Canary { nodes: 1, soak_seconds: 7 });
    let at_once = side_by_side(path(&["cp1", "w1", "w2", "w3"]), None);
    assert_eq!(durations(&at_once, &all).total_ms, Some(220_000), "three workers in two turns");
    let soaks = side_by_side(path(&["cp1", "w1", "w2", "w3"]), canary);
    assert_eq!(durations(&soaks, &all).total_ms, Some(227_000));
    let policy = Policy { redeploy: true, ..Policy::default() };
    let replaced = Path { first: plan(&["w1"], TO, &policy), onward: Vec::new() };
    assert_eq!(durations(&replaced, &all), Durations::default(), "replacing a host takes another time");
}

/// Any pods on the nodes w1, w2, … of which there are so many, asking for something.
pub(super) fn any_pods(nodes: usize, budgets: usize) -> impl Strategy<Value = Vec<PodGroup>> {
    let group = (
        prop::collection::vec(1..=nodes, 0..6),
        0..6_usize,
        any::<[bool; 4]>(),
        (0..2000_u64, 0..2000_u64),
        prop::collection::vec(0..budgets.max(1), 0..=budgets.min(2)),
    );
    let group = group.prop_map(
        |(on, number, [ready, controlled, empty_dir, apart], (cpu_m, memory_bytes), budgets)| PodGroup {
            on: on.into_iter().map(|at| node(&format!("w{at}"))).collect(),
            workload: format!("Deployment default/app-{number}"),
            controlled,
            ready,
            cpu_m,
            memory_bytes,
            empty_dir,
            budgets,
            apart,
            ..PodGroup::default()
        },
    );
    prop::collection::vec(group, 0..12)
}

proptest! {
    #[test]
    fn without_budgets_and_with_endless_room_nothing_blocks_and_everything_fits(
        (nodes, pods) in (2..6_usize).prop_flat_map(|nodes| (Just(nodes), any_pods(nodes, 0)))
    ) {
        let ordinary = |group: PodGroup| PodGroup { controlled: true, empty_dir: false, apart: false, ..group };
        let pods = pods.into_iter().map(ordinary).collect();
        let workloads = Workloads { nodes: workers(nodes), pods, ..Workloads::default() };
        let names: Vec<String> = workloads.nodes.keys().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for finding in forecast(&path(&names), &workloads).findings {
            prop_assert!(matches!(finding.what, What::Downtime(_)), "{finding:?}");
        }
    }

    #[test]
    fn no_pod_is_lost_no_node_is_filled_beyond_its_room_and_no_budget_is_broken(
        (rooms, pods) in prop::collection::vec((0..9000_u64, 0..9000_u64, 0..9_u32, any::<bool>()), 1..6)
            .prop_flat_map(|rooms| { let nodes = rooms.len(); (Just(rooms), any_pods(nodes, 3)) }),
        counts in prop::collection::vec((0..5_u32, 0..5_u32), 3),
        delete in any::<bool>(), at_once in 1..4usize, word in prop::sample::select(OnBlocked::ALL.to_vec()),
    ) {
        let room = |(number, (cpu_m, memory_bytes, pods, schedulable)): (usize, _)| {
            (node(&format!("w{number}")), Room { cpu_m, memory_bytes, pods, schedulable, ..Room::default() })
        };
        let nodes: BTreeMap<NodeName, Room> = (1..).zip(rooms).map(room).collect();
        let budgets: Vec<Budget> = counts.into_iter().map(|(healthy, needed)| budget(healthy, needed)).collect();
        let workloads = Workloads { nodes, budgets, pods, ..Workloads::default() };
        let policy = Policy { delete_unmanaged_pods: delete, delete_empty_dir_data: delete, ..Policy::default() };
        let mut simulation = Simulation::of(&workloads);
        let count = |simulation: &Simulation<'_>| simulation.pods().len();
        let (all, before) = (count(&simulation), simulation.overcommitted());
        let names: Vec<&NodeName> = workloads.nodes.keys().collect();
        for batch in names.chunks(at_once) {
            for (name, unmet) in simulation.drain(batch.iter().map(|name| (*name, word)), &policy) {
                let waits = unmet.iter().any(|(_, _, what)| what.is_always_told()) && word != OnBlocked::Force
                    || unmet.iter().any(|(_, _, what)| matches!(what, What::Refused(_)));
                let left = simulation.pods().iter().filter(|pod| pod.place == Place::On(name)).count();
                prop_assert!(waits || left == 0 || workloads.nodes[name].schedulable, "{name} is not empty");
            }
        }
        prop_assert_eq!(count(&simulation), all);
        prop_assert!(simulation.overcommitted() <= before);
        for (after, before) in simulation.budgets().iter().zip(&workloads.budgets) {
            prop_assert!(
                word == OnBlocked::Force || after.healthy >= before.healthy.min(before.needed),
                "{after:?} was {before:?}"
            );
            prop_assert!(
                after.allowed <= after.healthy.saturating_sub(after.needed),
                "{after:?} lets more go than may"
            );
        }
        let known = |place: Place<'_>| match place {
            Place::On(name) => workloads.nodes.contains_key(name),
            Place::Pending => true,
            Place::Gone => delete,
        };
        prop_assert!(simulation.pods().iter().all(|pod| known(pod.place)));
    }
}
