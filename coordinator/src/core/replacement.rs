//! A plan in which one machine takes the place of another: who joins, who leaves, and who ends the leaver's membership.
//!
//! The new node comes first, so that there is never one too few. With etcd that holds as long as every member is well: three
//! members become four, whose quorum is three, and three of them go on being well whatever becomes of the fourth. A member
//! that is dead counts for the quorum all the same: of three, two are left, and a fourth that has not started yet would
//! have the two agree for three, so the dead one goes first
//! (<https://etcd.io/docs/v3.5/faq/#should-i-add-a-member-before-removing-an-unhealthy-member>).
//!
//! A node drains and resets itself, under a lease of its own. What needs the administrator's credentials, its member of etcd
//! and its Node, a control plane ends that stays, under another.

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, PlannedNode, Policy, Replacement, Role};
use liftlock_proto::strategy::Part;
use liftlock_proto::version::KubernetesVersion;

use crate::core::membership::Membership;
use crate::core::planning::{Refusal, seal};
use crate::core::sequence::{
    API_OUTAGE, DRAIN_ONLY_NODE, end_memberships, join, leave, prepare_to_join, with_switched_repository,
};
use crate::core::view::{AgentView, ClusterView, ControlPlaneReport, Etcd, NodeView};

/// The consent that a node needs whose agent nobody hears: its machine is off for good, or its pods may go on running.
pub const NODE_IS_GONE: &str = "node-is-gone";

/// What can be consented to where a node is replaced.
pub const CONSENTS: [&str; 3] = [API_OUTAGE, DRAIN_ONLY_NODE, NODE_IS_GONE];

/// The parts that nodes have in a replacement.
struct Parts<'a> {
    cluster: &'a ControlPlaneReport,
    old: &'a NodeView,
    /// Its agent is there to drain and to reset it.
    answers: bool,
    actor: &'a NodeName,
}

/// The plan in which one machine takes the place of another, at the version that the cluster runs.
///
/// # Errors
/// Each rule that is broken and was not consented to.
pub fn plan(
    view: &ClusterView,
    target: KubernetesVersion,
    replacement: &Replacement,
    policy: &Policy,
) -> Result<Plan, Vec<Refusal>> {
    let mut refusals = unknown_consents(policy);
    let parts = parts(view, target, replacement, &mut refusals);
    refusals.retain(|refusal| !(refusal.acceptable && policy.accepts(refusal.rule)));
    let Some(parts) = parts.filter(|_| refusals.is_empty()) else { return Err(refusals) };
    let nodes = nodes(view, &parts, target, replacement, policy);
    seal(target, target, nodes, policy.clone(), Vec::new())
        .map_err(|error| vec![refused("unreadable-plan", format!("the plan cannot be named: {error}"))])
}

/// In the order of leases.
fn nodes(
    view: &ClusterView,
    parts: &Parts<'_>,
    version: KubernetesVersion,
    replacement: &Replacement,
    policy: &Policy,
) -> Vec<PlannedNode> {
    let Replacement { old, with } = replacement;
    let role = if parts.old.is_control_plane() { Role::ControlPlane } else { Role::Worker };
    let packages = |name: &NodeName| {
        let agent = view.nodes.get(name).and_then(|node| node.agent.as_ref());
        agent.map(|agent| agent.packages.clone()).unwrap_or_default()
    };
    let planned = |name: &NodeName, role, prepare, steps| PlannedNode {
        name: name.clone(),
        role,
        place: None,
        prepare,
        steps,
        packages: packages(name),
    };
    let mut joins = join(role, version, policy);
    if packages(with).split_by_minor {
        joins = with_switched_repository(joins, version);
    }
    let new = planned(with, role, prepare_to_join(version), joins);
    let end = end_memberships(std::slice::from_ref(old), role, parts.answers);
    let end = planned(parts.actor, Role::ControlPlane, Vec::new(), end);
    if parts.answers {
        vec![new, planned(old, role, Vec::new(), leave(role, policy)), end]
    } else if role.is_control_plane() || old == with {
        vec![end, new]
    } else {
        vec![new, end]
    }
}

