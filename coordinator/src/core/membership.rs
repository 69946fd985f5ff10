//! Who joins and who leaves a cluster by a plan, as its steps say it, and what leads back from there.
//!
//! A machine that has joined is put back by leaving again: drained, reset, and its membership ended by the control plane that
//! the plan has for that. A node that was drained is opened again by its agent. What was reset, or whose member of etcd or
//! Node is gone, comes back by no word of anybody.

use std::fmt;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, PlannedNode, Purpose, Role};
use liftlock_proto::step::Step;
use liftlock_proto::strategy::Part;

use crate::core::rollout::{NodeState, Phase, Rollout, TransitionError};
use crate::core::sequence::{end_memberships, leave_again};

/// Who joins and who leaves, each in the order of leases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// The machines that join.
    pub joins: Vec<NodeName>,
    /// The nodes whose pods are moved, and which stay for now.
    pub empties: Vec<NodeName>,
    /// The nodes that leave, whoever sees to that.
    pub leaves: Vec<NodeName>,
}

impl Membership {
    /// What a plan changes; `None` where it raises nodes where they are.
    pub fn of(plan: &Plan) -> Option<Self> {
        let parts = plan.nodes.iter().map(|node| (&node.name, node.part()));
        let mut membership = Self::of_parts(parts)?;
        for node in plan.nodes.iter().flat_map(ended_by) {
            if !membership.leaves.contains(node) {
                membership.leaves.push(node.clone());
            }
        }
        Some(membership)
    }

    /// The same by the parts that nodes have.
    pub fn of_parts<'a>(parts: impl Iterator<Item = (&'a NodeName, Part)>) -> Option<Self> {
        let (mut membership, mut any) = (Self::default(), false);
        for (name, part) in parts {
            any |= !part.is_raise();
            match part {
                Part::Join => membership.joins.push(name.clone()),
                Part::Empty => membership.empties.push(name.clone()),
                Part::Leave => membership.leaves.push(name.clone()),
                Part::Raise | Part::End => {}
            }
        }
        any.then_some(membership)
    }

    /// Whether a node comes or goes.
    pub fn names(&self, node: &NodeName) -> bool {
        self.joins.contains(node) || self.goes(node)
    }

    /// Whether a node is emptied, or leaves.
    pub fn goes(&self, node: &NodeName) -> bool {
        self.empties.contains(node) || self.leaves.contains(node)
    }
}

/// `n1 takes the place of w1`
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |names: &[NodeName]| names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        let (joins, empties, leaves) = (listed(&self.joins), listed(&self.empties), listed(&self.leaves));
        let s = |names: &[NodeName]| if names.len() == 1 { "s" } else { "" };
        match (self.joins.len(), self.empties.is_empty(), self.leaves.len()) {
            (1, true, 1) => write!(f, "{joins} takes the place of {leaves}"),
            (0, true, _) => write!(f, "{leaves} leave{}", s(&self.leaves)),
            (_, true, _) => write!(f, "{joins} take the places of {leaves}"),
            (_, false, _) => {
                write!(f, "{joins} join{} and take{} the pods of {empties}", s(&self.joins), s(&self.joins))
            }
        }
    }
}

/// The nodes whose memberships a control plane ends.
pub fn ended_by(planned: &PlannedNode) -> impl Iterator<Item = &NodeName> {
    let ended = planned.steps.iter().filter_map(|step| match step {
        Step::DeleteNode { node, also } => Some(std::iter::once(node).chain(also)),
        _ => None,
    });
    ended.flatten()
}

/// Whether nobody undoes a step, and nothing that a plan could do makes up for it.
pub(super) fn is_final(step: &Step) -> bool {
    matches!(step, Step::KubeadmReset { .. } | Step::RemoveEtcdMember { .. } | Step::DeleteNode { .. })
}

/// The first step of a node that was begun on and that nobody undoes.
pub fn final_step<'a>(planned: &'a PlannedNode, state: &NodeState) -> Option<&'a Step> {
    let begun = match state {
        NodeState::Raised { .. } => planned.steps.len(),
        NodeState::Failed { progress, purpose: Purpose::Raise, .. } | NodeState::ToRetry { progress, .. }
            if progress.attempt > 0 =>
        {
            usize::try_from(progress.index).unwrap_or(usize::MAX).saturating_add(1)
        }
        _ => 0,
    };
    planned.steps.iter().take(begun).find(|step| is_final(step))
}

/// What puts a node back where that is more than undoing what its agent captured.
pub fn steps_back(plan: &Plan, planned: &PlannedNode) -> Option<Vec<Step>> {
    match planned.part() {
        Part::Join => Some(leave_again(planned.role, &plan.policy)),
        Part::End => {
            let joined = plan.nodes.iter().filter(|node| node.part() == Part::Join);
            let role = joined.clone().map(|node| node.role).next().unwrap_or(Role::Worker);
            let joined: Vec<NodeName> = joined.map(|node| node.name.clone()).collect();
            Some(end_memberships(&joined, role, true))
        }
        Part::Raise | Part::Empty | Part::Leave => None,
    }
}

