//! Backups, snapshots and what a node needs after a crash.

use camino::Utf8Path;
use liftlock_proto::plan::Role;

use super::harness::{End, FROM, Leased, one_of_each, shape};
use crate::engine::step::Observed;
use crate::twin::{Fault, Meanwhile, SnapshotFault, Twin};

fn first() -> Leased {
    Leased::new(&Twin::new(shape(3, 2)), "cp1", Role::FirstControlPlane)
}

fn position(changes: &[String], part: &str) -> usize {
    changes
        .iter()
        .position(|change| change.contains(part))
        .unwrap_or_else(|| panic!("no {part} in {changes:#?}"))
}

#[test]
fn a_manifest_that_a_power_cut_took_or_emptied_is_put_back_before_kubeadm_runs() {
    let control_planes = [0, 1, 3].map(|index| one_of_each().remove(index).1);
    for mut leased in control_planes {
        let kubeadm =
            leased.steps.iter().find(|step| step.name().starts_with("kubeadm-upgrade")).unwrap().clone();
        leased.carry_until(kubeadm.name());
        for component in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            for content in [None, Some("")] {
                let mut leased = leased.fork();
                let manifest = format!("/etc/kubernetes/manifests/{component}.yaml");
                leased.meddle(|machine| {
                    machine.disk.remove(Utf8Path::new(&manifest));
                    if let Some(content) = content {
                        machine.disk.put(manifest.as_str(), content, 0o600);
                    }
                });
                leased.picture();
                assert_eq!(leased.carry(&kubeadm), End::Done, "{component} {content:?}");
                let changes = leased.changes();
                assert!(
                    position(&changes, &format!("write {manifest}"))
                        < position(&changes, "start `kubeadm upgrade"),
                    "{component} {content:?}: {changes:#?}"
                );
                assert!(leased.log.lines().iter().any(|line| line.contains("put back from")));
                assert_eq!(leased.check(&kubeadm).unwrap(), Observed::Done);
            }
        }
    }
}

#[test]
fn kubeadm_is_not_begun_before_a_control_plane_that_lost_its_power_is_back() {
    let mut leased = first();
    leased.carry_until("kubeadm-upgrade-apply");
    leased.twin.world().strike("cp3", Fault::PowerFails);
    leased.twin.restart("cp3", Meanwhile::Ended);
    assert_eq!(leased.carry(&leased.step("kubeadm-upgrade-apply")), End::Done);
    let waited = |line: &String| line.contains("waiting for control planes; not Ready: cp3");
    assert!(leased.log.lines().iter().any(waited), "{:#?}", leased.log.lines());
    assert!(!leased.log.lines().iter().any(|line| line.contains("ControlPlaneNodesReady")));
}

#[test]
fn a_control_plane_that_does_not_come_back_is_named_and_kubeadm_is_not_begun() {
    let mut leased = first();
    leased.carry_until("kubeadm-upgrade-apply");
    leased.twin.world().cluster.nodes.get_mut("cp3").unwrap().ready = false;
    let why = leased.fail("kubeadm-upgrade-apply");
    assert!(why.contains("every control plane to be Ready") && why.contains("not Ready: cp3"), "{why}");
    assert!(!leased.changes().iter().any(|change| change.contains("kubeadm upgrade apply")));
}

#[test]
fn kubeadms_copy_of_this_plan_is_put_back_and_one_of_an_earlier_upgrade_is_not() {
    let apiserver = Utf8Path::new("/etc/kubernetes/manifests/kube-apiserver.yaml");
    let copy =
        |folder: &str| format!("/etc/kubernetes/tmp/kubeadm-backup-manifests-{folder}/kube-apiserver.yaml");
    let put_back_from = |mut leased: Leased| {
        leased.meddle(|machine| machine.disk.remove(apiserver));
        assert_eq!(leased.carry(&leased.step("kubeadm-upgrade-apply")), End::Done);
        let lines = leased.log.lines();
        lines.into_iter().find(|line| line.contains("put back from")).unwrap()
    };
    let mut leased = first();
    let live = leased.twin.world().machine("cp1").unwrap().disk.read(apiserver).unwrap().to_vec();
    leased.meddle(|machine| machine.disk.put(copy("2030-01-01-00-00-00"), &live, 0o600));
    leased.carry_until("kubeadm-upgrade-apply");
    let ours = put_back_from(leased.fork());
    assert!(ours.contains("/etc/kubernetes/tmp/liftlock-p-0123456789ab-cp1-"), "{ours}");

    leased.meddle(|machine| {
        machine.disk.put(copy("2026-11-21-15-20-00"), &live, 0o600);
        machine.disk.put(copy("2026-11-21-15-30-00"), "", 0o600);
    });
    let kubeadms = put_back_from(leased);
    assert!(kubeadms.contains("kubeadm-backup-manifests-2026-11-21-15-20-00"), "{kubeadms}");
}

