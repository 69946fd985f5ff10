//! The only room that touches the machine. Everything else in the agent sees these traits.
//!
//! What changes the node asks for a [`Permit`]: proof, just made, that the lease is still this agent's. There is
//! no other way to make one than [`crate::engine::lease::Lease::permit`], so no step can forget the check. Backups are
//! removed while there is no lease: with the proof of that, [`Idle`].
//!
//! The real implementations stand beside this file; [`real::host`] puts them together. Tests bring twins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::Argv;
use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::packages::PackageSource;
use liftlock_proto::v1::WorkloadDescription;
use liftlock_proto::version::KubernetesVersion;
use secrecy::SecretString;

use crate::addons::Addons;
use crate::engine::idle::Idle;
use crate::engine::lease::Permit;
use crate::hooks::Hooks;
use crate::invitation::{BootstrapToken, Invitations};
use crate::redeploy::replacement::Replacement;

pub mod error;
pub mod objects;
pub mod real;
pub mod trees;

pub use error::HostError;
pub use objects::Objects;
pub use trees::Trees;

/// What an answer from the machine is.
pub type HostResult<T> = Result<T, HostError>;

/// The machine, as the engine and the steps see it.
#[derive(Clone)]
pub struct Host {
    /// Where things lie.
    pub layout: Layout,
    /// Files and folders.
    pub files: Arc<dyn Files>,
    /// Whole trees that an upgrade must leave alone.
    pub trees: Arc<dyn Trees>,
    /// Short commands and transient systemd units.
    pub commands: Arc<dyn Commands>,
    /// kubeadm, kubelet and kubectl as packages.
    pub packages: Arc<dyn Packages>,
    /// The cluster's API.
    pub kube: Arc<dyn Kube>,
    /// Objects of any kind in it.
    pub objects: Arc<dyn Objects>,
    /// This node's etcd and its peers.
    pub etcd: Arc<dyn Etcd>,
    /// The container runtime.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long a step goes on asking an API server that does not answer.
    pub api_timeout: Duration,
    /// How this host is replaced as a whole, where its configuration says so.
    pub redeploy: Option<Arc<Replacement>>,
    /// Where add-ons lie, and how they are applied.
    pub addons: Arc<Addons>,
    /// What a plan may name to be run here.
    pub hooks: Arc<Hooks>,
    /// Where a machine asks for what it joins a cluster with.
    pub invitations: Arc<dyn Invitations>,
}

/// Where things lie on a node. Every path hangs below `root`, which is `/` except on stand-in nodes.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `/`, or a stand-in node's folder.
    pub root: Utf8PathBuf,
    /// `/var/lib/liftlock`, or where the configuration says. Journals, fence, identity.
    pub state_dir: Utf8PathBuf,
}

impl Layout {
    /// `path` (absolute, as on a real node) below the root.
    pub fn at(&self, path: &str) -> Utf8PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A path as on a real node: without the root of a stand-in.
    pub fn on_node(&self, path: &Utf8Path) -> Utf8PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.to_owned(), |below| Utf8Path::new("/").join(below))
    }

    /// `/etc/kubernetes/manifests`
    pub fn manifests(&self) -> Utf8PathBuf {
        self.at("/etc/kubernetes/manifests")
    }

    /// `/etc/kubernetes/tmp`, where kubeadm keeps its own backups too.
    pub fn backups(&self) -> Utf8PathBuf {
        self.at("/etc/kubernetes/tmp")
    }

    /// `/etc/kubernetes/admin.conf`, on control planes.
    pub fn admin_kubeconfig(&self) -> Utf8PathBuf {
        self.at("/etc/kubernetes/admin.conf")
    }

    /// `/etc/kubernetes/kubelet.conf`
    pub fn kubelet_kubeconfig(&self) -> Utf8PathBuf {
        self.at("/etc/kubernetes/kubelet.conf")
    }
}

