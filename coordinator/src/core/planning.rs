//! A plan from what the agents report, or every reason why there is none.

use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::argv;
use liftlock_proto::name::{NameError, NodeName, PlanId};
use liftlock_proto::plan::{Plan, PlannedNode, Policy, Role};
use liftlock_proto::version::KubernetesVersion;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::core::sequence::{
    API_OUTAGE, CONSENTS, COREDNS_DEGRADED, DRAIN_ONLY_NODE, DRIFT, prepare, under_lease,
};
use crate::core::view::{AgentView, ClusterView, ControlPlaneReport, Drift, NodeObject, NodeView, Replicas};

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
    make_plan_without(&BTreeSet::new(), view, target, policy)
}

/// The same without some workers, which stay at what they run.
///
/// # Errors
/// As [`make_plan`].
pub fn make_plan_without(
    spared: &BTreeSet<NodeName>,
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
) -> Result<Plan, Vec<Refusal>> {
    let candidate = |(name, node)| Candidate { name, node, spared: spared.contains(name) };
    let nodes: Vec<Candidate<'_>> = view.nodes.iter().map(candidate).collect();
    let mut refusals: Vec<Refusal> = nodes.iter().flat_map(Candidate::obstacles).collect();
    let Some(cluster) = &view.cluster else {
        refusals.push(Refusal::of(
            "no-control-plane",
            "no control plane has reported its cluster yet: start liftlock-agent on the control planes and look at \
             `liftlock nodes`",
        ));
        return Err(refusals);
    };

    refusals.extend(policy_rules(policy));
    refusals.extend(version_rules(cluster, &nodes, target));
    refusals.extend(nodes.iter().filter_map(|candidate| candidate.refusal(target)));
    refusals.extend(kubeadm_rules(cluster, &nodes, target));
    refusals.extend(etcd_rules(cluster));
    refusals.extend(dns_rule(cluster));
    refusals.extend(nodes.iter().filter(|candidate| !candidate.runs(target)).filter_map(Candidate::drift));
    let raised = nodes.iter().all(|candidate| candidate.spared || candidate.runs(target))
        && cluster.kubeadm_config_version == target;
    if raised && refusals.iter().all(|refusal| refusal.acceptable) {
        return Err(vec![Refusal::of(
            "nothing-to-do",
            format!("every node runs {target} already: there is nothing to raise"),
        )]);
    }
    refusals.extend(drain_rule(&nodes, target));
    refusals.retain(|refusal| !(refusal.acceptable && policy.accepts(refusal.rule)));
    if !refusals.is_empty() {
        return Err(refusals);
    }

    let planned = in_order(&nodes, target, policy);
    let from_version = lowest_version(&nodes, &planned)
        .unwrap_or(cluster.kubeadm_config_version)
        .min(cluster.kubeadm_config_version);
    seal(from_version, target, planned, policy.clone())
        .map_err(|error| vec![Refusal::of("unreadable-plan", format!("the plan cannot be named: {error}"))])
}

/// Whether the hash and the id are those of the content: a plan that was changed on the way is not started.
pub fn is_sealed(plan: &Plan) -> bool {
    seal(plan.from_version, plan.to_version, plan.nodes.clone(), plan.policy.clone())
        .is_ok_and(|sealed| sealed.hash == plan.hash && sealed.id == plan.id)
}

fn seal(
    from_version: KubernetesVersion,
    to_version: KubernetesVersion,
    nodes: Vec<PlannedNode>,
    policy: Policy,
) -> Result<Plan, NameError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Content<'a> {
        from_version: KubernetesVersion,
        to_version: KubernetesVersion,
        nodes: &'a [PlannedNode],
        policy: &'a Policy,
    }
    let content = Content { from_version, to_version, nodes: &nodes, policy: &policy };
    let json = serde_json::to_vec(&content)
        .map_err(|error| NameError { text: error.to_string(), what: "a plan that can be written as JSON" })?;
    let hash = format!("{:x}", Sha256::digest(json));
    Ok(Plan { id: PlanId::of_hash(&hash)?, hash, from_version, to_version, nodes, policy })
}

struct Candidate<'a> {
    name: &'a NodeName,
    node: &'a NodeView,
    /// Stays at what it runs.
    spared: bool,
}