#[test]
fn a_missing_manifest_with_no_copy_anywhere_is_refused_by_name() {
    let mut leased = first();
    leased.meddle(|machine| machine.disk.remove("/etc/kubernetes/manifests/kube-scheduler.yaml".into()));
    leased.twin.world().change("cp2", |machine| {
        machine.containers.remove("etcd");
        machine.kubelet = None;
    });
    assert!(leased.fail("etcd-quorum-gate").contains("kube-scheduler"));
}

#[test]
fn a_kubeadm_that_outlives_its_agent_is_joined_and_not_started_again() {
    let mut leased = first();
    leased.carry_until("kubeadm-upgrade-apply");
    let apply = leased.step("kubeadm-upgrade-apply");
    for meanwhile in [Meanwhile::StillRunning, Meanwhile::Ended] {
        for nth in 2..20 {
            let mut struck = leased.fork();
            struck.twin.inject("cp1", nth, Fault::AgentDies);
            assert_eq!(struck.carry(&apply), End::Died);
            struck.restart(meanwhile);
            assert_eq!(struck.carry(&apply), End::Done);
            let starts = struck.changes().iter().filter(|change| change.contains("start `kubeadm")).count();
            assert_eq!(starts, 1, "{meanwhile:?}, fault before change {nth}");
        }
    }
}

#[test]
fn an_apply_that_a_power_cut_ended_runs_again_with_force_and_a_first_one_without() {
    let mut leased = first();
    leased.carry_until("kubeadm-upgrade-apply");
    let apply = leased.step("kubeadm-upgrade-apply");
    let starts = |leased: &Leased| -> Vec<String> {
        leased.changes().into_iter().filter(|change| change.contains("start `kubeadm")).collect()
    };
    let mut undisturbed = leased.fork();
    assert_eq!(undisturbed.carry(&apply), End::Done);
    assert_eq!(starts(&undisturbed), ["start `kubeadm upgrade apply v1.31.2 --yes`"]);

    let moved =
        position(&undisturbed.changes(), "move /etc/kubernetes/manifests/kube-controller-manager.yaml");
    leased.twin.inject("cp1", moved - leased.changes().len() + 2, Fault::PowerFails);
    assert_eq!(leased.carry(&apply), End::Died);
    assert!(leased.twin.struck().unwrap().contains("kube-controller-manager.yaml"));
    leased.restart(Meanwhile::Ended);
    assert_eq!(leased.carry(&apply), End::Done);
    let again = "start `kubeadm upgrade apply v1.31.2 --force --yes`";
    assert_eq!(starts(&leased), ["start `kubeadm upgrade apply v1.31.2 --yes`", again]);
}

#[test]
fn a_snapshot_that_is_not_what_etcd_says_is_refused_and_not_kept() {
    for (fault, said) in [(SnapshotFault::Flipped, "SHA-256"), (SnapshotFault::CutOff, "1024 bytes")] {
        let mut leased = first();
        leased.twin.world().snapshot_fault = Some(fault);
        assert!(leased.fail("etcd-snapshot").contains(said), "{fault:?}");
        let world = leased.twin.world();
        let disk = &world.machine("cp1").unwrap().disk;
        assert!(!disk.files().any(|(path, _)| path.ends_with("etcd-snapshot.db")), "{fault:?}");
    }
}

#[test]
fn a_snapshot_that_does_not_rehearse_stops_the_raise_before_any_change() {
    for (fault, said) in [
        (SnapshotFault::CorruptAtSource, "no bucket \"key\""),
        (SnapshotFault::Behind, "is of revision 41, and etcd was at 42 before"),
    ] {
        let mut leased = first();
        leased.twin.world().snapshot_fault = Some(fault);
        let why = leased.fail("etcd-snapshot");
        assert!(why.contains(said) && why.contains("Nothing on cp1 was changed"), "{fault:?}: {why}");
        let snapshot = leased.step("etcd-snapshot");
        assert_eq!(leased.check(&snapshot).unwrap(), Observed::Partial, "{fault:?}");
        // Once etcd is well, it is taken again.
        leased.twin.world().snapshot_fault = None;
        assert_eq!(leased.carry(&snapshot), End::Done);
        assert_eq!(leased.backups().len(), 1);
        assert!(leased.log.lines().iter().any(|line| line.contains("revision 42, 17 keys")), "{fault:?}");
    }
}

