use super::*;
use crate::core::gates::tests::{cluster_at, sound_node, version};
use crate::core::path::make_path;
use crate::core::planning::{is_sealed, make_plan};

/// What makes a cluster unfit.
type Change = fn(&mut ClusterView);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// Three control planes, two workers, and a machine n1 that has not joined.
fn view() -> ClusterView {
    let mut view = cluster_at(30);
    let mut agent = view.nodes[&name("w1")].agent.clone().unwrap();
    agent.not_joined = true;
    agent.findings = sound_node("n1", false);
    view.nodes.insert(name("n1"), NodeView { agent: Some(agent), object: None });
    view
}

/// One whose machine is off, as the others see it.
fn dead(view: &mut ClusterView, node: &str) {
    let gone = view.nodes.get_mut(&name(node)).unwrap();
    gone.agent.as_mut().unwrap().connected = false;
    gone.object.as_mut().unwrap().ready = false;
    let cluster = view.cluster.as_mut().unwrap();
    if node.starts_with("cp") {
        cluster.etcd_healthy_members -= 1;
        let members = &mut cluster.findings.etcd.as_mut().unwrap().members;
        members.iter_mut().find(|member| member.name == node).unwrap().version.clear();
    }
}

fn policy(old: &str, accepted: &[&str]) -> Policy {
    Policy {
        replacement: Some(Replacement { old: name(old), with: name("n1") }),
        accepted: accepted.iter().map(|&one| one.to_owned()).collect(),
        ..Policy::default()
    }
}

fn planned(view: &ClusterView, policy: &Policy) -> Result<Plan, Vec<Refusal>> {
    plan(view, version(30), policy.replacement.as_ref().unwrap(), policy)
}

fn rules(view: &ClusterView, policy: &Policy) -> Vec<&'static str> {
    planned(view, policy).err().unwrap_or_default().iter().map(|refusal| refusal.rule).collect()
}

/// `n1: kubeadm-join`, as far as a step changes who is in the cluster.
fn changes(plan: &Plan) -> Vec<String> {
    let all = plan.nodes.iter().flat_map(|node| node.steps.iter().map(move |step| (node, step)));
    let changes =
        ["kubeadm-join", "drain", "kubeadm-reset", "remove-etcd-member", "delete-node", "etcd-snapshot"];
    all.filter(|(_, step)| changes.contains(&step.name()))
        .map(|(node, step)| format!("{}: {}", node.name, step.name()))
        .collect()
}

#[test]
fn a_new_node_joins_before_the_old_one_leaves_and_a_control_plane_ends_its_membership() {
    let worker = planned(&view(), &policy("w1", &[])).unwrap();
    assert_eq!(changes(&worker), ["n1: kubeadm-join", "w1: drain", "w1: kubeadm-reset", "cp1: delete-node"]);
    let control_plane = planned(&view(), &policy("cp3", &[])).unwrap();
    assert_eq!(
        changes(&control_plane),
        [
            "n1: kubeadm-join",
            "cp3: etcd-snapshot",
            "cp3: drain",
            "cp3: kubeadm-reset",
            "cp1: remove-etcd-member",
            "cp1: delete-node",
        ]
    );
    assert!(is_sealed(&worker) && is_sealed(&control_plane));
    assert_eq!((control_plane.from_version, control_plane.to_version), (version(30), version(30)));
}

#[test]
fn a_dead_member_leaves_before_another_joins() {
    let mut view = view();
    dead(&mut view, "cp1");
    assert_eq!(rules(&view, &policy("cp1", &[])), [NODE_IS_GONE]);
    let plan = planned(&view, &policy("cp1", &[NODE_IS_GONE])).unwrap();
    assert_eq!(
        changes(&plan),
        ["cp2: etcd-snapshot", "cp2: remove-etcd-member", "cp2: delete-node", "n1: kubeadm-join"]
    );
}

#[test]
fn a_dead_worker_is_deleted_once_the_new_one_is_there() {
    let mut view = view();
    dead(&mut view, "w2");
    let plan = planned(&view, &policy("w2", &[NODE_IS_GONE])).unwrap();
    assert_eq!(changes(&plan), ["n1: kubeadm-join", "cp1: delete-node"]);
}

#[test]
fn a_machine_that_was_installed_anew_takes_its_own_place_without_a_word() {
    let mut view = view();
    dead(&mut view, "cp3");
    let agent = view.nodes.get_mut(&name("cp3")).unwrap().agent.as_mut().unwrap();
    (agent.connected, agent.not_joined) = (true, true);
    let mut policy = policy("cp3", &[]);
    policy.replacement.as_mut().unwrap().with = name("cp3");
    let plan = planned(&view, &policy).unwrap();
    assert_eq!(changes(&plan).last().map(String::as_str), Some("cp3: kubeadm-join"));
}

