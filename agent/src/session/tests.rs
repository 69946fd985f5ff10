use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::enrollment::Identity;
use liftlock_proto::retention::Retention;
use liftlock_proto::step::Step;
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use liftlock_proto::v1::coordinator_message::Message as Told;
use liftlock_proto::v1::{self, AgentMessage, CoordinatorMessage};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::disk::LocalDisk;
use crate::engine::context::{Context, PrepareContext};
use crate::engine::step::{Observed, PreState, Preparation, StepFailure, StepRunner};
use crate::host::real::RealClock;
use crate::host::{Clock, Host};
use crate::twin::{Shape, Twin};

/// Long enough for a busy machine, and never waited for when all is well.
const PATIENCE: Duration = Duration::from_mins(1);
const PLAN: &str = "p-0123456789ab";
const HOUR: u64 = 3600;

/// A coordinator that does nothing but hand each stream to the test.
struct FakeCoordinator {
    streams: mpsc::Sender<Stream>,
}

/// One agent's stream, held by the test.
struct Stream {
    said: Streaming<AgentMessage>,
    tell: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    /// What was said and passed over while something else was waited for.
    passed: VecDeque<Said>,
}

#[async_trait]
impl AgentService for FakeCoordinator {
    async fn enroll(&self, _: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        Err(Status::unimplemented("nobody enrols here"))
    }

    type SessionStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (tell, told) = mpsc::channel(16);
        let stream = Stream { said: request.into_inner(), tell, passed: VecDeque::new() };
        let gone = |_| Status::unavailable("the test has ended");
        self.streams.send(stream).await.map_err(gone)?;
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

impl Stream {
    async fn tell(&self, message: Told) {
        self.tell.send(Ok(CoordinatorMessage { message: Some(message) })).await.unwrap();
    }

    /// The next message that the test is about; others are kept for later.
    async fn hear<T>(&mut self, wanted: impl Fn(&Said) -> Option<T>) -> T {
        if let Some(at) = self.passed.iter().position(|said| wanted(said).is_some()) {
            return self.passed.remove(at).and_then(|said| wanted(&said)).unwrap();
        }
        loop {
            let message = timeout(PATIENCE, self.said.next()).await.expect("the agent says nothing");
            let AgentMessage { node, message } = message.expect("the agent ended the stream").unwrap();
            assert_eq!(node, "cp1");
            let said = message.unwrap();
            match wanted(&said) {
                Some(found) => return found,
                None => self.passed.push_back(said),
            }
        }
    }

    async fn hello(&mut self) -> v1::Hello {
        let hello =
            self.hear(|said| if let Said::Hello(hello) = said { Some(hello.clone()) } else { None }).await;
        assert!(self.passed.is_empty(), "something was said before Hello");
        self.tell(Told::Welcome(v1::Welcome { coordinator_version: "test".to_owned() })).await;
        hello
    }

    async fn ask(&mut self, id: u64, kind: Option<v1::asked::Kind>) -> v1::answer::Outcome {
        self.tell(Told::Question(v1::Question { id, asked: Some(v1::Asked { kind }) })).await;
        let answer = |said: &Said| match said {
            Said::Answer(answer) if answer.id == id => answer.outcome.clone(),
            _ => None,
        };
        self.hear(answer).await
    }

    async fn lease_end(&mut self) -> v1::LeaseEnd {
        self.hear(|said| if let Said::LeaseEnd(end) = said { Some(end.clone()) } else { None }).await
    }

    async fn renewal(&mut self) -> u64 {
        self.hear(|said| if let Said::RenewLease(renew) = said { Some(renew.fencing_token) } else { None })
            .await
    }

    async fn step(&mut self, step: &str, state: v1::StepState) {
        let wanted = |said: &Said| match said {
            Said::StepReport(report) if report.step == step && report.state() == state => Some(()),
            _ => None,
        };
        self.hear(wanted).await;
    }

