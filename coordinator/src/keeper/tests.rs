use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use liftlock_proto::enrollment::CertificateRequest;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{OnFailure, Plan, PlannedNode, Policy, Role};
use liftlock_proto::step::STEP_LIST_VERSION;
use liftlock_proto::v1;
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::coordinator_message::Message as Told;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tonic::Status;

use super::*;
use crate::core::leg::{Leg, Next};
use crate::core::path::Path;
use crate::core::rollout::{NodeState, Timings};
use crate::core::sequence::{empty, end_memberships, join, leave};
use crate::identity::subject::{Peer, Subject};
use crate::store::memory::MemoryStore;

mod absent;
mod budget;
mod catalogue;
mod edit;
mod forecast;
mod hold;
mod hooks;
mod jumps;
mod marks;
mod path;
mod plans;

const NODES: [&str; 4] = ["cp1", "cp2", "cp3", "w1"];

/// One second later each time that it is read.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.fetch_add(1000, Ordering::Relaxed)
    }
}

struct Coordinator {
    keeper: Keeper,
    store: Arc<MemoryStore>,
    state_dir: tempfile::TempDir,
}

impl Coordinator {
    fn new() -> Self {
        Self::on(Arc::default(), tempfile::tempdir().unwrap())
    }

    /// One that has control planes asked again before each node.
    fn asking_between_nodes() -> Self {
        let Self { keeper, store, state_dir } = Self::new();
        Self { keeper: keeper.asking_between_nodes(), store, state_dir }
    }

    fn on(store: Arc<MemoryStore>, state_dir: tempfile::TempDir) -> Self {
        let keeper = open(&store, state_dir.path());
        Self { keeper, store, state_dir }
    }

    /// The same coordinator after its process ended, however it ended.
    fn restarted(self) -> Self {
        let store = self.store.copy();
        Self::on(store, self.state_dir)
    }

    fn connect(&self, node: &str) -> Agent {
        self.connect_with(node, 0, None).unwrap()
    }

    fn connect_with(
        &self,
        node: &str,
        highest_token: u64,
        held: Option<v1::HeldLease>,
    ) -> Result<Agent, KeeperError> {
        let (outbox, inbox) = mpsc::channel(64);
        let name: NodeName = node.parse().unwrap();
        let hello =
            v1::Hello { highest_token, held, step_list_version: STEP_LIST_VERSION, ..v1::Hello::default() };
        let session = self.keeper.open_session(&name, hello, outbox)?;
        let agent = Agent { node: name, session, inbox };
        agent.says(self, Said::Facts(Box::new(facts(node, "v1.30.4")))).unwrap();
        Ok(agent)
    }

    fn connect_all(&self) -> Vec<Agent> {
        NODES.iter().map(|node| self.connect(node)).collect()
    }

    fn plan(&self) -> Path {
        self.keeper.plan("v1.31.2".parse().unwrap(), &Policy::default()).unwrap()
    }

    fn apply(&self) {
        self.keeper.apply(&self.plan(), "alice").unwrap();
    }

    fn rollout(&self) -> v1::Rollout {
        self.keeper.rollout(None).unwrap()
    }

    fn node(&self, name: &str) -> v1::RolloutNode {
        self.rollout().nodes.into_iter().find(|node| node.name == name).unwrap()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.keeper.history(None).into_iter().map(|(_, record)| record.kind.name()).collect()
    }
}

fn open(store: &Arc<MemoryStore>, state_dir: &std::path::Path) -> Keeper {
    let authority = Authority::open(&state_dir.join("ca"), &Ticking::default()).unwrap();
    Keeper::open(Box::new(Arc::clone(store)), authority, Box::new(Ticking::default())).unwrap()
}

fn facts(node: &str, version: &str) -> v1::NodeFacts {
    let control_plane = node.starts_with("cp");
    let object = |name: &&str| v1::ClusterNode {
        name: (*name).to_owned(),
        kubelet_version: version.to_owned(),
        control_plane: name.starts_with("cp"),
        ready: true,
        tainted: name.starts_with("cp"),
        ..v1::ClusterNode::default()
    };
    // A second worker would have to prepare too; drains need somewhere to go.
    let nodes = NODES.iter().map(object).map(|node| v1::ClusterNode { tainted: false, ..node }).collect();
    v1::NodeFacts {
        control_plane,
        kubelet_version: version.to_owned(),
        kubeadm_version: version.to_owned(),
        control_plane_version: if control_plane { version.to_owned() } else { String::new() },
        offered_versions: vec!["v1.30.4".to_owned(), "v1.31.2".to_owned()],
        cluster: control_plane.then(|| v1::ClusterFacts {
            kubeadm_config_version: version.to_owned(),
            nodes,
            etcd_members: 3,
            etcd_healthy_members: 3,
            dns: None,
            dns_unread: String::new(),
            etcd: Some(v1::EtcdFacts::default()),
            workloads: Some(v1::WorkloadFacts::default()),
            arguments: Some(v1::ArgumentFacts::default()),
            stored: Some(v1::StoredFacts::default()),
        }),
        ..sound(&format!("https://{node}:6443"))
    }
}

/// Of a machine and an API server that are well.
fn sound(api_server: &str) -> v1::NodeFacts {
    let address = api_server.to_owned();
    v1::NodeFacts {
        kubelet: Some(v1::KubeletFacts::default()),
        cgroup: Some(v1::CgroupFacts::default()),
        swap: Some(v1::SwapFacts::default()),
        kubelet_kubeconfig: Some(v1::KubeconfigFacts { server: address.clone(), ..Default::default() }),
        certificates: Some(v1::CertificateFacts::default()),
        api_server: Some(v1::ApiServerFacts { address, ..Default::default() }),
        ..v1::NodeFacts::default()
    }
}

struct Agent {
    node: NodeName,
    session: SessionId,
    inbox: mpsc::Receiver<Result<Told, Status>>,
}

impl Agent {
    /// Everything that was sent since the last time.
    fn received(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.inbox.try_recv().ok()).map(Result::unwrap).collect()
    }

    fn grants(&mut self) -> Vec<v1::Grant> {
        let grant = |told| {
            if let Told::Grant(grant) = told { Some(grant) } else { None }
        };
        self.received().into_iter().filter_map(grant).collect()
    }

    /// What it says of its node was read after whatever it was asked so far, unless it says otherwise.
    fn says(&self, coordinator: &Coordinator, mut said: Said) -> Result<bool, KeeperError> {
        if let Said::Facts(facts) = &mut said
            && facts.answers == 0
        {
            facts.answers = coordinator.keeper.lock().last_question;
        }
        coordinator.keeper.hear(&self.node, self.session, said)
    }

    fn prepared(&self, coordinator: &Coordinator) {
        let plan_id = coordinator.rollout().plan.unwrap().id;
        self.says(coordinator, Said::PrepareReport(v1::PrepareReport { plan_id, failure: String::new() }))
            .unwrap();
    }

    fn ends(&self, coordinator: &Coordinator, fencing_token: u64, failure: &str) {
        self.says(coordinator, Said::LeaseEnd(end(fencing_token, failure))).unwrap();
    }

    fn leaves(self, coordinator: &Coordinator) {
        coordinator.keeper.close_session(&self.node, self.session);
    }
}