/// How the name of a folder ends from the beginning of its removal to the end; a dot goes before it.
pub const HALF_REMOVED: &str = ".liftlock-removed";

/// Proof that whoever removes something of Liftlock's own may: its lease's [`Permit`], or [`Idle`].
pub trait Clearance: Send + Sync {}

impl Clearance for Permit {}
impl Clearance for Idle {}
impl<C: Clearance> Clearance for &C {}

/// Files and folders. Blocking calls are made on threads for them.
#[async_trait]
pub trait Files: Send + Sync {
    /// The whole file, or `None` where there is none.
    async fn read(&self, path: &Utf8Path) -> HostResult<Option<Vec<u8>>>;
    /// Feeds a file to `sink` chunk by chunk; false where there is none. For files too large to hold.
    async fn stream(&self, path: &Utf8Path, sink: &mut dyn ChunkSink) -> HostResult<bool>;
    /// Names in a folder, sorted; empty where there is none.
    async fn list(&self, path: &Utf8Path) -> HostResult<Vec<String>>;
    /// Whether something is there (a dangling symbolic link is not).
    async fn exists(&self, path: &Utf8Path) -> HostResult<bool>;
    /// Free and total bytes of the file system that holds the path or its nearest existing parent, and its device.
    async fn space(&self, path: &Utf8Path) -> HostResult<Space>;
    /// Bytes in the regular files below a path, no mount crossed, no link followed.
    async fn size_of_tree(&self, path: &Utf8Path) -> HostResult<u64>;
    /// Makes durable what a program left at and below a path that syncs nothing itself; nothing where nothing is, no
    /// link followed, no mount crossed.
    async fn make_durable(&self, path: &Utf8Path) -> HostResult<()>;
    /// Replaces a file as a whole: temporary file, fsync, rename, fsync of the folder.
    async fn write(&self, permit: &Permit, path: &Utf8Path, content: &[u8], mode: u32) -> HostResult<()>;
    /// Replaces the content of a file that is there, as a whole: owner and mode stay.
    async fn rewrite(&self, permit: &Permit, path: &Utf8Path, content: &[u8]) -> HostResult<()>;
    /// Puts a copy of a file in the place of a program, for everybody to run (0755, the agent's own user's): temporary file
    /// beside it, fsync, rename, fsync of the folder.
    async fn install_program(&self, permit: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<()>;
    /// A folder and its parents, with this mode; fine if it is there.
    async fn create_dir(&self, permit: &Permit, path: &Utf8Path, mode: u32) -> HostResult<()>;
    /// Copies a file or a tree: `from/x` becomes `to/x`, and where `from` is a file, `to` is the copy's own name. `to`
    /// lies in a folder that is ours; its parents are made (0700) and what an interrupted copy left there is
    /// replaced. Owners, modes, times and links kept, no mount crossed, everything fsynced. Returns each regular
    /// file's path (relative to `from`), size and SHA-256; nothing where `from` is not there.
    async fn copy_tree(&self, permit: &Permit, from: &Utf8Path, to: &Utf8Path)
    -> HostResult<Vec<CopiedFile>>;
    /// Copies a file into the agent's state folder, as `to` (0600), which is there once it is whole; folders above it are
    /// made (0700). What becomes of `from` meanwhile or later is nothing to the copy. No lease is needed: nothing that is
    /// the node's changes. `None` where there is no file.
    async fn take(&self, from: &Utf8Path, to: &Utf8Path) -> HostResult<Option<CopiedFile>>;
    /// Removes a file that was taken; fine if there is none.
    async fn discard(&self, taken: &Utf8Path) -> HostResult<()>;
    /// Puts one file of a backup back: temporary file beside the target, owner and mode kept, fsync, rename.
    async fn restore_file(&self, permit: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<()>;
    /// Removes a file; fine if there is none.
    async fn remove_file(&self, permit: &Permit, path: &Utf8Path) -> HostResult<()>;
    /// Removes a folder with everything in it; fine if there is none. It loses its name first, so that no part of it is
    /// ever taken for the whole, and a removal that was interrupted is finished by the next call with the same path. No
    /// link is followed; one with something mounted in it is refused before anything is removed.
    async fn remove_tree(&self, by: &dyn Clearance, path: &Utf8Path) -> HostResult<()>;
    /// The regular files below a path, relative to it and sorted; none where it is not there. No mount crossed, no link
    /// followed.
    async fn files_below(&self, path: &Utf8Path) -> HostResult<Vec<Utf8PathBuf>>;
    /// Hands a file to `inspect`, where that holds up no other task; false where there is none.
    async fn inspect(&self, path: &Utf8Path, inspect: Inspection) -> HostResult<bool>;
    /// Opens a new file for a stream (0600). Nothing is at `path` before [`NewFile::finish`].
    async fn create(&self, permit: &Permit, path: &Utf8Path) -> HostResult<Box<dyn NewFile>>;
}

/// What looks into a file, anywhere in it. See [`inspected`].
pub type Inspection = Box<dyn FnOnce(&mut dyn RandomAccess) + Send>;

/// A file that can be read from anywhere. Calls block.
pub trait RandomAccess {
    /// In bytes.
    fn size(&self) -> u64;
    /// Fills the buffer with what stands there; an error where the file ends before.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

/// What an inspection of a file finds; `None` where there is no file.
pub async fn inspected<T: Send + 'static>(
    files: &dyn Files,
    path: &Utf8Path,
    inspect: impl FnOnce(&mut dyn RandomAccess) -> T + Send + 'static,
) -> HostResult<Option<T>> {
    let (found, finding) = std::sync::mpsc::channel();
    let inspection = move |file: &mut dyn RandomAccess| {
        // Whoever asked may have gone.
        let _ = found.send(inspect(file));
    };
    files.inspect(path, Box::new(inspection)).await?;
    Ok(finding.try_recv().ok())
}

/// A file that is being written and is not there yet.
#[async_trait]
pub trait NewFile: Send {
    /// Appends.
    async fn write(&mut self, bytes: &[u8]) -> HostResult<()>;
    /// fsync, rename to its name, fsync of the folder.
    async fn finish(self: Box<Self>) -> HostResult<()>;
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written, the file system's reserve for root left alone.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// `st_dev`: two paths with the same number can be renamed into each other.
    pub device: u64,
}

/// One file of a copy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CopiedFile {
    /// Relative to the copy's root; empty where a single file was copied.
    pub path: Utf8PathBuf,
    /// In bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// Short commands, and long ones as transient systemd units that outlive the agent.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Runs a command that changes nothing and ends soon; its standard output.
    async fn read(&self, argv: &Argv, limit: Duration) -> HostResult<String>;
    /// Runs a command that changes the node as a transient unit of this name and waits for its end. If a unit of
    /// that name still runs (the agent was restarted), joins it instead of starting a second one. Each line of
    /// its output goes to `lines` as it is written. A child over a limit is ended and reported as such.
    async fn run(
        &self,
        permit: &Permit,
        unit: &str,
        argv: &Argv,
        bounds: &Bounds,
        lines: &dyn Lines,
    ) -> HostResult<()>;
    /// Like `run`, without a lease: only for commands that disturb nothing (downloads).
    async fn run_undisturbing(
        &self,
        unit: &str,
        argv: &Argv,
        limits: Limits,
        lines: &dyn Lines,
    ) -> HostResult<()>;
    /// Has kubeadm keep the cluster's certificates in it for two hours, so that a control plane can join; the key that they
    /// are encrypted with. It is in no log and in no process list.
    async fn upload_certificates(&self, by: &Idle, version: KubernetesVersion) -> HostResult<SecretString>;
    /// `ActiveState` of a unit such as `kubelet.service`, and the moment its main process started.
    async fn unit_state(&self, unit: &str) -> HostResult<UnitState>;
}

/// How long a child may run, and how long it may say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From its start.
    pub time: Duration,
    /// From its last line.
    pub silence: Duration,
}

