//! The services as agents and operators meet them: over TLS, with the certificates that the coordinator signs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]
#![expect(clippy::disallowed_methods, reason = "this test reads the identity that the coordinator wrote")]

use std::fs;

use liftlock::serve::{Coordinator, ServeError, ServeOptions};
use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::causes::causes;
use liftlock_proto::enrollment::{self, EnrollmentError, Identity, new_key};
use liftlock_proto::join_token::JoinToken;
use liftlock_proto::step::STEP_LIST_VERSION;
use liftlock_proto::v1;
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::agent_service_client::AgentServiceClient;
use liftlock_proto::v1::coordinator_message::Message as Told;
use liftlock_proto::v1::operator_service_client::OperatorServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;

struct Served {
    url: CoordinatorUrl,
    state_dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ServeError>>,
}

fn options(state_dir: &tempfile::TempDir) -> ServeOptions {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let state_dir = Some(state_dir.path().to_owned());
    // No file of this machine's.
    let config = state_dir.as_ref().map(|folder| folder.join("coordinator.toml"));
    fs::write(config.as_ref().unwrap(), "").unwrap();
    ServeOptions { config, listen, state_dir, ..ServeOptions::default() }
}

impl Served {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(state_dir: tempfile::TempDir) -> Self {
        let coordinator = Coordinator::open(options(&state_dir)).await.unwrap();
        let url = coordinator.url().parse().unwrap();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(coordinator.serve(async {
            let _ = stopped.await;
        }));
        Self { url, state_dir, stop, ended }
    }

    fn local(&self) -> Identity {
        let folder = self.state_dir.path().join("operator");
        let read = |name| fs::read_to_string(folder.join(name)).unwrap();
        Identity { key_pem: read("key.pem"), certificate_pem: read("cert.pem"), ca_pem: read("ca.pem") }
    }

    async fn dial(&self, identity: &Identity) -> Channel {
        identity.endpoint(&self.url).unwrap().connect().await.unwrap()
    }

    async fn dial_without_identity(&self) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.local().ca_pem));
        let endpoint = Endpoint::from_shared(self.url.to_string()).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.dial(&self.local()).await)
    }

    async fn token(&self, subject: v1::Subject, name: &str) -> JoinToken {
        let request =
            v1::CreateTokenRequest { subject: subject.into(), name: name.to_owned(), ttl_seconds: 60 };
        let created = self.operator().await.create_token(request).await.unwrap().into_inner();
        created.token.parse().unwrap()
    }

    async fn identity(&self, subject: v1::Subject, name: &str) -> Identity {
        let token = self.token(subject, name).await;
        enroll(&self.url, &token, name).await.unwrap()
    }

    /// An agent whose first words are these.
    async fn session(&self, identity: &Identity, first: v1::AgentMessage) -> Result<Agent, Status> {
        let (said, stream) = mpsc::channel(8);
        said.send(first).await.unwrap();
        let mut client = AgentServiceClient::new(self.dial(identity).await);
        let heard = client.session(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Agent { said, heard })
    }
}

struct Agent {
    said: mpsc::Sender<v1::AgentMessage>,
    heard: Streaming<v1::CoordinatorMessage>,
}

impl Agent {
    async fn say(&self, node: &str, message: Said) {
        self.said.send(says(node, message)).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Told, Status> {
        Ok(self.heard.message().await?.expect("the stream ended without a status").message.unwrap())
    }

    async fn hear_the_end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}

fn says(node: &str, message: Said) -> v1::AgentMessage {
    v1::AgentMessage { node: node.to_owned(), message: Some(message) }
}

fn hello(node: &str) -> v1::AgentMessage {
    says(node, Said::Hello(v1::Hello { step_list_version: STEP_LIST_VERSION, ..v1::Hello::default() }))
}

fn ask_for_backups(node: &str) -> v1::AskRequest {
    let kind = Some(v1::asked::Kind::ListBackups(v1::ListBackups {}));
    v1::AskRequest { node: node.to_owned(), asked: Some(v1::Asked { kind }) }
}

#[tokio::test]
async fn without_a_certificate_one_can_enrol_and_nothing_else() {
    let served = Served::start().await;
    let channel = served.dial_without_identity().await;
    let mut agents = AgentServiceClient::new(channel.clone());
    let session = agents.session(tokio_stream::iter([hello("cp1")])).await.unwrap_err();
    let get = OperatorServiceClient::new(channel.clone()).get(v1::GetRequest::default()).await.unwrap_err();
    let health =
        HealthClient::new(channel).check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap_err();
    for status in [session, get, health] {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains("client certificate"), "{status}");
    }
    served.identity(v1::Subject::Node, "cp1").await;
}

