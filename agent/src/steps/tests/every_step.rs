//! What must hold of every step, on every kind of node.

use std::sync::Arc;
use std::time::Duration;

use liftlock_proto::name::FencingToken;

use super::harness::{End, Leased, one_of_each};
use crate::engine::lease::Lease;
use crate::engine::step::StepFailure;
use crate::host::HostError;
use crate::twin::{Fault, Meanwhile, Picture};

/// Faults that a lease has to survive, and what children did meanwhile.
pub(super) const FAULTS: [(Fault, Meanwhile); 4] = [
    (Fault::Fails, Meanwhile::StillRunning),
    (Fault::AgentDies, Meanwhile::StillRunning),
    (Fault::AgentDies, Meanwhile::Ended),
    (Fault::PowerFails, Meanwhile::StillRunning),
];

/// Compares the node with a picture of it.
pub(super) fn same(leased: &Leased, picture: &Picture, when: &str) {
    let differences = leased.picture().differences(picture);
    assert!(differences.is_empty(), "{when}:\n{}", differences.join("\n"));
}

/// The lease before each of its steps.
pub(super) fn before_each(leased: &Leased) -> Vec<Leased> {
    let mut leased = leased.fork();
    (0..leased.steps.len())
        .map(|index| {
            let before = leased.fork();
            assert_eq!(leased.carry(&leased.steps[index].clone()), End::Done);
            before
        })
        .collect()
}

#[test]
fn a_lease_raises_the_node_and_restores_its_holds_and_schedulability() {
    for (kind, mut leased) in one_of_each() {
        leased.carry_all();
        leased.picture();
        let world = leased.twin.world();
        let (node, machine) = (&world.cluster.nodes[leased.node], world.machine(leased.node).unwrap());
        assert!(node.ready && !node.unschedulable && node.cordoned_by.is_none(), "{kind}: {node:?}");
        assert_eq!(node.kubelet_version, super::harness::TO, "{kind}");
        for (name, package) in &machine.packages {
            assert!(package.held && package.configured, "{kind}: {name} {package:?}");
            assert_eq!(package.version, "1.31.2-1.1", "{kind}: {name}");
        }
        for (name, container) in &machine.containers {
            let tag = if name == "etcd" { ":3.5.15-0" } else { ":v1.31.2" };
            assert!(container.image.ends_with(tag), "{kind}: {name} runs {}", container.image);
        }
    }
}

#[test]
fn every_step_run_twice_ends_in_the_same_state() {
    for (kind, mut leased) in one_of_each() {
        for step in leased.steps.clone() {
            assert_eq!(leased.carry(&step), End::Done, "{kind}: {}", step.name());
            let once = leased.picture();
            if leased.captured.contains_key(step.name()) {
                leased.run_again(&step).unwrap();
                same(&leased, &once, &format!("{kind}: {}", step.name()));
                assert_eq!(leased.carry(&step), End::Done, "{kind}: {} after its second run", step.name());
            }
        }
    }
}

#[test]
fn a_step_that_is_done_is_not_run_again() {
    for (kind, mut leased) in one_of_each() {
        leased.carry_all();
        let changes = leased.changes();
        for step in leased.steps.clone() {
            // Its effect was taken back by the last step.
            if step.name() != "drain" {
                assert_eq!(leased.carry(&step), End::Done, "{kind}: {}", step.name());
            }
        }
        assert_eq!(leased.changes(), changes, "{kind}");
    }
}

#[test]
fn every_step_unwinds_to_where_it_was() {
    for (kind, leased) in one_of_each() {
        let before = leased.picture();
        let mut leased = leased.fork();
        for last in 0..leased.steps.len() {
            let step = leased.steps[last].clone();
            assert_eq!(leased.carry(&step), End::Done);
            let unwound = leased.fork();
            assert_eq!(unwound.unwind_from(last), Ok(()), "{kind}: from {}", step.name());
            same(&unwound, &before, &format!("{kind}: from {}", step.name()));
        }
    }
}

#[test]
fn every_step_unwinds_idempotently() {
    for (kind, leased) in one_of_each() {
        let before = leased.picture();
        let mut leased = leased.fork();
        for last in 0..leased.steps.len() {
            let step = leased.steps[last].clone();
            assert_eq!(leased.carry(&step), End::Done);
            let unwound = leased.fork();
            for step in unwound.steps.iter().take(last + 1).rev() {
                assert_eq!(unwound.undo(step), End::Done, "{kind}: {}", step.name());
                assert_eq!(unwound.undo(step), End::Done, "{kind}: {} again", step.name());
            }
            assert_eq!(unwound.unwind_from(last), Ok(()), "{kind}: from {}, all again", step.name());
            same(&unwound, &before, &format!("{kind}: from {}", step.name()));
        }
    }
}

/// Calls `then` with a lease that a fault struck before each change of each step, and the step's position.
pub(super) fn struck_everywhere(
    leased: &Leased,
    faults: &[(Fault, Meanwhile)],
    mut then: impl FnMut(Leased, usize, &str),
) {
    for (index, before) in before_each(leased).iter().enumerate() {
        let step = before.steps[index].clone();
        for &(fault, meanwhile) in faults {
            for nth in 1.. {
                let mut struck = before.fork();
                struck.twin.inject(struck.node, nth, fault);
                let end = struck.carry(&step);
                let Some(change) = struck.twin.struck() else {
                    assert!(nth == 1 || end == End::Done, "{}: {end:?}", step.name());
                    break;
                };
                assert!(nth < 1000, "{} never ends", step.name());
                if fault != Fault::Fails {
                    assert_eq!(end, End::Died, "{}: {fault:?} before {change}", step.name());
                    struck.restart(meanwhile);
                }
                then(
                    struck,
                    index,
                    &format!("{fault:?}, {meanwhile:?}, before \"{change}\" in {}", step.name()),
                );
            }
        }
    }
}