impl Candidate<'_> {
    fn control_plane(&self) -> bool {
        self.node.agent.as_ref().is_some_and(|agent| agent.control_plane)
            || self.node.object.as_ref().is_some_and(|object| object.control_plane)
    }

    fn kubelet_version(&self) -> Option<KubernetesVersion> {
        self.node.object.as_ref().and_then(|object| object.kubelet_version)
    }

    /// Whether nothing of this node is left to raise.
    fn runs(&self, target: KubernetesVersion) -> bool {
        let control_plane = !self.control_plane()
            || self.node.agent.as_ref().and_then(|agent| agent.control_plane_version) == Some(target);
        control_plane && self.kubelet_version() == Some(target)
    }

    fn refusal(&self, target: KubernetesVersion) -> Option<Refusal> {
        let name = self.name;
        let Some(object) = &self.node.object else {
            return Some(Refusal::of(
                "agent-without-node",
                format!(
                    "{name} has an agent and the cluster has no such Node: its name must be the Node's; enrol it again \
                     with `liftlock token create --node NODE`"
                ),
            ));
        };
        let Some(agent) = self.node.agent.as_ref() else {
            return Some(Refusal::of(
                "node-without-agent",
                format!(
                    "{name} is in the cluster and has no agent: install liftlock-agent there and enrol it"
                ),
            ));
        };
        self.agent_refusal(agent, target).or_else(|| self.object_refusal(object, target))
    }

    fn agent_refusal(&self, agent: &AgentView, target: KubernetesVersion) -> Option<Refusal> {
        let name = self.name;
        if !agent.connected {
            return Some(Refusal::of(
                "agent-not-connected",
                format!("{name}'s agent is not connected: look at `systemctl status liftlock-agent` there"),
            ));
        }
        if !agent.offered.contains(&target) && !self.runs(target) && !self.spared {
            let offered = agent.offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let offered = if offered.is_empty() { "nothing".to_owned() } else { offered };
            return Some(Refusal::of(
                "version-not-offered",
                format!(
                    "{name}'s package repositories do not offer kubeadm, kubelet and kubectl at {target} (they offer \
                     {offered}): add the repository of {} there",
                    target.minor_name()
                ),
            ));
        }
        None
    }

    /// What its agent found that has to be put right first.
    fn obstacles(&self) -> Vec<Refusal> {
        let found = self.node.agent.iter().flat_map(|agent| &agent.obstacles);
        found.map(|one| Refusal::of(one.rule, format!("{}: {}", self.name, one.message))).collect()
    }

    /// What kubeadm would undo without a word.
    fn drift(&self) -> Option<Refusal> {
        let edited: Vec<String> = self
            .node
            .agent
            .iter()
            .flat_map(|agent| &agent.drift)
            .map(|Drift { path, lines }| {
                let told: Vec<&str> = lines.iter().take(DRIFT_LINES).map(String::as_str).collect();
                let more = if lines.len() > told.len() { ", …" } else { "" };
                format!("{path} ({}{more})", told.join(", "))
            })
            .collect();
        (!edited.is_empty()).then(|| Refusal {
            rule: DRIFT,
            message: format!(
                "manifests on {} are not what kubeadm makes of kubeadm-config, and an upgrade would make them anew: {}; \
                 write the change into kubeadm-config (extraArgs, extraVolumes), or consent to its loss with --accept \
                 {DRIFT}",
                self.name,
                edited.join("; ")
            ),
            acceptable: true,
        })
    }

    fn object_refusal(&self, object: &NodeObject, target: KubernetesVersion) -> Option<Refusal> {
        let name = self.name;
        if !object.ready {
            return Some(Refusal::of(
                "node-not-ready",
                format!(
                    "{name} is not Ready: mend it first, `kubectl describe node {name}` says what is wrong"
                ),
            ));
        }
        let Some(kubelet) = object.kubelet_version else {
            return Some(Refusal::of(
                "unknown-kubelet",
                format!(
                    "{name} reports a kubelet version that is no release: raise it by hand to a release first"
                ),
            ));
        };
        if kubelet > target {
            return Some(Refusal::of(
                "kubelet-skew",
                format!(
                    "{name}'s kubelet runs {kubelet}, newer than {target}: a kubelet may not be newer than the API server"
                ),
            ));
        }
        let allowed = kubelet_skew(kubelet);
        (target.minor - kubelet.minor > allowed).then(|| {
            Refusal::of(
                "kubelet-skew",
                format!(
                    "{name}'s kubelet runs {kubelet}: {target} allows at most {allowed} minor versions behind it, so raise \
                     that kubelet first"
                ),
            )
        })
    }
}

