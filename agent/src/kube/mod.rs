//! The cluster's API, as far as a node needs it: its own Node and pods with the kubelet's credentials, kubeadm's
//! `ConfigMap`s and its own API server with the administrator's where they are on the node anyway.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request, header};
use jiff::Timestamp;
use kube::core::Status;
use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::v1::WorkloadDescription;
use liftlock_proto::version::{KubernetesVersion, VersionError};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::engine::idle::Idle;
use crate::engine::lease::Permit;
use crate::host::{
    CORDONED_BY, Eviction, Files, HostError, HostResult, Kube, Layout, Marked, NodeCondition, NodeState,
    OwnApiServer, PodState, Replicas,
};
use crate::invitation::BootstrapToken;

mod access;
mod apply;
mod bound;
mod client;
mod evictable;
mod marks;
mod metrics;
mod objects;
mod quantity;
mod readyz;
mod selector;
pub mod static_pod;
#[cfg(test)]
mod tests;
mod watch;
mod workload;

use access::{Access, Refusal, in_words};
use evictable::Evictable;
use marks::Taints;
use objects::{List, Node, ObjectMeta, Pod, Version};
use static_pod::StaticPod;
use watch::{Missed, Seen, watch};
use workload::Workload;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";

/// Where the kube-controller-manager that leads says so, since Kubernetes 1.17 (`--leader-elect-resource-lock`).
const CONTROLLERS_LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases\
                                 ?fieldSelector=metadata.name%3Dkube-controller-manager";

/// kubeadm's own.
const KUBE_PROXIES: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets\
                            ?fieldSelector=metadata.name%3Dkube-proxy";

/// kubeadm's `CoreDNS`, and the kube-dns before it.
const CLUSTER_DNS: &str = "/apis/apps/v1/namespaces/kube-system/deployments?labelSelector=k8s-app%3Dkube-dns";

/// What runs beside the static pods.
const SYSTEM_WORKLOADS: [(&str, &str); 2] = [
    ("Deployment", "/apis/apps/v1/namespaces/kube-system/deployments"),
    ("DaemonSet", "/apis/apps/v1/namespaces/kube-system/daemonsets"),
];

/// Before 1.21 there is the second only, from 1.25 on the first.
const BUDGETS: [&str; 2] =
    ["/apis/policy/v1/poddisruptionbudgets", "/apis/policy/v1beta1/poddisruptionbudgets"];

/// How many objects are asked for at once; a large cluster's list does not fit into a small agent.
const PAGE: u32 = 250;
/// Pods are the largest of them.
const PAGE_OF_PODS: u32 = 100;
/// How often a Node is read again that was changed between reading and writing.
const MARK_ATTEMPTS: u32 = 5;
/// Before asking an API server again that did not answer: there is no event that says that it is back.
const PAUSE: Duration = Duration::from_millis(250);

/// The cluster as this node sees it.
pub struct RealKube {
    node: NodeName,
    layout: Layout,
    files: Arc<dyn Files>,
    kubelet: Access,
    admin: Access,
}

impl RealKube {
    /// Nothing is read before the first question.
    pub fn new(node: NodeName, layout: Layout, files: Arc<dyn Files>) -> Self {
        let (kubelet, admin) = (layout.kubelet_kubeconfig(), layout.admin_kubeconfig());
        Self { node, layout, files, kubelet: Access::new(kubelet), admin: Access::new(admin) }
    }

    /// admin.conf where the node has it; otherwise the kubelet's credentials, with which kubeadm lets every node
    /// read kubeadm-config (Role `kubeadm:nodes-kubeadm-config`) and, before 1.32, the API server let it list the Nodes.
    async fn best_access(&self) -> HostResult<&Access> {
        let there = self.files.exists(&self.layout.admin_kubeconfig()).await?;
        Ok(if there { &self.admin } else { &self.kubelet })
    }

    fn own_node(&self) -> String {
        format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", self.node)
    }

