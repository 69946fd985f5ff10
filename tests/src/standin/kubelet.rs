//! A stand-in kubelet: turns manifests and bound pods into running containers, and reports its Node.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::standin::api::eviction::{condition, is_ready, is_terminating};
use crate::standin::api::server::ApiServer;
use crate::standin::cluster::put_node;
use crate::standin::cri::{Container, Runtime};
use crate::standin::etcd::Ensemble;
use crate::standin::manifest::{StaticPod, tag};
use crate::standin::node::{NodeFacts, NodeTree};
use crate::standin::objects::{Key, Objects, now, text};
use crate::standin::pki::server_config;
use crate::standin::release::{Release, version_of_package};
use crate::standin::serve::{self, Running};
use crate::standin::systemd::{KubeletService, Systemd};

/// What the kubelets of a cluster share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What the API holds.
    pub objects: Objects,
    /// etcd's members.
    pub etcd: Ensemble,
}

/// One node's kubelet and what it runs.
#[derive(Debug)]
pub struct Kubelet {
    tree: NodeTree,
    facts: NodeFacts,
    shared: Shared,
    systemd: Systemd,
    runtime: Runtime,
    static_pods: BTreeMap<String, RunningPod>,
    api_pods: BTreeMap<String, Pending>,
    api: Option<Backend>,
    etcd: Option<Running>,
    etcd_answers: Arc<AtomicBool>,
    reported_starts: u32,
    report_at: Option<Instant>,
    broken: Vec<String>,
    held: Arc<AtomicBool>,
    noticed: Option<Noticed>,
}

/// What a kubelet watches outside the API. Where nothing of it changed, there is nothing to do.
#[derive(Debug, PartialEq, Eq)]
struct Noticed {
    service: KubeletService,
    broken: Vec<String>,
    held: bool,
    joined: bool,
    /// Name, size, inode and modification time of each manifest.
    manifests: Vec<(std::ffi::OsString, u64, u64, i64, i64)>,
}

/// A running API server, as the load balancer sees it.
#[derive(Debug)]
struct Backend {
    connections: mpsc::Sender<tokio::net::TcpStream>,
    _server: Running,
}

#[derive(Debug)]
struct RunningPod {
    pod: StaticPod,
    ready_at: Instant,
    since_ns: Option<i64>,
}

/// A bound pod's next change.
#[derive(Debug)]
struct Pending {
    starts: bool,
    at: Instant,
}

impl Kubelet {
    /// The kubelet of a node; [`Kubelet::sync`] makes it work.
    pub fn new(tree: NodeTree, facts: NodeFacts, shared: Shared, systemd: Systemd, runtime: Runtime) -> Self {
        Self {
            tree,
            facts,
            shared,
            systemd,
            runtime,
            static_pods: BTreeMap::new(),
            api_pods: BTreeMap::new(),
            api: None,
            etcd: None,
            etcd_answers: Arc::default(),
            reported_starts: 0,
            report_at: None,
            broken: Vec::new(),
            held: Arc::default(),
            noticed: None,
        }
    }

    /// Makes a static pod's container not run whatever its manifest says, or ends that.
    pub fn set_broken(&mut self, component: &str, broken: bool) {
        self.broken.retain(|known| known != component);
        if broken {
            self.broken.push(component.to_owned());
        }
    }

    /// What a power cut leaves: no container. The pods that were bound here start anew once a kubelet runs again.
    pub fn cut_power(&mut self) {
        self.static_pods.clear();
        self.api_pods.clear();
        self.api = None;
        self.etcd = None;
        self.report_at = None;
        self.noticed = None;
        self.shared.etcd.set_running(&self.facts.name, self.facts.address, None);
        self.etcd_answers.store(false, Ordering::Release);
        for pod in self.bound_pods() {
            let part = |pointer| text(&pod, pointer).unwrap_or_default().to_owned();
            let key = Key::new("pods", &part("/metadata/namespace"), &part("/metadata/name"));
            if is_ready(&pod) {
                self.shared.objects.update(&key, |pod| pod["status"] = status(false));
            }
        }
        self.runtime.set_containers(Vec::new());
    }