/// Who does what; what speaks against it goes to the refusals.
fn parts<'a>(
    view: &'a ClusterView,
    target: KubernetesVersion,
    replacement: &Replacement,
    refusals: &mut Vec<Refusal>,
) -> Option<Parts<'a>> {
    let Replacement { old, with } = replacement;
    let Some(cluster) = &view.cluster else {
        refusals.push(refused(
            "no-control-plane",
            "no control plane has reported its cluster yet: start liftlock-agent on the control planes and look at \
             `liftlock nodes`",
        ));
        return None;
    };
    refusals.extend(new_node(view, target, with, Some(old)));
    let found = view.nodes.get(old).filter(|node| node.object.is_some());
    let Some(found) = found else {
        refusals
            .push(refused("no-such-node", format!("the cluster has no Node {old}: see `liftlock nodes`")));
        return None;
    };
    let agent = found.agent.as_ref().filter(|agent| agent.connected);
    let answers = agent.is_some_and(|agent| !agent.not_joined);
    if agent.is_none() {
        refusals.push(silent(old, found));
    }
    refusals.extend(others(view, cluster, target, std::slice::from_ref(old)));
    if found.is_control_plane() {
        refusals.extend(etcd(cluster, old, answers));
    }
    let Some(actor) = actor(view, &[old, with]) else {
        refusals.push(refused(
            "no-other-control-plane",
            format!(
                "nobody could let {with} join and end what is left of {old}: that takes a control plane other than {old}, \
                 with an agent that is connected and reaches its API server"
            ),
        ));
        return None;
    };
    Some(Parts { cluster, old: found, answers, actor })
        .filter(|parts| parts.cluster.kubeadm_config_version == target)
}

pub(super) fn refused(rule: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { rule, message: message.into(), acceptable: false }
}

fn unknown_consents(policy: &Policy) -> Vec<Refusal> {
    let unknown = policy.accepted.iter().filter(|name| !CONSENTS.contains(&name.as_str()));
    unknown
        .map(|name| {
            refused(
                "unknown-consent",
                format!(
                    "\"{name}\" is nothing that can be accepted where a node is replaced: those are {}",
                    CONSENTS.join(", ")
                ),
            )
        })
        .collect()
}

/// Agents on machines that have not joined, as far as they are connected.
pub(super) fn fresh(view: &ClusterView) -> impl Iterator<Item = (&NodeName, &AgentView)> {
    let agents = view.nodes.iter().filter_map(|(name, node)| Some((name, node.agent.as_ref()?)));
    agents.filter(|(_, agent)| agent.connected && agent.not_joined)
}

/// What speaks against the machine that is to join.
pub(super) fn new_node(
    view: &ClusterView,
    version: KubernetesVersion,
    with: &NodeName,
    old: Option<&NodeName>,
) -> Option<Refusal> {
    let Some((_, agent)) = fresh(view).find(|(name, _)| *name == with) else {
        let others: Vec<&str> = fresh(view).map(|(name, _)| name.as_str()).collect();
        let others = if others.is_empty() { "there is none".to_owned() } else { others.join(", ") };
        let why = match view.nodes.get(with).and_then(|node| node.agent.as_ref()) {
            None => format!("{with} has no agent"),
            Some(agent) if !agent.connected => format!("{with}'s agent is not connected"),
            Some(_) => format!("{with} is in a cluster already"),
        };
        return Some(refused(
            "no-fresh-node",
            format!(
                "{why}: one machine is needed that has not joined, with kubeadm, kubelet and kubectl installed and an agent \
                 that is enrolled (`liftlock token create --node {with}`); of such machines, {others} connected"
            ),
        ));
    };
    let there = view.nodes.get(with).is_some_and(|node| node.object.is_some());
    if there && old != Some(with) {
        return Some(refused(
            "node-name-taken",
            format!(
                "{with} has not joined, and the cluster has a Node of that name, which an earlier machine has left: replace \
                 that one with `liftlock replace {with} --with {with}`"
            ),
        ));
    }
    (!agent.offered.contains(&version)).then(|| {
        refused(
            "version-not-offered",
            format!(
                "{with}'s package repositories do not offer kubeadm, kubelet and kubectl at {version}, which the cluster \
                 runs: add the repository of {} there",
                version.minor_name()
            ),
        )
    })
}

/// Nobody hears the agent of the node that is to leave.
fn silent(old: &NodeName, node: &NodeView) -> Refusal {
    if node.object.as_ref().is_some_and(|object| object.ready) {
        return refused(
            "agent-not-connected",
            format!(
                "{old} is Ready and its agent is not connected, so nobody can drain and reset it: look at `systemctl status \
                 liftlock-agent` there"
            ),
        );
    }
    Refusal {
        rule: NODE_IS_GONE,
        message: format!(
            "{old} is not Ready and its agent is not connected: its pods may still run there. Where its machine is off for \
             good, say so with --accept {NODE_IS_GONE}"
        ),
        acceptable: true,
    }
}

