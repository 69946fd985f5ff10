//! Bad input: each is one clear error, and nothing is lost.

use std::fs;
use std::time::Duration;

use camino::Utf8PathBuf;
use liftlock_proto::enrollment::Identity;
use liftlock_proto::v1::agent_service_client::AgentServiceClient;
use liftlock_proto::v1::{
    AgentMessage, Hello, ListNodesRequest, NodeFacts, NodePhase, RolloutPhase, agent_message,
};
use liftlock_tests::fleet::Fleet;
use liftlock_tests::fleet::operator::Operator;
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::pki::write_secret;
use tonic::Code;
use tonic::transport::Channel;

use crate::{LIMIT, TO, end_of, leases_of, node, policy, raised, small_fleet};

#[tokio::test]
async fn a_version_that_cannot_be_reached_is_refused_in_a_sentence() {
    let fleet = small_fleet().await;
    for (version, why) in [
        ("v1.31.9", "version-not-offered"),
        ("v1.33.0", "v1.32 is a stop on the way"),
        ("v1.29.0", "downgrade"),
    ] {
        let refused = fleet.cli(&["plan", version, "--accept", "api-outage"]).await.unwrap();
        assert_eq!(refused.code, 3, "{version}: {}", refused.stderr);
        assert!(refused.stderr.contains(why), "{version}: {}", refused.stderr);
        assert!(refused.stderr.contains(version), "{}", refused.stderr);
        let refused = fleet.cli(&["apply", version, "--yes", "--accept", "api-outage"]).await.unwrap();
        assert_eq!(refused.code, 3, "{version}: {}", refused.stderr);
    }
    let consent = fleet.cli(&["plan", "v1.31.2"]).await.unwrap();
    assert_eq!(consent.code, 3);
    assert!(consent.stderr.contains("--accept api-outage"), "{}", consent.stderr);
}

#[tokio::test]
async fn a_plan_file_that_does_not_read_is_named_with_its_line() {
    let fleet = Fleet::without_agents(&Shape::new(1, 0)).await.unwrap();
    let file = fleet.folder().join("plan.yaml");
    fs::write(&file, "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: banana\n").unwrap();
    let refused = fleet.cli(&["apply", "--yes", "--file", file.as_str()]).await.unwrap();
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("plan.yaml is not an upgrade plan: line 4, column 14"),
        "{}",
        refused.stderr
    );
    for verb in ["plan", "diff"] {
        let refused = fleet.cli_with_input(&[verb, "-f", "-"], "kind: Pod\n").await.unwrap();
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("standard input") && refused.stderr.contains("UpgradePlan"),
            "{refused:?}"
        );
    }
    for (content, words) in [
        (&b"kind: \xff"[..], "line 1, column 7: this is no text: allowed is UTF-8"),
        (b"kind: \"\\e[2J\\nPlan p-0: raised\"", "line 1, column 7: kind: "),
        (b"\"\\e[2J\": 1", "\\u{1b}[2J: there is no such field"),
    ] {
        fs::write(&file, content).unwrap();
        let refused = fleet.cli(&["plan", "--file", file.as_str()]).await.unwrap();
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        let plain = !refused.stderr.contains('\u{1b}') && refused.stderr.trim_end().lines().count() == 1;
        assert!(plain && refused.stderr.contains(words), "{refused:?}");
    }
    let missing = fleet.cli(&["plan", "--file", "/no/such/plan.yaml"]).await.unwrap();
    assert!(missing.code != 0 && missing.stderr.contains("/no/such/plan.yaml"), "{}", missing.stderr);
    for version in ["banana", "1.31", "v1.31.2-rc.1"] {
        let refused = fleet.cli(&["plan", version]).await.unwrap();
        assert_eq!(refused.code, 2, "{version}: {}", refused.stderr);
    }
}

/// Tries to enrol a node with a token; what the agent says.
async fn enrol(fleet: &Fleet, node: &str, token: &str) -> (i32, String) {
    let machine = fleet.cluster.machine(node).unwrap();
    let file = fleet.folder().join(format!("token-of-{node}"));
    write_secret(&file, token).unwrap();
    let (url, root, state) = (fleet.url(), machine.tree.root(), machine.tree.agent_state());
    let place = ["--root", root.as_str(), "--state-dir", state.as_str()];
    let arguments =
        [&["enroll", "--coordinator", &url, "--node", node, "--token-file", file.as_str()][..], &place]
            .concat();
    let output = fleet.agent_program(&arguments).await.unwrap();
    (output.code, output.stderr)
}

