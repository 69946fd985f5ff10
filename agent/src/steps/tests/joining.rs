//! Machines that join a cluster and leave it.

use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;

use super::every_step::{FAULTS, before_each, same, struck_everywhere};
use super::harness::{End, FROM, Leased, drain_step, shape};
use crate::engine::step::Observed;
use crate::twin::Twin;

/// The steps with which a machine joins.
fn joining(role: Role) -> Vec<Step> {
    let (version, ignore_preflight_errors) = (FROM, Vec::new());
    let mut steps = vec![
        Step::BackUpNode { role: Role::Worker },
        Step::InstallKubeadm { version },
        Step::InstallKubelet { version },
        Step::KubeadmJoin { version, role, ignore_preflight_errors },
    ];
    if role.is_control_plane() {
        steps.push(Step::VerifyControlPlane { version });
    }
    steps.push(Step::VerifyNode { version });
    steps
}

/// Those with which a node leaves.
fn leaving(role: Role) -> Vec<Step> {
    let gate = role.is_control_plane().then_some(Step::EtcdQuorumGate { allow_api_outage: false });
    gate.into_iter().chain([drain_step(), Step::KubeadmReset { role }]).collect()
}

/// Those with which a control plane ends its membership.
fn ending(node: &str) -> Vec<Step> {
    let node = || node.parse().unwrap();
    vec![Step::RemoveEtcdMember { node: node() }, Step::DeleteNode { node: node(), also: vec![] }]
}

fn lease(twin: &Twin, node: &'static str, steps: Vec<Step>) -> Leased {
    let mut leased = Leased::new(twin, node, Role::Worker);
    leased.steps = steps;
    leased
}

/// Three control planes, a worker, and a machine that is in no cluster.
fn with_machine() -> Twin {
    let twin = Twin::new(shape(3, 1));
    twin.world().add_machine("n1", FROM);
    twin
}

/// Each part of a replacement, as its lease finds things.
fn one_of_each() -> Vec<(&'static str, Leased)> {
    let mut worker = lease(&with_machine(), "n1", joining(Role::Worker));
    let mut control_plane = lease(&with_machine(), "n1", joining(Role::ControlPlane));
    let parts =
        [("a worker that joins", worker.fork()), ("a control plane that joins", control_plane.fork())];
    worker.carry_all();
    control_plane.carry_all();
    let worker = lease(&worker.twin, "w1", leaving(Role::Worker));
    let control_plane = lease(&control_plane.twin, "cp3", leaving(Role::ControlPlane));
    let mut left = worker.fork();
    left.carry_all();
    let dead = Twin::new(shape(3, 1));
    dead.world().change("cp3", |machine| {
        machine.containers.clear();
        machine.kubelet = None;
    });
    parts
        .into_iter()
        .chain([
            ("a worker that leaves", worker),
            ("a control plane that leaves", control_plane),
            ("a control plane that ends what a worker has left", lease(&left.twin, "cp1", ending("w1"))),
            ("a control plane that ends what a dead one has left", lease(&dead, "cp1", ending("cp3"))),
        ])
        .collect()
}

fn members(leased: &Leased) -> Vec<String> {
    leased.twin.world().cluster.etcd_members.clone()
}

#[test]
fn a_machine_joins_and_another_leaves_and_nothing_of_it_is_left() {
    for role in [Role::Worker, Role::ControlPlane] {
        let (old, count) = if role.is_control_plane() { ("cp3", 3) } else { ("w1", 3) };
        let mut new = lease(&with_machine(), "n1", joining(role));
        new.carry_all();
        let joined = new.twin.world().cluster.nodes["n1"].clone();
        assert!(joined.ready && joined.control_plane == role.is_control_plane(), "{joined:?}");
        assert_eq!(members(&new).len(), count + usize::from(role.is_control_plane()), "a new member first");
        lease(&new.twin, old, leaving(role)).carry_all();
        lease(&new.twin, "cp1", ending(old)).carry_all();
        let world = new.twin.world();
        assert!(
            !world.cluster.nodes.contains_key(old) && !world.cluster.etcd_members.iter().any(|m| m == old)
        );
        assert_eq!(world.cluster.etcd_members.len(), count);
        let machine = world.machine(old).unwrap();
        assert!(machine.kubelet.is_none() && machine.containers.is_empty());
        assert!(!machine.disk.exists("/etc/kubernetes/kubelet.conf".into()));
    }
}