fn end(fencing_token: u64, failure: &str) -> v1::LeaseEnd {
    v1::LeaseEnd { fencing_token, failure: failure.to_owned(), ..v1::LeaseEnd::default() }
}

fn held(fencing_token: u64) -> v1::HeldLease {
    v1::HeldLease { fencing_token, ..v1::HeldLease::default() }
}

fn prepare_all(coordinator: &Coordinator, agents: &[Agent]) {
    for agent in agents {
        agent.prepared(coordinator);
    }
}

/// A roll-out whose first control plane holds lease 1.
fn running() -> (Coordinator, Vec<Agent>) {
    let coordinator = Coordinator::new();
    let agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    (coordinator, agents)
}

#[test]
fn every_node_prepares_and_then_one_after_the_other_is_leased_and_raised() {
    let (coordinator, mut agents) = running();
    for (index, agent) in agents.iter_mut().enumerate() {
        let grants = agent.grants();
        assert_eq!(grants.len(), 1, "{}", agent.node);
        assert_eq!(grants[0].fencing_token, index as u64 + 1);
        assert_eq!(coordinator.node(agent.node.as_str()).phase(), v1::NodePhase::Leased);
        agent.ends(&coordinator, grants[0].fencing_token, "");
    }
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Raised);
    assert_eq!(coordinator.kinds().last(), Some(&"rollout-ended"));
}

#[test]
fn a_sent_lease_is_in_the_store() {
    let (coordinator, mut agents) = running();
    let grant = agents[0].grants().remove(0);
    let found = Saved::load(&coordinator.store.copy()).unwrap();
    assert_eq!(found.fence, FencingToken(grant.fencing_token));
    let (_, rollout) = found.newest().unwrap();
    assert_eq!(rollout.leased().next().unwrap().1.token, FencingToken(grant.fencing_token));
}

#[test]
fn a_lease_that_could_not_be_made_durable_is_not_sent_and_is_reported() {
    let coordinator = Coordinator::new();
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents[1..]);
    let before = Saved::load(&coordinator.store.copy()).unwrap();
    coordinator.store.fill_up();

    let plan_id = coordinator.rollout().plan.unwrap().id;
    let report = Said::PrepareReport(v1::PrepareReport { plan_id, failure: String::new() });
    agents[0].says(&coordinator, report).unwrap();

    assert!(agents.iter_mut().all(|agent| agent.grants().is_empty()));
    assert_eq!(coordinator.node("cp1").phase(), v1::NodePhase::Pending);
    assert_eq!(coordinator.keeper.lock().saved.rollouts, before.rollouts);
    assert!(coordinator.rollout().reason.contains("make room"), "{}", coordinator.rollout().reason);
}

#[test]
fn once_a_commit_failed_no_lease_is_granted_though_all_is_ready_for_it() {
    let (coordinator, mut agents) = running();
    assert_eq!(agents[0].grants().len(), 1);
    coordinator.store.fill_up();
    agents[0].ends(&coordinator, 1, "");
    assert!(agents[0].received().is_empty(), "the end of the lease was not acknowledged");
    assert!(agents[1].grants().is_empty());
    assert_eq!(coordinator.node("cp1").phase(), v1::NodePhase::Leased);
}

#[test]
fn a_holder_comes_to_its_end_while_nothing_can_be_recorded() {
    let (coordinator, mut agents) = running();
    coordinator.store.fill_up();
    let renewal = Said::RenewLease(v1::RenewLease { fencing_token: 1, ..v1::RenewLease::default() });
    let report = v1::StepReport {
        fencing_token: 1,
        state: v1::StepState::Started.into(),
        ..v1::StepReport::default()
    };
    agents[0].says(&coordinator, Said::StepReport(report)).unwrap();
    drop(agents[0].received());
    agents[0].says(&coordinator, renewal).unwrap();
    assert!(matches!(agents[0].received()[..], [Told::LeaseRenewed(_)]));
    let mut back = coordinator.connect_with("cp1", 1, Some(held(1))).unwrap();
    assert_eq!(back.grants().len(), 1, "what is durable is sent");
}

#[test]
fn a_report_that_is_sent_again_is_recorded_once_and_a_second_attempt_is_another() {
    let (coordinator, agents) = running();
    let report = |attempt, state: v1::StepState| {
        let step = "drain".to_owned();
        let report = v1::StepReport {
            fencing_token: 1,
            step,
            state: state.into(),
            attempt,
            ..v1::StepReport::default()
        };
        agents[0].says(&coordinator, Said::StepReport(report)).unwrap();
    };
    report(1, v1::StepState::Started);
    report(1, v1::StepState::Started);
    report(2, v1::StepState::Started);
    report(2, v1::StepState::Succeeded);
    report(2, v1::StepState::Succeeded);
    let kinds = coordinator.kinds();
    assert_eq!(kinds[kinds.len() - 3..], ["step-started", "step-started", "step-succeeded"]);
    assert_eq!(coordinator.node("cp1").step_number, 1);
}

#[test]
fn a_holder_that_reconnects_gets_the_same_lease_again() {
    let (coordinator, mut agents) = running();
    let first = agents[0].grants();
    agents.remove(0).leaves(&coordinator);
    let mut back = coordinator.connect_with("cp1", 1, Some(held(1))).unwrap();
    assert_eq!(back.grants(), first);
    assert!(back.grants().is_empty(), "once a session");
    assert_eq!(coordinator.kinds().iter().filter(|kind| **kind == "lease-granted").count(), 1);
}

#[test]
fn a_coordinator_that_restarts_sends_the_same_lease_again() {
    let (coordinator, mut agents) = running();
    let first = agents[0].grants();
    let coordinator = coordinator.restarted();
    let mut back = coordinator.connect_with("cp1", 1, Some(held(1))).unwrap();
    assert_eq!(back.grants(), first);
}

#[test]
fn nobody_else_is_leased_while_a_holder_is_silent() {
    let (coordinator, mut agents) = running();
    agents.remove(0).leaves(&coordinator);
    for agent in &mut agents {
        agent.says(&coordinator, Said::Facts(Box::new(facts(agent.node.as_str(), "v1.30.4")))).unwrap();
        assert!(agent.grants().is_empty(), "{}", agent.node);
    }
    let holder = coordinator.node("cp1");
    assert_eq!((holder.phase(), holder.connected), (v1::NodePhase::Leased, false));
}

