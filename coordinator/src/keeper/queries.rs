//! What operators ask.

use std::collections::BTreeSet;

use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::plan::Policy;
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;

use super::{Keeper, KeeperError, State};
use crate::core::budget::Wait;
use crate::core::catalogue::Catalogue;
use crate::core::history::HistoryRecord;
use crate::core::hold::Hold;
use crate::core::hooks::Call;
use crate::core::path::gates_on_the_way;
use crate::core::planning::unknown_consents;
use crate::core::rollout::Rollout;
use crate::core::view::ClusterView;
use crate::rpc::convert::{self, Live};

impl Keeper {
    /// The newest roll-out, or the newest of a plan.
    pub fn rollout(&self, plan: Option<&PlanId>) -> Result<v1::Rollout, KeeperError> {
        let state = self.lock();
        let now_ms = state.soak_time_ms(self.clock.as_ref());
        let (number, rollout) = match plan {
            None => state.present()?,
            Some(id) => state.newest_of(id).ok_or_else(|| {
                KeeperError::NotFound(format!("there is no roll-out of plan {id}: see `liftlock history`"))
            })?,
        };
        Ok(state.told(number, rollout, now_ms))
    }

    /// Every gate and what became of it, for a target or for the newest version that every node could be raised to now.
    pub fn gates(
        &self,
        target: Option<KubernetesVersion>,
        policy: &Policy,
    ) -> Result<v1::ListGatesResponse, KeeperError> {
        if let Some(unknown) = unknown_consents(policy).next() {
            return Err(KeeperError::Invalid(unknown.message));
        }
        let view = self.lock().view();
        let catalogue = self.catalogue()?;
        let target = target.or_else(|| newest_offered(&view, &catalogue)).ok_or_else(|| {
            KeeperError::NotNow(
                "no control plane has reported its cluster yet: name a version, or look at `liftlock nodes`"
                    .to_owned(),
            )
        })?;
        let gates = gates_on_the_way(&view, target, policy, &catalogue);
        let gates = gates.into_iter().map(convert::gate).collect();
        Ok(v1::ListGatesResponse { to_version: target.to_string(), gates })
    }

    /// What kubeadm-config says that the cluster runs.
    pub fn cluster_version(&self) -> Result<KubernetesVersion, KeeperError> {
        let cluster = self.lock().view().cluster;
        cluster.map(|cluster| cluster.kubeadm_config_version).ok_or_else(|| {
            KeeperError::NotNow(
                "no control plane has reported its cluster yet: look at `liftlock nodes`".to_owned(),
            )
        })
    }

    /// Every node that has an agent, or that the cluster has.
    pub fn nodes(&self) -> Vec<v1::NodeEntry> {
        let state = self.lock();
        let objects = state.cluster().map(|cluster| cluster.nodes.as_slice()).unwrap_or_default();
        let mut names: BTreeSet<NodeName> = state.saved.enrolled.keys().cloned().collect();
        names.extend(state.sessions.keys().cloned());
        names.extend(objects.iter().filter_map(|node| node.name.parse().ok()));
        let entry = |name: NodeName| v1::NodeEntry {
            enrolled: state.saved.enrolled.contains_key(&name),
            connected: state.sessions.contains_key(&name),
            last_seen_ms: state.last_seen_ms.get(&name).copied().unwrap_or(0),
            facts: state.facts.get(&name).map(|reported| reported.facts.clone()),
            cluster_node: objects.iter().find(|node| node.name == name.as_str()).cloned(),
            name: name.into(),
        };
        names.into_iter().map(entry).collect()
    }

    /// What happened, oldest first, with sequence numbers.
    pub fn history(&self, plan: Option<&PlanId>) -> Vec<(u64, HistoryRecord)> {
        let state = self.lock();
        let wanted = |record: &HistoryRecord| plan.is_none() || record.plan.as_ref() == plan;
        let all = state.saved.history.iter().filter(|(_, record)| wanted(record));
        all.map(|(sequence, record)| (*sequence, record.clone())).collect()
    }
}

