//! A plan from what the agents report, or every reason why there is none.

use liftlock_proto::argv;
use liftlock_proto::name::{NameError, PlanId};
use liftlock_proto::plan::{Plan, PlannedNode, Policy, Role};
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::PlannedPool;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::core::addons;
use crate::core::blocked;
use crate::core::gates::situation::{Candidate, Situation};
use crate::core::gates::{self, Gate};
use crate::core::node_hooks;
use crate::core::pools::{self, Arrangement};
use crate::core::sequence::{prepare, under_lease, with_switched_repository};
use crate::core::surge;
use crate::core::view::{ClusterView, ControlPlaneReport, Redeploy};

/// The rule that refuses a plan without a step.
const NOTHING_TO_DO: &str = "nothing-to-do";

/// Why a plan cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `skipped-minor`, `downgrade`, `api-outage`, …
    pub rule: &'static str,
    /// What, why, and what to do.
    pub message: String,
    /// Whether `--accept RULE` lifts it.
    pub acceptable: bool,
}

/// The plan that raises this cluster to the target, or every rule that refuses it.
///
/// The same view, target and policy give the same plan with the same hash.
///
/// # Errors
/// Each rule that is broken and was not consented to, in the order in which they would be met.
pub fn make_plan(
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
) -> Result<Plan, Vec<Refusal>> {
    plan_for(&Situation::new(view, target), policy)
}

/// The same for a situation, whose spared nodes stay at what they run.
///
/// # Errors
/// As [`make_plan`].
pub fn plan_for(situation: &Situation<'_>, policy: &Policy) -> Result<Plan, Vec<Refusal>> {
    let target = situation.target;
    let Some(cluster) = situation.cluster() else {
        // Of a cluster that nobody has seen no gate knows anything but what agents say of their own machines.
        let mut refusals: Vec<Refusal> = gates::all().flat_map(|gate| gate.on_machines(situation)).collect();
        refusals.push(Refusal::of(
            "no-control-plane",
            "no control plane has reported its cluster yet: start liftlock-agent on the control planes and look at \
             `liftlock nodes`",
        ));
        return Err(refusals);
    };

    let refused = |gate: &Gate| gate.refusals(situation);
    let mut refusals = policy_rules(policy);
    refusals.extend(pools::cluster_rules(situation, policy));
    refusals.extend(blocked::refusals(situation, policy));
    refusals.extend(version_rules(cluster, situation));
    refusals.extend(node_hooks::refusals(situation, policy));
    refusals.extend(gates::GATES.into_iter().flat_map(refused));
    if policy.redeploy {
        refusals.extend(situation.to_raise().filter_map(|node| replacement(node).err()));
    }
    let raised = situation.to_raise().next().is_none() && cluster.kubeadm_config_version == target;
    if raised && refusals.iter().all(|refusal| refusal.acceptable) {
        return Err(vec![Refusal::of(
            NOTHING_TO_DO,
            format!("every node runs {target} already: there is nothing to raise"),
        )]);
    }
    refusals.extend(refused(gates::LAST));
    refusals.retain(|refusal| !(refusal.acceptable && policy.accepts(refusal.rule)));
    if !refusals.is_empty() {
        return Err(refusals);
    }

    let (mut planned, pools) = in_order(situation, policy);
    addons::append(situation, &mut planned);
    let from_version = lowest_version(situation, &planned)
        .unwrap_or(cluster.kubeadm_config_version)
        .min(cluster.kubeadm_config_version);
    node_hooks::insert(&mut planned, policy, from_version, target);
    seal(from_version, target, planned, policy.clone(), pools)
        .map_err(|error| vec![Refusal::of("unreadable-plan", format!("the plan cannot be named: {error}"))])
}

/// Whether the hash and the id are those of the content: a plan that was changed on the way is not started.
pub fn is_sealed(plan: &Plan) -> bool {
    seal(plan.from_version, plan.to_version, plan.nodes.clone(), plan.policy.clone(), plan.pools.clone())
        .is_ok_and(|sealed| sealed.hash == plan.hash && sealed.id == plan.id)
}

pub(super) fn seal(
    from_version: KubernetesVersion,
    to_version: KubernetesVersion,
    nodes: Vec<PlannedNode>,
    policy: Policy,
    pools: Vec<PlannedPool>,
) -> Result<Plan, NameError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Content<'a> {
        from_version: KubernetesVersion,
        to_version: KubernetesVersion,
        nodes: &'a [PlannedNode],
        policy: &'a Policy,
        #[serde(skip_serializing_if = "<[PlannedPool]>::is_empty")]
        pools: &'a [PlannedPool],
    }
    let content = Content { from_version, to_version, nodes: &nodes, policy: &policy, pools: &pools };
    let json = serde_json::to_vec(&content)
        .map_err(|error| NameError { text: error.to_string(), what: "a plan that can be written as JSON" })?;
    let hash = format!("{:x}", Sha256::digest(json));
    Ok(Plan { id: PlanId::of_hash(&hash)?, hash, from_version, to_version, nodes, policy, pools })
}