/// What a child under a lease is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// How long it may take.
    pub limits: Limits,
    /// Absolute paths, below the root, that it can only read; those that are not there are passed over. The child has
    /// mounts of its own, so nobody else notices.
    pub read_only: Vec<Utf8PathBuf>,
    /// Paths below those that it may write nevertheless.
    pub read_write: Vec<Utf8PathBuf>,
}

impl From<Limits> for Bounds {
    fn from(limits: Limits) -> Self {
        Self { limits, read_only: Vec::new(), read_write: Vec::new() }
    }
}

/// Takes a child's output line by line.
pub trait Lines: Send + Sync {
    /// One line, without its end.
    fn line(&self, line: &str);
}

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active: String,
    /// 0 where none runs.
    pub main_pid: u32,
    /// `ExecMainStartTimestampMonotonic`, microseconds since boot; 0 where it never started.
    pub started_monotonic_us: u64,
}

/// kubeadm, kubelet and kubectl as packages.
#[async_trait]
pub trait Packages: Send + Sync {
    /// Installed package versions by package name: `kubeadm` → `1.19.7-00`. A package that an interrupted dpkg
    /// left half installed or unconfigured is not among them.
    async fn installed(&self) -> HostResult<BTreeMap<String, String>>;
    /// Kubernetes versions that the repositories offer for all three packages, oldest first. Where repositories are split by
    /// minor, those of later minors count too.
    async fn offered(&self) -> HostResult<Vec<KubernetesVersion>>;
    /// Whether what the node's own sources lead to now has all three packages at the version.
    async fn installable(&self, version: KubernetesVersion) -> HostResult<bool>;
    /// What brings the packages, and from where.
    async fn source(&self) -> HostResult<PackageSource>;
    /// Reads anew what these files of the node's own sources lead to; what is known of all others stays.
    async fn refresh_from(&self, permit: &Permit, files: &[Utf8PathBuf], lines: &dyn Lines)
    -> HostResult<()>;
    /// Which of the packages are held.
    async fn held(&self) -> HostResult<Vec<String>>;
    /// Reads the repositories' lists anew.
    async fn refresh(&self, lines: &dyn Lines) -> HostResult<()>;
    /// Downloads all three packages; installs nothing.
    async fn download(&self, version: KubernetesVersion, lines: &dyn Lines) -> HostResult<()>;
    /// Unpacks the downloaded kubeadm into a scratch folder and returns the images that it names for the version.
    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>>;
    /// Archives on the node that hold the images of a version; `None` where images come from registries.
    async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Option<Vec<Utf8PathBuf>>>;
    /// A verified copy of such an archive, which nobody else can write; whoever asked discards it.
    async fn take_archive(&self, archive: &Utf8Path) -> HostResult<Utf8PathBuf>;
    /// Finishes what an interrupted dpkg left half installed; nothing if there is none.
    async fn repair(&self, permit: &Permit, lines: &dyn Lines) -> HostResult<()>;
    /// Installs the packages at the version and holds again those in `held`.
    async fn install(
        &self,
        permit: &Permit,
        packages: &[&str],
        version: KubernetesVersion,
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()>;
    /// Installs exact package versions, downgrades allowed, and holds again those in `held`.
    async fn reinstall(
        &self,
        permit: &Permit,
        packages: &[(String, String)],
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()>;
    /// The version that a binary on this node reports: `kubeadm` or `kubelet`.
    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion>;
}

/// The cluster's API. The node's own credentials (kubelet.conf) except where it says admin.
#[async_trait]
pub trait Kube: Send + Sync {
    /// This node's Node object.
    async fn node(&self) -> HostResult<NodeState>;
    /// Every Node. admin where the node has admin.conf: from 1.32 on a worker's kubelet is refused (403).
    async fn nodes(&self) -> HostResult<Vec<NodeState>>;
    /// Waits until this node's Node satisfies the condition, by watching it.
    async fn wait_for_node(&self, condition: NodeCondition, limit: Duration) -> HostResult<NodeState>;
    /// Cordons this node and says in the same patch whose cordon it is ([`CORDONED_BY`]), so that no crash can leave
    /// a cordon that looks like an operator's.
    async fn cordon(&self, permit: &Permit, plan: &PlanId) -> HostResult<()>;
    /// Takes the cordon and its annotation away in one patch; fine where there is none.
    async fn uncordon(&self, permit: &Permit) -> HostResult<()>;
    /// The pods bound to this node.
    async fn pods(&self) -> HostResult<Vec<PodState>>;
    /// Asks for a pod's eviction (policy/v1, or v1beta1 for API servers before 1.22).
    async fn evict(&self, permit: &Permit, pod: &PodState) -> HostResult<Eviction>;
    /// Deletes a pod of this node, whatever budget protects it; fine where it is gone. It is given its own time to end.
    async fn delete_pod(&self, permit: &Permit, pod: &PodState) -> HostResult<()>;
    /// Waits until one of these pods (by uid) is gone or the limit passes; returns those that are left.
    async fn wait_for_pods_gone(&self, uids: &[String], limit: Duration) -> HostResult<Vec<String>>;
    /// `kubernetesVersion` in the kubeadm-config `ConfigMap`, which kubeadm lets nodes read too.
    async fn kubeadm_config_version(&self) -> HostResult<KubernetesVersion>;
    /// admin: a `ConfigMap` of kube-system as YAML, or `None` where there is none.
    async fn config_map(&self, name: &str) -> HostResult<Option<String>>;
    /// admin: names of the `ConfigMaps` of kube-system.
    async fn config_map_names(&self) -> HostResult<Vec<String>>;
    /// admin: waits until a controller-manager leads, by seeing it renew its Lease: only then do Services follow pods
    /// that go, and are pods started again that were evicted.
    async fn wait_for_controllers(&self, limit: Duration) -> HostResult<()>;
    /// admin: waits until every node runs the kube-proxy that its `DaemonSet` asks for; whether it came to that before the
    /// limit. True at once where there is no such `DaemonSet`, or one for more than `few` nodes.
    async fn wait_for_kube_proxies(&self, few: u32, limit: Duration) -> HostResult<bool>;
    /// Waits until the taint that comes with a cordon is gone from this node, which the node controller sees to some time after
    /// the cordon went (pkg/controller/nodelifecycle, `doNoScheduleTaintingPass`); until then no pod is placed there. Whether it
    /// was within the limit.
    async fn wait_until_open(&self, limit: Duration) -> HostResult<bool>;
    /// admin: the Deployment of the cluster's DNS, by the label that kubeadm gives it (`k8s-app: kube-dns`); `None` where
    /// there is none.
    async fn cluster_dns(&self) -> HostResult<Option<Replicas>>;
    /// Waits until this node's own API server answers /readyz with "ok" (asked at its own address, past any load
    /// balancer) and reports the version.
    async fn wait_for_own_api_server(&self, version: KubernetesVersion, limit: Duration) -> HostResult<()>;
    /// admin: this node's own API server, asked once, past any load balancer.
    async fn own_api_server(&self) -> HostResult<OwnApiServer>;
    /// admin: API versions that clients have asked this node's own API server for since its start and that a later
    /// release does not serve: `policy/v1beta1/podsecuritypolicies`, with the minor that removes it (0 where it does not
    /// say).
    async fn deprecated_apis_in_use(&self) -> HostResult<Vec<(String, u16)>>;
    /// admin: Deployments and `DaemonSets` of kube-system with fewer ready pods than they ask for, the cluster's DNS left
    /// out: `DaemonSet kube-proxy`.
    async fn unready_system_workloads(&self) -> HostResult<Vec<(String, Replicas)>>;
    /// admin: how many objects there are, at least, in the collection at this path of the API (`/apis/policy/v1beta1/…`); 0
    /// where the API server serves none.
    async fn stored_objects(&self, collection: &str) -> HostResult<u32>;
    /// admin: what a drain of any node would move, what lets it go, and what room there is for it. Reads every Node,
    /// `PodDisruptionBudget` and pod of the cluster, page by page.
    async fn workloads(&self) -> HostResult<WorkloadDescription>;
    /// admin: makes a bootstrap token with which a node may join, until a moment in milliseconds since the Unix epoch.
    async fn create_bootstrap_token(
        &self,
        by: &Idle,
        token: &BootstrapToken,
        node: &NodeName,
        ends_at_ms: u64,
    ) -> HostResult<()>;
    /// admin: deletes the Node of a machine that has left; fine if there is none. From 1.11 on no kubelet may.
    async fn delete_node(&self, permit: &Permit, node: &NodeName) -> HostResult<()>;
    /// admin: has these Nodes, and no others, carry the taint of what is not raised yet ([`not_raised`]). It needs no
    /// lease: nothing else of a Node is changed, somebody else's taint of the same key and effect counts for ours and
    /// stays, and a Node that was changed in between is read again. A Node that fails holds up none of the others.
    ///
    /// [`not_raised`]: liftlock_proto::not_raised
    async fn mark_not_raised(&self, nodes: &BTreeSet<NodeName>) -> HostResult<Marked>;
}

/// Nodes whose taint of what is not raised yet was changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marked {
    /// They carry it since.
    pub added: Vec<String>,
    /// They carried it.
    pub removed: Vec<String>,
}

/// The annotation of a Node that Liftlock cordoned; its value is the plan. A node may annotate itself.
pub const CORDONED_BY: &str = "liftlock.dev/cordoned-by";

/// Pods of a Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// How many it asks for.
    pub wanted: u32,
    /// How many of them are ready.
    pub ready: u32,
}

