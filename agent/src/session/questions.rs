//! Answers what an operator asks this agent, each question in a task of its own: a long answer holds up neither a
//! renewal nor another question.

use std::task::Poll;

use futures::FutureExt;
use liftlock_proto::name::NodeName;
use liftlock_proto::v1::answer::Outcome;
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::reply::Kind as ReplyKind;
use liftlock_proto::v1::{Answer, Asked, Reply};

use crate::backup::inventory::Inventory;
use crate::host::{Host, HostError};
use crate::session::duties::Workplace;
use crate::session::tasks::{Task, TaskFailed};

/// Questions that are answered side by side; each may read a whole disk.
const AT_ONCE: usize = 4;

/// The answers under way.
#[derive(Default)]
pub(crate) struct Questions(Vec<UnderWay>);

struct UnderWay {
    id: u64,
    reply: Task<Result<ReplyKind, NoReply>>,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
enum NoReply {
    /// A rule says no. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The machine says no.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The task that looked for the answer ended without one.
    #[error("the agent failed while it answered: {0}")]
    Task(#[from] TaskFailed),
}

impl Questions {
    /// Begins to answer. `asked` is `None` where it is of a kind that this agent does not know.
    pub(crate) fn ask(&mut self, place: &Workplace, id: u64, asked: Option<Asked>) {
        let crowded = self.0.len() >= AT_ONCE;
        let (host, node) = (place.host.clone(), place.node.clone());
        let reply = Task::start(place.tasks.as_ref(), async move {
            match asked.and_then(|asked| asked.kind) {
                None => Err(NoReply::Refused(format!(
                    "the agent on {node} does not know this question: install the same version of Liftlock on both sides"
                ))),
                Some(_) if crowded => Err(NoReply::Refused(format!(
                    "the agent on {node} answers {AT_ONCE} questions already: ask again when they are answered"
                ))),
                Some(kind) => reply(host, node, kind).await,
            }
        });
        self.0.push(UnderWay { id, reply });
    }

    /// Waits for an answer, for ever if nobody asked.
    pub(crate) async fn done(&mut self) -> Answer {
        std::future::poll_fn(|cx| {
            let polled = self.0.iter_mut().enumerate().find_map(|(at, question)| {
                match question.reply.poll_unpin(cx) {
                    Poll::Ready(reply) => Some((at, reply)),
                    Poll::Pending => None,
                }
            });
            match polled {
                None => Poll::Pending,
                Some((at, reply)) => {
                    let UnderWay { id, .. } = self.0.swap_remove(at);
                    let reply = reply.unwrap_or_else(|failed| Err(failed.into()));
                    Poll::Ready(Answer { id, outcome: Some(outcome(reply)) })
                }
            }
        })
        .await
    }
}

fn outcome(reply: Result<ReplyKind, NoReply>) -> Outcome {
    match reply {
        Ok(kind) => Outcome::Reply(Reply { kind: Some(kind) }),
        Err(NoReply::Refused(why)) => Outcome::Refusal(why),
        Err(error) => Outcome::Failure(error.to_string()),
    }
}

async fn reply(host: Host, node: NodeName, asked: Kind) -> Result<ReplyKind, NoReply> {
    Ok(match asked {
        Kind::ListBackups(_) => ReplyKind::Backups(Inventory::take(&host, &node).await?.into()),
    })
}
