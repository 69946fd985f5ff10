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
                    "{name}'s kubelet runs {kubelet}, newer than {target}: a kubelet may not be newer than the API server"
                ));
            }
            let allowed = allowed_skew(kubelet);
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

/// How many minors a kubelet may be behind the API server: two, and three from kubelet 1.25 on
/// (<https://kubernetes.io/releases/version-skew-policy/>).
fn allowed_skew(kubelet: KubernetesVersion) -> u16 {
    if kubelet.minor >= 25 { 3 } else { 2 }
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
        let nodes = situation.control_planes().filter(|node| !node.runs(situation.target));
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