    /// The agent ended the stream.
    async fn ended(&mut self) {
        let end = async { while let Some(Ok(_)) = self.said.next().await {} };
        timeout(PATIENCE, end).await.expect("the agent keeps the stream open");
    }
}

/// A CA and what it signed for the coordinator.
struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
    server: TlsIdentity,
}

impl Pki {
    fn new() -> Self {
        // Several tests install it; it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let server = TlsIdentity::from_pem(certificate.pem(), key.serialize_pem());
        Self { ca, server }
    }

    /// A certificate for cp1 that is valid since `since` and ends `ends` seconds from now.
    fn certificate(&self, key: &KeyPair, since: u64, ends: u64) -> String {
        let now = Duration::from_millis(RealClock.unix_ms());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cp1");
        params.not_before = (UNIX_EPOCH + now - Duration::from_secs(since)).into();
        params.not_after = (UNIX_EPOCH + now + Duration::from_secs(ends)).into();
        params.signed_by(key, &self.ca).unwrap().pem()
    }

    fn identity(&self, key: &KeyPair, since: u64, ends: u64) -> Identity {
        Identity {
            key_pem: key.serialize_pem(),
            certificate_pem: self.certificate(key, since, ends),
            ca_pem: self.ca.as_ref().pem(),
        }
    }
}

/// A node whose agent can be started and stopped, and its coordinator.
struct Bench {
    pki: Pki,
    key: KeyPair,
    address: String,
    streams: mpsc::Receiver<Stream>,
    server: JoinHandle<()>,
    node: Node,
    dir: tempfile::TempDir,
}

/// What the steps of the test find and do on the node.
#[derive(Clone, Default)]
struct Node {
    done: Arc<AtomicBool>,
    /// The run of the step waits until the test lets it go.
    hold: Arc<tokio::sync::Mutex<()>>,
    permitted: Arc<Mutex<Vec<bool>>>,
}

#[async_trait]
impl StepRunner for Node {
    async fn check(&self, _cx: &Context) -> Result<Observed, StepFailure> {
        Ok(if self.done.load(Ordering::SeqCst) { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _cx: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _pre: &PreState) -> Result<(), StepFailure> {
        drop(self.hold.lock().await);
        self.permitted.lock().unwrap().push(cx.permit().is_ok());
        cx.permit()?;
        self.done.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn undo(&self, _cx: &Context, _pre: &PreState) -> Result<(), StepFailure> {
        Ok(())
    }
}

#[async_trait]
impl Preparation for Node {
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        cx.reporter.line(cx.step, "fetched");
        Err(StepFailure::Refused("the disk is too full".to_owned()))
    }
}

/// An agent that runs.
struct Running {
    stop: watch::Sender<bool>,
    agent: JoinHandle<Result<(), StartError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.send(true).unwrap();
        timeout(PATIENCE, self.agent).await.expect("the agent does not stop").unwrap().unwrap();
    }
}

impl Bench {
    async fn new() -> Self {
        let pki = Pki::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (sender, streams) = mpsc::channel(4);
        let tls = ServerTlsConfig::new()
            .identity(pki.server.clone())
            .client_ca_root(Certificate::from_pem(pki.ca.as_ref().pem()));
        let service = AgentServiceServer::new(FakeCoordinator { streams: sender });
        let serving = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async { serving.await.unwrap() });
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { pki, key, address, streams, server, node: Node::default(), dir }
    }

    fn state_dir(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join("state")
    }

    fn journal(&self, ending: &str) -> Utf8PathBuf {
        self.state_dir().join(format!("journal/{PLAN}-7.{ending}"))
    }

    fn host(&self) -> Host {
        let version = "v1.19.7".parse().unwrap();
        let twin = Twin::new(Shape { control_planes: 1, workers: 0, version, offered: version });
        let mut host = twin.host("cp1");
        host.clock = Arc::new(RealClock);
        host.layout.state_dir = self.state_dir();
        host
    }

