//! One node's machine: disk, packages, kubelet, containers, children.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::version::KubernetesVersion;

use super::children::Op;
use super::disk::Disk;
use crate::host::Space;

/// Static pods in the order in which kubeadm upgrades them.
pub(super) const STATIC_PODS: [&str; 4] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

const SOURCES: &str = "/etc/apt/sources.list.d/kubernetes.list";

pub(super) const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// A package on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Of the files that are unpacked.
    pub version: String,
    /// dpkg has set it up; otherwise it was interrupted.
    pub configured: bool,
    /// `apt-mark hold`
    pub held: bool,
}

/// The kubelet's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kubelet {
    /// Another one after each start.
    pub pid: u32,
    /// Since boot.
    pub started: Duration,
    /// What the binary was when it started.
    pub version: KubernetesVersion,
}

/// A static pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its image.
    pub image: String,
    /// The manifest that it was started from.
    pub(super) manifest: Vec<u8>,
    /// Since the world's beginning.
    pub(super) created: Duration,
}

/// A transient unit.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) argv: Vec<String>,
    /// What is left to do.
    pub(super) ops: VecDeque<Op>,
    /// Manifests that kubeadm moves back if it fails: (where it is now, where it belongs).
    pub(super) moved: Vec<(Utf8PathBuf, Utf8PathBuf)>,
    pub(super) failure: Option<Failure>,
}

/// How a child ended that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// By itself, with these words.
    Said(String),
    /// Somebody killed it.
    Killed,
}

/// One node's machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) name: String,
    /// Its files.
    pub disk: Disk,
    /// By name.
    pub packages: BTreeMap<String, Package>,
    /// The folder that packages and images come out of.
    pub offline: Option<Utf8PathBuf>,
    /// Minors that the package manager has lists of, where repositories are split by minor.
    pub listed: BTreeSet<u16>,
    /// `None` while it does not run.
    pub kubelet: Option<Kubelet>,
    /// What children have written or moved there, and when, and nobody has made durable since.
    pub unsynced: BTreeMap<String, Duration>,
    /// Static pods' containers by name.
    pub containers: BTreeMap<String, Container>,
    /// Containers of before that are still on their way out: the component, the image, and until when.
    pub lingering: Vec<(String, String, Duration)>,
    /// Static pods whose manifests the kubelet does not look at any more, for whatever reason.
    pub stuck: BTreeSet<String>,
    /// On its disk.
    pub images: BTreeSet<String>,
    /// Images that no registry has.
    pub unpullable: BTreeSet<String>,
    /// Room below a path, where it is not that of `/`.
    pub mounts: BTreeMap<Utf8PathBuf, Space>,
    /// What the next download of packages leaves of the room below `/var` before it fails.
    pub left_by_download: Option<Space>,
    pub(super) units: BTreeMap<String, Unit>,
    pub(super) agent_is_dead: bool,
    pub(super) powered: bool,
    pub(super) starts: u32,
}

impl Machine {
    /// The version of a package's files.
    pub fn unpacked(&self, package: &str) -> Option<KubernetesVersion> {
        let version = &self.packages.get(package)?.version;
        version.split('-').next()?.parse().ok()
    }

    /// Gives it repositories that are split by minor, at the minor that it runs.
    pub fn split_repositories(&mut self) {
        let Some(version) = self.unpacked("kubeadm") else { return };
        let source = format!("deb https://pkgs.k8s.io/core:/stable:/v1.{}/deb/ /\n", version.minor);
        self.disk.put(SOURCES, source, 0o644);
        self.listed = [version.minor].into();
    }

    /// Reads what its sources lead to.
    pub(super) fn read_lists(&mut self) {
        if let Some(minor) = self.minor_of_sources() {
            self.listed.insert(minor);
        }
    }

    /// Whether a version's packages are found: its sources lead to the minor, and its lists were read.
    pub(super) fn leads_to(&self, version: KubernetesVersion) -> bool {
        self.minor_of_sources().is_none_or(|minor| minor == version.minor && self.listed.contains(&minor))
    }

    /// Of repositories that are split by minor.
    fn minor_of_sources(&self) -> Option<u16> {
        let sources = String::from_utf8_lossy(self.disk.read(Utf8Path::new(SOURCES))?).into_owned();
        sources.split("/v1.").nth(1)?.split('/').next()?.parse().ok()
    }

    /// A manifest.
    pub fn manifest(&self, component: &str) -> Option<&[u8]> {
        self.disk.read(&manifest_path(component))
    }

    /// Where a path's file system has room.
    pub(super) fn space(&self, path: &Utf8Path) -> Space {
        let plenty = Space { free: 64 << 30, total: 128 << 30, device: 1 };
        path.ancestors().find_map(|above| self.mounts.get(above)).copied().unwrap_or(plenty)
    }

    /// Whether manifests call for other containers than those that run.
    pub(super) fn out_of_date(&self) -> Vec<&'static str> {
        let differs = |component: &&str| {
            let running = self.containers.get(*component).map(|container| container.manifest.as_slice());
            running != self.manifest(component) && !self.stuck.contains(*component)
        };
        STATIC_PODS.into_iter().filter(differs).collect()
    }

    /// Another boot than any before.
    pub(super) fn boot(&mut self) {
        let id = format!("{}-{}\n", self.name, self.starts);
        self.disk.put("/proc/sys/kernel/random/boot_id", id, 0o444);
    }

    pub(super) fn start_kubelet(&mut self, now: Duration) {
        let version = self.unpacked("kubelet");
        self.starts += 1;
        self.kubelet = version.map(|version| Kubelet { pid: 1000 + self.starts, started: now, version });
    }
}

pub(super) fn manifest_path(component: &str) -> Utf8PathBuf {
    Utf8Path::new(MANIFESTS).join(format!("{component}.yaml"))
}

/// The image that a manifest names; `None` if it is none.
pub(super) fn image_of(manifest: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(manifest).ok()?;
    text.lines().find_map(|line| line.trim().strip_prefix("image: ").map(str::to_owned))
}
