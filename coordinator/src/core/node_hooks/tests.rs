use liftlock_proto::hooks::NodeHooks;

use super::*;
use crate::core::planning::make_plan;
use crate::core::planning::tests::view;
use crate::core::view::ClusterView;

const TO: KubernetesVersion = KubernetesVersion::new(1, 20, 2);

fn policy() -> Policy {
    let hook = |name: &str| NodeHook { name: name.to_owned(), timeout_seconds: 60 };
    let node_hooks = NodeHooks { before: vec![hook("out"), hook("mute")], after: vec![hook("in")] };
    Policy { node_hooks, ..Policy::default() }
}

/// A cluster whose nodes have these hooks.
fn with(hooks: &[(&str, Option<&str>)]) -> ClusterView {
    let mut view = view(3, 2);
    for agent in view.nodes.values_mut().filter_map(|node| node.agent.as_mut()) {
        agent.hooks = hooks.iter().map(|(name, why)| ((*name).to_owned(), why.map(str::to_owned))).collect();
    }
    view
}

#[test]
fn hooks_before_a_node_come_after_its_backup_and_before_any_change_and_those_after_it_last() {
    let plan = make_plan(&with(&[("out", None), ("mute", None), ("in", None)]), TO, &policy()).unwrap();
    for node in &plan.nodes {
        let steps: Vec<&str> = node.steps.iter().map(Step::name).collect();
        let at = |wanted: &str| steps.iter().position(|step| *step == wanted).unwrap();
        assert_eq!(at("run-hooks-before"), at("back-up-node") + 1, "{steps:?}");
        assert!(at("run-hooks-before") < at("seal-protected-paths") && at("run-hooks-before") < at("drain"));
        assert_eq!(steps.last(), Some(&"run-hooks-after"), "{steps:?}");
    }
    let other = make_plan(&with(&[]), TO, &Policy::default()).unwrap();
    assert!(
        other.nodes.iter().flat_map(|node| &node.steps).all(|step| !matches!(step, Step::RunHooks { .. }))
    );
    assert_ne!(plan.hash, other.hash, "they are part of the plan");
}

#[test]
fn a_hook_that_a_node_does_not_have_or_cannot_run_is_refused_with_its_field_and_what_would_be_allowed() {
    let refused =
        make_plan(&with(&[("in", None), ("mute", Some("it is not there"))]), TO, &policy()).unwrap_err();
    let said: Vec<String> = refused.iter().map(|one| format!("{}: {}", one.rule, one.message)).collect();
    for part in [
        "unknown-hook: spec.hooks.beforeNode: \"out\" is no hook in the configuration of cp1: allowed are in, mute",
        "hook-refused: spec.hooks.beforeNode: the hook mute cannot be run on w1: it is not there",
    ] {
        assert!(said.iter().any(|said| said.contains(part)), "{part}: {said:?}");
    }
    assert_eq!(refused.len(), 10, "two on each of five nodes: {said:?}");
}