    /// Starts the agent with a certificate that is valid since `since` and for `ends` seconds more.
    async fn start_certified(&self, since: u64, ends: u64) -> Running {
        let (node, preparation) = (self.node.clone(), self.node.clone());
        let disk: Arc<dyn crate::disk::Disk> = Arc::new(LocalDisk);
        let place = Workplace {
            host: self.host(),
            node: "cp1".parse().unwrap(),
            disk: Arc::clone(&disk),
            steps: Arc::new(move |_| Some(Box::new(node.clone()))),
            preparations: Arc::new(move |_| Some(Box::new(preparation.clone()))),
            tasks: Arc::new(Threads),
            line: Arc::new(TlsLine),
            retention: Retention { keep: Some(1), ..Retention::default() },
        };
        let store = IdentityStore::new(disk, self.state_dir().join("identity"));
        let identity = self.pki.identity(&self.key, since, ends);
        let enrolled = store.keep(identity, &self.address.parse().unwrap(), &place.node).unwrap();
        let agent = Agent::open(place, store, enrolled).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        Running { stop, agent: tokio::spawn(agent.run(stopped)) }
    }

    async fn start(&self) -> Running {
        self.start_certified(0, HOUR).await
    }

    async fn stream(&mut self) -> Stream {
        timeout(PATIENCE, self.streams.recv()).await.expect("the agent does not connect").unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn grant(token: u64, ttl: Duration) -> Told {
    Told::Grant(v1::Grant {
        plan_id: PLAN.to_owned(),
        plan_hash: "0123456789ab".to_owned(),
        fencing_token: token,
        ttl_ms: u32::try_from(ttl.as_millis()).unwrap(),
        role: v1::Role::Worker.into(),
        steps: vec![Step::RestoreSchedulability {}.into()],
        purpose: v1::Purpose::Raise.into(),
    })
}

fn long_grant(token: u64) -> Told {
    grant(token, PATIENCE)
}

#[tokio::test]
async fn nodes_are_marked_in_the_middle_of_a_lease_and_the_newest_order_is_carried_out_last() {
    let mut bench = Bench::new().await;
    let hold = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    let order = |id, nodes: &[&str], pause_ms| {
        let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
        Told::MarkNodes(v1::MarkNodes { id, nodes, pause_ms })
    };
    stream.tell(order(1, &["cp1"], 50)).await;
    stream.tell(order(2, &["cp1", "w9"], 0)).await;
    stream.tell(order(3, &[], 0)).await;
    let answer = |said: &Said| if let Said::NodesMarked(marked) = said { Some(marked.clone()) } else { None };
    let (first, last) = (stream.hear(answer).await, stream.hear(answer).await);
    assert_eq!((first.id, first.added, first.failure.as_str()), (1, vec!["cp1".to_owned()], ""));
    assert_eq!((last.id, last.removed, last.failure.as_str()), (3, vec!["cp1".to_owned()], ""));
    drop(hold);
    stream.lease_end().await;
    agent.stop().await;
}

#[tokio::test]
async fn the_end_of_a_lease_is_told_until_it_is_recorded_and_then_its_journal_is_put_away() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let mut first = bench.stream().await;
    let hello = first.hello().await;
    assert_eq!((hello.highest_token, hello.held), (0, None));
    first.tell(long_grant(7)).await;
    first.step("restore-schedulability", v1::StepState::Started).await;
    first.step("restore-schedulability", v1::StepState::Succeeded).await;
    let end = first.lease_end().await;
    assert_eq!((end.fencing_token, end.failure.as_str()), (7, ""));

    drop(first);
    let mut second = bench.stream().await;
    let hello = second.hello().await;
    assert_eq!(hello.highest_token, 7);
    assert_eq!(hello.held.unwrap().ended, Some(end.clone()));
    agent.stop().await;

    let agent = bench.start().await;
    let mut third = bench.stream().await;
    assert_eq!(third.hello().await.held.unwrap().ended, Some(end.clone()), "a restart forgot the end");
    assert!(bench.journal("journal").exists());
    third.tell(Told::LeaseEndRecorded(v1::LeaseEndRecorded { fencing_token: 7 })).await;
    third.tell(long_grant(7)).await;
    assert_eq!(third.lease_end().await, end, "a lease that was over ran once more");
    assert!(bench.journal("ended").exists() && !bench.journal("journal").exists());
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_restarted_in_the_middle_of_a_lease_waits_for_its_grant_and_goes_on() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    agent.stop().await;
    // The engine of the stopped agent is still there, as it would not be if its process had ended: it is another node's
    // now, and what it waits for never comes.
    bench.node = Node::default();

    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    let held_lease = stream.hello().await.held.unwrap();
    assert_eq!((held_lease.fencing_token, held_lease.ended), (7, None));
    assert!(!bench.node.done.load(Ordering::SeqCst), "it went on without its grant");
    stream.tell(long_grant(7)).await;
    assert_eq!(stream.lease_end().await.failure, "");
    agent.stop().await;
    drop(held);
}

#[tokio::test]
async fn a_lease_is_renewed_as_long_as_it_runs() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    let ttl = Duration::from_secs(2);
    stream.tell(grant(7, ttl)).await;
    let started = RealClock.monotonic();
    // Two ttl after the grant the lease has gone on through its renewals only.
    while RealClock.monotonic() < started + 2 * ttl {
        assert_eq!(stream.renewal().await, 7);
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap();
        stream.tell(Told::LeaseRenewed(v1::LeaseRenewed { fencing_token: 7, ttl_ms })).await;
    }
    drop(held);
    assert_eq!(stream.lease_end().await.failure, "");
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_nobody_renews_does_nothing_more_and_goes_on_when_it_is_granted_again() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(grant(7, Duration::from_secs(2))).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    RealClock.sleep(Duration::from_millis(2100)).await;
    drop(held);
    stream.ended().await;
    assert_eq!(*bench.node.permitted.lock().unwrap(), [false]);
    let mut stream = bench.stream().await;
    assert_eq!(stream.hello().await.held.unwrap().ended, None);
    stream.tell(long_grant(7)).await;
    assert_eq!(stream.lease_end().await.failure, "");
    assert_eq!(*bench.node.permitted.lock().unwrap(), [false, true]);
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_taken_back_stops_and_its_journal_is_put_away() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    let reason = "an operator said so".to_owned();
    stream.tell(Told::LeaseRefused(v1::LeaseRefused { fencing_token: 7, reason })).await;
    // The answer to a question after it shows that the refusal was heard.
    stream.tell(Told::FactsRequest(v1::FactsRequest::default())).await;
    stream.hear(|said| matches!(said, Said::Facts(_)).then_some(())).await;
    drop(held);
    let end = stream.lease_end().await;
    assert_eq!(end.fencing_token, 7);
    assert!(end.failure.contains("taken back"), "{}", end.failure);
    assert_eq!(*bench.node.permitted.lock().unwrap(), [false]);
    drop(stream);
    assert_eq!(bench.stream().await.hello().await.held, None);
    assert!(bench.journal("ended").exists());
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_the_coordinator_does_not_know_any_more_is_given_up_after_a_restart() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    agent.stop().await;
    bench.node = Node::default();

    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    assert!(stream.hello().await.held.is_some());
    let reason = "the roll-out was aborted".to_owned();
    stream.tell(Told::LeaseRefused(v1::LeaseRefused { fencing_token: 7, reason })).await;
    stream.tell(Told::FactsRequest(v1::FactsRequest::default())).await;
    stream.hear(|said| matches!(said, Said::Facts(_)).then_some(())).await;
    assert!(bench.journal("ended").exists() && !bench.journal("journal").exists());
    drop(stream);
    let hello = bench.stream().await.hello().await;
    assert_eq!((hello.held, hello.highest_token), (None, 7));
    agent.stop().await;
    drop(held);
}

