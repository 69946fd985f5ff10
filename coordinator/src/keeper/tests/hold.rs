//! What holds the next node, and opens by itself.

use super::*;
use crate::core::alerts::{Alert, AlertFilter};
use crate::core::conduct::Conduct;
use crate::core::hooks::Hooks;
use crate::core::window::{Day, Window};

/// As late as it is told to be.
#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Arc<Hands> {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Hands {
    fn at(time: &str) -> Arc<Self> {
        let hands = Arc::new(Self::default());
        hands.set(time);
        hands
    }

    fn set(&self, time: &str) {
        let time: jiff::Timestamp = time.parse().unwrap();
        self.0.store(time.as_millisecond().try_into().unwrap(), Ordering::Relaxed);
    }
}

/// Saturdays from 22:00 to 04:00 in Berlin, an hour later in UTC.
pub(super) fn saturday_nights() -> Conduct {
    let time = |text: &str| text.to_owned().try_into().unwrap();
    let time_zone = "Europe/Berlin".to_owned().try_into().unwrap();
    Conduct {
        hooks: Hooks::default(),
        alerts: AlertFilter::default(),
        windows: vec![Window { days: vec![Day::Sat], from: time("22:00"), to: time("04:00"), time_zone }],
    }
}

impl Coordinator {
    fn on_hands(hands: &Arc<Hands>, store: Arc<MemoryStore>, state_dir: tempfile::TempDir) -> Self {
        let authority = Authority::open(&state_dir.path().join("ca"), &Ticking::default()).unwrap();
        let keeper =
            Keeper::open(Box::new(Arc::clone(&store)), authority, Box::new(Arc::clone(hands))).unwrap();
        Self { keeper, store, state_dir }
    }

    fn held_until(&self) -> String {
        let ms = i64::try_from(self.rollout().held_until_ms).unwrap();
        jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
    }
}

/// A roll-out that is ready for its first lease on a Saturday at noon.
fn held() -> (Arc<Hands>, Coordinator, Vec<Agent>) {
    let hands = Hands::at("2026-11-28T12:00:00Z");
    let coordinator = Coordinator::on_hands(&hands, Arc::default(), tempfile::tempdir().unwrap());
    let agents = coordinator.connect_all();
    coordinator.keeper.apply_conducted(&coordinator.plan(), &saturday_nights(), None, "alice").unwrap();
    prepare_all(&coordinator, &agents);
    (hands, coordinator, agents)
}

#[test]
fn nothing_is_begun_outside_of_the_windows_and_it_goes_on_by_itself_when_one_opens() {
    let (hands, coordinator, mut agents) = held();
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants(), []);
    let rollout = coordinator.rollout();
    assert_eq!(rollout.phase(), v1::RolloutPhase::Running, "nodes prepare at any time");
    assert_eq!(rollout.reason, "waits for the window: opens Sat 2026-11-28 22:00 Europe/Berlin");
    assert_eq!(coordinator.held_until(), "2026-11-28T21:00:00Z");

    let store = coordinator.store.copy();
    let Coordinator { state_dir, .. } = coordinator;
    let coordinator = Coordinator::on_hands(&hands, store, state_dir);
    let mut agents = coordinator.connect_all();
    assert!(coordinator.rollout().reason.contains("opens Sat"), "a restart forgets no window");
    hands.set("2026-11-28T20:59:59Z");
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants(), []);
    hands.set("2026-11-28T21:00:00Z");
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants().len(), 1);
    assert_eq!((coordinator.rollout().reason.as_str(), coordinator.rollout().held_until_ms), ("", 0));
}

#[test]
fn a_lease_that_runs_when_a_window_closes_is_finished_and_the_next_waits() {
    let (hands, coordinator, mut agents) = held();
    hands.set("2026-11-28T21:00:00Z");
    coordinator.keeper.look_again();
    assert_eq!(agents[0].grants().len(), 1);
    // Of a control plane nothing is known but what is assumed: 40 min.
    hands.set("2026-11-29T02:20:01Z");
    coordinator.keeper.look_again();
    assert_eq!(coordinator.node("cp1").phase(), v1::NodePhase::Leased);
    agents[0].ends(&coordinator, 1, "");
    assert_eq!(coordinator.node("cp1").phase(), v1::NodePhase::Raised);
    assert_eq!(agents[1].grants(), []);
    let reason = coordinator.rollout().reason;
    for part in ["expected to take 40 min", "closes Sun 2026-11-29 04:00", "opens Sat 2026-12-05 22:00"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn a_node_that_was_begun_and_what_goes_back_are_held_by_no_window() {
    let (hands, coordinator, mut agents) = held();
    hands.set("2026-11-28T21:00:00Z");
    coordinator.keeper.look_again();
    hands.set("2026-11-29T12:00:00Z");
    agents[0].ends(&coordinator, 1, "kubeadm failed");
    drop(agents[0].received());
    coordinator.keeper.order(&Order::Retry("cp1".parse().unwrap()), "alice").unwrap();
    assert_eq!(agents[0].grants().len(), 1, "it was begun already");
    agents[0].ends(&coordinator, 2, "kubeadm failed again");
    coordinator.keeper.order(&Order::Rollback(None), "alice").unwrap();
    let grants = agents[0].grants();
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0].purpose(), v1::Purpose::RollBack);
}

