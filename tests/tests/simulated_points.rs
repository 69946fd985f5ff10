//! Points of simulated roll-outs, one after the other until one is not reached any more: each durable record of a replacement's
//! leases, at which agent or machine ends, and each commit of a coordinator that has workers under lease side by side.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::time::Duration;

use liftlock_proto::plan::OnFailure;
use liftlock_proto::workers::Share;
use liftlock_tests::simulation::authority;
use liftlock_tests::simulation::run::{Outcome, run};
use liftlock_tests::simulation::schedule::{Arrives, Commit, End, Misfortune, Moment, Schedule};
use liftlock_tests::simulation::surroundings::Surroundings;
use liftlock_tests::simulation::workload::{PoolTerms, Pools, Standing, Wanted};

fn quiet(control_planes: usize, workers: usize, wanted: Wanted) -> Schedule {
    Schedule {
        seed: 1,
        control_planes,
        workers,
        cordoned: None,
        wanted,
        around: Surroundings::default(),
        on_failure: OnFailure::Halt,
        max_unavailable: 1,
        misfortunes: Vec::new(),
    }
}

/// Strikes at the first point, the second, and so on; how many there were. Each roll-out ends well with nobody's help.
fn strike_each(quiet: &Schedule, misfortune: impl Fn(u64) -> Misfortune) -> u64 {
    let authority = authority().unwrap();
    let mut number = 1;
    loop {
        let schedule = Schedule { misfortunes: vec![misfortune(number)], ..quiet.clone() };
        let ended = run(&schedule, None, &authority, false);
        assert_eq!(ended.violation, None, "with {schedule}");
        assert_eq!(ended.end, Some(Outcome::Raised), "with {schedule}");
        if ended.struck.is_empty() {
            return number - 1;
        }
        number += 1;
    }
}

/// The machine that joins, the one that leaves, and the control plane that ends its membership.
#[test]
fn after_whichever_record_agent_or_machine_ends_one_machine_takes_the_place_of_another() {
    let wanted = Wanted::Replacement { old: "cp3".to_owned(), dead: false };
    let replacement = quiet(3, 1, wanted);
    for what in [End::AgentOnly, End::Power] {
        let away = Duration::from_secs(20);
        let records = ["n1", "cp3", "cp1"].map(|node| {
            let ends = |nth| Misfortune::Ends {
                node: node.to_owned(),
                at: Moment::Append(nth, Arrives::All),
                what,
                away,
            };
            strike_each(&replacement, ends)
        });
        assert!(records.iter().all(|records| *records > 3), "{what:?}: {records:?}");
    }
}

#[test]
fn a_coordinator_that_ends_before_or_after_any_commit_leases_no_more_workers_than_may_be_away() {
    let pool = PoolTerms {
        name: "others".to_owned(),
        max_unavailable: Share::Nodes(2),
        canary: None,
        pause_after: false,
    };
    let workers = vec![Standing { pool: 0, zone: None }; 3];
    let pools = Pools { pools: vec![pool], workers, failure_budget: 0, blocked: None, windows: false };
    let raise = quiet(1, 3, Wanted::Pools(pools));
    for at in [Commit::Before, Commit::After] {
        let ends = |nth| Misfortune::CoordinatorEnds { at: at(nth), away: Duration::from_secs(2) };
        let commits = strike_each(&raise, ends);
        assert!(commits > 40, "{commits} commits");
    }
}