/// The nodes that stay.
pub(super) fn others(
    view: &ClusterView,
    cluster: &ControlPlaneReport,
    target: KubernetesVersion,
    leaving: &[NodeName],
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let present = cluster.kubeadm_config_version;
    if present != target {
        refusals.push(refused(
            "version",
            format!("a node joins at what the cluster runs, and {target} is not: allowed is {present}"),
        ));
    }
    let own = |node: &NodeView| {
        node.agent.as_ref()?.findings.api_server.as_ref().ok().map(|own| own.address.clone())
    };
    let left = |old: &NodeName| view.nodes.get(old).and_then(own).filter(|address| !address.is_empty());
    let stays = |name: &NodeName| !leaving.contains(name);
    for (name, node) in view.nodes.iter().filter(|(name, node)| stays(name) && node.object.is_some()) {
        if node.object.as_ref().is_some_and(|object| !object.ready) {
            refusals.push(refused(
                "node-not-ready",
                format!(
                    "{name} is not Ready: mend it first, `kubectl describe node {name}` says what is wrong"
                ),
            ));
        }
        let Some(agent) = &node.agent else { continue };
        if let Some(version) = agent.control_plane_version.filter(|version| *version != present) {
            refusals.push(refused(
                "control-plane-behind",
                format!(
                    "{name} runs {version} and kubeadm-config says {present}: end that raise first, `liftlock apply {present}`"
                ),
            ));
        }
        let Ok(server) = &agent.findings.kubelet_api_server else { continue };
        if let Some(old) = leaving.iter().find(|old| left(old).as_ref() == Some(server)) {
            refusals.push(refused(
                "way-in",
                format!(
                    "the kubelet of {name} speaks to {server}, which is {old} itself, and would be cut off: lead the cluster's \
                     controlPlaneEndpoint to a load balancer first"
                ),
            ));
        }
    }
    refusals
}

/// The members that are not well, as the others see them.
fn unwell(etcd: &Etcd) -> impl Iterator<Item = &str> {
    etcd.members
        .iter()
        .filter(|member| member.version.is_empty() || member.learner)
        .map(|member| member.name.as_str())
}

/// What etcd says to a member that comes and one that goes.
pub(super) fn etcd(cluster: &ControlPlaneReport, old: &NodeName, answers: bool) -> Vec<Refusal> {
    let ControlPlaneReport { etcd_members: members, etcd_healthy_members: healthy, .. } = *cluster;
    if members == 0 {
        return vec![refused(
            "external-etcd",
            "etcd does not run on the control planes, and this version of Liftlock replaces control planes with stacked etcd only: \
             replace this one by kubeadm's own steps",
        )];
    }
    let known = match &cluster.findings.etcd {
        Ok(etcd) => etcd,
        Err(why) => {
            let message = format!(
                "nobody can tell how etcd's members are ({why}): mend that first, `etcdctl member list` on a control plane says the \
                 same"
            );
            return vec![refused("quorum", message)];
        }
    };
    let mut refusals = Vec::new();
    for member in unwell(known).filter(|member| answers || *member != old.as_str()) {
        refusals.push(refused(
            "quorum",
            format!(
                "etcd's member {member} is not healthy: all that stay must be, or a member that comes or goes may cost the \
                 quorum; look at `etcdctl endpoint health --cluster`"
            ),
        ));
    }
    let quorum = members / 2 + 1;
    if !answers && healthy < quorum {
        refusals.push(refused(
            "quorum",
            format!(
                "{healthy} of {members} etcd members are healthy, and {quorum} have to be for one to go: etcd has lost its \
                 quorum, and only a restore brings it back (`liftlock etcd restore`)"
            ),
        ));
    }
    if !known.alarms.is_empty() {
        refusals.push(refused(
            "etcd-alarm",
            format!(
                "etcd has raised an alarm ({}): free its space with compaction and defragmentation, then `etcdctl alarm disarm`",
                known.alarms.join(", ")
            ),
        ));
    }
    refusals
}

/// The control plane that ends a membership: the first that stays and can.
pub(super) fn actor<'a>(view: &'a ClusterView, others_than: &[&NodeName]) -> Option<&'a NodeName> {
    let stays = |name: &NodeName| !others_than.contains(&name);
    let can =
        |agent: &AgentView| agent.connected && agent.control_plane && agent.control_plane_version.is_some();
    let found = view
        .nodes
        .iter()
        .find(|(name, node)| stays(name) && node.object.is_some() && node.agent.as_ref().is_some_and(can));
    found.map(|(name, _)| name)
}

/// What holds up a node that was prepared and is due, of a plan by which machines join and leave; it goes on by itself once that
/// is over.
pub fn closed_before(
    view: &ClusterView,
    plan: &Plan,
    planned: &PlannedNode,
    membership: &Membership,
) -> Option<String> {
    let cluster = view.cluster.as_ref()?;
    let unready = view.nodes.iter().find(|(name, node)| {
        // One that joins is there before it is Ready, and one that leaves is there until somebody ends that.
        !membership.names(name) && node.object.as_ref().is_some_and(|object| !object.ready)
    });
    if let Some((name, _)) = unready {
        return Some(format!("{name} is not Ready"));
    }
    if let Some(why) =
        etcd_closed(cluster, plan, planned, membership).or_else(|| servers_closed(view, planned, membership))
    {
        return Some(why);
    }
    if let Some(why) = closed_again(view, planned, membership) {
        return Some(why);
    }
    // One with a lease of its own has proven that it left. Of another an operator has said that it is gone.
    let back = |old: &&NodeName| {
        let agent = view.nodes.get(*old).and_then(|node| node.agent.as_ref());
        plan.nodes.iter().all(|node| node.name != **old)
            && agent.is_some_and(|agent| agent.connected && !agent.not_joined)
    };
    let back = membership.leaves.iter().find(back).filter(|_| planned.part() == Part::End);
    back.map(|old| format!("{old} is in the cluster and its agent answers, so it has not left"))
}

