//! Whole leases through the real engine and its journal, cut off before any change of any step.

use std::sync::Arc;

use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::Purpose;

use super::harness::{Leased, one_of_each};
use crate::disk::memory::MemoryDisk;
use crate::engine::journal::Header;
use crate::engine::recovery::{Begun, Journals};
use crate::engine::runner::{Engine, Gear, Observer, Stopped};
use crate::engine::transition::{End, Event};
use crate::steps::runner;
use crate::twin::{Fault, Meanwhile, Outcome};

/// Hears everything and says nothing.
struct Deaf;

impl Observer for Deaf {
    fn journalled(&self, _: &str, _: u32, _: &Event) {}
}

/// The lease as the coordinator grants it, at first and again to an agent that comes back.
fn granted(leased: &Leased, disk: &MemoryDisk) -> Outcome<Result<End, Stopped>> {
    let (node, plan) = (leased.node.parse().unwrap(), "p-0123456789ab".parse().unwrap());
    let journals =
        Journals::new(Arc::new(disk.clone()), "/journal".into(), leased.node.parse().unwrap()).unwrap();
    let header = Header::new(
        node,
        plan,
        "0123456789ab".to_owned(),
        FencingToken(7),
        Purpose::Raise,
        leased.steps.clone(),
    );
    let journal = match journals.begin(header).unwrap() {
        Begun::Run(journal) => journal,
        Begun::Ended(end) => return Outcome::Done(Ok(end)),
    };
    let gear = Gear {
        host: leased.twin.host(leased.node),
        node: leased.node.parse().unwrap(),
        lease: Arc::clone(&leased.lease),
        reporter: Arc::clone(&leased.log) as Arc<_>,
        observer: Arc::new(Deaf),
        steps: Arc::new(runner),
    };
    leased.twin.drive(async { Engine::new(journal, gear).run().await })
}

#[test]
fn a_lease_that_is_cut_off_before_any_change_goes_on_and_raises_the_node() {
    for (kind, leased) in one_of_each() {
        let undisturbed = leased.fork();
        assert_eq!(
            granted(&undisturbed, &MemoryDisk::default()).done().unwrap().unwrap().failure,
            None,
            "{kind}"
        );
        let raised = undisturbed.picture();
        for fault in [Fault::AgentDies, Fault::PowerFails] {
            for nth in 1.. {
                let (leased, disk) = (leased.fork(), MemoryDisk::default());
                leased.twin.inject(leased.node, nth, fault);
                let first = granted(&leased, &disk);
                let Some(change) = leased.twin.struck() else {
                    assert!(nth > 25, "{kind}: only {nth} changes");
                    break;
                };
                assert!(matches!(first, Outcome::Died), "{kind}: {fault:?} before {change}");
                leased.restart(Meanwhile::StillRunning);
                let end = granted(&leased, &disk).done().unwrap().unwrap();
                assert_eq!(end.failure, None, "{kind}: {fault:?} before {change}");
                let differences = leased.picture().differences(&raised);
                assert!(differences.is_empty(), "{kind}: {fault:?} before {change}: {differences:#?}");
            }
        }
    }
}
