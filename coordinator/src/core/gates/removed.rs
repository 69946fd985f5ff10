//! What the minors on the way to the target remove, as far as this cluster uses it.

use std::collections::BTreeSet;

use super::situation::{Candidate, judged};
use super::{Consent, Finding, Gate, Look, Situation, When};
use crate::core::minors::{Removed, minors};
use crate::core::view::{ControlPlaneReport, ExtraArgument, RequestedApi};

/// The file that kubeadm writes a kubelet's flags into, and cleans in an upgrade.
const KUBEADM_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// Of a minor that nobody has read up on, the gates of this file would pass what they do not know.
pub(super) static UNKNOWN_MINOR: Gate = Gate {
    name: "unknown-minor",
    about: "this version of Liftlock knows what the target's minor changes",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let target = situation.target.minor;
        let (first, last) = minors().span().unwrap_or_default();
        let unknown = minors().of(target).is_none() && target > cluster.kubeadm_config_version.minor;
        let found = unknown.then(|| {
            let newer = if target > last { "install a newer one, or " } else { "" };
            Finding::unknown(
                &format!("what {} removes", situation.target.minor_name()),
                &format!(
                    "this version of Liftlock knows releases from 1.{first} to 1.{last}; {newer}read CHANGELOG-1.{target}.md"
                ),
            )
        });
        found.into_iter().collect()
    }),
};

/// "unknown flag", and the kubelet does not start.
pub(super) static KUBELET_FLAG: Gate = Gate {
    name: "removed-kubelet-flag",
    about: "no kubelet is started with a flag that the target's does not know",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let what = "with which flags the kubelet is started";
        judged(
            situation.to_raise(),
            what,
            |agent| &agent.findings.kubelet,
            |node, kubelet| {
                let removed = removed_for(situation, node, Removed::KubeletFlag);
                let gone = kubelet.flags.iter().filter_map(|flag| {
                    let (minor, removal) =
                        removed.iter().find(|(_, removal)| removal.names.contains(&flag.name))?;
                    let stays = !(removal.cleaned_by_kubeadm && flag.file == KUBEADM_FLAGS);
                    stays.then(|| format!("{} in {} (gone in 1.{minor})", flag.name, flag.file))
                });
                let gone: BTreeSet<String> = gone.collect();
                (!gone.is_empty()).then(|| {
                format!(
                    "{}'s kubelet is started with flags that the target's does not know, and would not start: {}; take \
                     them out there first",
                    node.name,
                    joined(gone)
                )
            })
            },
        )
    }),
};

/// "unrecognized feature gate", and the component does not start.
pub(super) static FEATURE_GATE: Gate = Gate {
    name: "removed-feature-gate",
    about: "no component is given a feature gate that the target does not know",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let what = "which feature gates the kubelet is given";
        let mut findings = judged(
            situation.to_raise(),
            what,
            |agent| &agent.findings.kubelet,
            |node, kubelet| {
                let removed = removed_for(situation, node, Removed::FeatureGate);
                let gone = kubelet.feature_gates.iter().filter_map(|gate| {
                    let (minor, _) =
                        removed.iter().find(|(_, removal)| removal.names.contains(&gate.name))?;
                    Some(format!("{} in {} (gone in 1.{minor})", gate.name, gate.file))
                });
                let gone: BTreeSet<String> = gone.collect();
                (!gone.is_empty()).then(|| {
                    format!(
                        "{}'s kubelet is given feature gates that the target's does not know, and would not start: {}; \
                         take them out there and in the ConfigMap kubelet-config first",
                        node.name,
                        joined(gone)
                    )
                })
            },
        );
        findings.extend(arguments(cluster, "which feature gates the control plane is given", |arguments| {
            let gone = named_in(situation, cluster, arguments, Removed::FeatureGate, &["--feature-gates"]);
            (!gone.is_empty()).then(|| {
                format!(
                    "kubeadm-config gives the control plane feature gates that the target does not know, and it would not \
                     start: {}; take them out of its extraArgs first",
                    joined(gone)
                )
            })
        }));
        findings
    }),
};

