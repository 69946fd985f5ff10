//! A path: one plan for each stop on the way to a target of any distance.
//!
//! kubeadm raises one minor at a time, so each minor between is a stop: at the newest of its patch releases that every
//! node's package repositories offer and the catalogue approves of. What the catalogue requires is a stop too, and the
//! only one that its minor needs. The first plan is made from the cluster as it is, each later one from the cluster
//! as it will be once the one before is raised. Workers may stay behind at a stop where the policy says so and the next
//! stop allows it.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, Policy};
use liftlock_proto::version::KubernetesVersion;

use crate::core::catalogue::Catalogue;
use crate::core::gates::kubelets::is_too_old;
use crate::core::gates::situation::Situation;
use crate::core::gates::{self, Gate, Verdict};
use crate::core::planning::{Refusal, is_sealed, plan_for};
use crate::core::replacement;
use crate::core::surge;
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

/// The path that raises this cluster to the target, or every rule that refuses it. The same view, target, policy and
/// catalogue give the same path with the same hashes.
///
/// # Errors
/// Each rule that is broken and was not consented to, at the first stop at which it is.
pub fn make_path(
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
    catalogue: &Catalogue,
) -> Result<Path, Vec<Refusal>> {
    if let Some(replacement) = &policy.replacement {
        let plan = replacement::plan(view, target, replacement, policy);
        return plan.map(|first| Path { first, onward: Vec::new() });
    }
    let (mut plans, mut refusals) = (Vec::new(), Vec::new());
    let (mut told, mut nothing) = (BTreeSet::new(), Vec::new());
    let replaces = surge::replaces_workers(policy);
    let anybody = replaces || surge::control_planes::replaces(policy);
    for approach in approaches(view, target, policy, catalogue) {
        if let Some(refusal) = approach.missing {
            refusals.push(refusal);
            break;
        }
        match plan_for(&approach.situation(), policy) {
            Ok(plan) => plans.push(plan),
            // Everybody who stays is raised already, and others may have to be replaced.
            Err(found) if anybody && found.iter().all(Refusal::is_nothing_to_do) => nothing = found,
            Err(found) => {
                let news = found.into_iter().filter(|refusal| told.insert(refusal.message.clone()));
                let told = |refusal: Refusal| Refusal { message: approach.says(refusal.message), ..refusal };
                refusals.extend(news.map(told));
            }
        }
    }
    if anybody && refusals.is_empty() {
        let mut reached = view.clone();
        raise(&mut reached, target, &if replaces { surge::workers(view) } else { BTreeSet::new() });
        plans.extend(surge::control_planes::legs(&mut reached, target, policy)?);
        if replaces {
            plans.extend(surge::legs(&reached, target, policy)?);
        }
    }
    if refusals.is_empty() {
        if plans.is_empty() {
            return Err(nothing);
        }
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
    catalogue: &Catalogue,
) -> Result<Plan, Vec<Refusal>> {
    let all = catalogue.requires(version) && !surge::replaces_workers(policy);
    let spared = if all { BTreeSet::new() } else { spared(view, after, policy) };
    plan_for(&Situation::new(view, version).sparing(&spared).under(catalogue), policy)
}

/// Every gate, and what became of it and what it found at each stop on the way to a target.
pub fn gates_on_the_way(
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
    catalogue: &Catalogue,
) -> Vec<(&'static Gate, Verdict, Vec<String>)> {
    let approaches = approaches(view, target, policy, catalogue);
    let situations: Vec<_> = approaches.iter().map(|approach| (approach, approach.situation())).collect();
    let on_the_way = |gate: &'static Gate| {
        let (mut worst, mut messages) = (Verdict::Passed, Vec::new());
        let mut told = BTreeSet::new();
        for (approach, situation) in &situations {
            if let Some(refusal) = approach.missing.as_ref().filter(|refusal| refusal.rule == gate.name) {
                worst = Verdict::Refused;
                messages.push(refusal.message.clone());
                continue;
            }
            let (verdict, found) = gate.verdict(situation, policy);
            worst = worst.max(verdict);
            let news = found.into_iter().filter(|message| told.insert(message.clone()));
            messages.extend(news.map(|message| approach.says(message)));
        }
        (gate, worst, messages)
    };
    gates::all().map(on_the_way).collect()
}

