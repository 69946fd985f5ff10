//! A stand-in cluster that runs until it is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use camino::Utf8Path;
use liftlock_proto::not_raised::{EFFECT, KEY};
use liftlock_proto::version::KubernetesVersion;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::standin::api::custom::Custom;
use crate::standin::api::eviction::{condition, is_ready};
use crate::standin::api::server::taint_if_unschedulable;
use crate::standin::controllers::{Controllers, Workload, count_budgets};
use crate::standin::cri::{Container, Runtime};
use crate::standin::etcd::Ensemble;
use crate::standin::kubelet::{Kubelet, Shared, status};
use crate::standin::node::{Blueprint, NodeFacts, NodeTree, Tempo, kubelet_configuration, user_kubeconfig};
use crate::standin::objects::{Key, Objects, merge, text};
use crate::standin::packages::Repository;
use crate::standin::pki::Authority;
use crate::standin::release::Release;
use crate::standin::serve::{self, Running};
use crate::standin::systemd::Systemd;

/// How often kubelets and controllers look.
const TURN: Duration = Duration::from_millis(15);

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Shape {
    /// `cp1`, `cp2`, …
    pub control_planes: usize,
    /// `w1`, `w2`, …
    pub workers: usize,
    /// What it runs.
    pub version: KubernetesVersion,
    /// What else the package repository offers.
    pub offered: Vec<KubernetesVersion>,
    /// `n1`, …: machines with the packages that have not joined.
    pub machines: usize,
    /// How slow things are.
    pub tempo: Tempo,
}

impl Shape {
    /// So many control planes and workers at v1.30.4, with v1.31.2 on offer.
    pub fn new(control_planes: usize, workers: usize) -> Self {
        Self {
            control_planes,
            workers,
            version: KubernetesVersion::new(1, 30, 4),
            offered: vec![KubernetesVersion::new(1, 31, 2)],
            machines: 0,
            tempo: Tempo::default(),
        }
    }
}

/// A cluster's node and what runs on it.
#[derive(Debug)]
pub struct Machine {
    /// Its folder.
    pub tree: NodeTree,
    /// What it is.
    pub facts: NodeFacts,
    /// Its systemd.
    pub systemd: Systemd,
    /// Its container runtime.
    pub runtime: Runtime,
    _systemd: Running,
    _runtime: Running,
}

/// A running cluster. Everything of it ends when it is dropped; its folder is its maker's.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: nothing looks at the nodes while they go.
    _turns: Running,
    _balancer: Running,
    machines: BTreeMap<String, Machine>,
    /// What the API holds.
    pub objects: Objects,
    /// etcd's members.
    pub etcd: Ensemble,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    kubelets: BTreeMap<String, Kubelet>,
    controllers: Controllers,
}

