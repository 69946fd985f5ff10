//! Nodes that do not stay: other machines join at the version, and they leave. This file is about workers,
//! [`control_planes`] about the others.
//!
//! The control planes are raised as ever, stop by stop, while workers stay at what they run, as far as the kubelet's skew
//! allows. Then the path goes on with plans at the target by which some machines join and as many workers leave. Who takes
//! whose place is decided when the path is made: workers in the order in which they would be raised, machines by name or as
//! they were given. A machine that has left may take the next worker's place.
//!
//! With [`Strategy::BlueGreen`] all machines join and all pods are moved by one plan, and all workers leave by the next, once
//! that was looked at for a while: until then everything can go back.

use std::collections::{BTreeSet, VecDeque};

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, PlannedNode, Policy, Role};
use liftlock_proto::step::Step;
use liftlock_proto::strategy::Strategy;
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Share, Workers};

use crate::core::blocked;
use crate::core::gates::situation::{Candidate, Situation};
use crate::core::membership::Membership;
use crate::core::planning::{Refusal, seal};
use crate::core::pools::Arrangement;
use crate::core::replacement::{actor, etcd, fresh, new_node, others, refused};
use crate::core::sequence::{
    empty, end_memberships, join, keep_a_snapshot, leave, prepare_to_join, with_switched_repository,
};
use crate::core::view::{ClusterView, NodeObject, NodeView};

pub(super) mod control_planes;

/// The rule by which a strategy is refused.
const RULE: &str = "strategy";

/// Whether workers leave in the place of being raised.
pub(super) fn replaces_workers(policy: &Policy) -> bool {
    !policy.workers.strategy.is_in_place()
}

/// The workers that are in the cluster.
pub(super) fn workers(view: &ClusterView) -> BTreeSet<NodeName> {
    let workers = view.nodes.iter().filter(|(_, node)| node.object.is_some() && !node.is_control_plane());
    workers.map(|(name, _)| name.clone()).collect()
}

/// Why a path over this version, at which every node has to stop, is none for workers that are replaced at its end.
pub(super) fn passes_a_required_stop(version: KubernetesVersion, policy: &Policy) -> Refusal {
    refused(
        RULE,
        format!(
            "the catalogue requires every node to stop at {version}, and with workers.strategy {} workers stay behind until the last stop: raise the cluster to {version} first",
            policy.workers.strategy
        ),
    )
}

/// What of a policy makes no sense, whatever the cluster.
pub(super) fn policy_rules(policy: &Policy) -> Vec<Refusal> {
    let workers = &policy.workers;
    let strategy = workers.strategy;
    let without = |field: &str, allowed: &str| {
        refused(
            RULE,
            format!(
                "workers.{field} says nothing where workers.strategy is {strategy}: leave it out, or give {allowed}"
            ),
        )
    };
    let mut refusals = control_planes::policy_rules(policy);
    if workers.max_surge.is_some() && strategy != Strategy::Surge {
        refusals.push(without("maxSurge", "strategy surge"));
    }
    if let Some(share) = workers.max_surge.filter(|share| !share.is_valid()) {
        refusals.push(refused(
            RULE,
            format!(
                "maxSurge {share} lets no machine join: allowed are a number from 1, or \"1%\" to \"100%\""
            ),
        ));
    }
    if workers.soak_seconds.is_some() && strategy != Strategy::BlueGreen {
        refusals.push(without("soakSeconds", "strategy blue-green"));
    }
    if strategy.is_in_place() {
        if !workers.with.is_empty() {
            refusals.push(without("with", "strategy surge or blue-green"));
        }
        return refusals;
    }
    let in_place = [
        ("maxUnavailable", workers.max_unavailable.is_some()),
        ("failureBudget", workers.failure_budget > 0),
        ("canary", workers.canary.is_some()),
        ("pools[].maxUnavailable", workers.pools.iter().any(|pool| pool.max_unavailable.is_some())),
        ("pools[].canary", workers.pools.iter().any(|pool| pool.canary.is_some())),
        ("pools[].pauseAfter", workers.pools.iter().any(|pool| pool.pause_after)),
    ];
    refusals.extend(
        in_place
            .into_iter()
            .filter(|(_, given)| *given)
            .map(|(field, _)| without(field, "strategy in-place")),
    );
    let skips = policy.on_blocked == OnBlocked::Skip
        || workers.nodes.iter().any(|node| node.on_blocked == OnBlocked::Skip)
        || workers.pools.iter().any(|pool| pool.on_blocked == Some(OnBlocked::Skip));
    let redeploys = policy.redeploy.then_some("redeploy replaces the system of a worker that stays");
    let skips = skips.then_some("onBlocked skip passes over a worker whose place is taken by then");
    refusals.extend([redeploys, skips].into_iter().flatten().map(|why| {
        refused(
            RULE,
            format!("{why}, and workers.strategy is {strategy}: leave it out, or give strategy in-place"),
        )
    }));
    let mut named = BTreeSet::new();
    if let Some(twice) = workers.with.iter().find(|name| !named.insert(name.as_str())) {
        refusals.push(refused(
            RULE,
            format!("workers.with names {twice} twice, and a machine joins once: name it once"),
        ));
    }
    refusals
}

