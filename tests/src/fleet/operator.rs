//! The operator service, spoken directly: typed answers and the stream of changes.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use liftlock_proto::enrollment::Identity;
use liftlock_proto::v1::operator_service_client::OperatorServiceClient;
use liftlock_proto::v1::{
    ApplyRequest, GetRequest, HistoryEvent, HistoryRequest, ListNodesRequest, MakePlanRequest, NodeEntry,
    Policy, Rollout, RolloutPhase,
};
use tonic::transport::Channel;

/// A connection to the coordinator.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The service itself.
    pub client: OperatorServiceClient<Channel>,
}

impl Operator {
    /// Connects with the identity in a folder.
    pub async fn connect(identity: &Utf8Path) -> Result<Self> {
        let read = |file: &str| {
            let path = identity.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let coordinator = read("coordinator")?.parse()?;
        let identity = Identity {
            key_pem: read("key.pem")?,
            certificate_pem: read("cert.pem")?,
            ca_pem: read("ca.pem")?,
        };
        _ = rustls::crypto::ring::default_provider().install_default();
        let channel = identity.endpoint(&coordinator)?.connect().await?;
        Ok(Self { client: OperatorServiceClient::new(channel) })
    }

    /// Every node that the coordinator knows.
    pub async fn nodes(&mut self) -> Result<Vec<NodeEntry>> {
        Ok(self.client.list_nodes(ListNodesRequest { ask_anew: false }).await?.into_inner().nodes)
    }

    /// Waits until each of these nodes is connected and has reported what it is.
    pub async fn wait_for_facts(&mut self, nodes: &[String], limit: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let known = self.nodes().await?;
            let reported = |node: &&String| {
                let entry = known.iter().find(|entry| entry.name == **node);
                entry.is_some_and(|entry| entry.connected && entry.facts.is_some())
            };
            if nodes.iter().all(|node| reported(&node)) {
                return Ok(());
            }
            if tokio::time::Instant::now() > end {
                bail!("not every node has reported within {limit:?}: {known:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Plans a raise and applies the plan.
    pub async fn apply(&mut self, to_version: &str, policy: Policy) -> Result<Rollout> {
        let request =
            MakePlanRequest { to_version: to_version.to_owned(), policy: Some(policy), conduct: None };
        let answer = self.client.make_plan(request).await?.into_inner();
        if answer.plan.is_none() || !answer.refusals.is_empty() {
            bail!("no plan: {:#?}", answer.refusals);
        }
        let order =
            ApplyRequest { plan: answer.plan, onward: answer.onward, conduct: None, document: String::new() };
        Ok(self.client.apply(order).await?.into_inner())
    }

    /// The newest roll-out.
    pub async fn rollout(&mut self) -> Result<Rollout> {
        Ok(self.client.get(GetRequest { plan_id: String::new() }).await?.into_inner())
    }

    /// Follows the newest roll-out until a condition holds.
    pub async fn watch_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Rollout) -> bool,
    ) -> Result<Rollout> {
        let mut last = None;
        let watched = tokio::time::timeout(limit, async {
            let mut stream = self.client.watch(GetRequest { plan_id: String::new() }).await?.into_inner();
            while let Some(rollout) = stream.message().await? {
                if condition(&rollout) {
                    return Ok(rollout);
                }
                last = Some(rollout);
            }
            bail!("the roll-out ended before {what}")
        })
        .await;
        match watched {
            Ok(result) => result.with_context(|| describe(last.as_ref())),
            Err(_) => bail!("waited {limit:?} for {what}; {}", describe(last.as_ref())),
        }
    }

    /// Follows the newest roll-out to its end, or to that of its path, or to a halt.
    pub async fn watch_to_the_end(&mut self, limit: Duration) -> Result<Rollout> {
        self.watch_until("the roll-out to end", limit, |rollout| match rollout.phase() {
            RolloutPhase::Raised => rollout.onward.is_empty(),
            RolloutPhase::Aborted | RolloutPhase::Halted | RolloutPhase::RolledBack => true,
            _ => false,
        })
        .await
    }

    /// Everything that happened, oldest first.
    pub async fn history(&mut self) -> Result<Vec<HistoryEvent>> {
        Ok(self.client.history(HistoryRequest { plan_id: String::new() }).await?.into_inner().events)
    }
}

/// A roll-out in a few lines, for a failing test.
fn describe(rollout: Option<&Rollout>) -> String {
    let Some(rollout) = rollout else {
        return "nothing was seen of it".to_owned();
    };
    let node = |node: &liftlock_proto::v1::RolloutNode| {
        format!(
            "\n  {}: {:?}, step {} ({}/{}), connected {}, {} {}",
            node.name,
            node.phase(),
            node.step,
            node.step_number,
            node.steps_total,
            node.connected,
            node.failure,
            node.last_output
        )
    };
    let nodes: String = rollout.nodes.iter().map(node).collect();
    format!("seen last: {:?} {}{nodes}", rollout.phase(), rollout.reason)
}