impl Cluster {
    /// Makes a cluster in an empty folder and starts it. `program` is the stand-in binary.
    pub async fn start(folder: &Utf8Path, program: &Utf8Path, shape: &Shape) -> Result<Self> {
        let (balancer, subnet) = free_subnet()?;
        let release = Release(shape.version);
        let versions: Vec<String> = std::iter::once(&shape.version)
            .chain(&shape.offered)
            .map(|version| Release(*version).package_version())
            .collect();
        let repository = folder.join("repository");
        Repository::create(&repository, &versions)?;
        let authorities = folder.join("authorities");
        let kubernetes = Authority::create("kubernetes", &authorities, "ca")?;
        Authority::create("front-proxy-ca", &authorities, "front-proxy-ca")?;
        Authority::create("etcd-ca", &authorities.join("etcd"), "ca")?;
        fs::write(authorities.join("sa.key"), "the key that signs service account tokens\n")?;
        fs::write(authorities.join("sa.pub"), "the key that verifies service account tokens\n")?;

        let [a, b, c] = subnet;
        let facts: Vec<NodeFacts> = (0..shape.control_planes)
            .map(|index| (true, "cp", 11, index))
            .chain((0..shape.workers).map(|index| (false, "w", 101, index)))
            .chain((0..shape.machines).map(|index| (false, "n", 201, index)))
            .map(|(control_plane, kind, first, index)| {
                let last = u8::try_from(first + index).context("too many nodes for one subnet")?;
                Ok(NodeFacts {
                    name: format!("{kind}{}", index + 1),
                    address: Ipv4Addr::new(a, b, c, last),
                    load_balancer: Ipv4Addr::new(a, b, c, 10),
                    control_plane,
                    repository: repository.clone(),
                    tempo: shape.tempo,
                })
            })
            .collect::<Result<_>>()?;

        let objects = Objects::default();
        let control_planes = facts.iter().filter(|facts| facts.control_plane);
        let etcd =
            Ensemble::new(objects.clone(), control_planes.map(|facts| (facts.name.clone(), facts.address)));
        let shared = Shared { objects: objects.clone(), etcd: etcd.clone() };
        let mut machines = BTreeMap::new();
        let mut kubelets = BTreeMap::new();
        let mut members = Vec::new();
        for facts in facts {
            let tree = NodeTree::new(folder.join("nodes").join(&facts.name));
            let initial = members.join(",");
            let blueprint = Blueprint {
                program,
                release,
                registry: release.registry(),
                authorities: &authorities,
                kubernetes: &kubernetes,
                etcd_members: (!members.is_empty()).then_some(initial.as_str()),
            };
            let joined = !facts.name.starts_with('n');
            tree.create(&facts, &blueprint, joined)?;
            if facts.control_plane {
                members.push(format!("{}=https://{}:2380", facts.name, facts.address));
            }
            if joined {
                put_node(&objects, &facts, release);
            }
            let (systemd, systemd_task) = Systemd::start(&tree)?;
            let runtime = Runtime::new(tree.clone());
            let runtime_task = serve::unix(&tree.runtime_socket(), runtime.router(release.has_cri_v1()))?;
            let kubelet =
                Kubelet::new(tree.clone(), facts.clone(), shared.clone(), systemd.clone(), runtime.clone());
            kubelets.insert(facts.name.clone(), kubelet);
            let machine =
                Machine { tree, systemd, runtime, _systemd: systemd_task, _runtime: runtime_task, facts };
            machines.insert(machine.facts.name.clone(), machine);
        }
        put_config_maps(&objects, release);
        let state = Arc::new(Mutex::new(State { kubelets, controllers: Controllers::default() }));
        let cluster = Self {
            _turns: Running::spawn(turns(Arc::clone(&state), objects.clone())),
            _balancer: Running::spawn(balance(balancer, Arc::clone(&state))),
            machines,
            objects,
            etcd,
            state,
        };
        cluster.wait_until_ready().await?;
        // Not before: its pods would all lie on the node that is Ready first, whichever that is.
        cluster.add_workload(Workload {
            name: "coredns".to_owned(),
            namespace: "kube-system".to_owned(),
            replicas: 2,
            image: release.image("coredns", release.registry()),
            on_control_planes: true,
        });
        let limit = Duration::from_secs(30);
        cluster.wait_for("CoreDNS", limit, |cluster| cluster.lowest_ready("coredns") == Some(2)).await?;
        Ok(cluster)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's machine.
    pub fn machine(&self, node: &str) -> Result<&Machine> {
        self.machines.get(node).with_context(|| format!("the stand-in cluster has no node {node}"))
    }

    /// Every machine, by name.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    /// Runs a workload; its pods carry the label `app`.
    pub fn add_workload(&self, workload: Workload) {
        self.lock().controllers.add(workload);
    }

    /// Lets a workload of the namespace default never have fewer than so many ready pods by eviction.
    pub fn add_budget(&self, workload: &str, min_available: usize) {
        let budget = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {},
            "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": workload}}},
        });
        self.objects.put(&Key::new("poddisruptionbudgets", "default", workload), budget);
        count_budgets(&self.objects);
    }

    /// Takes a workload's budget away.
    pub fn remove_budget(&self, workload: &str) {
        self.objects.remove(&Key::new("poddisruptionbudgets", "default", workload));
    }

    /// Runs a pod of the namespace default on a node that no controller would start again.
    pub fn add_unmanaged_pod(&self, name: &str, node: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {},
            "spec": {"nodeName": node, "containers": [{"name": name, "image": "example.com/tool:1"}]},
            "status": status(true),
        });
        self.objects.put(&Key::new("pods", "default", name), pod);
    }

    /// Runs a pod of the namespace default on a node that a drain leaves there.
    pub fn add_daemon_pod(&self, name: &str, node: &str) {
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": name, "controller": true});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"ownerReferences": [owner]},
            "spec": {"nodeName": node, "containers": [{"name": name, "image": "example.com/tool:1"}]},
            "status": status(true),
        });
        self.objects.put(&Key::new("pods", "default", name), pod);
    }

    /// Deletes a pod of the namespace `default`.
    pub fn remove_pod(&self, name: &str) {
        self.objects.remove(&Key::new("pods", "default", name));
    }

    /// Puts the Deployment of the cluster's DNS there, with so many of its two pods ready.
    pub fn set_dns(&self, ready: u32) {
        let deployment = json!({
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": {"labels": {"k8s-app": "kube-dns"}},
            "spec": {"replicas": 2},
            "status": {"replicas": 2, "readyReplicas": ready},
        });
        self.objects.put(&Key::new("deployments", "kube-system", "coredns"), deployment);
    }

    /// Applies manifests of objects without a namespace, or of the namespace that they name.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        for mut manifest in serde_saphyr::from_str_multiple::<Value, Vec<Value>>(manifests)? {
            let part = |pointer: &str| text(&manifest, pointer).unwrap_or_default();
            let (api, kind) = (part("/apiVersion"), part("/kind"));
            let resource = format!("{}s", kind.to_ascii_lowercase());
            let key = Key::new(&resource, part("/metadata/namespace"), part("/metadata/name"));
            let (group, version) = api.split_once('/').unwrap_or(("", api));
            let Some(custom) = Custom::find(&self.objects, group, version, &resource) else {
                self.objects.put(&key, manifest);
                continue;
            };
            let applied = match self.objects.get(&key) {
                None => custom.create(&self.objects, &key, manifest),
                Some(known) => {
                    manifest["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
                    custom.update(&self.objects, &key, manifest, false)
                }
            };
            applied.map_err(|refused| anyhow!(refused.message))?;
        }
        Ok(())
    }

    /// A kubeconfig with which a user asks the API servers through the load balancer.
    pub fn kubeconfig(&self, user: &str) -> Result<String> {
        let first = self.machines().find(|machine| machine.facts.control_plane);
        let first = first.context("the stand-in cluster has no control plane")?;
        let authority = Authority::load(&first.tree.at("/etc/kubernetes/pki"), "ca")?;
        user_kubeconfig(first.facts.load_balancer, &authority, user, "")
    }

    /// Cordons or uncordons a node, as an operator does with kubectl.
    pub fn cordon(&self, node: &str, cordoned: bool) {
        self.objects.update(&Key::new("nodes", "", node), |node| {
            merge(node, &json!({"spec": {"unschedulable": cordoned.then_some(true)}}));
            taint_if_unschedulable(node);
        });
    }

    /// Labels a node.
    pub fn label(&self, node: &str, key: &str, value: &str) {
        self.objects.update(&Key::new("nodes", "", node), |node| {
            merge(node, &json!({"metadata": {"labels": {key: value}}}));
        });
    }

    /// Says what the node lifecycle controller would, of a kubelet that reports no more.
    pub fn set_ready(&self, node: &str, ready: bool) {
        let ready = if ready { "True" } else { "Unknown" };
        self.objects.update(&Key::new("nodes", "", node), |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
        });
    }

    /// Whether a node is cordoned.
    pub fn is_cordoned(&self, node: &str) -> bool {
        self.node(node).pointer("/spec/unschedulable") == Some(&json!(true))
    }

    /// Gives a node a taint, as an operator does with kubectl.
    pub fn taint(&self, node: &str, taint: &Value) {
        self.objects.update(&Key::new("nodes", "", node), |node| {
            let taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
            node["spec"]["taints"] = taints.into_iter().chain([taint.clone()]).collect();
        });
    }

    /// The nodes that carry Liftlock's taint of what is not raised yet.
    pub fn not_raised(&self) -> Vec<String> {
        let nodes = self.objects.list("nodes", None);
        let marked = nodes.iter().filter(|node| is_marked(node));
        marked.filter_map(|node| text(node, "/metadata/name")).map(str::to_owned).collect()
    }

    /// A Node object.
    pub fn node(&self, node: &str) -> Value {
        self.objects.get(&Key::new("nodes", "", node)).unwrap_or_default()
    }

    /// The kubelet's version, as the Node says it.
    pub fn kubelet_version(&self, node: &str) -> String {
        text(&self.node(node), "/status/nodeInfo/kubeletVersion").unwrap_or_default().to_owned()
    }

    /// `kubernetesVersion` in kubeadm-config.
    pub fn kubeadm_config_version(&self) -> String {
        let map =
            self.objects.get(&Key::new("configmaps", "kube-system", "kubeadm-config")).unwrap_or_default();
        let configuration = text(&map, "/data/ClusterConfiguration").unwrap_or_default();
        let version = configuration.lines().find_map(|line| line.strip_prefix("kubernetesVersion: "));
        version.unwrap_or_default().to_owned()
    }

    /// What a node's container runtime runs.
    pub fn containers(&self, node: &str) -> Vec<Container> {
        self.machines.get(node).map(|machine| machine.runtime.containers()).unwrap_or_default()
    }

    /// The lowest number of ready pods that a workload ever had.
    pub fn lowest_ready(&self, workload: &str) -> Option<usize> {
        self.lock().controllers.lowest_ready(workload)
    }

    /// Makes a static pod of a node not run whatever its manifest says, or ends that.
    pub fn set_broken(&self, node: &str, component: &str, broken: bool) {
        if let Some(kubelet) = self.lock().kubelets.get_mut(node) {
            kubelet.set_broken(component, broken);
        }
    }

    /// While this is true, a node's kubelet does not report what it is since its start.
    pub fn hold_report(&self, node: &str) -> Result<Arc<AtomicBool>> {
        let state = self.lock();
        let kubelet =
            state.kubelets.get(node).with_context(|| format!("the stand-in cluster has no node {node}"))?;
        Ok(kubelet.hold_report())
    }

    /// Cuts a node's power and gives it back: every process and container ends, and the kubelet starts anew. The
    /// agent is the fleet's, which ends and starts it.
    pub fn reboot(&self, node: &str) -> Result<()> {
        let machine = self.machine(node)?;
        let mut state = self.lock();
        machine.systemd.cut_power();
        if let Some(kubelet) = state.kubelets.get_mut(node) {
            kubelet.cut_power();
        }
        machine.systemd.restart_kubelet(&machine.tree)
    }

    /// Stops every API server, or lets them run again.
    pub fn set_api_gone(&self, gone: bool) {
        for kubelet in self.lock().kubelets.values_mut() {
            kubelet.set_broken("kube-apiserver", gone);
        }
    }

    /// Waits until a condition of the cluster holds; looks whenever an object changed, and each turn.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let end = tokio::time::Instant::now() + limit;
        while !condition(self) {
            if tokio::time::Instant::now() > end {
                bail!("the stand-in cluster: waited {limit:?} for {what}");
            }
            tokio::time::sleep(TURN).await;
        }
        Ok(())
    }

    async fn wait_until_ready(&self) -> Result<()> {
        self.wait_for("every Node and pod to be ready", Duration::from_secs(30), |cluster| {
            let ready = cluster.objects.list("nodes", None).iter().all(|node| condition(node, "Ready"));
            let pods = cluster.objects.list("pods", None);
            ready && !pods.is_empty() && pods.iter().all(is_ready) && {
                cluster.lock().kubelets.values().filter(|kubelet| kubelet.serves()).count()
                    == cluster.etcd.members().len()
            }
        })
        .await
    }
}