#[tokio::test]
async fn a_token_that_is_wrong_or_used_up_buys_nothing() {
    let served = Served::start().await;
    let token = served.token(v1::Subject::Node, "cp1").await;
    let refused = async |token: &JoinToken, subject: &str| match enroll(&served.url, token, subject).await {
        Err(EnrollmentError::Refused { status, .. }) => *status,
        other => panic!("{other:?}"),
    };
    let wrong = JoinToken { secret: "0".repeat(64), ..token.clone() };
    let status = refused(&wrong, "cp1").await;
    assert_eq!(
        (status.code(), status.message().contains("unknown")),
        (Code::Unauthenticated, true),
        "{status}"
    );
    let status = refused(&token, "cp2").await;
    assert!(status.message().contains("made for node cp1"), "{status}");
    enroll(&served.url, &token, "cp1").await.unwrap();
    let status = refused(&token, "cp1").await;
    assert!(status.message().contains("used already"), "{status}");
}

#[tokio::test]
async fn a_certificate_of_another_coordinator_is_not_let_in() {
    let (ours, theirs) = (Served::start().await, Served::start().await);
    let foreign = Identity { ca_pem: ours.local().ca_pem, ..theirs.local() };
    let endpoint = foreign.endpoint(&ours.url).unwrap();
    // In TLS 1.3 a client learns only after its own handshake that its certificate is refused.
    let error = match endpoint.connect().await {
        Err(error) => causes(&error),
        Ok(channel) => {
            let status =
                OperatorServiceClient::new(channel).get(v1::GetRequest::default()).await.unwrap_err();
            causes(&status)
        }
    };
    assert!(error.contains("UnknownCA"), "{error}");
}

