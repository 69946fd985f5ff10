//! What has to be so before a roll-out starts, and some of it before each lease: one gate for each thing, by name.
//!
//! A gate looks at what the agents report and says what it found. What it finds refuses the plan, unless an operator
//! consents where that is possible. What no agent could tell is *unknown*, which is never taken for well.

use liftlock_proto::plan::{Policy, Role};

use crate::core::planning::Refusal;
use crate::core::view::ControlPlaneReport;

mod addons;
mod agents;
mod alerts;
mod api;
mod catalogue;
mod certificates;
mod etcd;
pub(crate) mod kubelets;
mod machines;
mod manifests;
mod nodes;
mod removed;
pub(crate) mod situation;
mod system;

#[cfg(test)]
pub(crate) mod tests;

use situation::Situation;

/// Something that has to be so.
pub struct Gate {
    /// `node-not-ready`, also the name under which a plan refuses and an operator consents.
    pub name: &'static str,
    /// What has to be so, for people.
    pub about: &'static str,
    /// What an operator may consent to.
    pub consent: Consent,
    /// When it is asked.
    pub when: When,
    look: Look,
}

/// What an operator may consent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Nothing: the upgrade would fail, or nobody could take responsibility.
    Never,
    /// That it is unknown: the operator has looked himself.
    ToTheUnknown,
    /// That it is as it is, known or not.
    Always,
}

/// When a gate is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the roll-out starts.
    Before,
    /// Before the roll-out starts, and before each lease that raises a node: it can change meanwhile, and heals.
    Between,
    /// The same, where the node is a worker: until the control planes are raised it need not be so.
    BeforeWorkers,
}

impl When {
    /// Whether it is asked before a lease that raises such a node.
    fn is_before(self, role: Role) -> bool {
        match self {
            Self::Before => false,
            Self::Between => true,
            Self::BeforeWorkers => !role.is_control_plane(),
        }
    }
}

/// How a gate looks.
enum Look {
    /// At what agents say of their own machines, or at what is known without them.
    Machines(fn(&Situation<'_>) -> Vec<Finding>),
    /// At the cluster too: unknown as long as no control plane has reported.
    Cluster(fn(&Situation<'_>, &ControlPlaneReport) -> Vec<Finding>),
}

/// Something that a gate found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, why, and what to do.
    pub message: String,
    /// False where the gate only found that nobody knows.
    pub known: bool,
}

impl Finding {
    /// Something that is not as it has to be.
    fn closed(message: impl Into<String>) -> Self {
        Self { message: message.into(), known: true }
    }

    /// Something that nobody knows: `what`, and why not.
    fn unknown(what: &str, why: &str) -> Self {
        Self { message: format!("nobody can tell {what}: {why}"), known: false }
    }
}

/// What became of a gate, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is as it has to be.
    Passed,
    /// It is not, or is unknown, and the operator consented to all of it.
    Accepted,
    /// Nobody knows.
    Unknown,
    /// It is not as it has to be.
    Refused,
}

/// Every gate, in the order in which they would be met.
pub static GATES: [&Gate; 42] = [
    &manifests::STRAY_MANIFEST,
    &certificates::EXPIRED,
    &agents::WITHOUT_NODE,
    &agents::MISSING,
    &agents::NOT_CONNECTED,
    &catalogue::KNOWN_BAD,
    &catalogue::OFF_CATALOGUE,
    &catalogue::REQUIRED_STOP,
    &agents::VERSION_NOT_OFFERED,
    &nodes::NOT_READY,
    &kubelets::UNKNOWN,
    &kubelets::SKEW,
    &kubelets::KUBEADM_SKEW,
    &api::UNREADY,
    &etcd::EXTERNAL,
    &etcd::QUORUM,
    &etcd::LEARNER,
    &etcd::ALARM,
    &etcd::VERSION,
    &etcd::SPACE,
    &etcd::API_OUTAGE,
    &system::COREDNS_UNREADY,
    &system::COREDNS_DEGRADED,
    &system::PODS,
    &system::KUBE_PROXIES,
    &certificates::EXPIRING,
    &nodes::ONE_ZONE,
    &removed::UNKNOWN_MINOR,
    &removed::KUBELET_FLAG,
    &removed::FEATURE_GATE,
    &removed::ARGUMENT,
    &removed::ADMISSION_PLUGIN,
    &removed::API,
    &removed::STORED,
    &machines::CONTAINER_RUNTIME,
    &machines::CGROUP_V1,
    &machines::SWAP,
    &kubelets::AHEAD,
    &manifests::DRIFT,
    &addons::UNREADABLE,
    &addons::DIFFER,
    &alerts::FIRING,
];

/// The gate that is met last, once it is known that there is something to raise at all.
pub static LAST: &Gate = &nodes::DRAIN_ONLY_NODE;

/// Every gate.
pub fn all() -> impl Iterator<Item = &'static Gate> {
    GATES.into_iter().chain([LAST])
}

/// Names of everything that an operator may consent to.
pub fn consents() -> impl Iterator<Item = &'static str> {
    all().filter(|gate| gate.consent != Consent::Never).map(|gate| gate.name)
}

