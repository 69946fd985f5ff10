//! What is called before and after plans, pools and nodes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::webhook::Webhook;

use crate::{LIMIT, TO, history, node, raised, small_fleet, until};

/// A document with these hooks.
fn document(hooks: &str) -> String {
    format!(
        "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.31.2\n  policy:\n    accepted: \
         [api-outage]\n    drainTimeoutSeconds: 60\n  hooks:\n{hooks}"
    )
}

/// A program that notes its calls, and does not end while somebody holds it; as the coordinator's hook `note`.
async fn with_note(fleet: &mut Fleet) {
    let folder = fleet.folder().to_owned();
    let program = folder.join("note");
    let script = format!(
        "#!/bin/sh\necho \"$LIFTLOCK_MOMENT $LIFTLOCK_NODE\" >> {folder}/calls\nwhile [ -e {folder}/hold ]; do sleep 0.05; done\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fleet.reconfigure_coordinator(&format!("[hooks.note]\ncommand = [\"{program}\"]\n")).await.unwrap();
}

fn calls(fleet: &Fleet) -> Vec<String> {
    let calls = fs::read_to_string(fleet.folder().join("calls")).unwrap_or_default();
    calls.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_coordinator_killed_in_the_middle_of_a_hook_calls_it_again_and_the_roll_out_ends_raised() {
    let mut fleet = small_fleet().await;
    with_note(&mut fleet).await;
    let webhook = Webhook::start().unwrap();
    let url = &webhook.url;
    let text = document(&format!(
        "    beforePlan: [{{url: \"{url}\"}}]\n    beforeNode: [{{name: note, on: coordinator}}]\n    afterNode: [{{name: \
         note}}]\n    afterPlan: [{{url: \"{url}\"}}]\n"
    ));
    let file = fleet.folder().join("plan.yaml");
    fs::write(&file, text).unwrap();
    let planned = fleet.cli(&["plan", "-f", file.as_str()]).await.unwrap().success().unwrap();
    assert!(planned.stdout.contains("The coordinator calls beforeNode: note"), "{}", planned.stdout);
    let hold = fleet.folder().join("hold");
    fs::write(&hold, "").unwrap();
    fleet.cli(&["apply", "-f", file.as_str(), "--yes", "--detach"]).await.unwrap().success().unwrap();
    let waits = "waits for the hook note before cp1";
    let waiting = until(&fleet, "the hook to be waited for", |rollout| rollout.reason.contains(waits)).await;
    assert_eq!(
        (waiting.phase(), node(&waiting, "cp1").phase()),
        (RolloutPhase::Running, NodePhase::Prepared)
    );
    let once = tokio::time::timeout(LIMIT, async {
        while calls(&fleet).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    once.await.unwrap();
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    fs::remove_file(&hold).unwrap();
    raised(&fleet, TO).await;
    let told = tokio::time::timeout(LIMIT, webhook.told(2)).await.unwrap().unwrap();
    let moments: Vec<&str> = told.iter().filter_map(|told| told["moment"].as_str()).collect();
    assert_eq!((moments, told[1]["outcome"].as_str()), (vec!["before-plan", "after-plan"], Some("raised")));
    let expected =
        ["cp1", "w1", "w2"].map(|node| [format!("before-node {node}"), format!("after-node {node}")]);
    let expected: Vec<String> =
        std::iter::once("before-node cp1".to_owned()).chain(expected.concat()).collect();
    assert_eq!(calls(&fleet), expected, "the one that was cut off twice, every other once");
    let kinds: Vec<String> = history(&fleet).await.into_iter().map(|event| event.kind).collect();
    let granted = kinds.iter().position(|kind| kind == "lease-granted").unwrap();
    assert_eq!(kinds[..granted].iter().filter(|kind| *kind == "hook-succeeded").count(), 2);
}

#[tokio::test]
async fn a_hook_that_fails_holds_the_roll_out_until_it_is_taken_out_of_the_document() {
    let fleet = small_fleet().await;
    let unknown = document("    beforeNode: [{name: note}]\n");
    let refused = fleet.cli_with_input(&["plan", "-f", "-"], &unknown).await.unwrap();
    assert_eq!(refused.code, 3, "{}{}", refused.stdout, refused.stderr);
    for part in ["unknown-hook", "spec.hooks.beforeNode[0].name: \"note\"", "/etc/liftlock/coordinator.toml"]
    {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let webhook = Webhook::start().unwrap();
    webhook.answer_with(503);
    let text = document(&format!("    afterNode: [{{url: \"{}\"}}]\n", webhook.url));
    fleet.cli_with_input(&["apply", "-f", "-", "--yes", "--detach"], &text).await.unwrap().success().unwrap();
    let fails = "after cp1 fails: ";
    let held = until(&fleet, "the hook to fail", |rollout| rollout.reason.contains(fails)).await;
    assert!(
        held.reason.contains("503 Service Unavailable, and only 2xx is taken: as it was told;"),
        "{}",
        held.reason
    );
    assert!(!held.reason.contains("T0"), "{}", held.reason);
    assert_eq!(node(&held, "w1").phase(), NodePhase::Prepared);
    let status = fleet.cli(&["status"]).await.unwrap().success().unwrap();
    assert!(status.stdout.contains(fails), "{}", status.stdout);
    let without = text.split("  hooks:").next().unwrap();
    fleet.cli_with_input(&["edit", "-f", "-"], without).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}
