//! What operators and their programs see, from fixed messages.

use insta::assert_snapshot;
use jiff::{SignedDuration, Timestamp};
use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{OnFailure, Plan, PlannedNode, Policy, Role};
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Canary, Place, PlannedPool, Workers};

use crate::cli::output::{Format, View, render, render_one_of_many};
use crate::cli::paint::Paint;
use crate::cli::plan::refusals;
use crate::cli::view::changes::changes;
use crate::cli::view::forecast::ForecastView;
use crate::cli::view::history::HistoryView;
use crate::cli::view::nodes::NodesView;
use crate::cli::view::plan::{PlanAnswerView, PlanView, RefusalView, word};
use crate::cli::view::rollout::RolloutView;
use crate::cli::view::tokens::{NewTokenView, TokensView};
use crate::cli::view::upgrade_plan::UpgradePlanView;
use crate::cli::view::versions::VersionsView;
use crate::core::alerts::AlertFilter;
use crate::core::conduct::Conduct;
use crate::core::hooks::Hooks;
use crate::core::sequence::{prepare, under_lease};
use crate::core::window::{Day, Window};
use crate::document;

/// 2026-01-01T12:00:00Z
const NOON: u64 = 1_767_268_800_000;

const NODES: [(&str, Role); 5] = [
    ("cp1", Role::FirstControlPlane),
    ("cp2", Role::ControlPlane),
    ("cp3", Role::ControlPlane),
    ("w1", Role::Worker),
    ("w2", Role::Worker),
];

fn plan_between(from: &str, to: &str, policy: Policy) -> Plan {
    let to: KubernetesVersion = to.parse().unwrap();
    let planned = |(name, role): (&str, Role)| PlannedNode {
        name: name.parse().unwrap(),
        role,
        prepare: prepare(role, to),
        steps: under_lease(role, to, &policy, None),
        place: None,
        packages: PackageSource::default(),
    };
    Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: "0123456789ab".repeat(5) + "0123",
        from_version: from.parse().unwrap(),
        to_version: to,
        nodes: NODES.into_iter().map(planned).collect(),
        policy,
        pools: Vec::new(),
    }
}

fn plan() -> Plan {
    plan_between("v1.19.7", "v1.20.2", Policy::default())
}

fn node(name: &str, role: v1::Role, phase: v1::NodePhase) -> v1::RolloutNode {
    v1::RolloutNode {
        name: name.to_owned(),
        role: role.into(),
        phase: phase.into(),
        steps_total: 12,
        connected: true,
        ..Default::default()
    }
}

fn raised() -> v1::RolloutNode {
    v1::RolloutNode {
        fencing_token: 7,
        step: "restore-schedulability".to_owned(),
        step_number: 12,
        leased_at_ms: NOON + 20_000,
        lease_ended_at_ms: NOON + 82_000,
        timings: Some(v1::Timings {
            lease_ms: 61_200,
            child_ms: 48_100,
            wait_ms: 11_500,
            snapshot_ms: 1_150,
        }),
        ..node("cp1", v1::Role::FirstControlPlane, v1::NodePhase::Raised)
    }
}

fn leased() -> v1::RolloutNode {
    v1::RolloutNode {
        fencing_token: 8,
        step: "kubeadm-upgrade-node".to_owned(),
        step_number: 5,
        leased_at_ms: NOON + 82_000,
        last_output: "[upgrade] Upgrading your Static Pod-hosted control plane instance".to_owned(),
        ..node("cp2", v1::Role::ControlPlane, v1::NodePhase::Leased)
    }
}

fn failed() -> v1::RolloutNode {
    v1::RolloutNode {
        phase: v1::NodePhase::Failed.into(),
        failure: "drain: pod web/app-1 could not be evicted within 600 s, its disruption budget web/app allows none: \
                  scale the app up, then retry"
            .to_owned(),
        lease_ended_at_ms: NOON + 800_000,
        timings: Some(v1::Timings { lease_ms: 718_000, child_ms: 40_000, wait_ms: 677_000, snapshot_ms: 900 }),
        step: "drain".to_owned(),
        step_number: 7,
        connected: false,
        ..leased()
    }
}

