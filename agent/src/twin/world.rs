//! Everything there is, and what happens in it by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use liftlock_proto::version::KubernetesVersion;

use super::Shape;
use super::cluster::{Cluster, Pod};
use super::disk::Disk;
use super::fault::{Fault, Faults, SnapshotFault, Watch};
use super::join::CA;
use super::kube::api_server;
use super::kubeadm;
use super::machine::{Container, MANIFESTS, Machine, Package, image_of};
use super::redeploy::Replacing;
use crate::addons::Addons;
use crate::hooks::Hooks;
use crate::redeploy::replacement::Replacement;

/// The kubelet looks at its manifests, and a container starts, after this long.
const STATIC_POD_DELAY: Duration = Duration::from_millis(800);
/// A kubelet's first report after its start.
const REPORT_DELAY: Duration = Duration::from_secs(5);
/// A pod's start.
const POD_START: Duration = Duration::from_secs(2);
/// 2026-11-21T15:00:07Z, in milliseconds.
const EPOCH_MS: u64 = 1_795_273_207_000;

/// What happens at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// The kubelet looks at its manifests.
    LookAtManifests(String),
    /// A static pod's container starts.
    StartContainer(String, String),
    /// The kubelet reports its node's status.
    Report(String),
    /// A pod is ready.
    PodReady(String),
    /// A pod has ended.
    PodGone(String),
}

/// Everything there is.
#[derive(Clone)]
pub struct World {
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    /// Moments that somebody waits for.
    wakes: BTreeSet<Duration>,
    numbers: u64,
    wakers: Vec<Waker>,
    faults: Faults,
    watch: Option<Arc<dyn Watch>>,
    machines: BTreeMap<String, Machine>,
    /// What the API server shows.
    pub cluster: Cluster,
    /// What happens to the next snapshots.
    pub snapshot_fault: Option<SnapshotFault>,
    /// Alarms that etcd has raised.
    pub etcd_alarms: Vec<String>,
    /// Until then the API does not answer, for no reason that anybody can see.
    pub api_is_away_until: Duration,
    /// Kubernetes versions in the package repositories, oldest first.
    pub offered: Vec<KubernetesVersion>,
    /// Milliseconds by which a node's time of day is ahead, where somebody set it.
    pub wall_clock_off_by: BTreeMap<String, i64>,
    /// How hosts are replaced, by the configuration of each.
    pub redeploy: Option<Arc<Replacement>>,
    /// `[addons]` of the configuration of each.
    pub addons: Arc<Addons>,
    /// `[hooks]` of the configuration of each.
    pub hooks: Arc<Hooks>,
    /// How the command that replaces them ends.
    pub replacing: Replacing,
}

/// A node and its cluster at one moment, without backups, marks and pods: what an undo has to bring back. One line for
/// each thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(BTreeMap<String, String>);

impl Picture {
    /// What another has instead: one line for each thing that differs.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let things: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let differs = things.into_iter().filter(|thing| self.0.get(*thing) != other.0.get(*thing));
        differs
            .map(|thing| format!("{thing}: {:?}, not {:?}", self.0.get(thing), other.0.get(thing)))
            .collect()
    }
}

impl World {
    pub(super) fn new(shape: Shape) -> Self {
        let mut world = Self {
            now: Duration::from_secs(1000),
            events: BTreeMap::new(),
            wakes: BTreeSet::new(),
            numbers: 0,
            wakers: Vec::new(),
            faults: Faults::default(),
            watch: None,
            offered: [shape.version, shape.offered].into(),
            wall_clock_off_by: BTreeMap::new(),
            redeploy: None,
            addons: Arc::default(),
            hooks: Arc::default(),
            replacing: Replacing::default(),
            machines: BTreeMap::new(),
            cluster: Cluster::new(shape.version),
            snapshot_fault: None,
            etcd_alarms: Vec::new(),
            api_is_away_until: Duration::ZERO,
        };
        for number in 1..=shape.control_planes {
            world.join(format!("cp{number}"), true, shape);
        }
        for number in 1..=shape.workers {
            world.join(format!("w{number}"), false, shape);
        }
        world
    }

