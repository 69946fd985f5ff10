//! Questions that operators put to single agents: sent into the node's session, matched with their answers by number.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::v1;
use liftlock_proto::v1::answer::Outcome;
use liftlock_proto::v1::asked::Kind as Asked;
use liftlock_proto::v1::coordinator_message::Message as Told;
use liftlock_proto::v1::reply::Kind;
use tokio::sync::oneshot;

use super::sessions::clipped;
use super::{Keeper, KeeperError, State};
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::rollout::NodeState;
use crate::store::records::Change;

/// What one session was asked and has not answered. When the session ends, so does the waiting.
pub(super) type Unanswered = BTreeMap<u64, Waiting>;

/// Who waits for an answer.
pub(super) enum Waiting {
    /// An operator, or the coordinator for one.
    Caller(oneshot::Sender<Outcome>),
    /// The holder of a lease that is going to join.
    Joining(NodeName, FencingToken),
}

impl Waiting {
    /// Whether whoever asked gave up.
    fn is_over(&self) -> bool {
        matches!(self, Self::Caller(waiting) if waiting.is_closed())
    }
}

impl Keeper {
    /// Asks the agent of a node and waits for its answer, at most `limit`.
    pub async fn ask(
        &self,
        node: &NodeName,
        asked: v1::Asked,
        limit: Duration,
    ) -> Result<v1::Reply, KeeperError> {
        let answer = self.lock().put_question(node, asked, self.clock.unix_ms())?;
        let outcome = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_ended)) => {
                return Err(KeeperError::Unanswered(format!(
                    "the session of {node}'s agent ended before it answered: see `liftlock nodes`, then ask again"
                )));
            }
            Err(_elapsed) => {
                return Err(KeeperError::Unanswered(format!(
                    "{node}'s agent is connected and did not answer within {} s: look at `journalctl -u liftlock-agent` \
                     there",
                    limit.as_secs()
                )));
            }
        };
        match outcome {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::Refusal(why) => Err(KeeperError::NotNow(clipped(&why))),
            Outcome::Failure(why) => Err(KeeperError::Agent(clipped(&why))),
        }
    }
}

impl Keeper {
    /// Keeps what an answer says was changed.
    pub fn record_answer(
        &self,
        node: &NodeName,
        reply: &v1::Reply,
        operator: &str,
    ) -> Result<(), KeeperError> {
        let Some(Kind::Pruned(v1::PrunedBackups { pruned, dry_run: false, kept })) = &reply.kind else {
            return Ok(());
        };
        if pruned.is_empty() {
            return Ok(());
        }
        let text =
            format!("{} folders were removed from the backups of {node}, {kept} backups stay", pruned.len());
        let record = HistoryRecord {
            node: Some(node.clone()),
            operator: Some(operator.to_owned()),
            ..self.record(HistoryKind::BackupsPruned, text)
        };
        Ok(self.commit(&mut self.lock(), Change { history: vec![record], ..Change::default() })?)
    }
}

impl State {
    /// Backups stay for as long as one of them may be what puts a node back.
    fn refuse_in_a_failure(&self, node: &NodeName, asked: &v1::Asked) -> Result<(), KeeperError> {
        if !matches!(asked.kind, Some(Asked::PruneBackups(_))) {
            return Ok(());
        }
        let Some((_, rollout)) = self.saved.newest() else {
            return Ok(());
        };
        let plan = &rollout.plan.id;
        let why = if !rollout.is_final() {
            format!("the roll-out of plan {plan} has not ended")
        } else if let Some((failed, _)) =
            rollout.nodes().find(|(_, state)| matches!(state, NodeState::Failed { .. }))
        {
            format!("the roll-out of plan {plan} ended with {} failed", failed.name)
        } else if self.unknown_leases.contains_key(node) {
            format!("{node} holds a lease that this coordinator does not know")
        } else {
            return Ok(());
        };
        Err(KeeperError::NotNow(format!(
            "{why}: no backup is removed while one of them may be what puts a node back; see `liftlock status`"
        )))
    }

    pub(super) fn put_question(
        &mut self,
        node: &NodeName,
        asked: v1::Asked,
        now_ms: u64,
    ) -> Result<oneshot::Receiver<Outcome>, KeeperError> {
        self.refuse_in_a_failure(node, &asked)?;
        let (waiting, answer) = oneshot::channel();
        self.send_question(node, asked, now_ms, Waiting::Caller(waiting))?;
        Ok(answer)
    }

    /// Sends a question into a node's session, with who waits for its answer.
    pub(super) fn send_question(
        &mut self,
        node: &NodeName,
        asked: v1::Asked,
        now_ms: u64,
        waiting: Waiting,
    ) -> Result<(), KeeperError> {
        // Above every number of an earlier run of the coordinator: an agent may still have an answer to one of those.
        let id = now_ms.max(self.last_question.saturating_add(1));
        self.last_question = id;
        let known = self.saved.enrolled.contains_key(node) || self.facts.contains_key(node);
        let Some(unanswered) = self.unanswered_of(node) else {
            return Err(if known {
                KeeperError::NotNow(format!(
                    "{node}'s agent is not connected, so nobody can say: look at `systemctl status liftlock-agent` there"
                ))
            } else {
                KeeperError::NotFound(format!("there is no agent on a node {node}: see `liftlock nodes`"))
            });
        };
        // Those who gave up waiting are not answered any more.
        unanswered.retain(|_, waiting| !waiting.is_over());
        unanswered.insert(id, waiting);
        self.send(node, Told::Question(v1::Question { id, asked: Some(asked) }));
        Ok(())
    }

    /// An answer that nobody waits for any more is dropped.
    pub(super) fn answered(&mut self, node: &NodeName, answer: v1::Answer) -> Result<(), KeeperError> {
        let outcome = answer.outcome.ok_or_else(|| {
            KeeperError::Invalid(format!(
                "the agent on {node} answered in a way that this version does not know: install the same version of \
                 Liftlock on both"
            ))
        })?;
        match self.unanswered_of(node).and_then(|unanswered| unanswered.remove(&answer.id)) {
            // Whoever asked may have gone this moment.
            Some(Waiting::Caller(waiting)) => drop(waiting.send(outcome)),
            Some(Waiting::Joining(joining, token)) => self.pass_on(node, &joining, token, outcome),
            None => tracing::info!(%node, question = answer.id, "nobody waits for this answer any more"),
        }
        Ok(())
    }
}
