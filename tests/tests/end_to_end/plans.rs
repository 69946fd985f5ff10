//! A folder of documents that the coordinator follows.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use liftlock_proto::v1::RolloutPhase;
use liftlock_tests::fleet::{Fleet, Terms};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};

use crate::{LIMIT, TO, end_of, history, raised};

const DOCUMENT: &str =
    "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nmetadata: {name: autumn}\nspec:\n  toVersion: v1.31.2\n";

/// What is mounted changes as a `ConfigMap` does: as a whole, by one link.
fn mount(fleet: &Fleet, revision: &str, documents: &[(&str, &str)]) {
    let folder = fleet.plans().join(format!("..{revision}"));
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in documents {
        fs::write(folder.join(name), text).unwrap();
        let link = fleet.plans().join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), link).unwrap();
        }
    }
    symlink(format!("..{revision}"), fleet.plans().join("..new")).unwrap();
    fs::rename(fleet.plans().join("..new"), fleet.plans().join("..data")).unwrap();
    for link in fleet.plans().read_dir_utf8().unwrap() {
        let link = link.unwrap();
        if !link.path().exists() {
            fs::remove_file(link.path()).unwrap();
        }
    }
}

/// Waits until `status` says something, or no more.
async fn status(fleet: &Fleet, words: &str, says: bool) {
    let said = async {
        loop {
            let status = fleet.cli(&["status"]).await.unwrap();
            if (status.stdout.contains(words) || status.stderr.contains(words)) == says {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = tokio::time::timeout(LIMIT, said).await.is_ok();
    assert!(in_time, "waited for status about {words:?}\n{}", fleet.last_words());
}

async fn status_says(fleet: &Fleet, words: &str) {
    status(fleet, words, true).await;
}

async fn applied(fleet: &Fleet) -> Vec<String> {
    let applied = history(fleet).await.into_iter().filter(|event| event.kind == "plan-applied");
    applied.map(|event| event.operator).collect()
}

#[tokio::test]
async fn a_followed_document_is_applied_once_and_again_only_when_it_says_something_else() {
    let terms = Terms { follow_plans: true, ..Terms::default() };
    let mut fleet = Fleet::start_on(&Shape::new(1, 2), terms).await.unwrap();
    mount(&fleet, "1", &[("plan.yaml", DOCUMENT)]);
    status_says(&fleet, "plan.yaml is refused: api-outage: ").await;

    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let fault = Fault::arm(tree, &Point::KubeadmImagePull, &Action::Pause).unwrap();
    let consenting = format!("{DOCUMENT}  policy: {{accepted: [api-outage]}}\n");
    mount(&fleet, "2", &[("plan.yaml", &consenting)]);
    fault.reached(LIMIT).await.unwrap();
    assert_eq!(applied(&fleet).await, ["plans:plan.yaml"]);
    mount(&fleet, "3", &[("plan.yaml", DOCUMENT)]);
    status_says(&fleet, "plan.yaml waits until the roll-out of plan p-").await;
    mount(&fleet, "4", &[("plan.yaml", &consenting)]);
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    assert_eq!(end_of(&fleet).await.phase(), RolloutPhase::Aborted);

    // What was aborted stays so, though the coordinator looks again and again, and after a restart.
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    let nodes = fleet.nodes();
    fleet.operator().await.unwrap().wait_for_facts(&nodes, LIMIT).await.unwrap();
    mount(&fleet, "5", &[("plan.yaml", &consenting), ("other.yaml", &consenting)]);
    status_says(&fleet, "exactly one document may say what is wanted").await;
    mount(&fleet, "6", &[("plan.yaml", &consenting)]);
    status(&fleet, "exactly one document", false).await;
    assert_eq!(applied(&fleet).await.len(), 1);

    mount(&fleet, "7", &[("plan.yaml", &consenting.replace("autumn", "autumn-once-more"))]);
    status(&fleet, "aborted", false).await;
    let rollout = raised(&fleet, TO).await;
    assert_eq!((rollout.started_by.as_str(), applied(&fleet).await.len()), ("plans:plan.yaml", 2));
}
