//! Edits to a roll-out that goes on.

use super::*;
use crate::document::{UpgradePlan, parse};

/// What [`Coordinator::plan`] carries out, and this besides.
fn document(more: &str) -> UpgradePlan {
    let text = "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.31.2\n";
    parse(&format!("{text}{more}")).unwrap()
}

/// Closed at the time of the ticking clock, a Tuesday.
const SATURDAYS: &str = "  windows: [{days: [sat], from: \"22:00\", to: \"04:00\", timeZone: UTC}]\n";

#[test]
fn a_roll_out_goes_on_with_other_windows_once_it_is_edited_and_keeps_them_over_a_restart() {
    let (coordinator, mut agents) = running();
    drop(agents[0].received());
    let plan = coordinator.rollout().plan;
    coordinator.keeper.edit(&document(SATURDAYS), "alice").unwrap();
    assert_eq!(coordinator.rollout().plan, plan, "the plan stays what it was");
    agents[0].ends(&coordinator, 1, "");
    assert_eq!(agents[1].grants(), [], "the edit holds the next node");
    assert!(
        coordinator.rollout().reason.contains("waits for the window"),
        "{}",
        coordinator.rollout().reason
    );
    let edited =
        coordinator.keeper.history(None).into_iter().find(|(_, record)| record.kind == HistoryKind::Edited);
    let (_, edited) = edited.unwrap();
    assert_eq!(edited.operator.as_deref(), Some("alice"));
    assert_eq!(edited.text, "from now on with another spec.windows");
    let coordinator = coordinator.restarted();
    let mut agents = coordinator.connect_all();
    assert_eq!(agents[1].grants(), []);
    coordinator.keeper.edit(&document(""), "alice").unwrap();
    assert_eq!(agents[1].grants().len(), 1, "without windows it goes on at once");
}

#[test]
fn what_the_plan_seals_is_refused_by_its_name_and_nothing_is_changed() {
    let (coordinator, mut agents) = running();
    let before = coordinator.rollout();
    let edits = [
        (document("").conducted(document(SATURDAYS).conduct()), "spec.toVersion", "v1.31.3"),
        (
            document(&format!("{SATURDAYS}  policy: {{onFailure: roll-back-node}}\n")),
            "spec.policy.onFailure",
            "roll-back-node",
        ),
        (document("  policy: {drainTimeoutSeconds: 5}\n"), "spec.policy.drainTimeoutSeconds", "5"),
        (document("  policy: {accepted: [swap]}\n"), "spec.policy.accepted", "swap"),
    ];
    for (mut document, field, value) in edits {
        if field == "spec.toVersion" {
            document.spec.to_version = value.parse().unwrap();
        }
        let error = coordinator.keeper.edit(&document, "alice").unwrap_err().to_string();
        for part in [field, value, "allowed are spec.windows, spec.alerts and spec.hooks", "liftlock abort"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let error =
        coordinator.keeper.edit(&document("  alerts: {ignore: [A]}\n"), "alice").unwrap_err().to_string();
    assert!(error.contains("asks no Prometheus"), "{error}");
    let short = SATURDAYS.replace("04:00", "22:10");
    let error = coordinator.keeper.edit(&document(&short), "alice").unwrap_err().to_string();
    assert!(error.contains("no window of spec.windows is that long"), "{error}");
    assert_eq!(coordinator.rollout(), before);
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    agents.remove(0).ends(&coordinator, 1, "");
    let error = coordinator.keeper.edit(&document(SATURDAYS), "alice").unwrap_err().to_string();
    assert!(error.contains("has ended"), "{error}");
}