/// What etcd says before a member comes or goes. One that is to leave and is dead holds up nobody but who joins: until it is
/// removed, both would count for the quorum.
fn etcd_closed(
    cluster: &ControlPlaneReport,
    plan: &Plan,
    planned: &PlannedNode,
    membership: &Membership,
) -> Option<String> {
    let changes_members = plan
        .nodes
        .iter()
        .any(|node| node.role.is_control_plane() && matches!(node.part(), Part::Join | Part::Leave));
    let etcd = match &cluster.findings.etcd {
        Ok(etcd) => etcd,
        Err(why) => {
            return changes_members.then(|| format!("nobody can tell how etcd's members are ({why})"));
        }
    };
    let leaves = |member: &str| membership.leaves.iter().any(|old| member == old.as_str());
    let may_be_dead = |member: &str| planned.part() != Part::Join && leaves(member);
    if let Some(member) = unwell(etcd).find(|member| !may_be_dead(member)) {
        return Some(format!("etcd's member {member} is not healthy"));
    }
    (changes_members && !etcd.alarms.is_empty())
        .then(|| format!("etcd has raised an alarm ({})", etcd.alarms.join(", ")))
}

/// Why no control plane's API server is taken away now: one of those that stay does not answer for it.
fn servers_closed(view: &ClusterView, planned: &PlannedNode, membership: &Membership) -> Option<String> {
    if !planned.role.is_control_plane() || planned.part() != Part::Leave {
        return None;
    }
    let stays = view.nodes.iter().filter(|(name, node)| !membership.goes(name) && node.object.is_some());
    let mut servers = stays
        .filter(|(_, node)| node.is_control_plane())
        .filter_map(|(name, node)| Some((name, node.agent.as_ref()?)));
    servers.find_map(|(name, agent)| match &agent.findings.api_server {
        Ok(server) if server.unready.is_empty() => None,
        Ok(server) => Some(format!("the API server of {name} is not ready: {}", server.unready)),
        Err(why) => Some(format!("nobody can tell whether the API server of {name} is ready ({why})")),
    })
}

/// What holds up a node that goes also where it was begun on before, unless it has begun to leave: nobody would take its pods. What else is
/// not well may be the node itself.
pub fn closed_again(view: &ClusterView, planned: &PlannedNode, membership: &Membership) -> Option<String> {
    let moves_pods = matches!(planned.part(), Part::Empty | Part::Leave);
    let mut joins = membership.joins.iter().filter(|_| moves_pods);
    joins.find_map(|with| takes_no_pods(view, with, &planned.name))
}

/// Why pods of a node that goes would not come to a machine that has joined, if that is so.
pub fn takes_no_pods(view: &ClusterView, with: &NodeName, old: &NodeName) -> Option<String> {
    let object = |name: &NodeName| view.nodes.get(name).and_then(|node| node.object.as_ref());
    let Some(new) = object(with) else { return lost(view, with) };
    if !new.ready {
        return Some(format!("{with} has joined and is not Ready"));
    }
    if new.unschedulable {
        return Some(format!(
            "{with} has joined and is cordoned, so no pods of {old} would come to it: `kubectl uncordon {with}`"
        ));
    }
    // For its first seconds a Node that is Ready has the taint of one that is not, and the drain would find nobody who takes
    // the pods.
    let keeps_away = new.tainted && object(old).is_some_and(|old| !old.tainted);
    keeps_away.then(|| {
        format!(
            "{with} has a taint yet that keeps pods away, and {old} has none: where it stays, as that does which kubeadm gives every \
             control plane that joins, `kubectl describe node {with}` shows it, and `kubectl taint` takes it away"
        )
    })
}

/// Why nobody counts on a machine that has joined: somebody has deleted its Node. A kubelet registers it at its start only
/// (`registerWithAPIServer` of `kubelet_node_status.go`).
pub fn lost(view: &ClusterView, with: &NodeName) -> Option<String> {
    let is_there = view.nodes.get(with).is_some_and(|node| node.object.is_some());
    (!is_there).then(|| {
        format!(
            "{with} has joined and its Node is gone, so it takes no pods and nobody leaves for it: `systemctl restart kubelet` there \
             registers it again"
        )
    })
}

#[cfg(test)]
mod tests;
