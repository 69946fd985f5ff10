//! Pause, resume, abort, retry, and who may do what.

use liftlock_proto::v1::{ListTokensRequest, NodePhase, RolloutPhase};
use liftlock_tests::fleet::proofs;
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};

use crate::{LIMIT, TO, end_of, history, leases_of, node, policy, raised, small_fleet, until};

#[tokio::test]
async fn a_paused_roll_out_lets_the_node_under_its_lease_finish_and_starts_no_other() {
    let fleet = small_fleet().await;
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let fault = Fault::arm(tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    fault.reached(LIMIT).await.unwrap();
    fleet.cli(&["pause"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    let rollout =
        until(&fleet, "cp1 to be raised", |rollout| node(rollout, "cp1").phase() == NodePhase::Raised).await;
    assert_eq!(rollout.phase(), RolloutPhase::Paused);
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::Prepared);
    fleet.cli(&["resume"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn an_aborted_roll_out_lets_the_node_under_its_lease_finish_and_a_new_plan_goes_on() {
    let fleet = small_fleet().await;
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let fault = Fault::arm(tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    fault.reached(LIMIT).await.unwrap();
    fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    fault.disarm().unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Aborted, "{}", rollout.reason);
    assert_eq!(node(&rollout, "cp1").phase(), NodePhase::Raised);
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::Prepared);
    assert_eq!(fleet.cluster.kubelet_version("w1"), "v1.30.4");
    proofs::only_cordoned(&fleet, &[]).unwrap();
    // The cluster's control plane is at the target already: what is left is planned and raised.
    let followed = fleet.cli(&["apply", "v1.31.2", "--yes", "--accept", "api-outage"]).await.unwrap();
    assert_eq!(followed.code, 0, "{}\n{}\n{}", followed.stdout, followed.stderr, fleet.last_words());
    proofs::everything_runs(&fleet, TO).unwrap();
}

#[tokio::test]
async fn a_failed_step_halts_the_roll_out_with_its_reason_and_a_retry_does_not_repeat_what_is_done() {
    let fleet = small_fleet().await;
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let words = "[ERROR ImagePull]: the registry is on fire";
    let fault = Fault::arm(tree, &Point::KubeadmStarted, &Action::Fail(words.to_owned())).unwrap();
    let applied = fleet.cli(&["apply", "v1.31.2", "--yes", "--accept", "api-outage"]).await.unwrap();
    assert_eq!(applied.code, 4, "{}\n{}", applied.stdout, applied.stderr);
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    let failed = node(&rollout, "cp1");
    assert_eq!(failed.phase(), NodePhase::Failed);
    assert!(failed.failure.contains(words) && failed.failure.contains("exit status 1"), "{}", failed.failure);
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::Prepared, "nobody else begins after a failure");

    fault.disarm().unwrap();
    fleet.cli(&["retry", "cp1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    let tokens = leases_of(&fleet, "cp1").await;
    assert_eq!(tokens.len(), 2);
    let again: Vec<String> = history(&fleet)
        .await
        .into_iter()
        .filter(|event| event.fencing_token == tokens[1] && event.kind == "step-adopted")
        .map(|event| event.text)
        .collect();
    assert!(again.iter().any(|text| text.contains("install-kubeadm")), "{again:?}");
}

#[tokio::test]
async fn a_holder_is_dismissed_only_where_its_machine_is_said_to_be_fenced_and_then_an_operator_is_asked() {
    let fleet = small_fleet().await;
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let fault = Fault::arm(tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    let apply = [
        "apply",
        "v1.31.2",
        "--yes",
        "--detach",
        "--accept",
        "api-outage",
        "--on-failure",
        "roll-back-cluster",
    ];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    fault.reached(LIMIT).await.unwrap();
    let mut operator = fleet.operator().await.unwrap();
    let listed = operator.client.list_tokens(ListTokensRequest {}).await.unwrap().into_inner().tokens;
    let id = listed.into_iter().find(|token| token.name == "cp1").unwrap().id;
    let refused = fleet.cli(&["token", "revoke", &id]).await.unwrap();
    assert_eq!(refused.code, 3, "{}{}", refused.stdout, refused.stderr);
    for part in ["cp1 holds lease", "its agent is connected", "--fenced", "nothing is begun before you say"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let dismissed = fleet.cli(&["token", "revoke", &id, "--fenced"]).await.unwrap().success().unwrap();
    assert!(dismissed.stderr.contains("cp1 failed: its certificate was taken back"), "{}", dismissed.stderr);
    let halted = end_of(&fleet).await;
    assert_eq!(halted.phase(), RolloutPhase::Halted, "the policy has no say: {}", halted.reason);
    assert!(leases_of(&fleet, "w1").await.is_empty() && leases_of(&fleet, "cp1").await.len() == 1);
    let aborted = fleet.cli(&["abort"]).await.unwrap().success().unwrap();
    for part in ["Left half done: cp1 was begun on and not raised", "`kubectl uncordon cp1`"] {
        assert!(aborted.stdout.contains(part), "{part}: {}", aborted.stdout);
    }
    fault.disarm().unwrap();
}

#[tokio::test]
async fn a_viewer_may_look_and_not_touch_and_an_operator_may_do_both() {
    let fleet = small_fleet().await;
    let folder = |name: &str| fleet.folder().join("home").join(name);
    for (kind, name) in [("--viewer", "vera"), ("--operator", "otto")] {
        let token = fleet.token(&[kind, name]).await.unwrap();
        let file = fleet.folder().join(name);
        liftlock_tests::standin::pki::write_secret(&file, &token).unwrap();
        let login = ["login", "--token-file", file.as_str(), "--coordinator", &fleet.url()];
        fleet.cli_as(&folder(name), &login).await.unwrap().success().unwrap();
    }
    let viewer = folder("vera");
    for reading in
        [&["nodes"][..], &["versions"], &["history"], &["plan", "v1.31.2", "--accept", "api-outage"]]
    {
        fleet.cli_as(&viewer, reading).await.unwrap().success().unwrap();
    }
    let forbidden = [
        &["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"][..],
        &["pause"],
        &["resume"],
        &["abort"],
        &["retry", "cp1"],
        &["token", "create", "--operator", "mallory"],
        &["token", "list"],
        &["token", "revoke", "00000000"],
    ];
    for verb in forbidden {
        let refused = fleet.cli_as(&viewer, verb).await.unwrap();
        assert_eq!(refused.code, 6, "{verb:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("vera") || refused.stderr.contains("viewer"),
            "{verb:?}: {}",
            refused.stderr
        );
    }
    let operator = folder("otto");
    let applied = ["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"];
    fleet.cli_as(&operator, &applied).await.unwrap().success().unwrap();
    assert_eq!(raised(&fleet, TO).await.started_by, "otto");
}

#[tokio::test]
async fn a_plan_that_would_come_out_differently_now_is_not_applied() {
    let fleet = small_fleet().await;
    let mut operator = fleet.operator().await.unwrap();
    let request = liftlock_proto::v1::MakePlanRequest {
        to_version: TO.to_string(),
        policy: Some(policy()),
        conduct: None,
    };
    let plan = operator.client.make_plan(request).await.unwrap().into_inner().plan.unwrap();
    let mut altered = plan.clone();
    altered.nodes.reverse();
    let refused = operator
        .client
        .apply(liftlock_proto::v1::ApplyRequest {
            plan: Some(altered),
            onward: vec![],
            conduct: None,
            document: String::new(),
        })
        .await;
    assert!(refused.is_err(), "a plan that somebody changed was applied");
    operator
        .client
        .apply(liftlock_proto::v1::ApplyRequest {
            plan: Some(plan.clone()),
            onward: vec![],
            conduct: None,
            document: String::new(),
        })
        .await
        .unwrap();
    let twice = operator
        .client
        .apply(liftlock_proto::v1::ApplyRequest {
            plan: Some(plan),
            onward: vec![],
            conduct: None,
            document: String::new(),
        })
        .await;
    assert_eq!(twice.unwrap_err().code(), tonic::Code::FailedPrecondition);
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn two_nodes_more_than_the_agents_know_are_named_in_the_refusal() {
    let mut fleet = liftlock_tests::fleet::Fleet::without_agents(&Shape::new(1, 2)).await.unwrap();
    fleet.start_agent("cp1").await.unwrap();
    fleet.operator().await.unwrap().wait_for_facts(&["cp1".to_owned()], LIMIT).await.unwrap();
    let refused = fleet.cli(&["plan", "v1.31.2", "--accept", "api-outage"]).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("w1") && refused.stderr.contains("w2"), "{}", refused.stderr);
}
