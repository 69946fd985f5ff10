//! What must be so before a roll-out starts.

use std::fs;

use liftlock_tests::fleet::proofs;

use crate::{TO, raised, small_fleet};

#[tokio::test]
async fn a_manifest_that_was_edited_by_hand_stops_the_plan_unless_its_loss_is_accepted() {
    let fleet = small_fleet().await;
    let manifest = fleet.cluster.machine("cp1").unwrap().tree.manifest("kube-scheduler");
    let edited = fs::read_to_string(&manifest)
        .unwrap()
        .replace("    - kube-scheduler\n", "    - kube-scheduler\n    - --profiling=false\n");
    fs::write(&manifest, &edited).unwrap();
    let plan = ["plan", "v1.31.2", "--accept", "api-outage"];
    let refused = fleet.cli(&plan).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    for part in ["cp1", "kube-scheduler.yaml", "--profiling=false", "--accept drift"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let apply = ["apply", "v1.31.2", "--yes", "--accept", "api-outage", "--accept", "drift"];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    assert!(!fs::read_to_string(&manifest).unwrap().contains("--profiling=false"));
    let backup = proofs::backups_of(&fleet, "cp1").unwrap().remove(0);
    let kept = backup.join("files/etc/kubernetes/manifests/kube-scheduler.yaml");
    assert_eq!(fs::read_to_string(kept).unwrap(), edited, "what is lost is in the backup");
}

#[tokio::test]
async fn no_roll_out_starts_while_no_coredns_is_ready() {
    let fleet = small_fleet().await;
    let plan = ["plan", "v1.31.2", "--accept", "api-outage"];
    fleet.cluster.set_dns(0);
    let refused = fleet.cli(&plan).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("0 of 2 CoreDNS pods are ready"), "{}", refused.stderr);
    fleet.cluster.set_dns(2);
    fleet.cli(&plan).await.unwrap().success().unwrap();
}
