//! What the agents report of their nodes, put together for the core.

use std::collections::BTreeSet;
use std::time::Duration;

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use liftlock_proto::v1::coordinator_message::Message as Told;
use liftlock_proto::version::KubernetesVersion;

use super::{Keeper, State, findings};
use crate::core::view::{AgentView, ClusterView, ControlPlaneReport, Drift, NodeObject, Obstacle, Redeploy};

/// What an agent reported last.
pub(super) struct Reported {
    pub(super) facts: v1::NodeFacts,
    pub(super) at_ms: u64,
    /// The last question that it has answered.
    answered: u64,
}

/// Who was asked what his node is like.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) number: u64,
    pub(super) nodes: BTreeSet<NodeName>,
}

/// The machine that the coordinator runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is this node.
    Node(NodeName),
    /// It has this [mark](liftlock_proto::machine::mark).
    Marked(String),
}

impl Whereabouts {
    fn is(&self, node: &NodeName, mark: &str) -> bool {
        match self {
            Self::Node(name) => name == node,
            Self::Marked(own) => own == mark,
        }
    }
}

impl Keeper {
    /// Asks every connected agent what its node is like now and waits for the answers, at most `limit`. Returns who
    /// did not answer. While a roll-out goes on, package lists are left alone: the package manager has one lock.
    pub async fn refresh_facts(&self, refresh_packages: bool, limit: Duration) -> Vec<NodeName> {
        let mut changes = self.changes();
        let asked = self.lock().ask_for_facts(refresh_packages);
        let answers = async {
            while !self.lock().unanswered(&asked).is_empty() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, answers).await;
        self.lock().unanswered(&asked)
    }
}

impl State {
    pub(super) fn report_facts(&mut self, node: &NodeName, facts: v1::NodeFacts, at_ms: u64) {
        // A number that was never given is no question's.
        let asked = Some(facts.answers).filter(|number| *number <= self.last_question);
        let answered = asked.unwrap_or_default().max(self.facts_answer(node));
        self.facts.insert(node.clone(), Reported { facts, at_ms, answered });
    }

    fn ask_for_facts(&mut self, refresh_packages: bool) -> Asked {
        let idle = self.saved.newest().is_none_or(|(_, rollout)| rollout.is_final());
        let refresh_packages = refresh_packages && idle;
        let nodes = self.connected();
        Asked { number: self.ask(&nodes, refresh_packages, 0), nodes }
    }

    /// Asks these what their nodes are like from now on. An agent may be in the middle of reading that for an earlier question: the
    /// number, which is returned, tells the answers apart.
    pub(super) fn ask(&mut self, nodes: &BTreeSet<NodeName>, refresh_packages: bool, pause_ms: u32) -> u64 {
        self.last_question += 1;
        let number = self.last_question;
        for node in nodes {
            self.send(node, Told::FactsRequest(v1::FactsRequest { refresh_packages, pause_ms, number }));
        }
        number
    }

    /// The last question about its node that an agent has answered; 0 where it has answered none.
    pub(super) fn facts_answer(&self, node: &NodeName) -> u64 {
        self.facts.get(node).map_or(0, |reported| reported.answered)
    }

    /// Those that are still connected and have not answered.
    pub(super) fn unanswered(&self, asked: &Asked) -> Vec<NodeName> {
        let silent =
            |node: &&NodeName| self.sessions.contains_key(*node) && self.facts_answer(node) < asked.number;
        asked.nodes.iter().filter(silent).cloned().collect()
    }

    /// The control plane's word that arrived last.
    pub(super) fn cluster(&self) -> Option<&v1::ClusterFacts> {
        self.last_word(|_, _| true)
    }

    fn last_word(&self, counts: impl Fn(&NodeName, &v1::ClusterFacts) -> bool) -> Option<&v1::ClusterFacts> {
        let reports = self
            .facts
            .iter()
            .filter_map(|(name, reported)| Some((name, reported.at_ms, reported.facts.cluster.as_ref()?)))
            .filter(|(name, _, cluster)| counts(name, cluster));
        reports.max_by_key(|(_, at_ms, _)| *at_ms).map(|(_, _, cluster)| cluster)
    }

