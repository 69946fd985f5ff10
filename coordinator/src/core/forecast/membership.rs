//! Plans by which machines take the places of nodes.
//!
//! Who has joined has room from then on. Nodes that are still to go are avoided, as their taint has it; one that is drained is
//! not opened again, and one that has left takes no pod. A node whose agent nobody hears is not drained: its pods start
//! elsewhere once its Node is gone.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, PlannedNode};
use liftlock_proto::strategy::Part;

use super::Workloads;
use super::simulation::{Met, Simulation};
use crate::core::blocked;
use crate::core::membership::{Membership, ended_by};
use crate::core::path::Path;

/// The machines of a path that join and of which nobody knows what room they bring.
pub(super) fn unmeasured(path: &Path, workloads: &Workloads) -> Vec<NodeName> {
    let joins = path.plans().filter_map(Membership::of).flat_map(|membership| membership.joins);
    let unknown: BTreeSet<NodeName> = joins.filter(|name| !workloads.machines.contains_key(name)).collect();
    unknown.into_iter().collect()
}

/// What the drains of one of a path's plans meet.
pub(super) fn replaced<'a>(
    simulation: &mut Simulation<'a>,
    path: &'a Path,
    number: usize,
    plan: &'a Plan,
    workloads: &'a Workloads,
) -> Vec<(&'a NodeName, Met)> {
    let mut going: BTreeSet<&NodeName> = path.plans().skip(number).flat_map(goers).collect();
    let mut all = Vec::new();
    let mut tell = |node: &'a NodeName, met: Vec<Met>| all.extend(met.into_iter().map(|met| (node, met)));
    for planned in &plan.nodes {
        let name = &planned.name;
        match planned.part() {
            Part::Join => {
                if let Some(machine) = workloads.machines.get(name) {
                    let goers = goers(plan).filter_map(|goer| workloads.nodes.get(goer));
                    simulation.join(name, machine.room(name, planned.role, plan.to_version, goers));
                }
            }
            Part::Empty | Part::Leave => {
                simulation.avoid(&going);
                let word = blocked::decided_for(planned);
                tell(name, simulation.empty_for_good(name, word, &plan.policy));
                if planned.part() == Part::Leave {
                    tell(name, simulation.remove(name));
                }
                going.remove(name);
            }
            Part::End => ended_by(planned).for_each(|node| tell(node, simulation.remove(node))),
            Part::Raise => {}
        }
    }
    all
}

/// The nodes that are emptied or leave by a plan.
fn goers(plan: &Plan) -> impl Iterator<Item = &NodeName> {
    plan.nodes.iter().flat_map(|planned: &PlannedNode| {
        let goes = matches!(planned.part(), Part::Empty | Part::Leave).then_some(&planned.name);
        goes.into_iter().chain(ended_by(planned))
    })
}

#[cfg(test)]
mod tests;
