//! Questions that operators put to single agents: sent into the node's session, matched with their answers by number.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use liftlock_proto::v1::answer::Outcome;
use liftlock_proto::v1::coordinator_message::Message as Told;
use tokio::sync::oneshot;

use super::sessions::clipped;
use super::{Keeper, KeeperError, State};

/// What one session was asked and has not answered. When the session ends, so does the waiting.
pub(super) type Unanswered = BTreeMap<u64, oneshot::Sender<Outcome>>;

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

impl State {
    fn put_question(
        &mut self,
        node: &NodeName,
        asked: v1::Asked,
        now_ms: u64,
    ) -> Result<oneshot::Receiver<Outcome>, KeeperError> {
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
        unanswered.retain(|_, waiting| !waiting.is_closed());
        let (waiting, answer) = oneshot::channel();
        unanswered.insert(id, waiting);
        self.send(node, Told::Question(v1::Question { id, asked: Some(asked) }));
        Ok(answer)
    }

    /// An answer that nobody waits for any more is dropped.
    pub(super) fn answered(&mut self, node: &NodeName, answer: v1::Answer) -> Result<(), KeeperError> {
        let outcome = answer.outcome.ok_or_else(|| {
            KeeperError::Invalid(format!(
                "the agent on {node} answered in a way that this version does not know: install the same version of \
                 Liftlock on both"
            ))
        })?;
        if let Some(waiting) = self.unanswered_of(node).and_then(|unanswered| unanswered.remove(&answer.id)) {
            // Whoever asked may have gone this moment.
            let _ = waiting.send(outcome);
        } else {
            tracing::info!(%node, question = answer.id, "nobody waits for this answer any more");
        }
        Ok(())
    }
}
