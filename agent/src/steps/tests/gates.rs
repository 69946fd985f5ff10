//! What stops a lease, and that it stops before anything is changed.

use std::time::Duration;

use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;

use super::harness::{End, FROM, Leased, TO, one_of_each, shape, steps_of};
use crate::host::{Replicas, Space};
use crate::twin::{Shape, Twin};

fn first_of(control_planes: usize) -> Leased {
    Leased::new(&Twin::new(shape(control_planes, 1)), "cp1", Role::FirstControlPlane)
}

#[test]
fn one_or_two_members_of_etcd_need_consent() {
    for (members, needed) in [(1, true), (2, true), (3, false), (5, false)] {
        let mut leased = first_of(members);
        match leased.carry(&Step::EtcdQuorumGate { allow_api_outage: false }) {
            End::Done => assert!(!needed, "{members}"),
            End::Failed(why) => assert!(needed && why.contains("--accept api-outage"), "{members}: {why}"),
            End::Died => panic!(),
        }
        assert_eq!(leased.carry(&Step::EtcdQuorumGate { allow_api_outage: true }), End::Done, "{members}");
    }
}

#[test]
fn a_member_that_is_just_restarting_is_waited_for() {
    let mut leased = first_of(3);
    leased.twin.world().change("cp2", |machine| machine.containers.remove("etcd"));
    assert_eq!(leased.carry(&leased.step("etcd-quorum-gate")), End::Done);
}

#[test]
fn a_member_that_stays_away_is_given_the_time_of_two_reboots_and_then_named() {
    let mut leased = first_of(3);
    leased.twin.world().change("cp2", |machine| {
        machine.containers.remove("etcd");
        machine.kubelet = None;
    });
    let started = leased.twin.world().now();
    let why = leased.fail("etcd-quorum-gate");
    let took = leased.since(started);
    assert!(why.contains("cp2") && why.contains("retry"), "{why}");
    assert!(took > Duration::from_mins(10) && took < Duration::from_mins(11), "{took:?}");
    assert_eq!(leased.changes(), [""; 0]);
}

#[test]
fn an_alarm_closes_the_gate_at_once() {
    let mut leased = first_of(3);
    leased.twin.world().etcd_alarms.push("NOSPACE on cp2".to_owned());
    let started = leased.twin.world().now();
    assert!(leased.fail("etcd-quorum-gate").contains("NOSPACE on cp2"));
    assert_eq!(leased.twin.world().now(), started);
}

#[test]
fn kubeadm_upgrade_node_does_not_run_before_the_cluster_is_raised() {
    for role in [Role::ControlPlane, Role::Worker] {
        let node = if role == Role::Worker { "w1" } else { "cp2" };
        let mut leased = Leased::new(&Twin::new(shape(3, 2)), node, role);
        leased.carry_until("kubeadm-upgrade-node");
        let changes = leased.changes();
        let why = leased.fail("kubeadm-upgrade-node");
        assert!(why.contains("kubeadm-config says v1.30.4") && why.contains("v1.31.2"), "{why}");
        assert_eq!(leased.changes(), changes);
    }
}

#[test]
fn no_step_changes_a_node_without_a_backup() {
    for (kind, mut leased) in one_of_each() {
        for step in leased.steps.clone() {
            let changes_the_node =
                ["install-kubeadm", "kubeadm-upgrade-apply", "kubeadm-upgrade-node", "install-kubelet"];
            if changes_the_node.contains(&step.name()) {
                assert!(leased.fail(step.name()).contains("no finished backup"), "{kind}: {}", step.name());
            }
        }
        assert_eq!(leased.changes(), [""; 0], "{kind}");
    }
}

#[test]
fn kubeadm_does_not_run_where_its_copy_of_etcd_would_not_fit() {
    let mut leased = first_of(3);
    leased.carry_until("kubeadm-upgrade-apply");
    leased.meddle(|machine| {
        machine.mounts.insert("/etc".into(), Space { free: 10 << 20, total: 1 << 30, device: 2 });
        machine.disk.put(
            "/etc/kubernetes/tmp/kubeadm-backup-etcd-2026-01-01-00-00-00/etcd/db",
            [0; 4096],
            0o600,
        );
    });
    let why = leased.fail("kubeadm-upgrade-apply");
    assert!(
        why.contains("10 MiB are free") && why.contains("kubeadm-backup-etcd-2026-01-01-00-00-00"),
        "{why}"
    );
    assert!(!leased.changes().iter().any(|change| change.contains("kubeadm upgrade")));
}

