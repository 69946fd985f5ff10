//! kubeadm, kubelet and kubectl from apt repositories.
//!
//! `--allow-change-held-packages` takes the hold off what it changes (seen with apt 2.6, fixture
//! `upgrade/cp1-showhold-after`), so what was held is held again afterwards. A note on the disk says so until it
//! is done: after a crash in between, a package whose hold is still off does not count as installed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::{self, Argv, KUBERNETES_PACKAGES};
use liftlock_proto::version::KubernetesVersion;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::output;
use super::scratch::Scratch;
use crate::engine::lease::Permit;
use crate::host::real::files::hexadecimal;
use crate::host::{
    Bounds, ChunkSink, Commands, Files, HostError, HostResult, Kube, Layout, Limits, Lines, Packages,
};
use crate::protect::rules::{Program, Rules};

/// How long a question to the package manager may take.
const ASKING: Duration = Duration::from_mins(1);
/// Lists, downloads and installations, with what a slow mirror or a busy dpkg lock needs (apt itself waits five
/// minutes for the lock).
const REFRESH: Limits = Limits { time: Duration::from_mins(10), silence: Duration::from_mins(6) };
const DOWNLOAD: Limits = Limits { time: Duration::from_mins(30), silence: Duration::from_mins(10) };
const INSTALL: Limits = Limits { time: Duration::from_mins(20), silence: Duration::from_mins(10) };
const HOLD: Limits = Limits { time: Duration::from_mins(1), silence: Duration::from_mins(1) };

/// The package manager of Debian and its kin.
pub struct Apt {
    layout: Layout,
    files: Arc<dyn Files>,
    commands: Arc<dyn Commands>,
    /// Knows the cluster's configuration, and with it the repository of the images.
    kube: Arc<dyn Kube>,
    scratch: Mutex<()>,
}

impl Apt {
    /// apt and dpkg on this node.
    pub fn new(
        layout: Layout,
        files: Arc<dyn Files>,
        commands: Arc<dyn Commands>,
        kube: Arc<dyn Kube>,
    ) -> Self {
        Self { layout, files, commands, kube, scratch: Mutex::new(()) }
    }

    /// Names the packages that are to be held again.
    fn note(&self) -> Utf8PathBuf {
        self.layout.state_dir.join("packages-to-hold.json")
    }

    async fn noted(&self) -> HostResult<Vec<String>> {
        let Some(note) = self.files.read(&self.note()).await? else {
            return Ok(Vec::new());
        };
        serde_json::from_slice(&note).map_err(|error| HostError::Malformed {
            what: self.note().to_string(),
            why: format!("{error}; hold again what was held (`apt-mark hold …`) and remove the file"),
        })
    }

    /// Runs an installation and holds again afterwards.
    async fn change(
        &self,
        permit: &Permit,
        unit: &str,
        argv: &Argv,
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let mut to_hold = self.noted().await?;
        to_hold.extend_from_slice(held);
        to_hold.sort();
        to_hold.dedup();
        if !to_hold.is_empty() {
            let note = serde_json::json!(to_hold).to_string();
            self.files.write(permit, &self.note(), note.as_bytes(), 0o600).await?;
        }
        self.commands.run(permit, unit, argv, &self.bounds().await?, lines).await?;
        self.hold(permit, lines).await
    }

    /// Holds what the note names, and forgets the note.
    async fn hold(&self, permit: &Permit, lines: &dyn Lines) -> HostResult<()> {
        let held = self.noted().await?;
        if held.is_empty() {
            return Ok(());
        }
        let packages: Vec<&str> = held.iter().map(String::as_str).collect();
        let unit = format!("liftlock-{}-apt-hold", permit.token());
        self.commands.run(permit, &unit, &argv::apt_hold(&packages), &HOLD.into(), lines).await?;
        self.files.remove_file(permit, &self.note()).await
    }

    /// An installation writes no sealed path but those that its packages may own files in.
    async fn bounds(&self) -> HostResult<Bounds> {
        let rules = Rules::load_from(self.files.as_ref(), &self.layout).await?;
        Ok(rules.bounds(Program::PackageManager, &self.layout, INSTALL))
    }

    async fn ask(&self, argv: &Argv) -> HostResult<String> {
        self.commands.read(argv, ASKING).await
    }

    /// The downloaded kubeadm package, its checksum compared with the repository's.
    async fn downloaded(&self, version: KubernetesVersion) -> HostResult<Utf8PathBuf> {
        let text = self.ask(&argv::apt_print_uris("kubeadm", version)).await?;
        let package = output::package_file(&text)?;
        let path = match &package.local {
            // apt uses packages of a file: repository where they are.
            Some(path) => path.clone(),
            None => self.layout.at("/var/cache/apt/archives").join(&package.name),
        };
        let mut sum = Sum(Sha256::new());
        if !self.files.stream(&path, &mut sum).await? {
            return Err(HostError::Malformed {
                what: format!("the package {path}"),
                why: "it was not downloaded, or apt was told to clean its archives at once".to_owned(),
            });
        }
        let sha256 = hexadecimal(&sum.0.finalize());
        if sha256 != package.sha256 {
            return Err(HostError::Malformed {
                what: format!("the package {path}"),
                why: format!("its SHA-256 is {sha256}, the repository says {}; remove it", package.sha256),
            });
        }
        Ok(path)
    }

