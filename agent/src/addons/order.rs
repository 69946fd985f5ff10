//! In which order kinds are applied: what others need comes first.

/// What has to be there before anything else, in this order; kinds that are not named come after them.
const FIRST: [&str; 20] = [
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "StorageClass",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodSecurityPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
];

/// What other objects would have to pass, or be served by, before it runs: it comes last.
const LAST: [&str; 3] = ["APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Where a kind stands among the others.
pub fn rank(kind: &str) -> usize {
    let first = FIRST.iter().position(|one| *one == kind);
    let last = || LAST.iter().position(|one| *one == kind).map(|at| FIRST.len() + 1 + at);
    first.or_else(last).unwrap_or(FIRST.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first_and_what_would_stand_in_their_way_last() {
        let mut kinds = ["ValidatingWebhookConfiguration", "Deployment", "Widget", "ConfigMap", "Namespace"];
        kinds.sort_by_key(|kind| rank(kind));
        assert_eq!(
            kinds,
            ["Namespace", "ConfigMap", "Deployment", "Widget", "ValidatingWebhookConfiguration"]
        );
        assert!(rank("CustomResourceDefinition") < rank("Widget"));
    }
}
