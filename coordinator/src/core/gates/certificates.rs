//! Certificates that have ended, or end soon and are renewed by nobody.

use super::situation::judged;
use super::{Consent, Finding, Gate, Look, When};
use crate::core::view::ExpiringCertificate;

/// kubeadm and the control plane do not work with them.
pub(super) static EXPIRED: Gate = Gate {
    name: "certificate-expired",
    about: "no certificate of a control plane has ended",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Machines(|situation| {
        situation.obstacles("certificate-expired", "whether certificates have ended")
    }),
};

/// An upgrade renews what kubeadm made with a CA whose key it has; the rest somebody has to renew.
pub(super) static EXPIRING: Gate = Gate {
    name: "certificate-expiring",
    about: "no certificate ends within 30 days that the upgrade does not renew",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|situation, _| {
        let what = "when the certificates end";
        judged(
            situation.nodes(),
            what,
            |agent| &agent.findings.expiring,
            |node, expiring| {
                let told = |one: &ExpiringCertificate| format!("{} ({}: {})", one.path, one.ends, one.why);
                let told: Vec<String> = expiring.iter().map(told).collect();
                (!told.is_empty()).then(|| {
                format!(
                    "certificates on {} end within 30 days, and the upgrade does not renew them: {}; renew them first",
                    node.name,
                    told.join(", ")
                )
            })
            },
        )
    }),
};

impl super::Situation<'_> {
    /// What agents found that has to be put right whatever the target.
    pub(super) fn obstacles(&self, rule: &str, what: &str) -> Vec<Finding> {
        let agents = self.nodes().filter_map(|node| Some((node.name, node.agent()?)));
        let found = agents.flat_map(|(name, agent)| match &agent.obstacles {
            Err(why) => vec![Finding::unknown(&format!("{what} on {name}"), why)],
            Ok(found) => {
                let of_this = found.iter().filter(|one| one.rule == rule);
                of_this.map(|one| Finding::closed(format!("{name}: {}", one.message))).collect()
            }
        });
        found.collect()
    }
}