fn rollout(phase: v1::RolloutPhase, second: v1::RolloutNode) -> v1::Rollout {
    v1::Rollout {
        plan: Some(plan().into()),
        phase: phase.into(),
        started_at_ms: NOON,
        started_by: "alice".to_owned(),
        nodes: vec![raised(), second, node("w1", v1::Role::Worker, v1::NodePhase::Prepared)],
        ..Default::default()
    }
}

fn running() -> v1::Rollout {
    rollout(v1::RolloutPhase::Running, leased())
}

fn halted() -> v1::Rollout {
    let reason = format!("cp2: {}", failed().failure);
    v1::Rollout { reason, ..rollout(v1::RolloutPhase::Halted, failed()) }
}

#[test]
fn a_plan_shows_each_node_in_order_with_its_commands_and_the_way_back() {
    assert_snapshot!(PlanView::from(plan()).table(Paint::OFF));
}

#[test]
fn a_plan_with_consents_says_so_in_the_steps_that_they_change() {
    let policy = Policy {
        drain_timeout_seconds: 90,
        delete_unmanaged_pods: true,
        delete_empty_dir_data: true,
        ignore_preflight_errors: vec!["CoreDNSMigration".to_owned()],
        accepted: vec!["api-outage".to_owned(), "drain-only-node".to_owned()],
        on_failure: OnFailure::RollBackNode,
        ..Policy::default()
    };
    assert_snapshot!(PlanView::from(plan_between("v1.21.1", "v1.22.0", policy)).table(Paint::OFF));
}

#[test]
fn a_plan_that_replaces_hosts_shows_each_ones_command_and_that_nobody_undoes_it() {
    let mut plan = plan_between("v1.20.2", "v1.20.9", Policy { redeploy: true, ..Policy::default() });
    for node in &mut plan.nodes {
        let command = ["/usr/local/sbin/replace-system".to_owned(), "--image=node".to_owned()];
        node.steps = under_lease(node.role, plan.to_version, &plan.policy, Some(&command));
    }
    assert_snapshot!(PlanView::from(plan).table(Paint::OFF));
}

#[test]
fn a_plan_with_pools_shows_who_goes_with_whom_and_how_many_at_a_time() {
    let workers = Workers { failure_budget: 2, ..Workers::default() };
    let mut plan = plan_between("v1.20.2", "v1.20.9", Policy { workers, ..Policy::default() });
    let place =
        |pool: &str, zone: Option<&str>| Place { pool: pool.to_owned(), zone: zone.map(str::to_owned) };
    plan.nodes[3].place = Some(place("gpu", Some("a")));
    plan.nodes[4].place = Some(place("others", None));
    let canary = Some(Canary { nodes: 1, soak_seconds: 600 });
    let pool = |name: &str, max_unavailable, canary, pause_after| PlannedPool {
        name: name.to_owned(),
        max_unavailable,
        canary,
        pause_after,
        on_blocked: pause_after.then_some(OnBlocked::Skip),
    };
    plan.pools = vec![pool("gpu", Some(3), canary, true), pool("others", None, None, false)];
    let plan = PlanView::from(plan);
    assert_snapshot!(plan.summary(Paint::OFF));
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!((&json["pools"][0]["soak_s"], &json["nodes"][3]["zone"]), (&600.into(), &"a".into()));
    assert_eq!((json["policy"]["failure_budget"].as_u64(), json["nodes"][4].get("zone")), (Some(2), None));
}

#[test]
fn a_roll_out_that_waits_says_for_what() {
    let reason = "pool others: soaking, 3 min 10 s left".to_owned();
    let soaking = v1::Rollout { reason, ..rollout(v1::RolloutPhase::Running, raised()) };
    let table = RolloutView::from(soaking).table(Paint::OFF);
    assert!(table.contains("pool others: soaking, 3 min 10 s left"), "{table}");
}