    /// While this is true, the kubelet does not report what it is since its start.
    pub fn hold_report(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.held)
    }

    /// Where the load balancer sends connections, while this node's API server runs.
    pub fn api(&self) -> Option<mpsc::Sender<tokio::net::TcpStream>> {
        self.api.as_ref().map(|backend| backend.connections.clone())
    }

    /// Whether this node's API server runs and its etcd answers.
    pub fn serves(&self) -> bool {
        self.api.is_some() && self.etcd_answers.load(Ordering::Acquire)
    }

    /// Whether there is something to do: a change, or something begun that takes time.
    pub fn notices(&mut self) -> bool {
        let folder = fs::read_dir(self.tree.at("/etc/kubernetes/manifests")).into_iter().flatten().flatten();
        let mut manifests: Vec<_> = folder
            .filter_map(|entry| {
                let about = entry.metadata().ok()?;
                Some((entry.file_name(), about.size(), about.ino(), about.mtime(), about.mtime_nsec()))
            })
            .collect();
        manifests.sort();
        let (service, broken) = (self.systemd.kubelet(), self.broken.clone());
        let (held, joined) = (self.held.load(Ordering::Acquire), self.has_joined());
        let noticed = Some(Noticed { service, broken, held, joined, manifests });
        let changed = noticed != self.noticed;
        self.noticed = noticed;
        let starting = self.static_pods.values().any(|running| running.since_ns.is_none());
        changed || starting || !self.api_pods.is_empty() || self.report_at.is_some()
    }

    /// One turn of the kubelet's loop. `api` says whether an API server can be reached.
    pub fn sync(&mut self, api: bool) -> Result<()> {
        let now = Instant::now();
        if self.systemd.kubelet().running.is_none() && !self.has_joined() {
            // `kubeadm reset` ends the containers too.
            self.static_pods.clear();
            self.api_pods.clear();
            self.lose();
        }
        if self.systemd.kubelet().running.is_some() && self.has_joined() {
            self.sync_static_pods(now);
            if api {
                self.sync_mirror_pods();
                self.sync_bound_pods(now);
                self.report(now);
            }
        }
        // None waits for another: while etcd's address is still taken, an API server of before has ended all the same.
        let (etcd, api) = (self.run_etcd(), self.run_api());
        self.runtime.set_containers(self.containers());
        etcd.and(api)
    }

    /// What the node lifecycle controller makes of a kubelet that is gone for good.
    fn lose(&self) {
        let key = Key::new("nodes", "", &self.facts.name);
        if self.shared.objects.get(&key).is_some_and(|node| condition(&node, "Ready")) {
            self.shared.objects.update(&key, |node| {
                node["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]);
            });
        }
    }

    /// A kubelet without credentials ends at its start, again and again.
    fn has_joined(&self) -> bool {
        self.tree.at("/etc/kubernetes/kubelet.conf").exists()
    }

    fn sync_static_pods(&mut self, now: Instant) {
        let mut wanted = BTreeMap::new();
        let folder = self.tree.at("/etc/kubernetes/manifests");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let manifest = name.to_string_lossy();
            if manifest.starts_with('.') || !manifest.ends_with(".yaml") {
                continue;
            }
            if let Some(pod) = fs::read_to_string(entry.path()).ok().as_deref().and_then(StaticPod::parse)
                && !self.broken.contains(&pod.component)
            {
                wanted.insert(pod.component.clone(), pod);
            }
        }
        self.static_pods.retain(|component, running| wanted.get(component) == Some(&running.pod));
        for (component, pod) in wanted {
            let images = &self.tree;
            let delay = self.facts.tempo.container_start;
            let running = self.static_pods.entry(component).or_insert_with(|| {
                _ = images.add_image(&pod.image);
                RunningPod { pod, ready_at: now + delay, since_ns: None }
            });
            if running.since_ns.is_none() && now >= running.ready_at {
                running.since_ns = Some(unix_ns());
            }
        }
    }

    fn running(&self, component: &str) -> Option<&StaticPod> {
        self.static_pods
            .get(component)
            .filter(|running| running.since_ns.is_some())
            .map(|running| &running.pod)
    }

    fn run_etcd(&mut self) -> Result<()> {
        let etcd =
            self.running("etcd").map(|pod| tag(&pod.image).split('-').next().unwrap_or_default().to_owned());
        if etcd.is_none() {
            self.etcd = None;
        } else if self.etcd.is_none() {
            let pki = self.tree.at("/etc/kubernetes/pki/etcd");
            let config = server_config(
                &pki.join("server.crt"),
                &pki.join("server.key"),
                &pki.join("ca.crt"),
                false,
                &["h2"],
            )?;
            let listener = serve::bind(self.facts.address, 2379)?;
            let router = self.shared.etcd.router(self.facts.address);
            self.etcd = Some(serve::tls(listener, None, config, router));
        }
        self.shared.etcd.set_running(&self.facts.name, self.facts.address, etcd.as_deref());
        self.etcd_answers.store(etcd.is_some() && self.shared.etcd.has_quorum(), Ordering::Release);
        Ok(())
    }

    fn run_api(&mut self) -> Result<()> {
        let api = self.running("kube-apiserver").and_then(|pod| tag(&pod.image).parse().ok());
        match api {
            None => self.api = None,
            Some(version) if self.api.is_none() => {
                let pki = self.tree.at("/etc/kubernetes/pki");
                let config = server_config(
                    &pki.join("apiserver.crt"),
                    &pki.join("apiserver.key"),
                    &pki.join("ca.crt"),
                    true,
                    &["http/1.1"],
                )?;
                let server = ApiServer {
                    release: Release(version),
                    objects: self.shared.objects.clone(),
                    etcd: Arc::clone(&self.etcd_answers),
                };
                let (connections, from_balancer) = mpsc::channel(64);
                let listener = serve::bind(self.facts.address, 6443)?;
                let server = serve::tls(listener, Some(from_balancer), config, server.router());
                self.api = Some(Backend { connections, _server: server });
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn sync_mirror_pods(&self) {
        let name = |component: &str| format!("{component}-{}", self.facts.name);
        for (component, running) in &self.static_pods {
            let key = Key::new("pods", "kube-system", &name(component));
            let pod = mirror_pod(&self.facts.name, component, &running.pod, running.since_ns.is_some());
            match self.shared.objects.get(&key) {
                None => _ = self.shared.objects.put(&key, pod),
                // A changed static pod gets a new mirror pod: another uid.
                Some(known)
                    if text(&known, "/metadata/annotations/kubernetes.io~1config.hash")
                        != Some(&running.pod.hash) =>
                {
                    self.shared.objects.remove(&key);
                    self.shared.objects.put(&key, pod);
                }
                Some(_) => {
                    _ = self.shared.objects.update(&key, |known| known["status"] = pod["status"].clone());
                }
            }
        }
        for pod in self.shared.objects.list("pods", Some("kube-system")) {
            let own = text(&pod, "/spec/nodeName") == Some(&self.facts.name);
            let mirror = pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
            let component = text(&pod, "/metadata/labels/component").unwrap_or_default();
            if own && mirror && !self.static_pods.contains_key(component) {
                self.shared.objects.remove(&Key::new("pods", "kube-system", &name(component)));
            }
        }
    }

    fn bound_pods(&self) -> Vec<Value> {
        let mut pods = self.shared.objects.list("pods", None);
        pods.retain(|pod| {
            text(pod, "/spec/nodeName") == Some(&self.facts.name)
                && pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_none()
        });
        pods
    }

    fn sync_bound_pods(&mut self, now: Instant) {
        let tempo = self.facts.tempo;
        for pod in self.bound_pods() {
            let part = |pointer| text(&pod, pointer).unwrap_or_default().to_owned();
            let key = Key::new("pods", &part("/metadata/namespace"), &part("/metadata/name"));
            let starts = !is_terminating(&pod);
            if starts && (is_ready(&pod) || part("/status/phase") != "Pending") {
                continue;
            }
            let uid = part("/metadata/uid");
            let grace = pod.pointer("/metadata/annotations/standin~1grace-ms").and_then(Value::as_str);
            let grace =
                grace.and_then(|text| text.parse().ok()).map_or(tempo.pod_grace, Duration::from_millis);
            let at = now + if starts { tempo.container_start } else { grace };
            let pending = self.api_pods.entry(uid.clone()).or_insert(Pending { starts, at });
            if pending.starts != starts {
                *pending = Pending { starts, at };
            }
            if now < pending.at {
                continue;
            }
            self.api_pods.remove(&uid);
            if starts {
                self.shared.objects.update(&key, |pod| pod["status"] = status(true));
            } else {
                self.shared.objects.remove(&key);
            }
        }
    }

    /// Reports the version of a kubelet that was started, a little later.
    fn report(&mut self, now: Instant) {
        let service = self.systemd.kubelet();
        let Some(version) = service.running.as_deref().and_then(version_of_package) else {
            return;
        };
        if service.starts == self.reported_starts || self.held.load(Ordering::Acquire) {
            return;
        }
        let at = *self.report_at.get_or_insert(now + self.facts.tempo.container_start);
        if now < at {
            return;
        }
        let key = Key::new("nodes", "", &self.facts.name);
        if self.shared.objects.get(&key).is_none() {
            // A kubelet registers its Node at its start; who is a control plane is kubeadm's to mark.
            let facts = NodeFacts { control_plane: false, ..self.facts.clone() };
            put_node(&self.shared.objects, &facts, Release(version));
        }
        let reported = self.shared.objects.update(&key, |node| {
            node["status"]["nodeInfo"]["kubeletVersion"] = json!(version.to_string());
            node["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "kubelet is posting ready status", "lastHeartbeatTime": self::now(),
            }]);
        });
        if reported.is_some() {
            self.reported_starts = service.starts;
            self.report_at = None;
        }
    }

    fn containers(&self) -> Vec<Container> {
        let mut containers = Vec::new();
        for (component, running) in &self.static_pods {
            if let Some(created_at_ns) = running.since_ns {
                containers.push(Container {
                    name: component.clone(),
                    pod: format!("{component}-{}", self.facts.name),
                    namespace: "kube-system".to_owned(),
                    uid: running.pod.hash.clone(),
                    image: running.pod.image.clone(),
                    created_at_ns,
                });
            }
        }
        let bound = if self.has_joined() { self.bound_pods() } else { Vec::new() };
        for pod in bound.iter().filter(|pod| is_ready(pod)) {
            let part = |pointer| text(pod, pointer).unwrap_or_default().to_owned();
            containers.push(Container {
                name: part("/spec/containers/0/name"),
                pod: part("/metadata/name"),
                namespace: part("/metadata/namespace"),
                uid: part("/metadata/uid"),
                image: part("/spec/containers/0/image"),
                created_at_ns: 1,
            });
        }
        containers
    }
}

fn mirror_pod(node: &str, component: &str, pod: &StaticPod, running: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "labels": {"component": component, "tier": "control-plane"},
            "annotations": {
                "kubernetes.io/config.hash": pod.hash,
                "kubernetes.io/config.mirror": pod.hash,
                "kubernetes.io/config.source": "file",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": node, "uid": node, "controller": true,
            }],
        },
        "spec": {
            "nodeName": node, "hostNetwork": true,
            "containers": [{"name": component, "image": pod.image}],
        },
        "status": status(running),
    })
}

/// A pod's status.
pub fn status(ready: bool) -> Value {
    let (phase, ready) = if ready { ("Running", "True") } else { ("Pending", "False") };
    json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]})
}

fn unix_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
