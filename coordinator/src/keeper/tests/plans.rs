//! What is remembered of the folder of documents that is followed.

use super::*;
use crate::core::conduct::Conduct;

fn document() -> String {
    "0".repeat(64)
}

#[test]
fn a_document_is_begun_with_once_though_its_roll_out_was_aborted_and_the_coordinator_restarted() {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), "plan.yaml", document())
        .unwrap();
    assert_eq!(coordinator.rollout().started_by, "plans:plan.yaml");
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    assert_eq!(coordinator.keeper.unfinished(), None);

    let coordinator = coordinator.restarted();
    let _agents = coordinator.connect_all();
    assert_eq!(coordinator.keeper.acted_on(), Some(document()));
    let again =
        coordinator.keeper.apply_document(&coordinator.plan(), &Conduct::default(), "plan.yaml", document());
    assert!(matches!(again, Err(KeeperError::NotNow(_))), "{again:?}");
    coordinator
        .keeper
        .apply_document(&coordinator.plan(), &Conduct::default(), "plan.yaml", "1".repeat(64))
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
        coordinator.keeper.apply_document(&path, &Conduct::default(), "plan.yaml", document()).unwrap_err();
    assert!(refused.to_string().contains("has not ended"), "{refused}");
    assert_eq!(coordinator.keeper.acted_on(), None);
}

#[test]
fn a_fulfilled_document_is_remembered_and_what_keeps_one_waiting_is_told() {
    let coordinator = Coordinator::new();
    coordinator.keeper.report_plans(Some("plan.yaml is refused: why".to_owned()));
    let none = coordinator.keeper.rollout(None).unwrap_err().to_string();
    assert!(none.contains("no roll-out yet") && none.contains("plan.yaml is refused: why"), "{none}");
    let _agents = coordinator.connect_all();
    coordinator.apply();
    assert_eq!(coordinator.rollout().plans, "plan.yaml is refused: why");
    coordinator.keeper.report_plans(None);
    assert_eq!(coordinator.rollout().plans, "");
    coordinator.keeper.fulfilled(document()).unwrap();
    assert_eq!(coordinator.restarted().keeper.acted_on(), Some(document()));
}
