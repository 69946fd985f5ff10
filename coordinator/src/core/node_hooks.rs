//! Hooks that nodes call themselves: where they stand among a node's steps, and which nodes could not call one.

use liftlock_proto::hooks::{NodeHook, NodeMoment};
use liftlock_proto::plan::{PlannedNode, Policy};
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;

use crate::core::gates::situation::{Candidate, Situation};
use crate::core::planning::Refusal;

/// Has each node call its hooks: those before once its backup is there and before anything is sealed or changed, those after as
/// its last step.
pub(super) fn insert(
    planned: &mut [PlannedNode],
    policy: &Policy,
    from_version: KubernetesVersion,
    version: KubernetesVersion,
) {
    let step = |moment, hooks: &[NodeHook]| {
        let hooks = hooks.to_vec();
        (!hooks.is_empty()).then_some(Step::RunHooks { moment, hooks, from_version, version })
    };
    for node in planned {
        if let Some(before) = step(NodeMoment::BeforeNode, &policy.node_hooks.before) {
            let backed_up = node.steps.iter().position(|step| matches!(step, Step::BackUpNode { .. }));
            node.steps.insert(backed_up.map_or(0, |position| position + 1), before);
        }
        node.steps.extend(step(NodeMoment::AfterNode, &policy.node_hooks.after));
    }
}

/// Every hook that a node which is to be raised could not call.
pub(super) fn refusals(situation: &Situation<'_>, policy: &Policy) -> Vec<Refusal> {
    let lists = [("beforeNode", &policy.node_hooks.before), ("afterNode", &policy.node_hooks.after)];
    let mut refusals = Vec::new();
    for node in situation.to_raise() {
        for (field, hooks) in lists {
            refusals.extend(hooks.iter().filter_map(|hook| refusal(node, field, hook)));
        }
    }
    refusals
}

fn refusal(node: &Candidate<'_>, field: &str, NodeHook { name, .. }: &NodeHook) -> Option<Refusal> {
    // A node without an agent is refused as such.
    let hooks = &node.agent()?.hooks;
    match hooks.get(name) {
        Some(None) => None,
        Some(Some(why)) => Some(Refusal::of(
            "hook-refused",
            format!("spec.hooks.{field}: the hook {name} cannot be run on {}: {why}", node.name),
        )),
        None => {
            let names: Vec<&str> = hooks.keys().map(String::as_str).collect();
            let allowed = if names.is_empty() {
                "it has none".to_owned()
            } else {
                format!("allowed are {}", names.join(", "))
            };
            Some(Refusal::of(
                "unknown-hook",
                format!(
                    "spec.hooks.{field}: \"{name}\" is no hook in the configuration of {}: {allowed}; write [hooks.{name}] with its \
                     command into /etc/liftlock/agent.toml there and restart liftlock-agent",
                    node.name
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
