//! The pools of a plan's workers as an operator reads them: who goes with whom, and how many at a time.

use std::fmt::Write as _;

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::workers::{Canary, PlannedPool};
use serde::Serialize;

use crate::cli::time::span;
use crate::cli::view::plan::{PlanView, PlannedNodeView};

/// A pool of a plan.
#[derive(Debug, Serialize)]
pub struct PoolView {
    /// What it is called.
    pub name: String,
    /// How many of its workers may be away at once; null: one is leased at a time, whatever else is away.
    pub max_unavailable: Option<u32>,
    /// How many go first, one at a time.
    pub canary_nodes: u32,
    /// How long they are looked at before the others follow, in seconds.
    pub soak_s: u32,
    /// Once it is raised the roll-out waits for `liftlock resume`.
    pub pause_after: bool,
    /// What follows when one of its workers cannot be drained; left out where the pool says nothing of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_blocked: Option<OnBlocked>,
}

impl From<PlannedPool> for PoolView {
    fn from(pool: PlannedPool) -> Self {
        let PlannedPool { name, max_unavailable, canary, pause_after, on_blocked } = pool;
        let Canary { nodes, soak_seconds } = canary.unwrap_or(Canary { nodes: 0, soak_seconds: 0 });
        Self { name, max_unavailable, canary_nodes: nodes, soak_s: soak_seconds, pause_after, on_blocked }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
pub(super) fn is_none(number: &u32) -> bool {
    *number == 0
}

/// One line a pool, in the order in which they are raised.
pub(super) fn write_pools(text: &mut String, plan: &PlanView) {
    for pool in &plan.pools {
        let nodes: Vec<&PlannedNodeView> =
            plan.nodes.iter().filter(|node| node.pool.as_ref() == Some(&pool.name)).collect();
        let zones = nodes.chunk_by(|one, next| one.zone == next.zone).map(|zone| {
            let names: Vec<&str> = zone.iter().map(|node| node.name.as_str()).collect();
            let of = zone.first().and_then(|node| node.zone.as_ref());
            let of = of.map(|zone| format!(" (zone {zone})")).unwrap_or_default();
            format!("{}{of}", names.join(", "))
        });
        let _ = write!(text, "Pool {}: {}; ", pool.name, zones.collect::<Vec<_>>().join(", then "));
        let _ = match pool.max_unavailable {
            None | Some(1) => write!(text, "one at a time"),
            Some(most) => write!(text, "up to {most} at a time, of one zone"),
        };
        if pool.canary_nodes > 0 {
            let (first, soak) = (pool.canary_nodes, span(pool.soak_s.into()));
            let _ = write!(text, "; first {first} one after the other, and {soak} to look at them");
        }
        if pool.pause_after {
            let _ = write!(text, "; then a pause, until you say resume");
        }
        if let Some(word) = pool.on_blocked {
            let _ = write!(text, "; {word} where a drain is blocked");
        }
        text.push('\n');
    }
    match plan.policy.failure_budget {
        0 => {}
        1 => text.push_str("One worker may fail before nothing more is begun\n"),
        budget => {
            let _ = writeln!(text, "Up to {budget} workers may fail before nothing more is begun");
        }
    }
}
