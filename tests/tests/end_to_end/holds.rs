//! What holds a roll-out before the next node, and opens by itself.

use std::fs;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_tests::standin::prometheus::Prometheus;

use crate::{TO, history, node, raised, small_fleet, until};

/// A document whose roll-out is conducted as these lines say.
fn document(conduct: &str) -> String {
    format!(
        "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.31.2\n  policy:\n    accepted: \
         [api-outage]\n    drainTimeoutSeconds: 60\n{conduct}"
    )
}

const EVERY_DAY: &str = "days: [mon, tue, wed, thu, fri, sat, sun]";

#[tokio::test]
async fn a_roll_out_waits_for_its_window_over_a_restart_and_goes_on_by_itself_when_it_opens() {
    let mut fleet = small_fleet().await;
    // The next whole minute that leaves time to prepare.
    let opens = Timestamp::now() + SignedDuration::from_secs(80);
    let time = |moment: Timestamp| moment.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string();
    let closes = time(opens + SignedDuration::from_hours(6));
    let window = format!("{EVERY_DAY}, from: \"{}\", to: \"{closes}\", timeZone: UTC", time(opens));
    let file = fleet.folder().join("plan.yaml");
    fs::write(&file, document(&format!("  windows:\n  - {{{window}}}\n"))).unwrap();
    let planned = fleet.cli(&["plan", "-f", file.as_str()]).await.unwrap().success().unwrap();
    for part in
        ["Nodes are begun on only: mon, tue", "Windows: the first node is begun on", "fit into one window"]
    {
        assert!(planned.stdout.contains(part), "{part}: {}", planned.stdout);
    }
    let apply = ["apply", "-f", file.as_str(), "--yes", "--detach"];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    let said = "waits for the window: opens";
    let held = until(&fleet, "the window to be waited for", |rollout| rollout.reason.contains(said)).await;
    assert_eq!(held.phase(), RolloutPhase::Running, "{}", held.reason);
    assert!(held.nodes.iter().all(|node| node.phase() == NodePhase::Prepared), "{held:?}");
    assert!(held.held_until_ms > 0);
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    until(&fleet, "the window to be waited for again", |rollout| rollout.reason.contains(said)).await;
    let status = fleet.cli(&["status"]).await.unwrap().success().unwrap();
    assert!(status.stdout.contains(&format!("Held: {said}")), "{}", status.stdout);
    assert!(status.stdout.contains(", in "), "{}", status.stdout);
    raised(&fleet, TO).await;
    let granted: Vec<u64> = history(&fleet)
        .await
        .iter()
        .filter(|event| event.kind == "lease-granted")
        .map(|event| event.at_ms)
        .collect();
    assert_eq!(granted.len(), 3);
    assert!(granted.iter().all(|at_ms| *at_ms >= held.held_until_ms), "{granted:?}, {}", held.held_until_ms);
}

#[tokio::test]
async fn a_plan_that_fits_into_no_window_or_names_an_unknown_zone_is_refused() {
    let fleet = small_fleet().await;
    let window = |to: &str, zone: &str| {
        document(&format!(
            "  windows:\n  - {{{EVERY_DAY}, from: \"22:00\", to: \"{to}\", timeZone: {zone}}}\n"
        ))
    };
    for verb in [&["plan", "-f", "-"][..], &["apply", "--yes", "-f", "-"]] {
        let refused = fleet.cli_with_input(verb, &window("22:30", "Europe/Berlin")).await.unwrap();
        assert_eq!(refused.code, 3, "{}{}", refused.stdout, refused.stderr);
        for part in ["window-too-short", "first-control-plane", "expected to take 31 min", "has 30 min"] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
        let unread = fleet.cli_with_input(verb, &window("04:00", "Europe/Berln")).await.unwrap();
        assert_eq!(unread.code, 2, "{}", unread.stderr);
        for part in ["line 9, column", "spec.windows[0].timeZone", "\"Europe/Berln\" is no time zone"] {
            assert!(unread.stderr.contains(part), "{part}: {}", unread.stderr);
        }
    }
    assert!(history(&fleet).await.iter().all(|event| event.kind != "plan-applied"));
}

