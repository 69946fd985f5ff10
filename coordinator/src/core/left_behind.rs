//! What an abort leaves half done. Nothing is begun any more, so nobody comes back to it: an operator is told what is there
//! and which commands mend it.

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{PlannedNode, Purpose, Role};
use liftlock_proto::step::Step;
use liftlock_proto::strategy::Part;

use crate::core::membership::ended_by;
use crate::core::rollout::{Intent, NodeState, Rollout};

/// How etcd is asked and told in its own pod, where every static pod of kubeadm's making has these certificates.
const ETCDCTL: &str = "etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt --cert \
                       /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key";

/// How a node is half done that was to be raised or emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Emptied,
    NotDrained,
    GoingBack,
    Begun,
}

impl Rollout {
    /// What is left half done, a sentence or two for each: what is there, and what mends it. Nothing where no operator has
    /// said abort, and nothing of what is under lease still.
    pub fn left_behind(&self) -> Vec<String> {
        if self.intent != Intent::Abort || self.is_raised() {
            return Vec::new();
        }
        let of_node = |(planned, state): (&PlannedNode, &NodeState)| match planned.part() {
            Part::Join => self.half_joined(planned, state),
            Part::Leave => self.half_left(planned, state),
            Part::Raise | Part::Empty | Part::End => None,
        };
        let mut left: Vec<String> = self.half_done().collect();
        left.extend(self.nodes().filter_map(of_node));
        left.extend(self.without_an_end());
        left
    }

    /// Those that were begun on and are not what they were to be, a sentence for each way to be half done.
    fn half_done(&self) -> impl Iterator<Item = String> {
        let target = self.plan.to_version;
        [Half::Emptied, Half::NotDrained, Half::GoingBack, Half::Begun].into_iter().filter_map(move |half| {
            let of_this = self.nodes().filter(|(planned, state)| self.half(planned, state) == Some(half));
            let names: Vec<&str> = of_this.map(|(planned, _)| planned.name.as_str()).collect();
            let (were, they) = if names.len() == 1 { ("was", "it") } else { ("were", "they") };
            let why = match half {
                Half::Emptied => format!("{were} to be emptied: {they} may be cordoned"),
                Half::NotDrained => {
                    format!("could not be drained and {were} to be put back: {they} may be cordoned")
                }
                Half::GoingBack => format!("{were} to be put back: {they} may be cordoned"),
                Half::Begun => format!("{were} begun on and not raised: {they} may be cordoned"),
            };
            let goes_on = match half {
                Half::Emptied => String::new(),
                Half::NotDrained | Half::GoingBack | Half::Begun => format!(
                    " and have some of {target} already; `liftlock apply {target}` goes on from there (with --accept drift where a \
                     control plane has {target}'s kubeadm beside its old API server)"
                ),
            };
            (!names.is_empty())
                .then(|| format!("{} {why}{goes_on}; {}", names.join(", "), uncordon(&names.join(" "))))
        })
    }

    /// In which way a node is half done that was to be raised or emptied.
    fn half(&self, planned: &PlannedNode, state: &NodeState) -> Option<Half> {
        match (planned.part(), state) {
            (
                Part::Empty,
                NodeState::Raised { .. }
                | NodeState::Failed { .. }
                | NodeState::ToRetry { .. }
                | NodeState::ToRollBack { .. },
            ) => Some(Half::Emptied),
            (Part::Raise, NodeState::ToRollBack { .. }) if self.quarantined.contains_key(&planned.name) => {
                Some(Half::NotDrained)
            }
            (
                Part::Raise,
                NodeState::ToRollBack { .. } | NodeState::Failed { purpose: Purpose::RollBack, .. },
            ) => Some(Half::GoingBack),
            (Part::Raise, NodeState::Failed { .. } | NodeState::ToRetry { .. }) => Some(Half::Begun),
            _ => None,
        }
    }

    /// A machine that was to join, and may have.
    fn half_joined(&self, planned: &PlannedNode, state: &NodeState) -> Option<String> {
        let PlannedNode { name, role, .. } = planned;
        let joined = matches!(state, NodeState::Raised { .. });
        if !joined && !may_be_past(planned, state, |step| matches!(step, Step::KubeadmJoin { .. })) {
            return None;
        }
        let of_etcd = role.is_control_plane();
        let replaces = self
            .nodes()
            .any(|(other, state)| other.part() == Part::Leave && !matches!(state, NodeState::Raised { .. }));
        let leave = format!("to have it leave, {}", self.leave(name, *role));
        match (joined, of_etcd) {
            // One more node does no harm.
            (true, false) => None,
            (true, true) if !replaces => None,
            (true, true) => Some(format!(
                "{name} has joined and nobody has left for it, so etcd has one member more than before, and its quorum may need \
                 one more: {leave}"
            )),
            (false, true) => Some(format!(
                "{name} may have joined half: etcd may have a member {name} that counts for the quorum and does not answer, so that \
                 one failure less is survived; {leave}"
            )),
            (false, false) => Some(format!("{name} may have joined half: {leave}")),
        }
    }

