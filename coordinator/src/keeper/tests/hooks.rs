//! Hooks, which hold nodes until they have ended well.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::core::conduct::Conduct;
use crate::core::hooks::{Hook, Hooks, Moment, Target};

fn named(name: &str) -> Hook {
    Hook { target: Target::Name(name.to_owned()), timeout_seconds: 60 }
}

fn before_and_after() -> Conduct {
    let hooks =
        Hooks { before_node: vec![named("before")], after_node: vec![named("after")], ..Hooks::default() };
    Conduct { hooks, ..Conduct::default() }
}

impl Coordinator {
    fn calling_hooks(self) -> Self {
        let names = ["before", "after"].map(str::to_owned).into();
        Self { keeper: self.keeper.with_hooks(names), ..self }
    }

    /// Calls what is wanted, which has to be this; it ends well, or with a failure.
    fn calls(&self, wanted: &str, failure: Option<&str>) {
        let order = self.keeper.wanted_hook().unwrap();
        assert_eq!(order.call.to_string(), wanted);
        assert!(self.keeper.hook_begins(&order).unwrap());
        self.keeper.hook_ended(&order, failure).unwrap();
    }
}

/// A roll-out that is ready for its first lease.
fn ready(conduct: &Conduct) -> (Coordinator, Vec<Agent>) {
    let coordinator = Coordinator::new().calling_hooks();
    let agents = coordinator.connect_all();
    coordinator.keeper.apply_conducted(&coordinator.plan(), conduct, None, "alice").unwrap();
    prepare_all(&coordinator, &agents);
    (coordinator, agents)
}

#[test]
fn a_node_is_begun_on_once_the_hooks_before_it_have_ended_well_and_the_next_once_those_after_it_have() {
    let (coordinator, mut agents) = ready(&before_and_after());
    assert_eq!(agents[0].grants(), []);
    assert_eq!(coordinator.rollout().reason, "waits for the hook before before cp1");
    coordinator.calls("the hook before before cp1", None);
    assert_eq!(agents[0].grants().len(), 1);
    assert_eq!((coordinator.rollout().reason.as_str(), coordinator.keeper.wanted_hook()), ("", None));
    agents[0].ends(&coordinator, 1, "");
    assert_eq!(coordinator.rollout().reason, "waits for the hook after after cp1");
    coordinator.calls("the hook after after cp1", None);
    assert_eq!(agents[1].grants(), []);
    coordinator.calls("the hook before before cp2", None);
    assert_eq!(agents[1].grants().len(), 1);
    let kinds = coordinator.kinds();
    let hooks: Vec<&str> = kinds.into_iter().filter(|kind| kind.starts_with("hook")).collect();
    assert_eq!(hooks, ["hook-began", "hook-succeeded"].repeat(3));
}

