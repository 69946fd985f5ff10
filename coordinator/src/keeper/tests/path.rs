//! Paths of several stops, and what happens between two of them.

use std::collections::BTreeMap;

use super::*;

/// What each stop leads to, after what the cluster runs at first.
const STOPS: [&str; 3] = ["v1.29.9", "v1.30.4", "v1.31.2"];

const WAY: usize = STOPS.len() - 1;

/// A cluster whose agents do at once what they are told.
pub(super) struct Journey {
    pub(super) coordinator: Option<Coordinator>,
    agents: BTreeMap<&'static str, Agent>,
    /// How often each node was raised.
    raised: BTreeMap<&'static str, usize>,
    /// The lease that a node has not been released from.
    held: BTreeMap<&'static str, v1::HeldLease>,
    /// Every lease, in the order in which they arrived.
    pub(super) leases: Vec<(u64, &'static str)>,
    /// Nodes that do not say what they are like.
    mute: Vec<&'static str>,
    /// Not ready, as the control planes see it.
    unready: Option<&'static str>,
}

impl Journey {
    /// Every agent is connected, and nothing is applied.
    pub(super) fn new() -> Self {
        let mut journey = Self {
            coordinator: Some(Coordinator::new()),
            agents: BTreeMap::new(),
            raised: NODES.map(|node| (node, 0)).into(),
            held: BTreeMap::new(),
            leases: Vec::new(),
            mute: Vec::new(),
            unready: None,
        };
        for node in NODES {
            journey.connect(node);
        }
        journey
    }

    /// The path is applied, and the agents have gone as far as they are let.
    fn begun() -> Self {
        let mut journey = Self::new();
        journey.apply();
        journey.goes_on();
        journey
    }

    pub(super) fn coordinator(&self) -> &Coordinator {
        self.coordinator.as_ref().unwrap()
    }

    pub(super) fn apply(&self) {
        self.coordinator().keeper.apply(&self.coordinator().plan(), "alice").unwrap();
    }

    fn order(&mut self, order: &Order) {
        self.coordinator().keeper.order(order, "alice").unwrap();
        self.goes_on();
    }

    fn facts(&self, node: &str) -> v1::NodeFacts {
        let version = |node: &str| STOPS[self.raised[node]].to_owned();
        let mut facts = facts(node, &version(node));
        if let Some(cluster) = &mut facts.cluster {
            cluster.kubeadm_config_version = version("cp1");
            for object in &mut cluster.nodes {
                object.kubelet_version = version(&object.name);
                object.ready = self.unready != Some(object.name.as_str());
            }
        }
        facts
    }

    fn connect(&mut self, node: &'static str) {
        let (outbox, inbox) = mpsc::channel(64);
        let name: NodeName = node.parse().unwrap();
        let held = self.held.get(node).cloned();
        let hello = v1::Hello { held, step_list_version: STEP_LIST_VERSION, ..v1::Hello::default() };
        let session = self.coordinator().keeper.open_session(&name, hello, outbox).unwrap();
        self.agents.insert(node, Agent { node: name, session, inbox });
        self.says_what_it_is_like(node);
    }

    fn says(&self, node: &str, said: Said) {
        self.agents[node].says(self.coordinator(), said).unwrap();
    }

    fn says_what_it_is_like(&self, node: &str) {
        if !self.mute.contains(&node) {
            self.says(node, Said::Facts(Box::new(self.facts(node))));
        }
    }

    fn everybody_says_what_he_is_like(&self) {
        for node in NODES {
            self.says_what_it_is_like(node);
        }
    }

    /// The coordinator's process ends and another begins with what is durable.
    fn restarts(&mut self) {
        self.agents.clear();
        self.coordinator = self.coordinator.take().map(Coordinator::restarted);
        for node in NODES {
            self.connect(node);
        }
    }