    /// A node that was to leave, and has begun to.
    fn half_left(&self, planned: &PlannedNode, state: &NodeState) -> Option<String> {
        let PlannedNode { name, role, .. } = planned;
        if matches!(state, NodeState::Raised { .. }) || !state.is_begun() {
            return None;
        }
        if may_be_past(planned, state, |step| matches!(step, Step::KubeadmReset { .. })) {
            return Some(format!("{name} has begun to leave: to end that, {}", self.leave(name, *role)));
        }
        Some(format!("{name} was to leave and may be cordoned: {}", uncordon(name.as_str())))
    }

    /// Those that have left, as long as no control plane has ended what is left of them.
    fn without_an_end(&self) -> Option<String> {
        let (ender, _) = self.nodes().find(|(planned, state)| {
            let ended = matches!(state, NodeState::Raised { .. } | NodeState::RolledBack { .. });
            planned.part() == Part::End && !ended
        })?;
        let has_left = |(planned, state): &(&PlannedNode, &NodeState)| match planned.part() {
            Part::Leave => {
                matches!(state, NodeState::Raised { .. }) && ended_by(ender).any(|node| *node == planned.name)
            }
            Part::Join => matches!(state, NodeState::RolledBack { .. }),
            Part::Raise | Part::Empty | Part::End => false,
        };
        let left: Vec<&PlannedNode> = self.nodes().filter(has_left).map(|(planned, _)| planned).collect();
        let (first, _) = left.split_first()?;
        let names: Vec<&str> = left.iter().map(|planned| planned.name.as_str()).collect();
        let member = left.iter().find(|planned| planned.role.is_control_plane());
        let member = member.map(|planned| format!("{}, and ", self.remove_member(&planned.name)));
        let deletes: Vec<String> = names.iter().map(|name| format!("`kubectl delete node {name}`")).collect();
        let its = if left.len() == 1 { "its Node" } else { "their Nodes" };
        let of_etcd = if first.role.is_control_plane() { " and its member of etcd" } else { "" };
        Some(format!(
            "{} left the cluster, and {its}{of_etcd} may still be there: {}{}",
            names.join(", "),
            member.unwrap_or_default(),
            deletes.join(", ")
        ))
    }

    /// The commands by which a node leaves.
    fn leave(&self, name: &NodeName, role: Role) -> String {
        let member = if role.is_control_plane() {
            format!("then {}, ", self.remove_member(name))
        } else {
            String::new()
        };
        format!("`kubeadm reset --force` on {name}, {member}then `kubectl delete node {name}`")
    }

    /// The commands by which etcd loses a member of this name, which is its node's.
    fn remove_member(&self, name: &NodeName) -> String {
        let another = |planned: &&PlannedNode| planned.role.is_control_plane() && planned.name != *name;
        let on = self.ender().or_else(|| self.plan.nodes.iter().find(another));
        let on = on.map_or("CONTROL-PLANE", |planned| planned.name.as_str());
        format!(
            "`kubectl -n kube-system exec etcd-{on} -- {ETCDCTL} member list`, and where {name} is in it the same with `member \
             remove ID`"
        )
    }
}

fn uncordon(names: &str) -> String {
    format!("`kubectl uncordon {names}` has pods scheduled there again")
}