/// Whether a Node carries Liftlock's taint of what is not raised yet.
pub fn is_marked(node: &Value) -> bool {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    taints.into_iter().flatten().any(|taint| *taint == json!({"key": KEY, "effect": EFFECT}))
}

/// Kubelets and controllers, turn by turn; most turns find nothing to do.
async fn turns(state: Arc<Mutex<State>>, objects: Objects) {
    let mut interval = tokio::time::interval(TURN);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut settled = None;
    loop {
        interval.tick().await;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { kubelets, controllers } = &mut *state;
        let api = kubelets.values().any(Kubelet::serves);
        if api {
            controllers.lead(&objects);
        }
        let seen = (api, objects.noticed(), controllers.workloads());
        let noticed = kubelets.values_mut().map(Kubelet::notices).filter(|noticed| *noticed).count() > 0;
        if !noticed && settled == Some(seen) {
            continue;
        }
        // What fails here (an address still taken, a certificate half written) is tried again next turn.
        let done = kubelets.values_mut().map(|kubelet| kubelet.sync(api)).filter(Result::is_err).count() == 0;
        if api {
            controllers.sync(&objects);
        }
        settled = done.then_some(seen);
    }
}

/// Hands each connection to an API server that runs, in turn; closes it where none does.
async fn balance(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut turn = 0_usize;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let running: Vec<_> = {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.kubelets.values().filter_map(Kubelet::api).collect()
        };
        turn = turn.wrapping_add(1);
        if let Some(server) = turn.checked_rem(running.len()).and_then(|index| running.get(index)) {
            _ = server.try_send(stream);
        }
    }
}

