//! Versions that an operator approves of.

use std::fs;

use liftlock_proto::v1::{ApplyRequest, MakePlanRequest, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, Terms, proofs};
use liftlock_tests::standin::cluster::Shape;

use crate::{TO, end_of, policy};

/// A release between, and the one that would be taken without a catalogue.
const STOP: KubernetesVersion = KubernetesVersion::new(1, 30, 3);
const NEWER: KubernetesVersion = KubernetesVersion::new(1, 30, 4);

/// Next to the target, and nobody has tried it.
const OTHER: KubernetesVersion = KubernetesVersion::new(1, 31, 1);

const CATALOGUE: &str = r#"[[approved]]
version = "v1.30.3"
notes = "tested in November"

[[known-bad]]
version = "v1.30.4"
why = "it loses pods"

[[approved]]
version = "v1.31.2"
"#;

#[tokio::test]
async fn only_what_the_catalogue_approves_of_is_raised_to_and_every_edit_counts_at_once() {
    let version = KubernetesVersion::new(1, 29, 9);
    let shape = Shape { version, offered: vec![STOP, NEWER, OTHER, TO], ..Shape::new(1, 1) };
    let fleet = Fleet::start_on(&shape, Terms { catalogue: true, ..Terms::default() }).await.unwrap();
    let consents = ["--accept", "api-outage", "--accept", "drain-only-node"];
    let refused = async |version: &str, words: &[&str]| {
        for verb in [&["plan", version][..], &["apply", version, "--yes"]] {
            let refused = fleet.cli(&[verb, &consents[..]].concat()).await.unwrap();
            assert_eq!(refused.code, 3, "{verb:?}: {}{}", refused.stdout, refused.stderr);
            for part in words {
                assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
            }
        }
    };
    let write = |text: &str| fs::write(fleet.catalogue(), text).unwrap();

    let named = fleet.catalogue();
    refused("v1.31.2", &["catalogue-unread", named.as_str(), "there is no such file"]).await;
    write("[[approved]]\nversion = \"v1.31\"\n");
    refused("v1.31.2", &["catalogue-unread", named.as_str(), "line 2, column 11", "v1.MINOR.PATCH"]).await;
    write(&CATALOGUE.replace("notes", "note"));
    refused("v1.31.2", &["line 3, column 1", "`note`", "`notes`"]).await;
    let versions = fleet.cli(&["versions"]).await.unwrap().success().unwrap();
    assert!(versions.stdout.contains("line 3, column 1"), "{}", versions.stdout);

    write(CATALOGUE);
    refused("v1.31.1", &["off-catalogue", "v1.31.1 is not on the catalogue", "approves of is v1.31.2"]).await;
    refused("v1.30.4", &["known-bad", "it loses pods", "v1.30.3 and v1.31.2"]).await;
    let mut operator = fleet.operator().await.unwrap();
    let mut accepting = policy();
    accepting.accepted.push("drain-only-node".to_owned());
    let request = MakePlanRequest { to_version: TO.to_string(), policy: Some(accepting), conduct: None };
    let planned = operator.client.make_plan(request).await.unwrap().into_inner();
    assert_eq!(planned.plan.as_ref().unwrap().to_version, STOP.to_string(), "{planned:?}");
    let apply =
        ApplyRequest { plan: planned.plan, onward: planned.onward, conduct: None, document: String::new() };
    write(&CATALOGUE.replace("v1.30.3", "v1.30.2"));
    let status = operator.client.apply(apply.clone()).await.unwrap_err();
    assert!(status.message().contains("the catalogue approves of none of its releases"), "{status}");
    write(CATALOGUE);
    let begun = operator.client.apply(apply).await.unwrap().into_inner();
    assert_eq!((begun.stop, begun.onward.len()), (1, 1));
    assert_ne!(begun.phase(), RolloutPhase::Halted);
    let end = end_of(&fleet).await;
    assert_eq!(end.phase(), RolloutPhase::Raised, "{}\n{}", end.reason, fleet.last_words());
    proofs::everything_runs(&fleet, TO).unwrap();

    let versions = fleet.cli(&["versions", "-o", "json"]).await.unwrap().success().unwrap();
    let versions: serde_json::Value = serde_json::from_str(&versions.stdout).unwrap();
    let rows = versions["versions"].as_array().unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row["version"].as_str(), row["standing"].as_str())).collect();
    let expected = [
        ("v1.29.9", "off-catalogue"),
        ("v1.30.3", "approved"),
        ("v1.30.4", "known-bad"),
        ("v1.31.1", "off-catalogue"),
        ("v1.31.2", "approved"),
    ];
    assert_eq!(told, expected.map(|(version, standing)| (Some(version), Some(standing))));
    assert_eq!(rows[4]["kubelets"], serde_json::json!(["cp1", "w1"]));
    assert_eq!(rows[4]["offered_by"], 2);
}