#[test]
fn trouble_with_the_taint_has_a_word_of_its_own_and_holds_nothing() {
    let taint = "liftlock.dev/not-raised could not be brought up to date by cp1".to_owned();
    let before = RolloutView::from(rollout(v1::RolloutPhase::Running, leased()));
    let now = RolloutView::from(v1::Rollout {
        taint: taint.clone(),
        ..rollout(v1::RolloutPhase::Running, leased())
    });
    let table = now.table(Paint::OFF);
    assert!(table.contains(&format!("Taint: {taint}\n")) && !table.contains("Held:"), "{table}");
    let told: Vec<String> = changes(Some(&before), &now).into_iter().map(|change| change.text).collect();
    assert_eq!(told, [format!("taint: {taint}")]);
    assert!(changes(Some(&now), &now).is_empty(), "it is said once");
    assert!(!serde_json::to_string(&before).unwrap().contains("taint"));
}

#[test]
fn a_roll_out_is_not_at_rest_while_workers_beside_a_failed_one_come_to_their_end() {
    let halted = rollout(v1::RolloutPhase::Halted, leased());
    assert!(!RolloutView::from(halted).is_at_rest());
}

#[test]
fn apply_shows_the_order_and_the_way_back_before_it_asks() {
    assert_snapshot!(PlanView::from(plan()).summary(Paint::OFF));
    assert_snapshot!(
        PlanView::from(plan_between("v1.20.2", "v1.20.9", Policy::default())).summary(Paint::OFF)
    );
}

#[test]
fn a_plan_is_json_with_every_command_as_its_arguments() {
    let mut small = plan();
    small.nodes.truncate(1);
    let answer = PlanAnswerView {
        plan: Some(small.into()),
        onward: Vec::new(),
        conduct: Conduct::default(),
        forecast: None,
        addons: Vec::new(),
        refusals: Vec::new(),
    };
    assert_snapshot!(render(&answer, Format::Json, Paint::OFF).unwrap());
}

#[test]
fn refusals_are_one_sentence_each_and_say_which_can_be_consented_to() {
    let against = [
        v1::Refusal {
            rule: "downgrade".to_owned(),
            message: "the cluster runs v1.22.7 and v1.21.1 is older: kubeadm does not support downgrades"
                .to_owned(),
            acceptable: false,
        },
        v1::Refusal {
            rule: "api-outage".to_owned(),
            message: "etcd has 1 member: the API goes away while it restarts".to_owned(),
            acceptable: true,
        },
    ];
    let against: Vec<RefusalView> = against.into_iter().map(Into::into).collect();
    assert_snapshot!(refusals("v1.21.1", &against, Paint::OFF));
    let answer = PlanAnswerView {
        plan: None,
        onward: Vec::new(),
        conduct: Conduct::default(),
        forecast: None,
        addons: Vec::new(),
        refusals: against,
    };
    assert_snapshot!(render(&answer, Format::Yaml, Paint::OFF).unwrap());
}

/// v1.19.7 → v1.20.2 → v1.21.1, on a cluster of two nodes.
fn path() -> PlanAnswerView {
    let stop = |from, to| {
        let mut plan = plan_between(from, to, Policy::default());
        plan.nodes.retain(|node| node.name.as_str() == "cp1" || node.name.as_str() == "w1");
        PlanView::from(plan)
    };
    PlanAnswerView {
        plan: Some(stop("v1.19.7", "v1.20.2")),
        onward: vec![stop("v1.20.2", "v1.21.1")],
        conduct: Conduct::default(),
        forecast: None,
        addons: Vec::new(),
        refusals: Vec::new(),
    }
}

#[test]
fn a_path_shows_its_stops_and_then_each_with_its_nodes_and_commands() {
    assert_snapshot!(path().table(Paint::OFF));
    assert_snapshot!(path().summary(Paint::OFF));
}