#[tokio::test]
async fn a_newer_lease_begins_when_the_engine_of_the_older_one_has_stopped() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    stream.tell(long_grant(8)).await;
    stream.tell(Told::FactsRequest(v1::FactsRequest::default())).await;
    stream.hear(|said| matches!(said, Said::Facts(_)).then_some(())).await;
    assert!(bench.node.permitted.lock().unwrap().is_empty(), "two engines ran at a time");
    drop(held);
    let older = stream.lease_end().await;
    assert_eq!(older.fencing_token, 7);
    assert!(older.failure.contains("taken back"), "{}", older.failure);
    let end = stream.lease_end().await;
    assert_eq!((end.fencing_token, end.failure.as_str()), (8, ""));
    assert_eq!(*bench.node.permitted.lock().unwrap(), [false, true]);
    assert!(bench.journal("ended").exists());
    agent.stop().await;
}

#[tokio::test]
async fn an_older_lease_is_refused_in_words() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.lease_end().await;
    stream.tell(long_grant(6)).await;
    let end = stream.lease_end().await;
    assert_eq!(end.fencing_token, 6);
    assert!(end.failure.contains("lease 6 is older than lease 7"), "{}", end.failure);
    agent.stop().await;
}

#[tokio::test]
async fn a_message_that_makes_no_sense_ends_the_stream_and_not_the_agent() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let nonsense = [
        None,
        Some(Told::Prepare(v1::Prepare { plan_id: "../../etc".to_owned(), steps: Vec::new() })),
        Some(Told::Grant(v1::Grant::default())),
    ];
    for message in nonsense {
        let mut stream = bench.stream().await;
        stream.hello().await;
        stream.tell.send(Ok(CoordinatorMessage { message })).await.unwrap();
        stream.ended().await;
    }
    bench.stream().await.hello().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_corrupt_journal_is_a_fact_and_refuses_its_lease_with_the_offset() {
    let mut bench = Bench::new().await;
    let folder = bench.state_dir().join("journal");
    crate::disk::Disk::create_folder(&LocalDisk, &folder).unwrap();
    crate::disk::Disk::replace(&LocalDisk, &bench.journal("journal"), b"not a journal at all").unwrap();
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    assert_eq!(stream.hello().await.held, None);
    stream.tell(Told::FactsRequest(v1::FactsRequest::default())).await;
    let errors =
        stream.hear(|said| if let Said::Facts(facts) = said { Some(facts.errors.clone()) } else { None });
    assert!(errors.await.iter().any(|error| error.contains("is damaged at byte 0")));
    stream.tell(long_grant(7)).await;
    let end = stream.lease_end().await;
    assert!(end.failure.contains("is damaged at byte 0"), "{}", end.failure);
    assert!(!bench.node.done.load(Ordering::SeqCst));
    agent.stop().await;
}

