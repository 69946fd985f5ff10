//! Simulated roll-outs: a sample of what `simulate` runs by the hundred thousand, and the proof that it sees.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at what it did not expect")]

use liftlock_tests::simulation::laws::Law;
use liftlock_tests::simulation::run::run;
use liftlock_tests::simulation::sabotage::Sabotage;
use liftlock_tests::simulation::schedule::Schedule;
use liftlock_tests::simulation::{authority, shortest, simulate};

const JOBS: usize = 2;

#[test]
fn no_law_is_broken_whatever_befalls_a_roll_out() {
    let report = simulate(1, 200, JOBS, None, &authority().unwrap());
    if let Some((schedule, violation)) = &report.broken {
        panic!("{violation}\nwith {schedule}replay it with `simulate --seed {}`", schedule.seed);
    }
    assert_eq!(report.schedules, 200);
    assert!(report.faults.len() > 10, "{:?}", report.faults);
    assert!(report.raised > 100 && report.asks > 0, "{report:?}");
    assert!(report.applied > 195, "{report:?}");
}

/// Seeds whose schedules broke a law once. In the first, a coordinator was put back from an old copy twice; a node that was raised under a lease of which neither
/// copy knew was passed over by a rollback of the cluster. In the second, the end of the last lease was recorded and nothing reached its node for so long that it was
/// judged before it could hear of that. In the third, a kubeadm that outlived its agent had etcd's manifest in hand; what runs was not joined before an API server
/// had answered, of two that need both members of etcd. In the fourth, it was the twin that lost in a power cut what had been put back durably.
const LESSONS: [u64; 4] = [7_009_532, 19_330, 36_574, 2_432];

#[test]
fn no_schedule_that_broke_a_law_once_breaks_one_again() {
    let authority = authority().unwrap();
    for seed in LESSONS {
        let ended = run(&Schedule::of(seed), None, &authority, false);
        assert_eq!(ended.violation, None, "replay it with `simulate --seed {seed}`");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_message() {
    let authority = authority().unwrap();
    for seed in 40..50 {
        let schedule = Schedule::of(seed);
        let once = run(&schedule, None, &authority, true);
        let again = run(&schedule, None, &authority, true);
        assert!(once.story.len() > 50, "{schedule}");
        assert_eq!(once.story, again.story, "{schedule}");
    }
}

/// Which laws a broken build breaks, and the first of so many schedules that shows it.
fn caught(sabotage: Sabotage, laws: &[Law], schedules: u64) {
    let authority = authority().unwrap();
    let report = simulate(1, schedules, JOBS, Some(sabotage), &authority);
    let Some((schedule, violation)) = report.broken else {
        panic!("{sabotage:?} was not caught in {schedules} schedules");
    };
    assert!(laws.contains(&violation.law), "{sabotage:?}: {violation}\nwith {schedule}");
    let shortest = shortest(&schedule, violation.law, Some(sabotage), &authority);
    assert!(shortest.misfortunes.len() <= 3, "{sabotage:?} needs no more than {shortest}");
    let whole = run(&shortest, None, &authority, false);
    assert_eq!(whole.violation, None, "{sabotage:?} is not what breaks the law with {shortest}");
}

#[test]
fn a_build_that_does_not_check_tokens_is_caught() {
    caught(Sabotage::NoTokenCheck, &[Law::TokensRise, Law::StaleLease], 400);
}

#[test]
fn a_build_that_acts_before_its_journal_is_durable_is_caught() {
    caught(Sabotage::NoFsync, &[Law::IntentFirst], 10);
}

#[test]
fn a_build_that_leaves_nodes_tainted_is_caught() {
    caught(Sabotage::MarksStay, &[Law::EndIsTrue], 10);
}

#[test]
fn a_build_that_leases_two_nodes_is_caught() {
    caught(Sabotage::TwoLeases, &[Law::OneLease, Law::StaleLease, Law::TokensRise], 20);
}

#[test]
fn a_build_that_leaves_what_it_passed_over_cordoned_is_caught() {
    caught(Sabotage::CordonStays, &[Law::PassedOver, Law::EndIsTrue], 100);
}

#[test]
fn a_roll_out_that_comes_to_no_end_is_caught() {
    caught(Sabotage::EndsAreLost, &[Law::Ends], 10);
}

#[test]
fn a_build_that_uncordons_whatever_was_there_is_caught() {
    caught(Sabotage::UnconditionalUncordon, &[Law::Cordons], 50);
}

#[test]
fn a_build_that_loses_plans_is_caught() {
    caught(Sabotage::PlansAreLost, &[Law::Applied], 10);
}

#[test]
fn a_build_that_begins_past_a_hook_that_failed_is_caught() {
    caught(Sabotage::HooksUnread, &[Law::HookFirst], 200);
}

#[test]
fn a_build_that_does_not_hear_alerts_is_caught() {
    caught(Sabotage::AlertsUnread, &[Law::AlertsHeard], 200);
}

#[test]
fn a_build_whose_windows_end_too_late_is_caught() {
    caught(Sabotage::LongWindows, &[Law::InWindow], 400);
}

#[test]
fn a_build_that_loses_edits_is_caught() {
    caught(Sabotage::EditsAreLost, &[Law::InWindow], 400);
}

#[test]
fn a_build_whose_edits_change_more_than_the_conduct_is_caught() {
    caught(Sabotage::EditsAbort, &[Law::EditsConduct], 400);
}

#[test]
fn a_build_that_lets_the_old_leave_before_the_new_is_there_is_caught() {
    caught(Sabotage::OldFirst, &[Law::NewBeforeOld], 200);
}

#[test]
fn a_build_that_leaves_a_manifest_missing_is_caught() {
    caught(Sabotage::ManifestLeftMissing, &[Law::ManifestsBack, Law::AsksNobody], 400);
}
