//! What a forecast is made from: what a control plane says of the cluster's pods when a plan is made, and earlier leases.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use liftlock_proto::v1::asked::Kind as Asked;
use liftlock_proto::v1::reply::Kind;

use super::{Keeper, KeeperError, State};
use crate::core::forecast::{Budget, Durations, Machine, PodGroup, Requests, Room, Workloads, durations};
use crate::core::path::Path;

/// How long one control plane may take to read the cluster's pods.
const LIMIT: Duration = Duration::from_secs(30);

impl Keeper {
    /// What runs in the cluster now, or why nobody can tell. Asks one control plane after the other until one answers;
    /// changes nothing.
    pub async fn workloads(&self) -> Result<Workloads, String> {
        let mut why = "no control plane's agent is connected".to_owned();
        let asked = self.lock().connected_control_planes();
        for node in asked {
            match self.workloads_by(&node).await {
                Ok(workloads) => return Ok(Workloads { machines: self.lock().machines(), ..workloads }),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// How long a path takes, by the leases that have raised nodes here.
    pub fn durations(&self, path: &Path) -> Durations {
        durations(path, self.lock().saved.rollouts.values())
    }

    async fn workloads_by(&self, node: &NodeName) -> Result<Workloads, KeeperError> {
        let asked = v1::Asked { kind: Some(Asked::DescribeWorkloads(v1::DescribeWorkloads {})) };
        match self.ask(node, asked, LIMIT).await?.kind {
            Some(Kind::Workloads(description)) => Ok(workloads(description)),
            _ => Err(KeeperError::Agent(format!(
                "the agent on {node} was asked for the cluster's workloads and answered something else: install the same \
                 version of Liftlock on both sides"
            ))),
        }
    }
}

impl State {
    /// Those that see the cluster first.
    fn connected_control_planes(&self) -> Vec<NodeName> {
        let connected = self
            .facts
            .iter()
            .filter(|(name, reported)| reported.facts.control_plane && self.sessions.contains_key(*name));
        let mut names: Vec<(bool, &NodeName)> =
            connected.map(|(name, reported)| (reported.facts.cluster.is_none(), name)).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// What the machines have, as far as their agents could tell.
    pub(super) fn machines(&self) -> BTreeMap<NodeName, Machine> {
        let told =
            self.facts.iter().filter_map(|(name, reported)| Some((name, reported.facts.room.as_ref()?)));
        let known = told.filter(|(_, room)| room.unread.is_empty());
        let machine = |room: &v1::RoomFacts| Machine {
            cpus: room.cpus,
            memory_bytes: room.memory_bytes,
            architecture: room.architecture.clone(),
        };
        known.map(|(name, room)| (name.clone(), machine(room))).collect()
    }
}

/// As the core sees it. What has a name that no Node can have is left out.
fn workloads(description: v1::WorkloadDescription) -> Workloads {
    let names: Vec<Option<NodeName>> =
        description.nodes.iter().map(|node| node.name.parse::<NodeName>().ok()).collect();
    let pods = description.pods.into_iter().map(|group| pod_group(group, &names)).collect();
    let rooms = names.iter().cloned().zip(description.nodes);
    let nodes: BTreeMap<NodeName, Room> =
        rooms.filter_map(|(name, node)| Some((name?, room(node)))).collect();
    let budgets = description.budgets.into_iter().map(budget).collect();
    Workloads { nodes, budgets, pods, machines: BTreeMap::new() }
}

fn room(node: v1::NodeRoom) -> Room {
    let v1::Resources { cpu_m, memory_bytes, pods } = node.free.unwrap_or_default();
    let unmoved = node.unmoved.unwrap_or_default();
    Room {
        cpu_m,
        memory_bytes,
        pods,
        schedulable: node.schedulable,
        labels: node.labels.into_iter().collect(),
        taints: node.taints.into_iter().collect(),
        unmoved: Requests { cpu_m: unmoved.cpu_m, memory_bytes: unmoved.memory_bytes, pods: unmoved.pods },
    }
}

fn budget(budget: v1::DisruptionBudget) -> Budget {
    Budget {
        name: format!("{}/{}", budget.namespace, budget.name),
        rule: budget.rule,
        allowed: budget.disruptions_allowed,
        healthy: budget.current_healthy,
        needed: budget.desired_healthy,
        unhealthy_may_go: budget.unhealthy_may_go,
    }
}

fn pod_group(group: v1::PodGroup, names: &[Option<NodeName>]) -> PodGroup {
    let at = |number: &u32| names.get(usize::try_from(*number).ok()?)?.clone();
    let (kind, name) = group.workload.split_once(' ').unwrap_or(("Pod", &group.pod));
    PodGroup {
        on: group.nodes.iter().filter_map(at).collect(),
        workload: format!("{kind} {}/{name}", group.namespace),
        controlled: !group.workload.is_empty(),
        ready: group.ready,
        cpu_m: group.cpu_m,
        memory_bytes: group.memory_bytes,
        empty_dir: group.empty_dir,
        node_labels: group.node_labels,
        only_on: group.bound_to_nodes.then(|| group.only_on.iter().filter_map(at).collect()),
        tolerates: group.tolerates.into_iter().collect(),
        budgets: group.budgets.into_iter().filter_map(|number| usize::try_from(number).ok()).collect(),
        apart: group.apart,
        bound_otherwise: group.bound_otherwise,
    }
}