#[tokio::test]
async fn what_is_being_read_when_the_coordinator_asks_answers_its_earlier_question_and_no_other() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    for (number, pause_ms) in [(1, 50), (2, 0), (3, 0)] {
        let request = v1::FactsRequest { refresh_packages: false, pause_ms, number };
        stream.tell(Told::FactsRequest(request)).await;
    }
    let mut answered = Vec::new();
    while answered.last() != Some(&3) {
        let answers =
            stream.hear(|said| if let Said::Facts(facts) = said { Some(facts.answers) } else { None });
        answered.push(answers.await);
    }
    assert_eq!(answered, [1, 3]);
    agent.stop().await;
}

#[tokio::test]
async fn what_was_asked_in_a_session_that_is_over_is_no_answer_to_the_next_coordinator() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    // The clock of the coordinator that asks next was set back: its numbers are lower.
    let ask =
        |number, pause_ms| Told::FactsRequest(v1::FactsRequest { refresh_packages: false, pause_ms, number });
    stream.tell(ask(1_000_001, 1000)).await;
    stream.tell(ask(1_000_002, 0)).await;
    // The answer shows that both were heard.
    stream.ask(1, None).await;
    drop(stream);
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(ask(1, 0)).await;
    let mut answered = Vec::new();
    while answered.last() != Some(&1) {
        let answers =
            stream.hear(|said| if let Said::Facts(facts) = said { Some(facts.answers) } else { None });
        answered.push(answers.await);
    }
    assert_eq!(answered, [0, 1]);
    agent.stop().await;
}

