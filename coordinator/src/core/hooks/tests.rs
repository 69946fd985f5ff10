use std::collections::BTreeSet;

use liftlock_proto::name::FencingToken;
use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{Plan, Policy, Purpose, Role};
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Place, PlannedPool};
use proptest::prelude::*;

use super::*;
use crate::core::conduct::Conduct;
use crate::core::rollout::{Event, Lease, Timings};

fn name(index: usize) -> NodeName {
    format!("n{index}").parse().unwrap()
}

fn named(name: &str) -> Hook {
    Hook { target: Target::Name(name.to_owned()), timeout_seconds: 60 }
}

/// One hook for each moment.
fn one_each() -> Hooks {
    Hooks {
        before_plan: vec![named("bp")],
        after_plan: vec![named("ap")],
        before_pool: vec![named("bq")],
        after_pool: vec![named("aq")],
        before_node: vec![named("bn")],
        after_node: vec![named("an")],
    }
}

/// A control plane and two workers of one pool, all prepared.
fn ready(hooks: Hooks) -> Rollout {
    let pool = PlannedPool {
        name: "others".to_owned(),
        max_unavailable: Some(2),
        canary: None,
        pause_after: false,
        on_blocked: None,
    };
    let node = |index: usize| PlannedNode {
        name: name(index),
        role: if index == 0 { Role::FirstControlPlane } else { Role::Worker },
        prepare: Vec::new(),
        steps: Vec::new(),
        place: (index > 0).then(|| Place { pool: "others".to_owned(), zone: None }),
        packages: PackageSource::default(),
    };
    let plan = Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: "0123456789ab".to_owned(),
        from_version: KubernetesVersion::new(1, 19, 7),
        to_version: KubernetesVersion::new(1, 20, 2),
        nodes: (0..3).map(node).collect(),
        policy: Policy::default(),
        pools: vec![pool],
    };
    let conduct = Conduct { hooks, ..Conduct::default() };
    let rollout = Rollout::start(plan, "alice".to_owned(), 0).conducted(conduct);
    (0..3).fold(rollout, |rollout, index| {
        rollout.after(&Event::PrepareReported { node: name(index), failure: None }).unwrap()
    })
}

fn granted(index: usize, token: u64) -> Event {
    let lease = Lease { token: FencingToken(token), granted_at_ms: 0 };
    Event::LeaseGranted { node: name(index), lease, purpose: Purpose::Raise, soak_time_ms: 0 }
}

fn ended(index: usize, token: u64, failure: Option<&str>) -> Event {
    Event::LeaseEnded {
        node: name(index),
        token: FencingToken(token),
        failure: failure.map(str::to_owned),
        timings: Timings::default(),
        at_ms: 9,
    }
}

fn began(call: &Call) -> Event {
    Event::HookBegan { moment: call.moment.clone(), target: call.hook.target.clone(), at_ms: 5 }
}

fn called(call: &Call, failure: Option<&str>) -> Event {
    let failure = failure.map(str::to_owned);
    Event::HookEnded { moment: call.moment.clone(), target: call.hook.target.clone(), failure, at_ms: 6 }
}

fn calls_well(rollout: &Rollout, call: &Call) -> Rollout {
    rollout.after(&began(call)).unwrap().after(&called(call, None)).unwrap()
}

/// Calls what stands in the way of a node until nothing does, and says what it was.
fn clear_the_way(mut rollout: Rollout, node: usize) -> (Rollout, Vec<String>) {
    let mut said = Vec::new();
    while let Some(call) = rollout.hook_in_the_way(&name(node)) {
        said.push(call.to_string());
        rollout = calls_well(&rollout, &call);
    }
    (rollout, said)
}

#[test]
fn each_hook_is_called_once_before_and_after_its_plan_its_pool_and_its_nodes() {
    let mut rollout = ready(one_each());
    let mut said = Vec::new();
    for index in 0..3 {
        let token = index as u64 + 1;
        let (clear, calls) = clear_the_way(rollout, index);
        said.extend(calls);
        rollout = clear.after(&granted(index, token)).unwrap().after(&ended(index, token, None)).unwrap();
    }
    assert_eq!((rollout.phase(), rollout.outcome()), (Phase::Raised, Some("raised")));
    while let Some(call) = rollout.hook_after() {
        said.push(call.to_string());
        rollout = calls_well(&rollout, &call);
    }
    let said: Vec<&str> = said.iter().map(|call| call.strip_prefix("the hook ").unwrap()).collect();
    assert_eq!(
        said,
        [
            "bp before the plan",
            "bn before n0",
            "an after n0",
            "bq before pool others",
            "bn before n1",
            "an after n1",
            "bn before n2",
            "an after n2",
            "aq after pool others",
            "ap after the plan",
        ]
    );
}