/// The steps that a node's lease is about, and what its agent is told that it is for: to put back is to undo, or to carry out
/// what leads back.
pub fn under_lease(plan: &Plan, planned: &PlannedNode, purpose: Purpose) -> (Vec<Step>, Purpose) {
    match steps_back(plan, planned).filter(|_| purpose == Purpose::RollBack) {
        Some(steps) => (steps, Purpose::Raise),
        None => (planned.steps.clone(), purpose),
    }
}

impl Rollout {
    /// Whether machines that had joined have left again, and a control plane has not ended their memberships yet.
    pub(super) fn owes_an_end(&self) -> bool {
        let is_back = |state: &NodeState| matches!(state, NodeState::RolledBack { .. });
        let parts = || self.nodes().map(|(planned, state)| (planned.part(), state));
        parts().any(|(part, state)| part == Part::Join && is_back(state))
            && parts().any(|(part, state)| part == Part::End && !is_back(state))
    }

    /// Whether a node whose pods are moved to machines that join is to be begun on once more, and has not begun to leave.
    pub fn goes_on_again(&self, node: &NodeName) -> bool {
        let Some((planned, state @ NodeState::ToRetry { .. })) = self.node(node) else { return false };
        matches!(planned.part(), Part::Empty | Part::Leave) && final_step(planned, state).is_none()
    }

    /// The nodes whose pods were moved and which leave by the next plan, unless an operator was asked about that already: where
    /// another path took the place of this one, nobody would go on with them, or back.
    pub fn nodes_that_wait_emptied(&self) -> Option<String> {
        let waits = matches!(self.phase(), Phase::BetweenStops | Phase::Paused) && self.is_raised();
        let emptied = Membership::of(&self.plan).filter(|_| waits)?.empties;
        let names: Vec<&str> = emptied.iter().map(NodeName::as_str).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The control plane that ends memberships.
    pub(super) fn ender(&self) -> Option<&PlannedNode> {
        self.plan.nodes.iter().find(|planned| planned.part() == Part::End)
    }

    /// Why a node's part is not due though its turn has come: nobody leaves before everybody has joined, and no membership is
    /// ended before its node has left.
    pub(super) fn too_early(&self, planned: &PlannedNode) -> Option<String> {
        let before = match planned.part() {
            Part::Empty | Part::Leave => Part::Join,
            Part::End => Part::Leave,
            Part::Raise | Part::Join => return None,
        };
        let mut others = self.nodes().filter(|(other, _)| other.part() == before);
        let (other, _) = others.find(|(_, state)| !matches!(state, NodeState::Raised { .. }))?;
        Some(format!("{} comes first", other.name))
    }

    /// What came so far that nobody puts it back: the node and the step.
    fn beyond_return(&self) -> Option<(&PlannedNode, &Step)> {
        self.nodes().find_map(|(planned, state)| final_step(planned, state).map(|step| (planned, step)))
    }

    /// Has every machine that joined leave again and every node that was emptied opened; with `node`, opens that one alone.
    pub(super) fn order_way_back(&mut self, node: Option<&NodeName>) -> Result<(), TransitionError> {
        let what = node.map_or_else(|| "the cluster".to_owned(), |node| format!("node {node}"));
        let refused = |why: String| TransitionError::NotToRollBack { what: what.clone(), why };
        if let Some((planned, step)) = self.beyond_return() {
            let about = match step {
                Step::DeleteNode { node, .. } | Step::RemoveEtcdMember { node } => node,
                _ => &planned.name,
            };
            return Err(refused(format!(
                "{about} has left the cluster or begun to ({} on {}), and a machine that has left comes back only by joining: \
                 go on with `liftlock retry`, or end it as things stand with `liftlock abort`; then `liftlock replace` brings \
                 it back",
                step.name(),
                planned.name
            )));
        }
        if let Some(node) = node {
            let part = self.plan.nodes.iter().find(|planned| planned.name == *node).map(PlannedNode::part);
            match part {
                None => {
                    return Err(TransitionError::UnknownNode {
                        node: node.clone(),
                        plan: self.plan.id.to_string(),
                    });
                }
                Some(Part::Join | Part::End) => {
                    return Err(refused(
                        "a machine that has joined leaves again only where every node of the plan goes back: roll back all \
                         with --cluster"
                            .to_owned(),
                    ));
                }
                Some(Part::Raise | Part::Empty | Part::Leave) => {}
            }
        }
        let mut any = false;
        for (planned, state) in self.plan.nodes.iter().zip(&mut self.nodes) {
            if node.is_some_and(|node| planned.name != *node) {
                continue;
            }
            if let NodeState::Raised { lease, .. }
            | NodeState::Failed { lease, .. }
            | NodeState::ToRetry { lease, .. } = state
            {
                *state = NodeState::ToRollBack { lease: *lease };
                any = true;
            }
        }
        if any {
            Ok(())
        } else {
            Err(refused("nothing was changed there, so there is nothing to put back".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests;
