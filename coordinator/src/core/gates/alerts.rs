//! What Prometheus says of the cluster, where the coordinator asks one.

use super::{Consent, Gate, Look, When};
use crate::core::alerts::CONSENT;

/// Alerts are no agent's to report, and which of them count is a matter of the roll-out: whoever keeps it asks before each
/// node (see [`crate::core::hold`]), and here is only its name. Nothing is planned or refused by what fires meanwhile.
pub(super) static FIRING: Gate = Gate {
    name: CONSENT,
    about: "before each node: no alert fires in the Prometheus that the coordinator asks, if it asks one",
    consent: Consent::Always,
    when: When::Between,
    look: Look::Machines(|_| Vec::new()),
};