#[test]
fn a_second_session_of_a_node_ends_the_first() {
    let coordinator = Coordinator::new();
    let mut first = coordinator.connect("cp1");
    let second = coordinator.connect("cp1");
    let last = std::iter::from_fn(|| first.inbox.try_recv().ok()).last().unwrap();
    assert_eq!(last.unwrap_err().code(), tonic::Code::Aborted);
    assert!(!first.says(&coordinator, Said::Facts(Box::default())).unwrap());
    first.leaves(&coordinator);
    assert!(second.says(&coordinator, Said::Facts(Box::default())).unwrap(), "the second one stays");
}

#[test]
fn only_the_present_lease_is_renewed() {
    let (coordinator, mut agents) = running();
    for agent in &mut agents {
        drop(agent.received());
    }
    let renewal = |fencing_token| Said::RenewLease(v1::RenewLease { plan_id: String::new(), fencing_token });
    agents[0].says(&coordinator, renewal(1)).unwrap();
    assert!(matches!(
        agents[0].received()[..],
        [Told::LeaseRenewed(v1::LeaseRenewed { fencing_token: 1, .. })]
    ));
    agents[0].says(&coordinator, renewal(7)).unwrap();
    assert!(matches!(
        agents[0].received()[..],
        [Told::LeaseRefused(v1::LeaseRefused { fencing_token: 7, .. })]
    ));
    agents[1].says(&coordinator, renewal(1)).unwrap();
    assert!(matches!(agents[1].received()[..], [Told::LeaseRefused(_)]), "another node's lease");
}

#[test]
fn a_step_under_a_lease_that_is_over_is_refused() {
    let (coordinator, mut agents) = running();
    agents[0].ends(&coordinator, 1, "kubeadm failed");
    drop(agents[0].received());
    let report = v1::StepReport {
        fencing_token: 1,
        state: v1::StepState::Started.into(),
        ..v1::StepReport::default()
    };
    agents[0].says(&coordinator, Said::StepReport(report)).unwrap();
    assert!(matches!(agents[0].received()[..], [Told::LeaseRefused(_)]));
}

#[test]
fn the_end_of_a_lease_is_acknowledged_each_time_and_recorded_once() {
    let (coordinator, mut agents) = running();
    drop(agents[0].received());
    for _ in 0..2 {
        agents[0].ends(&coordinator, 1, "");
        assert!(matches!(agents[0].received()[..], [Told::LeaseEndRecorded(_)]));
    }
    assert_eq!(coordinator.kinds().iter().filter(|kind| **kind == "lease-ended").count(), 1);
}

#[test]
fn a_lease_whose_end_was_never_heard_of_ends_when_its_holder_is_back() {
    let (coordinator, mut agents) = running();
    agents.remove(0).leaves(&coordinator);
    let ended = v1::HeldLease { fencing_token: 1, ended: Some(end(1, "")), ..v1::HeldLease::default() };
    let mut back = coordinator.connect_with("cp1", 1, Some(ended)).unwrap();
    assert!(back.received().contains(&Told::LeaseEndRecorded(v1::LeaseEndRecorded { fencing_token: 1 })));
    assert_eq!(agents[0].grants().len(), 1, "the next node has its lease");
}

#[test]
fn a_node_that_failed_is_leased_again_with_a_higher_token() {
    let (coordinator, mut agents) = running();
    agents[0].ends(&coordinator, 1, "kubeadm failed");
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Halted);
    assert!(agents[1].grants().is_empty());
    drop(agents[0].received());

    coordinator.keeper.order(&Order::Retry("cp1".parse().unwrap()), "alice").unwrap();
    assert_eq!(agents[0].grants()[0].fencing_token, 2);
}

#[test]
fn a_node_that_failed_is_leased_to_be_put_back_and_the_roll_out_then_ends() {
    let (coordinator, mut agents) = running();
    agents[0].ends(&coordinator, 1, "kubeadm failed");
    drop(agents[0].received());
    coordinator.keeper.order(&Order::Rollback(None), "alice").unwrap();
    let grant = agents[0].grants().remove(0);
    assert_eq!((grant.fencing_token, grant.purpose()), (2, v1::Purpose::RollBack));
    let coordinator = coordinator.restarted();
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::RollingBack);
    let back = coordinator.connect_with("cp1", 2, Some(held(2))).unwrap();
    back.ends(&coordinator, 2, "");
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::RolledBack);
}

#[test]
fn an_operator_is_told_why_an_order_makes_no_sense() {
    let coordinator = Coordinator::new();
    let none = coordinator.keeper.order(&Order::Pause, "alice").unwrap_err();
    assert!(matches!(none, KeeperError::NotFound(_)), "{none}");
    let (coordinator, _agents) = running();
    let stranger = coordinator.keeper.order(&Order::Retry("w9".parse().unwrap()), "alice").unwrap_err();
    assert!(stranger.to_string().contains("w9"), "{stranger}");
}

#[test]
fn a_token_that_an_agent_has_seen_is_never_granted_again() {
    let coordinator = Coordinator::new();
    let mut agents: Vec<Agent> = ["cp1", "cp2", "cp3"].map(|node| coordinator.connect(node)).into();
    agents.push(coordinator.connect_with("w1", 41, None).unwrap());
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    assert_eq!(agents[0].grants()[0].fencing_token, 42);
    assert!(coordinator.kinds().contains(&"fence-raised"));
    assert_eq!(Saved::load(&coordinator.store.copy()).unwrap().fence, FencingToken(42));
}

#[test]
fn a_token_that_cannot_be_is_refused() {
    let coordinator = Coordinator::new();
    let error = coordinator.connect_with("cp1", u64::MAX, None).err().unwrap();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert_eq!(coordinator.keeper.lock().saved.fence, FencingToken(0));
}

#[test]
fn a_coordinator_put_back_from_an_old_copy_leases_nobody_beside_the_holder_it_does_not_know() {
    let (coordinator, agents) = running();
    let old_copy = coordinator.store.copy();
    agents[0].ends(&coordinator, 1, "");

    let coordinator = Coordinator::on(old_copy, tempfile::tempdir().unwrap());
    let mut cp2 = coordinator.connect_with("cp2", 2, Some(held(2))).unwrap();
    assert!(cp2.received().iter().any(|told| matches!(told, Told::LeaseRefused(_))));
    let ended = v1::HeldLease { fencing_token: 1, ended: Some(end(1, "")), ..v1::HeldLease::default() };
    let _cp1 = coordinator.connect_with("cp1", 1, Some(ended)).unwrap();
    let mut cp3 = coordinator.connect("cp3");
    assert!(cp2.grants().is_empty(), "w1 has not said yet what it holds");
    let _w1 = coordinator.connect("w1");
    assert_eq!(cp2.grants()[0].fencing_token, 3, "the holder itself may go on, under a new lease");
    cp2.ends(&coordinator, 2, "the lease was lost");
    cp2.ends(&coordinator, 3, "");
    assert_eq!(cp3.grants()[0].fencing_token, 4);
}

