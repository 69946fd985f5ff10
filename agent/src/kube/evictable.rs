//! What a drain of any node would move, what lets it go, and what room there is for it: read page by page, of which only
//! what a forecast asks for is kept.

use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::v1;
use serde::Deserialize;

use super::bound::{Bounds, HOSTNAME, NodeRule, VolumeObject};
use super::objects::{Condition, ObjectMeta, Taint, Volume};
use super::quantity::Quantity;
use super::selector::Selector;

/// A `PodDisruptionBudget` of policy/v1 or policy/v1beta1.
#[derive(Deserialize)]
pub(super) struct BudgetObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: BudgetSpec,
    #[serde(default)]
    status: BudgetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetSpec {
    selector: Option<Selector>,
    min_available: Option<IntOrPercent>,
    max_unavailable: Option<IntOrPercent>,
    unhealthy_pod_eviction_policy: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrPercent {
    Int(u32),
    Percent(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetStatus {
    disruptions_allowed: i32,
    current_healthy: i32,
    desired_healthy: i32,
}

/// A Node, as far as it has room.
#[derive(Deserialize)]
pub(super) struct NodeObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
    allocatable: BTreeMap<String, Quantity>,
}

/// A pod, as far as it says where it may run.
#[derive(Deserialize)]
pub(super) struct PodObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
    affinity: Affinity,
    topology_spread_constraints: Vec<SpreadConstraint>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    /// Of the pod as a whole.
    resources: Resources,
    overhead: Requests,
    volumes: Vec<Volume>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Toleration {
    key: String,
    operator: String,
    value: String,
    effect: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Affinity {
    #[serde(rename = "nodeAffinity")]
    to_nodes: NodeAffinity,
    #[serde(rename = "podAffinity")]
    to_pods: PodAffinity,
    #[serde(rename = "podAntiAffinity")]
    against_pods: PodAffinity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeRule>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodAffinity {
    required_during_scheduling_ignored_during_execution: Vec<AffinityTerm>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityTerm {
    topology_key: String,
    label_selector: Option<Selector>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpreadConstraint {
    when_unsatisfiable: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    resources: Resources,
    ports: Vec<Port>,
    restart_policy: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: Requests,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    host_port: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
}

/// What is asked for, by the resource's name.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Requests(BTreeMap<String, Quantity>);

impl Requests {
    fn cpu_and_memory(&self) -> Asked {
        let of = |name: &str| self.0.get(name).copied().unwrap_or_default();
        Asked { cpu_m: of("cpu").thousandths(), memory_bytes: of("memory").whole() }
    }

    /// Something that not every node has, such as a GPU.
    fn is_of_a_kind(&self) -> bool {
        self.0.keys().any(|name| !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Asked {
    cpu_m: u64,
    memory_bytes: u64,
}

impl Asked {
    fn plus(self, other: Self) -> Self {
        Self {
            cpu_m: self.cpu_m.saturating_add(other.cpu_m),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn most(self, other: Self) -> Self {
        Self { cpu_m: self.cpu_m.max(other.cpu_m), memory_bytes: self.memory_bytes.max(other.memory_bytes) }
    }
}

impl PodSpec {
    /// What the scheduler reserves: the containers side by side, or an init container beside those that go on running,
    /// whichever is more (<https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers>);
    /// in their place what the pod as a whole asks for, where it does
    /// (<https://kubernetes.io/docs/tasks/configure-pod-container/assign-pod-level-resources/>).
    fn asked(&self) -> Asked {
        let requests = |container: &Container| container.resources.requests.cpu_and_memory();
        let (mut sidecars, mut starting) = (Asked::default(), Asked::default());
        for container in &self.init_containers {
            if container.restart_policy == "Always" {
                sidecars = sidecars.plus(requests(container));
            } else {
                starting = starting.most(sidecars.plus(requests(container)));
            }
        }
        let running = self.containers.iter().map(requests).fold(sidecars, Asked::plus);
        let of_containers = running.most(starting);
        let of_pod = self.resources.requests.cpu_and_memory();
        let asked = |name: &str| self.resources.requests.0.contains_key(name);
        let requested = Asked {
            cpu_m: if asked("cpu") { of_pod.cpu_m } else { of_containers.cpu_m },
            memory_bytes: if asked("memory") { of_pod.memory_bytes } else { of_containers.memory_bytes },
        };
        requested.plus(self.overhead.cpu_and_memory())
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| {
            let Toleration { key, operator, value, effect } = toleration;
            (effect.is_empty() || *effect == taint.effect)
                && ((key.is_empty() && operator == "Exists") || *key == taint.key)
                && (operator == "Exists" || *value == taint.value)
        })
    }

    /// No two pods with these labels may be on one node, and whether anything else says where they may run.
    fn bounds(&self, labels: &BTreeMap<String, String>) -> (bool, bool) {
        let Affinity { to_pods, against_pods, .. } = &self.affinity;
        let own = |term: &&AffinityTerm| {
            let selects = |selector: &Selector| !selector.is_empty() && selector.selects(labels);
            term.topology_key == HOSTNAME && term.label_selector.as_ref().is_some_and(selects)
        };
        let against = &against_pods.required_during_scheduling_ignored_during_execution;
        let apart = against.iter().filter(own).count();
        let containers = || self.containers.iter().chain(&self.init_containers);
        let otherwise = apart < against.len()
            || !to_pods.required_during_scheduling_ignored_during_execution.is_empty()
            || self.topology_spread_constraints.iter().any(|one| one.when_unsatisfiable == "DoNotSchedule")
            || containers().any(|container| container.resources.requests.is_of_a_kind())
            || containers().any(|container| container.ports.iter().any(|port| port.host_port != 0));
        (apart > 0, otherwise)
    }
}

/// Everything in which pods are told apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    namespace: String,
    workload: String,
    pod: String,
    ready: bool,
    asked: Asked,
    empty_dir: bool,
    node_labels: Vec<String>,
    tolerates: Vec<u32>,
    budgets: Vec<u32>,
    apart: bool,
    only_on: Option<BTreeSet<String>>,
    bound_otherwise: bool,
}

/// A pod with volumes that others bring, until it is known where these can be had.
struct Claimant {
    alike: Alike,
    node: String,
    /// The names of its claims.
    claims: Vec<String>,
}

/// What was read so far: budgets first, then Nodes, then pods, then volumes.
#[derive(Default)]
pub(super) struct Evictable {
    budgets: Vec<(Option<Selector>, v1::DisruptionBudget)>,
    taints: Vec<Taint>,
    nodes: BTreeMap<String, (v1::NodeRoom, BTreeMap<String, String>)>,
    /// The names of Nodes by their label for the hostname.
    hostnames: BTreeMap<String, BTreeSet<String>>,
    /// The names of the nodes that they are on, one a pod.
    pods: BTreeMap<Alike, Vec<String>>,
    claimants: Vec<Claimant>,
    /// Where the volumes of claims can be had, by namespace and name.
    volumes: BTreeMap<(String, String), Bounds>,
}

impl Evictable {
    /// `empty_selects`: an empty selector selects every pod of the namespace, as in policy/v1, and not none, as in
    /// policy/v1beta1.
    pub(super) fn add_budget(&mut self, budget: BudgetObject, empty_selects: bool) {
        let BudgetObject { metadata, spec, status } = budget;
        let count = |counted: i32| u32::try_from(counted).unwrap_or_default();
        let rule = match (&spec.min_available, &spec.max_unavailable) {
            (Some(least), _) => format!("minAvailable: {}", least.written()),
            (None, Some(most)) => format!("maxUnavailable: {}", most.written()),
            (None, None) => "no rule".to_owned(),
        };
        let selector = spec.selector.filter(|selector| empty_selects || !selector.is_empty());
        let budget = v1::DisruptionBudget {
            namespace: metadata.namespace,
            name: metadata.name,
            rule,
            disruptions_allowed: count(status.disruptions_allowed),
            current_healthy: count(status.current_healthy),
            desired_healthy: count(status.desired_healthy),
            unhealthy_may_go: spec.unhealthy_pod_eviction_policy == "AlwaysAllow",
        };
        self.budgets.push((selector, budget));
    }

    pub(super) fn add_node(&mut self, node: NodeObject) {
        let NodeObject { metadata, spec, status } = node;
        let of = |name: &str| status.allocatable.get(name).copied().unwrap_or_default();
        let free = v1::Resources {
            cpu_m: of("cpu").thousandths(),
            memory_bytes: of("memory").whole(),
            pods: u32::try_from(of("pods").whole()).unwrap_or(u32::MAX),
        };
        let taints =
            spec.taints.into_iter().filter(Taint::keeps_away).map(|taint| self.number(taint)).collect();
        let room = v1::NodeRoom {
            name: metadata.name.clone(),
            free: Some(free),
            schedulable: status.conditions.iter().any(Condition::is_ready) && !spec.unschedulable,
            labels: Vec::new(),
            taints,
            unmoved: Some(v1::Resources::default()),
        };
        if let Some(hostname) = metadata.labels.get(HOSTNAME) {
            self.hostnames.entry(hostname.clone()).or_default().insert(metadata.name.clone());
        }
        self.nodes.insert(metadata.name, (room, metadata.labels));
    }

    fn number(&mut self, taint: Taint) -> u32 {
        let at = self.taints.iter().position(|known| *known == taint).unwrap_or_else(|| {
            self.taints.push(taint);
            self.taints.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Pods of no node, and those that have ended or are ending anyway, are nothing to a drain.
    pub(super) fn add_pod(&mut self, pod: PodObject) {
        let PodObject { metadata, spec, status } = pod;
        let over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        if spec.node_name.is_empty() || over || metadata.deletion_timestamp.is_some() {
            return;
        }
        let asked = spec.asked();
        let controller = metadata.controller();
        if metadata.is_mirror() || controller.is_some_and(|owner| owner.kind == "DaemonSet") {
            self.take(&spec.node_name, asked);
            return;
        }
        let numbers = (0_u32..).zip(&self.taints);
        let tolerates =
            numbers.filter(|(_, taint)| spec.tolerates(taint)).map(|(number, _)| number).collect();
        // One that has not started yet goes without a budget's word.
        let heeds = status.phase != "Pending";
        let selects = |(selector, budget): &(Option<Selector>, v1::DisruptionBudget)| {
            budget.namespace == metadata.namespace
                && selector.as_ref().is_some_and(|selector| selector.selects(&metadata.labels))
        };
        let numbers = (0_u32..).zip(&self.budgets);
        let budgets = numbers.filter(|(_, one)| heeds && selects(one)).map(|(number, _)| number).collect();
        let (apart, otherwise) = spec.bounds(&metadata.labels);
        let Bounds { only_on, otherwise: bound_otherwise } =
            self.named_by(&spec).and(Bounds { only_on: None, otherwise });
        let claims: Vec<String> = spec.volumes.iter().filter_map(Volume::claim).map(str::to_owned).collect();
        let workload = workload(&metadata);
        let alike = Alike {
            pod: if workload.is_empty() { metadata.name } else { String::new() },
            workload,
            namespace: metadata.namespace,
            ready: status.conditions.iter().any(Condition::is_ready),
            asked,
            empty_dir: spec.volumes.iter().any(Volume::is_empty_dir),
            node_labels: spec
                .node_selector
                .iter()
                .filter(|(key, _)| *key != HOSTNAME)
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
            tolerates,
            budgets,
            apart,
            only_on,
            bound_otherwise,
        };
        if claims.is_empty() {
            self.pods.entry(alike).or_default().push(spec.node_name);
        } else {
            self.claimants.push(Claimant { alike, node: spec.node_name, claims });
        }
    }

    /// Where a pod may be by its own rules for the names of nodes.
    fn named_by(&self, spec: &PodSpec) -> Bounds {
        let hostname = spec.node_selector.get(HOSTNAME);
        let named = |hostname| self.hostnames.get(hostname).cloned().unwrap_or_default();
        let selected = hostname.map(named).map_or_else(Bounds::default, Bounds::to);
        let rule = &spec.affinity.to_nodes.required_during_scheduling_ignored_during_execution;
        let ruled = rule.as_ref().map_or_else(Bounds::default, |rule| rule.bounds(&self.hostnames));
        selected.and(ruled)
    }

    /// Whether it matters where volumes can be had.
    pub(super) fn asks_for_volumes(&self) -> bool {
        !self.claimants.is_empty()
    }

    pub(super) fn add_volume(&mut self, volume: VolumeObject) {
        if let Some((claim, rule)) = volume.bound() {
            self.volumes.insert(claim, rule.bounds(&self.hostnames));
        }
    }

    /// Has pods be where their volumes can be had.
    fn bind(&mut self) {
        for Claimant { mut alike, node, claims } in std::mem::take(&mut self.claimants) {
            let own = Bounds { only_on: alike.only_on.take(), otherwise: alike.bound_otherwise };
            let of_claim = |claim: String| self.volumes.get(&(alike.namespace.clone(), claim)).cloned();
            let bounds = claims.into_iter().filter_map(of_claim).fold(own, Bounds::and);
            (alike.only_on, alike.bound_otherwise) = (bounds.only_on, bounds.otherwise);
            self.pods.entry(alike).or_default().push(node);
        }
    }

    /// What no drain moves stays in its place.
    fn take(&mut self, node: &str, asked: Asked) {
        if let Some((v1::NodeRoom { free: Some(free), unmoved: Some(unmoved), .. }, _)) =
            self.nodes.get_mut(node)
        {
            unmoved.cpu_m = unmoved.cpu_m.saturating_add(asked.cpu_m);
            unmoved.memory_bytes = unmoved.memory_bytes.saturating_add(asked.memory_bytes);
            unmoved.pods = unmoved.pods.saturating_add(1);
            free.cpu_m = free.cpu_m.saturating_sub(asked.cpu_m);
            free.memory_bytes = free.memory_bytes.saturating_sub(asked.memory_bytes);
            free.pods = free.pods.saturating_sub(1);
        }
    }

    pub(super) fn description(mut self) -> v1::WorkloadDescription {
        self.bind();
        let numbers: BTreeMap<String, u32> = self.nodes.keys().cloned().zip(0..).collect();
        let named: BTreeSet<&String> = self.pods.keys().flat_map(|alike| &alike.node_labels).collect();
        let with_labels = |(mut room, labels): (v1::NodeRoom, BTreeMap<String, String>)| {
            let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
            room.labels = labels.filter(|label| named.contains(label)).collect();
            room
        };
        let nodes = self.nodes.into_values().map(with_labels).collect();
        // A node may have come since the Nodes were read.
        let places = |on: Vec<String>| on.iter().filter_map(|node| numbers.get(node).copied()).collect();
        let groups = self.pods.into_iter().map(|(mut alike, on)| {
            let only_on = alike.only_on.take();
            let bound_to_nodes = only_on.is_some();
            let only_on = places(only_on.into_iter().flatten().collect());
            v1::PodGroup { bound_to_nodes, only_on, ..alike.on(places(on)) }
        });
        v1::WorkloadDescription {
            nodes,
            budgets: self.budgets.into_iter().map(|(_, budget)| budget).collect(),
            pods: groups.filter(|group| !group.nodes.is_empty()).collect(),
        }
    }
}

impl IntOrPercent {
    fn written(&self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::Percent(text) => text.clone(),
        }
    }
}

impl Alike {
    fn on(self, nodes: Vec<u32>) -> v1::PodGroup {
        let Asked { cpu_m, memory_bytes } = self.asked;
        v1::PodGroup {
            nodes,
            namespace: self.namespace,
            workload: self.workload,
            pod: self.pod,
            ready: self.ready,
            cpu_m,
            memory_bytes,
            empty_dir: self.empty_dir,
            node_labels: self.node_labels,
            tolerates: self.tolerates,
            budgets: self.budgets,
            apart: self.apart,
            bound_otherwise: self.bound_otherwise,
            ..v1::PodGroup::default()
        }
    }
}

/// `Deployment shop` for a pod of its `ReplicaSet` `shop-66d5f5c67f`; empty where nothing would start the pod again.
fn workload(metadata: &ObjectMeta) -> String {
    let Some(owner) = metadata.controller() else { return String::new() };
    let template = metadata.labels.get("pod-template-hash");
    let of_deployment = template.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match of_deployment.filter(|_| owner.kind == "ReplicaSet") {
        Some(deployment) => format!("Deployment {deployment}"),
        None => format!("{} {}", owner.kind, owner.name),
    }
}
