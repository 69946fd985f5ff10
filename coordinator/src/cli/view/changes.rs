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
    // The next stop of a path has a roll-out of its own.
    let before = before.filter(|before| before.plan == now.plan);
    if before.is_none() {
        let RolloutView { plan, from_version, to_version, nodes, .. } = now;
        let (count, stop) = (nodes.len(), now.stop_of_several());
        changes.push(Change::plain(format!(
            "roll-out {plan}: {from_version} → {to_version}{stop}, nodes: {count}"
        )));
    }
    for node in &now.nodes {
        let earlier = before.and_then(|before| before.nodes.iter().find(|earlier| earlier.name == node.name));
        changes.extend(connection(earlier, node));
        changes.extend(lease(earlier, node));
        changes.extend(outcome(earlier, node));
    }
    // A stop that was reached is told once, whether or not the next has begun meanwhile.
    if before.is_none_or(|before| before.phase != now.phase && !(reached(before) && reached(now))) {
        changes.push(phase(now));
    } else if let Some(waits) = now.waits()
        && before.and_then(RolloutView::waits) != Some(waits)
    {
        changes.push(Change::of(Tone::Notice, format!("held: {waits}")));
    }
    if let Some(taint) = &now.taint
        && before.and_then(|before| before.taint.as_ref()) != Some(taint)
    {
        changes.push(Change::of(Tone::Notice, format!("taint: {taint}")));
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
        NodePhase::Joined | NodePhase::Emptied | NodePhase::Left | NodePhase::Done => {
            Some(Change::of(Tone::Good, format!("{name}: {}{}", now.phase.name(), time(&now.time))))
        }
        NodePhase::Failed => {
            let failure = now.failure.as_deref().unwrap_or("no reason was given");
            Some(Change::of(Tone::Bad, format!("{name}: failed: {failure}")))
        }
        NodePhase::ToRollBack => Some(Change::of(Tone::Notice, format!("{name}: to be rolled back"))),
        NodePhase::RolledBack => {
            Some(Change::of(Tone::Notice, format!("{name}: rolled back{}", time(&now.time))))
        }
        NodePhase::Quarantined => {
            let failure = now.failure.as_deref().unwrap_or("no reason was given");
            Some(Change::of(Tone::Bad, format!("{name}: quarantined: {failure}")))
        }
        NodePhase::Unknown | NodePhase::Pending | NodePhase::Leased => None,
    }
}

/// Whether every node runs what leads on to another stop, and nothing speaks against going on.
fn reached(rollout: &RolloutView) -> bool {
    let goes_on = matches!(rollout.phase, RolloutPhase::BetweenStops | RolloutPhase::Raised);
    goes_on && !rollout.onward.is_empty()
}

/// The failure that halts a roll-out stands in its node's line already.
fn phase(now: &RolloutView) -> Change {
    let text = match (now.phase, &now.reason) {
        _ if now.membership.is_some() && (reached(now) || now.phase == RolloutPhase::Raised) => {
            format!("done: {}", now.membership.as_deref().unwrap_or_default())
        }
        _ if reached(now) => format!("a stop is reached: every node runs {}", now.to_version),
        (RolloutPhase::Raised, _) => format!("raised: every node runs {}", now.to_version),
        (RolloutPhase::Halted, Some(reason)) if now.is_raised() => format!("halted: {reason}"),
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