#[test]
fn what_was_raised_under_a_lease_that_an_old_copy_does_not_know_is_put_back_too() {
    let (coordinator, _agents) = running();
    let coordinator = Coordinator::on(coordinator.store.copy(), tempfile::tempdir().unwrap());
    let ended = v1::HeldLease { fencing_token: 5, ended: Some(end(5, "")), ..v1::HeldLease::default() };
    let mut w1 = coordinator.connect_with("w1", 5, Some(ended)).unwrap();
    let cp1 = coordinator.connect_with("cp1", 1, Some(held(1))).unwrap();
    let _others = ["cp2", "cp3"].map(|node| coordinator.connect(node));
    cp1.ends(&coordinator, 1, "kubeadm failed");
    coordinator.keeper.order(&Order::Rollback(None), "alice").unwrap();
    let grant = w1.grants().remove(0);
    assert_eq!((grant.fencing_token, grant.purpose()), (6, v1::Purpose::RollBack), "and before cp1");
}

#[test]
fn a_lease_that_the_store_never_knew_is_told_of_once_and_is_no_part_of_a_later_plan() {
    let coordinator = Coordinator::new();
    let _w1 = coordinator.connect_with("w1", 41, None).unwrap();
    let _cp1 = coordinator.connect_with("cp1", 40, None).unwrap();
    let mut agents: Vec<Agent> = ["cp2", "cp3"].map(|node| coordinator.connect(node)).into();
    coordinator.apply();
    agents.insert(0, coordinator.connect_with("cp1", 40, None).unwrap());
    agents.push(coordinator.connect_with("w1", 41, None).unwrap());
    assert_eq!(coordinator.kinds().iter().filter(|kind| **kind == "fence-raised").count(), 2);
    assert_eq!(
        coordinator.rollout().phase(),
        v1::RolloutPhase::Preparing,
        "nothing of this plan was ever begun"
    );
    prepare_all(&coordinator, &agents);
    assert_eq!(agents[0].grants()[0].fencing_token, 42);
}

#[test]
fn a_node_that_comes_before_the_holder_of_an_unknown_lease_has_to_wait() {
    let coordinator = Coordinator::new();
    let agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents[1..]);
    let coordinator = Coordinator::on(coordinator.store.copy(), tempfile::tempdir().unwrap());
    let w1 = coordinator.connect_with("w1", 4, Some(held(4))).unwrap();
    let mut cp1 = coordinator.connect("cp1");
    cp1.prepared(&coordinator);
    let _others = ["cp2", "cp3"].map(|node| coordinator.connect(node));
    assert!(cp1.grants().is_empty());
    assert!(coordinator.rollout().reason.contains("w1"), "{}", coordinator.rollout().reason);
    w1.leaves(&coordinator);
    assert!(cp1.grants().is_empty(), "silence proves nothing");
    let w1 = coordinator.connect_with("w1", 4, Some(held(4))).unwrap();
    assert!(cp1.grants().is_empty());
    w1.ends(&coordinator, 4, "the lease was lost");
    assert_eq!(cp1.grants()[0].fencing_token, 5);
}

#[test]
fn after_a_start_nobody_is_leased_before_every_node_has_said_what_it_holds() {
    let (coordinator, agents) = running();
    let old_copy = coordinator.store.copy();
    agents[0].ends(&coordinator, 1, "");
    agents[1].ends(&coordinator, 2, "");

    let coordinator = Coordinator::on(old_copy, tempfile::tempdir().unwrap());
    let ended = v1::HeldLease { fencing_token: 1, ended: Some(end(1, "")), ..v1::HeldLease::default() };
    let _cp1 = coordinator.connect_with("cp1", 1, Some(ended)).unwrap();
    let mut cp2 = coordinator.connect_with("cp2", 2, None).unwrap();
    let _w1 = coordinator.connect("w1");
    assert!(cp2.grants().is_empty(), "cp3 holds lease 3, and nobody knows that yet");
    assert!(
        coordinator.rollout().reason.contains("cp3 has not been heard of"),
        "{}",
        coordinator.rollout().reason
    );
    let cp3 = coordinator.connect_with("cp3", 3, Some(held(3))).unwrap();
    assert!(cp2.grants().is_empty());
    cp3.ends(&coordinator, 3, "the lease was lost");
    assert_eq!(cp2.grants()[0].fencing_token, 4);
}