impl Gate {
    /// What stands in the way.
    pub fn findings(&self, situation: &Situation<'_>) -> Vec<Finding> {
        match (&self.look, situation.cluster()) {
            (Look::Machines(look), _) => look(situation),
            (Look::Cluster(look), Some(cluster)) => look(situation, cluster),
            (Look::Cluster(_), None) => {
                vec![Finding::unknown("what the cluster is like", "no control plane has reported it yet")]
            }
        }
    }

    /// The same as a plan says it, what was consented to included.
    pub fn refusals(&self, situation: &Situation<'_>) -> Vec<Refusal> {
        let refusal = |Finding { mut message, known }: Finding| {
            let acceptable = match self.consent {
                Consent::Never => false,
                Consent::ToTheUnknown => !known,
                Consent::Always => true,
            };
            if acceptable {
                message = format!("{message}; consent with --accept {}", self.name);
            }
            Refusal { rule: self.name, message, acceptable }
        };
        self.findings(situation).into_iter().map(refusal).collect()
    }

    /// The same, where it needs no cluster to look.
    pub fn on_machines(&self, situation: &Situation<'_>) -> Vec<Refusal> {
        if matches!(self.look, Look::Machines(_)) { self.refusals(situation) } else { Vec::new() }
    }

    /// What became of it under this policy, and what it found.
    pub fn verdict(&self, situation: &Situation<'_>, policy: &Policy) -> (Verdict, Vec<String>) {
        let known = self.findings(situation).iter().any(|finding| finding.known);
        let refusals = self.refusals(situation);
        let refused = refusals.iter().any(|refusal| !(refusal.acceptable && policy.accepts(refusal.rule)));
        let verdict = match (refusals.is_empty(), refused, known) {
            (true, ..) => Verdict::Passed,
            (false, false, _) => Verdict::Accepted,
            (false, true, true) => Verdict::Refused,
            (false, true, false) => Verdict::Unknown,
        };
        (verdict, refusals.into_iter().map(|refusal| refusal.message).collect())
    }
}

/// Why no node of this role may be begun on now, though the roll-out goes on: the first gate of those that are asked between
/// nodes which is closed, with what it found. It opens by itself, once what it looks at is well again.
pub fn closed_before(
    role: Role,
    situation: &Situation<'_>,
    policy: &Policy,
) -> Option<(&'static str, String)> {
    let asked = all().filter(|gate| gate.when.is_before(role));
    let mut refusals = asked.flat_map(|gate| gate.refusals(situation));
    let closed = refusals.find(|refusal| !(refusal.acceptable && policy.accepts(refusal.rule)))?;
    Some((closed.rule, closed.message))
}