#[test]
fn every_step_of_a_replacement_run_twice_ends_in_the_same_state() {
    for (kind, mut leased) in one_of_each() {
        for step in leased.steps.clone() {
            assert_eq!(leased.carry(&step), End::Done, "{kind}: {}", step.name());
            let once = leased.picture();
            // A second join is refused by kubeadm, so the machine is reset before: that is another test's.
            if leased.captured.contains_key(step.name()) && step.name() != "kubeadm-join" {
                leased.run_again(&step).unwrap();
                same(&leased, &once, &format!("{kind}: {}", step.name()));
                assert_eq!(leased.carry(&step), End::Done, "{kind}: {} after its second run", step.name());
            }
        }
    }
}

#[test]
fn a_fault_before_any_change_of_a_replacement_still_ends_as_without_it() {
    for (kind, leased) in one_of_each() {
        let mut undisturbed = leased.fork();
        undisturbed.carry_all();
        let (ended, in_etcd) = (undisturbed.picture(), members(&undisturbed));
        struck_everywhere(&leased, &FAULTS, |mut struck, index, fault| {
            assert_eq!(struck.carry_from(index), Ok(()), "{kind}: {fault}");
            same(&struck, &ended, &format!("{kind}: {fault}"));
            assert_eq!(members(&struck), in_etcd, "{kind}: {fault}");
        });
    }
}

#[test]
fn no_step_of_a_replacement_changes_anything_once_the_lease_is_lost() {
    for (kind, leased) in one_of_each() {
        for (index, mut lost) in before_each(&leased).into_iter().enumerate() {
            lost.lease.lose("a higher token was seen");
            let (step, changes) = (lost.steps[index].clone(), lost.changes());
            let end = lost.carry(&step);
            assert_eq!(lost.changes(), changes, "{kind}: {}", step.name());
            let refused = matches!(&end, End::Failed(why) if why.contains("is not this agent's any more"));
            assert!(refused || end == End::Done, "{kind}: {}: {end:?}", step.name());
        }
    }
}

#[test]
fn what_a_machine_joins_with_is_in_no_command_no_log_no_capture_and_in_no_file_afterwards() {
    let mut leased = lease(&with_machine(), "n1", joining(Role::ControlPlane));
    leased.carry_until("kubeadm-join");
    assert_eq!(leased.carry(&leased.step("kubeadm-join")), End::Done);
    let secret = crate::twin::secrets(&leased.twin);
    assert_eq!(secret.len(), 2, "a token and a certificate key");
    let world = leased.twin.world();
    let said = format!("{:?} {:?}", leased.log.lines(), leased.captured);
    let files: Vec<String> = world
        .machine("n1")
        .unwrap()
        .disk
        .files()
        .map(|(_, file)| String::from_utf8_lossy(&file.content).into_owned())
        .collect();
    for secret in secret {
        assert!(!said.contains(&secret), "{said}");
        assert!(!files.iter().any(|file| file.contains(&secret)), "a file still has it");
        assert!(!world.changes("n1").any(|change| change.contains(&secret)), "a command had it");
    }
}

#[test]
fn a_machine_that_is_in_a_cluster_does_not_join_another_and_is_not_reset() {
    let twin = with_machine();
    let mut leased = lease(&twin, "w1", joining(Role::Worker));
    leased.carry_until("kubeadm-join");
    let before = leased.picture();
    let why = leased.fail("kubeadm-join");
    assert!(why.contains("is in a cluster already"), "{why}");
    same(&leased, &before, "nothing was touched");
}

#[test]
fn a_second_member_of_one_name_is_never_added_to_etcd() {
    let twin = with_machine();
    twin.world().cluster.etcd_members.push("n1".to_owned());
    let mut leased = lease(&twin, "n1", joining(Role::ControlPlane));
    leased.carry_until("kubeadm-join");
    let why = leased.fail("kubeadm-join");
    assert!(why.contains("etcd has a member n1 already"), "{why}");
    assert_eq!(leased.check(&leased.step("kubeadm-join")).unwrap(), Observed::Absent);
}

#[test]
fn what_has_joined_or_left_is_not_put_back_and_says_so() {
    for (kind, mut leased) in one_of_each() {
        leased.carry_all();
        let after = leased.picture();
        let last = leased.steps.iter().rposition(|step| leased.captured.contains_key(step.name()));
        let irreversible = ["kubeadm-join", "kubeadm-reset", "remove-etcd-member", "delete-node"];
        for step in leased.steps.iter().take(last.unwrap() + 1) {
            if irreversible.contains(&step.name()) && leased.captured.contains_key(step.name()) {
                assert!(matches!(leased.undo(step), End::Failed(_)), "{kind}: {}", step.name());
            }
        }
        same(&leased, &after, kind);
    }
}