#[test]
fn a_node_whose_token_was_taken_back_is_not_waited_for() {
    let (coordinator, agents) = running();
    let subject = Subject::agent(&"w1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject, 3600, "alice").unwrap();
    coordinator.keeper.enroll(&token.id, &token.secret, "w1", &request().csr_der).unwrap();
    agents[0].ends(&coordinator, 1, "");

    let coordinator = coordinator.restarted();
    let ended = v1::HeldLease { fencing_token: 2, ended: Some(end(2, "")), ..v1::HeldLease::default() };
    let _cp2 = coordinator.connect_with("cp2", 2, Some(ended)).unwrap();
    let (_cp1, mut cp3) = (coordinator.connect("cp1"), coordinator.connect("cp3"));
    assert!(cp3.grants().is_empty());
    coordinator.keeper.revoke_token(&token.id, true, "alice").unwrap();
    assert_eq!(cp3.grants()[0].fencing_token, 3);
}

#[test]
fn an_agent_that_knows_other_steps_is_refused() {
    let coordinator = Coordinator::new();
    let (outbox, _inbox) = mpsc::channel(64);
    let hello = v1::Hello { step_list_version: STEP_LIST_VERSION + 1, ..v1::Hello::default() };
    let error = coordinator.keeper.open_session(&"cp1".parse().unwrap(), hello, outbox).unwrap_err();
    assert!(
        matches!(&error, KeeperError::NotNow(why) if why.contains("install the same version")),
        "{error}"
    );
}

#[test]
fn an_agent_that_takes_no_messages_is_cut_off() {
    let coordinator = Coordinator::new();
    let (outbox, inbox) = mpsc::channel(2);
    let name: NodeName = "cp1".parse().unwrap();
    let hello = v1::Hello { step_list_version: STEP_LIST_VERSION, ..v1::Hello::default() };
    let session = coordinator.keeper.open_session(&name, hello, outbox).unwrap();
    let renewal = Said::RenewLease(v1::RenewLease { plan_id: String::new(), fencing_token: 1 });
    coordinator.keeper.hear(&name, session, renewal.clone()).unwrap();
    assert!(!coordinator.keeper.hear(&name, session, renewal).unwrap());
    drop(inbox);
}

#[test]
fn a_control_plane_whose_etcd_is_away_does_not_make_etcd_an_external_one() {
    let coordinator = Coordinator::new();
    let agents = coordinator.connect_all();
    for (agent, members, healthy) in [(&agents[0], 3, 2), (&agents[2], 0, 0)] {
        let mut facts = facts(agent.node.as_str(), "v1.30.4");
        let cluster = facts.cluster.as_mut().unwrap();
        (cluster.etcd_members, cluster.etcd_healthy_members) = (members, healthy);
        agent.says(&coordinator, Said::Facts(Box::new(facts))).unwrap();
    }
    let refusals = coordinator.keeper.plan("v1.31.2".parse().unwrap(), &Policy::default()).unwrap_err();
    let rules: Vec<&str> = refusals.iter().map(|refusal| refusal.rule).collect();
    assert_eq!(rules, ["quorum"]);
}

#[test]
fn a_plan_is_applied_only_as_it_was_made_and_only_while_it_still_fits() {
    let coordinator = Coordinator::new();
    let agents = coordinator.connect_all();
    let plan = coordinator.plan();

    let mut changed = plan.clone();
    changed.first.nodes.swap(0, 3);
    let error = coordinator.keeper.apply(&changed, "alice").unwrap_err();
    assert!(matches!(&error, KeeperError::Invalid(why) if why.contains("was changed")), "{error}");

    let mut moved = facts("cp2", "v1.30.4");
    moved.control_plane_version = "v1.31.2".to_owned();
    agents[1]
        .says(&coordinator, Said::Facts(Box::new(v1::NodeFacts { offered_versions: vec![], ..moved })))
        .unwrap();
    let error = coordinator.keeper.apply(&plan, "alice").unwrap_err();
    assert!(matches!(&error, KeeperError::NotNow(why) if why.contains("cp2")), "{error}");

    agents[1].says(&coordinator, Said::Facts(Box::new(facts("cp2", "v1.30.4")))).unwrap();
    coordinator.keeper.apply(&plan, "alice").unwrap();
    let error = coordinator.keeper.apply(&plan, "alice").unwrap_err();
    assert!(matches!(&error, KeeperError::NotNow(why) if why.contains("has not ended")), "{error}");
    assert_eq!(coordinator.rollout().started_by, "alice");
}

#[test]
fn output_is_shown_and_not_stored() {
    let (coordinator, agents) = running();
    let line = v1::OutputLine { line: "[upgrade] \u{1b}[1mpulling".to_owned(), ..v1::OutputLine::default() };
    agents[0].says(&coordinator, Said::OutputLine(line)).unwrap();
    assert_eq!(coordinator.node("cp1").last_output, "[upgrade]  [1mpulling");
    assert_eq!(coordinator.restarted().node("cp1").last_output, "");
}

fn request() -> CertificateRequest {
    CertificateRequest::new("somebody else").unwrap()
}

#[test]
fn a_token_buys_a_certificate_for_the_one_it_was_made_for_and_for_one_key() {
    let coordinator = Coordinator::new();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject.clone(), 3600, "alice").unwrap();
    let (first, second) = (request(), request());
    let enroll =
        |secret: &str, given: &str, csr: &[u8]| coordinator.keeper.enroll(&token.id, secret, given, csr);

    let wrong = enroll(&"0".repeat(64), "cp1", &first.csr_der).unwrap_err();
    assert!(matches!(wrong, KeeperError::Token(TokenRefused::Unknown)), "{wrong}");
    let other = enroll(&token.secret, "cp2", &first.csr_der).unwrap_err();
    assert!(other.to_string().contains("made for node cp1"), "{other}");
    let garbage = enroll(&token.secret, "cp1", b"garbage").unwrap_err();
    assert!(garbage.to_string().contains("certificate request"), "{garbage}");

    let certified = enroll(&token.secret, "cp1", &first.csr_der).unwrap();
    assert_eq!(peer(&certified.certificate_pem).subject, subject);
    enroll(&token.secret, "cp1", &first.csr_der).expect("the same key again: the answer may have been lost");
    let used = enroll(&token.secret, "cp1", &second.csr_der).unwrap_err();
    assert!(used.to_string().contains("was used already"), "{used}");
    assert!(coordinator.keeper.nodes().iter().any(|node| node.name == "cp1" && node.enrolled));
}

fn peer(certificate_pem: &str) -> Peer {
    use rustls_pki_types::pem::PemObject;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    Peer::of_certificate(&der).unwrap()
}

#[test]
fn a_used_token_stays_used_after_a_restart_and_no_secret_is_in_the_store() {
    let coordinator = Coordinator::new();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject, 3600, "alice").unwrap();
    coordinator.keeper.enroll(&token.id, &token.secret, "cp1", &request().csr_der).unwrap();
    let stored: Vec<u8> = coordinator.store.load().unwrap().into_values().flatten().collect();
    assert!(!String::from_utf8_lossy(&stored).contains(&token.secret));

    let coordinator = coordinator.restarted();
    let used = coordinator.keeper.enroll(&token.id, &token.secret, "cp1", &request().csr_der).unwrap_err();
    assert!(used.to_string().contains("was used already"), "{used}");
}

#[test]
fn a_certificate_is_not_handed_out_if_the_tokens_use_could_not_be_recorded() {
    let coordinator = Coordinator::new();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject, 3600, "alice").unwrap();
    coordinator.store.fill_up();
    let error = coordinator.keeper.enroll(&token.id, &token.secret, "cp1", &request().csr_der).unwrap_err();
    assert!(matches!(error, KeeperError::Store(_)), "{error}");
}

#[test]
fn a_login_does_not_spend_an_agents_token() {
    let coordinator = Coordinator::new();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject, 3600, "alice").unwrap();
    let enroll = |given: &str| coordinator.keeper.enroll(&token.id, &token.secret, given, &request().csr_der);
    let refused = enroll("").unwrap_err();
    assert!(refused.to_string().contains("was made for node cp1, and was not spent"), "{refused}");
    enroll("cp1").unwrap();
}

#[test]
fn a_token_expires_and_lives_seven_days_at_most() {
    let coordinator = Coordinator::new();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject.clone(), 1, "alice").unwrap();
    let expired = coordinator.keeper.enroll(&token.id, &token.secret, "cp1", &request().csr_der).unwrap_err();
    assert!(matches!(expired, KeeperError::Token(TokenRefused::Expired { .. })), "{expired}");
    assert!(coordinator.keeper.create_token(subject.clone(), 0, "alice").is_err());
    assert!(coordinator.keeper.create_token(subject, 7 * 24 * 3600 + 1, "alice").is_err());
}

