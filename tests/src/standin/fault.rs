//! Places in the stand-in programs at which a test can stop or break them, for certain.
//!
//! A fault is a file beside the node's root; reaching it leaves a marker file. So a test arms a fault, waits until
//! it was reached, and only then kills what it wants to kill: nothing depends on timing.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::standin::node::{NodeTree, write_whole};

/// A place in a stand-in program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// kubeadm upgrade, join or reset has been started and has done nothing.
    KubeadmStarted,
    /// kubeadm join has started the kubelet, which has no Node yet, and etcd knows a new member.
    KubeadmJoining,
    /// kubeadm has copied etcd's data, and moved nothing yet.
    KubeadmEtcdCopied,
    /// The component's manifest was moved to the backup, and the new one is not there: kubeadm's two renames.
    KubeadmBetweenRenames(String),
    /// The component's new manifest is in place; kubeadm has not yet seen the new pod.
    KubeadmManifestReplaced(String),
    /// All static pods run the new version; the `ConfigMap` kubeadm-config is the old one.
    KubeadmBeforeUpload,
    /// kubeadm-config says the new version; the kubelet's configuration is the old one.
    KubeadmUploaded,
    /// apt-get install or update begins.
    AptStarted,
    /// A package is about to be downloaded, and those before it have been.
    PackageDownloading(String),
    /// dpkg has unpacked the package's files and not configured it.
    AptUnpacked(String),
    /// An image is about to be pulled by kubeadm.
    KubeadmImagePull,
    /// etcdctl has made the folder that it restores a snapshot into, and has written no database.
    EtcdctlRestoring,
    /// The command that replaces the system has been started, and everything is still there.
    ReplaceStarted,
}

/// What happens there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The program waits until the fault is disarmed. For a hang: never disarm it.
    Pause,
    /// The program ends as it does on an error, with this as its last words on standard error.
    Fail(String),
    /// The program gets SIGKILL.
    Die,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KubeadmStarted => f.write_str("kubeadm-started"),
            Self::KubeadmJoining => f.write_str("kubeadm-joining"),
            Self::KubeadmEtcdCopied => f.write_str("kubeadm-etcd-copied"),
            Self::KubeadmBetweenRenames(component) => write!(f, "kubeadm-between-renames@{component}"),
            Self::KubeadmManifestReplaced(component) => write!(f, "kubeadm-manifest-replaced@{component}"),
            Self::KubeadmBeforeUpload => f.write_str("kubeadm-before-upload"),
            Self::KubeadmUploaded => f.write_str("kubeadm-uploaded"),
            Self::AptStarted => f.write_str("apt-started"),
            Self::PackageDownloading(package) => write!(f, "package-downloading@{package}"),
            Self::AptUnpacked(package) => write!(f, "apt-unpacked@{package}"),
            Self::KubeadmImagePull => f.write_str("kubeadm-image-pull"),
            Self::EtcdctlRestoring => f.write_str("etcdctl-restoring"),
            Self::ReplaceStarted => f.write_str("replace-started"),
        }
    }
}

/// A fault that a test armed on a node.
#[derive(Debug, Clone)]
pub struct Fault {
    armed: Utf8PathBuf,
    reached: Utf8PathBuf,
}

impl Fault {
    fn at(node: &NodeTree, point: &Point) -> Self {
        let folder = node.faults();
        Self { armed: folder.join(point.to_string()), reached: folder.join(format!("{point}.reached")) }
    }

    /// Arms a fault: the next program on this node that comes to the point does this, each time until disarmed.
    pub fn arm(node: &NodeTree, point: &Point, action: &Action) -> Result<Self> {
        let fault = Self::at(node, point);
        fs::create_dir_all(node.faults())?;
        if let Err(error) = fs::remove_file(&fault.reached)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        let half = fault.armed.with_extension("half");
        fs::write(&half, serde_json::to_vec(action)?)?;
        fs::rename(half, &fault.armed)?;
        Ok(fault)
    }

    /// Whether a program came to it.
    pub fn was_reached(&self) -> bool {
        self.reached.exists()
    }

    /// Waits until a program came to it.
    pub async fn reached(&self, limit: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + limit;
        while !self.was_reached() {
            if tokio::time::Instant::now() > end {
                bail!("no program came to {} within {limit:?}", self.armed);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The process of the program that came to it.
    pub fn process(&self) -> Result<nix::unistd::Pid> {
        let number =
            fs::read_to_string(&self.reached).with_context(|| format!("nobody came to {}", self.armed))?;
        Ok(nix::unistd::Pid::from_raw(number.parse()?))
    }

    /// Takes it away; a program that pauses at it goes on.
    pub fn disarm(&self) -> Result<()> {
        fs::remove_file(&self.armed).with_context(|| format!("cannot disarm {}", self.armed))
    }
}

/// What a stand-in program asks at each point: pauses, dies or goes on; `Err` is the failure that was armed.
pub fn point(node: &NodeTree, point: &Point) -> Result<(), String> {
    let fault = Fault::at(node, point);
    let Ok(action) = fs::read(&fault.armed) else {
        return Ok(());
    };
    let action: Action = serde_json::from_slice(&action).map_err(|error| error.to_string())?;
    write_whole(&fault.reached, &std::process::id().to_string()).map_err(|error| error.to_string())?;
    match action {
        Action::Fail(words) => Err(words),
        Action::Pause => {
            while fault.armed.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
        Action::Die => {
            let own = nix::unistd::Pid::this();
            nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL).map_err(|error| error.to_string())
        }
    }
}
