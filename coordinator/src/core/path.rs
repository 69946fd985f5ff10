//! A path: one plan for each stop on the way to a target of any distance.
//!
//! kubeadm raises one minor at a time, so each minor between is a stop: at the newest of its patch releases that every
//! node's package repositories offer. The first plan is made from the cluster as it is, each later one from the cluster
//! as it will be once the one before is raised.

use std::collections::BTreeSet;

use liftlock_proto::plan::{Plan, Policy};
use liftlock_proto::version::KubernetesVersion;

use crate::core::planning::{Refusal, is_sealed, kubelet_skew, make_plan};
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
    let mut view = view.clone();
    let (mut plans, mut refusals) = (Vec::new(), Vec::<Refusal>::new());
    let mut told = BTreeSet::new();
    for (number, stop) in (1..).zip(stops) {
        let version = match stop.version(&view) {
            Ok(version) => version,
            Err(refusal) => {
                refusals.push(refusal);
                break;
            }
        };
        match make_plan(&view, version, policy) {
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
        raise(&mut view, version);
    }
    if refusals.is_empty() {
        let mut plans = plans.into_iter();
        if let Some(first) = plans.next() {
            return Ok(Path { first, onward: plans.collect() });
        }
    }
    Err(refusals)
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
    let next = present.minor.saturating_add(1);
    let control_plane = node.agent.as_ref().and_then(|agent| agent.control_plane_version);
    let kubelet = node.object.as_ref().and_then(|object| object.kubelet_version);
    control_plane.is_some_and(|version| version.minor < present.minor)
        || kubelet.is_some_and(|version| next.saturating_sub(version.minor) > kubelet_skew(version))
}

impl Halt {
    /// The version to raise to there.
    fn version(self, view: &ClusterView) -> Result<KubernetesVersion, Refusal> {
        match self {
            Self::At(version) => Ok(version),
            Self::Within { minor, target } => {
                newest_for_all(view, minor).ok_or_else(|| no_stop(view, minor, target))
            }
        }
    }
}

/// The newest release of a minor that every node's repositories offer.
fn newest_for_all(view: &ClusterView, minor: KubernetesVersion) -> Option<KubernetesVersion> {
    offers(view, minor).map(|(_, offered)| offered).reduce(|all, offered| &all & &offered)?.last().copied()
}

/// What each node's repositories offer of a minor.
fn offers(
    view: &ClusterView,
    minor: KubernetesVersion,
) -> impl Iterator<Item = (&str, BTreeSet<KubernetesVersion>)> {
    view.nodes.iter().filter_map(move |(name, node)| {
        let offered = node.agent.as_ref()?.offered.iter().copied();
        Some((name.as_str(), offered.filter(|version| version.minor == minor.minor).collect()))
    })
}

fn no_stop(view: &ClusterView, minor: KubernetesVersion, target: KubernetesVersion) -> Refusal {
    let minor_name = minor.minor_name();
    let without: Vec<&str> =
        offers(view, minor).filter(|(_, offered)| offered.is_empty()).map(|(name, _)| name).collect();
    let why = if without.is_empty() {
        let each: Vec<String> = offers(view, minor)
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

/// The cluster as it will be once every node is raised.
fn raise(view: &mut ClusterView, version: KubernetesVersion) {
    if let Some(cluster) = &mut view.cluster {
        cluster.kubeadm_config_version = version;
    }
    for node in view.nodes.values_mut() {
        let object = node.object.as_mut();
        let control_plane = object.as_ref().is_some_and(|object| object.control_plane);
        if let Some(object) = object {
            object.kubelet_version = object.kubelet_version.map(|_| version);
        }
        if let Some(agent) = &mut node.agent
            && (agent.control_plane || control_plane)
        {
            agent.control_plane_version = Some(version);
            // kubeadm makes the manifests anew.
            agent.drift.clear();
        }
    }
}

#[cfg(test)]
mod tests;