/// The newest version that all nodes' repositories offer, that the catalogue allows and that is at most one minor away;
/// the present one where there is none.
fn newest_offered(view: &ClusterView, catalogue: &Catalogue) -> Option<KubernetesVersion> {
    let present = view.cluster.as_ref()?.kubeadm_config_version;
    let agents = || view.nodes.values().filter_map(|node| node.agent.as_ref());
    let offered = agents().flat_map(|agent| &agent.offered).copied();
    let near = offered.filter(|version| *version > present && version.minor <= present.minor + 1);
    let near = near.filter(|version| catalogue.allows(*version));
    Some(
        near.filter(|version| agents().all(|agent| agent.offered.contains(version))).max().unwrap_or(present),
    )
}

impl State {
    fn newest_of(&self, id: &PlanId) -> Option<(u64, &Rollout)> {
        let mut newest_first = self.saved.rollouts.iter().rev();
        newest_first.find(|(_, rollout)| rollout.plan.id == *id).map(|(number, rollout)| (*number, rollout))
    }

    /// A roll-out as operators see it, at a time that [`State::soak_time_ms`] tells.
    pub(super) fn told(&self, number: u64, rollout: &Rollout, now_ms: u64) -> v1::Rollout {
        let newest = self.saved.newest().is_some_and(|(newest, _)| newest == number);
        let plans = if newest { self.plans.join("; ") } else { String::new() };
        let obstacle = self.obstacle(newest, now_ms);
        let taint = self.trouble_with_marks(now_ms).filter(|_| newest).unwrap_or_default();
        let told = convert::rollout(rollout, &|node| self.live(node, newest), obstacle.as_deref());
        v1::Rollout { plans, taint, held_until_ms: self.held_until_ms(newest, now_ms), ..told }
    }

    fn live(&self, node: &NodeName, newest: bool) -> Live {
        Live {
            connected: self.sessions.contains_key(node),
            last_output: if newest {
                self.last_output.get(node).cloned().unwrap_or_default()
            } else {
                String::new()
            },
        }
    }

    /// When what holds the present roll-out opens by itself, milliseconds since the Unix epoch; 0 where nothing does.
    fn held_until_ms(&self, newest: bool, now_ms: u64) -> u64 {
        let until = self.held.as_ref().filter(|_| newest && self.is_due(now_ms)).and_then(Hold::until);
        until.and_then(|until| u64::try_from(until.as_millisecond()).ok()).unwrap_or(0)
    }

    /// Whether some node is next and would be begun on if nothing held it.
    fn is_due(&self, now_ms: u64) -> bool {
        self.saved.newest().is_some_and(|(_, rollout)| rollout.due(now_ms).is_ok())
    }

    /// What stands in the way of the present roll-out and is no part of it.
    fn obstacle(&self, newest: bool, now_ms: u64) -> Option<String> {
        if !newest {
            return None;
        }
        let unknown_lease = || {
            self.holder_of_unknown_lease().map(|node| {
                format!(
                    "{node} holds a lease that this coordinator never granted, so its store is an older copy: nobody else \
                     is leased until that node has reported its end; if it is gone for good, switch the machine off and \
                     take its join token back (`liftlock token list`, `liftlock token revoke ID --fenced`)"
                )
            })
        };
        let awaited = || {
            self.silent().map(|node| {
                format!(
                    "{node} has not been heard of since this coordinator started, and what it holds is not known: nobody is \
                     leased until it has connected; see `systemctl status liftlock-agent` there, or, if it is gone for \
                     good, switch the machine off and take its join token back (`liftlock token list`, `liftlock token \
                     revoke ID --fenced`)"
                )
            })
        };
        let absent = || self.saved.newest()?.1.waits_for_absent(&self.connected(), now_ms);
        let held = || self.held.as_ref().map(ToString::to_string);
        let held_up = || match self.saved.newest()?.1.due(now_ms) {
            Ok(_) => awaited().or_else(absent).or_else(held),
            Err(soaking @ (Wait::Soaking { .. } | Wait::LookingAtNewNodes { .. })) => {
                Some(soaking.to_string())
            }
            Err(Wait::For(_)) => self.before_the_next_stop().or_else(absent),
        };
        // Of one that ended, or that waits for something else too, a hook that fails is the news.
        let hook =
            |counts: fn(&Call) -> bool| self.hook.as_ref().filter(|call| counts(call)).map(Call::waiting);
        self.failure
            .clone()
            .or_else(unknown_lease)
            .or_else(|| hook(|call| call.failure().is_some()))
            .or_else(held_up)
            .or_else(|| hook(|_| true))
    }
}
