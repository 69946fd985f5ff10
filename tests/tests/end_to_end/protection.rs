//! Protected paths over a whole raise: what changes in the middle is put back or named.

use std::fs;

use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::fault::{Action, Fault, Point};

use crate::{LIMIT, TO, end_of, leases_of, node, policy, raised, small_fleet};

const CNI: &str = "/etc/cni/net.d/10-flannel.conflist";
const DATA: &str = "/data/orders";

/// A worker in the middle of its lease: its kubelet is being installed.
async fn in_the_middle(fleet: &Fleet) -> Fault {
    let tree = &fleet.cluster.machine("w1").unwrap().tree;
    for (path, content) in [(CNI, "{}".to_owned()), (DATA, "one\n".repeat(5 << 20))] {
        fs::create_dir_all(tree.at(path).parent().unwrap()).unwrap();
        fs::write(tree.at(path), content).unwrap();
    }
    let fault = Fault::arm(tree, &Point::AptUnpacked("kubelet".to_owned()), &Action::Pause).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    if let Err(error) = fault.reached(LIMIT).await {
        panic!("{error:#}\n{}", fleet.last_words());
    }
    fault
}

#[tokio::test]
async fn a_sealed_file_that_changed_during_the_lease_is_put_back() {
    let fleet = small_fleet().await;
    let fault = in_the_middle(&fleet).await;
    let tree = &fleet.cluster.machine("w1").unwrap().tree;
    fs::write(tree.at(CNI), "{\"name\": \"another\"}").unwrap();
    fs::remove_file(tree.at("/etc/machine-id")).unwrap();
    fault.disarm().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(fs::read_to_string(tree.at(CNI)).unwrap(), "{}");
    assert!(tree.at("/etc/machine-id").exists());
}

#[tokio::test]
async fn a_sealed_file_that_cannot_be_put_back_is_named_and_halts_the_roll_out_until_somebody_has_spoken() {
    let fleet = small_fleet().await;
    let fault = in_the_middle(&fleet).await;
    let tree = &fleet.cluster.machine("w1").unwrap().tree;
    fs::write(tree.at(DATA), "none").unwrap();
    fault.disarm().unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!((rollout.phase(), node(&rollout, "w1").phase()), (RolloutPhase::Halted, NodePhase::Failed));
    let failure = &node(&rollout, "w1").failure;
    assert!(failure.contains("verify-protected-paths") && failure.contains(DATA), "{failure}");
    assert_eq!(node(&rollout, "w2").phase(), NodePhase::Prepared, "nobody else begins after a failure");

    let verified = fleet.cli(&["protect", "verify", "w1"]).await.unwrap();
    assert_eq!(verified.code, 4, "{}{}", verified.stdout, verified.stderr);
    assert!(verified.stdout.contains(DATA) && verified.stdout.contains("would halt"), "{}", verified.stdout);

    let rules = tree.at("/etc/liftlock/protect.d");
    fs::create_dir_all(&rules).unwrap();
    fs::write(rules.join("shop.conf"), "# The shop writes there at any time.\nlive /data\n").unwrap();
    fleet.cli(&["retry", "w1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "w1").await.len(), 2);
    fleet.cli(&["protect", "verify", "w1"]).await.unwrap().success().unwrap();
    let shown = fleet.cli(&["protect", "show", "w1"]).await.unwrap().success().unwrap();
    assert!(shown.stdout.contains("/etc/liftlock/protect.d/shop.conf:2"), "{}", shown.stdout);
}