/// A control plane's own API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnApiServer {
    /// `https://172.30.0.11:6443`
    pub address: String,
    /// What it says of itself instead of "ok", or why it does not answer; empty where it is ready.
    pub unready: String,
}

/// What a node is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCondition {
    /// What its kubelet must report; `None` if any version will do. It must be Ready in any case.
    pub kubelet_version: Option<KubernetesVersion>,
}

/// One Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// As its kubelet reports it: `v1.19.7`.
    pub kubelet_version: String,
    /// The Ready condition is True.
    pub ready: bool,
    /// `spec.unschedulable`
    pub unschedulable: bool,
    /// The value of its annotation [`CORDONED_BY`]: the plan under which Liftlock cordoned it. `None` where it is
    /// not cordoned, or was by somebody else.
    pub cordoned_by: Option<String>,
    /// A `NoSchedule` or `NoExecute` taint other than the one that cordoning sets.
    pub tainted: bool,
    /// Has the control-plane (or, before 1.20, master) label.
    pub control_plane: bool,
    /// As its kubelet reports it: `containerd://1.4.4`.
    pub container_runtime: String,
    /// `topology.kubernetes.io/zone`; empty where it has no such label.
    pub zone: String,
    /// All of them, by key.
    pub labels: BTreeMap<String, String>,
    /// Its annotation `liftlock.dev/on-blocked`; empty where it has none.
    pub on_blocked: String,
}

