//! What a kubelet of the target needs of its machine. It is restarted there, and does not come back without.

use super::situation::{Candidate, judged};
use super::{Consent, Finding, Gate, Look, When};
use crate::core::minors::{Requirement, minors};
use crate::core::view::NodeObject;

/// A kubelet from 1.24 on drives Docker no more, one from 1.26 on speaks CRI v1 only.
pub(super) static CONTAINER_RUNTIME: Gate = Gate {
    name: "container-runtime",
    about: "every node's container runtime is new enough for the target's kubelet",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let nodes = situation.to_raise().filter_map(|node| Some((node, node.object()?)));
        nodes.filter_map(|(node, object)| runtime(node, object, situation.target.minor)).collect()
    }),
};

fn runtime(node: &Candidate<'_>, object: &NodeObject, target: u16) -> Option<Finding> {
    let name = node.name;
    let kubelet = object.kubelet_version?.minor;
    let required = || {
        minors().entered(kubelet, target).flat_map(|row| row.requires.iter().map(|need| (row.minor, need)))
    };
    let Some((runtime, version)) = object.container_runtime.split_once("://") else {
        let needs = required().any(|(_, need)| {
            matches!(need, Requirement::Containerd { .. } | Requirement::NoDockershim { .. })
        });
        let why = "its Node does not say";
        return needs.then(|| Finding::unknown(&format!("which container runtime {name} has"), why));
    };
    required().find_map(|(minor, need)| match need {
        Requirement::NoDockershim { .. } if runtime == "docker" => Some(Finding::closed(format!(
            "{name} runs its containers with Docker {version}, which kubelets from 1.{minor} on do not drive: move the node \
             to containerd, or put cri-dockerd between, as the kubelet of 1.{minor} needs it"
        ))),
        Requirement::Containerd { at_least, .. } if runtime == "containerd" => match older(version, at_least) {
            Some(false) => None,
            Some(true) => Some(Finding::closed(format!(
                "{name} has containerd {version}, and kubelets from 1.{minor} on speak CRI v1 only, which containerd has \
                 from {at_least} on: upgrade containerd there first"
            ))),
            None => Some(Finding::unknown(
                &format!("whether containerd on {name} is {at_least} or later"),
                &format!("its Node says \"{version}\", which is no release"),
            )),
        },
        _ => None,
    })
}

/// Whether a release comes before another, by their numbers; `None` for what is no release.
fn older(version: &str, than: &str) -> Option<bool> {
    let numbers = |text: &str| -> Option<Vec<u32>> {
        let release = text.split(['-', '+', '~']).next()?;
        let release = release.strip_prefix('v').unwrap_or(release);
        release.split('.').map(|number| number.parse().ok()).collect()
    };
    Some(numbers(version)? < numbers(than)?)
}

/// A kubelet from 1.35 on ends at its start there, unless it is told otherwise.
pub(super) static CGROUP_V1: Gate = Gate {
    name: "cgroup-v1",
    about: "every node has cgroup v2 where the target's kubelet needs it",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let target = situation.target.minor;
        let needs = |requirement: &Requirement| matches!(requirement, Requirement::CgroupV2 { .. });
        let needs_v2 = |node: &&Candidate<'_>| {
            let from = node.kubelet_version().map_or(0, |version| version.minor);
            minors().entered(from, target).any(|row| row.requires.iter().any(needs))
        };
        let nodes = || situation.to_raise().filter(needs_v2);
        let what = "whether there is cgroup v2";
        judged(
            nodes(),
            what,
            |agent| &agent.findings.cgroup_v2,
            |node, &v2| {
                let allowed =
                    node.agent()?.findings.kubelet.as_ref().is_ok_and(|kubelet| kubelet.starts_on_cgroup_v1);
                (!v2 && !allowed).then(|| {
                format!(
                    "{} has cgroup v1, on which a kubelet of 1.{target} does not start: boot it with cgroup v2 \
                     (systemd.unified_cgroup_hierarchy=1), or set failCgroupV1: false in /var/lib/kubelet/config.yaml and \
                     in the ConfigMap kubelet-config",
                    node.name
                )
            })
            },
        )
    }),
};

/// Swap that was turned on since the kubelet started keeps it from starting again.
pub(super) static SWAP: Gate = Gate {
    name: "swap",
    about: "no node swaps whose kubelet refuses to start beside swap",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let what = "whether there is swap";
        judged(
            situation.to_raise(),
            what,
            |agent| &agent.findings.swap,
            |node, swap| {
                let fails =
                    node.agent()?.findings.kubelet.as_ref().map_or(true, |kubelet| kubelet.fails_on_swap);
                (fails && !swap.is_empty()).then(|| {
                format!(
                    "{} swaps to {}, and its kubelet does not start beside swap: turn it off there (`swapoff --all`, and \
                     take it out of /etc/fstab), or set failSwapOn: false in its configuration",
                    node.name,
                    swap.join(", ")
                )
            })
            },
        )
    }),
};
