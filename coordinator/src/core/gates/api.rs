//! Each API server by itself, past any load balancer.

use super::situation::judged;
use super::{Consent, Gate, Look, When};

/// A load balancer hides one that is not ready, until the others are taken away.
pub(super) static UNREADY: Gate = Gate {
    name: "api-server-unready",
    about: "each control plane's own API server says that it is ready",
    consent: Consent::ToTheUnknown,
    when: When::Between,
    look: Look::Cluster(|situation, _| {
        let what = "whether the API server is ready";
        judged(
            situation.control_planes(),
            what,
            |agent| &agent.findings.api_server,
            |node, server| {
                (!server.unready.is_empty()).then(|| {
                format!(
                    "the API server of {} is not ready: {}; its log is below /var/log/pods/kube-system_kube-apiserver-… there",
                    node.name, server.unready
                )
            })
            },
        )
    }),
};
