//! What is looked at and fetched before any lease.

use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;

use super::harness::{Leased, TO, shape};
use crate::host::Space;
use crate::twin::Twin;

const MIB: u64 = 1 << 20;

fn control_plane() -> Leased {
    Leased::new(&Twin::new(shape(3, 1)), "cp1", Role::FirstControlPlane)
}

fn pull(role: Role) -> Step {
    Step::PullImages { version: TO, role }
}

#[test]
fn only_images_that_are_missing_and_that_the_role_needs_are_pulled() {
    let leased = control_plane();
    leased.prepare(&pull(Role::Worker)).unwrap();
    // CoreDNS, pause and etcd are those of the earlier version or not a worker's.
    assert_eq!(leased.changes(), ["pull registry.k8s.io/kube-proxy:v1.31.2"]);
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
    let pulled = leased.changes();
    assert_eq!(pulled.len(), 5, "{pulled:?}");
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
    assert_eq!(leased.changes(), pulled);
}

#[test]
fn every_image_that_cannot_be_pulled_is_named() {
    let leased = control_plane();
    let missing = ["registry.k8s.io/kube-apiserver:v1.31.2", "registry.k8s.io/etcd:3.5.15-0"];
    leased.meddle(|machine| machine.unpullable.extend(missing.map(str::to_owned)));
    let why = leased.prepare(&pull(Role::ControlPlane)).unwrap_err().to_string();
    assert!(missing.iter().all(|image| why.contains(image)), "{why}");
    assert!(
        leased.changes().contains(&"pull registry.k8s.io/kube-scheduler:v1.31.2".to_owned()),
        "the others are"
    );
}

#[test]
fn a_full_disk_is_refused_with_the_numbers() {
    let leased = control_plane();
    let step = Step::MeasureSpace { role: Role::ControlPlane };
    leased.prepare(&step).unwrap();
    leased.meddle(|machine| {
        machine.mounts.insert("/var".into(), Space { free: 300 * MIB, total: 1 << 30, device: 3 });
    });
    let why = leased.prepare(&step).unwrap_err().to_string();
    // 256 for packages, 256 for etcd and 32 for the agent's state.
    assert!(why.contains("544 MiB are needed") && why.contains("300 MiB are free"), "{why}");
    assert!(why.contains("/var/lib/etcd") && why.contains("/var/cache/apt/archives"), "{why}");
}

#[test]
fn a_worker_needs_no_room_for_etcd() {
    let leased = control_plane();
    leased.meddle(|machine| {
        machine.mounts.insert("/var".into(), Space { free: 300 * MIB, total: 1 << 30, device: 3 });
    });
    leased.prepare(&Step::MeasureSpace { role: Role::Worker }).unwrap();
}

#[test]
fn kubeadms_backups_on_another_file_system_than_the_manifests_are_refused() {
    let leased = control_plane();
    leased.meddle(|machine| {
        machine
            .mounts
            .insert("/etc/kubernetes/tmp".into(), Space { free: 1 << 40, total: 1 << 40, device: 9 });
    });
    let why = leased.prepare(&Step::MeasureSpace { role: Role::ControlPlane }).unwrap_err().to_string();
    assert!(why.contains("EXDEV"), "{why}");
    leased.prepare(&Step::MeasureSpace { role: Role::Worker }).unwrap();
}

#[test]
fn packages_are_refreshed_and_fetched_without_a_lease() {
    let leased = control_plane();
    leased.prepare(&Step::RefreshPackages {}).unwrap();
    leased.prepare(&Step::FetchPackages { version: TO }).unwrap();
}

#[test]
fn an_archive_that_finds_no_room_for_its_images_is_refused_before_anything_of_it_is_imported() {
    let leased = control_plane();
    leased.meddle(|machine| {
        machine.offline = Some("/srv/offline".into());
        machine.disk.put("/srv/offline/images-v1.31.2.tar", vec![0; 3 << 20], 0o644);
        let room = |device, free| Space { free, total: 1 << 30, device };
        machine.mounts.insert("/var/lib/containerd".into(), room(4, 11 * MIB));
    });
    let why = leased.prepare(&pull(Role::ControlPlane)).unwrap_err().to_string();
    for said in ["images-v1.31.2.tar", "12 MiB for /var/lib/containerd", "11 MiB are free"] {
        assert!(why.contains(said), "{why}");
    }
    assert!(leased.changes().is_empty(), "{:?}", leased.changes());
    leased.meddle(|machine| {
        machine
            .mounts
            .insert("/var/lib/containerd".into(), Space { free: 12 * MIB, total: 1 << 30, device: 4 });
    });
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
}