#[test]
fn no_node_is_begun_on_past_a_hook_that_has_not_ended_well() {
    let rollout = ready(Hooks { before_node: vec![named("bn")], ..Hooks::default() });
    let refused = rollout.after(&granted(0, 1)).unwrap_err().to_string();
    assert!(refused.contains("the hook bn before n0 has not ended well"), "{refused}");
    let call = rollout.hook_in_the_way(&name(0)).unwrap();
    let under_way = rollout.after(&began(&call)).unwrap();
    assert!(under_way.after(&granted(0, 1)).is_err());
    let failed = under_way.after(&called(&call, Some("no"))).unwrap();
    assert!(failed.after(&granted(0, 1)).is_err());
    let again = failed.hook_in_the_way(&name(0)).unwrap();
    assert_eq!((again.failure(), again.last.as_ref().unwrap().number), (Some("no"), 1));
    assert!(calls_well(&failed, &again).after(&granted(0, 1)).is_ok());
}

#[test]
fn why_and_how_often_a_hook_failed_is_said_while_it_is_called_again_too() {
    let rollout = ready(Hooks { before_node: vec![named("bn")], ..Hooks::default() });
    let call = rollout.hook_in_the_way(&name(0)).unwrap();
    assert_eq!(call.waiting(), "waits for the hook bn before n0");
    let once = rollout.after(&began(&call)).unwrap().after(&called(&call, Some("no"))).unwrap();
    let said = |rollout: &Rollout| rollout.hook_in_the_way(&name(0)).unwrap().waiting();
    assert!(said(&once).starts_with("the hook bn before n0 has failed: no;"), "{}", said(&once));
    let again = once.after(&began(&call)).unwrap();
    assert_eq!(said(&again), said(&once), "that it is called again is no news");
    let cut_off = again.after(&began(&call)).unwrap();
    assert_eq!(said(&cut_off), said(&once), "nor that it was cut off");
    let twice = cut_off.after(&called(&call, Some("never"))).unwrap();
    let words = "the hook bn before n0 has failed 2 times, the last time: never;";
    assert!(said(&twice).starts_with(words), "{}", said(&twice));
}

#[test]
fn a_call_that_was_cut_off_is_made_again_and_one_that_ended_well_is_not() {
    let rollout = ready(Hooks { before_node: vec![named("a"), named("b")], ..Hooks::default() });
    let first = rollout.hook_in_the_way(&name(0)).unwrap();
    let cut_off = rollout.after(&began(&first)).unwrap();
    let again = cut_off.hook_in_the_way(&name(0)).unwrap();
    assert_eq!((again.hook.clone(), again.last.as_ref().unwrap().number), (first.hook, 1));
    let second = calls_well(&cut_off, &again).hook_in_the_way(&name(0)).unwrap();
    assert_eq!(second.hook, named("b"));
    assert!(cut_off.after(&began(&second)).is_err(), "not before the one before it");
}

#[test]
fn a_node_that_was_begun_on_and_what_goes_back_is_held_by_no_hook() {
    let hooks = Hooks { before_node: vec![named("bn")], after_node: vec![named("an")], ..Hooks::default() };
    let (clear, _) = clear_the_way(ready(hooks), 0);
    let failed = clear.after(&granted(0, 1)).unwrap().after(&ended(0, 1, Some("kubeadm"))).unwrap();
    let retried = failed.after(&Event::Retried { node: name(0) }).unwrap();
    assert!(retried.after(&granted(0, 2)).is_ok());
    let back = failed.after(&Event::RollbackOrdered { node: None }).unwrap();
    assert_eq!((back.hook_after(), back.phase()), (None, Phase::RollingBack));
    let lease = Lease { token: FencingToken(2), granted_at_ms: 0 };
    let granted_back =
        Event::LeaseGranted { node: name(0), lease, purpose: Purpose::RollBack, soak_time_ms: 0 };
    assert!(back.after(&granted_back).is_ok());
}

#[test]
fn after_a_plan_is_told_how_it_ended_and_nothing_where_nothing_was_begun() {
    let hooks = Hooks { after_plan: vec![named("ap")], ..Hooks::default() };
    let untouched = ready(hooks.clone()).after(&Event::Aborted { at_ms: 9 }).unwrap();
    assert_eq!((untouched.phase(), untouched.hook_after()), (Phase::Aborted, None));
    let one = ready(hooks).after(&granted(0, 1)).unwrap().after(&ended(0, 1, None)).unwrap();
    let aborted = one.after(&Event::Aborted { at_ms: 9 }).unwrap();
    assert_eq!(aborted.hook_after().map(|call| call.moment), Some(Moment::AfterPlan));
    assert_eq!(aborted.outcome(), Some("aborted"));
}

#[test]
fn once_a_roll_out_has_ended_a_hook_that_fails_is_given_up_after_so_many_calls() {
    let hooks = Hooks { after_node: vec![named("an")], after_plan: vec![named("ap")], ..Hooks::default() };
    let one = ready(hooks).after(&granted(0, 1)).unwrap().after(&ended(0, 1, None)).unwrap();
    let mut rollout = one.after(&Event::Aborted { at_ms: 9 }).unwrap();
    for _ in 0..CALLS_AFTER_THE_END {
        let call = rollout.hook_after().unwrap();
        assert_eq!(call.hook, named("an"));
        rollout = rollout.after(&began(&call)).unwrap().after(&called(&call, Some("no"))).unwrap();
    }
    assert_eq!(rollout.hook_after().unwrap().hook, named("ap"));
}