#[test]
fn the_kubelet_is_not_restarted_before_its_package_is_installed() {
    let (_, mut leased) = one_of_each().remove(2);
    assert!(leased.fail("restart-kubelet").contains("install-kubelet"));
    assert_eq!(leased.changes(), [""; 0]);
}

#[test]
fn a_control_plane_that_still_runs_the_old_api_server_is_not_verified() {
    let mut leased = first_of(3);
    leased.carry_until("verify-control-plane");
    leased.meddle(|machine| {
        machine.stuck.insert("kube-apiserver".to_owned());
        machine.containers.get_mut("kube-apiserver").unwrap().image =
            format!("registry.k8s.io/kube-apiserver:{FROM}");
    });
    let why = leased.fail("verify-control-plane");
    assert!(why.contains("kube-apiserver still runs registry.k8s.io/kube-apiserver:v1.30.4"), "{why}");
}

#[test]
fn an_old_api_server_on_its_way_out_holds_up_the_end_of_the_lease_and_not_the_drain() {
    let mut leased = first_of(3);
    leased.carry_until("verify-control-plane");
    let (started, old) = (leased.twin.world().now(), format!("registry.k8s.io/kube-apiserver:{FROM}"));
    let until = started + Duration::from_secs(30);
    leased.meddle(|machine| machine.lingering.push(("kube-apiserver".to_owned(), old, until)));
    for step in ["verify-control-plane", "drain"] {
        assert_eq!(leased.carry(&leased.step(step)), End::Done, "{step}");
    }
    assert!(leased.since(started) < Duration::from_secs(10));
    leased.carry_all();
    assert!(
        leased.since(started) >= Duration::from_secs(30),
        "the lease ended with an old API server beside the new"
    );
}

#[test]
fn a_kubeadm_that_fails_says_why_in_the_failure() {
    let mut leased = first_of(3);
    leased.carry_until("kubeadm-upgrade-apply");
    leased.meddle(|machine| machine.stuck.insert("kube-scheduler".to_owned()));
    let why = leased.fail("kubeadm-upgrade-apply");
    assert!(why.contains("kubeadm upgrade apply") && why.contains("did not change after 5m0s"), "{why}");
}

#[test]
fn a_kubeadm_that_waits_without_a_word_is_ended_and_the_failure_says_what_it_waited_for() {
    let mut leased = first_of(3);
    leased.carry_until("kubeadm-upgrade-apply");
    leased.twin.world().cluster.dns = Some(Replicas { wanted: 2, ready: 0 });
    let why = leased.fail("kubeadm-upgrade-apply");
    assert!(why.contains("said nothing") && why.contains("CoreDNS (0 of 2 pods are ready)"), "{why}");
    leased.twin.world().cluster.dns = Some(Replicas { wanted: 2, ready: 1 });
    assert_eq!(leased.carry(&leased.step("kubeadm-upgrade-apply")), End::Done);
}

#[test]
fn etcds_data_is_never_taken_back_by_a_minor_version() {
    let (from, to) = (KubernetesVersion::new(1, 33, 1), KubernetesVersion::new(1, 34, 0));
    let twin = Twin::new(Shape { control_planes: 3, workers: 1, version: from, offered: to });
    let mut leased = Leased::new(&twin, "cp1", Role::FirstControlPlane);
    leased.steps = steps_of(Role::FirstControlPlane, to);
    leased.carry_until("verify-control-plane");
    let changes = leased.changes();
    let End::Failed(why) = leased.undo(&leased.step("kubeadm-upgrade-apply")) else { panic!() };
    assert!(why.contains("etcd:3.5.15-0") && why.contains("etcd:3.6.4-0"), "{why}");
    assert_eq!(leased.changes(), changes);
}

#[test]
fn a_package_that_the_node_did_without_is_not_brought_in() {
    let (_, mut leased) = one_of_each().remove(2);
    leased.meddle(|machine| machine.packages.remove("kubectl"));
    leased.carry_all();
    let world = leased.twin.world();
    let packages = &world.machine("w1").unwrap().packages;
    assert!(!packages.contains_key("kubectl"));
    assert_eq!(packages["kubelet"].version, format!("{}-1.1", TO.bare()));
}

#[test]
fn a_package_that_was_not_held_is_not_held_after() {
    let (_, mut leased) = one_of_each().remove(2);
    leased.meddle(|machine| machine.packages.get_mut("kubelet").unwrap().held = false);
    leased.carry_all();
    let world = leased.twin.world();
    let held: Vec<_> =
        world.machine("w1").unwrap().packages.iter().filter(|(_, package)| package.held).collect();
    assert_eq!(held.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["kubeadm", "kubectl"]);
}