#[test]
fn images_that_the_runtimes_disk_has_no_room_for_are_not_pulled_and_with_room_they_are() {
    let leased = control_plane();
    let room = |free| {
        leased.meddle(|machine| {
            machine.mounts.insert("/var/lib/containerd".into(), Space { free, total: 1 << 30, device: 4 });
        });
    };
    // Five images of which earlier ones are there, of 32 MiB each, as they come and three times as large unpacked.
    room(639 * MIB);
    let why = leased.prepare(&pull(Role::ControlPlane)).unwrap_err().to_string();
    for said in ["kube-apiserver:v1.31.2", "640 MiB for /var/lib/containerd", "639 MiB are free"] {
        assert!(why.contains(said), "{why}");
    }
    assert!(leased.changes().is_empty(), "{:?}", leased.changes());
    room(640 * MIB);
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
    assert_eq!(leased.changes().len(), 5);
    // What is there already needs no room.
    room(0);
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
    // Nothing is known of an image that is the first of its name.
    leased.meddle(|machine| machine.images.retain(|image| !image.contains("etcd")));
    room(255 * MIB);
    let why = leased.prepare(&pull(Role::ControlPlane)).unwrap_err().to_string();
    assert!(why.contains("256 MiB for /var/lib/containerd"), "{why}");
}

#[test]
fn a_disk_that_packages_find_no_room_on_is_told_with_its_numbers_before_they_are_fetched_and_after() {
    let leased = control_plane();
    let fetch = Step::FetchPackages { version: TO };
    let room = |free| Space { free, total: 1 << 30, device: 3 };
    leased.meddle(|machine| {
        machine.mounts.insert("/var".into(), room(255 * MIB));
    });
    let before = leased.prepare(&fetch).unwrap_err().to_string();
    for said in ["256 MiB for /var/cache/apt/archives", "255 MiB are free", "nothing was installed"] {
        assert!(before.contains(said), "{before}");
    }
    // Somebody else fills the disk meanwhile.
    leased.meddle(|machine| {
        machine.mounts.insert("/var".into(), room(256 * MIB));
        machine.left_by_download = Some(room(3 * MIB));
    });
    let meanwhile = leased.prepare(&fetch).unwrap_err().to_string();
    assert!(
        meanwhile.contains("256 MiB for /var/cache/apt/archives") && meanwhile.contains("3 MiB are free"),
        "{meanwhile}"
    );
    leased.meddle(|machine| {
        machine.mounts.insert("/var".into(), room(256 * MIB));
    });
    leased.prepare(&fetch).unwrap();
    assert!(leased.changes().is_empty(), "{:?}", leased.changes());
}

#[test]
fn on_a_node_without_a_registry_images_come_out_of_archives_that_lie_there() {
    let leased = control_plane();
    leased.meddle(|machine| machine.offline = Some("/var/lib/liftlock/offline".into()));
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
    let changes = leased.changes();
    assert!(changes.iter().any(|change| change.contains("import the images of v1.31.2")), "{changes:?}");
    assert!(!changes.iter().any(|change| change.starts_with("pull")), "{changes:?}");
    leased.prepare(&pull(Role::ControlPlane)).unwrap();
    assert_eq!(leased.changes(), changes, "what is there is not imported again");

    let lacking = control_plane();
    lacking.meddle(|machine| {
        machine.offline = Some("/var/lib/liftlock/offline".into());
        machine.unpullable.insert("registry.k8s.io/etcd:3.5.15-0".to_owned());
    });
    let why = lacking.prepare(&pull(Role::ControlPlane)).unwrap_err().to_string();
    assert!(why.contains("registry.k8s.io/etcd:3.5.15-0") && why.contains("v1.31.2.tar"), "{why}");
}
