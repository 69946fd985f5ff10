//! The controllers and the scheduler of a stand-in cluster: they keep each workload at its number of replicas.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::standin::api::eviction::{condition, is_ready, is_terminating, selects};
use crate::standin::kubelet::status;
use crate::standin::objects::{Key, Objects, text};

/// A Deployment, as far as it matters to a drain.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Also its pods' label `app` and their container's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How many pods it keeps.
    pub replicas: usize,
    /// Its pods' image.
    pub image: String,
    /// Its pods may run on control planes.
    pub on_control_planes: bool,
}

/// How often a leader renews its Lease; the real one does every 2 s (`--leader-elect-retry-period`).
const RENEWAL: Duration = Duration::from_millis(100);

/// The controllers' memory.
#[derive(Debug, Default)]
pub struct Controllers {
    renewed: Option<Instant>,
    workloads: Vec<Workload>,
    created: u64,
    lowest: Vec<(String, usize)>,
}

impl Controllers {
    /// Keeps one more workload.
    pub fn add(&mut self, workload: Workload) {
        self.workloads.push(workload);
    }

    /// The lowest number of ready pods that a workload ever had once it had all of them.
    pub fn lowest_ready(&self, workload: &str) -> Option<usize> {
        self.lowest.iter().find(|(name, _)| name == workload).map(|(_, lowest)| *lowest)
    }

    /// How many workloads there are.
    pub fn workloads(&self) -> usize {
        self.workloads.len()
    }

    /// One turn: makes pods that are missing and binds pods that are pending.
    pub fn sync(&mut self, objects: &Objects) {
        for workload in &self.workloads {
            let selector = json!({"app": workload.name});
            let pods: Vec<Value> = objects
                .list("pods", Some(&workload.namespace))
                .into_iter()
                .filter(|pod| selects(Some(&selector), pod))
                .collect();
            let ready = pods.iter().filter(|pod| is_ready(pod) && !is_terminating(pod)).count();
            match self.lowest.iter_mut().find(|(name, _)| *name == workload.name) {
                Some((_, lowest)) => *lowest = ready.min(*lowest),
                None if ready == workload.replicas => self.lowest.push((workload.name.clone(), ready)),
                None => {}
            }
            let alive = pods.iter().filter(|pod| !is_terminating(pod)).count();
            for _ in alive..workload.replicas {
                self.created += 1;
                let name = format!("{}-66d5f5c67f-{:05x}", workload.name, self.created);
                objects.put(&Key::new("pods", &workload.namespace, &name), pod_of(workload));
            }
        }
        schedule(objects);
        count_budgets(objects);
    }

    /// A controller-manager that runs leads, and says so in its Lease.
    pub fn lead(&mut self, objects: &Objects) {
        if self.renewed.is_some_and(|renewed| renewed.elapsed() < RENEWAL) {
            return;
        }
        let leader = objects.list("pods", Some("kube-system")).into_iter().find(|pod| {
            let name = text(pod, "/metadata/name").unwrap_or_default();
            name.starts_with("kube-controller-manager-") && is_ready(pod)
        });
        if let Some(leader) = leader {
            let key = Key::new("leases", "kube-system", "kube-controller-manager");
            let spec = json!({
                "holderIdentity": text(&leader, "/spec/nodeName").or(text(&leader, "/metadata/name")),
                "renewTime": jiff::Timestamp::now().to_string(),
            });
            objects.put(&key, json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "spec": spec}));
            self.renewed = Some(Instant::now());
        }
    }
}

/// What the disruption controller does: counts what each budget allows, in its status.
pub fn count_budgets(objects: &Objects) {
    for budget in objects.list("poddisruptionbudgets", None) {
        let part = |pointer| text(&budget, pointer).unwrap_or_default();
        let (namespace, name) = (part("/metadata/namespace"), part("/metadata/name"));
        let selector = budget.pointer("/spec/selector/matchLabels");
        let pods = objects.list("pods", Some(namespace));
        let selected = || pods.iter().filter(|pod| selects(selector, pod));
        let healthy = selected().filter(|pod| is_ready(pod) && !is_terminating(pod)).count() as u64;
        let needed = budget.pointer("/spec/minAvailable").and_then(Value::as_u64).unwrap_or_default();
        let status = json!({
            "currentHealthy": healthy, "desiredHealthy": needed, "expectedPods": selected().count(),
            "disruptionsAllowed": healthy.saturating_sub(needed),
        });
        objects.update(&Key::new("poddisruptionbudgets", namespace, name), |budget| {
            budget["status"] = status;
        });
    }
}

fn pod_of(workload: &Workload) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "labels": {"app": workload.name, "pod-template-hash": "66d5f5c67f"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{}-66d5f5c67f", workload.name),
                "uid": workload.name, "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"containers": [{"name": workload.name, "image": workload.image}]},
        "status": status(false),
    });
    if workload.on_control_planes {
        let roles = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
        let tolerations: Vec<Value> =
            roles.iter().map(|role| json!({"key": role, "effect": "NoSchedule"})).collect();
        pod["spec"]["tolerations"] = json!(tolerations);
    }
    pod
}

/// Binds each pending pod to the node with the fewest pods that may take it, one without a preference against it first.
fn schedule(objects: &Objects) {
    let nodes = objects.list("nodes", None);
    for pod in objects.list("pods", None) {
        if text(&pod, "/spec/nodeName").is_some() || is_terminating(&pod) {
            continue;
        }
        let load = |node: &Value| {
            let name = text(node, "/metadata/name");
            objects.list("pods", None).iter().filter(|pod| text(pod, "/spec/nodeName") == name).count()
        };
        let has_taint = |node: &Value, prefer: bool| {
            let taints = node.pointer("/spec/taints").and_then(Value::as_array);
            taints.into_iter().flatten().any(|taint| (taint["effect"] == "PreferNoSchedule") == prefer)
        };
        let takes = |node: &&Value| {
            let tolerates = pod.pointer("/spec/tolerations").is_some();
            condition(node, "Ready")
                && node.pointer("/spec/unschedulable") != Some(&json!(true))
                && (tolerates || !has_taint(node, false))
        };
        let best = nodes.iter().filter(takes).min_by_key(|node| (has_taint(node, true), load(node)));
        if let Some(node) = best.and_then(|node| text(node, "/metadata/name")) {
            let part = |pointer| text(&pod, pointer).unwrap_or_default();
            let key = Key::new("pods", part("/metadata/namespace"), part("/metadata/name"));
            objects.update(&key, |pod| pod["spec"]["nodeName"] = json!(node));
        }
    }
}