    /// What `kubeadm init` and `kubeadm join` leave.
    fn join(&mut self, name: String, control_plane: bool, shape: Shape) {
        let version = shape.version;
        let mut machine = blank(&name, version);
        let disk = &mut machine.disk;
        let server = api_server(if control_plane { &name } else { "cluster" });
        let kubeconfig = format!("clusters:\n- cluster:\n    server: {server}\nusers:\n- name: {name}\n");
        disk.put("/etc/kubernetes/kubelet.conf", kubeconfig, 0o600);
        disk.put("/etc/kubernetes/pki/ca.crt", CA, 0o644);
        disk.put("/var/lib/kubelet/config.yaml", kubeadm::kubelet_config(version), 0o644);
        disk.put("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"\"\n", 0o644);
        if control_plane {
            for conf in ["admin", "controller-manager", "scheduler"] {
                disk.put(format!("/etc/kubernetes/{conf}.conf"), format!("{conf} of {name}"), 0o600);
            }
            disk.put("/etc/kubernetes/pki/apiserver.crt", "made by init", 0o644);
            disk.put("/etc/kubernetes/pki/etcd/server.crt", "made by init", 0o644);
            disk.put("/var/lib/etcd/member/snap/db", "data", 0o600);
            disk.put("/var/lib/etcd/member/wal/0.wal", "log", 0o600);
            let members: Vec<String> = self.machines.keys().cloned().chain([name.clone()]).collect();
            for (component, manifest) in kubeadm::manifests(&name, version, &members) {
                let image = image_of(manifest.as_bytes()).unwrap_or_default();
                disk.put(format!("{MANIFESTS}/{component}.yaml"), &manifest, 0o600);
                let container = Container { image, manifest: manifest.into_bytes(), created: Duration::ZERO };
                machine.containers.insert(component.to_owned(), container);
            }
        }
        machine.boot();
        machine.start_kubelet(Duration::ZERO);
        self.cluster.join(&name, control_plane, version);
        self.machines.insert(name, machine);
    }

    /// A machine with its packages at a version, in no cluster.
    pub fn add_machine(&mut self, name: &str, version: KubernetesVersion) {
        let mut machine = blank(name, version);
        machine.boot();
        self.machines.insert(name.to_owned(), machine);
    }

    /// A kubelet makes the Node of its machine, which is not Ready before it has reported.
    pub(super) fn register(&mut self, node: &str, control_plane: bool) {
        let Some(kubelet) = self.machines.get(node).and_then(|machine| machine.kubelet) else { return };
        self.cluster.join(node, control_plane, kubelet.version);
        if let Some(object) = self.cluster.nodes.get_mut(node) {
            object.ready = false;
        }
        self.report_soon(node);
        self.place_pods();
    }

    /// Since some moment before everything.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The time of day on a node, in milliseconds since the Unix epoch.
    pub fn unix_ms(&self, node: &str) -> u64 {
        let off_by = self.wall_clock_off_by.get(node).copied().unwrap_or_default();
        (EPOCH_MS + u64::try_from(self.now.as_millis()).unwrap_or_default()).saturating_add_signed(off_by)
    }

    /// Shows every change to somebody from now on.
    pub fn watch(&mut self, watch: Arc<dyn Watch>) {
        self.watch = Some(watch);
    }

    /// Every node's machine.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    /// A node's machine, if there is such a node.
    pub fn machine(&self, node: &str) -> Option<&Machine> {
        self.machines.get(node)
    }

    /// Changes a node's machine, as somebody else than its agent would.
    pub fn change<T>(&mut self, node: &str, change: impl FnOnce(&mut Machine) -> T) -> Option<T> {
        let result = self.machines.get_mut(node).map(change);
        self.look_at_manifests(node);
        result
    }

    /// Changes that were made on a node so far, in words.
    pub fn changes<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a str> {
        self.faults.changes(node)
    }

    /// The node at this moment.
    pub fn picture(&self, node: &str) -> Option<Picture> {
        let machine = self.machines.get(node)?;
        let ours = ["/etc/kubernetes/tmp/", "/var/lib/liftlock/", "/proc/", super::redeploy::PERSISTENT];
        let ours = |path: &str| ours.iter().any(|folder| path.starts_with(folder));
        let files = machine.disk.files().filter(|(path, _)| !ours(path)).map(|(path, file)| {
            (path.clone(), format!("{:o} {}", file.mode, String::from_utf8_lossy(&file.content)))
        });
        let packages = machine.packages.iter().map(|(name, package)| (name.clone(), format!("{package:?}")));
        let containers = machine
            .containers
            .iter()
            .map(|(name, container)| (format!("container {name}"), container.image.clone()));
        let others = [
            ("kubelet", format!("{:?}", machine.kubelet.map(|kubelet| kubelet.version))),
            ("Node", format!("{:?}", self.cluster.nodes.get(node))),
            ("kubeadm-config", self.cluster.version.to_string()),
            ("kube-proxy", self.cluster.proxy_version.to_string()),
        ];
        let others = others.map(|(name, value)| (name.to_owned(), value));
        let stored = self.cluster.stored.lines();
        Some(Picture(files.chain(packages).chain(containers).chain(others).chain(stored).collect()))
    }

