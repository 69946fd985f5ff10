//! Hosts that are replaced as a whole: their own command really takes everything away but the store.

use std::fs;
use std::time::Duration;

use camino::Utf8PathBuf;
use liftlock_proto::v1::{NodePhase, Policy, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, Terms, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::node::NodeTree;

use crate::{LIMIT, TO, end_of, is_at, leases_of, node, policy, raised, until};

const CNI: &str = "/etc/cni/net.d/10-flannel.conflist";
const DATA: &str = "/data/orders";

async fn fleet(shape: &Shape) -> Fleet {
    Fleet::start_on(shape, Terms { redeploy: true, ..Terms::default() }).await.unwrap()
}

/// Replaces every host, and consents to what a cluster of one control plane and one worker needs.
fn replacing() -> Policy {
    let mut policy = Policy { redeploy: true, ..policy() };
    policy.accepted.push("drain-only-node".to_owned());
    policy
}

fn tree(fleet: &Fleet, node: &str) -> NodeTree {
    fleet.cluster.machine(node).unwrap().tree.clone()
}

fn put(tree: &NodeTree, path: &str, content: &str) {
    fs::create_dir_all(tree.at(path).parent().unwrap()).unwrap();
    fs::write(tree.at(path), content).unwrap();
}

/// Everything in a node's store.
fn in_store(tree: &NodeTree) -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![tree.at("/mnt/persistent/liftlock")];
    while let Some(folder) = left.pop() {
        for entry in folder.read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            if path.is_dir() {
                left.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

fn has_index(tree: &NodeTree) -> bool {
    in_store(tree).iter().any(|path| path.file_name() == Some("index.json"))
}

/// Looks again and again until a condition holds.
async fn see(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "{what} did not happen within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn every_host_is_replaced_one_after_the_other_and_what_is_protected_is_there_to_the_byte() {
    let mut fleet = fleet(&Shape::new(1, 1)).await;
    fleet.cluster.cordon("w1", true);
    let nodes = ["cp1", "w1"];
    let mut kept = Vec::new();
    for name in nodes {
        let tree = tree(&fleet, name);
        put(&tree, CNI, "{\"name\": \"cbr0\"}");
        put(&tree, DATA, &"one\n".repeat(1 << 20));
        put(&tree, "/etc/motd", "of the old system");
        for path in
            [CNI, DATA, "/etc/machine-id", "/etc/kubernetes/kubelet.conf", "/etc/kubernetes/pki/ca.crt"]
        {
            kept.push((name, path, fs::read(tree.at(path)).unwrap()));
        }
    }
    let consents = ["--accept", "api-outage", "--accept", "drain-only-node"];
    let asked = [&["plan", "v1.31.2", "--redeploy"][..], &consents].concat();
    let shown = fleet.cli(&asked).await.unwrap().success().unwrap().stdout;
    for words in ["redeploy", "$ /usr/local/sbin/replace-system", "cannot be undone"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    fleet.operator().await.unwrap().apply(&TO.to_string(), replacing()).await.unwrap();
    for name in nodes {
        fleet
            .start_new_system(name, LIMIT)
            .await
            .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.last_words()));
    }
    raised(&fleet, TO).await;
    proofs::only_cordoned(&fleet, &["w1"]).unwrap();
    for (name, path, content) in kept {
        assert!(fs::read(tree(&fleet, name).at(path)).unwrap() == content, "{path} on {name}");
    }
    for name in nodes {
        let tree = tree(&fleet, name);
        assert!(
            tree.at("/etc/os-release").exists() && !tree.at("/etc/motd").exists(),
            "{name} is the old system"
        );
        assert_eq!(leases_of(&fleet, name).await.len(), 1, "{name} went on with its lease");
        fleet.cli(&["protect", "verify", name]).await.unwrap().success().unwrap();
        see("the export's removal", || in_store(&tree).is_empty()).await;
    }
}

#[tokio::test]
async fn an_agent_killed_while_it_exports_or_while_the_command_runs_and_an_import_killed_in_the_middle_go_on()
{
    let mut fleet = fleet(&Shape::new(1, 1)).await;
    let (control_plane, worker) = (tree(&fleet, "cp1"), tree(&fleet, "w1"));
    put(&worker, DATA, &"one line of many\n".repeat(4 << 20));
    put(&worker, CNI, "{}");
    let paused = Fault::arm(&control_plane, &Point::ReplaceStarted, &Action::Pause).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), replacing()).await.unwrap();
    paused.reached(LIMIT).await.unwrap();
    assert!(has_index(&control_plane), "the command runs only once the export is whole");
    fleet.kill_agent("cp1").unwrap();
    fleet.start_agent("cp1").await.unwrap();
    until(&fleet, "the agent to come back", |rollout| node(rollout, "cp1").connected).await;
    paused.disarm().unwrap();
    fleet.start_new_system("cp1", LIMIT).await.unwrap();

    until(&fleet, "the worker's turn", |rollout| is_at(rollout, "w1", "redeploy")).await;
    see("the export's beginning", || in_store(&worker).len() > 1).await;
    assert!(!has_index(&worker), "the export had ended already");
    fleet.kill_agent("w1").unwrap();
    fleet.start_agent("w1").await.unwrap();

    fleet.agent("w1").unwrap().ended(LIMIT).await.unwrap();
    see("the new system", || worker.at("/etc/os-release").exists()).await;
    let mut import = fleet.start_import("w1").unwrap();
    see("a part of the large file", || worker.at("/data").exists()).await;
    assert!(import.runs());
    import.kill().unwrap();
    assert!(!worker.agent_state().join("fence").exists(), "the import had ended already");
    fleet.start_new_system("w1", LIMIT).await.unwrap();
    raised(&fleet, TO).await;
    assert_eq!(fs::read_to_string(worker.at(CNI)).unwrap(), "{}");
    assert_eq!(fs::metadata(worker.at(DATA)).unwrap().len(), 17 << 22);
    for name in ["cp1", "w1"] {
        assert_eq!(leases_of(&fleet, name).await.len(), 1, "{name} went on with its lease");
    }
}