#[test]
fn taking_back_a_used_token_voids_the_certificates_that_it_bought_and_no_later_ones() {
    let coordinator = Coordinator::new();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let enroll = || {
        let (token, _) = coordinator.keeper.create_token(subject.clone(), 3600, "alice").unwrap();
        let bought = coordinator.keeper.enroll(&token.id, &token.secret, "cp1", &request().csr_der).unwrap();
        (token.id, peer(&bought.certificate_pem))
    };
    let (id, stolen) = enroll();
    let mut session = coordinator.connect("cp1");
    coordinator.keeper.check_peer(&stolen).unwrap();

    coordinator.keeper.revoke_token(&id, false, "alice").unwrap();
    assert!(matches!(coordinator.keeper.check_peer(&stolen), Err(KeeperError::Denied(_))));
    let last = std::iter::from_fn(|| session.inbox.try_recv().ok()).last().unwrap();
    assert_eq!(last.unwrap_err().code(), tonic::Code::PermissionDenied);

    let (_, fresh) = enroll();
    coordinator.keeper.check_peer(&fresh).unwrap();
    assert!(matches!(coordinator.restarted().keeper.check_peer(&stolen), Err(KeeperError::Denied(_))));
}

/// What can befall a roll-out.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Restart,
    Disconnect(usize),
    Connect(usize),
    Prepare,
    End { failed: bool },
    Retry,
    RollBack,
    StartOver,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let node = 0..NODES.len();
    let fate = prop_oneof![
        2 => Just(Fate::Restart),
        1 => node.clone().prop_map(Fate::Disconnect),
        3 => node.prop_map(Fate::Connect),
        5 => Just(Fate::Prepare),
        8 => prop::bool::weighted(0.3).prop_map(|failed| Fate::End { failed }),
        3 => Just(Fate::Retry),
        1 => Just(Fate::RollBack),
        2 => Just(Fate::StartOver),
    ];
    proptest::collection::vec(fate, 1..60)
}

/// Agents that remember across the coordinator's restarts.
struct World {
    coordinator: Option<Coordinator>,
    sessions: [Option<Agent>; NODES.len()],
    /// The lease that each node was granted last and has not ended.
    open: [Option<u64>; NODES.len()],
    highest: u64,
}

impl World {
    fn new() -> Self {
        let coordinator = Coordinator::new();
        let sessions = NODES.map(|node| Some(coordinator.connect(node)));
        coordinator.apply();
        Self { coordinator: Some(coordinator), sessions, open: [None; NODES.len()], highest: 0 }
    }

    fn coordinator(&self) -> &Coordinator {
        self.coordinator.as_ref().unwrap()
    }

    fn connect(&mut self, index: usize) {
        let held = self.open[index].map(held);
        self.sessions[index] = Some(self.coordinator().connect_with(NODES[index], 0, held).unwrap());
    }

    fn suffer(&mut self, fate: Fate) {
        match fate {
            Fate::Restart => {
                self.sessions = [const { None }; NODES.len()];
                self.coordinator = self.coordinator.take().map(Coordinator::restarted);
                (0..NODES.len()).for_each(|index| self.connect(index));
            }
            Fate::Disconnect(index) => {
                if let Some(agent) = self.sessions[index].take() {
                    agent.leaves(self.coordinator());
                }
            }
            Fate::Connect(index) => self.connect(index),
            Fate::Prepare => {
                for agent in self.sessions.iter().flatten() {
                    agent.prepared(self.coordinator());
                }
            }
            Fate::End { failed } => {
                for index in 0..NODES.len() {
                    if let (Some(agent), Some(token)) = (&self.sessions[index], self.open[index]) {
                        agent.ends(self.coordinator(), token, if failed { "it failed" } else { "" });
                        self.open[index] = None;
                    }
                }
            }
            Fate::Retry => {
                for node in NODES {
                    let _ = self.coordinator().keeper.order(&Order::Retry(node.parse().unwrap()), "alice");
                }
            }
            Fate::RollBack => {
                let _ = self.coordinator().keeper.order(&Order::Rollback(None), "alice");
            }
            Fate::StartOver => {
                let _ = self.coordinator().keeper.order(&Order::Abort, "alice");
                let plan = self.coordinator().keeper.plan("v1.31.2".parse().unwrap(), &Policy::default());
                if let Ok(plan) = plan {
                    let _ = self.coordinator().keeper.apply(&plan, "alice");
                }
            }
        }
    }

    /// A lease that nobody has seen before has a higher number than all others, and nobody else has one open.
    fn look(&mut self) -> Result<(), TestCaseError> {
        for index in 0..NODES.len() {
            let Some(agent) = &mut self.sessions[index] else {
                continue;
            };
            for grant in agent.grants() {
                if self.open[index] == Some(grant.fencing_token) {
                    continue;
                }
                prop_assert!(
                    grant.fencing_token > self.highest,
                    "{} after {}",
                    grant.fencing_token,
                    self.highest
                );
                self.highest = grant.fencing_token;
                self.open[index] = Some(grant.fencing_token);
            }
        }
        let open = self.open.iter().flatten().count();
        prop_assert!(open <= 1, "{open} leases at once: {:?}", self.open);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn tokens_rise_and_one_node_at_a_time_is_leased_whatever_happens(fates in fates()) {
        let mut world = World::new();
        for fate in fates {
            world.suffer(fate);
            world.look()?;
        }
    }
}

fn list_backups() -> v1::Asked {
    v1::Asked { kind: Some(v1::asked::Kind::ListBackups(v1::ListBackups {})) }
}

fn backups() -> v1::Reply {
    v1::Reply { kind: Some(v1::reply::Kind::Backups(v1::Backups::default())) }
}

impl Agent {
    /// The number of the one question that it was asked since the last time.
    fn question(&mut self) -> u64 {
        let questions: Vec<u64> = self
            .received()
            .into_iter()
            .filter_map(|told| if let Told::Question(question) = told { Some(question.id) } else { None })
            .collect();
        assert_eq!(questions.len(), 1);
        questions[0]
    }