/// "unknown flag", and the component does not start.
pub(super) static ARGUMENT: Gate = Gate {
    name: "removed-argument",
    about: "kubeadm-config gives no component an argument that the target does not know or take",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        arguments(cluster, "which arguments the control plane is given", |arguments| {
            let gone = arguments.iter().filter_map(|argument| {
                let what = match argument.component.as_str() {
                    "kube-apiserver" => Removed::KubeApiserverFlag,
                    "kube-controller-manager" => Removed::KubeControllerManagerFlag,
                    "kube-scheduler" => Removed::KubeSchedulerFlag,
                    _ => return None,
                };
                let (minor, _) = on_the_way(situation, cluster, what)
                    .find(|(_, removal)| removal.names.contains(&argument.flag))?;
                Some(format!("{} of {} (gone in 1.{minor})", argument.flag, argument.component))
            });
            let groups = named_in(situation, cluster, arguments, Removed::ApiGroup, &["--runtime-config"]);
            let gone: BTreeSet<String> =
                gone.chain(groups).chain(refused_values(situation, cluster, arguments)).collect();
            (!gone.is_empty()).then(|| {
                format!(
                    "kubeadm-config gives components arguments that the target's do not know or take, and they would not \
                     start: {}; take them out of its extraArgs first",
                    joined(gone)
                )
            })
        })
    }),
};

/// "unknown plugin", and the API server does not start.
pub(super) static ADMISSION_PLUGIN: Gate = Gate {
    name: "removed-admission-plugin",
    about: "kubeadm-config names no admission plugin that the target does not know",
    consent: Consent::ToTheUnknown,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        arguments(cluster, "which admission plugins the API server is given", |arguments| {
            let flags = ["--enable-admission-plugins", "--disable-admission-plugins"];
            let gone = named_in(situation, cluster, arguments, Removed::AdmissionPlugin, &flags);
            (!gone.is_empty()).then(|| {
                format!(
                    "kubeadm-config names admission plugins that the target's API server does not know, and it would not \
                     start: {}; take them out of its extraArgs first",
                    joined(gone)
                )
            })
        })
    }),
};

/// Whoever asked for it since the API server's start gets 404 afterwards.
pub(super) static API: Gate = Gate {
    name: "removed-api",
    about: "no client asks for an API version that the target does not serve",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let (from, to) = (cluster.kubeadm_config_version.minor, situation.target.minor);
        let gone_in = |requested: &RequestedApi| {
            let told = Some(requested.removed_in).filter(|&minor| minor > 0);
            let known = || {
                let mut removed = minors().removed(from, to, Removed::Api);
                removed.find(|(_, removal)| removal.names.contains(&requested.api)).map(|(minor, _)| minor)
            };
            told.or_else(known).filter(|&minor| from < minor && minor <= to)
        };
        let what = "which API versions are asked for";
        judged(
            situation.control_planes(),
            what,
            |agent| &agent.findings.api_server,
            |node, server| {
                let asked = server.deprecated.iter();
                let gone: BTreeSet<String> = asked
                    .filter_map(|requested| {
                        Some(format!("{} (gone in 1.{})", requested.api, gone_in(requested)?))
                    })
                    .collect();
                (!gone.is_empty()).then(|| {
                format!(
                    "since its start, {}'s API server was asked for API versions that the target does not serve: {}; find \
                     who asks in the audit log (k8s.io/deprecated) and have it ask for the later version first",
                    node.name,
                    joined(gone)
                )
            })
            },
        )
    }),
};