impl Refusal {
    fn of(rule: &'static str, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), acceptable: false }
    }
}

/// How many lines of an edited manifest a refusal shows.
const DRIFT_LINES: usize = 4;

/// How many minors a kubelet may be behind the API server: two, and three from kubelet 1.25 on
/// (<https://kubernetes.io/releases/version-skew-policy/>).
fn kubelet_skew(kubelet: KubernetesVersion) -> u16 {
    if kubelet.minor >= 25 { 3 } else { 2 }
}

/// How many minors any kubelet may be behind when kubeadm raises the control plane to a version: three from 1.29 on, one
/// before (`detectTooOldKubelets` in kubeadm's `phases/upgrade/policy.go`; <https://github.com/kubernetes/kubernetes/pull/120825>).
fn kubeadm_skew(target: KubernetesVersion) -> u16 {
    if target.minor >= 29 { 3 } else { 1 }
}

/// Whether a kubelet is too far behind for the control plane to be raised to a version.
pub fn too_old(kubelet: KubernetesVersion, target: KubernetesVersion) -> bool {
    target.minor.saturating_sub(kubelet.minor) > kubelet_skew(kubelet).min(kubeadm_skew(target))
}

/// kubeadm looks at every kubelet before it raises the control plane, and allows less than Kubernetes does.
fn kubeadm_rules(
    cluster: &ControlPlaneReport,
    nodes: &[Candidate<'_>],
    target: KubernetesVersion,
) -> Vec<Refusal> {
    // It looks only in `kubeadm upgrade apply`, and a minor that is skipped it refuses before.
    let applies = nodes.iter().find(|node| node.control_plane()).is_some_and(|first| !first.runs(target));
    if !applies || target.minor > cluster.kubeadm_config_version.minor + 1 {
        return Vec::new();
    }
    let refusal = |candidate: &Candidate<'_>| {
        let kubelet = candidate.kubelet_version()?;
        let behind = target.minor.saturating_sub(kubelet.minor);
        (behind > kubeadm_skew(target) && behind <= kubelet_skew(kubelet)).then(|| {
            Refusal::of(
                "kubelet-skew",
                format!(
                    "{}'s kubelet runs {kubelet}, and kubeadm of {} raises no control plane while a kubelet is more than {} \
                     behind: raise that kubelet to {} first",
                    candidate.name,
                    target.minor_name(),
                    if kubeadm_skew(target) == 1 { "one minor" } else { "three minors" },
                    cluster.kubeadm_config_version.minor_name(),
                ),
            )
        })
    };
    nodes.iter().filter_map(refusal).collect()
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
    refusals.extend(policy.accepted.iter().filter(|name| !CONSENTS.contains(&name.as_str())).map(|name| {
        Refusal::of(
            "unknown-consent",
            format!("\"{name}\" is no gate that can be accepted: those are {}", CONSENTS.join(", ")),
        )
    }));
    if policy.drain_timeout_seconds == 0 {
        refusals.push(Refusal::of(
            "drain-timeout",
            "a drain time-out of 0 s can never be met: give at least 1 s",
        ));
    }
    refusals
}