    fn answers(&self, coordinator: &Coordinator, id: u64, outcome: v1::answer::Outcome) {
        self.says(coordinator, Said::Answer(v1::Answer { id, outcome: Some(outcome) })).unwrap();
    }
}

impl Coordinator {
    /// Asks while something happens on the agent's side.
    async fn ask(&self, node: &str, meanwhile: impl FnOnce()) -> Result<v1::Reply, KeeperError> {
        let node = node.parse().unwrap();
        let asked = self.keeper.ask(&node, list_backups(), Duration::from_mins(1));
        // In this order: `join` polls the question first.
        tokio::join!(asked, async { meanwhile() }).0
    }
}

/// Whether the agent was told that its backups may go.
fn may_tidy(agent: &mut Agent) -> bool {
    agent.received().iter().any(|told| matches!(told, Told::TidyBackups(_)))
}

/// Why a prune of cp1's backups is refused, or `None` where the question is put.
fn prune_refused(coordinator: &Coordinator) -> Option<String> {
    let asked = v1::Asked { kind: Some(v1::asked::Kind::PruneBackups(v1::PruneBackups::default())) };
    match coordinator.keeper.lock().put_question(&"cp1".parse().unwrap(), asked, 0) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn no_backup_is_pruned_before_the_roll_out_has_ended_well() {
    let (coordinator, mut agents) = running();
    for index in 0..agents.len() {
        assert!(prune_refused(&coordinator).unwrap().contains("has not ended"));
        assert!(!agents.iter_mut().any(|agent| agent.node.as_str() == "w1" && may_tidy(agent)));
        agents[index].ends(&coordinator, index as u64 + 1, "");
    }
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Raised);
    assert_eq!(prune_refused(&coordinator), None);
    assert!(agents.iter_mut().all(may_tidy));
    let mut back = coordinator.connect("cp1");
    assert!(may_tidy(&mut back), "one that was away is told when it is back");
}

#[test]
fn no_backup_is_pruned_after_a_roll_out_that_ended_with_a_failure() {
    let (coordinator, mut agents) = running();
    agents[0].ends(&coordinator, 1, "the disk is full");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Aborted);
    assert!(prune_refused(&coordinator).unwrap().contains("ended with cp1 failed"));
    assert!(!agents.iter_mut().any(may_tidy));
}

#[tokio::test]
async fn an_answer_reaches_whoever_asked_by_its_number() {
    use v1::answer::Outcome;
    let coordinator = Coordinator::new();
    let mut cp1 = coordinator.connect("cp1");
    let answer = coordinator.ask("cp1", || {
        let id = cp1.question();
        cp1.answers(&coordinator, id + 1, Outcome::Failure("of another question".to_owned()));
        cp1.answers(&coordinator, id, Outcome::Reply(backups()));
        cp1.answers(&coordinator, id, Outcome::Failure("a second time".to_owned()));
    });
    assert_eq!(answer.await.unwrap(), backups());

    let answer = coordinator.ask("cp1", || {
        let id = cp1.question();
        cp1.answers(&coordinator, id, Outcome::Refusal("not now".to_owned()));
    });
    assert!(matches!(answer.await, Err(KeeperError::NotNow(why)) if why == "not now"));

    let answer = coordinator.ask("cp1", || {
        let id = cp1.question();
        cp1.answers(&coordinator, id, Outcome::Failure("the disk is broken".to_owned()));
    });
    assert!(matches!(answer.await, Err(KeeperError::Agent(why)) if why == "the disk is broken"));
}

#[tokio::test]
async fn a_question_ends_with_the_session_that_it_was_put_to() {
    let coordinator = Coordinator::new();
    let cp1 = coordinator.connect("cp1");
    let error = coordinator.ask("cp1", || cp1.leaves(&coordinator)).await.unwrap_err();
    assert!(matches!(&error, KeeperError::Unanswered(why) if why.contains("cp1")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_named_once_the_time_is_up() {
    let coordinator = Coordinator::new();
    let mut cp1 = coordinator.connect("cp1");
    let error = coordinator.ask("cp1", || ()).await.unwrap_err().to_string();
    assert!(error.contains("cp1's agent is connected and did not answer within 60 s"), "{error}");
    let late = v1::answer::Outcome::Reply(backups());
    let id = cp1.question();
    cp1.answers(&coordinator, id, late);
}

#[tokio::test]
async fn a_node_without_a_connected_agent_is_not_asked() {
    let coordinator = Coordinator::new();
    let error = coordinator.ask("cp1", || ()).await.unwrap_err();
    assert!(
        matches!(&error, KeeperError::NotFound(why) if why.contains("no agent on a node cp1")),
        "{error}"
    );
    coordinator.connect("cp1").leaves(&coordinator);
    let error = coordinator.ask("cp1", || ()).await.unwrap_err();
    assert!(matches!(&error, KeeperError::NotNow(why) if why.contains("is not connected")), "{error}");
}

#[tokio::test]
async fn the_number_of_a_question_is_never_used_again_also_after_a_restart() {
    let coordinator = Coordinator::new();
    let mut cp1 = coordinator.connect("cp1");
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let answer = coordinator.ask("cp1", || {
            let id = cp1.question();
            numbers.push(id);
            cp1.answers(&coordinator, id, v1::answer::Outcome::Reply(backups()));
        });
        answer.await.unwrap();
    }
    let first_run = *numbers.last().unwrap();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    // The clock has gone on: that is what tells the next run's numbers from those of this one.
    assert!(coordinator.keeper.clock.unix_ms() > first_run);
}

/// The control planes report the Nodes that there are, changed like this.
fn report_nodes(coordinator: &Coordinator, agents: &[Agent], change: impl Fn(&mut Vec<v1::ClusterNode>)) {
    for agent in &agents[..3] {
        let mut facts = facts(agent.node.as_str(), "v1.30.4");
        change(&mut facts.cluster.as_mut().unwrap().nodes);
        agent.says(coordinator, Said::Facts(Box::new(facts))).unwrap();
    }
}

/// The control planes report that every Node is Ready, or that one is not.
fn report_ready(coordinator: &Coordinator, agents: &[Agent], unready: Option<&str>) {
    report_nodes(coordinator, agents, |nodes| {
        for node in nodes {
            node.ready = unready != Some(node.name.as_str());
        }
    });
}

#[test]
fn a_gate_that_closes_between_nodes_holds_the_next_one_and_opens_by_itself() {
    let coordinator = Coordinator::asking_between_nodes();
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    assert!(agents[0].grants().is_empty(), "nobody has said how things are now");
    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[0].grants().len(), 1);
    agents[1].received();

    agents[0].ends(&coordinator, 1, "");
    let asked = |told: &Told| matches!(told, Told::FactsRequest(request) if request.pause_ms == 0);
    assert!(agents[1].received().iter().any(asked));
    report_ready(&coordinator, &agents, Some("w1"));
    let told = agents[1].received();
    let later = |told: &Told| matches!(told, Told::FactsRequest(request) if request.pause_ms > 0);
    assert!(told.iter().any(later) && !told.iter().any(|told| matches!(told, Told::Grant(_))), "{told:?}");
    let rollout = coordinator.rollout();
    assert_eq!(rollout.phase(), v1::RolloutPhase::Running);
    for part in ["node-not-ready", "w1 is not Ready"] {
        assert!(rollout.reason.contains(part), "{}", rollout.reason);
    }

    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[1].grants().len(), 1);
    assert_eq!(coordinator.rollout().reason, "");
}

