//! Control planes whose places other machines take.
//!
//! kubeadm lets nobody join at another version than kubeadm-config names, and only `kubeadm upgrade apply` on a control plane that is
//! there changes that. So all of them are raised as ever, stop by stop, and then replaced at the target one at a time: the new
//! member of etcd first, the old one once every member is well.
//!
//! What is wanted is said as a whole: the control planes that there are in the end. Those that it does not name leave, in the order
//! of their names, the one that the coordinator runs on last; those that it names and that are not there join, in its order.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, Policy};
use liftlock_proto::strategy::Strategy;
use liftlock_proto::version::KubernetesVersion;

use super::{RULE, listed, plans, replaces_workers};
use crate::core::membership::Membership;
use crate::core::planning::Refusal;
use crate::core::replacement::{fresh, refused};
use crate::core::view::ClusterView;

/// Whether control planes leave once they are raised.
pub(in crate::core) fn replaces(policy: &Policy) -> bool {
    !policy.control_planes.strategy.is_in_place()
}

/// What of a policy makes no sense, whatever the cluster.
pub(super) fn policy_rules(policy: &Policy) -> Vec<Refusal> {
    let (strategy, nodes) = (policy.control_planes.strategy, &policy.control_planes.nodes);
    let mut refusals = Vec::new();
    let mut refuse = |message: String| refusals.push(refused(RULE, message));
    match strategy {
        Strategy::InPlace if nodes.is_empty() => {}
        Strategy::InPlace => refuse(
            "controlPlanes.nodes says nothing where controlPlanes.strategy is in-place: leave it out, or give strategy surge"
                .to_owned(),
        ),
        Strategy::BlueGreen => refuse(
            "controlPlanes.strategy blue-green would need two sets of members of etcd, and there is one: allowed are in-place, \
             and surge, by which one after the other takes another's place"
                .to_owned(),
        ),
        Strategy::Surge if nodes.is_empty() => refuse(
            "controlPlanes.strategy surge needs controlPlanes.nodes: every control plane that there is in the end, those that \
             stay and machines that have not joined"
                .to_owned(),
        ),
        Strategy::Surge => {}
    }
    let mut named = BTreeSet::new();
    if let Some(twice) = nodes.iter().find(|name| !named.insert(name.as_str())) {
        refuse(format!("controlPlanes.nodes names {twice} twice: each is one control plane"));
    }
    let workers = &policy.workers;
    if let Some(both) = workers.with.iter().find(|name| named.contains(name.as_str())) {
        refuse(format!(
            "{both} stands in controlPlanes.nodes and in workers.with: a machine joins as one of them, so leave it out of one"
        ));
    }
    // Who leaves as a control plane could join as a worker, which nobody has asked for.
    if strategy == Strategy::Surge && replaces_workers(policy) && workers.with.is_empty() {
        refuse(format!(
            "with controlPlanes.strategy surge, workers.strategy {} needs workers.with: the machines that join as workers",
            workers.strategy
        ));
    }
    if strategy == Strategy::Surge && policy.redeploy {
        refuse(
            "redeploy replaces the system of a control plane that stays, and controlPlanes.strategy is surge: leave it out, or \
             give strategy in-place"
                .to_owned(),
        );
    }
    refusals
}

/// The plans by which other machines take control planes' places, the first one first; none where there are just those that are
/// wanted. The view is of the cluster once it is raised, and afterwards once that has happened too.
///
/// # Errors
/// Each rule that is broken.
pub(in crate::core) fn legs(
    view: &mut ClusterView,
    version: KubernetesVersion,
    policy: &Policy,
) -> Result<Vec<Plan>, Vec<Refusal>> {
    if !replaces(policy) {
        return Ok(Vec::new());
    }
    let turns = turns(view, &policy.control_planes.nodes)?;
    plans(view, version, turns, policy)
}

/// Who takes whose place, one at a time.
fn turns(view: &ClusterView, wanted: &[String]) -> Result<Vec<Membership>, Vec<Refusal>> {
    let there: Vec<&NodeName> = view
        .nodes
        .iter()
        .filter(|(_, node)| node.object.is_some() && node.is_control_plane())
        .map(|(name, _)| name)
        .collect();
    let machines: Vec<&NodeName> = fresh(view).map(|(name, _)| name).collect();
    let find =
        |among: &[&NodeName], name: &str| among.iter().find(|one| one.as_str() == name).copied().cloned();
    let unknown = |name: &&String| find(&there, name).is_none() && find(&machines, name).is_none();
    let mut refusals: Vec<Refusal> = wanted
        .iter()
        .filter(unknown)
        .map(|name| {
            refused(
                "no-fresh-node",
                format!(
                    "controlPlanes.nodes names {name}, which is neither a control plane ({}) nor a machine that can join: allowed \
                     are those that have not joined and whose agents are connected ({})",
                    listed(&there),
                    listed(&machines)
                ),
            )
        })
        .collect();
    if wanted.len() != there.len() {
        refusals.push(refused(
            RULE,
            format!(
                "controlPlanes.nodes names {} and the cluster has {} ({}): a roll-out changes who they are and not how many, so \
                 name {}",
                wanted.len(),
                there.len(),
                listed(&there),
                there.len()
            ),
        ));
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut leaves: Vec<&NodeName> =
        there.iter().filter(|name| !wanted.iter().any(|one| one == name.as_str())).copied().collect();
    leaves.sort_by_key(|name| (view.coordinator_on.contains(*name), name.as_str()));
    let joins = wanted.iter().filter_map(|name| find(&machines, name));
    let turn = |(join, leave): (NodeName, &NodeName)| Membership {
        joins: vec![join],
        leaves: vec![leave.clone()],
        empties: Vec::new(),
    };
    Ok(joins.zip(leaves).map(turn).collect())
}

#[cfg(test)]
mod tests;
