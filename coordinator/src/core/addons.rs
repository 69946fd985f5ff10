//! Add-ons: which manifests a raise to a version ends with, and on which node.

use liftlock_proto::plan::{Plan, PlannedNode};
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;

use crate::core::gates::situation::{Candidate, Situation};
use crate::core::view::Addons;

/// The name of the set that is for the target: that of the release where any control plane has it, else that of the
/// minor. `None` where there is neither, or no control plane is raised.
pub fn set_of(situation: &Situation<'_>) -> Option<String> {
    let raises = situation.to_raise().any(Candidate::control_plane);
    let target = situation.target;
    let names = [target.to_string(), target.minor_name()];
    let there = |name: &String| situation.control_planes().any(|node| addons(node, name).is_some());
    names.into_iter().find(there).filter(|_| raises)
}

/// A control plane's set of this name.
pub fn addons<'a>(node: &Candidate<'a>, name: &str) -> Option<&'a Addons> {
    node.agent()?.findings.addons.as_ref().ok()?.get(name)
}

/// Has the last control plane that is raised apply them, at the end of its lease.
pub fn append(situation: &Situation<'_>, planned: &mut [PlannedNode]) {
    let Some(name) = set_of(situation) else { return };
    let Some(last) = planned.iter_mut().rev().find(|node| node.role.is_control_plane()) else { return };
    let candidate = situation.control_planes().find(|node| *node.name == last.name);
    if let Some(Addons::Whole { digest }) = candidate.and_then(|node| addons(node, &name)) {
        last.steps.push(Step::ApplyAddons { version: situation.target, digest: digest.clone() });
    }
}

/// Which node of a plan applies which add-ons.
pub fn applied_by(plan: &Plan) -> Option<(&PlannedNode, KubernetesVersion, &str)> {
    plan.nodes.iter().find_map(|node| {
        node.steps.iter().find_map(|step| match step {
            Step::ApplyAddons { version, digest } => Some((node, *version, digest.as_str())),
            _ => None,
        })
    })
}
