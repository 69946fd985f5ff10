use liftlock_proto::argv;
use liftlock_proto::blocked::{NodePolicy, OnBlocked};
use liftlock_proto::control_planes::ControlPlanes;
use liftlock_proto::hooks::{NodeHook, NodeHooks};
use liftlock_proto::plan::OnFailure;
use liftlock_proto::v1;
use liftlock_proto::workers::{Canary, Pool, Share, Workers};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::core::alerts::AlertFilter;
use crate::core::gates;
use crate::core::hooks::{Hook, Target};
use crate::core::window::{Day, Window};

const PLAN: &str = "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.20.2\n";

fn printed(document: &UpgradePlan) -> String {
    serde_saphyr::to_string(document).unwrap()
}

fn why(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_document_holds_a_version_and_a_policy() {
    assert_eq!(parse(PLAN).unwrap().wanted(), (KubernetesVersion::new(1, 20, 2), Policy::default()));
    let json = r#"{"apiVersion": "liftlock.dev/v1", "kind": "UpgradePlan", "metadata": {"name": "a"},
        "spec": {"toVersion": "v1.20.2", "policy": {"accepted": ["api-outage"], "deleteEmptyDirData": true}}}"#;
    let (_, policy) = parse(json).unwrap().wanted();
    let expected =
        Policy { accepted: vec!["api-outage".to_owned()], delete_empty_dir_data: true, ..Policy::default() };
    assert_eq!(policy, expected);
}