/// A drain that is blocked, a workload that goes down, and more.
fn forecast() -> v1::Forecast {
    let finding = |kind: v1::ForecastKind, node: &str, message: &str| v1::ForecastFinding {
        kind: kind.into(),
        node: node.to_owned(),
        to_version: "v1.20.2".to_owned(),
        workload: "Deployment shop/cart".to_owned(),
        pods: 1,
        budgets: Vec::new(),
        message: message.to_owned(),
        on_blocked: v1::OnBlocked::Pause.into(),
    };
    let budget = v1::DisruptionBudget {
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        rule: "minAvailable: 2".to_owned(),
        disruptions_allowed: 0,
        current_healthy: 2,
        desired_healthy: 2,
        unhealthy_may_go: false,
    };
    let blocked =
        finding(v1::ForecastKind::Blocked, "w2", "the drain of w2 will wait for the budget shop/cart");
    let downs = (1..=12).map(|number| {
        finding(
            v1::ForecastKind::Downtime,
            "w1",
            &format!("Deployment shop/one-{number} is down while it moves"),
        )
    });
    let durations = vec![v1::RoleDuration {
        role: v1::Role::Worker.into(),
        lease_ms: 61_200,
        leases: 7,
        ..v1::RoleDuration::default()
    }];
    let no_room =
        finding(v1::ForecastKind::NoRoom, "w1", "1 pod of Deployment shop/cart will not fit elsewhere");
    v1::Forecast {
        findings: downs.chain([no_room, v1::ForecastFinding { budgets: vec![budget], ..blocked }]).collect(),
        bound_otherwise: 3,
        durations,
        ..v1::Forecast::default()
    }
}

#[test]
fn a_forecast_is_one_line_where_all_is_well_and_names_first_where_the_roll_out_will_halt() {
    let show = |forecast: v1::Forecast| ForecastView::from(forecast).table(Paint::OFF);
    let durations = forecast().durations;
    let well = v1::Forecast { durations, duration_ms: Some(725_000), ..v1::Forecast::default() };
    let unknown = "no control plane's agent is connected".to_owned();
    let unseen = v1::Forecast { unknown, ..v1::Forecast::default() };
    assert_snapshot!([well, unseen, forecast()].map(show).join("\n"));
}

#[test]
fn a_forecast_says_what_the_roll_out_does_where_a_blocked_drain_does_not_halt_it() {
    let verdict = |words: &[v1::OnBlocked]| {
        let blocked = forecast().findings.pop().unwrap();
        let of = |word: &v1::OnBlocked| v1::ForecastFinding { on_blocked: (*word).into(), ..blocked.clone() };
        let forecast = v1::Forecast { findings: words.iter().map(of).collect(), ..v1::Forecast::default() };
        let table = ForecastView::from(forecast).table(Paint::OFF);
        table.split([':', ';']).nth(1).unwrap().trim().to_owned()
    };
    let (pause, skip, force) = (v1::OnBlocked::Pause, v1::OnBlocked::Skip, v1::OnBlocked::Force);
    assert_eq!(verdict(&[skip]), "the roll-out will pass over w2");
    assert_eq!(verdict(&[force]), "the roll-out will delete pods whatever their budgets say");
    assert_eq!(
        verdict(&[skip, force]),
        "the roll-out will pass over w2, and delete pods whatever their budgets say"
    );
    assert_eq!(verdict(&[skip, pause]), "the roll-out will halt at a drain");
}

#[test]
fn a_forecast_is_json_with_the_numbers_of_each_budget() {
    let mut forecast = forecast();
    forecast.findings.drain(..11);
    assert_snapshot!(serde_json::to_string_pretty(&ForecastView::from(forecast)).unwrap());
}

