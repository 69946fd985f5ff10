//! Kubelets and the API servers that they speak to may differ in version only so far.

use liftlock_proto::version::KubernetesVersion;

use super::situation::judged;
use super::{Consent, Finding, Gate, Look, When};
use crate::core::minors::{Requirement, minors};

/// Nothing follows from a version that is none.
pub(super) static UNKNOWN: Gate = Gate {
    name: "unknown-kubelet",
    about: "every kubelet reports a released version",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let nodes = situation.nodes().filter(|node| node.object().is_some());
        nodes
            .filter(|node| node.kubelet_version().is_none())
            .map(|node| {
                Finding::closed(format!(
                    "{} reports a kubelet version that is no release: raise it by hand to a release first",
                    node.name
                ))
            })
            .collect()
    }),
};

/// Never newer than the API server, nor too old for it.
pub(super) static SKEW: Gate = Gate {
    name: "kubelet-skew",
    about: "no kubelet is newer than the target, or too old for it",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let target = situation.target;
        let kubelets = situation.nodes().filter_map(|node| Some((node.name, node.kubelet_version()?)));
        let out_of_skew = kubelets.filter_map(|(name, kubelet)| {
            if kubelet > target {
                return Some(format!(
                    "{name}'s kubelet runs {kubelet}, newer than {target}, and a kubelet may not be newer than the API server: allowed \
                     are versions from {kubelet} on"
                ));
            }
            let allowed = kubernetes_allows(kubelet);
            (target.minor - kubelet.minor > allowed).then(|| {
                format!(
                    "{name}'s kubelet runs {kubelet}: {target} allows at most {allowed} minor versions behind it, so raise \
                     that kubelet first"
                )
            })
        });
        out_of_skew.map(Finding::closed).collect()
    }),
};

/// kubeadm looks at every kubelet before it raises the control plane, and allows less than Kubernetes does.
pub(super) static KUBEADM_SKEW: Gate = Gate {
    name: "kubeadm-skew",
    about: "no kubelet is too far behind for the target's kubeadm to raise a control plane",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let (present, target) = (cluster.kubeadm_config_version, situation.target);
        // It looks only in `kubeadm upgrade apply`, on the first control plane, and refuses a skipped minor before.
        let applies = situation.control_planes().next().is_some_and(|first| situation.raises(first));
        if !applies || target.minor > present.minor + 1 {
            return Vec::new();
        }
        let kubelets = situation.nodes().filter_map(|node| Some((node.name, node.kubelet_version()?)));
        let too_old = kubelets.filter(|(_, kubelet)| {
            let behind = target.minor.saturating_sub(kubelet.minor);
            behind > kubeadm_allows(target) && behind <= kubernetes_allows(*kubelet)
        });
        too_old
            .map(|(name, kubelet)| {
                Finding::closed(format!(
                    "{name}'s kubelet runs {kubelet}, and kubeadm of {} raises no control plane while a kubelet is more \
                     than {} behind: raise that kubelet to {} first",
                    target.minor_name(),
                    if kubeadm_allows(target) == 1 { "one minor" } else { "three minors" },
                    present.minor_name(),
                ))
            })
            .collect()
    }),
};

/// How many minors a kubelet may be behind the API server: two, and three from kubelet 1.25 on
/// (<https://kubernetes.io/releases/version-skew-policy/>).
fn kubernetes_allows(kubelet: KubernetesVersion) -> u16 {
    if kubelet.minor >= 25 { 3 } else { 2 }
}

/// How many minors any kubelet may be behind when kubeadm raises the control plane to a version: three from 1.29 on, one
/// before (`detectTooOldKubelets` in kubeadm's `phases/upgrade/policy.go`; <https://github.com/kubernetes/kubernetes/pull/120825>).
fn kubeadm_allows(target: KubernetesVersion) -> u16 {
    if target.minor >= 29 { 3 } else { 1 }
}

/// Whether a kubelet is too far behind for the control plane to be raised to a version.
pub(crate) fn is_too_old(kubelet: KubernetesVersion, target: KubernetesVersion) -> bool {
    target.minor.saturating_sub(kubelet.minor) > kubernetes_allows(kubelet).min(kubeadm_allows(target))
}

/// A control plane's kubelet is raised right after its own API server. Behind a load balancer it then meets the others',
/// which are older: that is outside of the skew always, and breaks where the kubelet asks what they do not understand.
pub(super) static AHEAD: Gate = Gate {
    name: "kubelet-ahead",
    about: "no control plane's kubelet meets an API server that does not understand it yet",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let (from, to) = (cluster.kubeadm_config_version.minor, situation.target.minor);
        let mut entered = minors().entered(from, to);
        let Some(minor) = entered.find(|minor| minor.requires.iter().any(breaks_older_servers)) else {
            return Vec::new();
        };
        if situation.control_planes().count() < 2 {
            return Vec::new();
        }
        let nodes = situation.control_planes().filter(|node| situation.raises(node));
        let what = "which API server the kubelet speaks to";
        judged(
            nodes,
            what,
            |agent| &agent.findings.kubelet_api_server,
            |node, server| {
                let own = node.agent()?.findings.api_server.as_ref().ok().map(|own| own.address.as_str());
                (own != Some(server)).then(|| {
                format!(
                    "{name}'s kubelet speaks to {server}, which is not {name}'s own API server{own}: as soon as it runs \
                     1.{minor} it asks what the API servers of the other control planes do not understand yet, and starts \
                     no pods (kubernetes/kubernetes issue 127316); write its own API server into \
                     /etc/kubernetes/kubelet.conf there and restart the kubelet",
                    name = node.name,
                    own = own.map(|own| format!(" ({own})")).unwrap_or_default(),
                    minor = minor.minor,
                )
            })
            },
        )
    }),
};

fn breaks_older_servers(requirement: &Requirement) -> bool {
    matches!(requirement, Requirement::KubeletBehindOwnApiServer { .. })
}