    fn own_pods(&self) -> String {
        format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node)
    }

    async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> HostResult<T> {
        self.kubelet.json(what, &get(path)?).await
    }
}

#[async_trait]
impl Kube for RealKube {
    async fn node(&self) -> HostResult<NodeState> {
        let node: Node = self.get("cannot read the Node", &format!("/api/v1/nodes/{}", self.node)).await?;
        Ok(node.into())
    }

    async fn nodes(&self) -> HostResult<Vec<NodeState>> {
        // From 1.32 on a kubelet may read its own Node only (KEP-4601).
        let access = self.best_access().await?;
        let mut nodes = Vec::new();
        let read = each(access, "/api/v1/nodes", PAGE, |node: Node| nodes.push(NodeState::from(node))).await;
        read.map_err(|refusal| access.error("cannot list the Nodes", &refusal))?;
        Ok(nodes)
    }

    async fn wait_for_node(&self, condition: NodeCondition, limit: Duration) -> HostResult<NodeState> {
        let path = self.own_node();
        let expected = condition.kubelet_version.map(|version| version.to_string());
        let mut last = "nothing".to_owned();
        let decide = |seen: Seen<Node>| {
            let node = match seen {
                Seen::All(nodes) => nodes.into_iter().next(),
                Seen::Is(node) => Some(node),
                Seen::Gone(_) => None,
            };
            let Some(node) = node.map(NodeState::from) else {
                "no such Node".clone_into(&mut last);
                return None;
            };
            last = format!(
                "kubelet {}, {}",
                node.kubelet_version,
                if node.ready { "Ready" } else { "not Ready" }
            );
            let at_version = expected.as_ref().is_none_or(|expected| node.kubelet_version == *expected);
            (node.ready && at_version).then_some(node)
        };
        let missed = match watch(&self.kubelet, "cannot watch the Node", &path, limit, decide).await? {
            Ok(node) => return Ok(node),
            Err(missed) => missed,
        };
        if let Missed::Unasked(error) = missed {
            last = format!("{last}, then {error}");
        }
        Err(HostError::Timeout {
            what: match &expected {
                Some(expected) => format!("the Node {} to be Ready with kubelet {expected}", self.node),
                None => format!("the Node {} to be Ready", self.node),
            },
            limit,
            seen: last,
        })
    }

    async fn cordon(&self, _: &Permit, plan: &PlanId) -> HostResult<()> {
        let patch = json!({
            "metadata": {"annotations": {CORDONED_BY: plan.as_str()}},
            "spec": {"unschedulable": true},
        });
        self.patch_node("cannot cordon the Node", &patch).await
    }

    async fn uncordon(&self, _: &Permit) -> HostResult<()> {
        // In a merge patch, null removes a field.
        let patch = json!({
            "metadata": {"annotations": {CORDONED_BY: null}},
            "spec": {"unschedulable": null},
        });
        self.patch_node("cannot uncordon the Node", &patch).await
    }

    async fn pods(&self) -> HostResult<Vec<PodState>> {
        let list: List<Pod> = self.get("cannot list this node's pods", &self.own_pods()).await?;
        Ok(list.items.into_iter().map(PodState::from).collect())
    }

    async fn evict(&self, _: &Permit, pod: &PodState) -> HostResult<Eviction> {
        // Behind a load balancer, in the middle of an upgrade, the next server may be of another version than
        // the last one: so the newer API is asked for and its absence believed, rather than a version.
        let mut answer = self.try_evict("policy/v1", pod).await;
        if matches!(&answer, Err(Refusal::Status(status)) if knows_no_such_eviction(status)) {
            answer = self.try_evict("policy/v1beta1", pod).await;
        }
        let refusal = match answer {
            Ok(IgnoredAny) => return Ok(Eviction::Accepted),
            Err(refusal) => refusal,
        };
        match &refusal {
            // 409: the uid is another one, so the pod that was meant is gone.
            Refusal::Status(status) if matches!(status.code, 404 | 409) => Ok(Eviction::Accepted),
            Refusal::Status(status) if status.code == 429 || namespace_ends(status) => {
                Ok(Eviction::Blocked { message: in_words(status) })
            }
            _ => Err(self.kubelet.error(&format!("cannot evict {}/{}", pod.namespace, pod.name), &refusal)),
        }
    }