/// The command that replaces a node's system, or why it cannot be replaced.
fn replacement<'a>(node: &Candidate<'a>) -> Result<&'a [String], Refusal> {
    let name = node.name;
    match node.agent().and_then(|agent| agent.redeploy.as_ref()) {
        None => Err(Refusal::of(
            "redeploy-not-configured",
            format!(
                "{name} does not say how its system is replaced: write [redeploy] with command and store into \
                 /etc/liftlock/agent.toml there and restart liftlock-agent, or plan without --redeploy"
            ),
        )),
        Some(Redeploy { refusal: Some(why), .. }) => {
            Err(Refusal::of("redeploy-refused", format!("{name} cannot be redeployed: {why}")))
        }
        Some(Redeploy { command, refusal: None }) => Ok(command),
    }
}

impl Refusal {
    /// Whether it says that the target is reached already.
    pub fn is_nothing_to_do(&self) -> bool {
        self.rule == NOTHING_TO_DO
    }

    pub(super) fn of(rule: &'static str, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), acceptable: false }
    }
}

fn policy_rules(policy: &Policy) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = policy
        .ignore_preflight_errors
        .iter()
        .filter(|name| !argv::preflight_check_name(name))
        .map(|name| {
            Refusal::of(
                "preflight-name",
                format!(
                    "\"{name}\" is not the name of a kubeadm preflight check: letters, digits and dashes only, such as \
                     CoreDNSMigration"
                ),
            )
        })
        .collect();
    refusals.extend(unknown_consents(policy));
    refusals.extend(pools::policy_rules(policy));
    refusals.extend(surge::policy_rules(policy));
    if policy.drain_timeout_seconds == 0 {
        refusals.push(Refusal::of(
            "drain-timeout",
            "a drain time-out of 0 s can never be met: give at least 1 s",
        ));
    }
    refusals
}

/// What is consented to though there is no such consent.
pub fn unknown_consents(policy: &Policy) -> impl Iterator<Item = Refusal> {
    let consents: Vec<&str> = gates::consents().collect();
    let unknown: Vec<&String> =
        policy.accepted.iter().filter(|name| !consents.contains(&name.as_str())).collect();
    unknown.into_iter().map(move |name| {
        Refusal::of(
            "unknown-consent",
            format!("\"{name}\" is no gate that can be accepted: those are {}", consents.join(", ")),
        )
    })
}

fn version_rules(cluster: &ControlPlaneReport, situation: &Situation<'_>) -> Vec<Refusal> {
    let (present, target) = (cluster.kubeadm_config_version, situation.target);
    let mut refusals = Vec::new();
    if target < present {
        refusals.push(Refusal::of(
            "downgrade",
            format!(
                "the cluster runs {present} and {target} is older, and kubeadm does not support downgrades: allowed are versions \
                 from {present} on; what a roll-out that goes on has changed is put back by `liftlock rollback`"
            ),
        ));
    } else if target.minor > present.minor + 1 {
        refusals.push(Refusal::of(
            "skipped-minor",
            format!(
                "the cluster runs {present} and kubeadm raises one minor at a time: raise it to {} first",
                KubernetesVersion::new(1, present.minor + 1, 0).minor_name()
            ),
        ));
    }
    if situation.control_planes().next().is_none() {
        refusals.push(Refusal::of(
            "no-control-plane",
            "no node is known to be a control plane: start liftlock-agent on the control planes and look at `liftlock nodes`",
        ));
    }
    refusals
}

/// Control planes first, then workers, pool by pool; what runs the target already is left out. The first of the control
/// planes keeps its part once it is raised.
fn in_order(situation: &Situation<'_>, policy: &Policy) -> (Vec<PlannedNode>, Vec<PlannedPool>) {
    let target = situation.target;
    let arrangement = Arrangement::of(situation, &policy.workers);
    let mut candidates: Vec<&Candidate<'_>> = situation.nodes().collect();
    candidates.sort_by_key(|candidate| arrangement.rank(candidate.name));
    let mut first_taken = false;
    let mut planned = Vec::new();
    for candidate in candidates {
        let role = match (candidate.control_plane(), first_taken) {
            (true, false) => Role::FirstControlPlane,
            (true, true) => Role::ControlPlane,
            (false, _) => Role::Worker,
        };
        first_taken |= candidate.control_plane();
        let replacement = replacement(candidate).ok().filter(|_| policy.redeploy);
        if situation.raises(candidate) {
            let packages = candidate.agent().map(|agent| agent.packages.clone()).unwrap_or_default();
            let mut steps = under_lease(role, target, policy, replacement);
            if packages.split_by_minor {
                steps = with_switched_repository(steps, target);
            }
            let word = blocked::on_blocked(policy, arrangement.on_blocked(candidate.name), candidate);
            planned.push(PlannedNode {
                name: candidate.name.clone(),
                role,
                prepare: prepare(role, target),
                steps: blocked::decided(steps, word),
                place: arrangement.place(candidate.name),
                packages,
            });
        }
    }
    (planned, arrangement.pools)
}

/// What the cluster comes from: the lowest kubelet, but a worker that lags says nothing of a control plane that is raised.
fn lowest_version(situation: &Situation<'_>, planned: &[PlannedNode]) -> Option<KubernetesVersion> {
    let control_planes = planned.iter().any(|node| node.role.is_control_plane());
    let counts = |node: &&Candidate<'_>| !node.spared && (node.control_plane() || !control_planes);
    situation.nodes().filter(counts).filter_map(Candidate::kubelet_version).min()
}

#[cfg(test)]
pub(crate) mod tests;
