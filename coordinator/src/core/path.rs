//! A path: one plan for each stop on the way to a target of any distance.
//!
//! kubeadm raises one minor at a time, so each minor between is a stop: at the newest of its patch releases that every
//! node's package repositories offer. The first plan is made from the cluster as it is, each later one from the cluster
//! as it will be once the one before is raised. Workers may stay behind at a stop where the policy says so and the next
//! stop allows it.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, Policy};
use liftlock_proto::version::KubernetesVersion;

use crate::core::planning::{Refusal, is_sealed, make_plan_without, too_old};
use crate::core::view::{ClusterView, NodeView};

/// The plans that lead to a target, one a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// What begins at once.
    pub first: Plan,
    /// What follows, the nearest first.
    pub onward: Vec<Plan>,
}

impl Path {
    /// Every plan, the first one first.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.first).chain(&self.onward)
    }

    /// The plan that leads to the target.
    pub fn last(&self) -> &Plan {
        self.onward.last().unwrap_or(&self.first)
    }

    /// The first plan that is not what its hash says, because it was changed on the way.
    pub fn unsealed(&self) -> Option<&Plan> {
        self.plans().find(|plan| !is_sealed(plan))
    }

    /// Whether it is the same path, plan by plan.
    pub fn is(&self, other: &Self) -> bool {
        self.plans().map(|plan| &plan.hash).eq(other.plans().map(|plan| &plan.hash))
    }
}

/// The path that raises this cluster to the target, or every rule that refuses it. The same view, target and policy give
/// the same path with the same hashes.
///
/// # Errors
/// Each rule that is broken and was not consented to, at the first stop at which it is.
pub fn make_path(
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
) -> Result<Path, Vec<Refusal>> {
    let stops = stops(view, target);
    let of = stops.len();
    let mut after = stops.iter().skip(1).map(|stop| stop.minor());
    let mut view = view.clone();
    let (mut plans, mut refusals) = (Vec::new(), Vec::<Refusal>::new());
    let mut told = BTreeSet::new();
    for (number, stop) in (1..).zip(&stops) {
        let spared = spared(&view, after.next(), policy);
        let version = match stop.version(&view, &spared) {
            Ok(version) => version,
            Err(refusal) => {
                refusals.push(refusal);
                break;
            }
        };
        match make_plan_without(&spared, &view, version, policy) {
            Ok(plan) => plans.push(plan),
            Err(found) => {
                let news = found.into_iter().filter(|refusal| told.insert(refusal.message.clone()));
                refusals.extend(news.map(|refusal| match number {
                    1 => refusal,
                    _ => Refusal {
                        message: format!("at stop {number} of {of}, {version}: {}", refusal.message),
                        ..refusal
                    },
                }));
            }
        }
        raise(&mut view, version, &spared);
    }
    if refusals.is_empty() {
        let mut plans = plans.into_iter();
        if let Some(first) = plans.next() {
            return Ok(Path { first, onward: plans.collect() });
        }
    }
    Err(refusals)
}

/// The plan that leads to one stop of a path, before another one if `after` names it.
///
/// # Errors
/// As [`make_path`].
pub fn make_stop(
    view: &ClusterView,
    version: KubernetesVersion,
    after: Option<KubernetesVersion>,
    policy: &Policy,
) -> Result<Plan, Vec<Refusal>> {
    make_plan_without(&spared(view, after, policy), view, version, policy)
}

/// The workers that stay at what they run, because it is not too old for the stop after this one either.
fn spared(view: &ClusterView, after: Option<KubernetesVersion>, policy: &Policy) -> BTreeSet<NodeName> {
    let Some(after) = after.filter(|_| policy.workers_skip_stops) else { return BTreeSet::new() };
    let stays = |node: &NodeView| {
        let kubelet = node.object.as_ref().and_then(|object| object.kubelet_version);
        !is_control_plane(node) && kubelet.is_some_and(|kubelet| !too_old(kubelet, after))
    };
    view.nodes.iter().filter(|(_, node)| stays(node)).map(|(name, _)| name.clone()).collect()
}

fn is_control_plane(node: &NodeView) -> bool {
    node.agent.as_ref().is_some_and(|agent| agent.control_plane)
        || node.object.as_ref().is_some_and(|object| object.control_plane)
}

/// Where a path stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// At this version: the target, or what the control plane runs already and not every node does.
    At(KubernetesVersion),
    /// At the newest release of this minor that every node can have, on the way to the target.
    Within { minor: KubernetesVersion, target: KubernetesVersion },
}