/// A roll-out to the first of two stops.
fn on_the_way(phase: v1::RolloutPhase, reason: &str) -> v1::Rollout {
    let nodes =
        vec![raised(), v1::RolloutNode { name: "w1".to_owned(), role: v1::Role::Worker.into(), ..raised() }];
    let onward = vec![v1::Stop {
        plan_id: "p-ba9876543210".to_owned(),
        to_version: "v1.21.1".to_owned(),
        ..v1::Stop::default()
    }];
    v1::Rollout { reason: reason.to_owned(), nodes, stop: 1, onward, ..rollout(phase, leased()) }
}

#[test]
fn a_roll_out_on_a_path_says_which_stop_it_leads_to_and_what_follows() {
    let reason = "before v1.21.1: w1 has not said yet what it is like now";
    let waiting = RolloutView::from(on_the_way(v1::RolloutPhase::BetweenStops, reason));
    assert!(!waiting.is_at_rest());
    assert_snapshot!(waiting.table(Paint::OFF));
    let halted =
        RolloutView::from(on_the_way(v1::RolloutPhase::Halted, "stop 1 of 2 is reached: w9 has joined"));
    assert!(halted.is_at_rest());
    assert_snapshot!(halted.table(Paint::OFF));
    let left = RolloutView::from(on_the_way(v1::RolloutPhase::Raised, ""));
    assert!(!left.is_at_rest(), "the next stop has begun");
    assert_snapshot!(render(&left, Format::Json, Paint::OFF).unwrap());
    let aborted = RolloutView::from(on_the_way(v1::RolloutPhase::Aborted, ""));
    assert!(aborted.advice().contains("liftlock plan v1.21.1"), "{}", aborted.advice());
}

#[test]
fn a_log_of_a_path_begins_anew_with_each_stop() {
    let reached = RolloutView::from(on_the_way(v1::RolloutPhase::BetweenStops, ""));
    let mut next = on_the_way(v1::RolloutPhase::Preparing, "");
    next.plan = Some(v1::Plan {
        id: "p-ba9876543210".to_owned(),
        ..plan_between("v1.20.2", "v1.21.1", Policy::default()).into()
    });
    next.onward = vec![];
    next.stop = 2;
    next.nodes = vec![node("cp1", v1::Role::FirstControlPlane, v1::NodePhase::Pending)];
    let texts = |before: Option<&RolloutView>, now: &RolloutView| {
        changes(before, now).into_iter().map(|change| change.text).collect::<Vec<_>>()
    };
    assert_eq!(texts(None, &reached).last().unwrap(), "a stop is reached: every node runs v1.20.2");
    let left = RolloutView::from(on_the_way(v1::RolloutPhase::Raised, ""));
    assert_eq!(texts(None, &left), texts(None, &reached));
    assert!(texts(Some(&reached), &left).is_empty(), "it was told");
    let begun = ["roll-out p-ba9876543210: v1.20.2 → v1.21.1, stop 2 of 2, nodes: 1", "preparing"];
    assert_eq!(texts(Some(&reached), &next.into()), begun);
}

#[test]
fn a_running_roll_out_shows_where_each_node_stands() {
    assert_snapshot!(RolloutView::from(running()).table(Paint::OFF));
}

#[test]
fn a_halted_roll_out_shows_the_failure_and_what_to_do() {
    assert_snapshot!(RolloutView::from(halted()).table(Paint::OFF));
}

#[test]
fn a_roll_out_is_json_with_the_times_of_each_lease() {
    assert_snapshot!(render(&RolloutView::from(running()), Format::Json, Paint::OFF).unwrap());
}

#[test]
fn overhead_is_the_lease_without_children_waits_and_snapshot() {
    let view = RolloutView::from(running());
    let time = view.nodes.first().unwrap().time;
    assert_eq!((time.lease_s, time.overhead_s), (Some(61.2), Some(0.45)));
    assert_eq!(view.nodes.get(1).unwrap().time.lease_s, None, "a lease that is held has no times yet");
}

#[test]
fn each_change_while_watching_is_one_line_of_json() {
    let line = render_one_of_many(&RolloutView::from(running()), Format::Json, Paint::OFF).unwrap();
    assert_eq!(line.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value.pointer("/phase"), Some(&"running".into()));
}