#[tokio::test]
async fn an_alert_or_a_prometheus_that_is_away_holds_the_next_node_until_it_is_well_again() {
    let mut fleet = small_fleet().await;
    let refused =
        fleet.cli_with_input(&["plan", "-f", "-"], &document("  alerts: {ignore: [Known]}\n")).await.unwrap();
    assert!(refused.stderr.contains("alerts-not-configured"), "{}{}", refused.stdout, refused.stderr);
    let prometheus = Prometheus::start().unwrap();
    prometheus.fire(&["Known", "NodeDiskFull"]);
    fleet.reconfigure_coordinator(&format!("[alerts]\nurl = \"{}\"\n", prometheus.url)).await.unwrap();
    let apply = ["apply", "-f", "-", "--yes", "--detach"];
    let applied = fleet.cli_with_input(&apply, &document("  alerts: {ignore: [Known]}\n")).await.unwrap();
    applied.success().unwrap();
    let fires = "while an alert fires: NodeDiskFull (severity warning)";
    let held = until(&fleet, "the alert to hold it", |rollout| rollout.reason.contains(fires)).await;
    assert_eq!(node(&held, "cp1").phase(), NodePhase::Prepared);
    prometheus.fire(&["Known"]);
    until(&fleet, "cp1 to be begun on", |rollout| node(rollout, "cp1").step_number > 1).await;
    let url = prometheus.url.clone();
    drop(prometheus);
    let away = format!("{url} cannot be asked");
    let held = until(&fleet, "nobody to be able to tell", |rollout| rollout.reason.contains(&away)).await;
    assert_eq!(node(&held, "cp1").phase(), NodePhase::Raised, "what was begun is finished");
    assert_eq!(node(&held, "w1").phase(), NodePhase::Prepared);
    let prometheus = Prometheus::start().unwrap();
    fleet.reconfigure_coordinator(&format!("[alerts]\nurl = \"{}\"\n", prometheus.url)).await.unwrap();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn a_window_that_is_opened_by_an_edit_lets_the_roll_out_go_on_at_once() {
    let fleet = small_fleet().await;
    // It opened an hour ago for seven hours, or opens in two for as long: never a minute before now.
    let time = |hours: i64| {
        let moment = Timestamp::now() + SignedDuration::from_hours(hours);
        moment.to_zoned(TimeZone::UTC).strftime("%H:%M").to_string()
    };
    let window = |from: i64| {
        let (from, to) = (time(from), time(from + 7));
        document(&format!("  windows: [{{{EVERY_DAY}, from: \"{from}\", to: \"{to}\", timeZone: UTC}}]\n"))
    };
    let (shut, open) = (window(2), window(-1));
    fleet.cli_with_input(&["apply", "-f", "-", "--yes", "--detach"], &shut).await.unwrap().success().unwrap();
    until(&fleet, "the window to be waited for", |rollout| rollout.reason.contains("waits for the window"))
        .await;
    let same = fleet.cli_with_input(&["diff", "-f", "-"], &shut).await.unwrap();
    assert_eq!(same.code, 0, "{same:?}");
    let other = fleet.cli_with_input(&["diff", "-f", "-"], &open).await.unwrap();
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.stdout.contains("spec.windows"), "{}", other.stdout);
    let sealed = open.replace("drainTimeoutSeconds: 60", "drainTimeoutSeconds: 61");
    let refused = fleet.cli_with_input(&["edit", "-f", "-"], &sealed).await.unwrap();
    assert_eq!(refused.code, 3, "{refused:?}");
    for part in ["spec.policy.drainTimeoutSeconds (it is 60, and not 61)", "allowed are spec.windows"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    fleet.cli_with_input(&["edit", "-f", "-"], &open).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(history(&fleet).await.iter().filter(|event| event.kind == "edited").count(), 1);
}