#[tokio::test]
async fn roles_may_do_what_is_theirs_and_no_more() {
    let served = Served::start().await;
    let viewer = served.identity(v1::Subject::Viewer, "victor").await;
    let agent = served.identity(v1::Subject::Node, "cp1").await;

    let mut viewing = OperatorServiceClient::new(served.dial(&viewer).await);
    viewing.list_nodes(v1::ListNodesRequest { ask_anew: false }).await.unwrap();
    viewing.list_versions(v1::ListVersionsRequest {}).await.unwrap();
    viewing.history(v1::HistoryRequest::default()).await.unwrap();
    // That nobody is there to answer is another matter.
    let listed = viewing.ask(ask_for_backups("cp1")).await.unwrap_err();
    assert_eq!(listed.code(), Code::FailedPrecondition, "{listed}");
    let create =
        v1::CreateTokenRequest { subject: v1::Subject::Operator.into(), name: "eve".into(), ttl_seconds: 60 };
    let denied = [
        viewing.pause(v1::PauseRequest {}).await.unwrap_err(),
        viewing.apply(v1::ApplyRequest::default()).await.unwrap_err(),
        viewing.create_token(create).await.unwrap_err(),
        viewing.list_tokens(v1::ListTokensRequest {}).await.unwrap_err(),
        OperatorServiceClient::new(served.dial(&agent).await)
            .get(v1::GetRequest::default())
            .await
            .unwrap_err(),
        OperatorServiceClient::new(served.dial(&agent).await).ask(ask_for_backups("cp1")).await.unwrap_err(),
        served.session(&viewer, hello("cp1")).await.err().unwrap(),
    ];
    for status in denied {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    for identity in [&viewer, &agent] {
        let mut health = HealthClient::new(served.dial(identity).await);
        let answer =
            health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
}

#[tokio::test]
async fn an_operator_by_token_does_what_the_local_one_does() {
    let served = Served::start().await;
    let token = served.token(v1::Subject::Operator, "alice").await;
    let alice = enroll(&served.url, &token, "").await.unwrap();
    let mut operator = OperatorServiceClient::new(served.dial(&alice).await);
    let created =
        v1::CreateTokenRequest { subject: v1::Subject::Node.into(), name: "cp1".into(), ttl_seconds: 60 };
    let id = operator.create_token(created).await.unwrap().into_inner().id;
    operator.revoke_token(v1::RevokeTokenRequest { id, fenced: false }).await.unwrap();
    let history = operator.history(v1::HistoryRequest::default()).await.unwrap().into_inner().events;
    let by_alice: Vec<&str> =
        history.iter().filter(|event| event.operator == "alice").map(|event| event.kind.as_str()).collect();
    assert_eq!(by_alice, ["token-created", "token-revoked"]);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_told_so() {
    let served = Served::start().await;
    let mut operator = served.operator().await;
    let version = v1::MakePlanRequest { to_version: "latest".into(), policy: None, conduct: None };
    let node =
        v1::CreateTokenRequest { subject: v1::Subject::Node.into(), name: "../x".into(), ttl_seconds: 60 };
    let invalid = [
        operator.make_plan(version).await.unwrap_err(),
        operator.apply(v1::ApplyRequest::default()).await.unwrap_err(),
        operator
            .apply(v1::ApplyRequest {
                plan: Some(v1::Plan::default()),
                onward: vec![],
                conduct: None,
                document: String::new(),
            })
            .await
            .unwrap_err(),
        operator.get(v1::GetRequest { plan_id: "no-plan".into() }).await.unwrap_err(),
        operator.retry(v1::RetryRequest { node: "..".into() }).await.unwrap_err(),
        operator.create_token(node).await.unwrap_err(),
    ];
    for status in invalid {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let missing = [
        operator.get(v1::GetRequest::default()).await.unwrap_err(),
        operator.get(v1::GetRequest { plan_id: "p-0123456789ab".into() }).await.unwrap_err(),
        operator.pause(v1::PauseRequest {}).await.unwrap_err(),
        operator
            .revoke_token(v1::RevokeTokenRequest { id: "00000000".into(), fenced: false })
            .await
            .unwrap_err(),
        operator.watch(v1::GetRequest::default()).await.unwrap().into_inner().message().await.unwrap_err(),
    ];
    for status in missing {
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_node_only() {
    let served = Served::start().await;
    let cp1 = served.identity(v1::Subject::Node, "cp1").await;
    let mut agent = served.session(&cp1, hello("cp2")).await.unwrap();
    let status = agent.hear_the_end().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");

    let mut agent = served.session(&cp1, hello("cp1")).await.unwrap();
    assert!(matches!(agent.hear().await, Ok(Told::Welcome(_))));
    agent.say("cp2", Said::Facts(Box::default())).await;
    let status = agent.hear_the_end().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("cp1") && status.message().contains("cp2"), "{status}");
}

#[tokio::test]
async fn a_session_that_does_not_begin_as_it_should_is_ended_with_the_reason() {
    let served = Served::start().await;
    let cp1 = served.identity(v1::Subject::Node, "cp1").await;
    let facts = says("cp1", Said::Facts(Box::default()));
    let newer = says("cp1", Said::Hello(v1::Hello { step_list_version: 99, ..v1::Hello::default() }));
    let empty = v1::AgentMessage { node: "cp1".to_owned(), message: None };
    for (first, code) in
        [(facts, Code::InvalidArgument), (newer, Code::FailedPrecondition), (empty, Code::InvalidArgument)]
    {
        let status = served.session(&cp1, first).await.unwrap().hear_the_end().await;
        assert_eq!(status.code(), code, "{status}");
    }
}

#[tokio::test]
async fn an_agent_renews_its_certificate_over_its_session() {
    let served = Served::start().await;
    let cp1 = served.identity(v1::Subject::Node, "cp1").await;
    let mut agent = served.session(&cp1, hello("cp1")).await.unwrap();
    let request = liftlock_proto::enrollment::CertificateRequest::new("cp1").unwrap();
    agent.say("cp1", Said::RenewCertificateCsrDer(request.csr_der)).await;
    let certificate_pem = loop {
        if let Told::CertificatePem(pem) = agent.hear().await.unwrap() {
            break pem;
        }
    };
    let renewed = Identity { key_pem: request.key_pem, certificate_pem, ca_pem: cp1.ca_pem };
    let mut again = served.session(&renewed, hello("cp1")).await.unwrap();
    assert!(matches!(again.hear().await, Ok(Told::Welcome(_))));
    assert_eq!(agent.hear_the_end().await.code(), Code::Aborted, "the second session replaces the first");
}

async fn enroll(
    coordinator: &CoordinatorUrl,
    token: &JoinToken,
    subject: &str,
) -> Result<Identity, EnrollmentError> {
    enrollment::enroll(coordinator, token, subject, &new_key().unwrap()).await
}

/// A cluster of one control plane, raised far enough to be leased.
#[tokio::test]
async fn a_plan_is_made_applied_watched_and_leased_and_all_of_it_outlives_the_coordinator() {
    let served = Served::start().await;
    let cp1 = served.identity(v1::Subject::Node, "cp1").await;
    let mut agent = served.session(&cp1, hello("cp1")).await.unwrap();
    // Only then does the keeper know of it: a plan that is asked for before asks nobody.
    assert!(matches!(agent.hear().await, Ok(Told::Welcome(_))));
    let mut operator = served.operator().await;
    let policy = v1::Policy {
        drain_timeout_seconds: 60,
        accepted: vec!["api-outage".to_owned(), "drain-only-node".to_owned()],
        ..v1::Policy::default()
    };
    let request = v1::MakePlanRequest { to_version: "v1.31.2".into(), policy: Some(policy), conduct: None };

    let mut planner = operator.clone();
    let planning = tokio::spawn(async move { planner.make_plan(request).await });
    let (answer, _) = answered(&mut agent, planning).await;
    let answer = answer.unwrap().into_inner();
    let plan = answer.plan.unwrap_or_else(|| panic!("{:?}", answer.refusals));

    let (mut applier, order) = (
        operator.clone(),
        v1::ApplyRequest { plan: Some(plan.clone()), onward: vec![], conduct: None, document: String::new() },
    );
    let applying = tokio::spawn(async move { applier.apply(order).await });
    let (rollout, mut told) = answered(&mut agent, applying).await;
    let rollout = rollout.unwrap().into_inner();
    assert_eq!((rollout.phase(), rollout.started_by.as_str()), (v1::RolloutPhase::Preparing, "local"));

    let mut watch = operator.watch(v1::GetRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().phase(), v1::RolloutPhase::Preparing);
    if told.is_empty() {
        told.push(heard(&mut agent).await);
    }
    let Some(Told::Prepare(prepare)) = told.pop() else { panic!("no Prepare came: {told:?}") };
    let report = v1::PrepareReport { plan_id: prepare.plan_id, failure: String::new() };
    agent.say("cp1", Said::PrepareReport(report)).await;
    let grant = granted(&mut agent).await;
    assert_eq!((grant.fencing_token, &grant.plan_hash), (1, &plan.hash));
    let seen = loop {
        let rollout = watch.message().await.unwrap().unwrap();
        if rollout.nodes[0].phase() == v1::NodePhase::Leased {
            break rollout;
        }
    };
    assert_eq!(seen.phase(), v1::RolloutPhase::Running);
    assert!(seen.nodes[0].connected);

    served.stop.send(()).unwrap();
    assert_eq!(agent.hear_the_end().await.code(), Code::Unavailable);
    assert_eq!(watch_end(&mut watch).await.code(), Code::Unavailable);
    drop((agent, operator, watch));
    served.ended.await.unwrap().unwrap();

    let served = Served::start_in(served.state_dir).await;
    let held = v1::HeldLease { plan_id: plan.id, fencing_token: 1, ended: None };
    let back = v1::Hello {
        step_list_version: STEP_LIST_VERSION,
        highest_token: 1,
        held: Some(held),
        ..v1::Hello::default()
    };
    let mut agent = served.session(&cp1, says("cp1", Said::Hello(back))).await.unwrap();
    assert_eq!(granted(&mut agent).await, grant);
}

async fn watch_end(watch: &mut Streaming<v1::Rollout>) -> Status {
    loop {
        if let Err(status) = watch.message().await {
            return status;
        }
    }
}

/// What cp1's agent hears but for marks, which it confirms: a lease waits for that.
async fn heard(agent: &mut Agent) -> Told {
    loop {
        match agent.hear().await.unwrap() {
            Told::MarkNodes(order) => {
                let done = v1::NodesMarked { id: order.id, ..v1::NodesMarked::default() };
                agent.say("cp1", Said::NodesMarked(done)).await;
            }
            told => return told,
        }
    }
}

/// What an operator's call brings, while the agent answers what it is asked (of what its cluster runs it says nothing), and what else
/// the agent was told meanwhile.
async fn answered<T>(agent: &mut Agent, mut call: tokio::task::JoinHandle<T>) -> (T, Vec<Told>) {
    let mut rest = Vec::new();
    loop {
        let told = tokio::select! {
            ended = &mut call => return (ended.unwrap(), rest),
            told = heard(agent) => told,
        };
        match told {
            Told::FactsRequest(request) => say_facts(agent, &request).await,
            Told::Question(question) => {
                let outcome = Some(v1::answer::Outcome::Failure("nobody looks".to_owned()));
                agent.say("cp1", Said::Answer(v1::Answer { id: question.id, outcome })).await;
            }
            told => rest.push(told),
        }
    }
}

async fn say_facts(agent: &Agent, request: &v1::FactsRequest) {
    let facts = v1::NodeFacts { answers: request.number, ..facts() };
    agent.say("cp1", Said::Facts(Box::new(facts))).await;
}

/// The grant, which comes once the gates have been asked from fresh facts and nodes are marked.
async fn granted(agent: &mut Agent) -> v1::Grant {
    loop {
        match heard(agent).await {
            Told::Grant(grant) => return grant,
            Told::FactsRequest(request) => say_facts(agent, &request).await,
            _ => {}
        }
    }
}

fn facts() -> v1::NodeFacts {
    let version = || "v1.30.4".to_owned();
    v1::NodeFacts {
        control_plane: true,
        kubelet_version: version(),
        kubeadm_version: version(),
        control_plane_version: version(),
        offered_versions: vec![version(), "v1.31.2".to_owned()],
        cluster: Some(v1::ClusterFacts {
            kubeadm_config_version: version(),
            nodes: vec![v1::ClusterNode {
                name: "cp1".to_owned(),
                kubelet_version: version(),
                control_plane: true,
                ready: true,
                ..v1::ClusterNode::default()
            }],
            etcd_members: 1,
            etcd_healthy_members: 1,
            dns: None,
            dns_unread: String::new(),
            etcd: Some(v1::EtcdFacts::default()),
            workloads: Some(v1::WorkloadFacts::default()),
            arguments: Some(v1::ArgumentFacts::default()),
            stored: Some(v1::StoredFacts::default()),
        }),
        kubelet: Some(v1::KubeletFacts::default()),
        cgroup: Some(v1::CgroupFacts::default()),
        swap: Some(v1::SwapFacts::default()),
        certificates: Some(v1::CertificateFacts::default()),
        api_server: Some(v1::ApiServerFacts::default()),
        ..v1::NodeFacts::default()
    }
}

#[tokio::test]
async fn a_second_coordinator_is_kept_off_a_state_directory_and_off_a_port() {
    let served = Served::start().await;
    let error = Coordinator::open(options(&served.state_dir)).await.err().unwrap().to_string();
    assert!(error.contains("open in another process"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let address = served.url.to_string().trim_start_matches("https://").parse().unwrap();
    let taken = ServeOptions { listen: Some(address), ..options(&other) };
    let error = Coordinator::open(taken).await.err().unwrap().to_string();
    assert!(error.contains("another process has that port"), "{error}");
}

#[tokio::test]
async fn the_address_is_written_beside_the_local_operators_identity() {
    let served = Served::start().await;
    served.operator().await.list_nodes(v1::ListNodesRequest { ask_anew: false }).await.unwrap();
    let written = fs::read_to_string(served.state_dir.path().join("operator/coordinator")).unwrap();
    assert_eq!(written.trim_end(), served.url.to_string());
}
