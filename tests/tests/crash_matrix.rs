//! A sample of the crash matrix; `cargo run -rq -p liftlock-tests --bin crash-matrix` strikes every point.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use clap::Parser as _;
use liftlock_tests::matrix::{self, Options, Report};

async fn strike(arguments: &[&str]) -> Report {
    let options = Options::parse_from([&["crash-matrix"], arguments].concat());
    let report = matrix::run(&options, false).await.unwrap();
    assert!(report.ok, "{}", report.findings.join("\n"));
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_crashes_the_roll_out_ends_raised_or_rolled_back_and_every_invariant_holds() {
    let report = strike(&["--sample", "9", "--seed", "1"]).await;
    assert_eq!((report.points, report.reached, report.converged), (9, 9, 9));
    assert!(report.raised > 0 && report.rolled_back > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_coordinator_killed_at_any_time_leave_a_roll_out_that_ends_as_it_should() {
    let options = Options::parse_from(["crash-matrix", "--seed", "1"]);
    let kills = matrix::random(&options, 4, false).await.unwrap();
    assert!(kills.ok, "{}", kills.findings.join("\n"));
    assert!(kills.agents > 4 && kills.coordinators > 1, "{kills:?}");
    assert_eq!(kills.raised + kills.rolled_back, 4);
}

/// Where two control planes are all of etcd, one without its manifest leaves nobody to ask.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_between_the_renames_of_etcds_manifest_is_mended_before_the_api_is_asked() {
    let point = "control-plane/raise/kubeadm-upgrade-node/kubeadm-between-renames@etcd/reboot";
    assert_eq!(strike(&["--points", point]).await.raised, 1);
}

/// What kills etcdctl says nothing of the snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_of_the_snapshot_that_is_killed_is_rehearsed_again() {
    let point = "first-control-plane/raise/etcd-snapshot/etcdctl-restoring/kill-child";
    assert_eq!(strike(&["--points", point]).await.raised, 1);
}

/// A run that struck nothing would find nothing.
#[tokio::test]
async fn a_point_that_there_is_not_is_an_error() {
    let options = Options::parse_from(["crash-matrix", "--points", "worker/raise/etcd-snapshot"]);
    let error = matrix::run(&options, false).await.unwrap_err().to_string();
    assert!(error.contains("worker/raise/etcd-snapshot"), "{error}");
}