#[tokio::test]
async fn a_token_that_is_wrong_used_revoked_ended_or_anothers_enrols_nobody() {
    let fleet = Fleet::without_agents(&Shape::new(1, 1)).await.unwrap();
    let token = fleet.token(&["--node", "w1"]).await.unwrap();

    let (code, words) = enrol(&fleet, "w1", "liftlock1.nonsense").await;
    assert!(code != 0 && words.contains("not a join token"), "{words}");
    let (code, words) = enrol(&fleet, "cp1", &token).await;
    assert!(code != 0 && words.contains("refused"), "a token of w1 was taken for cp1: {words}");
    let mut parts: Vec<&str> = token.split('.').collect();
    let wrong = "0".repeat(64);
    parts[2] = &wrong;
    let (code, words) = enrol(&fleet, "w1", &parts.join(".")).await;
    assert!(code != 0 && words.contains("refused"), "a wrong secret was taken: {words}");
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[3] = &wrong;
    let (code, words) = enrol(&fleet, "w1", &parts.join(".")).await;
    assert!(code != 0 && words.contains("CA"), "a foreign CA was trusted: {words}");
    assert!(!words.contains(parts[2]), "a secret in the log");

    let (code, words) = enrol(&fleet, "w1", &token).await;
    assert_eq!(code, 0, "after all those tries the right one still works: {words}");
    let (code, words) = enrol(&fleet, "w1", &token).await;
    assert!(code != 0 && words.contains("used"), "a used token was taken: {words}");

    let revoked = fleet.token(&["--node", "cp1"]).await.unwrap();
    fleet.cli(&["token", "revoke", revoked.split('.').nth(1).unwrap()]).await.unwrap().success().unwrap();
    let (code, words) = enrol(&fleet, "cp1", &revoked).await;
    assert!(code != 0 && words.contains("refused"), "a revoked token was taken: {words}");

    let short = fleet.token(&["--node", "cp1", "--ttl", "1s"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (code, words) = enrol(&fleet, "cp1", &short).await;
    assert!(code != 0 && words.contains("refused"), "a token that had ended was taken: {words}");
}

/// The identity of a node's agent.
fn identity_of(fleet: &Fleet, node: &str) -> Identity {
    let folder = fleet.cluster.machine(node).unwrap().tree.agent_state().join("identity");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    Identity { key_pem: read("key.pem"), certificate_pem: read("cert.pem"), ca_pem: read("ca.pem") }
}

async fn channel(fleet: &Fleet, identity: &Identity) -> Result<Channel, tonic::transport::Error> {
    identity.endpoint(&fleet.url().parse().unwrap())?.connect().await
}

/// Opens a session as an agent does, says these things, and returns how the coordinator ended it.
async fn session(channel: Channel, messages: Vec<AgentMessage>) -> tonic::Status {
    let outbound = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let mut inbound = match AgentServiceClient::new(channel).session(outbound).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    loop {
        match tokio::time::timeout(Duration::from_secs(20), inbound.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => return tonic::Status::ok("ended"),
            Err(status) => return status,
        }
    }
}

fn says(node: &str, message: agent_message::Message) -> AgentMessage {
    AgentMessage { node: node.to_owned(), message: Some(message) }
}

fn hello() -> agent_message::Message {
    agent_message::Message::Hello(Hello {
        agent_version: "0.1.0".to_owned(),
        step_list_version: liftlock_proto::step::STEP_LIST_VERSION,
        ..Hello::default()
    })
}

#[tokio::test]
async fn an_agent_that_names_another_node_is_cut_off() {
    let mut fleet = Fleet::start(&Shape::new(1, 1)).await.unwrap();
    fleet.kill_agent("w1").unwrap();
    let identity = identity_of(&fleet, "w1");
    let first = session(channel(&fleet, &identity).await.unwrap(), vec![says("cp1", hello())]).await;
    assert_eq!(first.code(), Code::PermissionDenied, "{first}");
    assert!(first.message().contains("w1") && first.message().contains("cp1"), "{first}");
    let facts =
        agent_message::Message::Facts(Box::new(NodeFacts { control_plane: true, ..NodeFacts::default() }));
    let later = vec![says("w1", hello()), says("cp1", facts)];
    let later = session(channel(&fleet, &identity).await.unwrap(), later).await;
    assert_eq!(later.code(), Code::PermissionDenied, "every message is compared: {later}");
}

#[tokio::test]
async fn a_role_may_not_speak_anothers_service() {
    let fleet = Fleet::start(&Shape::new(1, 1)).await.unwrap();
    let agent = channel(&fleet, &identity_of(&fleet, "w1")).await.unwrap();
    let mut as_operator = liftlock_proto::v1::operator_service_client::OperatorServiceClient::new(agent);
    let refused = as_operator.list_nodes(ListNodesRequest { ask_anew: false }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    let folder = fleet.operator_identity();
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let operator =
        Identity { key_pem: read("key.pem"), certificate_pem: read("cert.pem"), ca_pem: read("ca.pem") };
    let refused = session(channel(&fleet, &operator).await.unwrap(), vec![says("w1", hello())]).await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn a_certificate_of_another_coordinator_gets_no_answer() {
    let (mut fleet, other) = (
        Fleet::start(&Shape::new(1, 1)).await.unwrap(),
        Fleet::without_agents(&Shape::new(1, 0)).await.unwrap(),
    );
    // The command line of one coordinator's operator, sent to the other.
    let foreign =
        fleet.cli_as(&other.operator_identity(), &["nodes", "--coordinator", &fleet.url()]).await.unwrap();
    assert!(foreign.code != 0 && foreign.stderr.contains("certificate"), "{}", foreign.stderr);

    // An agent whose identity the coordinator's CA did not sign, which trusts the coordinator all the same.
    let mut identity = identity_of(&fleet, "w1");
    let operator = other.operator_identity();
    identity.key_pem = fs::read_to_string(operator.join("key.pem")).unwrap();
    identity.certificate_pem = fs::read_to_string(operator.join("cert.pem")).unwrap();
    let connected = channel(&fleet, &identity).await;
    if let Ok(channel) = connected {
        let ended = session(channel, vec![says("w1", hello())]).await;
        assert_ne!(ended.code(), Code::Ok, "a foreign certificate was taken");
    }
    // Nobody without a certificate either.
    let mut operator = Operator::connect(&fleet.operator_identity()).await.unwrap();
    assert!(operator.nodes().await.is_ok(), "the coordinator goes on");
    fleet.kill_agent("w1").unwrap();
}

/// The one journal on a node.
fn journal_of(fleet: &Fleet, node: &str) -> Utf8PathBuf {
    let folder = fleet.cluster.machine(node).unwrap().tree.agent_state().join("journal");
    let files: Vec<Utf8PathBuf> = folder
        .read_dir_utf8()
        .unwrap()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension() == Some("journal"))
        .collect();
    let [journal] = files.as_slice() else {
        panic!("one journal should be there: {files:?}");
    };
    journal.clone()
}

#[tokio::test]
async fn a_corrupt_journal_is_refused_with_its_offset_and_nothing_is_guessed() {
    let mut fleet = small_fleet().await;
    let tree = fleet.cluster.machine("cp1").unwrap().tree.clone();
    let fault = Fault::arm(&tree, &Point::KubeadmStarted, &Action::Pause).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    fault.reached(LIMIT).await.unwrap();
    fleet.kill_agent("cp1").unwrap();
    fault.disarm().unwrap();

    let journal = journal_of(&fleet, "cp1");
    let good = fs::read(&journal).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 0x40;
    fs::write(&journal, &bad).unwrap();
    fleet.start_agent("cp1").await.unwrap();
    // The agent stays up, so that the operator hears of it.
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    let failure = &node(&rollout, "cp1").failure;
    assert!(failure.contains("is damaged at byte ") && failure.contains(journal.as_str()), "{failure}");
    assert!(fleet.log_of("cp1").contains("is damaged at byte "), "{}", fleet.log_of("cp1"));
    assert_eq!(fs::read(&journal).unwrap(), bad, "the evidence was touched");
    assert_eq!(node(&rollout, "w1").phase(), NodePhase::Prepared, "nobody else begins");

    // As it was told: the file is moved away, the node leased again.
    fs::rename(&journal, fleet.folder().join("evidence")).unwrap();
    fleet.kill_agent("cp1").unwrap();
    fleet.start_agent("cp1").await.unwrap();
    fleet.cli(&["retry", "cp1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    assert_eq!(leases_of(&fleet, "cp1").await.len(), 2);
}

#[tokio::test]
async fn a_disk_too_full_is_refused_before_anything_begins() {
    let fleet = small_fleet().await;
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    // A sparse file: so large an etcd that no disk has room for its copies.
    let wal = tree.at("/var/lib/etcd/member/wal/0.tmp");
    let file = fs::File::create(&wal).unwrap();
    file.set_len(1 << 43).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    assert!(rollout.reason.contains("cp1") && rollout.reason.contains("MiB are free"), "{}", rollout.reason);
    assert_eq!(leases_of(&fleet, "cp1").await, Vec::<u64>::new(), "no lease was granted");
    assert!(!tree.at("/etc/kubernetes/tmp").exists(), "nothing was begun");
    assert_eq!(fleet.cluster.kubeadm_config_version(), "v1.30.4");
    fs::remove_file(wal).unwrap();
}

#[tokio::test]
async fn a_file_system_that_takes_no_more_in_the_middle_of_a_snapshot_leaves_no_half_one() {
    let mut fleet = small_fleet().await;
    // No file of the agent may grow beyond this: its snapshot breaks off, its journal and logs do not.
    fleet.limit_file_size("cp1", 100 * 1024).unwrap();
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted, "{}", fleet.last_words());
    assert!(rollout.reason.contains("etcd-snapshot"), "{}", rollout.reason);
    for backup in liftlock_tests::fleet::proofs::backups_of(&fleet, "cp1").unwrap() {
        assert!(!backup.join("etcd-snapshot.db").exists(), "half a snapshot under its whole name");
    }
    assert_eq!(fleet.cluster.kubeadm_config_version(), "v1.30.4");
    fleet.kill_agent("cp1").unwrap();
    fleet.start_agent("cp1").await.unwrap();
    fleet.cli(&["retry", "cp1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn a_snapshot_that_differs_from_its_checksum_stops_the_raise_before_any_change() {
    let fleet = small_fleet().await;
    fleet.cluster.etcd.corrupt_snapshots(true);
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    assert!(rollout.reason.contains("etcd-snapshot"), "{}", rollout.reason);
    assert_eq!(fleet.cluster.kubeadm_config_version(), "v1.30.4");
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let dpkg = liftlock_tests::standin::packages::Dpkg::read(tree).unwrap();
    assert_eq!(dpkg.get("kubeadm").unwrap().version, "1.30.4-1.1", "kubeadm was installed all the same");
    fleet.cluster.etcd.corrupt_snapshots(false);
    fleet.cli(&["retry", "cp1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn one_flipped_byte_in_etcds_database_stops_the_raise_before_any_change() {
    let fleet = small_fleet().await;
    fleet.cluster.etcd.corrupt_database(true);
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    let why = &rollout.reason;
    assert!(why.contains("cannot be restored") && why.contains("Nothing on cp1 was changed"), "{why}");
    assert_eq!(fleet.cluster.kubeadm_config_version(), "v1.30.4");
    let tree = &fleet.cluster.machine("cp1").unwrap().tree;
    let dpkg = liftlock_tests::standin::packages::Dpkg::read(tree).unwrap();
    assert_eq!(dpkg.get("kubeadm").unwrap().version, "1.30.4-1.1", "kubeadm was installed all the same");
    fleet.cluster.etcd.corrupt_database(false);
    fleet.cli(&["retry", "cp1"]).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    let backup = liftlock_tests::fleet::proofs::backups_of(&fleet, "cp1").unwrap().remove(0);
    assert!(!backup.join("rehearsal").exists(), "the scratch folder is left");
    let facts = std::fs::read_to_string(backup.join("etcd-snapshot.json")).unwrap();
    assert!(facts.contains("etcdctl 3.5.12"), "{facts}");
}

#[tokio::test]
async fn an_etcd_with_an_alarm_refuses_the_plan_and_says_which_member() {
    let fleet = small_fleet().await;
    fleet.cluster.etcd.raise_nospace("cp1");
    let refused = fleet.cli(&["plan", "v1.31.2", "--accept", "api-outage"]).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    for part in ["etcd-alarm", "NOSPACE on cp1"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_before_any_lease() {
    let fleet = small_fleet().await;
    fleet.cluster.machine("w2").unwrap().runtime.refuse_image(Some("kube-proxy:v1.31.2"));
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    assert!(
        rollout.reason.contains("w2") && rollout.reason.contains("kube-proxy:v1.31.2"),
        "{}",
        rollout.reason
    );
    assert!(leases_of(&fleet, "cp1").await.is_empty());
}

#[tokio::test]
async fn a_pod_that_nobody_would_start_again_is_not_deleted_without_the_operators_word() {
    let fleet = small_fleet().await;
    fleet.cluster.add_unmanaged_pod("debug", "w1");
    fleet.operator().await.unwrap().apply(&TO.to_string(), policy()).await.unwrap();
    let rollout = end_of(&fleet).await;
    assert_eq!(rollout.phase(), RolloutPhase::Halted);
    let failure = &node(&rollout, "w1").failure;
    assert!(failure.contains("default/debug") && failure.contains("--delete-unmanaged-pods"), "{failure}");
    assert_eq!(fleet.cluster.kubelet_version("w1"), "v1.30.4");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_said_in_a_sentence() {
    let mut fleet = Fleet::without_agents(&Shape::new(1, 0)).await.unwrap();
    fleet.kill_coordinator().unwrap();
    let unreachable = fleet.cli(&["nodes"]).await.unwrap();
    assert_eq!(unreachable.code, 5, "{}", unreachable.stderr);
    assert!(unreachable.stderr.contains(&fleet.url()), "{}", unreachable.stderr);
}