/// Whether the step that is looked for may have been begun, as far as that is known.
fn may_be_past(planned: &PlannedNode, state: &NodeState, wanted: fn(&Step) -> bool) -> bool {
    match state {
        NodeState::Failed { progress, purpose: Purpose::Raise, .. } | NodeState::ToRetry { progress, .. } => {
            let begun = usize::try_from(progress.index).unwrap_or(usize::MAX).saturating_add(1);
            progress.attempt > 0 && planned.steps.iter().take(begun).any(wanted)
        }
        NodeState::Failed { purpose: Purpose::RollBack, .. } | NodeState::ToRollBack { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use liftlock_proto::name::FencingToken;
    use liftlock_proto::packages::PackageSource;
    use liftlock_proto::plan::{Plan, Policy};
    use liftlock_proto::version::KubernetesVersion;

    use super::*;
    use crate::core::rollout::{Lease, Progress, Timings};
    use crate::core::sequence::{end_memberships, join, leave, under_lease};

    const TARGET: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    const LEASE: Lease = Lease { token: FencingToken(7), granted_at_ms: 0 };

    fn raised() -> NodeState {
        NodeState::Raised { lease: LEASE, ended_at_ms: 1, timings: Timings::default() }
    }

    fn failed_at(steps: &[Step], at: &str) -> NodeState {
        let index = steps.iter().position(|step| step.name() == at).unwrap();
        NodeState::Failed {
            lease: LEASE,
            ended_at_ms: 1,
            timings: Timings::default(),
            progress: Progress { index: u32::try_from(index).unwrap(), attempt: 1 },
            failure: "it broke".to_owned(),
            purpose: Purpose::Raise,
        }
    }

    fn aborted(nodes: Vec<(&str, Role, Vec<Step>, NodeState)>) -> Rollout {
        let planned = |(node, role, steps, _): &(&str, Role, Vec<Step>, NodeState)| PlannedNode {
            name: name(node),
            role: *role,
            place: None,
            prepare: Vec::new(),
            steps: steps.clone(),
            packages: PackageSource::default(),
        };
        let plan = Plan {
            id: "p-0123456789ab".parse().unwrap(),
            hash: "0123456789ab".to_owned(),
            from_version: TARGET,
            to_version: TARGET,
            nodes: nodes.iter().map(planned).collect(),
            policy: Policy::default(),
            pools: Vec::new(),
        };
        let mut rollout = Rollout::start(plan, "alice".to_owned(), 0);
        rollout.nodes = nodes.into_iter().map(|(.., state)| state).collect();
        rollout.intent = Intent::Abort;
        rollout
    }

    fn replaces_cp2(joins: NodeState, leaves: NodeState, ends: NodeState) -> Rollout {
        let policy = Policy::default();
        aborted(vec![
            ("cp4", Role::ControlPlane, join(Role::ControlPlane, TARGET, &policy), joins),
            ("cp2", Role::ControlPlane, leave(Role::ControlPlane, &policy), leaves),
            ("cp1", Role::ControlPlane, end_memberships(&[name("cp2")], Role::ControlPlane, true), ends),
        ])
    }

    fn all_said(rollout: &Rollout, parts: &[&str]) {
        let left = rollout.left_behind();
        assert_eq!(left.len(), 1, "{left:?}");
        for part in parts {
            assert!(left[0].contains(part), "{part}: {}", left[0]);
        }
    }

    #[test]
    fn a_join_that_failed_leaves_a_member_of_etcd_which_is_told_with_the_commands_that_take_it_out() {
        let joins = join(Role::ControlPlane, TARGET, &Policy::default());
        let prepared = || NodeState::Prepared;
        let failed = replaces_cp2(failed_at(&joins, "kubeadm-join"), prepared(), prepared());
        let etcdctl = format!("`kubectl -n kube-system exec etcd-cp1 -- {ETCDCTL} member list`");
        all_said(
            &failed,
            &[
                "etcd may have a member cp4 that counts for the quorum",
                "`kubeadm reset --force` on cp4",
                &etcdctl,
                "`member remove ID`",
                "`kubectl delete node cp4`",
            ],
        );
        all_said(
            &replaces_cp2(raised(), prepared(), prepared()),
            &["etcd has one member more than before", "cp4"],
        );
        let before = replaces_cp2(failed_at(&joins, "install-kubeadm"), prepared(), prepared());
        assert_eq!(before.left_behind(), [] as [&str; 0], "it has not begun to join");
    }

    #[test]
    fn a_node_that_has_left_leaves_what_no_control_plane_has_ended() {
        let left = replaces_cp2(raised(), raised(), NodeState::Prepared);
        all_said(
            &left,
            &[
                "cp2 left the cluster",
                "its member of etcd",
                "where cp2 is in it",
                "`kubectl delete node cp2`",
            ],
        );
        let leaves = leave(Role::ControlPlane, &Policy::default());
        let half = replaces_cp2(raised(), failed_at(&leaves, "kubeadm-reset"), NodeState::Prepared);
        let said = half.left_behind();
        assert!(said.iter().any(|one| one.starts_with("cp2 has begun to leave")), "{said:?}");
        assert_eq!(replaces_cp2(raised(), raised(), raised()).left_behind(), [] as [&str; 0]);
    }

    #[test]
    fn a_worker_that_waits_to_be_put_back_is_told_with_what_has_it_take_pods_again() {
        let steps = || under_lease(Role::Worker, TARGET, &Policy::default(), None);
        let waits = NodeState::ToRollBack { lease: LEASE };
        let mut rollout =
            aborted(vec![("w1", Role::Worker, steps(), waits), ("w2", Role::Worker, steps(), raised())]);
        rollout.quarantined = [(name("w1"), "a budget".to_owned())].into();
        all_said(
            &rollout,
            &[
                "w1 could not be drained and was to be put back",
                "`kubectl uncordon w1`",
                "`liftlock apply v1.31.2`",
            ],
        );
        rollout.intent = Intent::Run;
        assert_eq!(rollout.left_behind(), [] as [&str; 0], "it is put back");
        let failed = aborted(vec![("w1", Role::Worker, steps(), failed_at(&steps(), "drain"))]);
        all_said(&failed, &["w1 was begun on and not raised: it may be cordoned", "`kubectl uncordon w1`"]);
        let both = || failed_at(&steps(), "drain");
        let both =
            aborted(vec![("w1", Role::Worker, steps(), both()), ("w2", Role::Worker, steps(), both())]);
        all_said(&both, &["w1, w2 were begun on and not raised: they may be", "`kubectl uncordon w1 w2`"]);
        let untouched = aborted(vec![("w1", Role::Worker, steps(), NodeState::Prepared)]);
        assert_eq!(untouched.left_behind(), [] as [&str; 0]);
    }
}