/// One pod, as far as a drain needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a pod of the same name that came later is another one.
    pub uid: String,
    /// The kind of the controlling owner: `ReplicaSet`, `DaemonSet`, `Node`, …
    pub controller: Option<String>,
    /// A static pod's mirror.
    pub mirror: bool,
    /// Has an emptyDir volume.
    pub empty_dir: bool,
    /// `Succeeded` or `Failed`.
    pub finished: bool,
    /// Has a deletion timestamp.
    pub terminating: bool,
}

/// How the API server answered an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The pod is going, or was gone.
    Accepted,
    /// A `PodDisruptionBudget` does not allow it now (429).
    Blocked {
        /// The API server's words, which name the budget.
        message: String,
    },
}

/// etcd, over its own API.
#[async_trait]
pub trait Etcd: Send + Sync {
    /// How far this node's own member is.
    async fn head(&self) -> HostResult<EtcdHead>;
    /// How many keys there were at a revision, by this node's own member.
    async fn keys(&self, revision: u64) -> HostResult<u64>;
    /// Every member, each asked for its status itself.
    async fn members(&self) -> HostResult<Vec<EtcdMember>>;
    /// Alarms that are raised: `NOSPACE on cp2`.
    async fn alarms(&self) -> HostResult<Vec<String>>;
    /// Takes a member out of the cluster, by its id; fine if there is none.
    async fn remove_member(&self, permit: &Permit, id: u64) -> HostResult<()>;
    /// Streams a snapshot of this node's member to `sink`: bbolt's file, then its SHA-256 in the last 32 bytes.
    async fn snapshot(&self, sink: &mut dyn ChunkSink) -> HostResult<()>;
}

