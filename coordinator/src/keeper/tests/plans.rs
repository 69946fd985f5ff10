//! What is remembered of the documents that are followed.

use super::path::Journey;
use super::*;
use crate::core::conduct::Conduct;

fn document() -> String {
    "0".repeat(64)
}

fn object(uid: &str) -> Followed {
    Followed::Object { name: "autumn".to_owned(), uid: uid.to_owned() }
}

fn file() -> Followed {
    Followed::File { name: "plan.yaml".to_owned() }
}

#[test]
fn a_document_is_begun_with_once_though_its_roll_out_was_aborted_and_the_coordinator_restarted() {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), None, &file(), document())
        .unwrap();
    assert_eq!(coordinator.rollout().started_by, "plans:plan.yaml");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    assert_eq!(coordinator.keeper.unfinished(), None);

    let coordinator = coordinator.restarted();
    let _agents = coordinator.connect_all();
    assert_eq!(coordinator.keeper.acted_on(&file()), Some(document()));
    let again = coordinator.keeper.apply_document(
        &coordinator.plan(),
        &Conduct::default(),
        None,
        &file(),
        document(),
    );
    assert!(matches!(again, Err(KeeperError::NotNow(_))), "{again:?}");
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), None, &file(), "1".repeat(64))
        .unwrap();
}

#[test]
fn a_document_waits_for_the_end_of_whatever_goes_on_and_is_not_taken_for_begun() {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    coordinator.apply();
    let path = coordinator.plan();
    assert_eq!(coordinator.keeper.unfinished(), Some(path.first.id.clone()));
    let refused =
        coordinator.keeper.apply_document(&path, &Conduct::default(), None, &file(), document()).unwrap_err();
    assert!(refused.to_string().contains("has not ended"), "{refused}");
    assert_eq!(coordinator.keeper.acted_on(&file()), None);
}

#[test]
fn a_fulfilled_document_is_remembered_and_what_keeps_one_waiting_is_told() {
    let coordinator = Coordinator::new();
    coordinator.keeper.report_plans(vec!["plan.yaml is refused: why".to_owned()]);
    let none = coordinator.keeper.rollout(None).unwrap_err().to_string();
    assert!(none.contains("no roll-out yet") && none.contains("plan.yaml is refused: why"), "{none}");
    let _agents = coordinator.connect_all();
    coordinator.apply();
    assert_eq!(coordinator.rollout().plans, "plan.yaml is refused: why");
    coordinator.keeper.report_plans(Vec::new());
    assert_eq!(coordinator.rollout().plans, "");
    coordinator.keeper.fulfilled(&file(), document()).unwrap();
    assert_eq!(coordinator.restarted().keeper.acted_on(&file()), Some(document()));
}

#[test]
fn an_object_is_begun_with_once_though_its_roll_out_was_aborted_its_status_lost_and_the_coordinator_restarted()
 {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), None, &object("1"), document())
        .unwrap();
    assert_eq!(coordinator.rollout().started_by, "upgradeplan:autumn");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();

    let coordinator = coordinator.restarted();
    let _agents = coordinator.connect_all();
    assert_eq!(coordinator.keeper.acted_on(&object("1")), Some(document()));
    assert_eq!(coordinator.keeper.rollout_of("1").unwrap().phase(), v1::RolloutPhase::Aborted);
    let again = coordinator.keeper.apply_document(
        &coordinator.plan(),
        &Conduct::default(),
        None,
        &object("1"),
        document(),
    );
    assert!(matches!(again, Err(KeeperError::NotNow(_))), "{again:?}");
    // What it says now, and what another one of the same name says, was not begun with; nor was a file that says the same.
    assert_eq!(coordinator.keeper.acted_on(&object("2")), None);
    assert_eq!(coordinator.keeper.acted_on(&file()), None);
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), None, &object("2"), document())
        .unwrap();
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), None, &object("1"), "1".repeat(64))
        .unwrap();
    assert_eq!(coordinator.keeper.rollout_of("2").unwrap().phase(), v1::RolloutPhase::Aborted);
    assert_eq!(coordinator.keeper.rollout_of("1").unwrap().phase(), v1::RolloutPhase::Preparing);
}

#[test]
fn the_roll_out_of_an_object_is_that_to_the_last_stop_of_its_path_which_has_begun() {
    let mut journey = Journey::new();
    let path = journey.coordinator().plan();
    journey
        .coordinator()
        .keeper
        .apply_document(&path, &Conduct::default(), None, &object("1"), document())
        .unwrap();
    let version = |rollout: v1::Rollout| rollout.plan.unwrap().to_version;
    assert_eq!(version(journey.coordinator().keeper.rollout_of("1").unwrap()), "v1.30.4");
    journey.goes_on();
    let rollout = journey.coordinator().keeper.rollout_of("1").unwrap();
    assert_eq!((rollout.phase(), version(rollout)), (v1::RolloutPhase::Raised, "v1.31.2".to_owned()));
    // There is nothing to do for another one, and none of its own is told.
    journey.coordinator().keeper.fulfilled(&object("2"), document()).unwrap();
    assert_eq!(journey.coordinator().keeper.rollout_of("2"), None);
}