#[test]
fn without_a_machine_that_has_not_joined_nothing_is_replaced_and_one_is_asked_for() {
    let mut gone = view();
    gone.nodes.remove(&name("n1"));
    let mut joined = view();
    joined.nodes.get_mut(&name("n1")).unwrap().agent.as_mut().unwrap().not_joined = false;
    for view in [gone, joined] {
        let refusals = planned(&view, &policy("w1", &[])).unwrap_err();
        assert_eq!(refusals[0].rule, "no-fresh-node");
        assert!(refusals[0].message.contains("one machine is needed"), "{}", refusals[0].message);
    }
}

#[test]
fn a_quorum_is_never_put_at_risk() {
    let mut one_more = view();
    dead(&mut one_more, "cp2");
    assert!(rules(&one_more, &policy("cp3", &[])).contains(&"quorum"), "a fourth beside a dead one");
    dead(&mut one_more, "cp3");
    assert!(rules(&one_more, &policy("cp3", &[NODE_IS_GONE])).contains(&"quorum"), "it is lost already");
    let mut unknown = view();
    unknown.cluster.as_mut().unwrap().findings.etcd = Err("it does not answer".to_owned());
    assert_eq!(rules(&unknown, &policy("cp3", &[])), ["quorum"]);
    assert_eq!(rules(&unknown, &policy("w1", &[])), [] as [&str; 0], "a worker's place says nothing of etcd");
}

#[test]
fn what_stands_in_the_way_of_a_replacement_is_named() {
    let breaks: [(&str, Change); 6] = [
        ("no-such-node", |view| drop(view.nodes.remove(&name("w1")))),
        ("node-not-ready", |view| {
            view.nodes.get_mut(&name("w2")).unwrap().object.as_mut().unwrap().ready = false;
        }),
        ("agent-not-connected", |view| {
            view.nodes.get_mut(&name("w1")).unwrap().agent.as_mut().unwrap().connected = false;
        }),
        ("version-not-offered", |view| {
            view.nodes.get_mut(&name("n1")).unwrap().agent.as_mut().unwrap().offered.clear();
        }),
        ("control-plane-behind", |view| {
            view.nodes.get_mut(&name("cp2")).unwrap().agent.as_mut().unwrap().control_plane_version =
                Some(version(29));
        }),
        ("no-control-plane", |view| view.cluster = None),
    ];
    for (rule, break_it) in breaks {
        let mut view = view();
        break_it(&mut view);
        assert_eq!(rules(&view, &policy("w1", &[])), [rule]);
    }
    assert_eq!(rules(&view(), &policy("w1", &["quorum"])), ["unknown-consent"]);
}

#[test]
fn a_machine_that_has_not_joined_is_raised_by_no_plan_and_stands_in_the_way_of_none() {
    let plan = make_plan(&view(), version(31), &Policy::default());
    let with = plan.unwrap_or_else(|refusals| panic!("{refusals:?}"));
    assert!(with.nodes.iter().all(|node| node.name != name("n1")));
    let without = make_plan(&cluster_at(30), version(31), &Policy::default()).unwrap();
    assert_eq!(with.hash, without.hash);
}

#[test]
fn a_node_of_a_replacement_is_held_while_another_is_not_well() {
    let policy = policy("cp3", &[NODE_IS_GONE]);
    let mut view = view();
    dead(&mut view, "cp3");
    let plan = planned(&view, &policy).unwrap();
    let closed = |view: &ClusterView, at: usize| {
        closed_before(view, &plan, &plan.nodes[at], &Membership::of(&plan).unwrap())
    };
    assert_eq!(closed(&view, 0), None, "the dead one holds up nothing");
    let mut back = view.clone();
    back.nodes.get_mut(&name("cp3")).unwrap().agent.as_mut().unwrap().connected = true;
    assert!(closed(&back, 0).unwrap().contains("has not left"));
    dead(&mut view, "w1");
    assert_eq!(closed(&view, 0).as_deref(), Some("w1 is not Ready"));
}

/// A plan by which n1 takes cp3's place, and the cluster once it has joined.
fn control_plane_replaced() -> (Plan, ClusterView) {
    let plan = planned(&view(), &policy("cp3", &[])).unwrap();
    let mut joined = view();
    let cp1 = joined.nodes[&name("cp1")].clone();
    joined.nodes.insert(name("n1"), cp1);
    (plan, joined)
}

