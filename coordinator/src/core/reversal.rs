//! How far a roll-out can be put back as a whole.
//!
//! kubeadm supports no way back across a finished minor upgrade, and etcd's data is never downgraded. A node that
//! fails can be put back as long as the API servers of the earlier version still understand what is stored.

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Plan, PlannedNode, Role};
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;

use crate::core::membership::{Membership, is_final};
use crate::core::minors::{Minor, minors};

/// Where a roll-out stops being one that can be put back as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointOfNoReturn {
    /// Nowhere: only the patch release changes, so `kubeadm upgrade apply --force` leads back from everywhere.
    Nowhere,
    /// At one step of one node.
    At {
        /// The first control plane.
        node: NodeName,
        /// That step's name.
        step: &'static str,
        /// Why there is no way back from there.
        cause: Cause,
    },
    /// Before the plan starts: an earlier roll-out raised the first control plane.
    Behind,
}

/// Why there is no way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The target's etcd is of another minor version: once it ran, the earlier one refuses the data. Begins with
    /// the step.
    EtcdMinor,
    /// API servers of another minor version store objects in their own way. Begins when the step has ended.
    ApiMinor,
    /// The system is replaced as a whole, and nobody has the earlier one. Begins with the step.
    Replaced,
    /// A node leaves the cluster, and comes back only by joining. Begins with the step.
    Membership,
}

/// Where the plan's way back ends.
pub fn point_of_no_return(plan: &Plan) -> PointOfNoReturn {
    if Membership::of(plan).is_some() {
        let first =
            plan.nodes.iter().find_map(|node| Some((node, node.steps.iter().find(|step| is_final(step))?)));
        return first.map_or(PointOfNoReturn::Nowhere, |(node, step)| PointOfNoReturn::At {
            node: node.name.clone(),
            step: step.name(),
            cause: Cause::Membership,
        });
    }
    if plan.from_version.minor == plan.to_version.minor {
        let replaced = plan.nodes.iter().find_map(|node| Some((node, redeploy(node)?)));
        return replaced.map_or(PointOfNoReturn::Nowhere, |(node, _)| PointOfNoReturn::At {
            node: node.name.clone(),
            step: REDEPLOY,
            cause: Cause::Replaced,
        });
    }
    let cause = if changes_etcd_minor(plan) { Cause::EtcdMinor } else { Cause::ApiMinor };
    let ends_at = |step: &&Step| match cause {
        Cause::EtcdMinor => matches!(step, Step::KubeadmUpgradeApply { .. }),
        Cause::ApiMinor => matches!(step, Step::VerifyControlPlane { .. }),
        Cause::Replaced | Cause::Membership => matches!(step, Step::Redeploy { .. }),
    };
    let first = plan
        .nodes
        .iter()
        .find(|node| node.steps.iter().any(|step| matches!(step, Step::KubeadmUpgradeApply { .. })));
    first.and_then(|node| Some((node, node.steps.iter().find(ends_at)?))).map_or(
        PointOfNoReturn::Behind,
        |(node, step)| PointOfNoReturn::At { node: node.name.clone(), step: step.name(), cause },
    )
}

/// Whether the plan brings another minor version of etcd, whose data the earlier one refuses. Of a Kubernetes minor that
/// the table of facts does not have, the worse is assumed.
pub fn changes_etcd_minor(plan: &Plan) -> bool {
    let etcd = |version: KubernetesVersion| minors().of(version.minor).and_then(Minor::etcd_minor);
    let (from, to) = (etcd(plan.from_version), etcd(plan.to_version));
    plan.from_version.minor != plan.to_version.minor && (from.is_none() || from != to)
}

const REDEPLOY: &str = "redeploy";

fn redeploy(node: &PlannedNode) -> Option<usize> {
    node.steps.iter().position(|step| matches!(step, Step::Redeploy { .. }))
}

/// Whether a node that came as far as the step at this position (counted from 0) has another system than before, which
/// nobody puts back. Where it stopped at the replacement itself only its agent can tell, and does when it is asked to.
pub fn is_replaced(node: &PlannedNode, reached: usize) -> bool {
    redeploy(node).is_some_and(|redeploy| reached > redeploy)
}

/// Whether a node that came as far as the step at this position (counted from 0) has an etcd whose data the earlier
/// etcd refuses: then it is never put back by itself.
pub fn etcd_has_moved_on(plan: &Plan, node: &PlannedNode, reached: usize) -> bool {
    let upgrades = |step: &Step| {
        matches!(
            step,
            Step::KubeadmUpgradeApply { .. } | Step::KubeadmUpgradeNode { role: Role::ControlPlane, .. }
        )
    };
    changes_etcd_minor(plan) && node.steps.iter().position(upgrades).is_some_and(|upgrade| reached >= upgrade)
}

