//! The taint of nodes that are not raised yet. One control plane at a time is told which nodes are to carry it, whenever that
//! may be other than what was confirmed last, until it says that it is so.
//!
//! It is a preference and never holds the roll-out up for long: a node that is due waits for a first answer, at most
//! [`PATIENCE_MS`]. What goes wrong is tried again with growing pauses, which the agent keeps, also after the roll-out's end.

use std::collections::BTreeSet;

use liftlock_proto::name::NodeName;
use liftlock_proto::not_raised;
use liftlock_proto::v1;
use liftlock_proto::v1::coordinator_message::Message as Told;

use super::sessions::clipped;
use super::{Keeper, State};
use crate::core::marks::to_mark;
use crate::core::rollout::{NodeState, Rollout};

/// How long a node that is due waits for the answer, in milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// How long an agent waits after a first failure, in milliseconds; twice as long after each further one.
const FIRST_PAUSE_MS: u32 = 5000;

/// The longest of these pauses.
const LONGEST_PAUSE_MS: u32 = 60_000;

/// What is known of the taint.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Whether any node is to carry it.
    wished: bool,
    /// What was told last and is not answered.
    told: Option<Order>,
    last_id: u64,
    /// The nodes that carry it, as was last said; `None` where nobody has said since this coordinator started.
    confirmed: Option<BTreeSet<NodeName>>,
    /// Agents that may still act upon an earlier order: they have connected, or were told, and have not answered since.
    unsettled: BTreeSet<NodeName>,
    /// Who failed last, and at what.
    trouble: Option<(NodeName, String)>,
    pause_ms: u32,
}

/// What one agent was told.
#[derive(Debug)]
struct Order {
    id: u64,
    node: NodeName,
    wanted: BTreeSet<NodeName>,
    /// By the clock that nobody sets, in milliseconds.
    at_ms: u64,
    /// A node that is due waits for the answer.
    awaited: bool,
}

impl Marks {
    pub(super) fn new(wished: bool) -> Self {
        Self { wished, ..Self::default() }
    }
}

impl Keeper {
    /// Waits no longer for an answer that takes its time. Whether anything follows from that.
    pub(super) fn give_up_marks(&self, state: &mut State) -> bool {
        let Some(order) = state.marks.as_mut().and_then(|marks| marks.told.as_mut()) else { return false };
        if !order.awaited || self.clock.steady_ms().saturating_sub(order.at_ms) < PATIENCE_MS {
            return false;
        }
        tracing::warn!(node = %order.node, "which nodes are not raised yet was not marked in time: the roll-out goes on without");
        order.awaited = false;
        true
    }

    /// Tells a control plane which nodes are to carry the taint, unless that was said and answered.
    pub(super) fn tell_marks(&self, state: &mut State) {
        state.forget_lost_orders();
        let Some(marks) = &state.marks else { return };
        let wanted = match state.saved.newest() {
            Some((_, rollout)) if marks.wished => to_mark(rollout),
            _ => BTreeSet::new(),
        };
        let due_ms = state.soak_time_ms(self.clock.as_ref());
        let (order, node) = match (&marks.told, state.to_be_told_marks(due_ms)) {
            (Some(order), _) if order.wanted == wanted => return,
            (Some(order), _) => (Some(order), Some(order.node.clone())),
            (None, node) => (None, node),
        };
        let Some(node) = node else { return };
        if order.is_none() && marks.confirmed.as_ref() == Some(&wanted) && !marks.unsettled.contains(&node) {
            return;
        }
        let (id, at_ms) = (self.clock.unix_ms().max(marks.last_id.saturating_add(1)), self.clock.steady_ms());
        let pause_ms = marks.pause_ms;
        let nodes = wanted.iter().map(ToString::to_string).collect();
        if let Some(marks) = &mut state.marks {
            marks.last_id = id;
            marks.unsettled.insert(node.clone());
            marks.told = Some(Order { id, node: node.clone(), wanted, at_ms, awaited: pause_ms == 0 });
        }
        state.send(&node, Told::MarkNodes(v1::MarkNodes { id, nodes, pause_ms }));
    }
}

impl State {
    /// Whether this node, which is due, waits until the scheduler knows which nodes are raised. One that was begun on before
    /// does not.
    pub(super) fn awaits_marks(&self, rollout: &Rollout, node: &NodeName) -> bool {
        let told = self.marks.as_ref().and_then(|marks| marks.told.as_ref());
        matches!(rollout.node(node), Some((_, NodeState::Prepared)))
            && told.is_some_and(|order| order.awaited)
    }