/// A subnet of 127.0.0.0/8 that no other stand-in cluster uses: whoever listens at its .10 has it.
fn free_subnet() -> Result<(TcpListener, [u8; 3])> {
    let seed = u64::from(std::process::id())
        ^ u64::try_from(jiff::Timestamp::now().as_nanosecond() & 0xffff_ffff).unwrap_or_default();
    for attempt in 0..64_u64 {
        let number = seed.wrapping_add(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let subnet = [127, 64 + number[0] % 64, number[1]];
        if let Ok(listener) = serve::bind(Ipv4Addr::new(subnet[0], subnet[1], subnet[2], 10), 6443) {
            return Ok((listener, subnet));
        }
    }
    bail!(
        "no address in 127.64.0.0/10 takes a listener on port 6443: the loopback network is not as on Linux"
    )
}

/// A Node as its kubelet makes it, and what its `DaemonSet` runs there.
pub(crate) fn put_node(objects: &Objects, facts: &NodeFacts, release: Release) {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "labels": {"kubernetes.io/hostname": facts.name, "kubernetes.io/os": "linux"},
            "annotations": {"kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd/containerd.sock"},
        },
        "spec": {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": facts.address}],
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "False"}],
            "nodeInfo": {
                "kubeletVersion": release.0.to_string(), "architecture": "amd64",
                "containerRuntimeVersion": release.container_runtime(),
            },
        },
    });
    if facts.control_plane {
        let mut roles = vec!["node-role.kubernetes.io/control-plane"];
        if release.0.minor < 24 {
            roles.push("node-role.kubernetes.io/master");
        }
        for role in &roles {
            node["metadata"]["labels"][role] = json!("");
        }
        node["spec"]["taints"] = json!([{"key": roles.last(), "effect": "NoSchedule"}]);
    }
    objects.put(&Key::new("nodes", "", &facts.name), node);
    let proxy = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "labels": {"k8s-app": "kube-proxy"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "kube-proxy", "uid": "kube-proxy",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": facts.name, "hostNetwork": true,
            "containers": [{"name": "kube-proxy", "image": release.image("kube-proxy", release.registry())}],
        },
        "status": status(false),
    });
    objects.put(&Key::new("pods", "kube-system", &format!("kube-proxy-{}", facts.name)), proxy);
}

fn put_config_maps(objects: &Objects, release: Release) {
    let version = release.0;
    let registry = release.registry();
    let put = |name: &str, data: Value| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data});
        objects.put(&Key::new("configmaps", "kube-system", name), map);
    };
    let configuration = format!(
        "apiVersion: kubeadm.k8s.io/v1beta3\ncertificatesDir: /etc/kubernetes/pki\nclusterName: kubernetes\n\
         etcd:\n  local:\n    dataDir: /var/lib/etcd\nimageRepository: {registry}\nkind: ClusterConfiguration\n\
         kubernetesVersion: {version}\nnetworking:\n  dnsDomain: cluster.local\n  serviceSubnet: 10.96.0.0/16\n"
    );
    put("kubeadm-config", json!({"ClusterConfiguration": configuration}));
    put(&release.kubelet_config_map(), json!({"kubelet": kubelet_configuration(release)}));
    put("kube-proxy", json!({"config.conf": "kind: KubeProxyConfiguration\n"}));
    put("coredns", json!({"Corefile": ".:53 {\n    ready\n}\n"}));
}
