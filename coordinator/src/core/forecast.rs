//! What a roll-out will meet: every drain of a path played through, before the first cordon, on what runs in the cluster
//! now.
//!
//! Nodes are drained in the plans' order, those together that may be under lease at once. A pod goes where there is room for it; what the scheduler prefers
//! besides is not known here, so where a pod lands is a guess, and that it lands nowhere is not. A pod that was ready is
//! ready again where it lands. A drain that is blocked leaves its pods where they are, or deletes them where the plan says so, and
//! the next one is played. Where machines take nodes' places, what has joined has room by then, and a node that leaves is empty
//! at last, whoever had to see to that ([`membership`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Plan;
use liftlock_proto::version::KubernetesVersion;

use crate::core::batches::batches;
use crate::core::blocked;
use crate::core::membership::Membership;
use crate::core::path::Path;

mod duration;
mod machine;
mod membership;
mod simulation;
#[cfg(test)]
mod tests;
mod words;

pub use duration::{Durations, Expected, RoleDuration, durations};
pub use machine::Machine;
use simulation::{Met, Simulation};

/// What runs on the cluster's nodes, and what lets it be evicted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workloads {
    /// Every Node.
    pub nodes: BTreeMap<NodeName, Room>,
    /// Every `PodDisruptionBudget`.
    pub budgets: Vec<Budget>,
    /// Pods that a drain would move.
    pub pods: Vec<PodGroup>,
    /// What the machines have whose agents say so, those that have not joined yet among them.
    pub machines: BTreeMap<NodeName, Machine>,
}

/// What a Node has for pods that a drain moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// Allocatable, less the requests of pods that no drain moves, in thousandths of a CPU.
    pub cpu_m: u64,
    /// The same, in bytes.
    pub memory_bytes: u64,
    /// How many pods.
    pub pods: u32,
    /// Ready, and not cordoned.
    pub schedulable: bool,
    /// `disk=ssd`
    pub labels: BTreeSet<String>,
    /// Numbers of its taints that keep pods away.
    pub taints: BTreeSet<u32>,
    /// What pods ask for there that no drain moves.
    pub unmoved: Requests,
}

/// What pods ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// In thousandths of a CPU.
    pub cpu_m: u64,
    /// In bytes.
    pub memory_bytes: u64,
    /// How many pods they are.
    pub pods: u32,
}

/// A `PodDisruptionBudget`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    /// `shop/cart`
    pub name: String,
    /// `minAvailable: 2`
    pub rule: String,
    /// How many of its pods may go now.
    pub allowed: u32,
    /// How many are healthy.
    pub healthy: u32,
    /// How many have to be.
    pub needed: u32,
    /// Pods that are not ready may always go.
    pub unhealthy_may_go: bool,
}

/// Pods of one workload that are alike in everything that is asked here, but for where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodGroup {
    /// Where each of them is.
    pub on: Vec<NodeName>,
    /// `Deployment shop/cart`; a pod's own name, `Pod shop/debug`, where nothing would start it again.
    pub workload: String,
    /// Something would.
    pub controlled: bool,
    /// They are ready.
    pub ready: bool,
    /// What one of them asks for, in thousandths of a CPU.
    pub cpu_m: u64,
    /// The same, in bytes.
    pub memory_bytes: u64,
    /// A volume's data go with the pod.
    pub empty_dir: bool,
    /// `disk=ssd`: what a node has to have.
    pub node_labels: Vec<String>,
    /// Where they may be at all, where a volume that lies on one node or a rule for the names of nodes says so.
    pub only_on: Option<BTreeSet<NodeName>>,
    /// Numbers of the taints that they tolerate.
    pub tolerates: BTreeSet<u32>,
    /// Which budgets say whether they may go.
    pub budgets: Vec<usize>,
    /// No two of the workload may be on one node.
    pub apart: bool,
    /// Something else says where they may run, which is not reckoned with.
    pub bound_otherwise: bool,
}

/// What the roll-out of a path will meet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// In the order in which it will be met. What was met once is not told again at a later stop.
    pub findings: Vec<Finding>,
    /// Pods with rules that were not reckoned with.
    pub bound_otherwise: u32,
    /// Machines that join and of which nobody knows what room they bring: nothing was played through then.
    pub unmeasured: Vec<NodeName>,
}

/// Something that a drain will meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whose drain it is.
    pub node: NodeName,
    /// At which stop.
    pub to_version: KubernetesVersion,
    /// `Deployment shop/cart`
    pub workload: String,
    /// How many of its pods it is about.
    pub pods: u32,
    /// What it is.
    pub what: What,
}

