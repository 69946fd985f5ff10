//! The operators' service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use liftlock_proto::name::{NameError, NodeName, PlanId};
use liftlock_proto::plan::{Plan, PlanError, Policy};
use liftlock_proto::v1;
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::operator_service_server::OperatorService;
use liftlock_proto::version::VersionError;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::caller;
use super::{convert, status, with_keeper};
use crate::core;
use crate::core::conduct::Conduct;
use crate::core::path::Path;
use crate::document::{ObjectName, UpgradePlan, ValueError};
use crate::identity::subject::{Role, Subject};
use crate::keeper::addons::refused;
use crate::keeper::{Keeper, Order};

/// How long agents may take to say what their nodes are like, package lists read anew included.
const FACTS_LIMIT: Duration = Duration::from_mins(1);

/// How long an agent may take to answer a question: it may have to read a backup of gigabytes.
const ANSWER_LIMIT: Duration = Duration::from_mins(5);

/// A watcher is told of changes at most this often: a child may print a thousand lines a second.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of history in one answer: clients take messages of up to 4 MiB.
const HISTORY_BYTES: usize = 3 * 1024 * 1024;

const READERS: &[Role] = &[Role::Operator, Role::Viewer];
const WRITERS: &[Role] = &[Role::Operator];

/// The operators' service.
pub struct Operators {
    keeper: Arc<Keeper>,
}

impl Operators {
    /// The service on top of the keeper.
    pub fn new(keeper: Arc<Keeper>) -> Self {
        Self { keeper }
    }

    async fn order<T>(&self, request: Request<T>, order: Order) -> Result<Response<v1::Rollout>, Status> {
        let operator = caller(&self.keeper, &request, WRITERS)?.subject.name;
        let rollout = with_keeper(&self.keeper, move |keeper| {
            keeper.order(&order, &operator)?;
            keeper.rollout(None)
        });
        Ok(Response::new(rollout.await?))
    }
}

#[tonic::async_trait]
impl OperatorService for Operators {
    async fn make_plan(
        &self,
        request: Request<v1::MakePlanRequest>,
    ) -> Result<Response<v1::MakePlanResponse>, Status> {
        caller(&self.keeper, &request, READERS)?;
        let v1::MakePlanRequest { to_version, policy, conduct } = request.into_inner();
        let policy = Policy::try_from(policy.unwrap_or_default()).map_err(|e: NameError| invalid(&e))?;
        let conduct = read_conduct(conduct)?;
        let mut refusals = fresh_facts(&self.keeper, true).await;
        // One that joins joins at what the cluster runs.
        let target = match &policy.replacement {
            Some(_) if to_version.is_empty() => with_keeper(&self.keeper, Keeper::cluster_version).await?,
            _ => to_version.parse().map_err(|e: VersionError| invalid(&e))?,
        };
        let wanted = conduct.clone();
        let planned =
            with_keeper(&self.keeper, move |keeper| Ok(keeper.plan_conducted(target, &policy, &wanted)));
        let path = match planned.await? {
            Ok(path) if refusals.is_empty() => Some(path),
            Ok(_) => None,
            Err(more) => {
                refusals.extend(more.into_iter().map(convert::refusal));
                None
            }
        };
        let mut addons = Vec::new();
        if let Some(planned) = &path {
            addons = self.keeper.preview_addons(planned).await;
            refusals.extend(refused(planned, &addons).into_iter().map(convert::refusal));
        }
        let path = path.filter(|_| refusals.is_empty());
        let forecast = match &path {
            Some(path) => Some(forecast(&self.keeper, path.clone(), conduct).await?),
            None => None,
        };
        let (plan, onward) = path.map_or((None, Vec::new()), |Path { first, onward }| {
            (Some(first.into()), onward.into_iter().map(Into::into).collect())
        });
        Ok(Response::new(v1::MakePlanResponse { plan, refusals, onward, forecast, addons }))
    }