    /// Every agent does what it is told, until nothing is told any more.
    pub(super) fn goes_on(&mut self) {
        loop {
            let told: Vec<(&'static str, Told)> = NODES
                .iter()
                .flat_map(|node| {
                    let received = self.agents.get_mut(node).map(Agent::received).unwrap_or_default();
                    received.into_iter().map(|told| (*node, told))
                })
                .collect();
            if told.is_empty() {
                return;
            }
            for (node, told) in told {
                self.does(node, told);
            }
        }
    }

    fn does(&mut self, node: &'static str, told: Told) {
        match told {
            Told::Prepare(v1::Prepare { plan_id, .. }) => {
                self.says(node, Said::PrepareReport(v1::PrepareReport { plan_id, failure: String::new() }));
            }
            Told::FactsRequest(_) => self.says_what_it_is_like(node),
            Told::Grant(v1::Grant { plan_id, fencing_token, .. }) => {
                if self.held.get(node).is_none_or(|held| held.fencing_token != fencing_token) {
                    self.leases.push((fencing_token, node));
                    *self.raised.get_mut(node).unwrap() += 1;
                }
                let ended = Some(end(fencing_token, ""));
                self.held.insert(node, v1::HeldLease { plan_id, fencing_token, ended });
                self.says(node, Said::LeaseEnd(end(fencing_token, "")));
            }
            Told::LeaseEndRecorded(_) => {
                self.held.remove(node);
            }
            _ => {}
        }
    }

    /// Time passes, and everybody is asked whenever that is due.
    pub(super) fn time_passes(&mut self, looks: usize) {
        for _ in 0..looks {
            self.coordinator().keeper.look_again();
            self.goes_on();
        }
    }

    pub(super) fn phase(&self) -> (u32, v1::RolloutPhase) {
        let rollout = self.coordinator().rollout();
        (rollout.stop, rollout.phase())
    }

    /// Every node was raised once at each stop, in the order of the plan, under leases whose tokens rise.
    fn has_arrived(&self) {
        assert_eq!(self.phase(), (2, v1::RolloutPhase::Raised), "{}", self.coordinator().rollout().reason);
        let order: Vec<&str> = self.leases.iter().map(|(_, node)| *node).collect();
        assert_eq!(order, NODES.repeat(WAY));
        assert!(self.leases.is_sorted_by(|(one, _), (next, _)| one < next), "{:?}", self.leases);
        let kinds = self.coordinator().kinds();
        let count = |wanted: &str| kinds.iter().filter(|kind| **kind == wanted).count();
        assert_eq!((count("stop-reached"), count("rollout-ended"), count("lease-ended")), (1, 2, 8));
        assert_eq!(self.coordinator().keeper.lock().saved.rollouts.len(), WAY);
    }
}

/// More looks than the patience lasts on a clock that goes on by a second each time that it is read.
pub(super) const TOO_LONG: usize = 400;

#[test]
fn a_path_goes_on_by_itself_and_every_node_is_leased_at_each_stop() {
    let journey = Journey::begun();
    journey.has_arrived();
    let rollout = journey.coordinator().rollout();
    assert_eq!((rollout.started_by.as_str(), rollout.onward.len()), ("alice", 0));
    let history = journey.coordinator().keeper.history(None);
    let texts: Vec<&str> = history.iter().map(|(_, record)| record.text.as_str()).collect();
    let reached = "stop 1 of 2, v1.30.4, is reached; on to v1.31.2 on 4 nodes";
    assert!(texts.contains(&reached), "{texts:#?}");
}

#[test]
fn nothing_begins_at_a_stop_before_every_node_has_said_what_it_is_like_since() {
    let mut journey = Journey::new();
    journey.apply();
    journey.mute = vec!["cp2"];
    journey.goes_on();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops));
    let reason = journey.coordinator().rollout().reason;
    assert!(reason.contains("before v1.31.2: cp2 has not said"), "{reason}");
    journey.time_passes(TOO_LONG);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops), "who is silent is waited for");

    journey.agents.remove("w1").unwrap().leaves(journey.coordinator());
    journey.mute.clear();
    journey.says_what_it_is_like("cp2");
    journey.goes_on();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops), "w1 is not there");
    journey.connect("w1");
    journey.goes_on();
    journey.has_arrived();
}

#[test]
fn what_passes_by_itself_does_not_halt_a_path() {
    let mut journey = Journey::new();
    journey.apply();
    journey.mute = vec!["cp2"];
    journey.goes_on();
    journey.unready = Some("w1");
    journey.mute.clear();
    journey.says_what_it_is_like("cp2");
    journey.everybody_says_what_he_is_like();
    journey.time_passes(3);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops));
    let reason = journey.coordinator().rollout().reason;
    assert!(reason.contains("w1 is not Ready"), "{reason}");
    journey.unready = None;
    journey.time_passes(1);
    journey.has_arrived();
}

#[test]
fn a_path_halts_where_the_next_plan_is_another_and_a_new_one_takes_its_place() {
    let mut journey = Journey::new();
    journey.apply();
    journey.mute = vec!["cp2"];
    journey.goes_on();
    // Somebody raises a worker by hand.
    *journey.raised.get_mut("w1").unwrap() += 1;
    journey.mute.clear();
    journey.everybody_says_what_he_is_like();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops));
    journey.time_passes(TOO_LONG);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Halted));
    let reason = journey.coordinator().rollout().reason;
    for part in
        ["stop 1 of 2, v1.30.4, is reached", "w1", "`liftlock plan v1.31.2`", "`liftlock apply v1.31.2`"]
    {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(journey.coordinator().kinds().last(), Some(&"path-halted"));
    journey.restarts();
    assert_eq!(journey.coordinator().rollout().reason, reason);

    *journey.raised.get_mut("w1").unwrap() -= 1;
    journey.everybody_says_what_he_is_like();
    journey.goes_on();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Halted), "an operator was asked");
    journey.apply();
    assert_eq!(
        journey.coordinator().keeper.lock().saved.rollouts[&1].phase(),
        crate::core::rollout::Phase::Aborted
    );
    journey.goes_on();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Raised));
    assert_eq!(journey.leases.len(), NODES.len() * WAY);
}