    /// The cluster as the core sees it.
    pub(super) fn view(&self) -> ClusterView {
        let connected: BTreeSet<NodeName> = self.connected();
        let mut view = ClusterView::default();
        if let Some(cluster) = self.cluster() {
            // A control plane whose own member is away knows of none: etcd is external only where all say so. What one said
            // that is not connected any more may be long ago.
            let members_known = |name: &NodeName, cluster: &v1::ClusterFacts| {
                cluster.etcd_members > 0 && connected.contains(name)
            };
            let etcd = self.last_word(members_known).unwrap_or(cluster);
            view.cluster = cluster.kubeadm_config_version.parse().ok().map(|kubeadm_config_version| {
                ControlPlaneReport {
                    kubeadm_config_version,
                    etcd_members: etcd.etcd_members,
                    etcd_healthy_members: etcd.etcd_healthy_members,
                    dns: findings::unless(&cluster.dns_unread, cluster.dns.map(findings::replicas)),
                    findings: findings::of_cluster(cluster, etcd),
                }
            });
            for node in &cluster.nodes {
                let Ok(name) = node.name.parse::<NodeName>() else {
                    continue;
                };
                view.nodes.entry(name).or_default().object = Some(NodeObject {
                    kubelet_version: node.kubelet_version.parse().ok(),
                    control_plane: node.control_plane,
                    ready: node.ready,
                    unschedulable: node.unschedulable,
                    tainted: node.tainted,
                    container_runtime: node.container_runtime.clone(),
                    zone: Some(node.zone.clone()).filter(|zone| !zone.is_empty()),
                    labels: (!node.labels_left_out).then(|| {
                        node.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect()
                    }),
                    on_blocked: Some(node.on_blocked.clone()).filter(|word| !word.is_empty()),
                });
            }
        }
        for (name, reported) in &self.facts {
            let facts = &reported.facts;
            if self.machine.as_ref().is_some_and(|machine| machine.is(name, &facts.machine)) {
                view.coordinator_on.insert(name.clone());
            }
            let entry = view.nodes.entry(name.clone()).or_default();
            // An agent that has gone from a machine that has gone is nothing to plan with.
            if entry.object.is_none() && !connected.contains(name) {
                view.nodes.remove(name);
                continue;
            }
            entry.agent = Some(AgentView {
                connected: connected.contains(name),
                not_joined: facts.not_joined,
                control_plane: facts.control_plane,
                control_plane_version: facts.control_plane_version.parse().ok(),
                offered: facts
                    .offered_versions
                    .iter()
                    .filter_map(|text| text.parse::<KubernetesVersion>().ok())
                    .collect(),
                packages: facts.packages.clone().map(Into::into).unwrap_or_default(),
                errors: facts.errors.clone(),
                obstacles: findings::unless(
                    &facts.obstacles_unread,
                    facts
                        .obstacles
                        .iter()
                        .map(|one| Obstacle { rule: rule_of(one.kind()), message: one.message.clone() })
                        .collect(),
                ),
                drift: findings::unless(
                    &facts.drift_unread,
                    facts
                        .drift
                        .iter()
                        .map(|drift| Drift { path: drift.path.clone(), lines: drift.lines.clone() })
                        .collect(),
                ),
                findings: findings::of_node(facts),
                hooks: facts
                    .hooks
                    .iter()
                    .map(|hook| (hook.name.clone(), Some(hook.refusal.clone()).filter(|why| !why.is_empty())))
                    .collect(),
                redeploy: facts.redeploy.as_ref().map(|redeploy| Redeploy {
                    command: redeploy.command.clone(),
                    refusal: Some(redeploy.refusal.clone()).filter(|why| !why.is_empty()),
                }),
            });
        }
        view
    }
}

/// The rule by which a plan refuses it.
fn rule_of(kind: v1::ObstacleKind) -> &'static str {
    match kind {
        v1::ObstacleKind::StrayManifest => "stray-manifest",
        v1::ObstacleKind::CertificateExpired => "certificate-expired",
        v1::ObstacleKind::Unspecified => "obstacle",
    }
}