#[tokio::test]
async fn a_command_that_fails_or_a_store_that_is_full_halts_with_a_node_that_works_until_somebody_has_spoken()
{
    let mut fleet = fleet(&Shape::new(1, 1)).await;
    let (control_plane, worker) = (tree(&fleet, "cp1"), tree(&fleet, "w1"));
    let kubelet = |fleet: &Fleet, name: &str| fleet.cluster.machine(name).unwrap().systemd.kubelet().running;
    let fails = Action::Fail("no such image".to_owned());
    let fault = Fault::arm(&control_plane, &Point::ReplaceStarted, &fails).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), replacing()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!((rollout.phase(), node(&rollout, "cp1").phase()), (RolloutPhase::Halted, NodePhase::Failed));
    assert!(
        rollout.reason.contains("step redeploy: ") && rollout.reason.contains("no such image"),
        "{}",
        rollout.reason
    );
    assert_eq!(kubelet(&fleet, "cp1").as_deref(), Some("1.30.4-1.1"), "the node works");
    assert!(has_index(&control_plane) && !control_plane.at("/etc/os-release").exists());
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::Prepared, "nobody else begins after a failure");

    fault.disarm().unwrap();
    // Too large to be copied when it is sealed.
    put(&worker, DATA, &"one\n".repeat(5 << 20));
    fleet.cli(&["retry", "cp1"]).await.unwrap().success().unwrap();
    // No file of the worker's agent may grow beyond this: its export breaks off.
    fleet.limit_file_size("w1", 1 << 20).unwrap();
    fleet.start_new_system("cp1", LIMIT).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!((rollout.phase(), node(&rollout, "w1").phase()), (RolloutPhase::Halted, NodePhase::Failed));
    assert!(rollout.reason.contains("step redeploy: "), "{}", rollout.reason);
    assert!(!has_index(&worker), "half an export is none");
    assert_eq!(kubelet(&fleet, "w1").as_deref(), Some("1.30.4-1.1"), "the node works");

    fleet.kill_agent("w1").unwrap();
    fleet.start_agent("w1").await.unwrap();
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    fleet.start_new_system("w1", LIMIT).await.unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "w1").await.len(), 2);
}

#[tokio::test]
async fn on_a_path_every_host_is_replaced_at_every_stop_and_what_is_protected_comes_through_all_of_them() {
    let (from, stop) = (KubernetesVersion::new(1, 29, 9), KubernetesVersion::new(1, 30, 4));
    let mut fleet = fleet(&Shape { version: from, offered: vec![stop, TO], ..Shape::new(1, 1) }).await;
    let nodes = ["cp1", "w1"];
    for name in nodes {
        put(&tree(&fleet, name), CNI, "{\"name\": \"cbr0\"}");
        put(&tree(&fleet, name), DATA, &"one\n".repeat(1 << 20));
    }
    let first = fleet.operator().await.unwrap().apply(&TO.to_string(), replacing()).await.unwrap();
    assert_eq!(first.onward.len(), 1, "one more stop follows");
    for _stop in ["v1.30.4", "v1.31.2"] {
        for name in nodes {
            if let Err(error) = fleet.start_new_system(name, LIMIT).await {
                let status = fleet.cli(&["status"]).await.unwrap();
                panic!("{error:#}\n{}\n{}", status.stdout, fleet.last_words());
            }
            // The next new system is told from this one by it.
            fs::remove_file(tree(&fleet, name).at("/etc/os-release")).unwrap();
        }
    }
    let rollout = end_of(&fleet).await;
    assert_eq!(
        (rollout.phase(), rollout.stop),
        (RolloutPhase::Raised, 2),
        "{}\n{}",
        rollout.reason,
        fleet.last_words()
    );
    proofs::everything_runs(&fleet, TO).unwrap();
    for name in nodes {
        assert_eq!(proofs::backups_of(&fleet, name).unwrap().len(), 2, "one for each stop of {name}");
        let tree = tree(&fleet, name);
        assert_eq!(fs::read_to_string(tree.at(CNI)).unwrap(), "{\"name\": \"cbr0\"}", "{name}");
        assert_eq!(fs::metadata(tree.at(DATA)).unwrap().len(), 4 << 20, "{name}");
        assert_eq!(leases_of(&fleet, name).await.len(), 2, "one lease for each stop of {name}");
        fleet.cli(&["protect", "verify", name]).await.unwrap().success().unwrap();
        see("the exports' removal", || in_store(&tree).is_empty()).await;
    }
}
