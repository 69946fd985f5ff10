//! What is called before and after plans, pools and nodes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use camino::Utf8Path;
use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_tests::fleet::{Fleet, NOTE, Terms};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::webhook::Webhook;

use crate::{LIMIT, TO, history, is_at, node, raised, small_fleet, until};

/// A document with these hooks.
fn document(hooks: &str) -> String {
    format!(
        "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.31.2\n  policy:\n    accepted: \
         [api-outage]\n    drainTimeoutSeconds: 60\n  hooks:\n{hooks}"
    )
}

/// A program that notes its calls, and does not end while somebody holds it; as the coordinator's hook `note`.
async fn with_note(fleet: &mut Fleet) {
    let program = fleet.folder().join("note");
    write_note(fleet, &program);
    fleet.reconfigure_coordinator(&format!("[hooks.note]\ncommand = [\"{program}\"]\n")).await.unwrap();
}

fn write_note(fleet: &Fleet, program: &Utf8Path) {
    let folder = fleet.folder();
    let script = format!(
        "#!/bin/sh\necho \"$LIFTLOCK_MOMENT $LIFTLOCK_NODE\" >> {folder}/calls\nwhile [ -e {folder}/hold ]; do sleep 0.05; done\n"
    );
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(program, script).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn called(fleet: &Fleet) {
    let once = async {
        while calls(fleet).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, once).await.unwrap();
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
    called(&fleet).await;
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

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_a_nodes_hook_goes_on_with_it_and_the_node_is_raised() {
    let mut fleet =
        Fleet::start_on(&Shape::new(1, 2), Terms { hooks: true, ..Terms::default() }).await.unwrap();
    let text =
        document("    beforeNode: [{name: note, on: node}]\n    afterNode: [{name: note, on: node}]\n");
    let refused = fleet.cli_with_input(&["plan", "-f", "-"], &text).await.unwrap();
    assert_eq!(refused.code, 3, "{}{}", refused.stdout, refused.stderr);
    for part in
        ["hook-refused", "the hook note cannot be run on cp1: its program", "is not there: install it"]
    {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    for node in fleet.nodes() {
        let program = fleet.cluster.machine(&node).unwrap().tree.at(NOTE);
        write_note(&fleet, &program);
    }
    let unknown = document("    beforeNode: [{name: other, on: node}]\n");
    let refused = fleet.cli_with_input(&["plan", "-f", "-"], &unknown).await.unwrap();
    for part in
        ["unknown-hook", "\"other\" is no hook in the configuration of cp1: allowed are note", "agent.toml"]
    {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let hold = fleet.folder().join("hold");
    fs::write(&hold, "").unwrap();
    fleet.cli_with_input(&["apply", "-f", "-", "--yes", "--detach"], &text).await.unwrap().success().unwrap();
    until(&fleet, "the hook to run", |rollout| is_at(rollout, "cp1", "run-hooks-before")).await;
    called(&fleet).await;
    fleet.kill_agent("cp1").unwrap();
    fleet.start_agent("cp1").await.unwrap();
    let sealed = document("    afterNode: [{name: note, on: node}]\n");
    let refused = fleet.cli_with_input(&["edit", "-f", "-"], &sealed).await.unwrap();
    assert!(refused.stderr.contains("spec.hooks.beforeNode"), "{}{}", refused.stdout, refused.stderr);
    fs::remove_file(&hold).unwrap();
    raised(&fleet, TO).await;
    let expected =
        ["cp1", "w1", "w2"].map(|node| [format!("before-node {node}"), format!("after-node {node}")]);
    assert_eq!(calls(&fleet), expected.concat(), "the one whose agent was killed was joined");
}

#[tokio::test]
async fn a_nodes_hook_that_prints_without_an_end_is_stopped_before_it_fills_the_disk_and_its_agent_stays_there()
 {
    let fleet = Fleet::start_on(&Shape::new(1, 2), Terms { hooks: true, ..Terms::default() }).await.unwrap();
    for node in fleet.nodes() {
        let program = fleet.cluster.machine(&node).unwrap().tree.at(NOTE);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "#!/bin/sh\nexec yes\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let text = document("    beforeNode: [{name: note, on: node, timeoutSeconds: 3600}]\n");
    fleet.cli_with_input(&["apply", "-f", "-", "--yes", "--detach"], &text).await.unwrap().success().unwrap();
    let halted = until(&fleet, "the hook to fail", |rollout| rollout.phase() == RolloutPhase::Halted).await;
    let failure = &node(&halted, "cp1").failure;
    assert!(failure.contains("its output would have filled the disk"), "{failure}");
    assert!(node(&halted, "cp1").connected);
}