/// What is stored of a kind that nothing serves any more stays in etcd, and nobody can take it away.
pub(super) static STORED: Gate = Gate {
    name: "stored-objects",
    about: "no object is stored of a kind that the target does not serve at all",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| match &cluster.findings.stored {
        Err(why) => vec![Finding::unknown("which kinds are stored", why)],
        Ok(stored) => {
            let gone: BTreeSet<String> = stored
                .iter()
                .filter(|stored| stored.objects > 0)
                .filter_map(|stored| {
                    let mut kinds = on_the_way(situation, cluster, Removed::Kind);
                    let (minor, _) = kinds.find(|(_, removal)| removal.names.contains(&stored.kind))?;
                    Some(format!("{} (at least {}, gone in 1.{minor})", stored.kind, stored.objects))
                })
                .collect();
            if gone.is_empty() {
                return Vec::new();
            }
            vec![Finding::closed(format!(
                "objects are stored of kinds that the target does not serve, so that they do nothing any more and cannot be \
                 reached: {}; replace what they did and delete them first",
                joined(gone)
            ))]
        }
    }),
};

type Gone = (u16, &'static crate::core::minors::Removal);

/// What is removed on the control plane's way.
fn on_the_way(
    situation: &Situation<'_>,
    cluster: &ControlPlaneReport,
    what: Removed,
) -> impl Iterator<Item = Gone> {
    minors().removed(cluster.kubeadm_config_version.minor, situation.target.minor, what)
}

/// What is removed on a node's way. A kubelet may have stayed behind its control plane, and may have gone ahead of it.
fn removed_for(situation: &Situation<'_>, node: &Candidate<'_>, what: Removed) -> Vec<Gone> {
    let from = node.kubelet_version().map_or(0, |version| version.minor);
    minors().removed(from, situation.target.minor, what).collect()
}

/// What kubeadm-config gives the components, judged. Arguments that only a manifest has go with the upgrade: the gate
/// `drift` tells of them.
fn arguments(
    cluster: &ControlPlaneReport,
    what: &str,
    judge: impl FnOnce(&[ExtraArgument]) -> Option<String>,
) -> Vec<Finding> {
    match &cluster.findings.extra_arguments {
        Ok(arguments) => judge(arguments).map(Finding::closed).into_iter().collect(),
        Err(why) => vec![Finding::unknown(what, why)],
    }
}

/// Arguments that are known and whose values are not taken any more.
fn refused_values(
    situation: &Situation<'_>,
    cluster: &ControlPlaneReport,
    arguments: &[ExtraArgument],
) -> Vec<String> {
    let entered = minors().entered(cluster.kubeadm_config_version.minor, situation.target.minor);
    let refused = entered.flat_map(|row| row.refused.iter().map(move |refused| (row.minor, refused)));
    let given = refused.flat_map(|(minor, refused)| {
        let given = arguments.iter().filter(|argument| {
            argument.component == refused.component
                && refused.flags.contains(&argument.flag)
                && !refused.but.contains(&argument.value)
        });
        given.map(move |argument| (minor, refused, argument))
    });
    given
        .map(|(minor, refused, argument)| {
            let ExtraArgument { component, flag, value } = argument;
            format!("{flag}={value} of {component} (from 1.{minor} on only {})", refused.but.join(" or "))
        })
        .collect()
}

/// Names that are removed and stand in the comma-separated values of these flags.
fn named_in(
    situation: &Situation<'_>,
    cluster: &ControlPlaneReport,
    arguments: &[ExtraArgument],
    what: Removed,
    flags: &[&str],
) -> BTreeSet<String> {
    let values = arguments.iter().filter(|argument| flags.contains(&argument.flag.as_str()));
    let names =
        values.flat_map(|argument| argument.value.split(',').map(move |name| (argument, name.trim())));
    names
        .filter_map(|(argument, name)| {
            let name = name.split_once('=').map_or(name, |(name, _)| name);
            // `--runtime-config` names versions of groups.
            let name = if what == Removed::ApiGroup { name.split('/').next()? } else { name };
            let (minor, _) = on_the_way(situation, cluster, what)
                .find(|(_, removal)| removal.names.iter().any(|removed| removed == name))?;
            Some(format!("{name} of {} (gone in 1.{minor})", argument.component))
        })
        .collect()
}

fn joined(names: BTreeSet<String>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
