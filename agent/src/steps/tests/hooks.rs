//! Hooks of a node's own configuration.

use std::sync::Arc;

use liftlock_proto::hooks::{NodeHook, NodeMoment};
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;

use super::harness::{End, FROM, Leased, TO, shape};
use crate::twin::hooks::{PROGRAM, configuration};
use crate::twin::{Fault, Meanwhile, Twin};

pub(super) const OUT: &str = "lb-out";
pub(super) const IN: &str = "lb-in";

/// Has a node's configuration and its lease name these hooks.
pub(super) fn name(leased: &mut Leased, before: &[&str], after: &[&str]) {
    let names: Vec<&str> = before.iter().chain(after).copied().collect();
    leased.twin.world().hooks = Arc::new(configuration(&names));
    leased.meddle(|machine| {
        machine.disk.put("/etc/liftlock/agent.toml", "[hooks]", 0o600);
        machine.disk.put(PROGRAM, "#!", 0o755);
    });
    let step = |moment, names: &[&str]| {
        let hook = |name: &&str| NodeHook { name: (*name).to_owned(), timeout_seconds: 60 };
        Step::RunHooks { moment, hooks: names.iter().map(hook).collect(), from_version: FROM, version: TO }
    };
    let first = leased.steps.iter().position(|step| step.name() == "seal-protected-paths").unwrap();
    leased.steps.insert(first, step(NodeMoment::BeforeNode, before));
    leased.steps.push(step(NodeMoment::AfterNode, after));
}

fn worker(before: &[&str]) -> Leased {
    let twin = Twin::new(shape(1, 1));
    Leased::new(&twin, "cp1", Role::FirstControlPlane).carry_all();
    let mut leased = Leased::new(&twin, "w1", Role::Worker);
    name(&mut leased, before, &[IN]);
    leased.carry_until("run-hooks-before");
    leased
}

fn starts(leased: &Leased, hook: &str) -> usize {
    leased
        .changes()
        .iter()
        .filter(|change| change.contains("start `/usr/bin/env") && change.contains(hook))
        .count()
}

#[test]
fn a_hook_sees_which_node_and_versions_it_is_called_for_and_ends_the_environment() {
    let mut leased = worker(&[OUT]);
    assert_eq!(leased.carry(&leased.step("run-hooks-before")), End::Done);
    let changes = leased.changes();
    let call = changes.iter().find(|change| change.contains("/usr/bin/env")).unwrap();
    for part in [
        "env -i PATH=/usr/local/sbin:",
        "LIFTLOCK_MOMENT=before-node",
        "LIFTLOCK_NODE=w1",
        "LIFTLOCK_TO_VERSION=v1.31.2",
        PROGRAM,
    ] {
        assert!(call.contains(part), "{part}: {call}");
    }
}

#[test]
fn an_agent_that_dies_in_the_middle_of_a_hook_joins_it_and_one_that_was_cut_off_with_its_machine_is_called_again()
 {
    for (fault, meanwhile, calls) in [
        (Fault::AgentDies, Meanwhile::StillRunning, 1),
        (Fault::AgentDies, Meanwhile::Ended, 1),
        (Fault::PowerFails, Meanwhile::StillRunning, 2),
    ] {
        let mut leased = worker(&[OUT]);
        let step = leased.step("run-hooks-before");
        // Its start is the first change, what it does the second.
        leased.twin.inject(leased.node, 2, fault);
        assert_eq!(leased.carry(&step), End::Died, "{fault:?}");
        leased.restart(meanwhile);
        assert_eq!(leased.carry(&step), End::Done, "{fault:?}, {meanwhile:?}");
        assert_eq!(starts(&leased, OUT), calls, "{fault:?}, {meanwhile:?}: {:?}", leased.changes());
    }
}

#[test]
fn of_several_hooks_one_that_has_ended_well_is_not_called_again_because_another_fails() {
    let mut leased = worker(&[OUT, "bad-one"]);
    let why = leased.fail("run-hooks-before");
    assert!(why.contains(&format!("`{PROGRAM} --fail` ended with exit status 1")), "{why}");
    assert_eq!((starts(&leased, OUT), starts(&leased, "--fail")), (1, 3), "{:?}", leased.changes());
    leased.lease_again(8);
    leased.fail("run-hooks-before");
    assert_eq!(starts(&leased, OUT), 1, "under a later lease neither");
}

#[test]
fn what_the_configuration_does_not_have_any_more_or_others_may_write_is_refused() {
    let mut leased = worker(&[OUT]);
    leased.meddle(|machine| machine.disk.put(PROGRAM, "#!", 0o777));
    let why = leased.fail("run-hooks-before");
    assert!(why.contains("others than root may write to") && why.contains("`liftlock retry w1`"), "{why}");
    leased.twin.world().hooks = Arc::default();
    let why = leased.fail("run-hooks-before");
    assert!(why.contains("does not have it any more") && why.contains("[hooks.lb-out]"), "{why}");
}
