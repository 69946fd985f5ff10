//! Nodes whose packages are dnf's.

use std::fs;

use liftlock_proto::v1::RolloutPhase;
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, Terms, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::release::Release;
use liftlock_tests::standin::rpm::{DNF_VERSION, REPO_FILE, RpmDatabase, install_by_dnf, repo_file};

use crate::package_sources::put_offline_as;
use crate::{LIMIT, TO, end_of, node, policy, raised};

const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);

/// One control plane and two workers, whose file leads to v1.30.
async fn fleet_of_dnf() -> Fleet {
    let mut fleet = machines_of_dnf(Terms::default()).await;
    start_agents(&mut fleet, "dnf, split by minor").await;
    fleet
}

async fn machines_of_dnf(terms: Terms) -> Fleet {
    let fleet = Fleet::without_agents_on(&Shape::new(1, 2), terms).await.unwrap();
    for machine in fleet.cluster.machines() {
        install_by_dnf(&machine.tree, FROM.minor).unwrap();
    }
    fleet
}

/// Starts all of them; their packages come from there.
async fn start_agents(fleet: &mut Fleet, packages: &str) {
    let names = fleet.nodes();
    for name in &names {
        fleet.start_agent(name).await.unwrap();
    }
    fleet.operator().await.unwrap().wait_for_facts(&names, LIMIT).await.unwrap();
    let nodes = fleet.cli(&["nodes", "-o", "json"]).await.unwrap().success().unwrap().stdout;
    assert!(nodes.contains(&format!("\"packages\": \"{packages}\"")), "{nodes}");
}

/// Every node has each package once, at that version, and its file leads to that minor and is else as it was.
fn has(fleet: &Fleet, version: KubernetesVersion) {
    for machine in fleet.cluster.machines() {
        let database = RpmDatabase::read(&machine.tree).unwrap();
        for name in ["kubeadm", "kubelet", "kubectl"] {
            assert_eq!(database.of(name), [Release(version).package_version()], "{}", machine.facts.name);
        }
        assert_eq!(fs::read_to_string(machine.tree.at(REPO_FILE)).unwrap(), repo_file(version.minor));
    }
}

#[tokio::test]
async fn nodes_of_dnf_are_raised_also_where_a_transaction_was_cut_off_between_the_new_package_and_the_old() {
    let fleet = fleet_of_dnf().await;
    let versions = fleet.cli(&["versions", "-o", "json"]).await.unwrap().success().unwrap().stdout;
    assert!(versions.contains("v1.31.2"), "a later minor's repository is looked into: {versions}");
    has(&fleet, FROM);
    let tree = &fleet.cluster.machine("w1").unwrap().tree;
    let fault = Fault::arm(tree, &Point::AptUnpacked("kubelet".to_owned()), &Action::Die).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    if let Err(error) = fault.reached(LIMIT).await {
        panic!("{error:#}\n{}", fleet.last_words());
    }
    assert_eq!(RpmDatabase::read(tree).unwrap().of("kubelet").len(), 2, "both are there");
    fault.disarm().unwrap();
    raised(&fleet, TO).await;
    has(&fleet, TO);
}

/// Raises whatever comes before w2, which refuses its drain.
async fn raised_up_to_w2(fleet: &Fleet) {
    fleet.cluster.add_unmanaged_pod("debug", "w2");
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(fleet).await;
    assert_eq!(node(&rollout, "w2").step, "drain", "{}\n{}", rollout.reason, fleet.last_words());
}

async fn put_back(fleet: &Fleet) {
    fleet.cli(&["rollback", "--cluster"]).await.unwrap().success().unwrap();
    let rollout = end_of(fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::RolledBack, "{}\n{}", rollout.reason, fleet.last_words());
    proofs::everything_runs(fleet, FROM).unwrap();
    has(fleet, FROM);
}

#[tokio::test]
async fn nodes_of_dnf_get_their_packages_and_their_repositorys_file_back_on_rollback() {
    let fleet = fleet_of_dnf().await;
    raised_up_to_w2(&fleet).await;
    put_back(&fleet).await;
}

#[tokio::test]
async fn without_a_network_nodes_of_dnf_are_raised_and_put_back_out_of_a_folder() {
    let mut fleet = machines_of_dnf(Terms { offline: true, ..Terms::default() }).await;
    put_offline_as(&fleet, |name, version| format!("{name}-{version}.x86_64.rpm"));
    fs::remove_dir_all(&fleet.cluster.machine("cp1").unwrap().facts.repository).unwrap();
    for machine in fleet.cluster.machines() {
        // No registry has anything.
        machine.runtime.refuse_image(Some(":"));
    }
    start_agents(&mut fleet, "dnf in /var/lib/offline").await;
    raised_up_to_w2(&fleet).await;
    let kubelet = |node: &str| {
        let database = RpmDatabase::read(&fleet.cluster.machine(node).unwrap().tree).unwrap();
        database.of("kubelet").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(kubelet("w1"), [Release(TO).package_version()]);
    put_back(&fleet).await;
}

#[tokio::test]
async fn a_node_whose_dnf_is_version_5_is_refused_in_the_plan_with_what_would_do() {
    let fleet = fleet_of_dnf().await;
    let tree = &fleet.cluster.machine("w1").unwrap().tree;
    let says = tree.at(DNF_VERSION);
    fs::create_dir_all(says.parent().unwrap()).unwrap();
    fs::write(&says, "dnf5 version 5.2.6.2\ndnf5 plugin API version 2.0").unwrap();
    let refused =
        fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap_err().to_string();
    for said in ["w1", "dnf5 version 5.2.6.2", "dnf 4", "`path`"] {
        assert!(refused.contains(said), "{refused}");
    }
    has(&fleet, FROM);
}
