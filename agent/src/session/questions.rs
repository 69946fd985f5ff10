//! Answers what an operator asks this agent, each question on a thread of its own: a long answer holds up neither a
//! renewal nor another question.

use std::task::Poll;

use futures::FutureExt;
use liftlock_proto::name::{NameError, NodeName};
use liftlock_proto::plan::Role;
use liftlock_proto::v1;
use liftlock_proto::v1::answer::Outcome;
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::reply::Kind as ReplyKind;
use liftlock_proto::v1::{Answer, Asked, Reply};
use liftlock_proto::version::VersionError;
use prost::Message;

use crate::addons::preview::preview;
use crate::backup::inventory::{Inventory, Stored};
use crate::backup::prune::{Wish, prune};
use crate::backup::rehearsal::{Rehearsal, rehearse};
use crate::backup::snapshot;
use crate::backup::verification::Verdict;
use crate::engine::idle::Idle;
use crate::etcd::description::describe;
use crate::host::{Host, HostError, Lines};
use crate::invitation::{self, NotInvited};
use crate::protect::report;
use crate::session::duties::Workplace;
use crate::session::tasks::{Task, TaskFailed};

/// Questions that are answered side by side; each may read a whole disk.
const AT_ONCE: usize = 4;

/// Bytes of a description of workloads: the coordinator takes messages of up to 1 MiB from agents.
const LARGEST_DESCRIPTION: usize = 1000 * 1024;

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

/// Whether there is no lease on this node now, or why something that needs that is refused.
pub(crate) type Idleness = Result<Idle, String>;

/// A question to be answered.
struct Question {
    place: Workplace,
    kind: Kind,
    /// `None` where it is answered in the middle of a lease too.
    idle: Option<Idleness>,
}