    /// Whether etcd has a quorum and some API server runs.
    pub fn api_is_up(&self) -> bool {
        let runs = |component: &str| {
            let has = |machine: &&Machine| machine.powered && machine.containers.contains_key(component);
            self.machines.values().filter(has).count()
        };
        let members = self.cluster.etcd_members.len();
        self.now >= self.api_is_away_until && runs("kube-apiserver") > 0 && runs("etcd") > members / 2
    }

    pub(super) fn inject(&mut self, node: &str, nth: usize, fault: Fault) {
        self.faults.arm(node, nth, fault);
    }

    pub(super) fn struck(&self) -> Option<String> {
        self.faults.struck()
    }

    /// Counts a change that is about to be made on a node, and lets a fault strike instead.
    pub(super) fn before(&mut self, node: &str, change: &str) -> Option<Fault> {
        let seen = self.watch.clone().and_then(|watch| watch.before(self, node, change));
        let fault = seen.or_else(|| self.faults.before(node, change));
        if let Some(fault) = fault {
            self.strike(node, fault);
        }
        fault
    }

    /// Ends a node's agent, or switches the machine off.
    pub fn strike(&mut self, node: &str, fault: Fault) {
        let Some(machine) = self.machines.get_mut(node) else {
            return;
        };
        match fault {
            Fault::AgentDies => machine.agent_is_dead = true,
            Fault::PowerFails => {
                machine.agent_is_dead = true;
                machine.powered = false;
                machine.kubelet = None;
                machine.containers.clear();
                machine.lingering.clear();
                machine.units.clear();
                if let Some(object) = self.cluster.nodes.get_mut(node) {
                    object.ready = false;
                }
            }
            Fault::Fails | Fault::ChildDies => {}
        }
    }

    pub(super) fn restart(&mut self, node: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(node) else {
            return;
        };
        machine.agent_is_dead = false;
        if !machine.powered {
            machine.powered = true;
            machine.boot();
            machine.start_kubelet(now);
            self.report_soon(node);
            self.look_at_manifests(node);
        }
    }

    pub(super) fn machine_mut(&mut self, node: &str) -> Option<&mut Machine> {
        self.machines.get_mut(node)
    }

    /// The kubelet will see what has become of its manifests.
    pub(super) fn look_at_manifests(&mut self, node: &str) {
        if self.machines.get(node).is_some_and(|machine| !machine.out_of_date().is_empty()) {
            self.schedule(STATIC_POD_DELAY, Event::LookAtManifests(node.to_owned()));
        }
    }

    pub(super) fn restart_kubelet(&mut self, node: &str) {
        let now = self.now;
        if let Some(machine) = self.machines.get_mut(node) {
            machine.start_kubelet(now);
        }
        self.report_soon(node);
        self.look_at_manifests(node);
    }

    fn report_soon(&mut self, node: &str) {
        self.schedule(REPORT_DELAY, Event::Report(node.to_owned()));
    }

    /// Marks a pod as ending, and lets its controller start another one.
    pub(super) fn end_pod(&mut self, uid: &str) {
        let Some(pod) = self.cluster.pods.get_mut(uid) else {
            return;
        };
        if pod.state.terminating {
            return;
        }
        pod.state.terminating = true;
        let (grace, successor) = (pod.grace, pod.clone());
        self.schedule(grace, Event::PodGone(uid.to_owned()));
        if successor.state.controller.is_some() && !successor.state.finished {
            self.numbers += 1;
            let uid = format!("{}-{}", successor.app, self.numbers);
            let mut pod = Pod { node: None, ready: false, ..successor };
            pod.state.terminating = false;
            pod.state.name.clone_from(&uid);
            pod.state.uid.clone_from(&uid);
            self.cluster.pods.insert(uid, pod);
            self.place_pods();
        }
    }

    /// What the scheduler does.
    pub(super) fn place_pods(&mut self) {
        for uid in self.cluster.place_pods() {
            self.schedule(POD_START, Event::PodReady(uid));
        }
    }