#[test]
fn a_fault_before_any_change_of_any_step_still_ends_with_the_node_raised() {
    for (kind, leased) in one_of_each() {
        let mut undisturbed = leased.fork();
        undisturbed.carry_all();
        let raised = undisturbed.picture();
        let mut strikes = 0;
        struck_everywhere(&leased, &FAULTS, |mut struck, index, fault| {
            assert_eq!(struck.carry_from(index), Ok(()), "{kind}: {fault}");
            same(&struck, &raised, &format!("{kind}: {fault}"));
            strikes += 1;
        });
        assert!(strikes > 100, "{kind}: only {strikes} faults struck");
    }
}

#[test]
fn a_retry_under_a_new_lease_that_remembers_nothing_still_ends_with_the_node_raised() {
    for (kind, leased) in one_of_each() {
        let mut undisturbed = leased.fork();
        undisturbed.carry_all();
        let raised = undisturbed.picture();
        struck_everywhere(&leased, &FAULTS[2..], |mut struck, _, fault| {
            struck.captured.clear();
            struck.lease = Arc::new(Lease::new(FencingToken(8), Duration::MAX));
            assert_eq!(struck.carry_from(0), Ok(()), "{kind}: {fault}");
            same(&struck, &raised, &format!("{kind}: {fault}"));
        });
    }
}

#[test]
fn a_step_that_was_cut_off_anywhere_unwinds_to_where_it_was() {
    for (kind, leased) in one_of_each() {
        let before = leased.picture();
        struck_everywhere(&leased, &FAULTS[1..], |struck, index, fault| {
            assert_eq!(struck.unwind_from(index), Ok(()), "{kind}: {fault}");
            same(&struck, &before, &format!("{kind}: {fault}"));
        });
    }
}

#[test]
fn an_undo_that_was_cut_off_anywhere_is_finished_by_another() {
    for (kind, leased) in one_of_each() {
        let before = leased.picture();
        let mut raised = leased.fork();
        raised.carry_all();
        let last = raised.steps.len() - 1;
        for (fault, meanwhile) in FAULTS {
            for nth in 1.. {
                let unwound = raised.fork();
                unwound.twin.inject(unwound.node, nth, fault);
                let end = unwound.unwind_from(last);
                let Some(change) = unwound.twin.struck() else {
                    break;
                };
                if let Err((index, end)) = end {
                    let fault = format!("{fault:?}, {meanwhile:?}, before \"{change}\"");
                    if end == End::Died {
                        unwound.restart(meanwhile);
                    }
                    assert_eq!(unwound.unwind_from(index), Ok(()), "{kind}: {fault}");
                    same(&unwound, &before, &format!("{kind}: {fault}"));
                }
            }
        }
    }
}

#[test]
fn nothing_on_the_node_changes_before_its_backup_is_finished() {
    for (kind, mut leased) in one_of_each() {
        leased.carry_all();
        let changes = leased.changes();
        let indexed = changes.iter().position(|change| change.ends_with("/index.json")).unwrap();
        for change in &changes[..indexed] {
            assert!(change.contains("/etc/kubernetes/tmp"), "{kind}: {change}");
        }
        assert!(changes[indexed + 1..].iter().any(|change| change.contains("unpack kubeadm")), "{kind}");
    }
}

#[test]
fn no_step_changes_anything_once_the_lease_is_lost() {
    for (kind, leased) in one_of_each() {
        for (index, mut lost) in before_each(&leased).into_iter().enumerate() {
            lost.lease.lose("a higher token was seen");
            let step = lost.steps[index].clone();
            let changes = lost.changes();
            let end = lost.carry(&step);
            assert_eq!(lost.changes(), changes, "{kind}: {}", step.name());
            let refused = matches!(&end, End::Failed(why) if why.contains("is not this agent's any more"));
            assert!(refused || end == End::Done, "{kind}: {}: {end:?}", step.name());
            if let Some(pre) = lost.captured.get(step.name()) {
                let cx = lost.context(&step);
                let undone =
                    lost.twin.drive(crate::steps::runner(&step).unwrap().undo(&cx, pre)).done().unwrap();
                let refused = matches!(undone, Err(StepFailure::Host(HostError::LeaseLost(_))));
                assert!(refused || undone.is_ok(), "{kind}: undo of {}: {undone:?}", step.name());
                assert_eq!(lost.changes(), changes, "{kind}: undo of {}", step.name());
            }
        }
    }
}

#[test]
fn time_in_children_waits_and_the_snapshot_is_told_apart() {
    let (_, mut leased) = one_of_each().remove(0);
    let started = leased.twin.world().now();
    leased.carry_all();
    let all = leased.since(started);
    let told: Duration = ["child", "wait", "snapshot"].into_iter().map(|on| leased.log.spent(on)).sum();
    assert!(leased.log.spent("child") >= Duration::from_secs(2), "kubeadm");
    assert!(leased.log.spent("wait") >= Duration::from_secs(5), "until Ready");
    assert!(all < told + Duration::from_secs(1), "of {all:?} only {told:?} are told");
}