/// The workers that stay at what they run, because it is not too old for the stop after this one either.
fn spared(view: &ClusterView, after: Option<KubernetesVersion>, policy: &Policy) -> BTreeSet<NodeName> {
    if surge::replaces_workers(policy) {
        return surge::workers(view);
    }
    let Some(after) = after.filter(|_| policy.workers_skip_stops) else { return BTreeSet::new() };
    let stays = |node: &NodeView| {
        !node.is_control_plane() && node.kubelet_version().is_some_and(|kubelet| !is_too_old(kubelet, after))
    };
    view.nodes.iter().filter(|(_, node)| stays(node)).map(|(name, _)| name.clone()).collect()
}

/// What leads up to a stop: the cluster as it will be once the stop before is reached.
struct Approach<'a> {
    view: ClusterView,
    catalogue: &'a Catalogue,
    spared: BTreeSet<NodeName>,
    /// To be raised to there.
    version: KubernetesVersion,
    /// Why no release of its minor can be had; the version is then the minor's first.
    missing: Option<Refusal>,
    /// Which stop it is, counted from 1.
    number: usize,
    /// How many there are on the path.
    of: usize,
}

impl Approach<'_> {
    fn situation(&self) -> Situation<'_> {
        let situation = Situation::new(&self.view, self.version).sparing(&self.spared).under(self.catalogue);
        if self.number == 1 { situation } else { situation.ahead() }
    }

    /// What was found there, with the stop where that is a later one.
    fn says(&self, message: String) -> String {
        match self.number {
            1 => message,
            number => format!("at stop {number} of {}, {}: {message}", self.of, self.version),
        }
    }
}

/// One for each stop on the way to a target, up to the first that cannot be had.
fn approaches<'a>(
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
    catalogue: &'a Catalogue,
) -> Vec<Approach<'a>> {
    let replaces = surge::replaces_workers(policy);
    let halts = halts(view, target, catalogue, replaces);
    let of = halts.len();
    let mut next = halts.iter().skip(1).map(|halt| halt.minor());
    let mut view = view.clone();
    let mut approaches = Vec::new();
    for (number, halt) in (1..).zip(&halts) {
        let after = next.next().filter(|_| !halt.is_required(catalogue));
        let spared = spared(&view, after, policy);
        let passed = halt.is_required(catalogue) && replaces && halt.minor() != target && !spared.is_empty();
        let (version, missing) = match halt.version(&view, &spared, catalogue) {
            Ok(version) => (version, None),
            Err(refusal) => (halt.minor(), Some(refusal)),
        };
        let missing = missing.or_else(|| passed.then(|| surge::passes_a_required_stop(version, policy)));
        let last = missing.is_some();
        let mut reached = view.clone();
        raise(&mut reached, version, &spared);
        approaches.push(Approach { view, catalogue, spared, version, missing, number, of });
        if last {
            break;
        }
        view = reached;
    }
    approaches
}

/// Where a path stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// At this version: the target, what the catalogue requires, or what the control plane runs already and not every
    /// node does.
    At(KubernetesVersion),
    /// At the newest approved release of this minor that every node can have, on the way to the target.
    Within { minor: KubernetesVersion, target: KubernetesVersion },
}

fn halts(
    view: &ClusterView,
    target: KubernetesVersion,
    catalogue: &Catalogue,
    replaces_workers: bool,
) -> Vec<Halt> {
    let mut halts = Vec::new();
    if let Some(cluster) = &view.cluster {
        let present = cluster.kubeadm_config_version;
        for minor in present.minor..=target.minor {
            let required = catalogue.required_between(present, target);
            let required = required.filter(|version| version.minor == minor).map(Halt::At);
            let before = halts.len();
            halts.extend(required);
            if halts.len() == before && present.minor < minor && minor < target.minor {
                halts.push(Halt::Within { minor: KubernetesVersion::new(target.major, minor, 0), target });
            }
        }
        let next = halts.first().map_or(target, |halt| halt.minor());
        let behind = |node: &NodeView| {
            (next.minor > present.minor && lags(node, present))
                || (next > present && catalogue.requires(present) && is_behind(node, present))
        };
        // Workers that are replaced are raised nowhere.
        if view.nodes.values().filter(|node| !replaces_workers || node.is_control_plane()).any(behind) {
            halts.insert(0, Halt::At(present));
        }
    }
    halts.push(Halt::At(target));
    halts
}

/// Whether the next minor would leave a node too far behind: a raise that was begun has to be finished first.
fn lags(node: &NodeView, present: KubernetesVersion) -> bool {
    let next = KubernetesVersion { minor: present.minor.saturating_add(1), ..present };
    let control_plane = node.agent.as_ref().and_then(|agent| agent.control_plane_version);
    control_plane.is_some_and(|version| version.minor < present.minor)
        || node.kubelet_version().is_some_and(|version| is_too_old(version, next))
}

