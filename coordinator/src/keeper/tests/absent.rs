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

impl Coordinator {
    /// A token that a node's agent has enrolled with.
    fn enrolled(&self, node: &str) -> String {
        let subject = Subject::agent(&node.parse().unwrap());
        let (token, _) = self.keeper.create_token(subject, 3600, "alice").unwrap();
        self.keeper.enroll(&token.id, &token.secret, node, &request().csr_der).unwrap();
        token.id
    }
}

#[test]
fn a_holder_that_is_gone_for_good_loses_its_lease_once_its_certificate_is_taken_back() {
    let (coordinator, mut agents) = running();
    let token = coordinator.enrolled("cp1");
    agents.remove(0).leaves(&coordinator);
    coordinator.keeper.order(&Order::Abort, "alice").unwrap();
    assert_eq!(coordinator.rollout().phase(), v1::RolloutPhase::Aborting);
    coordinator.keeper.revoke_token(&token, true, "alice").unwrap();
    let rollout = coordinator.rollout();
    assert_eq!(
        (rollout.phase(), coordinator.node("cp1").phase()),
        (v1::RolloutPhase::Aborted, v1::NodePhase::Failed)
    );
    assert!(coordinator.kinds().contains(&"lease-failed"));
    coordinator.keeper.revoke_token(&token, false, "alice").unwrap();
}

#[test]
fn the_certificate_of_a_holder_is_not_taken_back_before_its_machine_is_said_to_be_off_or_cut_off() {
    let (coordinator, mut agents) = running();
    let token = coordinator.enrolled("cp1");
    let refused = |coordinator: &Coordinator, heard: &str| {
        let refused = coordinator.keeper.revoke_token(&token, false, "alice").unwrap_err().to_string();
        for part in ["cp1 holds lease 1", heard, "--fenced", "the roll-out is halted", "liftlock pause"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    };
    refused(&coordinator, "its agent is connected");
    assert!(agents[0].says(&coordinator, Said::Facts(Box::default())).unwrap(), "its session goes on");
    agents.remove(0).leaves(&coordinator);
    refused(&coordinator, "its agent was heard of");
    assert_eq!(coordinator.node("cp1").phase(), v1::NodePhase::Leased);
    assert!(!coordinator.kinds().contains(&"token-revoked"));
    let idle = coordinator.enrolled("w1");
    assert_eq!(coordinator.keeper.revoke_token(&idle, false, "alice").unwrap(), None, "it holds nothing");

    let coordinator = coordinator.restarted();
    refused(&coordinator, "not heard of since this coordinator started");
    let unheard = coordinator.keeper.revoke_token(&coordinator.enrolled("cp2"), false, "alice").unwrap_err();
    assert!(unheard.to_string().contains("cp2 may hold a lease"), "{unheard}");
    let ended = coordinator.keeper.revoke_token(&token, true, "alice").unwrap().unwrap();
    for part in ["cp1 failed", "held lease 1", "before you say what follows", "liftlock abort"] {
        assert!(ended.contains(part), "{part}: {ended}");
    }
}

#[test]
fn once_a_holder_is_dismissed_no_policy_begins_anything_until_somebody_says_what_follows() {
    let coordinator = Coordinator::new();
    let mut agents = coordinator.connect_all();
    let policy = Policy { on_failure: OnFailure::RollBackCluster, ..Policy::default() };
    let path = coordinator.keeper.plan("v1.31.2".parse().unwrap(), &policy).unwrap();
    coordinator.keeper.apply(&path, "alice").unwrap();
    prepare_all(&coordinator, &agents);
    agents[0].ends(&coordinator, 1, "");
    let token = coordinator.enrolled("cp2");
    coordinator.keeper.revoke_token(&token, true, "alice").unwrap();
    let rollout = coordinator.rollout();
    assert_eq!(rollout.phase(), v1::RolloutPhase::Halted);
    assert!(rollout.reason.starts_with("cp2: its certificate was taken back"), "{}", rollout.reason);
    let granted = |agents: &mut [Agent]| -> Vec<u64> {
        agents
            .iter_mut()
            .filter(|agent| agent.node.as_str() != "cp2")
            .flat_map(Agent::grants)
            .map(|grant| grant.fencing_token)
            .collect()
    };
    assert_eq!(granted(&mut agents), [1], "nobody beside it, to raise or to put back");
    let coordinator = coordinator.restarted();
    let mut agents = coordinator.connect_all();
    assert_eq!(granted(&mut agents), [] as [u64; 0], "nor after a restart");
    coordinator.keeper.order(&Order::Rollback(None), "alice").unwrap();
    assert_eq!(agents[1].grants().len(), 1, "it is enrolled again and goes back first");
}