    /// Asks the kubeadm of an unpacked package for the images of the cluster's own configuration.
    async fn images_in(
        &self,
        scratch: &Scratch,
        package: &Utf8Path,
        version: KubernetesVersion,
    ) -> HostResult<Vec<String>> {
        self.ask(&argv::dpkg_deb_extract(package.as_str(), scratch.path().as_str())).await?;
        let map = self.kube.config_map("kubeadm-config").await?.ok_or_else(|| HostError::Malformed {
            what: "the ConfigMap kubeadm-config".to_owned(),
            why: "it is not there, and `kubeadm upgrade` needs it; put it back from a backup".to_owned(),
        })?;
        let configuration = output::cluster_configuration(&map, version)?;
        let configuration = scratch.write("cluster-configuration.yaml", &configuration)?;
        let kubeadm = scratch.path().join("usr/bin/kubeadm");
        Ok(output::lines(&self.ask(&argv::kubeadm_images(kubeadm.as_str(), configuration.as_str())).await?))
    }
}

/// The checksum of a stream.
struct Sum(Sha256);

#[async_trait]
impl ChunkSink for Sum {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.0.update(bytes);
        Ok(())
    }
}

#[async_trait]
impl Packages for Apt {
    async fn installed(&self) -> HostResult<BTreeMap<String, String>> {
        let mut installed = output::installed(&self.ask(&argv::dpkg_query("kube*")).await?);
        for package in self.noted().await? {
            installed.remove(&package);
        }
        Ok(installed)
    }

    async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        Ok(output::offered(&self.ask(&argv::apt_madison(&KUBERNETES_PACKAGES)).await?, &KUBERNETES_PACKAGES))
    }

    async fn held(&self) -> HostResult<Vec<String>> {
        let mut held = output::lines(&self.ask(&argv::apt_showhold(&KUBERNETES_PACKAGES)).await?);
        held.extend(self.noted().await?);
        held.sort();
        held.dedup();
        Ok(held)
    }

    async fn refresh(&self, lines: &dyn Lines) -> HostResult<()> {
        self.commands.run_undisturbing("liftlock-apt-update", &argv::apt_update(), REFRESH, lines).await
    }

    async fn download(&self, version: KubernetesVersion, lines: &dyn Lines) -> HostResult<()> {
        let unit = format!("liftlock-apt-download-{}", version.bare());
        let argv = argv::apt_download(&KUBERNETES_PACKAGES, version);
        self.commands.run_undisturbing(&unit, &argv, DOWNLOAD, lines).await
    }

    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>> {
        let package = self.downloaded(version).await?;
        let _only_one = self.scratch.lock().await;
        let scratch = Scratch::new(self.layout.state_dir.join("scratch"))?;
        self.images_in(&scratch, &package, version).await
    }

    async fn repair(&self, permit: &Permit, lines: &dyn Lines) -> HostResult<()> {
        if !self.ask(&argv::dpkg_audit()).await?.trim().is_empty() {
            let unit = format!("liftlock-{}-dpkg-configure", permit.token());
            self.commands.run(permit, &unit, &argv::dpkg_configure(), &self.bounds().await?, lines).await?;
        }
        self.hold(permit, lines).await
    }

    async fn install(
        &self,
        permit: &Permit,
        packages: &[&str],
        version: KubernetesVersion,
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let unit =
            format!("liftlock-{}-apt-install-{}-{}", permit.token(), packages.join("-"), version.bare());
        self.change(permit, &unit, &argv::apt_install(packages, version), held, lines).await
    }

    async fn reinstall(
        &self,
        permit: &Permit,
        packages: &[(String, String)],
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let packages: Vec<(&str, &str)> = packages.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect();
        let names: Vec<&str> = packages.iter().map(|(package, _)| *package).collect();
        let unit = format!("liftlock-{}-apt-reinstall-{}", permit.token(), names.join("-"));
        self.change(permit, &unit, &argv::apt_install_exact(&packages), held, lines).await
    }

    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion> {
        let argv = match program {
            "kubeadm" => argv::kubeadm_version(),
            "kubelet" => argv::kubelet_version(),
            other => {
                return Err(HostError::Malformed {
                    what: format!("the program {other}"),
                    why: "only kubeadm and kubelet are asked for their version".to_owned(),
                });
            }
        };
        output::binary_version(program, &self.ask(&argv).await?)
    }
}