#[test]
fn json_and_yaml_say_the_same() {
    let view = UpgradePlanView::try_from(halted()).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&render(&view, Format::Json, Paint::OFF).unwrap()).unwrap();
    let yaml: serde_json::Value =
        serde_saphyr::from_str(&render(&view, Format::Yaml, Paint::OFF).unwrap()).unwrap();
    assert_eq!(json, yaml);
}

fn saturday_nights() -> Conduct {
    let time = |text: &str| text.to_owned().try_into().unwrap();
    let time_zone = "Europe/Berlin".to_owned().try_into().unwrap();
    Conduct {
        hooks: Hooks::default(),
        alerts: AlertFilter::default(),
        windows: vec![Window {
            days: vec![Day::Sat, Day::Sun],
            from: time("22:00"),
            to: time("04:00"),
            time_zone,
        }],
    }
}

#[test]
fn what_holds_a_roll_out_is_told_with_how_long_it_lasts_and_in_a_log_once() {
    let until = Timestamp::now() + SignedDuration::from_secs(3 * 3600 + 10 * 60 - 5);
    let reason = "waits for the window: opens Sat 2026-11-28 22:00 Europe/Berlin".to_owned();
    let held_until_ms = until.as_millisecond().try_into().unwrap();
    let first = node("w1", v1::Role::Worker, v1::NodePhase::Prepared);
    let held = v1::Rollout { reason, held_until_ms, ..rollout(v1::RolloutPhase::Running, first) };
    let held = RolloutView::from(held);
    let text = held.table(Paint::OFF);
    assert!(
        text.contains(
            "Held: waits for the window: opens Sat 2026-11-28 22:00 Europe/Berlin, in 3 h 10 min\n"
        ),
        "{text}"
    );
    let before = RolloutView::from(running());
    let told = |before, now| {
        changes(Some(before), now).into_iter().filter(|one| one.text.starts_with("held:")).count()
    };
    assert_eq!((told(&before, &held), told(&held, &held)), (1, 0));
}

#[test]
fn a_plan_shows_the_windows_and_how_its_leases_fit_into_them() {
    let windows = "the first node may be begun on now, and all leases fit into one window".to_owned();
    let forecast = v1::Forecast { windows: windows.clone(), ..v1::Forecast::default() };
    let answer = PlanAnswerView { conduct: saturday_nights(), forecast: Some(forecast.into()), ..path() };
    for text in [answer.table(Paint::OFF), answer.summary(Paint::OFF)] {
        assert!(text.contains("\nNodes are begun on only: sat, sun 22:00–04:00 Europe/Berlin\n"), "{text}");
        assert!(text.contains(&format!("\n  Windows: {windows}\n")), "{text}");
    }
}

#[test]
fn what_get_prints_is_read_as_the_document_that_was_wanted() {
    let policy = Policy {
        on_failure: OnFailure::RollBackNode,
        accepted: vec!["drift".to_owned()],
        ..Policy::default()
    };
    let rollout = v1::Rollout {
        plan: Some(plan_between("v1.19.7", "v1.20.2", policy.clone()).into()),
        onward: vec![v1::Stop {
            plan_id: "p-ba9876543210".to_owned(),
            to_version: "v1.21.1".to_owned(),
            ..v1::Stop::default()
        }],
        ..halted()
    };
    let view = UpgradePlanView::try_from(rollout).unwrap();
    for format in [Format::Yaml, Format::Json] {
        let document = document::parse(&render(&view, format, Paint::OFF).unwrap()).unwrap();
        assert_eq!(document, view.document);
        assert_eq!(document.wanted(), (KubernetesVersion::new(1, 21, 1), policy.clone()));
    }
}

fn lines(before: Option<&RolloutView>, now: &RolloutView) -> String {
    changes(before, now)
        .iter()
        .flat_map(|change| {
            [
                change.text.as_str(),
                "
",
            ]
        })
        .collect()
}

