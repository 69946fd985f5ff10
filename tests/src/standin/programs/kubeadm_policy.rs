//! kubeadm's version policy (`cmd/kubeadm/app/phases/upgrade/policy.go`).

use liftlock_proto::version::KubernetesVersion;

/// What the policy has against a target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Objections {
    /// Not even `--force` lifts these.
    pub(super) fatal: Vec<String>,
    /// `--force` lifts these.
    pub(super) skippable: Vec<String>,
}

/// Judges a target for a cluster at `cluster` with a kubeadm at `own`.
pub(super) fn judge(
    cluster: KubernetesVersion,
    own: KubernetesVersion,
    target: KubernetesVersion,
) -> Objections {
    let mut objections = Objections::default();
    if target.minor > cluster.minor + 1 {
        objections.fatal.push(format!(
            "Specified version to upgrade to \"{target}\" is too high; kubeadm can upgrade only 1 minor version at a time"
        ));
    }
    if target.minor + 1 < cluster.minor {
        objections.fatal.push(format!(
            "Specified version to downgrade to \"{target}\" is too low; kubeadm can downgrade only 1 minor version at a time"
        ));
    }
    if target.minor > own.minor {
        objections.fatal.push(format!(
            "Specified version to upgrade to \"{target}\" is at least one minor release higher than the kubeadm minor \
             release ({} > {}). Such an upgrade is not supported",
            target.minor, own.minor
        ));
    } else if target > own {
        objections.skippable.push(format!(
            "Specified version to upgrade to \"{target}\" is higher than the kubeadm version \"{own}\". Upgrade kubeadm \
             first using the tool you used to install kubeadm"
        ));
    }
    if own.minor > target.minor {
        objections.skippable.push(format!(
            "Kubeadm version {own} can only be used to upgrade to Kubernetes version {}.{}",
            own.major, own.minor
        ));
    }
    objections
}

/// The policy's words on standard error; `None` where the target may be taken.
pub(super) fn refusal(objections: &Objections, force: bool) -> Option<String> {
    let list = |sentences: &[String]| format!("\t- {}\n", sentences.join("\n\t- "));
    if !objections.fatal.is_empty() {
        return Some(format!(
            "[upgrade/version] FATAL: the --version argument is invalid due to these fatal errors:\n\n{}\n\
             Please fix the misalignments highlighted above and try upgrading again",
            list(&objections.fatal)
        ));
    }
    if !objections.skippable.is_empty() && !force {
        return Some(format!(
            "[upgrade/version] FATAL: the --version argument is invalid due to these errors:\n\n{}\n\
             Can be bypassed if you pass the --force flag",
            list(&objections.skippable)
        ));
    }
    None
}