/// Whether anything of a node is older than what the control plane runs.
fn is_behind(node: &NodeView, present: KubernetesVersion) -> bool {
    let control_plane = node.agent.as_ref().and_then(|agent| agent.control_plane_version);
    control_plane.into_iter().chain(node.kubelet_version()).any(|version| version < present)
}

impl Halt {
    /// Whether the catalogue wants every node to stop there.
    fn is_required(self, catalogue: &Catalogue) -> bool {
        matches!(self, Self::At(version) if catalogue.requires(version))
    }

    /// A version of the minor that it is in.
    fn minor(self) -> KubernetesVersion {
        match self {
            Self::At(version) | Self::Within { minor: version, .. } => version,
        }
    }

    /// The version to raise to there.
    fn version(
        self,
        view: &ClusterView,
        spared: &BTreeSet<NodeName>,
        catalogue: &Catalogue,
    ) -> Result<KubernetesVersion, Refusal> {
        match self {
            Self::At(version) => Ok(version),
            Self::Within { minor, target } => {
                let offers: Vec<Offer<'_>> = offers(view, spared, minor).collect();
                let for_all = for_all(&offers);
                let approved = for_all.iter().rev().find(|version| catalogue.allows(**version)).copied();
                approved.ok_or_else(|| {
                    if for_all.is_empty() {
                        no_stop(&offers, minor, target)
                    } else {
                        no_approved_stop(&for_all, catalogue, minor, target)
                    }
                })
            }
        }
    }
}

/// A node, and what its repositories offer of a minor.
type Offer<'a> = (&'a NodeName, BTreeSet<KubernetesVersion>);

/// The releases that every one of these nodes can have.
fn for_all(offers: &[Offer<'_>]) -> BTreeSet<KubernetesVersion> {
    let offered = offers.iter().map(|(_, offered)| offered.clone());
    offered.reduce(|all, offered| &all & &offered).unwrap_or_default()
}

/// What each node that is to be raised can have of a minor.
fn offers<'a>(
    view: &'a ClusterView,
    spared: &BTreeSet<NodeName>,
    minor: KubernetesVersion,
) -> impl Iterator<Item = Offer<'a>> {
    let nodes = view.nodes.iter().filter(|(name, node)| !spared.contains(*name) && !node.is_fresh());
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
            .map(|(name, offered)| format!("{name} {}", listed(offered.iter().copied())))
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

fn no_approved_stop(
    for_all: &BTreeSet<KubernetesVersion>,
    catalogue: &Catalogue,
    minor: KubernetesVersion,
    target: KubernetesVersion,
) -> Refusal {
    let minor_name = minor.minor_name();
    let approved = listed(catalogue.approved().filter(|version| version.minor == minor.minor));
    let what_to_do = if approved.is_empty() {
        format!("it approves of no release of {minor_name}: have one approved")
    } else {
        format!("it approves of {approved}: add the repository with that one on every node")
    };
    Refusal {
        rule: "off-catalogue",
        message: format!(
            "kubeadm raises one minor at a time, so {minor_name} is a stop on the way to {target}, and the catalogue \
             approves of none of its releases that every node's package repositories offer ({}); {what_to_do}",
            listed(for_all.iter().copied())
        ),
        acceptable: false,
    }
}

/// `v1.20.2, v1.20.5`
fn listed(versions: impl Iterator<Item = KubernetesVersion>) -> String {
    versions.map(|version| version.to_string()).collect::<Vec<_>>().join(", ")
}

/// The cluster as it will be once every node that is not spared is raised. What nobody can know before stays what it is
/// today: it is looked at again when the stop is reached.
fn raise(view: &mut ClusterView, version: KubernetesVersion, spared: &BTreeSet<NodeName>) {
    if let Some(cluster) = &mut view.cluster {
        cluster.kubeadm_config_version = version;
    }
    for (_, node) in view.nodes.iter_mut().filter(|(name, _)| !spared.contains(*name)) {
        let control_plane = node.is_control_plane();
        if let Some(object) = &mut node.object {
            object.kubelet_version = object.kubelet_version.map(|_| version);
        }
        if let Some(agent) = node.agent.as_mut().filter(|_| control_plane) {
            agent.control_plane_version = Some(version);
            // kubeadm makes the manifests anew.
            agent.drift = Ok(Vec::new());
        }
    }
}

#[cfg(test)]
mod tests;
