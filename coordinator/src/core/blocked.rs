//! What follows when a worker cannot be drained: whose word counts, and what is no word at all.

use std::collections::BTreeSet;

use liftlock_proto::blocked::{NodePolicy, ON_BLOCKED, OnBlocked};
use liftlock_proto::plan::{PlannedNode, Policy};
use liftlock_proto::step::Step;

use crate::core::gates::situation::{Candidate, Situation};
use crate::core::planning::Refusal;

/// The rule by which a plan is refused.
const RULE: &str = "on-blocked";

/// What follows on this node. The nearest word counts: the plan's for the node by name, the Node's annotation, that of
/// its pool, the plan's for all. A control plane is never passed over and its pods are never deleted: others rely on it.
pub fn on_blocked(policy: &Policy, pool: Option<OnBlocked>, node: &Candidate<'_>) -> OnBlocked {
    if node.control_plane() {
        return OnBlocked::Pause;
    }
    let named = policy.workers.nodes.iter().find(|named| named.name == node.name.as_str());
    let annotated = || annotation(node).and_then(|word| word.parse().ok());
    named.map(|named| named.on_blocked).or_else(annotated).or(pool).unwrap_or(policy.on_blocked)
}

/// The steps of a node with what follows there.
pub fn decided(mut steps: Vec<Step>, word: OnBlocked) -> Vec<Step> {
    for step in &mut steps {
        if let Step::Drain { on_blocked, .. } = step {
            *on_blocked = word;
        }
    }
    steps
}

/// What was decided for a node when its plan was made.
pub fn decided_for(node: &PlannedNode) -> OnBlocked {
    let word = node.steps.iter().find_map(|step| match step {
        Step::Drain { on_blocked, .. } => Some(*on_blocked),
        _ => None,
    });
    word.unwrap_or_default()
}

/// Words for nodes that take none: unknown ones, control planes, those named twice, and annotations that say nothing.
pub(super) fn refusals(situation: &Situation<'_>, policy: &Policy) -> Vec<Refusal> {
    let workers: Vec<&str> =
        situation.nodes().filter(|node| !node.control_plane()).map(|node| node.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut refusals: Vec<Refusal> = policy
        .workers
        .nodes
        .iter()
        .filter_map(|named| {
            let NodePolicy { name, .. } = named;
            let why = if !seen.insert(name) {
                "is named twice: once is allowed".to_owned()
            } else if situation.control_planes().any(|node| node.name.as_str() == name) {
                "is a control plane, which is never passed over and whose pods are never deleted: workers are allowed"
                    .to_owned()
            } else if !workers.contains(&name.as_str()) {
                format!("is no node of this cluster: allowed are its workers, {}", workers.join(", "))
            } else {
                return None;
            };
            Some(Refusal::of(RULE, format!("what follows when a drain is blocked is said for {name}, which {why}")))
        })
        .collect();
    refusals.extend(situation.to_raise().filter(|node| !node.control_plane()).filter_map(|node| {
        let why = annotation(node)?.parse::<OnBlocked>().err()?;
        Some(Refusal::of(RULE, format!("the annotation {ON_BLOCKED} of the Node {}: {why}", node.name)))
    }));
    refusals
}

fn annotation<'a>(node: &Candidate<'a>) -> Option<&'a str> {
    node.object().and_then(|object| object.on_blocked.as_deref())
}