#[test]
fn a_path_that_halted_before_a_stop_goes_on_where_an_operator_resumes_it_and_nothing_speaks_against_it_any_more()
 {
    let mut journey = Journey::new();
    journey.apply();
    journey.mute = vec!["cp2"];
    journey.goes_on();
    journey.unready = Some("w1");
    journey.mute.clear();
    journey.everybody_says_what_he_is_like();
    journey.time_passes(TOO_LONG);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Halted));
    assert!(journey.coordinator().rollout().reason.contains("`liftlock resume`"));
    journey.order(&Order::Resume);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops), "it is as it was");
    journey.time_passes(TOO_LONG);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Halted), "and an operator is asked again");
    journey.unready = None;
    journey.everybody_says_what_he_is_like();
    journey.order(&Order::Resume);
    journey.has_arrived();
}

#[test]
fn a_pause_holds_before_the_next_stop_and_an_abort_ends_the_path_there() {
    let mut journey = Journey::new();
    journey.apply();
    journey.coordinator().keeper.order(&Order::Pause, "alice").unwrap();
    journey.goes_on();
    journey.order(&Order::Resume);
    journey.has_arrived();

    let mut journey = Journey::new();
    journey.apply();
    journey.mute = vec!["cp2"];
    journey.goes_on();
    journey.order(&Order::Pause);
    journey.mute.clear();
    journey.says_what_it_is_like("cp2");
    journey.restarts();
    journey.goes_on();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Paused));
    let refused =
        journey.coordinator().keeper.order(&Order::Rollback(None), "alice").unwrap_err().to_string();
    assert!(refused.contains("what was raised at a stop of a path stays"), "{refused}");
    journey.order(&Order::Abort);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Aborted));
    assert_eq!(journey.leases.len(), NODES.len());
}

#[test]
fn an_abort_under_the_last_lease_of_a_stop_ends_the_path() {
    let journey = Journey::new();
    journey.apply();
    let (coordinator, mut agents) = (journey.coordinator.unwrap(), journey.agents);
    for agent in agents.values() {
        agent.prepared(&coordinator);
    }
    for (token, node) in (1..).zip(NODES) {
        assert_eq!(agents.get_mut(node).unwrap().grants()[0].fencing_token, token);
        if node == "w1" {
            coordinator.keeper.order(&Order::Abort, "alice").unwrap();
        }
        agents[node].ends(&coordinator, token, "");
    }
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Aborted);
    assert_eq!(coordinator.kinds().last(), Some(&"rollout-ended"));
}

#[test]
fn a_coordinator_that_ends_at_any_commit_of_a_path_loses_nothing_and_begins_no_stop_twice() {
    for commits in 0.. {
        let mut journey = Journey::new();
        journey.apply();
        journey.coordinator().store.fill_up_after(commits);
        journey.goes_on();
        let failed = journey.coordinator().keeper.failure().is_some();
        journey.restarts();
        journey.goes_on();
        journey.has_arrived();
        if !failed {
            assert!(commits > 2 * NODES.len() * WAY, "only {commits} commits were cut off");
            return;
        }
    }
}

#[test]
fn a_roll_out_that_an_earlier_version_stored_is_a_path_of_one_stop() {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    coordinator.apply();
    let mut entries = coordinator.store.load().unwrap();
    let head = entries.get_mut("rollout/0000000001").unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(head).unwrap();
    value.as_object_mut().unwrap().remove("leg").unwrap();
    *head = serde_json::to_vec(&value).unwrap();
    let store = Arc::new(MemoryStore::default());
    let mut batch = crate::store::Batch::default();
    for (key, value) in &entries {
        batch.put(key.clone(), &serde_json::from_slice::<serde_json::Value>(value).unwrap()).unwrap();
    }
    store.commit(&batch).unwrap();
    let coordinator = Coordinator::on(store, tempfile::tempdir().unwrap());
    let rollout = coordinator.rollout();
    assert_eq!((rollout.stop, rollout.onward.len()), (1, 0));
    assert_eq!(rollout.phase(), v1::RolloutPhase::Preparing);
}