/// The plans by which other machines take the workers' places, the first one first; none where every worker runs the version.
/// The view is of the cluster once its control planes are raised.
///
/// # Errors
/// Each rule that is broken.
pub(super) fn legs(
    view: &ClusterView,
    version: KubernetesVersion,
    policy: &Policy,
) -> Result<Vec<Plan>, Vec<Refusal>> {
    let old = to_replace(view, version, &policy.workers);
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let turns = turns(&old, machines(view, &old, &policy.workers)?, &policy.workers);
    plans(&mut view.clone(), version, turns, policy)
}

/// The plans by which these come and go, one turn after the other; the view is afterwards as it will be then.
///
/// # Errors
/// Each rule that is broken, once.
fn plans(
    view: &mut ClusterView,
    version: KubernetesVersion,
    turns: Vec<Membership>,
    policy: &Policy,
) -> Result<Vec<Plan>, Vec<Refusal>> {
    let (mut plans, mut refusals) = (Vec::new(), Vec::<Refusal>::new());
    for turn in turns {
        match plan(view, version, &turn, policy) {
            Ok(plan) => plans.push(plan),
            Err(found) => {
                let news: Vec<Refusal> = found.into_iter().filter(|one| !refusals.contains(one)).collect();
                refusals.extend(news);
            }
        }
        take_places(view, version, &turn);
    }
    if refusals.is_empty() { Ok(plans) } else { Err(refusals) }
}

/// The workers that do not run the version, in the order in which they would be raised.
fn to_replace(view: &ClusterView, version: KubernetesVersion, workers: &Workers) -> Vec<NodeName> {
    let situation = Situation::new(view, version);
    let arrangement = Arrangement::of(&situation, workers);
    let goes =
        |node: &&Candidate<'_>| !node.control_plane() && node.object().is_some() && situation.raises(node);
    let mut old: Vec<&Candidate<'_>> = situation.nodes().filter(goes).collect();
    old.sort_by_key(|node| arrangement.rank(node.name));
    old.into_iter().map(|node| node.name.clone()).collect()
}