    /// An agent has connected, perhaps with an older order in hand; what it was told in an earlier session may be lost.
    pub(super) fn marks_of_a_new_session(&mut self, node: &NodeName) {
        if let Some(marks) = &mut self.marks {
            marks.told.take_if(|order| order.node == *node);
            marks.unsettled.insert(node.clone());
        }
    }

    /// What was told to an agent whose session has ended is told to another.
    fn forget_lost_orders(&mut self) {
        let Self { marks, sessions, .. } = self;
        if let Some(marks) = marks {
            marks.told.take_if(|order| !sessions.contains_key(&order.node));
        }
    }

    /// An agent has done what it was told, or could not. Answers to earlier orders say nothing about the last one.
    pub(super) fn marked(&mut self, node: &NodeName, answer: &v1::NodesMarked) {
        let Some(marks) = &mut self.marks else { return };
        let Some(order) = marks.told.take_if(|order| order.id == answer.id && order.node == *node) else {
            return;
        };
        marks.unsettled.remove(node);
        if answer.failure.is_empty() {
            let names = |names: &[String]| clipped(&names.join(", "));
            tracing::info!(
                by = %node, marked = names(&answer.added), unmarked = names(&answer.removed),
                "nodes that are not raised carry their taint, and no others"
            );
            marks.confirmed = Some(order.wanted);
            marks.trouble = None;
            marks.pause_ms = 0;
        } else {
            let failure = clipped(&answer.failure);
            tracing::warn!(by = %node, failure, "nodes that are not raised could not be marked");
            // Some may have been changed, and some not.
            marks.confirmed = None;
            marks.trouble = Some((node.clone(), failure));
            marks.pause_ms = marks.pause_ms.saturating_mul(2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
        }
    }

    /// What operators should know of the taint: it could not be changed, or it outlives its roll-out and nobody is there to
    /// take it away.
    pub(super) fn trouble_with_marks(&self, now_ms: u64) -> Option<String> {
        let marks = self.marks.as_ref()?;
        if let Some((node, failure)) = &marks.trouble {
            return Some(format!(
                "{}, which nodes carry that are not raised, could not be brought up to date by {node}, and that is tried again: \
                 {failure}",
                not_raised::KEY
            ));
        }
        let (_, rollout) = self.saved.newest()?;
        let raised = |state: &NodeState| matches!(state, NodeState::Raised { .. });
        let may_be_there = match &marks.confirmed {
            Some(confirmed) => !confirmed.is_empty(),
            None => marks.wished && !rollout.is_raised() && rollout.nodes.iter().any(raised),
        };
        let left = rollout.is_final() && may_be_there && self.to_be_told_marks(now_ms).is_none();
        left.then(|| {
            format!(
                "nodes that were not raised may still carry the taint {}: it is taken away as soon as a control plane's agent \
                 is connected",
                not_raised::KEY
            )
        })
    }

    /// The connected control plane that is told next: first one that may still act upon an earlier order, last the one
    /// that is or will be under lease and the one that failed.
    fn to_be_told_marks(&self, now_ms: u64) -> Option<NodeName> {
        let marks = self.marks.as_ref()?;
        let rollout = self.saved.newest().map(|(_, rollout)| rollout);
        // Who joins or leaves is a control plane for as long as it says so itself.
        let planned: BTreeSet<&NodeName> = rollout
            .into_iter()
            .filter(|rollout| rollout.plan.policy.replacement.is_none())
            .flat_map(Rollout::nodes)
            .filter(|(planned, _)| planned.role.is_control_plane())
            .map(|(planned, _)| &planned.name)
            .collect();
        let reported =
            |node: &NodeName| self.facts.get(node).is_some_and(|reported| reported.facts.control_plane);
        let leased = rollout.into_iter().flat_map(Rollout::leased).map(|(planned, _)| planned);
        let due = rollout.and_then(|rollout| rollout.due(now_ms).ok()).unwrap_or_default();
        let busy: BTreeSet<&NodeName> =
            leased.chain(due.into_iter().map(|(planned, _)| planned)).map(|planned| &planned.name).collect();
        let failed = marks.trouble.as_ref().map(|(node, _)| node);
        let control_planes = self.sessions.keys().filter(|node| planned.contains(node) || reported(node));
        control_planes
            .min_by_key(|node| {
                (Some(*node) == failed, !marks.unsettled.contains(*node), busy.contains(*node))
            })
            .cloned()
    }
}
