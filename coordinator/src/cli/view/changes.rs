//! What is new between two moments of a roll-out, one sentence each: the lines of a log.

use crate::cli::paint::Tone;
use crate::cli::time::span;
use crate::cli::view::rollout::{LeaseTime, NodePhase, RolloutNodeView, RolloutPhase, RolloutView};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which tone it is said.
    pub tone: Tone,
    /// One line.
    pub text: String,
}

impl Change {
    fn of(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }

    fn plain(text: impl Into<String>) -> Self {
        Self::of(Tone::Plain, text)
    }
}

/// What happened since `before`; without one, where everything stands.
pub fn changes(before: Option<&RolloutView>, now: &RolloutView) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.is_none() {
        let RolloutView { plan, from_version, to_version, nodes, .. } = now;
        let count = nodes.len();
        changes
            .push(Change::plain(format!("roll-out {plan}: {from_version} → {to_version}, nodes: {count}")));
    }
    for node in &now.nodes {
        let earlier = before.and_then(|before| before.nodes.iter().find(|earlier| earlier.name == node.name));
        changes.extend(connection(earlier, node));
        changes.extend(lease(earlier, node));
        changes.extend(outcome(earlier, node));
    }
    if before.map(|before| before.phase) != Some(now.phase) {
        changes.push(phase(now));
    }
    changes
}

fn connection(before: Option<&RolloutNodeView>, now: &RolloutNodeView) -> Option<Change> {
    let name = &now.name;
    match (before.is_none_or(|before| before.connected), now.connected) {
        (true, false) => Some(Change::of(Tone::Notice, format!("{name}: its agent is not connected"))),
        (false, true) => Some(Change::plain(format!("{name}: its agent is connected again"))),
        (true, true) | (false, false) => None,
    }
}

fn lease(before: Option<&RolloutNodeView>, now: &RolloutNodeView) -> Vec<Change> {
    let name = &now.name;
    let mut changes = Vec::new();
    let new_lease = before.map(|before| before.fencing_token) != Some(now.fencing_token);
    if let Some(token) = now.fencing_token
        && new_lease
    {
        changes.push(Change::plain(format!("{name}: lease {token} granted")));
    }
    let new_step = new_lease || before.map(|before| before.step_number) != Some(now.step_number);
    if now.step.is_some() && new_step {
        changes.push(Change::plain(format!("{name}: step {}", now.progress())));
    }
    changes
}

fn outcome(before: Option<&RolloutNodeView>, now: &RolloutNodeView) -> Option<Change> {
    if before.map(|before| before.phase) == Some(now.phase) {
        return None;
    }
    let name = &now.name;
    match now.phase {
        NodePhase::Prepared => Some(Change::plain(format!("{name}: prepared"))),
        NodePhase::Raised => Some(Change::of(Tone::Good, format!("{name}: raised{}", time(&now.time)))),
        NodePhase::Failed => {
            let failure = now.failure.as_deref().unwrap_or("no reason was given");
            Some(Change::of(Tone::Bad, format!("{name}: failed: {failure}")))
        }
        NodePhase::ToRollBack => Some(Change::of(Tone::Notice, format!("{name}: to be rolled back"))),
        NodePhase::RolledBack => {
            Some(Change::of(Tone::Notice, format!("{name}: rolled back{}", time(&now.time))))
        }
        NodePhase::Unknown | NodePhase::Pending | NodePhase::Leased => None,
    }
}

/// The failure that halts a roll-out stands in its node's line already.
fn phase(now: &RolloutView) -> Change {
    let text = match (now.phase, &now.reason) {
        (RolloutPhase::Raised, _) => format!("raised: every node runs {}", now.to_version),
        (RolloutPhase::Halted, _) | (_, None) => now.phase.name().to_owned(),
        (phase, Some(reason)) => format!("{}: {reason}", phase.name()),
    };
    Change::of(now.phase.tone(), text)
}

fn time(time: &LeaseTime) -> String {
    let LeaseTime {
        lease_s: Some(lease),
        child_s: Some(child),
        wait_s: Some(wait),
        snapshot_s: Some(snapshot),
        overhead_s: Some(overhead),
    } = *time
    else {
        return String::new();
    };
    format!(
        " in {} (children {}, waits {}, snapshot {}, overhead {})",
        span(lease),
        span(child),
        span(wait),
        span(snapshot),
        span(overhead)
    )
}