fn stops(view: &ClusterView, target: KubernetesVersion) -> Vec<Halt> {
    let mut stops = Vec::new();
    if let Some(cluster) = &view.cluster {
        let present = cluster.kubeadm_config_version;
        if target.minor > present.minor && view.nodes.values().any(|node| lags(node, present)) {
            stops.push(Halt::At(present));
        }
        let between = present.minor.saturating_add(1)..target.minor;
        stops.extend(
            between
                .map(|minor| Halt::Within { minor: KubernetesVersion::new(target.major, minor, 0), target }),
        );
    }
    stops.push(Halt::At(target));
    stops
}

/// Whether the next minor would leave a node too far behind: a raise that was begun has to be finished first.
fn lags(node: &NodeView, present: KubernetesVersion) -> bool {
    let next = KubernetesVersion { minor: present.minor.saturating_add(1), ..present };
    let control_plane = node.agent.as_ref().and_then(|agent| agent.control_plane_version);
    let kubelet = node.object.as_ref().and_then(|object| object.kubelet_version);
    control_plane.is_some_and(|version| version.minor < present.minor)
        || kubelet.is_some_and(|version| too_old(version, next))
}

impl Halt {
    /// A version of the minor that it is in.
    fn minor(self) -> KubernetesVersion {
        match self {
            Self::At(version) | Self::Within { minor: version, .. } => version,
        }
    }

    /// The version to raise to there.
    fn version(self, view: &ClusterView, spared: &BTreeSet<NodeName>) -> Result<KubernetesVersion, Refusal> {
        match self {
            Self::At(version) => Ok(version),
            Self::Within { minor, target } => {
                let offers: Vec<Offer<'_>> = offers(view, spared, minor).collect();
                newest_for_all(&offers).ok_or_else(|| no_stop(&offers, minor, target))
            }
        }
    }
}

/// A node, and what its repositories offer of a minor.
type Offer<'a> = (&'a NodeName, BTreeSet<KubernetesVersion>);

/// The newest release that every one of these nodes can have.
fn newest_for_all(offers: &[Offer<'_>]) -> Option<KubernetesVersion> {
    let offered = offers.iter().map(|(_, offered)| offered.clone());
    offered.reduce(|all, offered| &all & &offered)?.last().copied()
}

/// What each node that is to be raised can have of a minor.
fn offers<'a>(
    view: &'a ClusterView,
    spared: &BTreeSet<NodeName>,
    minor: KubernetesVersion,
) -> impl Iterator<Item = Offer<'a>> {
    let nodes = view.nodes.iter().filter(|(name, _)| !spared.contains(*name));
    nodes.filter_map(move |(name, node)| {
        let offered = node.agent.as_ref()?.offered.iter().copied();
        Some((name, offered.filter(|version| version.minor == minor.minor).collect()))
    })
}

fn no_stop(offers: &[Offer<'_>], minor: KubernetesVersion, target: KubernetesVersion) -> Refusal {
    let minor_name = minor.minor_name();
    let without: Vec<&str> =
        offers.iter().filter(|(_, offered)| offered.is_empty()).map(|(name, _)| name.as_str()).collect();
    let why = if without.is_empty() {
        let each: Vec<String> = offers
            .iter()
            .map(|(name, offered)| {
                let offered: Vec<String> = offered.iter().map(ToString::to_string).collect();
                format!("{name} {}", offered.join(", "))
            })
            .collect();
        format!(
            "no release of {minor_name} is offered by every node's package repositories ({}): give all of them the same \
             repository",
            each.join("; ")
        )
    } else {
        format!(
            "the package repositories of {} offer no kubeadm, kubelet and kubectl of {minor_name}: add its repository there",
            without.join(", ")
        )
    };
    Refusal {
        rule: "version-not-offered",
        message: format!(
            "kubeadm raises one minor at a time, so {minor_name} is a stop on the way to {target}, and {why}"
        ),
        acceptable: false,
    }
}

/// The cluster as it will be once every node that is not spared is raised.
fn raise(view: &mut ClusterView, version: KubernetesVersion, spared: &BTreeSet<NodeName>) {
    if let Some(cluster) = &mut view.cluster {
        cluster.kubeadm_config_version = version;
    }
    for (_, node) in view.nodes.iter_mut().filter(|(name, _)| !spared.contains(*name)) {
        let control_plane = is_control_plane(node);
        if let Some(object) = &mut node.object {
            object.kubelet_version = object.kubelet_version.map(|_| version);
        }
        if let Some(agent) = node.agent.as_mut().filter(|_| control_plane) {
            agent.control_plane_version = Some(version);
            // kubeadm makes the manifests anew.
            agent.drift.clear();
        }
    }
}

#[cfg(test)]
mod tests;