/// Those that would be allowed, for a refusal.
fn listed(names: &[&NodeName]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The machines that take their places, in order: as they were given, or as many as there are workers, by name.
fn machines(view: &ClusterView, old: &[NodeName], workers: &Workers) -> Result<Vec<NodeName>, Vec<Refusal>> {
    let there: Vec<&NodeName> = fresh(view).map(|(name, _)| name).collect();
    let listed = listed(&there);
    let strategy = workers.strategy;
    let unknown = |name: &&String| !there.iter().any(|fresh| fresh.as_str() == name.as_str());
    let refusals: Vec<Refusal> = workers
        .with
        .iter()
        .filter(unknown)
        .map(|name| {
            refused(
                "no-fresh-node",
                format!(
                    "workers.with names {name}, which is no machine that can join: allowed are those that have not joined and \
                     whose agents are connected ({listed})"
                ),
            )
        })
        .collect();
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let given: Vec<NodeName> = if workers.with.is_empty() {
        there.into_iter().take(old.len()).cloned().collect()
    } else {
        let fresh =
            |name: &String| there.iter().find(|fresh| fresh.as_str() == name.as_str()).copied().cloned();
        workers.with.iter().filter_map(fresh).collect()
    };
    // All stand side by side until the old ones leave; a surge goes on with those that have left.
    let needed = if strategy == Strategy::BlueGreen && workers.with.is_empty() { old.len() } else { 1 };
    if given.len() >= needed {
        return Ok(given);
    }
    let names: Vec<&str> = old.iter().map(NodeName::as_str).collect();
    let are_needed = if needed == 1 {
        "one machine is needed that has"
    } else {
        &format!("{needed} machines are needed that have")
    };
    let fewer =
        if needed == 1 { "" } else { "; or say with workers.with which fewer have room for all pods" };
    Err(vec![refused(
        "no-fresh-node",
        format!(
            "to take the places of {}, {are_needed} not joined, with kubeadm, kubelet and kubectl installed and an \
             agent that is enrolled and connected (`liftlock token create --node NAME`); there are {}: {listed}{fewer}",
            names.join(", "),
            given.len()
        ),
    )])
}

/// Who comes and goes together, plan by plan.
fn turns(old: &[NodeName], machines: Vec<NodeName>, workers: &Workers) -> Vec<Membership> {
    if workers.strategy == Strategy::BlueGreen {
        let moves = Membership { joins: machines, empties: old.to_vec(), leaves: Vec::new() };
        return vec![moves, Membership { leaves: old.to_vec(), ..Membership::default() }];
    }
    let at_most = workers.max_surge.unwrap_or(Share::Nodes(1)).of(old.len());
    let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
    let (mut machines, mut old): (VecDeque<NodeName>, VecDeque<NodeName>) =
        (machines.into(), old.iter().cloned().collect());
    let mut turns = Vec::new();
    while !old.is_empty() {
        let together = at_most.min(machines.len()).min(old.len());
        if together == 0 {
            break;
        }
        let joins: Vec<NodeName> = machines.drain(..together).collect();
        let leaves: Vec<NodeName> = old.drain(..together).collect();
        machines.extend(leaves.iter().cloned());
        turns.push(Membership { joins, leaves, empties: Vec::new() });
    }
    turns
}

/// The plan by which these come and go, at the version that the cluster runs.
///
/// # Errors
/// Each rule that is broken.
pub fn plan(
    view: &ClusterView,
    version: KubernetesVersion,
    turn: &Membership,
    policy: &Policy,
) -> Result<Plan, Vec<Refusal>> {
    let Some(cluster) = &view.cluster else {
        return Err(vec![refused("no-control-plane", "no control plane has reported its cluster yet")]);
    };
    let going: Vec<NodeName> = turn.empties.iter().chain(&turn.leaves).cloned().collect();
    let role = role(view, &going);
    let mut refusals: Vec<Refusal> =
        turn.joins.iter().filter_map(|name| new_node(view, version, name, None)).collect();
    if let Some(old) = going.first().filter(|_| role.is_control_plane()) {
        refusals.extend(etcd(cluster, old, true));
    }
    refusals.extend(going.iter().filter_map(|name| cannot_leave(view, name)));
    refusals.extend(others(view, cluster, version, &going));
    let coming_and_going: Vec<&NodeName> = turn.joins.iter().chain(&going).collect();
    let Some(actor) = actor(view, &coming_and_going) else {
        refusals.push(refused(
            "no-other-control-plane",
            "nobody could let machines join and end memberships: that takes a control plane with an agent that is connected \
             and reaches its API server",
        ));
        return Err(refusals);
    };
    if !refusals.is_empty() {
        return Err(refusals);
    }
    seal(version, version, nodes(view, version, turn, role, actor, policy), policy.clone(), Vec::new())
        .map_err(|error| vec![refused("unreadable-plan", format!("the plan cannot be named: {error}"))])
}

/// What those are who go, and so what those become who come.
fn role(view: &ClusterView, going: &[NodeName]) -> Role {
    let any = going.iter().any(|name| view.nodes.get(name).is_some_and(NodeView::is_control_plane));
    if any { Role::ControlPlane } else { Role::Worker }
}

/// In the order of leases: nobody leaves before everybody has joined.
fn nodes(
    view: &ClusterView,
    version: KubernetesVersion,
    turn: &Membership,
    role: Role,
    actor: &NodeName,
    policy: &Policy,
) -> Vec<PlannedNode> {
    let planned = |name: &NodeName, role, prepare, mut steps: Vec<Step>| {
        let agent = view.nodes.get(name).and_then(|node| node.agent.as_ref());
        let packages = agent.map(|agent| agent.packages.clone()).unwrap_or_default();
        if packages.split_by_minor && steps.iter().any(|step| matches!(step, Step::InstallKubeadm { .. })) {
            steps = with_switched_repository(steps, version);
        }
        PlannedNode { name: name.clone(), role, place: None, prepare, steps, packages }
    };
    let situation = Situation::new(view, version);
    let going = |name: &NodeName, steps| {
        let word = situation.nodes().find(|node| node.name == name);
        let word = word.map(|node| blocked::on_blocked(policy, None, node)).unwrap_or_default();
        // Its place is taken by then: it is not passed over.
        let word = if word == OnBlocked::Skip { OnBlocked::Pause } else { word };
        planned(name, role, Vec::new(), blocked::decided(steps, word))
    };
    let joins = turn
        .joins
        .iter()
        .map(|name| planned(name, role, prepare_to_join(version), join(role, version, policy)));
    let empties = turn.empties.iter().map(|name| going(name, empty(policy)));
    let leaves = turn.leaves.iter().map(|name| going(name, leave(role, policy)));
    let ends = end_memberships(&turn.leaves, role, true);
    let by_actor = |steps| planned(actor, Role::ControlPlane, Vec::new(), steps);
    let mut nodes: Vec<PlannedNode> = joins.chain(empties).chain(leaves).collect();
    if turn.leaves.is_empty() {
        nodes.insert(0, by_actor(keep_a_snapshot()));
    } else {
        nodes.push(by_actor(ends));
    }
    nodes
}

/// What speaks against a node's leaving: it drains and resets itself.
fn cannot_leave(view: &ClusterView, name: &NodeName) -> Option<Refusal> {
    let node = view.nodes.get(name);
    if node.is_none_or(|node| node.object.is_none()) {
        return Some(refused(
            "no-such-node",
            format!("the cluster has no Node {name}: see `liftlock nodes`"),
        ));
    }
    let agent = node.and_then(|node| node.agent.as_ref());
    agent.is_none_or(|agent| !agent.connected || agent.not_joined).then(|| {
        refused(
            "agent-not-connected",
            format!(
                "{name} is to leave and its agent is not connected, so nobody can drain and reset it: look at `systemctl status \
                 liftlock-agent` there; one that is gone for good is replaced with `liftlock replace {name} --with MACHINE`"
            ),
        )
    })
}

/// The cluster as it will be once these have come and gone.
fn take_places(view: &mut ClusterView, version: KubernetesVersion, turn: &Membership) {
    let control_plane = role(view, &turn.leaves).is_control_plane();
    for name in &turn.joins {
        let Some(node) = view.nodes.get_mut(name) else { continue };
        if let Some(agent) = &mut node.agent {
            agent.not_joined = false;
            agent.control_plane = control_plane;
            agent.control_plane_version = control_plane.then_some(version);
        }
        node.object = Some(NodeObject {
            kubelet_version: Some(version),
            control_plane,
            ready: true,
            unschedulable: false,
            tainted: false,
            container_runtime: String::new(),
            zone: None,
            labels: None,
            on_blocked: None,
        });
    }
    for name in &turn.leaves {
        let Some(node) = view.nodes.get_mut(name) else { continue };
        node.object = None;
        if let Some(agent) = &mut node.agent {
            agent.not_joined = true;
            agent.control_plane = false;
            agent.control_plane_version = None;
        }
    }
}

#[cfg(test)]
mod tests;
