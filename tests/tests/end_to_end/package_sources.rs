//! Where packages come from.

use std::fmt::Write as _;
use std::fs;

use liftlock_proto::v1::{Policy, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, OFFLINE, Terms, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::packages::{archive_name, sha256};
use liftlock_tests::standin::release::Release;

use crate::{LIMIT, TO, end_of, node, policy, raised, small_fleet, until};

/// Where the clusters come from.
const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);

const SOURCES: &str = "/etc/apt/sources.list.d/kubernetes.list";

/// As pkgs.k8s.io is, on every node of it.
fn split(fleet: &Fleet, minor: u16) {
    for machine in fleet.cluster.machines() {
        let path = machine.tree.at(SOURCES);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, sources(minor)).unwrap();
    }
}

fn sources(minor: u16) -> String {
    format!("# pkgs.k8s.io\ndeb http://packages.example/core:/stable:/v1.{minor}/deb/ /\n")
}

/// Every node's file leads to that minor, and to no other.
fn leads_to(fleet: &Fleet, minor: u16) {
    for machine in fleet.cluster.machines() {
        let found = fs::read_to_string(machine.tree.at(SOURCES)).unwrap();
        assert_eq!(found, sources(minor), "{}", machine.facts.name);
    }
}

#[tokio::test]
async fn repositories_that_are_split_by_minor_are_switched_at_every_stop_of_a_path() {
    let version = KubernetesVersion::new(1, 29, 9);
    let shape = Shape { version, offered: vec![FROM, TO], ..Shape::new(1, 1) };
    let fleet = Fleet::start(&shape).await.unwrap();
    split(&fleet, 29);
    let versions = fleet.cli(&["versions", "-o", "json"]).await.unwrap().success().unwrap().stdout;
    for offered in ["v1.29.9", "v1.30.4", "v1.31.2"] {
        assert!(versions.contains(offered), "{versions}");
    }
    let nodes = fleet.cli(&["nodes", "-o", "json"]).await.unwrap().success().unwrap().stdout;
    assert!(nodes.contains("\"packages\": \"apt, split by minor\""), "{nodes}");
    leads_to(&fleet, 29);
    let policy = Policy { accepted: vec!["api-outage".to_owned(), "drain-only-node".to_owned()], ..policy() };
    let planned = fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
    let steps = &planned.plan.unwrap().nodes[0].steps;
    assert!(steps.iter().any(|step| format!("{step:?}").contains("SwitchRepository")), "{steps:?}");
    until(&fleet, "the path's end", |rollout| rollout.phase() == RolloutPhase::Raised && rollout.stop == 2)
        .await;
    proofs::everything_runs(&fleet, TO).unwrap();
    proofs::holds_are_back(&fleet).unwrap();
    leads_to(&fleet, 31);
}

#[tokio::test]
async fn switched_repositories_are_switched_back_on_rollback() {
    let fleet = small_fleet().await;
    split(&fleet, 30);
    fleet.cluster.add_unmanaged_pod("debug", "w2");
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(node(&rollout, "w2").step, "drain", "{}\n{}", rollout.reason, fleet.last_words());
    leads_to(&fleet, 31);
    fleet.cli(&["rollback", "--cluster"]).await.unwrap().success().unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::RolledBack, "{}\n{}", rollout.reason, fleet.last_words());
    proofs::everything_runs(&fleet, FROM).unwrap();
    proofs::holds_are_back(&fleet).unwrap();
    leads_to(&fleet, 30);
}