#[tokio::test]
async fn a_preparation_that_fails_is_reported_with_its_step() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    let steps = vec![Step::RefreshPackages {}.into()];
    stream.tell(Told::Prepare(v1::Prepare { plan_id: PLAN.to_owned(), steps })).await;
    let report = stream
        .hear(|said| if let Said::PrepareReport(report) = said { Some(report.clone()) } else { None })
        .await;
    assert_eq!(report.failure, "step refresh-packages: the disk is too full");
    let line =
        stream.hear(|said| if let Said::OutputLine(line) = said { Some(line.line.clone()) } else { None });
    assert_eq!(line.await, "fetched");
    agent.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_from_half_of_its_life_on() {
    let mut bench = Bench::new().await;
    let agent = bench.start_certified(HOUR, HOUR / 2).await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.hear(|said| matches!(said, Said::RenewCertificateCsrDer(_)).then_some(())).await;
    let renewed = bench.pki.certificate(&bench.key, 0, 2 * HOUR);
    stream.tell(Told::CertificatePem(renewed.clone())).await;
    stream.tell(Told::FactsRequest(v1::FactsRequest::default())).await;
    stream.hear(|said| matches!(said, Said::Facts(_)).then_some(())).await;
    let path = bench.state_dir().join("identity/cert.pem");
    let stored = crate::disk::Disk::read(&LocalDisk, &path).unwrap().unwrap();
    assert_eq!(String::from_utf8(stored).unwrap(), renewed);
    agent.stop().await;
}

#[tokio::test]
async fn a_question_is_answered_in_the_middle_of_a_lease() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    let outcome = stream.ask(1, Some(v1::asked::Kind::ListBackups(v1::ListBackups {}))).await;
    let nothing = v1::reply::Kind::Backups(v1::Backups::default());
    assert_eq!(outcome, v1::answer::Outcome::Reply(v1::Reply { kind: Some(nothing) }));
    drop(held);
    assert_eq!(stream.lease_end().await.failure, "");
    agent.stop().await;
}

#[tokio::test]
async fn a_prune_is_refused_in_the_middle_of_a_lease() {
    let mut bench = Bench::new().await;
    let held = Arc::clone(&bench.node.hold).lock_owned().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    stream.tell(long_grant(7)).await;
    stream.step("restore-schedulability", v1::StepState::Started).await;
    let prune = || Some(v1::asked::Kind::PruneBackups(v1::PruneBackups::default()));
    let v1::answer::Outcome::Refusal(why) = stream.ask(1, prune()).await else { panic!() };
    assert!(why.contains("holds lease 7"), "{why}");
    drop(held);
    assert_eq!(stream.lease_end().await.failure, "");
    // Until its end is recorded, the coordinator does not know how it ended.
    let v1::answer::Outcome::Refusal(why) = stream.ask(2, prune()).await else { panic!() };
    assert!(why.contains("holds lease 7"), "{why}");
    stream.tell(Told::LeaseEndRecorded(v1::LeaseEndRecorded { fencing_token: 7 })).await;
    assert!(matches!(stream.ask(3, prune()).await, v1::answer::Outcome::Reply(_)));
    agent.stop().await;
}

#[tokio::test]
async fn a_question_of_a_kind_that_this_agent_does_not_know_is_refused_in_words_and_the_stream_goes_on() {
    let mut bench = Bench::new().await;
    let agent = bench.start().await;
    let mut stream = bench.stream().await;
    stream.hello().await;
    for id in [1, 2] {
        let v1::answer::Outcome::Refusal(why) = stream.ask(id, None).await else { panic!() };
        assert!(why.contains("install the same version"), "{why}");
    }
    agent.stop().await;
}