#[test]
fn a_hook_that_fails_holds_the_next_node_says_why_and_is_called_again_by_itself() {
    let (coordinator, mut agents) = ready(&before_and_after());
    coordinator.calls("the hook before before cp1", Some("exit status 7"));
    assert_eq!(agents[0].grants(), []);
    let reason = coordinator.rollout().reason;
    for part in ["the hook before before cp1 has failed: exit status 7", "every minute", "liftlock edit"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(coordinator.keeper.wanted_hook(), None, "not at once");
    // The clock ticks each time that it is read.
    let called_again = (0..200).find_map(|_| coordinator.keeper.wanted_hook()).unwrap();
    assert!(coordinator.keeper.hook_begins(&called_again).unwrap());
    assert!(!coordinator.keeper.hook_begins(&called_again).unwrap(), "once");
    assert_eq!(coordinator.rollout().reason, reason, "that it is called again is no news");
    coordinator.keeper.hook_ended(&called_again, None).unwrap();
    assert_eq!(agents[0].grants().len(), 1);
}

#[test]
fn a_coordinator_that_ends_in_the_middle_of_a_hook_calls_it_again_and_skips_none() {
    let (coordinator, _) = ready(&before_and_after());
    let order = coordinator.keeper.wanted_hook().unwrap();
    assert!(coordinator.keeper.hook_begins(&order).unwrap());
    let coordinator = coordinator.restarted().calling_hooks();
    let mut agents = coordinator.connect_all();
    assert_eq!(agents[0].grants(), []);
    coordinator.calls("the hook before before cp1", None);
    assert_eq!(agents[0].grants().len(), 1);
    let coordinator = coordinator.restarted().calling_hooks();
    let _agents = coordinator.connect_all();
    assert_eq!(coordinator.keeper.wanted_hook(), None, "what has ended well is not called again");
}

#[test]
fn that_a_hook_begins_is_durable_before_it_is_called() {
    let (coordinator, _) = ready(&before_and_after());
    let order = coordinator.keeper.wanted_hook().unwrap();
    coordinator.keeper.hook_begins(&order).unwrap();
    let saved = Saved::load(&coordinator.store.copy()).unwrap();
    let (_, rollout) = saved.newest().unwrap();
    let progress = &rollout.hooks[&Moment::BeforeNode("cp1".parse().unwrap())];
    assert_eq!(progress.last.as_ref().map(|run| (run.number, run.failure.clone())), Some((1, None)));
}

#[test]
fn a_paused_roll_out_calls_what_comes_after_a_node_and_nothing_before_one() {
    let (coordinator, agents) = ready(&before_and_after());
    coordinator.calls("the hook before before cp1", None);
    coordinator.keeper.order(&Order::Pause, "alice").unwrap();
    agents[0].ends(&coordinator, 1, "");
    coordinator.calls("the hook after after cp1", None);
    assert_eq!(coordinator.keeper.wanted_hook(), None);
}

#[test]
fn a_hook_that_the_configuration_does_not_have_is_refused_with_its_field_and_what_would_be_allowed() {
    let coordinator = Coordinator::new().calling_hooks();
    let _agents = coordinator.connect_all();
    let unknown = Hooks { after_plan: vec![named("before"), named("announce")], ..Hooks::default() };
    let pool = Hooks { before_pool: vec![named("before")], ..Hooks::default() };
    for (hooks, parts) in [
        (
            unknown,
            ["unknown-hook", "spec.hooks.afterPlan[1].name: \"announce\"", "allowed are after, before"],
        ),
        (pool, ["hooks-without-pools", "spec.hooks.beforePool", "allowed is beforeNode"]),
    ] {
        let conduct = Conduct { hooks, ..Conduct::default() };
        let target = "v1.31.2".parse().unwrap();
        let refused = coordinator.keeper.plan_conducted(target, &Policy::default(), &conduct).unwrap_err();
        let said = format!("{}: {}", refused[0].rule, refused[0].message);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(coordinator.keeper.apply_conducted(&coordinator.plan(), &conduct, None, "alice").is_err());
    }
}

#[test]
fn an_operator_takes_a_hook_that_fails_out_of_the_document_and_the_roll_out_goes_on() {
    let (coordinator, mut agents) = ready(&before_and_after());
    coordinator.calls("the hook before before cp1", Some("exit status 7"));
    let document = crate::document::UpgradePlan::new("v1.31.2".parse().unwrap(), Policy::default());
    coordinator.keeper.edit(&document, "alice").unwrap();
    assert_eq!(agents[0].grants().len(), 1);
}

#[test]
fn no_other_plan_is_applied_before_the_hooks_after_the_last_one_have_ended() {
    let after_plan = Hooks { after_plan: vec![named("after")], ..Hooks::default() };
    let conduct = Conduct { hooks: after_plan, ..Conduct::default() };
    let (coordinator, agents) = ready(&conduct);
    agents[0].ends(&coordinator, 1, "kubeadm broke");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    let ended = coordinator.keeper.unfinished();
    assert!(ended.is_some(), "who follows documents waits too");
    let refused = || coordinator.keeper.apply(&coordinator.plan(), "alice").unwrap_err().to_string();
    let waits = refused();
    for part in ["has ended", "waits for the hook after after the plan", "liftlock edit", "spec.hooks"] {
        assert!(waits.contains(part), "{part}: {waits}");
    }
    coordinator.calls("the hook after after the plan", Some("exit status 7"));
    assert!(refused().contains("has failed: exit status 7"), "{}", refused());
    let document = crate::document::UpgradePlan::new("v1.31.2".parse().unwrap(), Policy::default());
    coordinator.keeper.edit(&document, "alice").unwrap();
    assert_eq!((coordinator.keeper.wanted_hook(), coordinator.keeper.unfinished()), (None, None));
    coordinator.apply();
}

#[test]
fn a_plan_that_is_applied_at_once_after_the_end_begins_after_the_last_hook() {
    let after_plan = Hooks { after_plan: vec![named("after")], ..Hooks::default() };
    let (coordinator, agents) = ready(&Conduct { hooks: after_plan, ..Conduct::default() });
    agents[0].ends(&coordinator, 1, "kubeadm broke");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    assert!(coordinator.keeper.apply(&coordinator.plan(), "alice").is_err());
    coordinator.calls("the hook after after the plan", None);
    coordinator.apply();
}

#[test]
fn whoever_calls_hooks_is_told_when_one_is_wanted() {
    let (coordinator, agents) = ready(&before_and_after());
    coordinator.calls("the hook before before cp1", None);
    let changes = coordinator.keeper.changes();
    let told = AtomicBool::new(changes.has_changed().unwrap());
    agents[0].ends(&coordinator, 1, "");
    assert!(
        !told.into_inner() && changes.has_changed().unwrap() && coordinator.keeper.wanted_hook().is_some()
    );
}