#[test]
fn a_plan_that_fits_into_no_window_is_not_begun_with() {
    let hands = Hands::at("2026-11-28T12:00:00Z");
    let coordinator = Coordinator::on_hands(&hands, Arc::default(), tempfile::tempdir().unwrap());
    let _agents = coordinator.connect_all();
    let mut conduct = saturday_nights();
    conduct.windows[0].to = "22:39".to_owned().try_into().unwrap();
    let target = "v1.31.2".parse().unwrap();
    let refused = coordinator.keeper.plan_conducted(target, &Policy::default(), &conduct).unwrap_err();
    assert!(refused.iter().all(|refusal| refusal.rule == "window-too-short"), "{refused:?}");
    let error = coordinator.keeper.apply_conducted(&coordinator.plan(), &conduct, None, "alice").unwrap_err();
    assert!(error.to_string().contains("no window of spec.windows is that long"), "{error}");
    assert!(coordinator.keeper.rollout(None).is_err(), "nothing was begun with");
}

#[test]
fn what_control_planes_said_before_a_window_opened_counts_no_more() {
    let (hands, coordinator, agents) = held();
    let Coordinator { keeper, store, state_dir } = coordinator;
    let coordinator = Coordinator { keeper: keeper.asking_between_nodes(), store, state_dir };
    let mut control_plane = agents;
    coordinator.keeper.look_again();
    drop(control_plane[0].received());
    hands.set("2026-11-28T21:00:00Z");
    coordinator.keeper.look_again();
    let asked = control_plane[0].received();
    assert!(
        matches!(asked[..], [Told::FactsRequest(_)]),
        "asked when it opens, and not granted yet: {asked:?}"
    );
    for agent in &control_plane {
        let facts = facts(agent.node.as_str(), "v1.30.4");
        agent.says(&coordinator, Said::Facts(Box::new(facts))).unwrap();
    }
    assert_eq!(control_plane[0].grants().len(), 1);
}

fn alert(name: &str) -> Alert {
    Alert { labels: [("alertname".to_owned(), name.to_owned())].into() }
}

/// A roll-out whose first lease waits for what Prometheus says.
fn alarmed(conduct: &Conduct, policy: &Policy) -> (Arc<Hands>, Coordinator, Vec<Agent>) {
    let hands = Hands::at("2026-11-28T12:00:00Z");
    let Coordinator { keeper, store, state_dir } =
        Coordinator::on_hands(&hands, Arc::default(), tempfile::tempdir().unwrap());
    let coordinator = Coordinator { keeper: keeper.asking_for_alerts(), store, state_dir };
    let agents = coordinator.connect_all();
    let path = coordinator.keeper.plan("v1.31.2".parse().unwrap(), policy).unwrap();
    coordinator.keeper.apply_conducted(&path, conduct, None, "alice").unwrap();
    prepare_all(&coordinator, &agents);
    (hands, coordinator, agents)
}

#[test]
fn nothing_is_begun_while_an_alert_fires_or_nobody_can_tell_and_it_goes_on_by_itself() {
    let (hands, coordinator, mut agents) = alarmed(&Conduct::default(), &Policy::default());
    assert!(coordinator.keeper.wants_alerts());
    coordinator.keeper.alerts_are(Ok(vec![alert("NodeNotReady")]));
    assert_eq!(agents[0].grants(), []);
    assert!(coordinator.rollout().reason.contains("while an alert fires: NodeNotReady"));
    hands.set("2026-11-28T12:00:16Z");
    coordinator.keeper.look_again();
    assert!(coordinator.keeper.wants_alerts(), "what was said a while ago is asked again");
    coordinator.keeper.alerts_are(Err("it is away".to_owned()));
    assert_eq!(agents[0].grants(), []);
    assert!(coordinator.rollout().reason.contains("nobody can tell"), "{}", coordinator.rollout().reason);
    coordinator.keeper.alerts_are(Ok(Vec::new()));
    assert_eq!(agents[0].grants().len(), 1);
    assert_eq!(coordinator.rollout().reason, "");

    agents[0].ends(&coordinator, 1, "");
    assert_eq!(agents[1].grants(), [], "asked before each node, however fresh the last answer is");
    assert!(coordinator.keeper.wants_alerts());
    coordinator.keeper.alerts_are(Ok(Vec::new()));
    assert_eq!(agents[1].grants().len(), 1);
}

#[test]
fn an_alert_that_the_document_ignores_holds_nothing_and_an_operator_may_consent_to_all() {
    let ignore = vec!["NodeNotReady".to_owned()];
    let alerts = AlertFilter { ignore, ..AlertFilter::default() };
    let ignoring = Conduct { alerts, ..Conduct::default() };
    let (_, coordinator, mut agents) = alarmed(&ignoring, &Policy::default());
    coordinator.keeper.alerts_are(Ok(vec![alert("NodeNotReady")]));
    assert_eq!(agents[0].grants().len(), 1);

    let accepting = Policy { accepted: vec!["alerts-firing".to_owned()], ..Policy::default() };
    let (_, coordinator, mut agents) = alarmed(&Conduct::default(), &accepting);
    assert!(!coordinator.keeper.wants_alerts());
    assert_eq!(agents[0].grants().len(), 1);

    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    let target = "v1.31.2".parse().unwrap();
    let refused = coordinator.keeper.plan_conducted(target, &Policy::default(), &ignoring).unwrap_err();
    assert_eq!(refused[0].rule, "alerts-not-configured");
    assert!(refused[0].message.contains("/etc/liftlock/coordinator.toml"), "{}", refused[0].message);
}