#[test]
fn no_control_plane_joins_while_the_member_that_is_to_leave_is_dead_and_counts_for_the_quorum() {
    let (plan, mut view) = control_plane_replaced();
    let membership = Membership::of(&plan).unwrap();
    assert_eq!(closed_before(&view, &plan, &plan.nodes[0], &membership), None);
    let cluster = view.cluster.as_mut().unwrap();
    cluster.etcd_healthy_members = 2;
    cluster.findings.etcd.as_mut().unwrap().members[2].version.clear();
    let joins = closed_before(&view, &plan, &plan.nodes[0], &membership);
    assert_eq!(joins.as_deref(), Some("etcd's member cp3 is not healthy"));
    assert_eq!(closed_before(&view, &plan, &plan.nodes[1], &membership), None, "it is what leaves");
}

#[test]
fn while_nobody_can_tell_how_etcd_is_or_it_has_raised_an_alarm_no_control_plane_comes_or_goes() {
    let (plan, mut view) = control_plane_replaced();
    let closed = |view: &ClusterView, plan: &Plan| {
        let membership = Membership::of(plan).unwrap();
        let of_node = |node| closed_before(view, plan, node, &membership);
        plan.nodes.iter().map(of_node).map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    let worker = planned(&self::view(), &policy("w1", &[])).unwrap();
    let etcd = &mut view.cluster.as_mut().unwrap().findings.etcd;
    etcd.as_mut().unwrap().alarms = vec!["NOSPACE on cp2".to_owned()];
    assert!(closed(&view, &plan).iter().all(|why| why.contains("alarm (NOSPACE on cp2)")));
    assert_eq!(closed(&view, &worker)[0], "");
    view.cluster.as_mut().unwrap().findings.etcd = Err("no member answers".to_owned());
    assert!(closed(&view, &plan).iter().all(|why| why.contains("(no member answers)")));
    assert_eq!(closed(&view, &worker)[0], "");
}

#[test]
fn no_control_plane_leaves_while_the_api_server_of_one_that_stays_is_not_ready() {
    let (plan, mut view) = control_plane_replaced();
    let membership = Membership::of(&plan).unwrap();
    let server = |view: &mut ClusterView, node: &str, ready: bool| {
        let server =
            &mut view.nodes.get_mut(&name(node)).unwrap().agent.as_mut().unwrap().findings.api_server;
        server.as_mut().unwrap().unready = if ready { String::new() } else { "[-]etcd failed".to_owned() };
    };
    let closed = |view: &ClusterView, at: usize| closed_before(view, &plan, &plan.nodes[at], &membership);
    for stays in ["cp1", "n1"] {
        server(&mut view, stays, false);
        let why = format!("the API server of {stays} is not ready: [-]etcd failed");
        assert_eq!(closed(&view, 1), Some(why));
        assert_eq!(closed(&view, 0), None, "who joins takes none away");
        server(&mut view, stays, true);
    }
    server(&mut view, "cp3", false);
    assert_eq!(closed(&view, 1), None, "it is the one that leaves");
}

#[test]
fn no_worker_is_drained_before_the_new_node_takes_pods() {
    let (mut view, policy) = (view(), policy("w1", &[]));
    let plan = planned(&view, &policy).unwrap();
    let mut object = view.nodes[&name("w2")].object.clone().unwrap();
    object.tainted = true;
    view.nodes.get_mut(&name("n1")).unwrap().object = Some(object);
    let closed =
        |view: &ClusterView| closed_before(view, &plan, &plan.nodes[1], &Membership::of(&plan).unwrap());
    assert!(closed(&view).unwrap().contains("keeps pods away"));
    let new = view.nodes.get_mut(&name("n1")).unwrap().object.as_mut().unwrap();
    new.tainted = false;
    assert_eq!(closed(&view), None);
    let breaks: [(&str, Change); 3] = [
        ("its Node is gone", |view| view.nodes.get_mut(&name("n1")).unwrap().object = None),
        ("is not Ready", |view| {
            view.nodes.get_mut(&name("n1")).unwrap().object.as_mut().unwrap().ready = false;
        }),
        ("`kubectl uncordon n1`", |view| {
            view.nodes.get_mut(&name("n1")).unwrap().object.as_mut().unwrap().unschedulable = true;
        }),
    ];
    for (said, break_it) in breaks {
        let mut view = view.clone();
        break_it(&mut view);
        let why = closed(&view).unwrap_or_default();
        assert!(why.contains(said), "{said}: {why}");
    }
}

#[test]
fn a_replacement_is_a_path_of_one_plan_at_the_version_that_runs() {
    let open = crate::core::catalogue::Catalogue::default();
    let path = make_path(&view(), version(30), &policy("w1", &[]), &open).unwrap();
    assert!(path.onward.is_empty());
    assert!(make_path(&view(), version(31), &policy("w1", &[]), &open).is_err());
}