#[test]
fn a_log_says_what_happened_since_the_last_state_and_nothing_twice() {
    let states: Vec<RolloutView> = [
        rollout(v1::RolloutPhase::Preparing, node("cp2", v1::Role::ControlPlane, v1::NodePhase::Pending)),
        rollout(v1::RolloutPhase::Running, node("cp2", v1::Role::ControlPlane, v1::NodePhase::Prepared)),
        running(),
        running(),
        halted(),
        rollout(
            v1::RolloutPhase::Running,
            v1::RolloutNode {
                fencing_token: 9,
                step_number: 1,
                step: "etcd-quorum-gate".to_owned(),
                ..leased()
            },
        ),
    ]
    .into_iter()
    .map(Into::into)
    .collect();
    let befores = std::iter::once(None).chain(states.iter().map(Some));
    let log: Vec<String> = befores.zip(&states).map(|(before, now)| lines(before, now)).collect();
    assert_snapshot!(log.join("---\n"));
}

fn nodes() -> v1::ListNodesResponse {
    let object = |name: &str, control_plane| v1::ClusterNode {
        name: name.to_owned(),
        kubelet_version: "v1.19.7".to_owned(),
        control_plane,
        ready: true,
        ..Default::default()
    };
    let cp1 = v1::NodeEntry {
        name: "cp1".to_owned(),
        enrolled: true,
        connected: true,
        last_seen_ms: NOON,
        facts: Some(v1::NodeFacts {
            control_plane: true,
            kubelet_version: "v1.19.7".to_owned(),
            kubeadm_version: "v1.20.2".to_owned(),
            control_plane_version: "v1.20.2".to_owned(),
            offered_versions: vec!["v1.19.7".to_owned(), "v1.20.2".to_owned()],
            agent_version: "0.1.0".to_owned(),
            agent_memory_bytes: 9_000_000,
            errors: vec!["etcd on 127.0.0.1:2379 does not answer".to_owned()],
            ..Default::default()
        }),
        cluster_node: Some(object("cp1", true)),
    };
    let w1 = v1::NodeEntry {
        name: "w1".to_owned(),
        cluster_node: Some(v1::ClusterNode { unschedulable: true, ..object("w1", false) }),
        ..Default::default()
    };
    let stranger =
        v1::NodeEntry { name: "w9".to_owned(), enrolled: true, last_seen_ms: NOON, ..Default::default() };
    v1::ListNodesResponse { nodes: vec![cp1, w1, stranger] }
}

#[test]
fn nodes_show_their_versions_and_their_agents() {
    assert_snapshot!(NodesView::from(nodes()).table(Paint::OFF));
}

#[test]
fn nodes_are_json_with_null_for_what_nobody_reported() {
    assert_snapshot!(render(&NodesView::from(nodes()), Format::Json, Paint::OFF).unwrap());
}

fn versions() -> v1::ListVersionsResponse {
    let entry = |version: &str, offered_by, standing: v1::VersionStanding, text: &str| v1::VersionEntry {
        version: version.to_owned(),
        offered_by,
        standing: standing.into(),
        text: text.to_owned(),
        ..Default::default()
    };
    let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let off = v1::VersionStanding::OffCatalogue;
    let installed = v1::VersionEntry {
        kubelets: named(&["cp1", "cp2", "w1", "w2"]),
        control_planes: named(&["cp2"]),
        ..entry("v1.19.7", 0, off, "")
    };
    let half = v1::VersionEntry {
        kubelets: named(&["cp3"]),
        control_planes: named(&["cp1", "cp3"]),
        required_stop: true,
        ..entry("v1.20.2", 5, v1::VersionStanding::Approved, "volumes are\n  migrated here\n")
    };
    let bad = entry("v1.20.5", 5, v1::VersionStanding::KnownBad, "it loses pods");
    let next = entry("v1.21.1", 3, v1::VersionStanding::Approved, "");
    v1::ListVersionsResponse {
        catalogue: "/etc/liftlock/catalogue.toml".to_owned(),
        catalogue_flaw: String::new(),
        nodes: 5,
        silent: vec!["w2".to_owned()],
        versions: vec![installed, half, bad, next],
    }
}

