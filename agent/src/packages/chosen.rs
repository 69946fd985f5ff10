//! What brings a node's packages: as its configuration says, or else as they were brought before.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv;
use liftlock_proto::packages::{PackageManager, PackageSource};
use liftlock_proto::version::KubernetesVersion;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::apt::Apt;
use super::directory::Directory;
use super::dnf::Dnf;
use super::output;
use super::plain::PlainFiles;
use super::programs::{ASKING, version_of};
use crate::engine::lease::Permit;
use crate::host::{Commands, Files, HostResult, Kube, Layout, Lines, Packages, Trees};
use crate::protect::rules::clean;

/// `[packages]` in the agent's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PackageSettings {
    /// What installs kubeadm, kubelet and kubectl; what they came with if it is not given.
    pub manager: Option<PackageManager>,
    /// The folder on the node with packages and images, as on a real node; nothing comes over a network then.
    #[serde(deserialize_with = "absolute")]
    pub directory: Option<Utf8PathBuf>,
}

fn absolute<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Utf8PathBuf>, D::Error> {
    let path = String::deserialize(from)?;
    let refuse = |why: &str| serde::de::Error::custom(format!("the directory {path:?} {why}"));
    clean(&path).map(Some).map_err(refuse)
}

/// Whatever brings this node's packages.
pub struct NodePackages {
    settings: PackageSettings,
    files: Arc<dyn Files>,
    commands: Arc<dyn Commands>,
    path: Vec<Utf8PathBuf>,
    apt: Arc<Apt>,
    dnf: Arc<Dnf>,
    plain: Arc<PlainFiles>,
    /// Once it is known.
    manager: OnceCell<PackageManager>,
}

impl NodePackages {
    /// Looks for nothing yet. Programs are looked up in the folders of `path`.
    pub fn new(
        settings: PackageSettings,
        layout: &Layout,
        files: Arc<dyn Files>,
        commands: Arc<dyn Commands>,
        trees: &Arc<dyn Trees>,
        kube: &Arc<dyn Kube>,
        path: Vec<Utf8PathBuf>,
    ) -> Self {
        let directory = |manager| {
            let folder = settings.directory.clone()?;
            Some(Directory::new(layout.clone(), Arc::clone(&files), Arc::clone(trees), &folder, manager))
        };
        let of = || (layout.clone(), Arc::clone(&files), Arc::clone(&commands), Arc::clone(kube));
        let (l, f, c, k) = of();
        let apt = Apt::new(l, f, c, k, directory(PackageManager::Apt));
        let (l, f, c, k) = of();
        let dnf = Dnf::new(l, f, c, k, directory(PackageManager::Dnf));
        let (l, f, c, k) = of();
        let plain = PlainFiles::new(l, f, c, k, path.clone(), directory(PackageManager::Files));
        Self {
            settings,
            files,
            commands,
            path,
            apt: Arc::new(apt),
            dnf: Arc::new(dnf),
            plain: Arc::new(plain),
            manager: OnceCell::new(),
        }
    }

    async fn chosen(&self) -> HostResult<Arc<dyn Packages>> {
        let manager = match self.settings.manager.or_else(|| self.manager.get().copied()) {
            Some(manager) => manager,
            None => match self.seen().await? {
                Some(seen) => *self.manager.get_or_init(|| std::future::ready(seen)).await,
                // Nothing is installed, or half: whoever asks will be told by the usual one.
                None => PackageManager::default(),
            },
        };
        Ok(match manager {
            PackageManager::Apt => Arc::clone(&self.apt) as Arc<dyn Packages>,
            PackageManager::Dnf => Arc::clone(&self.dnf) as Arc<dyn Packages>,
            PackageManager::Files => Arc::clone(&self.plain) as Arc<dyn Packages>,
        })
    }

    /// What knows of kubeadm or kubelet; files where nothing does and they are there.
    async fn seen(&self) -> HostResult<Option<PackageManager>> {
        let ours = |package: &String| package == "kubeadm" || package == "kubelet";
        // A question to a package manager that is not there fails, and that is an answer.
        let dpkg = self.commands.read(&argv::dpkg_query("kube*"), ASKING).await.unwrap_or_default();
        if output::listed(&dpkg).iter().any(ours) {
            return Ok(Some(PackageManager::Apt));
        }
        let rpm = self.commands.read(&argv::rpm_query("kube*"), ASKING).await.unwrap_or_default();
        if output::listed(&rpm).iter().any(ours) {
            return Ok(Some(PackageManager::Dnf));
        }
        for folder in &self.path {
            if self.files.exists(&folder.join("kubelet")).await? {
                return Ok(Some(PackageManager::Files));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Packages for NodePackages {
    async fn installed(&self) -> HostResult<BTreeMap<String, String>> {
        self.chosen().await?.installed().await
    }

    async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        self.chosen().await?.offered().await
    }

    async fn installable(&self, version: KubernetesVersion) -> HostResult<bool> {
        self.chosen().await?.installable(version).await
    }

    async fn source(&self) -> HostResult<PackageSource> {
        self.chosen().await?.source().await
    }

    async fn refresh_from(
        &self,
        permit: &Permit,
        files: &[Utf8PathBuf],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        self.chosen().await?.refresh_from(permit, files, lines).await
    }

    async fn held(&self) -> HostResult<Vec<String>> {
        self.chosen().await?.held().await
    }

    async fn refresh(&self, lines: &dyn Lines) -> HostResult<()> {
        self.chosen().await?.refresh(lines).await
    }

    async fn download(&self, version: KubernetesVersion, lines: &dyn Lines) -> HostResult<()> {
        self.chosen().await?.download(version, lines).await
    }

    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>> {
        self.chosen().await?.images_of(version).await
    }

    async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Option<Vec<Utf8PathBuf>>> {
        self.chosen().await?.image_archives(version).await
    }

    async fn take_archive(&self, archive: &Utf8Path) -> HostResult<Utf8PathBuf> {
        self.chosen().await?.take_archive(archive).await
    }

    async fn repair(&self, permit: &Permit, lines: &dyn Lines) -> HostResult<()> {
        self.chosen().await?.repair(permit, lines).await
    }

    async fn install(
        &self,
        permit: &Permit,
        packages: &[&str],
        version: KubernetesVersion,
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        self.chosen().await?.install(permit, packages, version, held, lines).await
    }

    async fn reinstall(
        &self,
        permit: &Permit,
        packages: &[(String, String)],
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        self.chosen().await?.reinstall(permit, packages, held, lines).await
    }

    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion> {
        version_of(self.commands.as_ref(), program).await
    }
}