#[cfg(test)]
mod tests {
    use liftlock_proto::packages::PackageSource;
    use liftlock_proto::plan::Policy;

    use super::*;
    use crate::core::sequence::{prepare, under_lease};

    fn plan(from: &str, to: &str, roles: &[(&str, Role)]) -> Plan {
        let to: KubernetesVersion = to.parse().unwrap();
        let node = |(name, role): &(&str, Role)| PlannedNode {
            name: name.parse().unwrap(),
            role: *role,
            prepare: prepare(*role, to),
            steps: under_lease(*role, to, &Policy::default(), None),
            place: None,
            packages: PackageSource::default(),
        };
        Plan {
            id: "p-0123456789ab".parse().unwrap(),
            hash: "0123456789ab".to_owned(),
            from_version: from.parse().unwrap(),
            to_version: to,
            nodes: roles.iter().map(node).collect(),
            policy: Policy::default(),
            pools: Vec::new(),
        }
    }

    const WHOLE: [(&str, Role); 3] =
        [("cp1", Role::FirstControlPlane), ("cp2", Role::ControlPlane), ("w1", Role::Worker)];

    fn at(step: &'static str, cause: Cause) -> PointOfNoReturn {
        PointOfNoReturn::At { node: "cp1".parse().unwrap(), step, cause }
    }

    #[test]
    fn a_patch_release_can_be_put_back_from_everywhere() {
        assert_eq!(point_of_no_return(&plan("v1.20.2", "v1.20.9", &WHOLE)), PointOfNoReturn::Nowhere);
    }

    #[test]
    fn a_minor_is_final_once_the_first_control_plane_serves_it() {
        let point = point_of_no_return(&plan("v1.19.7", "v1.20.2", &WHOLE));
        assert_eq!(point, at("verify-control-plane", Cause::ApiMinor));
    }

    #[test]
    fn a_minor_that_brings_another_etcd_is_final_from_the_first_apply_on() {
        for (from, to) in [("v1.21.1", "v1.22.0"), ("v1.33.4", "v1.34.1"), ("v1.36.0", "v1.37.0")] {
            let point = point_of_no_return(&plan(from, to, &WHOLE));
            assert_eq!(point, at("kubeadm-upgrade-apply", Cause::EtcdMinor), "{from} to {to}");
        }
    }

    #[test]
    fn an_etcd_of_another_minor_shuts_the_way_back_of_control_planes_and_of_no_worker() {
        let moved_on = |from, to, node: usize, step| {
            let plan = plan(from, to, &WHOLE);
            let node = &plan.nodes[node];
            let reached = node.steps.iter().position(|planned| planned.name() == step).unwrap();
            etcd_has_moved_on(&plan, node, reached)
        };
        assert!(!moved_on("v1.21.1", "v1.22.0", 0, "install-kubeadm"));
        assert!(moved_on("v1.21.1", "v1.22.0", 0, "kubeadm-upgrade-apply"));
        assert!(moved_on("v1.21.1", "v1.22.0", 1, "drain"));
        assert!(!moved_on("v1.21.1", "v1.22.0", 2, "verify-node"));
        assert!(!moved_on("v1.19.7", "v1.20.2", 0, "verify-node"));
    }

    #[test]
    fn a_system_that_is_replaced_is_a_point_of_no_return_of_its_own() {
        let replaced = |from: &str, to: &str| {
            let mut plan = plan(from, to, &WHOLE);
            for node in &mut plan.nodes {
                node.steps =
                    under_lease(node.role, plan.to_version, &plan.policy, Some(&["/replace".to_owned()]));
            }
            plan
        };
        let patch = replaced("v1.20.2", "v1.20.9");
        assert_eq!(point_of_no_return(&patch), at("redeploy", Cause::Replaced));
        let minor = replaced("v1.19.7", "v1.20.2");
        assert_eq!(
            point_of_no_return(&minor),
            at("verify-control-plane", Cause::ApiMinor),
            "it comes before"
        );
        let node = &patch.nodes[2];
        let redeploy = node.steps.iter().position(|step| step.name() == "redeploy").unwrap();
        assert!(!is_replaced(node, redeploy), "its agent knows whether the command came to anything");
        assert!(is_replaced(node, redeploy + 1) && is_replaced(node, node.steps.len()));
        assert!(!is_replaced(&plan("v1.20.2", "v1.20.9", &WHOLE).nodes[2], 99));
    }

    #[test]
    fn a_plan_that_finishes_an_earlier_raise_starts_behind_the_point() {
        let rest = [("cp2", Role::ControlPlane), ("w1", Role::Worker)];
        assert_eq!(point_of_no_return(&plan("v1.19.7", "v1.20.2", &rest)), PointOfNoReturn::Behind);
    }
}
