//! Agents that are away, for a while or for good.

use super::*;

#[test]
fn where_an_agent_is_away_that_prepares_holds_the_lease_or_is_next_it_is_told_what_is_waited_for() {
    let coordinator = Coordinator::new();
    let mut agents = coordinator.connect_all();
    coordinator.apply();
    prepare_all(&coordinator, &agents[..3]);
    agents.pop().unwrap().leaves(&coordinator);
    let reason = coordinator.rollout().reason;
    assert!(reason.starts_with("w1 has to prepare, and no agent is connected there"), "{reason}");
    let w1 = coordinator.connect("w1");
    w1.prepared(&coordinator);
    assert_eq!(coordinator.rollout().reason, "");
    agents.remove(1).leaves(&coordinator);
    let cp1 = agents.remove(0);
    cp1.ends(&coordinator, 1, "");
    let reason = coordinator.rollout().reason;
    assert!(reason.starts_with("cp2 is next, and no agent is connected there"), "{reason}");
    let cp2 = coordinator.connect("cp2");
    assert_eq!(coordinator.rollout().reason, "");
    cp2.leaves(&coordinator);
    let reason = coordinator.rollout().reason;
    assert!(reason.starts_with("cp2 holds lease 2 and its agent is not connected"), "{reason}");
}

#[test]
fn a_holder_that_is_gone_for_good_loses_its_lease_once_its_certificate_is_taken_back() {
    let (coordinator, mut agents) = running();
    let subject = Subject::agent(&"cp1".parse().unwrap());
    let (token, _) = coordinator.keeper.create_token(subject, 3600, "alice").unwrap();
    coordinator.keeper.enroll(&token.id, &token.secret, "cp1", &request().csr_der).unwrap();
    agents.remove(0).leaves(&coordinator);
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Aborting);
    coordinator.keeper.revoke_token(&token.id, "alice").unwrap();
    let rollout = coordinator.rollout();
    assert_eq!(
        (rollout.phase(), coordinator.node("cp1").phase()),
        (v1::RolloutPhase::Aborted, v1::NodePhase::Failed)
    );
    assert!(coordinator.kinds().contains(&"lease-failed"));
    coordinator.keeper.revoke_token(&token.id, "alice").unwrap();
}
