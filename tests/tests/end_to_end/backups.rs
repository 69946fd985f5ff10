//! What nodes keep of themselves: listed, verified, pruned, and the way back out of a snapshot of etcd.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::v1::RolloutPhase;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;
use serde_json::Value;

use crate::{LIMIT, TO, end_of, policy, raised, small_fleet};

/// The only backup of a node.
fn backup_of(fleet: &Fleet, node: &str) -> Utf8PathBuf {
    let backups = proofs::backups_of(fleet, node).unwrap();
    assert_eq!(backups.len(), 1, "{backups:?}");
    backups[0].clone()
}

/// A backup once more, as if it had been taken on that day of January 2020.
fn copy_of(backup: &Utf8Path, day: u32) -> Utf8PathBuf {
    let (name, _) = backup.file_name().unwrap().rsplit_once('-').unwrap();
    let copy = backup.with_file_name(format!("{name}-202001{day:02}T120000Z"));
    copy_tree(backup, &copy);
    copy
}

pub(crate) fn copy_tree(from: &Utf8Path, to: &Utf8Path) {
    fs::create_dir(to).unwrap();
    for entry in from.read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

async fn listed(fleet: &Fleet, node: &str) -> Value {
    let output = fleet.cli(&["backups", "list", node, "-o", "json"]).await.unwrap().success().unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn count(list: &Value, what: &str) -> usize {
    list[what].as_array().unwrap().len()
}

#[tokio::test]
async fn backups_are_listed_verified_and_pruned_and_the_newest_whole_one_stays() {
    let fleet = small_fleet().await;
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    raised(&fleet, TO).await;
    let newest = backup_of(&fleet, "cp1");
    let (old, damaged) = (copy_of(&newest, 1), copy_of(&newest, 2));
    let copy = damaged.join("files/etc/kubernetes/admin.conf");
    let mut bytes = fs::read(&copy).unwrap();
    bytes[0] ^= 1;
    fs::write(&copy, bytes).unwrap();

    let list = listed(&fleet, "cp1").await;
    assert_eq!(
        (count(&list, "backups"), list["backups"][0]["etcd_snapshot"].as_bool()),
        (3, Some(true)),
        "{list}"
    );
    assert!(list["backups"].as_array().unwrap().iter().all(|backup| backup["whole"] == true), "{list}");
    assert!(
        count(&list, "kubeadm_leftovers") > 0 && list["kubeadm_leftovers_bytes"].as_u64() > Some(0),
        "{list}"
    );

    let verified = fleet.cli(&["backups", "verify", "cp1"]).await.unwrap();
    assert_eq!(verified.code, 4, "{}{}", verified.stdout, verified.stderr);
    let finding = "files/etc/kubernetes/admin.conf is damaged";
    assert_eq!(verified.stdout.matches(finding).count(), 1, "{}", verified.stdout);
    let one = ["backups", "verify", "cp1", newest.file_name().unwrap()];
    fleet.cli(&one).await.unwrap().success().unwrap();

    let prune = ["backups", "prune", "cp1", "--keep", "1", "--kubeadm-leftovers"];
    let dry = fleet.cli(&[&prune[..], &["--dry-run"]].concat()).await.unwrap().success().unwrap();
    assert!(
        dry.stdout.contains("WOULD GO") && dry.stdout.contains(old.file_name().unwrap()),
        "{}",
        dry.stdout
    );
    assert_eq!(fleet.cli(&prune).await.unwrap().code, 2, "there is no terminal to ask on");
    assert!(old.exists() && damaged.exists());
    fleet.cli(&[&prune[..], &["--yes"]].concat()).await.unwrap().success().unwrap();
    let list = listed(&fleet, "cp1").await;
    assert_eq!((count(&list, "backups"), count(&list, "kubeadm_leftovers")), (1, 0), "{list}");
    assert!(newest.exists() && !old.exists() && !damaged.exists());
    fleet.cli(&["backups", "verify", "cp1"]).await.unwrap().success().unwrap();
    let kinds: Vec<String> = crate::history(&fleet).await.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds.last().map(String::as_str), Some("backups-pruned"), "{kinds:?}");
}

#[tokio::test]
async fn retention_is_applied_once_every_node_is_raised_and_never_in_a_failure() {
    let mut fleet = small_fleet().await;
    fleet.cluster.add_unmanaged_pod("debug", "w2");
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Halted);
    let newest = backup_of(&fleet, "w1");
    let old: Vec<Utf8PathBuf> = (1..=4).map(|day| copy_of(&newest, day)).collect();
    let journals = fleet.cluster.machine("w1").unwrap().tree.agent_state().join("journal");
    let journal_of = |plan: &str, token: u64| journals.join(format!("{plan}-{token}.ended"));
    for token in 1000..1016 {
        fs::write(journal_of("p-bbbbbbbbbbbb", token), "").unwrap();
    }
    let oldest = journal_of("p-aaaaaaaaaaaa", 0);
    fs::write(&oldest, "").unwrap();

    let refused = fleet.cli(&["backups", "prune", "w1", "--keep", "1", "--yes"]).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("has not ended"), "{}", refused.stderr);
    fleet.kill_agent("w1").unwrap();
    fleet.start_agent("w1").await.unwrap();
    fleet.operator().await.unwrap().wait_for_facts(&fleet.nodes(), LIMIT).await.unwrap();
    assert_eq!(count(&listed(&fleet, "w1").await, "backups"), 5, "a backup went in a failure");

    fleet.cluster.remove_pod("debug");
    fleet.cli(&["retry", "w2"]).await.unwrap().success().unwrap();
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Raised, "{}", fleet.last_words());
    let tidied = async {
        while old[0].exists() || oldest.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, tidied).await.expect("nothing was pruned after the raise");
    // They are older than half a year.
    let list = listed(&fleet, "w1").await;
    assert_eq!(list["backups"].as_array().unwrap().last().unwrap()["name"], newest.file_name().unwrap());
    // That of the kept backup's plan stays, old as it is, and so do the newest.
    let left: Vec<String> = fs::read_dir(&journals)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let of = |plan: &str| left.iter().filter(|name| name.starts_with(plan)).count();
    let plan = newest.file_name().unwrap().strip_prefix("liftlock-").unwrap().split_at(14).0;
    assert_eq!((of("p-bbbbbbbbbbbb"), of(plan)), (16, 1), "{left:?}");
}