/// What a drain can meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It waits for a budget that will not let pods go.
    Blocked {
        /// What follows there once its time is up.
        on_blocked: OnBlocked,
        /// As they are when it waits; several where a pod has more than one, which the API evicts never.
        budgets: Vec<Budget>,
    },
    /// It refuses to begin.
    Refused(Forbidden),
    /// Nothing of a workload is ready for a while, or for good.
    Downtime(Cause),
    /// Evicted pods wait until the node is back, or for good.
    NoRoom {
        /// What one of them asks for, in thousandths of a CPU.
        cpu_m: u64,
        /// The same, in bytes.
        memory_bytes: u64,
        /// What is missing.
        lack: Lack,
        /// The node is opened again once it is raised.
        comes_back: bool,
    },
}

/// What a plan's policy does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// Nothing would start the pod again.
    Unmanaged,
    /// A volume's data would go with it.
    EmptyDir,
}

/// Why a workload is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It has one ready pod.
    OneReplica,
    /// All that are ready are on this node, and go at once.
    AllOnOneNode,
    /// It is a Job, whose pods begin anew wherever others of it are.
    Interrupted,
    /// Nothing starts the pod again.
    NoController,
}

/// Why a pod finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// No other node takes it: none is schedulable, has the labels that it asks for and no taint that it does not bear.
    Node,
    /// A volume or a rule binds them to nodes by name, and no other one of these is schedulable.
    Bound,
    /// No two of its workload may be on one node, and each that would take it has one.
    Apart,
    /// Those that would take it are too full.
    Room {
        /// The most that is free on any of them, in thousandths of a CPU.
        cpu_m: u64,
        /// The same, in bytes.
        memory_bytes: u64,
    },
}

impl PodGroup {
    /// What its pods have done so far is lost with each of them.
    fn is_of_a_job(&self) -> bool {
        self.workload.starts_with("Job ")
    }
}

impl What {
    /// Whether the roll-out halts at it.
    pub fn halts(&self) -> bool {
        matches!(self, Self::Blocked { on_blocked: OnBlocked::Pause, .. } | Self::Refused(_))
    }

    /// Whether it is told of every node that meets it, however many there are.
    pub fn is_always_told(&self) -> bool {
        matches!(self, Self::Blocked { .. } | Self::Refused(_))
    }

    /// Whether it is the same again, whatever its numbers are by now.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether it is the workload's own, wherever its pods are by then: where they land is a guess.
    fn is_of_the_workload(&self) -> bool {
        matches!(self, Self::Downtime(_))
    }
}

/// Plays a path's drains through, batch by batch.
pub fn forecast(path: &Path, workloads: &Workloads) -> Forecast {
    let unmeasured = membership::unmeasured(path, workloads);
    if !unmeasured.is_empty() {
        return Forecast { unmeasured, ..Forecast::default() };
    }
    let mut simulation = Simulation::of(workloads);
    let mut findings: Vec<Finding> = Vec::new();
    let mut told = HashSet::new();
    for (number, plan) in path.plans().enumerate() {
        let met = match Membership::of(plan) {
            None => raised_in_place(&mut simulation, plan),
            Some(_) => membership::replaced(&mut simulation, path, number, plan, workloads),
        };
        for (name, (workload, pods, what)) in met {
            let at = (!what.is_of_the_workload()).then_some(name);
            if told.insert((std::mem::discriminant(&what), workload.clone(), at)) {
                let (node, to_version) = (name.clone(), plan.to_version);
                findings.push(Finding { node, to_version, workload, pods, what });
            }
        }
    }
    let unknown: usize =
        workloads.pods.iter().filter(|group| group.bound_otherwise).map(|group| group.on.len()).sum();
    let bound_otherwise = u32::try_from(unknown).unwrap_or(u32::MAX);
    Forecast { findings, bound_otherwise, unmeasured }
}

/// What the drains of a plan meet by which nodes are raised where they are.
fn raised_in_place<'a>(simulation: &mut Simulation<'a>, plan: &'a Plan) -> Vec<(&'a NodeName, Met)> {
    let mut all = Vec::new();
    let mut waiting: BTreeSet<&NodeName> = BTreeSet::new();
    for batch in batches(plan) {
        // From the first raised node on, those that are not carry our taint.
        simulation.avoid(&waiting);
        if waiting.is_empty() {
            waiting.extend(plan.nodes.iter().map(|planned| &planned.name));
        }
        for planned in batch {
            waiting.remove(&planned.name);
        }
        let drains = batch.iter().map(|planned| (&planned.name, blocked::decided_for(planned)));
        for (name, met) in simulation.drain(drains, &plan.policy) {
            all.extend(met.into_iter().map(|met| (name, met)));
        }
    }
    simulation.avoid(&BTreeSet::new());
    all
}