#[tokio::test]
async fn a_disk_without_room_for_packages_or_images_halts_before_any_lease_and_with_room_the_roll_out_goes_on()
 {
    let fleet = small_fleet().await;
    let w1 = fleet.cluster.machine("w1").unwrap();
    let words = "Failed to fetch kubelet: Error writing to file - write (28: No space left on device)";
    let full = Fault::arm(
        &w1.tree,
        &Point::PackageDownloading("kubelet".to_owned()),
        &Action::Fail(words.to_owned()),
    )
    .unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let halted = end_of(&fleet).await;
    for said in ["w1", words] {
        assert!(halted.reason.contains(said), "{}", halted.reason);
    }
    assert!(halted.nodes.iter().all(|node| node.fencing_token == 0), "somebody was leased");
    proofs::everything_runs(&fleet, FROM).unwrap();
    proofs::holds_are_back(&fleet).unwrap();

    // There is room for packages now, and none for images: four times what those of before take.
    full.disarm().unwrap();
    w1.runtime.set_image_bytes(1 << 60);
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    let halted = end_of(&fleet).await;
    for said in [
        "w1",
        "too little room to pull",
        "kube-proxy:v1.31.2",
        "8796093022464 MiB are needed",
        "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs",
        "MiB are free",
    ] {
        assert!(halted.reason.contains(said), "{}", halted.reason);
    }
    assert!(halted.nodes.iter().all(|node| node.fencing_token == 0), "somebody was leased");
    w1.runtime.set_image_bytes(1);
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}

/// Puts packages of both versions and the target's images into every node's folder, and takes the repository away.
fn put_offline(fleet: &Fleet) {
    put_offline_as(fleet, archive_name);
}

/// With files of packages that are called so.
pub(crate) fn put_offline_as(fleet: &Fleet, called: fn(&str, &str) -> String) {
    for machine in fleet.cluster.machines() {
        let folder = machine.tree.at(OFFLINE);
        fs::create_dir_all(&folder).unwrap();
        let mut list = String::new();
        let mut put = |name: &str, content: &[u8]| {
            fs::write(folder.join(name), content).unwrap();
            _ = writeln!(list, "{}  {name}", sha256(content));
        };
        for version in [FROM, TO] {
            for package in ["kubeadm", "kubelet", "kubectl"] {
                let version = Release(version).package_version();
                let content =
                    fs::read(machine.facts.repository.join(archive_name(package, &version))).unwrap();
                put(&called(package, &version), &content);
            }
        }
        let release = Release(TO);
        let images: Vec<String> = release.images(release.registry()).into_iter().collect();
        put("images-v1.31.2.tar", images.join("\n").as_bytes());
        fs::write(folder.join("SHA256SUMS"), list).unwrap();
    }
}

#[tokio::test]
async fn without_a_network_nodes_are_raised_from_a_folder_whose_every_file_is_verified() {
    let terms = Terms { offline: true, ..Terms::default() };
    let mut fleet = Fleet::without_agents_on(&Shape::new(1, 1), terms).await.unwrap();
    put_offline(&fleet);
    let repository = fleet.cluster.machine("cp1").unwrap().facts.repository.clone();
    fs::remove_dir_all(&repository).unwrap();
    for machine in fleet.cluster.machines() {
        // No registry has anything.
        machine.runtime.refuse_image(Some(":"));
    }
    let names = fleet.nodes();
    for name in &names {
        fleet.start_agent(name).await.unwrap();
    }
    fleet.operator().await.unwrap().wait_for_facts(&names, LIMIT).await.unwrap();
    let nodes = fleet.cli(&["nodes", "-o", "json"]).await.unwrap().success().unwrap().stdout;
    assert!(nodes.contains("\"packages\": \"apt in /var/lib/offline\""), "{nodes}");

    // One file is not what the list says: nothing is begun, and its name and both sums are told.
    let policy = Policy { accepted: vec!["api-outage".to_owned(), "drain-only-node".to_owned()], ..policy() };
    let kubelet = fleet.cluster.machine("w1").unwrap().tree.at(OFFLINE).join("kubelet_1.31.2-1.1_amd64.deb");
    let good = fs::read(&kubelet).unwrap();
    fs::write(&kubelet, "another").unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy).await.unwrap();
    let halted = end_of(&fleet).await;
    assert_eq!(halted.phase(), RolloutPhase::Halted);
    for said in ["w1", "kubelet_1.31.2-1.1_amd64.deb", &sha256(b"another"), &sha256(&good)] {
        assert!(halted.reason.contains(said), "{said}: {}", halted.reason);
    }
    assert!(halted.nodes.iter().all(|node| node.fencing_token == 0), "nobody is leased");
    fs::write(&kubelet, good).unwrap();
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}