    async fn delete_pod(&self, _: &Permit, pod: &PodState) -> HostResult<()> {
        let PodState { namespace, name, uid, .. } = pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        // A pod of the same name that came later is not the one that was meant.
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        let request = with_body(Method::DELETE, &path, "application/json", &options)?;
        match self.kubelet.try_json::<IgnoredAny>(&request).await {
            Ok(_) => Ok(()),
            Err(Refusal::Status(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(refusal) => {
                Err(self.kubelet.error(&format!("cannot delete the pod {namespace}/{name}"), &refusal))
            }
        }
    }

    async fn wait_for_pods_gone(&self, uids: &[String], limit: Duration) -> HostResult<Vec<String>> {
        let mut left = None;
        let decide = |seen: Seen<Pod>| {
            let there: Vec<String> = match seen {
                Seen::All(pods) => {
                    let there: BTreeSet<String> = pods.into_iter().map(|pod| pod.metadata.uid).collect();
                    uids.iter().filter(|uid| there.contains(*uid)).cloned().collect()
                }
                Seen::Gone(pod) => uids.iter().filter(|uid| **uid != pod.metadata.uid).cloned().collect(),
                Seen::Is(_) => return None,
            };
            left = Some(there.clone());
            (there.len() < uids.len()).then_some(there)
        };
        match watch(&self.kubelet, "cannot watch this node's pods", &self.own_pods(), limit, decide).await? {
            Ok(left) => Ok(left),
            Err(Missed::Unasked(error)) if left.is_none() => Err(error),
            Err(_) => Ok(uids.to_vec()),
        }
    }

    async fn kubeadm_config_version(&self) -> HostResult<KubernetesVersion> {
        let access = self.best_access().await?;
        let request = get(&format!("{CONFIG_MAPS}/kubeadm-config"))?;
        access.json::<KubeadmConfig>("cannot read the ConfigMap kubeadm-config", &request).await?.version()
    }

    async fn config_map(&self, name: &str) -> HostResult<Option<String>> {
        let access = self.best_access().await?;
        let what = format!("cannot read the ConfigMap {name}");
        match access.try_json::<Value>(&get(&format!("{CONFIG_MAPS}/{name}"))?).await {
            Ok(map) => as_manifest(map).map(Some),
            Err(Refusal::Status(status)) if status.code == 404 => Ok(None),
            Err(refusal) => Err(access.error(&what, &refusal)),
        }
    }

    async fn config_map_names(&self) -> HostResult<Vec<String>> {
        let what = "cannot list the ConfigMaps of kube-system";
        let list: List<Named> = self.best_access().await?.json(what, &get(CONFIG_MAPS)?).await?;
        Ok(list.items.into_iter().map(|map| map.metadata.name).collect())
    }

    async fn wait_for_controllers(&self, limit: Duration) -> HostResult<()> {
        let mut first: Option<LeaseSpec> = None;
        let decide = |seen: Seen<LeaderLease>| {
            let lease = match seen {
                Seen::All(leases) => leases.into_iter().next()?,
                Seen::Is(lease) => lease,
                Seen::Gone(_) => return None,
            };
            let renewed = first.as_ref().is_some_and(|first| first.renew_time != lease.spec.renew_time);
            first.get_or_insert(lease.spec);
            renewed.then_some(())
        };
        let what = "cannot watch the controller-manager's Lease";
        let missed = match watch(&self.admin, what, CONTROLLERS_LEASE, limit, decide).await? {
            Ok(()) => return Ok(()),
            Err(missed) => missed,
        };
        Err(HostError::Timeout {
            what: "a kube-controller-manager to lead (its Lease in kube-system to be renewed)".to_owned(),
            limit,
            seen: match (missed, first) {
                (Missed::Unasked(error), _) => error.to_string(),
                (Missed::Limit, Some(lease)) => {
                    format!("{} renewed it last at {}", lease.holder_identity, lease.renew_time)
                }
                (Missed::Limit, None) => "no such Lease".to_owned(),
            },
        })
    }

    async fn wait_for_kube_proxies(&self, few: u32, limit: Duration) -> HostResult<bool> {
        let decide = |seen: Seen<DaemonSet>| match seen {
            Seen::All(sets) => sets.iter().all(|set| set.is_settled(few)).then_some(()),
            Seen::Is(set) => set.is_settled(few).then_some(()),
            Seen::Gone(_) => Some(()),
        };
        let what = "cannot watch the DaemonSet kube-proxy";
        Ok(watch(&self.admin, what, KUBE_PROXIES, limit, decide).await?.is_ok())
    }

    async fn wait_until_open(&self, limit: Duration) -> HostResult<bool> {
        let decide = |seen: Seen<Node>| match seen {
            Seen::All(nodes) => nodes.iter().all(Node::is_open).then_some(()),
            Seen::Is(node) => node.is_open().then_some(()),
            Seen::Gone(_) => Some(()),
        };
        Ok(watch(&self.kubelet, "cannot watch the Node", &self.own_node(), limit, decide).await?.is_ok())
    }

    async fn cluster_dns(&self) -> HostResult<Option<Replicas>> {
        let list: List<Deployment> =
            self.admin.json("cannot read the Deployment of the cluster's DNS", &get(CLUSTER_DNS)?).await?;
        let sum = |count: fn(&Deployment) -> u32| list.items.iter().map(count).sum();
        Ok((!list.items.is_empty()).then(|| Replicas {
            wanted: sum(|deployment| deployment.spec.replicas),
            ready: sum(|deployment| deployment.status.ready_replicas),
        }))
    }

    async fn wait_for_own_api_server(&self, version: KubernetesVersion, limit: Duration) -> HostResult<()> {
        let access = self.admin.to_server(self.own_server().await?);
        let (ready, asked) = (get("/readyz")?, get("/version")?);
        let expected = version.to_string();
        let mut last = "nothing".to_owned();
        let asking = async {
            loop {
                let running = async {
                    let body = access.text(&ready).await?;
                    let version: Version = access.try_json(&asked).await?;
                    Ok((body, version.git_version))
                };
                match running.await {
                    Ok((body, version)) if body == "ok" && version == expected => return,
                    Ok((body, version)) => last = format!("{version}, /readyz: {body}"),
                    Err(Refusal::Status(status)) => last = in_words(&status),
                    Err(Refusal::Other(why)) => last = why,
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let waited = tokio::time::timeout(limit, asking).await;
        waited.map_err(|_| HostError::Timeout {
            what: format!("{} to be ready at {expected}", access.endpoint()),
            limit,
            seen: last,
        })
    }

    async fn own_api_server(&self) -> HostResult<OwnApiServer> {
        let address = self.own_server().await?;
        let unready = match self.admin.to_server(address.clone()).text(&get("/readyz")?).await {
            Ok(body) if body == "ok" => String::new(),
            Ok(body) => readyz::in_short(&body),
            Err(Refusal::Status(status)) => readyz::in_short(&in_words(&status)),
            Err(Refusal::Other(why)) => why,
        };
        Ok(OwnApiServer { address, unready })
    }

    async fn deprecated_apis_in_use(&self) -> HostResult<Vec<(String, u16)>> {
        let access = self.admin.to_server(self.own_server().await?);
        let what = "cannot read which APIs are in use";
        let mut requested = BTreeSet::new();
        let found =
            access.lines(get("/metrics")?, |line| requested.extend(metrics::deprecated_api(line))).await;
        found.map_err(|refusal| access.error(what, &refusal))?;
        Ok(requested.into_iter().collect())
    }

    async fn unready_system_workloads(&self) -> HostResult<Vec<(String, Replicas)>> {
        let mut unready = Vec::new();
        for (kind, path) in SYSTEM_WORKLOADS {
            let what = "cannot list the workloads of kube-system";
            let list: List<Workload> = self.admin.json(what, &get(path)?).await?;
            unready.extend(list.items.into_iter().filter_map(|workload| workload.unready(kind)));
        }
        Ok(unready)
    }

    async fn stored_objects(&self, collection: &str) -> HostResult<u32> {
        let what = format!("cannot list what is stored at {collection}");
        match self.admin.try_json::<List<IgnoredAny>>(&get(&format!("{collection}?limit=1"))?).await {
            Ok(list) => Ok(u32::try_from(list.items.len()).unwrap_or(u32::MAX)),
            Err(Refusal::Status(status)) if status.code == 404 => Ok(0),
            Err(refusal) => Err(self.admin.error(&what, &refusal)),
        }
    }

    async fn create_bootstrap_token(
        &self,
        _: &Idle,
        token: &BootstrapToken,
        node: &NodeName,
        ends_at_ms: u64,
    ) -> HostResult<()> {
        let request =
            with_body(Method::POST, SECRETS, "application/json", &secret_of(token, node, ends_at_ms))?;
        let made = self.admin.json::<IgnoredAny>("cannot make a bootstrap token", &request).await;
        made.map(drop)
    }

    async fn delete_node(&self, _: &Permit, node: &NodeName) -> HostResult<()> {
        let path = format!("/api/v1/nodes/{node}");
        let request = with_body(Method::DELETE, &path, "application/json", &json!({}))?;
        match self.admin.try_json::<IgnoredAny>(&request).await {
            Ok(IgnoredAny) => Ok(()),
            Err(Refusal::Status(status)) if status.code == 404 => Ok(()),
            Err(refusal) => Err(self.admin.error(&format!("cannot delete the Node {node}"), &refusal)),
        }
    }

    async fn workloads(&self) -> HostResult<WorkloadDescription> {
        let error = |what: &str| {
            let what = format!("cannot list the {what}");
            move |refusal: Refusal| self.admin.error(&what, &refusal)
        };
        let mut found = self.budgets().await.map_err(error("PodDisruptionBudgets"))?;
        let nodes = each(&self.admin, "/api/v1/nodes", PAGE, |node| found.add_node(node)).await;
        nodes.map_err(error("Nodes"))?;
        let pods = each(&self.admin, "/api/v1/pods", PAGE_OF_PODS, |pod| found.add_pod(pod)).await;
        pods.map_err(error("pods"))?;
        if found.asks_for_volumes() {
            let path = "/api/v1/persistentvolumes";
            let volumes = each(&self.admin, path, PAGE, |volume| found.add_volume(volume)).await;
            volumes.map_err(error("PersistentVolumes"))?;
        }
        Ok(found.description())
    }

    async fn mark_not_raised(&self, nodes: &BTreeSet<NodeName>) -> HostResult<Marked> {
        let wanted = |node: &Taints| nodes.iter().any(|name| name.as_str() == node.name());
        let mut differing = Vec::new();
        let read = each(&self.admin, "/api/v1/nodes", PAGE, |node: Taints| {
            let is = wanted(&node);
            if node.patch(is).is_some() {
                differing.push((node, is));
            }
        });
        read.await.map_err(|refusal| self.admin.error("cannot list the Nodes", &refusal))?;
        let (mut marked, mut failure) = (Marked::default(), None);
        for (node, is) in differing {
            let name = node.name().to_owned();
            match self.mark(node, is).await {
                Ok(()) => (if is { &mut marked.added } else { &mut marked.removed }).push(name),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(marked), Err)
    }
}

impl RealKube {
    /// As with evictions, the newer API is asked for and its absence believed.
    async fn budgets(&self) -> Result<Evictable, Refusal> {
        let [newer, older] = BUDGETS;
        let mut found = Evictable::default();
        match each(&self.admin, newer, PAGE, |budget| found.add_budget(budget, true)).await {
            Err(Refusal::Status(status)) if status.code == 404 => {
                let mut found = Evictable::default();
                each(&self.admin, older, PAGE, |budget| found.add_budget(budget, false)).await?;
                Ok(found)
            }
            read => read.map(|()| found),
        }
    }

    /// Adds or takes away our taint of one Node, as it was read.
    async fn mark(&self, mut node: Taints, is: bool) -> HostResult<()> {
        let path = format!("/api/v1/nodes/{}", node.name());
        let what = format!("cannot change the taints of the Node {}", node.name());
        for _ in 0..MARK_ATTEMPTS {
            let Some(change) = node.patch(is) else { return Ok(()) };
            let request = with_body(Method::PATCH, &path, "application/merge-patch+json", &change)?;
            match self.admin.try_json::<IgnoredAny>(&request).await {
                Ok(_) => return Ok(()),
                Err(Refusal::Status(status)) if status.code == 404 => return Ok(()),
                // It was changed since it was read.
                Err(Refusal::Status(status)) if status.code == 409 => {
                    node = self.admin.json(&what, &get(&path)?).await?;
                }
                Err(refusal) => return Err(self.admin.error(&what, &refusal)),
            }
        }
        let why = format!("it was changed by others {MARK_ATTEMPTS} times meanwhile");
        Err(HostError::Api { what, endpoint: self.admin.endpoint(), why, transient: true })
    }

    async fn patch_node(&self, what: &str, patch: &Value) -> HostResult<()> {
        let node = format!("/api/v1/nodes/{}", self.node);
        let request = with_body(Method::PATCH, &node, "application/merge-patch+json", patch)?;
        self.kubelet.json::<IgnoredAny>(what, &request).await.map(drop)
    }

    async fn try_evict(&self, api_version: &str, pod: &PodState) -> Result<IgnoredAny, Refusal> {
        let PodState { namespace, name, uid, .. } = pod;
        let eviction = json!({
            "apiVersion": api_version,
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            // A pod of the same name that came later is not the one that was meant.
            "deleteOptions": {"preconditions": {"uid": uid}},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let request = with_body(Method::POST, &path, "application/json", &eviction)
            .map_err(|error| Refusal::Other(error.to_string()))?;
        self.kubelet.try_json(&request).await
    }

    /// This node's own API server, past any load balancer.
    async fn own_server(&self) -> HostResult<String> {
        let path = self.layout.manifests().join("kube-apiserver.yaml");
        let Some(manifest) = self.files.read(&path).await? else {
            return Err(HostError::Malformed {
                what: format!("the manifest {path}"),
                why: "it is not there: kubeadm may have been cut off between its two renames; \
                      put the newest one under /etc/kubernetes/tmp back"
                    .to_owned(),
            });
        };
        own_server(&StaticPod::parse("kube-apiserver", &manifest)?)
    }
}

/// A bootstrap token as the API server knows it: may be joined with, and its bearer belongs to kubeadm's group.
fn secret_of(token: &BootstrapToken, node: &NodeName, ends_at_ms: u64) -> Value {
    let ends = i64::try_from(ends_at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "stringData": {
            "description": format!("Liftlock lets {node} join"),
            "token-id": token.id,
            "token-secret": token.secret.expose_secret(),
            "expiration": ends.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    })
}

fn own_server(pod: &StaticPod) -> HostResult<String> {
    let address = pod.required("advertise-address")?;
    let port = pod.flag("secure-port").unwrap_or("6443");
    // An IPv6 address has colons of its own.
    Ok(if address.contains(':') {
        format!("https://[{address}]:{port}")
    } else {
        format!("https://{address}:{port}")
    })
}

/// API servers before 1.22 answer an eviction of policy/v1 with 400, not with 404.
fn knows_no_such_eviction(status: &Status) -> bool {
    status.code == 400 && status.message.contains("no kind \"Eviction\" is registered")
}

/// A namespace that is being deleted takes no evictions; its pods go without them.
fn namespace_ends(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// A Lease that a leader renews.
#[derive(Clone, Deserialize)]
struct LeaderLease {
    spec: LeaseSpec,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    holder_identity: String,
    renew_time: String,
}

/// One pod a node.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct DaemonSet {
    metadata: Generation,
    status: DaemonSetStatus,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Generation {
    generation: i64,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DaemonSetStatus {
    observed_generation: i64,
    desired_number_scheduled: u32,
    updated_number_scheduled: u32,
    number_available: u32,
}

impl DaemonSet {
    /// Whether its pods are all of its present template and there, or it is one for more than `few` nodes.
    fn is_settled(&self, few: u32) -> bool {
        let DaemonSetStatus {
            observed_generation,
            desired_number_scheduled: desired,
            updated_number_scheduled: updated,
            number_available: available,
        } = self.status;
        desired > few
            || (observed_generation >= self.metadata.generation && updated >= desired && available >= desired)
    }
}

/// A Deployment's counts. The API server leaves out what is zero, and fills `spec.replicas` in.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Deployment {
    spec: DeploymentSpec,
    status: DeploymentStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DeploymentSpec {
    replicas: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeploymentStatus {
    ready_replicas: u32,
}

#[derive(Deserialize)]
struct Named {
    metadata: ObjectMeta,
}

/// The `ConfigMap` in which kubeadm keeps what the cluster is.
#[derive(Deserialize)]
struct KubeadmConfig {
    data: KubeadmConfigData,
}

#[derive(Deserialize)]
struct KubeadmConfigData {
    #[serde(rename = "ClusterConfiguration")]
    cluster_configuration: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterConfiguration {
    kubernetes_version: String,
}

impl KubeadmConfig {
    fn version(&self) -> HostResult<KubernetesVersion> {
        let malformed = |why: String| HostError::Malformed {
            what: "ClusterConfiguration in the ConfigMap kubeadm-config".to_owned(),
            why,
        };
        let configuration: ClusterConfiguration = serde_saphyr::from_str(&self.data.cluster_configuration)
            .map_err(|error| malformed(error.to_string()))?;
        configuration.kubernetes_version.parse().map_err(|error: VersionError| malformed(error.to_string()))
    }
}

/// An object as YAML that `kubectl replace` takes: without what only the API server may set.
fn as_manifest(mut object: Value) -> HostResult<String> {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "selfLink"] {
            metadata.remove(field);
        }
    }
    serde_saphyr::to_string(&object)
        .map_err(|error| HostError::Malformed { what: "a ConfigMap".to_owned(), why: error.to_string() })
}

/// Lists a collection page by page, and hands over each object as it is read.
async fn each<T: DeserializeOwned>(
    access: &Access,
    path: &str,
    page: u32,
    mut object: impl FnMut(T),
) -> Result<(), Refusal> {
    let mut next = String::new();
    loop {
        let request = get(&format!("{path}?limit={page}&continue={next}"));
        let request = request.map_err(|error| Refusal::Other(error.to_string()))?;
        let text = access.text(&request).await?;
        // One object after the other: those of a whole page side by side are what an agent would grow by for good.
        let list: List<&RawValue> =
            serde_json::from_str(&text).map_err(|error| access::unreadable(&error))?;
        for item in list.items {
            object(serde_json::from_str(item.get()).map_err(|error| access::unreadable(&error))?);
        }
        if list.metadata.next.is_empty() {
            return Ok(());
        }
        next = list.metadata.next;
    }
}

fn get(path: &str) -> HostResult<Request<Vec<u8>>> {
    Request::get(path).body(Vec::new()).map_err(|error| malformed_request(path, &error))
}

fn with_body(method: Method, path: &str, kind: &str, body: &Value) -> HostResult<Request<Vec<u8>>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, kind)
        .body(body.to_string().into_bytes())
        .map_err(|error| malformed_request(path, &error))
}

fn malformed_request(path: &str, error: &http::Error) -> HostError {
    HostError::Malformed { what: format!("the request {path}"), why: error.to_string() }
}