#[test]
fn what_was_read_before_a_question_is_no_answer_to_it() {
    let coordinator = Coordinator::asking_between_nodes();
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[0].grants().len(), 1);
    let before = coordinator.keeper.lock().last_question;
    agents[0].ends(&coordinator, 1, "");
    for agent in &agents[..3] {
        let facts = v1::NodeFacts { answers: before, ..facts(agent.node.as_str(), "v1.30.4") };
        agent.says(&coordinator, Said::Facts(Box::new(facts))).unwrap();
    }
    assert!(agents[1].grants().is_empty(), "nobody has said how things are since");
    for agent in &agents[..3] {
        let facts = v1::NodeFacts { answers: u64::MAX, ..facts(agent.node.as_str(), "v1.30.4") };
        agent.says(&coordinator, Said::Facts(Box::new(facts))).unwrap();
    }
    assert!(agents[1].grants().is_empty(), "nobody was asked that");
    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[1].grants().len(), 1);
}

#[test]
fn who_never_says_how_things_are_is_named_once_he_is_late() {
    let coordinator = Coordinator::new();
    let coordinator = Coordinator { keeper: coordinator.keeper.asking_between_nodes(), ..coordinator };
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    assert_eq!(coordinator.rollout().reason, "", "they may take a while");
    for agent in [&agents[0], &agents[2]] {
        agent.says(&coordinator, Said::Facts(Box::new(facts(agent.node.as_str(), "v1.30.4")))).unwrap();
    }
    // Each look at the clock is a second later.
    for _ in 0..60 {
        coordinator.keeper.look_again();
    }
    let reason = coordinator.rollout().reason;
    assert!(reason.contains("nothing came from cp2: `journalctl -u liftlock-agent`"), "{reason}");
    report_ready(&coordinator, &agents, None);
    assert_eq!((agents[0].grants().len(), coordinator.rollout().reason.as_str()), (1, ""));

    agents[0].ends(&coordinator, 1, "");
    report_ready(&coordinator, &agents, None);
    agents[1].ends(&coordinator, 2, "");
    report_ready(&coordinator, &agents, None);
    agents[2].ends(&coordinator, 3, "");
    for agent in agents.drain(..3) {
        agent.leaves(&coordinator);
    }
    for _ in 0..60 {
        coordinator.keeper.look_again();
    }
    let reason = coordinator.rollout().reason;
    assert!(reason.contains("the agent of none is connected"), "{reason}");
}

#[test]
fn no_worker_leaves_while_a_machine_that_the_plan_before_had_join_has_lost_its_node() {
    let coordinator = Coordinator::new();
    let coordinator = Coordinator { keeper: coordinator.keeper.asking_between_nodes(), ..coordinator };
    let mut agents = coordinator.connect_all();
    let (policy, version) = (Policy::default(), "v1.30.4".parse().unwrap());
    let planned = |name: &str, role, steps| PlannedNode {
        name: name.parse().unwrap(),
        role,
        place: None,
        prepare: Vec::new(),
        steps,
        packages: PackageSource::default(),
    };
    let rollout = |nodes: Vec<PlannedNode>, state: NodeState, leg: Leg| {
        let plan = Plan {
            id: "p-0123456789ab".parse().unwrap(),
            hash: "0123456789ab".to_owned(),
            from_version: version,
            to_version: version,
            nodes,
            policy: policy.clone(),
            pools: Vec::new(),
        };
        let nodes = plan.nodes.iter().map(|_| state.clone()).collect();
        Rollout { nodes, leg, ..Rollout::start(plan, "alice".to_owned(), 0) }
    };
    let lease = Lease { token: FencingToken(1), granted_at_ms: 0 };
    let joined = vec![
        planned("n1", Role::Worker, join(Role::Worker, version, &policy)),
        planned("w1", Role::Worker, empty(&policy)),
    ];
    let leaves = vec![
        planned("w1", Role::Worker, leave(Role::Worker, &policy)),
        planned("cp1", Role::ControlPlane, end_memberships(&["w1".parse().unwrap()], Role::Worker, true)),
    ];
    let raised = NodeState::Raised { lease, ended_at_ms: 1, timings: Timings::default() };
    let first = rollout(joined, raised, Leg { next: Next::Begun, ..Leg::default() });
    let second = rollout(leaves, NodeState::Prepared, Leg::default());
    let rollouts = [(1, first), (2, second)].into();
    let change = Change { rollouts, ..Change::default() };
    coordinator.keeper.commit(&mut coordinator.keeper.lock(), change).unwrap();
    report_ready(&coordinator, &agents, None);
    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[3].grants(), []);
    let reason = coordinator.rollout().reason;
    assert!(reason.contains("n1 has joined and its Node is gone"), "{reason}");
    report_nodes(&coordinator, &agents, |nodes| {
        nodes.push(v1::ClusterNode { name: "n1".to_owned(), ..nodes[3].clone() });
    });
    assert_eq!(agents[3].grants().len(), 1);
}

#[test]
fn a_node_that_the_cluster_has_no_more_is_not_begun_on_and_is_once_it_is_back() {
    let coordinator = Coordinator::asking_between_nodes();
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    for token in 1..=3 {
        report_ready(&coordinator, &agents, None);
        agents[token - 1].ends(&coordinator, token as u64, "");
    }
    report_nodes(&coordinator, &agents, |nodes| nodes.retain(|node| node.name != "w1"));
    assert_eq!(agents[3].grants(), []);
    let reason = coordinator.rollout().reason;
    for part in ["w1 is not begun on", "no Node of that name", "restart the kubelet", "liftlock abort"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[3].grants().len(), 1);
}

#[test]
fn a_node_that_failed_is_leased_again_though_it_is_what_keeps_a_gate_closed() {
    let coordinator = Coordinator::asking_between_nodes();
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents);
    report_ready(&coordinator, &agents, None);
    assert_eq!(agents[0].grants().len(), 1);
    agents[0].ends(&coordinator, 1, "its API server does not start");
    report_ready(&coordinator, &agents, Some("cp1"));
    coordinator.keeper.order(&Order::Retry("cp1".parse().unwrap()), "alice").unwrap();
    assert_eq!(agents[0].grants().len(), 1);
}

#[test]
fn gates_are_not_shown_as_if_something_were_consented_to_that_is_no_gate_or_takes_no_consent() {
    let coordinator = Coordinator::new();
    for name in ["api-outtage", "quorum"] {
        let policy = Policy { accepted: vec![name.to_owned()], ..Policy::default() };
        let error = coordinator.keeper.gates("v1.31.2".parse().ok(), &policy).unwrap_err();
        assert!(matches!(&error, KeeperError::Invalid(why) if why.contains(name)), "{error}");
    }
}