/// Takes the chunks of a stream in order.
#[async_trait]
pub trait ChunkSink: Send {
    /// The next chunk.
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()>;
}

/// One etcd member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its id.
    pub id: u64,
    /// Empty until it has started for the first time.
    pub name: String,
    /// Where its peers reach it: `https://10.0.0.1:2380`.
    pub peer_urls: Vec<String>,
    /// Has no vote yet.
    pub learner: bool,
    /// This node's own member.
    pub local: bool,
    /// Its answer, or why there is none.
    pub status: Result<EtcdStatus, String>,
}

/// How far a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdHead {
    /// `3.4.13`
    pub version: String,
    /// Of the last change that it has applied.
    pub revision: u64,
}

/// A member's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdStatus {
    /// `3.4.13`
    pub version: String,
    /// In bytes.
    pub db_size: u64,
    /// The leader's id; 0 if it sees none.
    pub leader: u64,
    /// Errors that it reports of itself.
    pub errors: Vec<String>,
}

/// The container runtime, over CRI.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// Running containers.
    async fn running(&self) -> HostResult<Vec<RunningContainer>>;
    /// Uids of the pods that have a ready sandbox, which every container of theirs that runs lives in.
    async fn pods_with_sandboxes(&self) -> HostResult<BTreeSet<String>>;
    /// Ends every running container: each is asked to end, and is ended after so long. A kubelet that runs starts them anew.
    async fn stop_all(&self, permit: &Permit, grace: Duration) -> HostResult<()>;
    /// Whether an image is on the node.
    async fn has_image(&self, image: &str) -> HostResult<bool>;
    /// Pulls an image.
    async fn pull(&self, image: &str) -> HostResult<()>;
    /// Where images lie, and how large those are that are there.
    async fn image_store(&self) -> HostResult<ImageStore>;
}

/// The images of a node, on its disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageStore {
    /// The folder that they are unpacked to, on this machine; `None` where the runtime does not say.
    pub folder: Option<Utf8PathBuf>,
    /// Bytes by tag: as an image comes from its registry (containerd), or unpacked (CRI-O).
    pub sizes: BTreeMap<String, u64>,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningContainer {
    /// `kube-apiserver`
    pub name: String,
    /// `kube-apiserver-cp1`
    pub pod: String,
    /// `kube-system`
    pub namespace: String,
    /// Every tag of the image that it runs.
    pub images: Vec<String>,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
}

/// Time.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Since some fixed moment; does not go back, counts while the machine is suspended (`CLOCK_BOOTTIME`).
    fn monotonic(&self) -> Duration;
    /// Milliseconds since the Unix epoch, for people and file names.
    fn unix_ms(&self) -> u64;
    /// Waits.
    async fn sleep(&self, duration: Duration);
}
