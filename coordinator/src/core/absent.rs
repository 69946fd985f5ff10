//! Whom a roll-out waits for because nobody hears the agent.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::PlannedNode;

use crate::core::rollout::{NodeState, Phase, Rollout};

/// So many are named.
const NAMED: usize = 3;

impl Rollout {
    /// Why nothing goes on by itself, where that is because agents are not connected: one holds a lease, has to prepare, or
    /// is next and no other may be leased in its place. `now_ms`: milliseconds since the Unix epoch.
    pub fn waits_for_absent(&self, connected: &BTreeSet<NodeName>, now_ms: u64) -> Option<String> {
        let absent = |planned: &PlannedNode| !connected.contains(&planned.name);
        if let Some((holder, lease)) = self.leased().find(|(holder, _)| absent(holder)) {
            return Some(format!(
                "{} holds lease {} and its agent is not connected: it keeps the lease until it has reported its end; see \
                 `systemctl status liftlock-agent` there, or, if it is gone for good, switch the machine off and take its \
                 join token back (`liftlock token list`, `liftlock token revoke ID --fenced`), which ends the lease as a \
                 failed one and halts the roll-out",
                holder.name, lease.token
            ));
        }
        if matches!(self.phase(), Phase::Preparing | Phase::Running) {
            let pending =
                self.nodes().filter(|(planned, state)| **state == NodeState::Pending && absent(planned));
            if let Some(names) = named(pending.map(|(planned, _)| planned)) {
                return Some(said(&names, "has to prepare"));
            }
        }
        let due = self.due(now_ms).unwrap_or_default();
        if due.iter().any(|(planned, _)| !absent(planned)) {
            return None;
        }
        Some(said(&named(due.into_iter().map(|(planned, _)| planned))?, "is next"))
    }
}

fn said(names: &str, what: &str) -> String {
    format!(
        "{names} {what}, and no agent is connected there: see `systemctl status liftlock-agent` there, or, if it is gone for \
         good, `liftlock abort`, and plan again once the cluster has no such Node"
    )
}

/// The first of them, and how many more there are; `None` where there is none.
fn named<'a>(nodes: impl Iterator<Item = &'a PlannedNode>) -> Option<String> {
    let names: Vec<&str> = nodes.map(|planned| planned.name.as_str()).collect();
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => None,
        count if count > NAMED => Some(format!("{first} and {} more", count - NAMED)),
        _ => Some(first),
    }
}
