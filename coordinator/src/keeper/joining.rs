//! What a machine joins with: the holder of a lease asks, a control plane makes it, and it is passed on.
//!
//! It is in the coordinator's memory for that long, and in nothing that is saved, logged or shown. Whoever restarts loses it, and
//! the holder asks again.

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;
use liftlock_proto::v1;
use liftlock_proto::v1::answer::Outcome;
use liftlock_proto::v1::asked::Kind as Asked;
use liftlock_proto::v1::coordinator_message::Message as Told;
use liftlock_proto::v1::join_answer::Outcome as Joined;
use liftlock_proto::v1::reply::Kind;

use super::State;
use super::questions::Waiting;
use super::sessions::clipped;
use crate::core::membership::Membership;

impl State {
    /// Asks a control plane for what lets a node join, if its lease is one under which it joins.
    pub(super) fn ask_to_join(&mut self, node: &NodeName, asked: &v1::AskToJoin, now_ms: u64) {
        let token = FencingToken(asked.fencing_token);
        if let Err(why) = self.forward(node, token, now_ms) {
            self.tell_joining(node, token, Joined::Failure(why));
        }
    }

    fn forward(&mut self, node: &NodeName, token: FencingToken, now_ms: u64) -> Result<(), String> {
        let role = self.joins_as(node, token).ok_or_else(|| {
            format!("lease {token} of {node} is not its present lease, or none under which it joins")
        })?;
        let host = self.doorkeeper(node).ok_or(
            "no control plane that stays is connected and reaches its API server: look at `liftlock nodes`",
        )?;
        let invite = v1::Invite { node: node.to_string(), role: v1::Role::from(role).into() };
        let asked = v1::Asked { kind: Some(Asked::Invite(invite)) };
        let waiting = Waiting::Joining(node.clone(), token);
        self.send_question(&host, asked, now_ms, waiting).map_err(|error| error.to_string())?;
        tracing::info!(%node, %token, asked = %host, "a machine is to be let in");
        Ok(())
    }

    /// As what a node joins under its present lease, if that is this one.
    fn joins_as(&self, node: &NodeName, token: FencingToken) -> Option<Role> {
        self.lease_of(node).filter(|lease| lease.token == token)?;
        let (planned, _) = self.saved.newest()?.1.node(node)?;
        planned.steps.iter().find_map(|step| match step {
            Step::KubeadmJoin { role, .. } => Some(*role),
            _ => None,
        })
    }

    /// The control plane that lets a node in: the one that was heard last of those that stay.
    fn doorkeeper(&self, joining: &NodeName) -> Option<NodeName> {
        let membership = Membership::of(&self.saved.newest()?.1.plan)?;
        let leaves = |node: &NodeName| membership.goes(node);
        let hosts = self.facts.iter().filter(|(name, reported)| {
            *name != joining
                && !leaves(name)
                && self.sessions.contains_key(*name)
                && reported.facts.control_plane
                && reported.facts.cluster.is_some()
        });
        hosts.max_by_key(|(_, reported)| reported.at_ms).map(|(name, _)| name.clone())
    }

    /// Passes on what a control plane has answered, as long as the lease is the present one.
    pub(super) fn pass_on(
        &mut self,
        host: &NodeName,
        node: &NodeName,
        token: FencingToken,
        outcome: Outcome,
    ) {
        if self.joins_as(node, token).is_none() {
            tracing::info!(%node, %token, "the lease under which a machine was let in is over");
            return;
        }
        let answer = match outcome {
            Outcome::Reply(v1::Reply { kind: Some(Kind::Invitation(invitation)) }) => {
                Joined::Invitation(invitation)
            }
            Outcome::Reply(_) => {
                Joined::Failure(format!("{host} answered in a way that this version does not know"))
            }
            Outcome::Refusal(why) | Outcome::Failure(why) => {
                Joined::Failure(format!("{host}: {}", clipped(&why)))
            }
        };
        self.tell_joining(node, token, answer);
    }

    fn tell_joining(&mut self, node: &NodeName, token: FencingToken, outcome: Joined) {
        if let Joined::Failure(why) = &outcome {
            tracing::warn!(%node, %token, why, "a machine is not let in");
        }
        let answer = v1::JoinAnswer { fencing_token: token.0, outcome: Some(outcome) };
        self.send(node, Told::JoinAnswer(answer));
    }
}