impl Questions {
    /// Begins to answer. What is of a kind that this agent does not know is refused in words. `idle` is asked where the
    /// answer changes something.
    pub(crate) fn ask(
        &mut self,
        place: &Workplace,
        id: u64,
        asked: Option<Asked>,
        idle: impl FnOnce() -> Idleness,
    ) {
        let node = place.node.clone();
        let question = match asked.and_then(|asked| asked.kind) {
            None => Err(NoReply::Refused(format!(
                "the agent on {node} does not know this question: install the same version of Liftlock on both sides"
            ))),
            Some(_) if self.0.len() >= AT_ONCE => Err(NoReply::Refused(format!(
                "the agent on {node} answers {AT_ONCE} questions already: ask again when they are answered"
            ))),
            Some(kind) => {
                let idle = needs_idleness(&kind).then(idle);
                Ok(Question { place: place.clone(), kind, idle })
            }
        };
        // A comparison of a large tree computes for a while between two waits.
        let reply = Task::start_blocking(place.tasks.as_ref(), async move { question?.reply().await });
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

fn needs_idleness(kind: &Kind) -> bool {
    match kind {
        Kind::ListBackups(_)
        | Kind::VerifyBackups(_)
        | Kind::DescribeEtcd(_)
        | Kind::ShowProtectedPaths(_)
        | Kind::CompareProtectedPaths(_)
        | Kind::DescribeWorkloads(_)
        | Kind::PreviewAddons(_) => false,
        Kind::PruneBackups(_) | Kind::RehearseSnapshot(_) | Kind::Invite(_) => true,
    }
}

impl Question {
    async fn reply(self) -> Result<ReplyKind, NoReply> {
        let Self { place, kind, idle } = self;
        let (host, node) = (&place.host, &place.node);
        match kind {
            Kind::ListBackups(_) => Ok(ReplyKind::Backups(Inventory::take(host, node).await?.into())),
            Kind::DescribeEtcd(_) => Ok(ReplyKind::Etcd(describe(host).await)),
            Kind::DescribeWorkloads(_) => Ok(ReplyKind::Workloads(workloads(host).await?)),
            Kind::PreviewAddons(wanted) => previewed(host, &wanted).await,
            Kind::Invite(wanted) => invitation(host, &idleness(idle)?, wanted).await,
            Kind::RehearseSnapshot(wanted) => rehearsed(host, node, &idleness(idle)?, &wanted.backup).await,
            Kind::ShowProtectedPaths(_) => Ok(ReplyKind::ProtectedPaths(report::show(host, node).await?)),
            Kind::CompareProtectedPaths(_) => {
                let verdict = report::verify(host, node).await?.ok_or_else(|| {
                    NoReply::Refused(format!(
                        "nothing was sealed on {node} yet: the next lease does so before its first change"
                    ))
                })?;
                Ok(ReplyKind::ProtectedPathsVerdict(verdict))
            }
            Kind::VerifyBackups(wanted) => verify(host, node, &wanted.backup).await,
            Kind::PruneBackups(wanted) => {
                let wish = Wish {
                    retention: wanted.retention.map_or(place.retention, Into::into),
                    kubeadm_leftovers: wanted.kubeadm_leftovers,
                    dry_run: wanted.dry_run,
                };
                let (pruned, kept) = prune(host, node, &idleness(idle)?, wish).await?;
                Ok(ReplyKind::Pruned(v1::PrunedBackups {
                    pruned: pruned.into_iter().map(Into::into).collect(),
                    kept: u32::try_from(kept).unwrap_or(u32::MAX),
                    dry_run: wish.dry_run,
                }))
            }
        }
    }
}

/// What runs in the cluster, where that fits into one message.
async fn workloads(host: &Host) -> Result<v1::WorkloadDescription, NoReply> {
    let description = host.kube.workloads().await?;
    let bytes = description.encoded_len();
    if bytes > LARGEST_DESCRIPTION {
        return Err(NoReply::Refused(format!(
            "what this cluster runs takes {bytes} bytes to describe, and a message takes {LARGEST_DESCRIPTION}"
        )));
    }
    Ok(description)
}

/// What the add-ons of a version would change.
async fn previewed(host: &Host, wanted: &v1::PreviewAddons) -> Result<ReplyKind, NoReply> {
    let version =
        wanted.version.parse().map_err(|error: VersionError| NoReply::Refused(error.to_string()))?;
    let preview = preview(host, version, &wanted.digest).await?.map_err(NoReply::Refused)?;
    Ok(ReplyKind::Addons(preview))
}

/// What lets another machine join.
async fn invitation(host: &Host, idle: &Idle, wanted: v1::Invite) -> Result<ReplyKind, NoReply> {
    let role = Role::try_from(wanted.role()).map_err(|error| NoReply::Refused(error.to_string()))?;
    let joining: NodeName =
        wanted.node.parse().map_err(|error: NameError| NoReply::Refused(error.to_string()))?;
    match invitation::make(host, idle, &joining, role).await {
        Ok(invitation) => {
            tracing::info!(node = %joining, role = role.name(), "a machine is let in");
            Ok(ReplyKind::Invitation(invitation.into()))
        }
        Err(NotInvited::Refused(why)) => Err(NoReply::Refused(why)),
        Err(NotInvited::Host(error)) => Err(error.into()),
    }
}

fn idleness(idle: Option<Idleness>) -> Result<Idle, NoReply> {
    let asked = idle.unwrap_or_else(|| Err("nobody asked whether there is a lease".to_owned()));
    asked.map_err(NoReply::Refused)
}

/// The backups of this node, or the one of this name.
async fn named(host: &Host, node: &NodeName, name: &str) -> Result<Vec<Stored>, NoReply> {
    let mut backups = Inventory::take(host, node).await?.backups;
    if !name.is_empty() {
        backups.retain(|backup| backup.name.to_string() == name);
        if backups.is_empty() {
            return Err(NoReply::Refused(format!(
                "there is no backup {name} on {node}: see `liftlock backups list {node}`"
            )));
        }
    }
    Ok(backups)
}

/// Verifies a whole backup and rehearses the restore of its snapshot.
async fn rehearsed(host: &Host, node: &NodeName, idle: &Idle, name: &str) -> Result<ReplyKind, NoReply> {
    let backups = named(host, node, name).await?;
    let backup = backups.last().ok_or_else(|| NoReply::Refused(format!("there is no backup on {node}")))?;
    let Verdict { findings, .. } = Verdict::of(host, backup).await?;
    if !findings.is_empty() {
        return Err(NoReply::Refused(format!(
            "the backup {name} on {node} is damaged and nothing is restored from it: {}",
            findings.join("; ")
        )));
    }
    if !backup.snapshot {
        return Err(NoReply::Refused(format!("the backup {name} on {node} holds no snapshot of etcd")));
    }
    let unit = format!("liftlock-{}-rehearsal", backup.name.plan);
    let Rehearsal { contents, with } =
        rehearse(host, &backup.folder, None, &unit, || Ok(idle), &ToLog).await?;
    Ok(ReplyKind::Rehearsal(v1::Rehearsal {
        path: snapshot::path(&backup.folder).into_string(),
        taken_at_ms: backup.name.taken_at_ms(),
        revision: contents.revision,
        keys: contents.keys,
        with,
    }))
}

/// What the rehearsal's tool prints.
struct ToLog;

impl Lines for ToLog {
    fn line(&self, line: &str) {
        tracing::debug!(line, "rehearsal");
    }
}

/// One backup, or with an empty name every one.
async fn verify(host: &Host, node: &NodeName, name: &str) -> Result<ReplyKind, NoReply> {
    let backups = named(host, node, name).await?;
    let mut verdicts = Vec::new();
    for backup in &backups {
        let Verdict { files, bytes, findings } = Verdict::of(host, backup).await?;
        let (name, taken_at_ms) = (backup.name.to_string(), backup.name.taken_at_ms());
        verdicts.push(v1::BackupVerdict { name, taken_at_ms, files, bytes, findings });
    }
    Ok(ReplyKind::Verdicts(v1::BackupVerdicts { verdicts }))
}