fn version_rules(
    cluster: &ControlPlaneReport,
    nodes: &[Candidate<'_>],
    target: KubernetesVersion,
) -> Vec<Refusal> {
    let present = cluster.kubeadm_config_version;
    let mut refusals = Vec::new();
    if target < present {
        refusals.push(Refusal::of(
            "downgrade",
            format!("the cluster runs {present} and {target} is older: kubeadm does not support downgrades"),
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
    if !nodes.iter().any(Candidate::control_plane) {
        refusals.push(Refusal::of("no-control-plane", "no node is known to be a control plane"));
    }
    refusals
}

fn etcd_rules(cluster: &ControlPlaneReport) -> Vec<Refusal> {
    let ControlPlaneReport { etcd_members: members, etcd_healthy_members: healthy, .. } = *cluster;
    let mut refusals = Vec::new();
    if members == 0 {
        refusals.push(Refusal::of(
            "external-etcd",
            "etcd does not run on the control planes: this version of Liftlock backs up and guards stacked etcd only",
        ));
    }
    if healthy < members {
        refusals.push(Refusal::of(
            "quorum",
            format!(
                "{healthy} of {members} etcd members are healthy: all must be, because each is stopped once; look at \
                 `etcdctl endpoint health --cluster`"
            ),
        ));
    }
    if members == 1 || members == 2 {
        refusals.push(Refusal {
            rule: API_OUTAGE,
            message: format!(
                "etcd has {members} member{}: the API goes away while {} restarts; consent with --accept {API_OUTAGE}",
                if members == 1 { "" } else { "s, and two have no more quorum than one" },
                if members == 1 { "it" } else { "one" },
            ),
            acceptable: true,
        });
    }
    refusals
}

/// While no `CoreDNS` is ready, `kubeadm upgrade apply` waits for one, for minutes and without a word
/// (`removeOldDNSDeploymentIfAnotherDNSIsUsed` in kubeadm's `phases/upgrade/postupgrade.go`).
fn dns_rule(cluster: &ControlPlaneReport) -> Option<Refusal> {
    let Replicas { wanted, ready } = cluster.dns?;
    let message = |what: &str| {
        format!(
            "{ready} of {wanted} CoreDNS pods are ready: {what}; `kubectl -n kube-system get pods -l k8s-app=kube-dns` \
             says why"
        )
    };
    if ready == 0 {
        return Some(Refusal::of(
            "coredns-unready",
            message("kubeadm upgrade apply waits for one and does not say so"),
        ));
    }
    (ready < wanted).then(|| Refusal {
        rule: COREDNS_DEGRADED,
        message: format!(
            "{}, or consent with --accept {COREDNS_DEGRADED}",
            message("a drain may take the last one away for a moment")
        ),
        acceptable: true,
    })
}

/// The only node that takes pods cannot be emptied onto another one.
fn drain_rule(nodes: &[Candidate<'_>], target: KubernetesVersion) -> Option<Refusal> {
    let takes_pods =
        |candidate: &&Candidate<'_>| candidate.node.object.as_ref().is_some_and(NodeObject::takes_pods);
    let mut takers = nodes.iter().filter(takes_pods);
    match (takers.next(), takers.next()) {
        (Some(only), None) if !only.runs(target) && !only.spared => Some(Refusal {
            rule: DRAIN_ONLY_NODE,
            message: format!(
                "{} is the only node that takes pods: what is evicted there waits until it is back; consent with --accept \
                 {DRAIN_ONLY_NODE}",
                only.name
            ),
            acceptable: true,
        }),
        _ => None,
    }
}

/// Control planes first and by name, then workers by name; what runs the target already is left out.
fn in_order(nodes: &[Candidate<'_>], target: KubernetesVersion, policy: &Policy) -> Vec<PlannedNode> {
    let mut first_taken = false;
    let mut planned: BTreeMap<(Role, &NodeName), PlannedNode> = BTreeMap::new();
    for candidate in nodes {
        let role = match (candidate.control_plane(), first_taken) {
            (true, false) => Role::FirstControlPlane,
            (true, true) => Role::ControlPlane,
            (false, _) => Role::Worker,
        };
        first_taken |= candidate.control_plane();
        if !candidate.runs(target) && !candidate.spared {
            planned.insert(
                (role, candidate.name),
                PlannedNode {
                    name: candidate.name.clone(),
                    role,
                    prepare: prepare(role, target),
                    steps: under_lease(role, target, policy),
                },
            );
        }
    }
    planned.into_values().collect()
}

/// What the cluster comes from: the lowest kubelet, but a worker that lags says nothing of a control plane that is raised.
fn lowest_version(nodes: &[Candidate<'_>], planned: &[PlannedNode]) -> Option<KubernetesVersion> {
    let control_planes = planned.iter().any(|node| node.role.is_control_plane());
    let counts =
        |candidate: &&Candidate<'_>| !candidate.spared && (candidate.control_plane() || !control_planes);
    nodes.iter().filter(counts).filter_map(Candidate::kubelet_version).min()
}

#[cfg(test)]
mod tests;