#[tokio::test]
async fn a_restore_of_etcd_is_rehearsed_and_refused_until_its_loss_is_accepted() {
    let fleet = small_fleet().await;
    let none = fleet.cli(&["etcd", "restore", "--cluster"]).await.unwrap();
    assert_eq!(none.code, 1, "{}", none.stderr);
    assert!(none.stderr.contains("whole backup with a snapshot"), "{}", none.stderr);
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    raised(&fleet, TO).await;

    let refused = fleet.cli(&["etcd", "restore", "--cluster"]).await.unwrap();
    assert_eq!((refused.code, refused.stdout.as_str()), (3, ""), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("is lost") && refused.stderr.contains("--accept data-loss"),
        "{}",
        refused.stderr
    );
    let accepted = ["etcd", "restore", "--cluster", "--accept", "data-loss"];
    let shown = fleet.cli(&accepted).await.unwrap().success().unwrap();
    assert!(shown.stderr.contains("rehearsed with etcdctl 3.5."), "{}", shown.stderr);
    let snapshot = backup_of(&fleet, "cp1").join("etcd-snapshot.db");
    for wanted in [
        "is lost",
        &format!("snapshot restore {snapshot} --data-dir=/var/lib/etcd/liftlock-restored --name=cp1"),
    ] {
        assert!(shown.stdout.contains(wanted), "{wanted}: {}", shown.stdout);
    }
    assert!(!snapshot.with_file_name("rehearsal").exists());

    // Whoever has begun may have it shown again.
    let kubernetes = snapshot.ancestors().nth(3).unwrap();
    let aside = kubernetes.join("liftlock-restore");
    fs::create_dir(&aside).unwrap();
    fs::rename(kubernetes.join("manifests/etcd.yaml"), aside.join("etcd.yaml")).unwrap();
    let again = fleet.cli(&accepted).await.unwrap().success().unwrap();
    assert!(again.stdout.contains(&format!("kubeadm upgrade apply {TO} --force --yes")), "{}", again.stdout);

    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[5000] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let damaged = fleet.cli(&accepted).await.unwrap();
    assert_eq!((damaged.code, damaged.stdout.as_str()), (3, ""), "{}", damaged.stderr);
    assert!(damaged.stderr.contains("nothing is restored from it"), "{}", damaged.stderr);
}

#[tokio::test]
async fn one_member_of_etcd_is_not_restored_from_a_snapshot_while_the_others_are_well() {
    let fleet = Fleet::start(&Shape::new(3, 0)).await.unwrap();
    let replace = ["etcd", "restore", "--node", "cp2"];
    let refused = fleet.cli(&[&replace[..], &["--accept", "data-loss"]].concat()).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("behind them"), "{}", refused.stderr);
    let shown = fleet.cli(&replace).await.unwrap().success().unwrap();
    assert!(shown.stderr.contains("No snapshot is needed"), "{}", shown.stderr);
    assert_eq!(shown.stdout, refused.stdout);
    for wanted in
        ["member remove ", "member add cp2 --peer-urls=https://", "--initial-cluster-state=existing"]
    {
        assert!(refused.stdout.contains(wanted), "{wanted}: {}", refused.stdout);
    }
    assert!(!refused.stdout.contains("snapshot restore"), "{}", refused.stdout);
}
