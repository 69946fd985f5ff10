//! The static pods' manifests, from which kubeadm starts the control plane.

use super::{Consent, Finding, Gate, Look, When};
use crate::core::view::Drift;

/// How many lines of an edited manifest a refusal shows.
const DRIFT_LINES: usize = 4;

/// The kubelet runs it beside the one that kubeadm upgrades.
pub(super) static STRAY_MANIFEST: Gate = Gate {
    name: "stray-manifest",
    about: "no second manifest of a static pod lies in the manifests' folder",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Machines(|situation| situation.obstacles("stray-manifest", "whether a second manifest lies")),
};

/// What kubeadm would undo without a word.
pub(super) static DRIFT: Gate = Gate {
    name: "drift",
    about: "the manifests are what kubeadm makes of kubeadm-config",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let agents = situation.to_raise().filter_map(|node| Some((node.name, node.agent()?)));
        let found = agents.filter_map(|(name, agent)| match &agent.drift {
            Err(why) => Some(Finding::unknown(&format!("whether manifests were edited on {name}"), why)),
            Ok(edited) if edited.is_empty() => None,
            Ok(edited) => {
                let edits: Vec<String> = edited.iter().map(edit).collect();
                Some(Finding::closed(format!(
                    "manifests on {name} are not what kubeadm makes of kubeadm-config, and an upgrade would make them \
                     anew: {}; write the change into kubeadm-config (extraArgs, extraVolumes), or it is lost",
                    edits.join("; ")
                )))
            }
        });
        found.collect()
    }),
};

fn edit(Drift { path, lines }: &Drift) -> String {
    let told: Vec<&str> = lines.iter().take(DRIFT_LINES).map(String::as_str).collect();
    let more = if lines.len() > told.len() { ", …" } else { "" };
    format!("{path} ({}{more})", told.join(", "))
}