#[test]
fn a_hook_after_a_plan_that_has_ended_can_be_taken_out_and_nothing_else_of_it_changes() {
    let hooks = Hooks { after_plan: vec![named("ap")], ..Hooks::default() };
    let one = ready(hooks).after(&granted(0, 1)).unwrap().after(&ended(0, 1, None)).unwrap();
    let aborted = one.after(&Event::Aborted { at_ms: 9 }).unwrap();
    let without = Event::Edited { conduct: Conduct::default() };
    let edited = aborted.after(&without).unwrap();
    assert_eq!((edited.hook_after(), edited.phase()), (None, Phase::Aborted));
    assert!(matches!(edited.after(&without), Err(TransitionError::Final { .. })));
}

#[test]
fn what_an_edit_brings_is_called_where_its_moment_comes_and_in_the_place_of_what_failed() {
    let before = Hooks { after_node: vec![named("wrong")], ..Hooks::default() };
    let one = ready(before).after(&granted(0, 1)).unwrap().after(&ended(0, 1, None)).unwrap();
    let call = one.hook_after().unwrap();
    let failed = one.after(&began(&call)).unwrap().after(&called(&call, Some("no"))).unwrap();
    let edited =
        |hooks| failed.after(&Event::Edited { conduct: Conduct { hooks, ..Conduct::default() } }).unwrap();
    let right = edited(Hooks { after_node: vec![named("right")], ..Hooks::default() });
    assert_eq!(right.hook_after().map(|call| (call.hook, call.last)), Some((named("right"), None)));
    let none = edited(Hooks::default());
    assert_eq!(none.hook_in_the_way(&name(1)), None, "what is taken out holds nothing");
    let conduct = Conduct { hooks: one_each(), ..Conduct::default() };
    let later = none.after(&Event::Edited { conduct }).unwrap();
    let (_, said) = clear_the_way(later, 1);
    assert_eq!(
        said,
        ["the hook bq before pool others", "the hook bn before n1"],
        "nothing for what was passed"
    );
}

#[test]
fn of_an_address_nothing_is_shown_that_may_be_a_secret() {
    let shown = |url: &str| Target::Url(url.to_owned()).to_string();
    assert_eq!(shown("https://chat.example/T0/s3cret?token=s3cret"), "https://chat.example/…");
    assert_eq!(shown("https://chat.example:8443?s3cret"), "https://chat.example:8443/…");
    assert_eq!(shown("http://10.0.0.5"), "http://10.0.0.5");
}

#[test]
fn a_moment_is_a_key_of_the_store_and_the_key_the_same_moment() {
    let moments = [
        Moment::BeforePlan,
        Moment::AfterPlan,
        Moment::BeforePool("gpu".to_owned()),
        Moment::AfterPool("gpu".to_owned()),
        Moment::BeforeNode("w1.example".parse().unwrap()),
        Moment::AfterNode("w1".parse().unwrap()),
    ];
    let keys: BTreeSet<String> = moments.iter().cloned().map(String::from).collect();
    assert_eq!(keys.len(), moments.len());
    for moment in moments {
        assert_eq!(String::from(moment.clone()).parse(), Ok(moment));
    }
    assert!("before-node:".parse::<Moment>().is_err() && "sometimes".parse::<Moment>().is_err());
}

proptest! {
    /// Whatever hooks answer, and however often the coordinator is cut off, a node is leased only once every hook before it
    /// has ended well, and none of them is called again that has.
    #[test]
    fn whatever_hooks_answer_none_is_passed_over_and_none_is_called_again_that_ended_well(
        answers in proptest::collection::vec(0..3u8, 0..60)
    ) {
        let mut rollout = ready(one_each());
        let mut answers = answers.into_iter();
        let mut well = BTreeSet::new();
        for index in 0..3 {
            while let Some(call) = rollout.hook_in_the_way(&name(index)) {
                prop_assert!(rollout.after(&granted(index, index as u64 + 1)).is_err());
                prop_assert!(!well.contains(&call.to_string()), "{call} again");
                rollout = rollout.after(&began(&call)).unwrap();
                match answers.next().unwrap_or(0) {
                    0 => {
                        rollout = rollout.after(&called(&call, None)).unwrap();
                        well.insert(call.to_string());
                    }
                    1 => rollout = rollout.after(&called(&call, Some("no"))).unwrap(),
                    // Cut off: nobody knows how it ended.
                    _ => {}
                }
            }
            let token = index as u64 + 1;
            rollout = rollout.after(&granted(index, token)).unwrap().after(&ended(index, token, None)).unwrap();
        }
        prop_assert_eq!(well.len(), 7);
    }
}