#[test]
fn what_does_not_read_is_named_with_its_place_its_field_its_value_and_what_is_allowed() {
    let with = |more: &str| why(&format!("{PLAN}  policy:\n    {more}\n"));
    let workers = |more: &str| why(&format!("{PLAN}  workers:\n    {more}\n"));
    let hooks = |more: &str| why(&format!("{PLAN}  hooks:\n    {more}\n"));
    let windows = |window: &str| why(&format!("{PLAN}  windows:\n  - {{{window}}}\n"));
    let refused = [
        with("drainTimeout: 5"),
        with("drainTimeoutSeconds: ten"),
        with("drainTimeoutSeconds: 0 # never"),
        with("drainTimeoutSeconds: -1"),
        with("drainTimeoutSeconds: \"600\""),
        with("drainTimeoutSeconds: 1.5"),
        with("drainTimeoutSeconds: 99999999999"),
        with("deleteUnmanagedPods: yes"),
        with("redeploy: \"true\""),
        with("workersSkipStops: [1]"),
        with("accepted: api-outage"),
        with("accepted: [api-outage, banana]"),
        with("accepted:\n    - api-outage\n    - {a: b}"),
        with("ignorePreflightErrors: [\"A,B\"]"),
        with("onFailure: rollback"),
        with("onFailure: [halt]"),
        with("onFailure:"),
        with("onBlocked: never"),
        with("nodes: [{name: w1, onBlocked: skip}]"),
        with("redeploy: true\n    redeploy: false"),
        workers("maxUnavailable: 0"),
        workers("maxUnavailable: \"2\""),
        workers("maxUnavailable: 120%"),
        workers("maxUnavailable: [1]"),
        workers("failureBudget: -1"),
        workers("canary: {}"),
        workers("canary: {nodes: 1, soakSeconds: 10m}"),
        workers("pools: [{name: gpu}]"),
        workers("pools: [{name: GPU, selector: pool=gpu}]"),
        workers("pools: [{name: gpu, selector: pool>1}]"),
        workers("pools: [{name: others, selector: pool=gpu}]"),
        workers("pools: [{name: gpu, selector: pool=gpu, pauseAfter: yes}]"),
        workers("pools: [{name: gpu, selector: pool=gpu, nodes: 2}]"),
        workers("pools: [{name: gpu, selector: pool=gpu, onBlocked: wait}]"),
        workers("nodes: [{name: w1, onBlocked: wait}]"),
        workers("nodes: [{name: w1}]"),
        why(&format!("{PLAN}  policy:\n")),
        why(&format!("{PLAN}  policy: none\n")),
        why(&format!("{PLAN}metadata: {{name: To_1}}\n")),
        why(&format!("{PLAN}metadata: {{name: 1}}\n")),
        why(&format!("{PLAN}metadata: {{name: a, labels: {{}}}}\n")),
        why(&format!("{PLAN}target: v1.20.2\n")),
        why(&PLAN.replace("v1.20.2", "banana")),
        why(&PLAN.replace("v1.20.2", "1.20")),
        why(&PLAN.replace("v1.20.2", "[v1.20.2]")),
        why(&PLAN.replace("v1.20.2", "")),
        why(&PLAN.replace("  toVersion: v1.20.2", "  policy: {}")),
        why(&PLAN.replace("kind: UpgradePlan\n", "")),
        why(&PLAN.replace("UpgradePlan", "Pod")),
        why(&PLAN.replace("liftlock.dev/v1", "liftlock.dev/v2")),
        why(&format!("{PLAN}---\n{PLAN}")),
        why(&PLAN.replace("spec:", "spec: *anchor")),
        windows("days: [sat], from: \"22:00\", to: \"24:00\", timeZone: UTC"),
        windows("days: [sat], from: \"22:00\", to: \"04:00\", timeZone: Europe/Berln"),
        windows("days: [sat, sunday], from: \"22:00\", to: \"04:00\", timeZone: UTC"),
        windows("days: [], from: \"22:00\", to: \"04:00\", timeZone: UTC"),
        windows("days: sat, from: \"22:00\", to: \"04:00\", timeZone: UTC"),
        windows("days: [sat], from: 22, to: \"04:00\", timeZone: UTC"),
        windows("days: [sat], from: \"22:00\", to: \"04:00\""),
        windows("day: [sat]"),
        hooks("beforeNode: [{name: Announce}]"),
        hooks("beforeNode: [{name: announce, command: [/bin/true]}]"),
        hooks("beforeNode: [{name: announce, url: \"https://a.example/\"}]"),
        hooks("beforeNode: [{timeoutSeconds: 5}]"),
        hooks("beforeNode: [announce]"),
        hooks("afterPool: {name: announce}"),
        hooks("afterPlan: [{name: announce, on: w1}]"),
        hooks("afterPlan: [{url: \"https://a.example/\", on: coordinator}]"),
        hooks("afterPlan: [{url: \"https://me:s3cret@a.example/\"}]"),
        hooks("afterPlan: [{url: \"a.example/s3cret\"}]"),
        hooks("afterPlan: [{name: announce, timeoutSeconds: 0}]"),
        hooks("afterPlan: [{name: announce}, {name: announce, timeoutSeconds: 5}]"),
        hooks("beforePlan: [{name: announce, on: node}]"),
        hooks("during: []"),
        why(&format!("{PLAN}  alerts: {{onlyMatching: {{severity: []}}}}\n")),
        why(&format!("{PLAN}  alerts: {{onlyMatching: {{severity: critical}}}}\n")),
        workers("nodes: [{name: \"w1\\n\", onBlocked: skip}]"),
        with("drainTimeoutSeconds: 1e999"),
        with("drainTimeoutSeconds: .nan"),
        with("drainTimeoutSeconds: 010"),
        with("drainTimeoutSeconds: !!binary /w=="),
        with("onFailure: !halt halt"),
        with("accepted: [&a api-outage, &b banana, *b]"),
        with("<<: 5"),
        why(&PLAN.replace("v1.20.2", "&v banana").replace("kind: ", "metadata: {name: *v}\nkind: ")),
        why(&PLAN
            .replace("UpgradePlan\nspec:\n  toVersion: v1.20.2", "&k UpgradePlan\nspec:\n  toVersion: *k")),
        why(&PLAN.replace("v1.20.2", "!!binary /w==")),
        why(&PLAN.replace("v1.20.2", "\"v1\\e[2J\\n\\u202e\"")),
        why(&PLAN.replace("v1.20.2", "\tv1.20.2\0")),
        why(&format!("{PLAN}  \"\\e]0;\\a\": 1\n")),
        why(&format!("---\n---\n{PLAN}")),
        why("---\n"),
        why("{"),
        why("a: \"b"),
        why("- a\n"),
        why("banana\n"),
        why("# nothing\n"),
        why(""),
    ];
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn what_is_no_text_is_named_with_its_place() {
    let why = |content: &[u8]| parse_file(content).unwrap_err().to_string();
    assert_eq!(why(b"kind: \xff"), "line 1, column 7: this is no text: allowed is UTF-8");
    assert_eq!(
        why("kind: 1\n\u{fc}: \u{fc}".as_bytes().split_last().unwrap().1),
        "line 2, column 4: this is no text: allowed is UTF-8"
    );
    assert_eq!(parse_file(PLAN.as_bytes()), parse(PLAN));
    // As editors of another system write it.
    assert_eq!(parse_file(format!("\u{feff}{}", PLAN.replace('\n', "\r\n")).as_bytes()), parse(PLAN));
}

#[test]
fn a_value_of_any_length_is_refused_in_a_few_words_that_end_with_what_is_allowed() {
    let long = "a\u{301}".repeat(1_000_000);
    for (text, allowed) in [
        (PLAN.replace("v1.20.2", &long), "such as v1.20.2"),
        (format!("{PLAN}metadata: {{name: {long}}}\n"), "beside each dot"),
        (format!("{PLAN}  policy: {{accepted: [{long}]}}\n"), "drain-only-node"),
        (format!("{PLAN}  policy: {{onFailure: {long}}}\n"), "roll-back-cluster"),
        (format!("{{\"{long}\": 1}}"), ""),
    ] {
        let why = why(&text);
        assert!(why.chars().count() < 1500 && why.starts_with("line ") && why.ends_with(allowed), "{why}");
    }
}

#[test]
fn a_document_that_unfolds_without_end_is_refused() {
    let lists = (1..30).map(|level| format!("  a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1));
    let laughs = format!("status:\n  a0: &a0 [x, x]\n{}{PLAN}", lists.collect::<String>());
    let deep = format!("{PLAN}status: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let names = format!("{PLAN}  policy: {{accepted: [&a swap{}]}}\n", ", *a".repeat(100_000));
    for text in [laughs, deep, names] {
        let why = why(&text);
        assert!(why.starts_with("line ") && why.len() < 250, "{why}");
    }
}

#[test]
fn a_document_says_how_workers_are_raised() {
    let text = "  workers:\n    maxUnavailable: 20%\n    failureBudget: 1\n    canary: {nodes: 2}\n    pools:\n    - name: gpu\n      \
                selector: pool in (gpu),!old\n      maxUnavailable: 2\n      pauseAfter: true\n      onBlocked: skip\n    nodes: [{name: w1, onBlocked: force}]\n";
    let (_, policy) = parse(&format!("{PLAN}{text}")).unwrap().wanted();
    let gpu = Pool {
        name: "gpu".to_owned(),
        selector: "pool in (gpu),!old".to_owned(),
        max_unavailable: Some(Share::Nodes(2)),
        canary: None,
        pause_after: true,
        on_blocked: Some(OnBlocked::Skip),
    };
    let workers = Workers {
        max_unavailable: Some(Share::Percent(20)),
        failure_budget: 1,
        canary: Some(Canary { nodes: 2, soak_seconds: 600 }),
        pools: vec![gpu],
        nodes: vec![NodePolicy { name: "w1".to_owned(), on_blocked: OnBlocked::Force }],
        ..Workers::default()
    };
    assert_eq!(policy, Policy { workers, ..Policy::default() });
    let (_, empty) = parse(&format!("{PLAN}  workers: {{}}\n")).unwrap().wanted();
    assert_eq!(empty, Policy::default());
}

#[test]
fn a_document_says_how_workers_come_to_the_version_and_one_that_does_not_is_as_it_was() {
    let surge = "  workers: {strategy: surge, maxSurge: 20%, with: [n1, n2]}\n";
    let (_, policy) = parse(&format!("{PLAN}{surge}")).unwrap().wanted();
    let wanted = Workers {
        strategy: liftlock_proto::strategy::Strategy::Surge,
        max_surge: Some(Share::Percent(20)),
        with: vec!["n1".to_owned(), "n2".to_owned()],
        ..Workers::default()
    };
    assert_eq!(policy.workers, wanted);
    let (_, in_place) = parse(&format!("{PLAN}  workers: {{strategy: in-place}}\n")).unwrap().wanted();
    assert_eq!(in_place, Policy::default());
    let unknown = parse(&format!("{PLAN}  workers: {{strategy: blueGreen}}\n")).unwrap_err().to_string();
    for said in ["spec.workers.strategy", "blueGreen", "in-place", "surge", "blue-green"] {
        assert!(unknown.contains(said), "{said}: {unknown}");
    }
}

#[test]
fn a_document_says_which_control_planes_there_are_in_the_end() {
    let surge = "  controlPlanes: {strategy: surge, nodes: [n1, cp2]}\n";
    let (_, policy) = parse(&format!("{PLAN}{surge}")).unwrap().wanted();
    let nodes = vec!["n1".to_owned(), "cp2".to_owned()];
    let strategy = liftlock_proto::strategy::Strategy::Surge;
    assert_eq!(policy.control_planes, ControlPlanes { strategy, nodes });
    let no_second_set = format!("{PLAN}  controlPlanes: {{strategy: blue-green, nodes: [n1]}}\n");
    let refused = parse(&no_second_set).unwrap_err().to_string();
    for said in ["spec.controlPlanes.strategy", "blue-green", "in-place", "surge"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[test]
fn a_document_says_how_its_roll_out_is_conducted_and_nothing_of_that_is_part_of_the_plan() {
    let windows = "  windows:\n  - {days: [sat, sun], from: 22:00, to: 04:00, timeZone: Europe/Berlin}\n";
    let document = parse(&format!("{PLAN}{windows}")).unwrap();
    assert_eq!(document.clone().wanted(), parse(PLAN).unwrap().wanted());
    let told: Vec<String> = document.conduct().windows.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["sat, sun 22:00–04:00 Europe/Berlin"]);
    let (version, policy) = document.clone().wanted();
    let again = UpgradePlan::new(version, policy).conducted(document.conduct());
    assert_eq!(parse(&printed(&again)).unwrap(), again);
    assert_eq!(again.spec, document.spec);
    assert!(!printed(&parse(PLAN).unwrap()).contains("windows"), "what is not said is not printed");
    assert!(satisfies(schema().as_value(), &serde_json::to_value(&again).unwrap()));
}

#[test]
fn a_status_is_not_read_and_a_comment_is_none_of_the_plan() {
    let with_status = format!("# a comment\n{PLAN}status:\n  plan: {{nodes: [a, {{b: c}}]}}\n");
    assert_eq!(parse(&with_status), parse(PLAN));
    // As long as that of a cluster of a thousand nodes.
    let nodes =
        "  - {name: a, steps: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r]}\n".repeat(20_000);
    assert_eq!(parse(&format!("{PLAN}status:\n{nodes}")), parse(PLAN));
}

#[test]
fn documents_differ_field_by_field_and_a_default_is_what_is_left_out() {
    let spec = |text: &str| parse(text).unwrap().spec;
    let same = spec(&format!("{PLAN}  policy:\n    onFailure: halt\n"));
    assert_eq!(differences(&spec(PLAN), &same).unwrap(), []);
    let other = format!("{PLAN}  policy:\n    onFailure: roll-back-node\n    accepted: [swap]\n");
    let other = spec(&other.replace("v1.20.2", "v1.21.1"));
    let found = differences(&spec(PLAN), &other).unwrap();
    let fields: Vec<&str> = found.iter().map(|difference| difference.field.as_str()).collect();
    assert_eq!(fields, ["spec.policy.accepted", "spec.policy.onFailure", "spec.toVersion"]);
    assert_eq!((&found[2].one, &found[2].other), (&"v1.20.2".into(), &"v1.21.1".into()));
    let workers = spec(&format!("{PLAN}  workers: {{failureBudget: 1, canary: {{nodes: 2}}}}\n"));
    let found = differences(&spec(PLAN), &workers).unwrap();
    let fields: Vec<&str> = found.iter().map(|difference| difference.field.as_str()).collect();
    let expected = ["canary.nodes", "canary.soakSeconds", "failureBudget"];
    assert_eq!(fields, expected.map(|field| format!("spec.workers.{field}")));
}

#[test]
fn the_schema_is_what_is_read() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema()).unwrap());
}

fn words() -> impl Strategy<Value = OnBlocked> {
    prop::sample::select(OnBlocked::ALL.to_vec())
}

fn workers() -> impl Strategy<Value = Workers> {
    let share = || prop_oneof![(1u32..).prop_map(Share::Nodes), (1u32..=100).prop_map(Share::Percent)];
    let canary =
        || (any::<u32>(), any::<u32>()).prop_map(|(nodes, soak_seconds)| Canary { nodes, soak_seconds });
    let selector = prop::sample::select(vec!["pool=gpu", "tier in (a,b),!legacy", "x"]);
    let pool =
        ("[a-z0-9-]{1,5}", selector, prop::option::of(share()), prop::option::of(canary()), any::<bool>());
    let pool = (pool, prop::option::of(words()));
    let pool = pool.prop_map(|((name, selector, max_unavailable, canary, pause_after), on_blocked)| Pool {
        name,
        selector: selector.to_owned(),
        max_unavailable,
        canary,
        pause_after,
        on_blocked,
    });
    let node = ("[a-z0-9]{1,12}", words());
    let node = node.prop_map(|(name, on_blocked)| NodePolicy { name, on_blocked });
    let of_some = (prop::collection::vec(pool, 0..3), prop::collection::vec(node, 0..3));
    let strategy = prop::sample::select(liftlock_proto::strategy::Strategy::ALL.to_vec());
    let with = prop::collection::vec("[a-z0-9]{1,5}", 0..3);
    let replaced = (strategy, prop::option::of(share()), with, prop::option::of(any::<u32>()));
    (prop::option::of(share()), any::<u32>(), prop::option::of(canary()), of_some, replaced).prop_map(
        |(
            max_unavailable,
            failure_budget,
            canary,
            (pools, nodes),
            (strategy, max_surge, with, soak_seconds),
        )| {
            Workers {
                max_unavailable,
                failure_budget,
                canary,
                pools,
                nodes,
                strategy,
                max_surge,
                with,
                soak_seconds,
            }
        },
    )
}

#[test]
fn a_document_says_what_the_coordinator_and_the_nodes_call_and_is_printed_as_the_same() {
    let hooks = "  hooks:\n    beforeNode:\n    - {name: stop-batch, on: node, timeoutSeconds: 5}\n    - {name: lb-out}\n    - \
                 {url: \"https://chat.example/T0\"}\n    afterPlan: [{name: announce, on: coordinator}]\n";
    let document = parse(&format!("{PLAN}{hooks}")).unwrap();
    let printed_again = parse(&printed(&document)).unwrap();
    assert_eq!(document.spec, printed_again.spec);
    let called = document.conduct().hooks;
    let target = |hook: &Hook| hook.target.clone();
    assert_eq!(
        called.before_node.iter().map(target).collect::<Vec<_>>(),
        [Target::Name("lb-out".to_owned()), Target::Url("https://chat.example/T0".to_owned())]
    );
    assert_eq!(
        called.after_plan,
        [Hook { target: Target::Name("announce".to_owned()), timeout_seconds: 300 }]
    );
    let conduct = document.conduct();
    let (version, policy) = document.clone().wanted();
    let on_node = NodeHook { name: "stop-batch".to_owned(), timeout_seconds: 5 };
    assert_eq!(policy.node_hooks, NodeHooks { before: vec![on_node], after: Vec::new() });
    assert_eq!(
        UpgradePlan::new(version, policy).conducted(conduct).spec,
        document.spec,
        "nothing of it is lost"
    );
}

fn control_planes() -> impl Strategy<Value = ControlPlanes> {
    use liftlock_proto::strategy::Strategy;
    let strategy = prop::sample::select(vec![Strategy::InPlace, Strategy::Surge]);
    let nodes = prop::collection::vec("[a-z0-9]{1,5}", 0..3);
    (strategy, nodes).prop_map(|(strategy, nodes)| ControlPlanes { strategy, nodes })
}

fn policies() -> impl Strategy<Value = Policy> {
    let gates = prop::sample::subsequence(gates::consents().collect::<Vec<_>>(), 0..4);
    let checks = prop::collection::vec("[A-Za-z0-9-]{1,12}", 0..3);
    let on_failure = prop::sample::select(OnFailure::ALL.to_vec());
    let nodes = (words(), workers(), control_planes());
    (1u32.., any::<[bool; 4]>(), checks, gates, on_failure, nodes).prop_map(
        |(
            drain_timeout_seconds,
            [pods, data, redeploy, skip],
            checks,
            gates,
            on_failure,
            (on_blocked, workers, control_planes),
        )| Policy {
            replacement: None,
            drain_timeout_seconds,
            delete_unmanaged_pods: pods,
            delete_empty_dir_data: data,
            ignore_preflight_errors: checks,
            accepted: gates.into_iter().map(str::to_owned).collect(),
            on_failure,
            redeploy,
            workers_skip_stops: skip,
            workers,
            control_planes,
            on_blocked,
            node_hooks: NodeHooks::default(),
        },
    )
}

fn conducts() -> impl Strategy<Value = Conduct> {
    let days = prop::sample::subsequence(Day::ALL.to_vec(), 1..7);
    let time = || (0..24_u32, 0..60_u32).prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"));
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns"]);
    let window = (days, time(), time(), zone).prop_map(|(days, from, to, zone)| Window {
        days,
        from: from.try_into().unwrap(),
        to: to.try_into().unwrap(),
        time_zone: zone.to_owned().try_into().unwrap(),
    });
    // What a document quotes, and what it does not: numbers, truth values, nothing, characters that are not seen.
    let text = || prop_oneof!["[a-z]{1,8}", "\\PC{0,8}", "1|yes|true|null|~|1e3|\\.nan", any::<String>()];
    let matching = prop::collection::btree_map(text(), prop::collection::vec(text(), 1..3), 0..3);
    (prop::collection::vec(window, 0..3), prop::collection::vec(text(), 0..3), matching).prop_map(
        |(windows, ignore, only_matching)| Conduct {
            windows,
            alerts: AlertFilter { ignore, only_matching },
            ..Conduct::default()
        },
    )
}

fn versions() -> impl Strategy<Value = KubernetesVersion> {
    (any::<u16>(), any::<u16>()).prop_map(|(minor, patch)| KubernetesVersion::new(1, minor, patch))
}

/// What the schema says of the fields, without a validator: whatever its patterns, lists and bounds take is read.
fn satisfies(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    use serde_json::Value;
    let allowed = schema.get("enum").and_then(Value::as_array);
    let one_of = schema.get("oneOf").and_then(Value::as_array);
    let least = schema.get("minimum").and_then(Value::as_u64);
    let fits = match value {
        Value::Object(fields) => {
            let known = schema.get("properties").and_then(Value::as_object);
            let required = schema.get("required").and_then(Value::as_array);
            schema.get("additionalProperties") == Some(&Value::Bool(false))
                && required.is_none_or(|names| {
                    names.iter().filter_map(Value::as_str).all(|name| fields.contains_key(name))
                })
                && fields.iter().all(|(name, value)| {
                    known.and_then(|known| known.get(name)).is_some_and(|schema| satisfies(schema, value))
                })
        }
        Value::Array(entries) => {
            entries.iter().all(|entry| schema.get("items").is_some_and(|schema| satisfies(schema, entry)))
        }
        Value::Number(number) => least.is_none_or(|least| number.as_u64() >= Some(least)),
        _ => true,
    };
    fits && allowed.is_none_or(|allowed| allowed.contains(value))
        && one_of.is_none_or(|ways| ways.iter().any(|way| way.get("const") == Some(value)))
}

proptest! {
    #[test]
    fn a_policy_becomes_a_document_and_the_document_the_same_policy(
        version in versions(), policy in policies(),
    ) {
        let document = UpgradePlan::new(version, policy.clone());
        let read = parse(&printed(&document)).unwrap();
        prop_assert_eq!(&read, &document);
        prop_assert_eq!(parse(&serde_json::to_string(&document).unwrap()).unwrap(), document);
        prop_assert_eq!(read.wanted(), (version, policy));
    }

    #[test]
    fn a_document_becomes_a_policy_and_the_policy_the_same_document(
        version in versions(), policy in policies(), name in "[a-z0-9]{1,9}([.-][a-z0-9]{1,9}){0,3}",
    ) {
        let text = printed(&UpgradePlan::new(version, policy));
        let named = text.replace(&format!("to-{version}"), &format!("\"{name}\""));
        let document = parse(&named).unwrap();
        prop_assert_eq!(String::from(document.metadata.clone().unwrap().name), name);
        let (version, policy) = document.clone().wanted();
        prop_assert_eq!(UpgradePlan::new(version, policy).spec, document.spec);
    }

    #[test]
    fn whatever_a_document_may_hold_comes_back_as_it_was_from_paper_and_from_the_wire(
        version in versions(), policy in policies(), conduct in conducts(),
    ) {
        let document = UpgradePlan::new(version, policy.clone()).conducted(conduct.clone());
        prop_assert_eq!(&parse(&printed(&document)).unwrap(), &document);
        prop_assert_eq!(&parse(&serde_json::to_string(&document).unwrap()).unwrap(), &document);
        let wire = (v1::Policy::from(policy).encode_to_vec(), v1::Conduct::from(conduct).encode_to_vec());
        let policy = v1::Policy::decode(wire.0.as_slice()).unwrap().try_into().unwrap();
        let conduct = v1::Conduct::decode(wire.1.as_slice()).unwrap().try_into().unwrap();
        prop_assert_eq!(UpgradePlan::new(version, policy).conducted(conduct), document);
    }

    #[test]
    fn every_document_satisfies_the_schema(version in versions(), policy in policies()) {
        let value = serde_json::to_value(UpgradePlan::new(version, policy.clone())).unwrap();
        prop_assert!(satisfies(schema().as_value(), &value), "{value}");
        prop_assert!(policy.ignore_preflight_errors.iter().all(|name| argv::preflight_check_name(name)));
    }

    #[test]
    fn no_text_whatever_it_is_does_more_than_be_refused(text in "\\PC*") {
        let _ = parse(&text);
        let _ = parse(&format!("{PLAN}  policy: {text}\n"));
    }
}
