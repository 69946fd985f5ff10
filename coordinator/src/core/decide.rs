//! What each connected agent should be told now.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::Purpose;

use crate::core::rollout::{Lease, NodeState, Phase, Rollout};

/// Something to do. The shell around the core tells a session each thing once; asked again, `decide` says it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Tell the node to fetch what it will need. Disturbs nothing.
    Prepare {
        /// Which.
        node: NodeName,
    },
    /// Make a new lease durable, then send it.
    Grant {
        /// To which node.
        node: NodeName,
        /// What it is for.
        purpose: Purpose,
    },
    /// Tell the node that every node is raised: backups that it need not keep may go.
    Tidy {
        /// Which.
        node: NodeName,
    },
    /// Send the lease that it holds already, with the same token: it reconnected.
    Resume {
        /// To which node.
        node: NodeName,
        /// The lease it holds.
        lease: Lease,
        /// What it is for.
        purpose: Purpose,
    },
}

/// What each connected agent should be told now, `now_ms` milliseconds after the Unix epoch. As many a [`Decision::Grant`]
/// among it as the budget allows, each of which changes what may follow: after one was made durable, ask again.
pub fn decide(rollout: &Rollout, connected: &BTreeSet<NodeName>, now_ms: u64) -> Vec<Decision> {
    if rollout.is_final() {
        // After any other end a backup may be what puts a node back.
        let tidied = rollout.nodes().filter(|_| rollout.phase() == Phase::Raised);
        let nodes = tidied.map(|(planned, _)| planned.name.clone()).filter(|node| connected.contains(node));
        return nodes.map(|node| Decision::Tidy { node }).collect();
    }
    let mut decisions: Vec<Decision> = rollout
        .nodes()
        .filter(|(planned, _)| connected.contains(&planned.name))
        .filter_map(|(planned, state)| match state {
            NodeState::Pending => Some(Decision::Prepare { node: planned.name.clone() }),
            NodeState::Leased { lease, purpose, .. } => {
                Some(Decision::Resume { node: planned.name.clone(), lease: *lease, purpose: *purpose })
            }
            _ => None,
        })
        .collect();
    let due = rollout.due(now_ms).unwrap_or_default();
    let due = due.into_iter().filter(|(planned, _)| connected.contains(&planned.name));
    decisions.extend(due.map(|(planned, purpose)| Decision::Grant { node: planned.name.clone(), purpose }));
    decisions
}