    /// Makes sure that time stops at this moment for whoever waits.
    pub fn wake_at(&mut self, at: Duration) {
        self.wakes.insert(at);
    }

    pub(super) fn wake_on_change(&mut self, waker: &Waker) {
        self.wakers.push(waker.clone());
    }

    /// Another number than any before.
    pub(super) fn numbered(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.numbers += 1;
        self.events.insert((self.now + after, self.numbers), event);
    }

    /// Moves time on to the next thing that happens; false where nothing is left.
    pub fn advance(&mut self) -> bool {
        let next = self.events.first_key_value().map(|((at, _), _)| *at);
        match (next, self.wakes.first().copied()) {
            (None, None) => return false,
            (Some(at), wake) if wake.is_none_or(|wake| at < wake) => {
                self.now = self.now.max(at);
                if let Some((_, event)) = self.events.pop_first() {
                    self.happen(event);
                }
            }
            (_, wake) => {
                self.now = self.now.max(wake.unwrap_or_default());
                self.wakes.pop_first();
            }
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::LookAtManifests(node) => self.happen_to_static_pods(&node),
            Event::StartContainer(node, component) => {
                let Some(machine) = self.machines.get_mut(&node) else {
                    return;
                };
                let manifest = machine.manifest(&component).map(<[u8]>::to_vec);
                if let Some(manifest) = manifest
                    && machine.kubelet.is_some()
                    && let Some(image) = image_of(&manifest)
                {
                    machine.containers.insert(component, Container { image, manifest, created: now });
                }
            }
            Event::Report(node) => {
                let up = self.api_is_up();
                let Some(kubelet) = self.machines.get(&node).and_then(|machine| machine.kubelet) else {
                    return;
                };
                match self.cluster.nodes.get_mut(&node) {
                    // One that joins makes it a moment later, and reports then.
                    None if up => {}
                    Some(object) if up => {
                        object.ready = true;
                        object.kubelet_version = kubelet.version;
                    }
                    _ => self.schedule(Duration::from_secs(1), Event::Report(node)),
                }
            }
            Event::PodReady(uid) => {
                if let Some(pod) = self.cluster.pods.get_mut(&uid) {
                    pod.ready = true;
                }
            }
            Event::PodGone(uid) => {
                self.cluster.pods.remove(&uid);
            }
        }
    }

    /// Ends the containers whose manifests have changed, and starts them anew a moment later.
    fn happen_to_static_pods(&mut self, node: &str) {
        let Some(machine) = self.machines.get_mut(node) else {
            return;
        };
        if machine.kubelet.is_none() {
            return;
        }
        let changed = machine.out_of_date();
        for component in &changed {
            machine.containers.remove(*component);
        }
        for component in changed {
            self.schedule(STATIC_POD_DELAY, Event::StartContainer(node.to_owned(), component.to_owned()));
        }
    }
}

/// A machine with its packages at a version and nothing else.
fn blank(name: &str, version: KubernetesVersion) -> Machine {
    let mut machine = Machine {
        disk: Disk::default(),
        packages: BTreeMap::new(),
        offline: None,
        left_by_download: None,
        listed: BTreeSet::new(),
        kubelet: None,
        unsynced: BTreeMap::new(),
        containers: BTreeMap::new(),
        lingering: Vec::new(),
        stuck: [].into(),
        images: kubeadm::images(version).into_iter().collect(),
        unpullable: [].into(),
        mounts: BTreeMap::new(),
        units: BTreeMap::new(),
        agent_is_dead: false,
        powered: true,
        starts: 0,
        name: name.to_owned(),
    };
    for package in ["kubeadm", "kubelet", "kubectl"] {
        let version = format!("{}-1.1", version.bare());
        machine.packages.insert(package.to_owned(), Package { version, configured: true, held: true });
    }
    let disk = &mut machine.disk;
    for folder in ["/var/lib/liftlock", "/var/cache/apt/archives", "/usr/bin"] {
        disk.make_folder(folder.into(), 0o755);
    }
    disk.put("/proc/swaps", "Filename Type Size Used Priority\n", 0o444);
    disk.put("/proc/meminfo", "MemTotal:       16777216 kB\n", 0o444);
    disk.put("/sys/devices/system/cpu/online", "0-3\n", 0o444);
    disk.put("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n", 0o444);
    machine
}