    async fn list_gates(
        &self,
        request: Request<v1::ListGatesRequest>,
    ) -> Result<Response<v1::ListGatesResponse>, Status> {
        caller(&self.keeper, &request, READERS)?;
        let v1::ListGatesRequest { to_version, accepted } = request.into_inner();
        let named = Some(to_version.as_str()).filter(|version| !version.is_empty());
        let target = named.map(str::parse).transpose().map_err(|e: VersionError| invalid(&e))?;
        answer_of_all(&self.keeper, true).await?;
        let policy = Policy { accepted, ..Policy::default() };
        let gates = with_keeper(&self.keeper, move |keeper| keeper.gates(target, &policy)).await?;
        Ok(Response::new(gates))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::Rollout>, Status> {
        let operator = caller(&self.keeper, &request, WRITERS)?.subject.name;
        let v1::ApplyRequest { plan, onward, conduct, document } = request.into_inner();
        let conduct = read_conduct(conduct)?;
        let name = Some(document).filter(|name| !name.is_empty()).map(ObjectName::try_from);
        let name = name.transpose().map_err(|e: ValueError| invalid(&e))?;
        let plan = plan.ok_or_else(|| Status::invalid_argument("the request holds no plan"))?;
        let read = |plan| Plan::try_from(plan).map_err(|e: PlanError| invalid(&e));
        let path =
            Path { first: read(plan)?, onward: onward.into_iter().map(read).collect::<Result<_, _>>()? };
        answer_of_all(&self.keeper, false).await?;
        let rollout = with_keeper(&self.keeper, move |keeper| {
            keeper.apply_conducted(&path, &conduct, name.as_ref(), &operator)?;
            keeper.rollout(None)
        });
        Ok(Response::new(rollout.await?))
    }

    async fn edit(&self, request: Request<v1::EditRequest>) -> Result<Response<v1::Rollout>, Status> {
        let operator = caller(&self.keeper, &request, WRITERS)?.subject.name;
        let v1::EditRequest { to_version, policy, conduct } = request.into_inner();
        let target = to_version.parse().map_err(|e: VersionError| invalid(&e))?;
        let policy = Policy::try_from(policy.unwrap_or_default()).map_err(|e: NameError| invalid(&e))?;
        let document = UpgradePlan::new(target, policy).conducted(read_conduct(conduct)?);
        let rollout = with_keeper(&self.keeper, move |keeper| {
            keeper.edit(&document, &operator)?;
            keeper.rollout(None)
        });
        Ok(Response::new(rollout.await?))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Rollout>, Status> {
        caller(&self.keeper, &request, READERS)?;
        let id = plan_id(&request.into_inner().plan_id)?;
        Ok(Response::new(with_keeper(&self.keeper, move |keeper| keeper.rollout(id.as_ref())).await?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Rollout, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::WatchStream>, Status> {
        caller(&self.keeper, &request, READERS)?;
        let id = plan_id(&request.into_inner().plan_id)?;
        let mut changes = self.keeper.changes();
        changes.mark_changed();
        let keeper = Arc::clone(&self.keeper);
        let (sender, rollouts) = mpsc::channel(1);
        tokio::spawn(async move {
            let watch = async {
                let mut watched = Watched { id, last: None };
                while changes.changed().await.is_ok() {
                    if watched.tell(&keeper, &sender).await.is_none() {
                        return;
                    }
                    tokio::time::sleep(WATCH_PAUSE).await;
                }
            };
            tokio::select! {
                () = watch => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rollouts))))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.order(request, Order::Pause).await
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.order(request, Order::Resume).await
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.order(request, Order::Abort).await
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::Rollout>, Status> {
        let node: NodeName = request.get_ref().node.parse().map_err(|e: NameError| invalid(&e))?;
        self.order(request, Order::Retry(node)).await
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::Rollout>, Status> {
        let named = Some(request.get_ref().node.as_str()).filter(|node| !node.is_empty());
        let node = named.map(str::parse).transpose().map_err(|e: NameError| invalid(&e))?;
        self.order(request, Order::Rollback(node)).await
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        caller(&self.keeper, &request, READERS)?;
        if request.get_ref().ask_anew {
            answer_of_all(&self.keeper, false).await?;
        }
        let nodes = with_keeper(&self.keeper, |keeper| Ok(keeper.nodes())).await?;
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Result<Response<v1::ListVersionsResponse>, Status> {
        caller(&self.keeper, &request, READERS)?;
        let silent = self.keeper.refresh_facts(true, FACTS_LIMIT).await;
        let versions = with_keeper(&self.keeper, move |keeper| Ok(keeper.versions(silent))).await?;
        Ok(Response::new(versions))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let operator = caller(&self.keeper, &request, WRITERS)?.subject.name;
        let request = request.into_inner();
        let subject =
            Subject::requested(request.subject(), &request.name).map_err(Status::invalid_argument)?;
        let ttl = request.ttl_seconds;
        let (token, expires_at_ms) =
            with_keeper(&self.keeper, move |keeper| keeper.create_token(subject, ttl, &operator)).await?;
        Ok(Response::new(v1::CreateTokenResponse { token: token.to_string(), id: token.id, expires_at_ms }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        caller(&self.keeper, &request, WRITERS)?;
        let tokens = with_keeper(&self.keeper, |keeper| Ok(keeper.tokens())).await?;
        let tokens = tokens.into_iter().map(|(id, token)| convert::token_entry(id, token)).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let operator = caller(&self.keeper, &request, WRITERS)?.subject.name;
        let v1::RevokeTokenRequest { id, fenced } = request.into_inner();
        let ended =
            with_keeper(&self.keeper, move |keeper| keeper.revoke_token(&id, fenced, &operator)).await?;
        Ok(Response::new(v1::RevokeTokenResponse { ended: ended.unwrap_or_default() }))
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        caller(&self.keeper, &request, READERS)?;
        let id = plan_id(&request.into_inner().plan_id)?;
        let history = with_keeper(&self.keeper, move |keeper| Ok(keeper.history(id.as_ref()))).await?;
        let events =
            history.into_iter().map(|(sequence, record)| convert::history_event(sequence, record)).collect();
        let events = newest_within(HISTORY_BYTES, events);
        Ok(Response::new(v1::HistoryResponse { events }))
    }

    async fn ask(&self, request: Request<v1::AskRequest>) -> Result<Response<v1::AskResponse>, Status> {
        let kind = request.get_ref().asked.as_ref().and_then(|asked| asked.kind.as_ref());
        let kind = kind.ok_or_else(|| {
            Status::invalid_argument("the request asks nothing that this version of Liftlock knows")
        })?;
        let operator = caller(&self.keeper, &request, askers(kind))?.subject.name;
        let v1::AskRequest { node, asked } = request.into_inner();
        let node: NodeName = node.parse().map_err(|e: NameError| invalid(&e))?;
        let answered = self.keeper.ask(&node, asked.unwrap_or_default(), ANSWER_LIMIT).await;
        let reply = answered.map_err(|error| status(&error))?;
        let done = reply.clone();
        with_keeper(&self.keeper, move |keeper| keeper.record_answer(&node, &done, &operator)).await?;
        Ok(Response::new(v1::AskResponse { reply: Some(reply) }))
    }
}

/// Who may ask this: what changes something on the node is an operator's to ask.
fn askers(asked: &Kind) -> &'static [Role] {
    match asked {
        Kind::ListBackups(_)
        | Kind::VerifyBackups(_)
        | Kind::DescribeEtcd(_)
        | Kind::ShowProtectedPaths(_)
        | Kind::CompareProtectedPaths(_)
        | Kind::DescribeWorkloads(_)
        | Kind::PreviewAddons(_) => READERS,
        // Only the coordinator asks that, for the holder of a lease.
        Kind::Invite(_) => &[],
        Kind::PruneBackups(wanted) if wanted.dry_run => READERS,
        Kind::PruneBackups(_) | Kind::RehearseSnapshot(_) => WRITERS,
    }
}

/// One watcher, and what it saw last.
struct Watched {
    /// `None` until the newest roll-out is known: from then on it is that one, and those that carry on its path.
    id: Option<PlanId>,
    last: Option<v1::Rollout>,
}

impl Watched {
    /// Sends the roll-out if it is another than before, and the one that carries on its path. `None` when there is
    /// nothing more to see.
    async fn tell(
        &mut self,
        keeper: &Arc<Keeper>,
        to: &mpsc::Sender<Result<v1::Rollout, Status>>,
    ) -> Option<()> {
        loop {
            if keeper.stopping() {
                let _ = to.send(Err(Status::unavailable("the coordinator stops"))).await;
                return None;
            }
            let id = self.id.clone();
            let rollout = match with_keeper(keeper, move |keeper| keeper.rollout(id.as_ref())).await {
                Ok(rollout) => rollout,
                Err(status) => {
                    let _ = to.send(Err(status)).await;
                    return None;
                }
            };
            if self.last.as_ref() == Some(&rollout) {
                return Some(());
            }
            self.id = rollout.plan.as_ref().and_then(|plan| plan.id.parse().ok());
            self.last = Some(rollout.clone());
            let (ended, next) = (rollout.ended_at_ms != 0, begun_after(&rollout));
            to.send(Ok(rollout)).await.ok()?;
            match next {
                Some(next) => self.id = Some(next),
                None => return (!ended).then_some(()),
            }
        }
    }
}

/// The plan that carries on a path whose roll-out to a stop has ended.
fn begun_after(rollout: &v1::Rollout) -> Option<PlanId> {
    let reached = rollout.phase() == v1::RolloutPhase::Raised;
    rollout.onward.first().filter(|_| reached)?.plan_id.parse().ok()
}

/// Asks every connected agent anew; a refusal for each that does not answer.
pub(crate) async fn fresh_facts(keeper: &Arc<Keeper>, refresh_packages: bool) -> Vec<v1::Refusal> {
    let silent = keeper.refresh_facts(refresh_packages, FACTS_LIMIT).await;
    let refusal = |node: NodeName| v1::Refusal {
        rule: "agent-silent".to_owned(),
        message: format!(
            "{node}'s agent is connected and did not say within {} s what its node is like: look at \
             `journalctl -u liftlock-agent` there",
            FACTS_LIMIT.as_secs()
        ),
        acceptable: false,
    };
    silent.into_iter().map(refusal).collect()
}

/// The same where nothing is to be said without each of them.
async fn answer_of_all(keeper: &Arc<Keeper>, refresh_packages: bool) -> Result<(), Status> {
    let silent = fresh_facts(keeper, refresh_packages).await;
    if silent.is_empty() {
        return Ok(());
    }
    let why: Vec<String> = silent.into_iter().map(|refusal| refusal.message).collect();
    Err(Status::failed_precondition(why.join("; ")))
}

/// What the roll-out of a path will meet, by what a control plane says of the cluster now.
async fn forecast(keeper: &Arc<Keeper>, path: Path, conduct: Conduct) -> Result<v1::Forecast, Status> {
    let workloads = keeper.workloads().await;
    let forecast = with_keeper(keeper, move |keeper| {
        let met = workloads.map(|workloads| core::forecast::forecast(&path, &workloads));
        let windows = keeper.fit_into_windows(&path, &conduct).unwrap_or_default();
        Ok(v1::Forecast { windows, ..convert::forecast(met, keeper.durations(&path)) })
    });
    forecast.await
}

/// As many of the newest events as fit, oldest first.
fn newest_within(bytes: usize, mut events: Vec<v1::HistoryEvent>) -> Vec<v1::HistoryEvent> {
    let mut total = 0;
    let fits = |event: &&v1::HistoryEvent| {
        // A tag and a length go with each.
        total += event.encoded_len() + 8;
        total <= bytes
    };
    let kept = events.iter().rev().take_while(fits).count();
    events.split_off(events.len() - kept)
}

/// Empty names the newest.
fn plan_id(text: &str) -> Result<Option<PlanId>, Status> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|e: NameError| invalid(&e)) }
}

fn read_conduct(message: Option<v1::Conduct>) -> Result<Conduct, Status> {
    Conduct::try_from(message.unwrap_or_default()).map_err(|error| invalid(&error))
}

fn invalid(error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_too_long_for_one_message_keeps_its_newest_events() {
        let event =
            |sequence| v1::HistoryEvent { sequence, text: "x".repeat(1000), ..v1::HistoryEvent::default() };
        let all: Vec<v1::HistoryEvent> = (1..=100).map(event).collect();
        assert_eq!(newest_within(1024 * 1024, all.clone()), all);
        let kept = newest_within(10_500, all);
        assert_eq!((kept.len(), kept.last().map(|event| event.sequence)), (10, Some(100)));
        assert!(v1::HistoryResponse { events: kept }.encoded_len() <= 10_500);
        assert_eq!(newest_within(10, vec![event(1)]), []);
    }
}