#[test]
fn a_snapshot_that_went_bad_on_the_disk_is_taken_again() {
    let mut leased = first();
    leased.carry_until("back-up-node");
    let path = leased.backups()[0].join("etcd-snapshot.db");
    leased.meddle(|machine| {
        let mut content = machine.disk.read(&path).unwrap().to_vec();
        content[77] ^= 1;
        machine.disk.put(path.clone(), content, 0o600);
    });
    let snapshot = leased.step("etcd-snapshot");
    assert_eq!(leased.check(&snapshot).unwrap(), Observed::Partial);
    assert_eq!(leased.carry(&snapshot), End::Done);
    assert_eq!(leased.backups().len(), 1);
}

#[test]
fn backups_are_for_nobodys_eyes_and_hold_everything() {
    let mut leased = first();
    leased.carry_until("install-kubeadm");
    let folder = leased.backups().remove(0);
    let world = leased.twin.world();
    let disk = &world.machine("cp1").unwrap().disk;
    assert_eq!(disk.folder_mode(&folder), Some(0o700));
    for private in ["etcd-snapshot.db", "index.json", "packages.json", "configmaps/kubeadm-config.yaml"] {
        assert_eq!(disk.file(&folder.join(private)).unwrap().mode, 0o600, "{private}");
    }
    for file in [
        "etc/kubernetes/manifests/etcd.yaml",
        "etc/kubernetes/pki/etcd/server.crt",
        "etc/kubernetes/admin.conf",
        "etc/kubernetes/kubelet.conf",
        "var/lib/kubelet/config.yaml",
        "var/lib/kubelet/kubeadm-flags.env",
    ] {
        assert!(disk.exists(&folder.join("files").join(file)), "{file}");
    }
    assert!(!disk.exists(&folder.join("configmaps/extension-apiserver-authentication.yaml")));
    let index: serde_json::Value =
        serde_json::from_slice(disk.read(&folder.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["index"]["clusterVersion"], FROM.to_string());
    assert_eq!(index["index"]["snapshot"]["size"], 20_512);
}

#[test]
fn a_damaged_backup_stops_the_lease_and_names_the_file() {
    let mut leased = first();
    leased.carry_until("install-kubeadm");
    for file in ["files/etc/kubernetes/manifests/etcd.yaml", "index.json", "packages.json"] {
        let mut leased = leased.fork();
        let path = leased.backups()[0].join(file);
        leased.meddle(|machine| {
            let content = String::from_utf8(machine.disk.read(&path).unwrap().to_vec()).unwrap();
            machine.disk.put(path.clone(), content.replacen('1', "2", 1), 0o600);
        });
        let why = leased.fail("back-up-node");
        assert!(
            why.contains(file) || (file == "index.json" && why.contains("the index of the backup")),
            "{why}"
        );
    }
}

#[test]
fn a_retry_keeps_the_backup_and_a_lease_after_an_undo_takes_another() {
    let mut leased = first();
    leased.carry_until("verify-control-plane");
    let taken = leased.backups();
    leased.captured.clear();
    leased.carry_until("verify-control-plane");
    assert_eq!(leased.backups(), taken);

    let (_, mut leased) = one_of_each().remove(0);
    leased.carry_until("verify-control-plane");
    assert_eq!(leased.unwind_from(4), Ok(()));
    leased.picture();
    leased.captured.clear();
    leased.carry_all();
    assert_eq!(leased.backups().len(), 2);
}

#[test]
fn a_worker_runs_kubeadm_even_where_its_files_are_what_kubeadm_would_write() {
    let (_, mut leased) = one_of_each().remove(2);
    leased.meddle(|machine| {
        machine.disk.put(
            "/var/lib/kubelet/config.yaml",
            "kind: KubeletConfiguration\nproviderID: v1.31\n",
            0o644,
        );
    });
    leased.carry_until("drain");
    assert!(leased.changes().contains(&"start `kubeadm upgrade node`".to_owned()));
}

#[test]
fn a_kubelet_that_somebody_else_restarted_since_is_restarted_once_more() {
    let (_, mut leased) = one_of_each().remove(2);
    leased.carry_until("verify-node");
    let restart = leased.step("restart-kubelet");
    assert_eq!(leased.check(&restart).unwrap(), Observed::Done);
    leased.meddle(|machine| machine.kubelet.as_mut().unwrap().pid += 1);
    assert_eq!(leased.check(&restart).unwrap(), Observed::Absent);
}
