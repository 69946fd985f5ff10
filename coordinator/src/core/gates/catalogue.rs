//! What the operator's catalogue says of the target, and of what lies on the way there.

use super::{Consent, Finding, Gate, Look, Situation, When};
use crate::core::catalogue::Entry;

/// Somebody has found out already.
pub(super) static KNOWN_BAD: Gate = Gate {
    name: "known-bad",
    about: "the catalogue does not know the target to be bad",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Machines(|situation| {
        let target = situation.target;
        let found = match situation.catalogue().entry(target) {
            Some(Entry::KnownBad { why }) if leads_there(situation) => {
                let why = why.trim().trim_end_matches('.');
                Some(format!("the catalogue knows {target} to be bad: {why}; {}", allowed(situation)))
            }
            _ => None,
        };
        found.map(Finding::closed).into_iter().collect()
    }),
};

/// Nobody has tried it.
pub(super) static OFF_CATALOGUE: Gate = Gate {
    name: "off-catalogue",
    about: "the catalogue approves of the target, where one is kept",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Machines(|situation| {
        let (target, catalogue) = (situation.target, situation.catalogue());
        let off = !catalogue.is_open() && catalogue.entry(target).is_none() && leads_there(situation);
        let found = off.then(|| format!("{target} is not on the catalogue: {}", allowed(situation)));
        found.map(Finding::closed).into_iter().collect()
    }),
};

/// What is done at a required stop has to be done before it goes on.
pub(super) static REQUIRED_STOP: Gate = Gate {
    name: "required-stop",
    about: "no stop that the catalogue requires is passed over",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Cluster(|situation, cluster| {
        let (present, target) = (cluster.kubeadm_config_version, situation.target);
        let passed = situation.catalogue().required_between(present, target);
        passed
            .map(|stop| {
                Finding::closed(format!(
                    "the catalogue requires a stop at {stop} on the way from {present} to {target}: raise every node to \
                     {stop} first"
                ))
            })
            .collect()
    }),
};

/// Whether anything would be raised. What runs already runs on, whatever the catalogue says of it.
fn leads_there(situation: &Situation<'_>) -> bool {
    let present = situation.cluster().map(|cluster| cluster.kubeadm_config_version);
    present != Some(situation.target) || situation.to_raise().next().is_some()
}

/// What could be raised to instead.
fn allowed(situation: &Situation<'_>) -> String {
    let present = situation.cluster().map(|cluster| cluster.kubeadm_config_version);
    match (situation.catalogue().nearest(situation.target, present).as_slice(), present) {
        ([before, after], _) => format!("the nearest that it approves of are {before} and {after}"),
        ([one], _) => format!("the nearest that it approves of is {one}"),
        (_, Some(present)) => format!("it approves of none that is newer than {present}"),
        (_, None) => "it approves of none".to_owned(),
    }
}