#[test]
fn versions_show_who_runs_them_who_is_offered_them_and_what_the_catalogue_says() {
    assert_snapshot!(VersionsView::from(versions()).table(Paint::OFF));
    let first = v1::ListVersionsResponse { versions: versions().versions.split_off(1), ..versions() };
    assert_snapshot!(render(&VersionsView::from(first), Format::Json, Paint::OFF).unwrap());
    let unspoken =
        |entry| v1::VersionEntry { standing: 0, text: String::new(), required_stop: false, ..entry };
    let unread = v1::ListVersionsResponse {
        catalogue_flaw: "line 3, column 1: unknown field `versoin`".to_owned(),
        versions: versions().versions.into_iter().map(unspoken).collect(),
        silent: Vec::new(),
        ..versions()
    };
    assert_snapshot!(VersionsView::from(unread).table(Paint::OFF));
}

#[test]
fn history_is_a_list_oldest_first() {
    let event = |sequence, kind: &str, text: &str| v1::HistoryEvent {
        sequence,
        at_ms: NOON + sequence * 1_500,
        kind: kind.to_owned(),
        text: text.to_owned(),
        ..Default::default()
    };
    let events = vec![
        v1::HistoryEvent {
            plan_id: "p-0123456789ab".to_owned(),
            operator: "alice".to_owned(),
            ..event(1, "plan-applied", "v1.19.7 to v1.20.2, 5 nodes")
        },
        v1::HistoryEvent {
            plan_id: "p-0123456789ab".to_owned(),
            node: "cp1".to_owned(),
            fencing_token: 7,
            ..event(2, "lease-granted", "12 steps")
        },
        event(3, "token-created", "for node w3"),
    ];
    let view = HistoryView::from(v1::HistoryResponse { events });
    assert_snapshot!(view.table(Paint::OFF));
    assert_snapshot!(render(&view, Format::Json, Paint::OFF).unwrap());
}

#[test]
fn tokens_are_listed_without_secrets_and_a_new_one_stands_alone() {
    let entry = |id: &str, subject: v1::Subject, name: &str, used| v1::TokenEntry {
        id: id.to_owned(),
        subject: subject.into(),
        name: name.to_owned(),
        expires_at_ms: NOON,
        used,
    };
    let tokens = vec![
        entry("0a1b2c3d", v1::Subject::Node, "cp1", true),
        entry("4e5f6a7b", v1::Subject::Operator, "alice", false),
    ];
    let view = TokensView::from(v1::ListTokensResponse { tokens });
    assert_snapshot!(view.table(Paint::OFF));
    let created = v1::CreateTokenResponse {
        token: "liftlock1.0a1b2c3d.secret.hash".to_owned(),
        id: "0a1b2c3d".to_owned(),
        expires_at_ms: NOON,
    };
    assert_eq!(NewTokenView::from(created).table(Paint::OFF), "liftlock1.0a1b2c3d.secret.hash\n");
}

#[test]
fn an_argument_that_would_read_as_several_or_that_a_terminal_would_act_on_is_quoted() {
    for plain in ["/usr/local/sbin/replace-system", "kubeadm=1.20.2-*", "--option=Dpkg::Use-Pty=0", "größer"]
    {
        assert_eq!(word(plain), plain);
    }
    for (argument, shown) in [
        ("", "\"\""),
        ("a b", "\"a b\""),
        ("\u{1b}[2K", "\"\\u{1b}[2K\""),
        ("a\n$ true", "\"a\\n$ true\""),
        ("\u{202e}x", "\"\\u{202e}x\""),
    ] {
        assert_eq!(word(argument), shown);
    }
}
