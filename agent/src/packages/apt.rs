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
use liftlock_proto::packages::{PackageManager, PackageSource};
use liftlock_proto::version::KubernetesVersion;
use tokio::sync::Mutex;

use super::ahead::Ahead;
use super::checksum::sha256_of;
use super::directory::{Directory, archives_in, taken_from};
use super::minor::split_files;
use super::output;
use super::programs::{ASKING, images_by_package, version_of};
use super::scratch::Scratch;
use crate::engine::lease::Permit;
use crate::host::{Bounds, Commands, Files, HostError, HostResult, Kube, Layout, Limits, Lines, Packages};
use crate::protect::rules::{Program, Rules};

/// Lists, downloads and installations, with what a slow mirror or a busy dpkg lock needs (apt itself waits five
/// minutes for the lock).
const REFRESH: Limits = Limits { time: Duration::from_mins(10), silence: Duration::from_mins(6) };
const DOWNLOAD: Limits = Limits { time: Duration::from_mins(30), silence: Duration::from_mins(10) };
const INSTALL: Limits = Limits { time: Duration::from_mins(20), silence: Duration::from_mins(10) };
const HOLD: Limits = Limits { time: Duration::from_mins(1), silence: Duration::from_mins(1) };

/// The package manager of Debian and its kin.
pub(super) struct Apt {
    layout: Layout,
    files: Arc<dyn Files>,
    commands: Arc<dyn Commands>,
    /// Knows the cluster's configuration, and with it the repository of the images.
    kube: Arc<dyn Kube>,
    ahead: Ahead,
    /// The folder that packages come out of, if one is named.
    directory: Option<Directory>,
    scratch: Mutex<()>,
}

impl Apt {
    /// apt and dpkg on this node.
    pub(super) fn new(
        layout: Layout,
        files: Arc<dyn Files>,
        commands: Arc<dyn Commands>,
        kube: Arc<dyn Kube>,
        directory: Option<Directory>,
    ) -> Self {
        let ahead = Ahead::new(layout.clone(), files.clone(), commands.clone());
        Self { layout, files, commands, kube, ahead, directory, scratch: Mutex::new(()) }
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

    /// What the sources of a command offer for all three packages.
    async fn offers(&self, argv: &Argv) -> HostResult<Vec<KubernetesVersion>> {
        Ok(output::offered(&self.ask(argv).await?, &KUBERNETES_PACKAGES))
    }

    /// A command that looks for packages of the version, also where the node's own files lead to another minor yet.
    async fn looking_for(&self, version: KubernetesVersion, argv: Argv) -> HostResult<Argv> {
        let found = split_files(self.files.as_ref(), &self.layout).await?;
        let view = self.ahead.view(&found, version).await?;
        Ok(view.map_or(argv.clone(), |view| view.of(argv)))
    }

    /// The downloaded kubeadm package, its checksum compared with the repository's.
    async fn downloaded(&self, version: KubernetesVersion) -> HostResult<Utf8PathBuf> {
        if let Some(directory) = &self.directory {
            let found = directory.at_version(&["kubeadm"], version).await?.pop();
            return found.ok_or_else(|| HostError::Malformed {
                what: format!("the package kubeadm {version}"),
                why: "the folder of packages lists none".to_owned(),
            });
        }
        let argv = self.looking_for(version, argv::apt_print_uris("kubeadm", version)).await?;
        let text = self.ask(&argv).await?;
        let package = output::package_file(&text)?;
        let path = match &package.local {
            // apt uses packages of a file: repository where they are.
            Some(path) => path.clone(),
            None => self.layout.at("/var/cache/apt/archives").join(&package.name),
        };
        let Some(sha256) = sha256_of(self.files.as_ref(), &path).await? else {
            return Err(HostError::Malformed {
                what: format!("the package {path}"),
                why: "it was not downloaded, or apt was told to clean its archives at once".to_owned(),
            });
        };
        if sha256 != package.sha256 {
            return Err(HostError::Malformed {
                what: format!("the package {path}"),
                why: format!("its SHA-256 is {sha256}, the repository says {}; remove it", package.sha256),
            });
        }
        Ok(path)
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
        if let Some(directory) = &self.directory {
            return directory.offered().await;
        }
        let argv = argv::apt_madison(&KUBERNETES_PACKAGES);
        let mut offered = self.offers(&argv).await?;
        let _nobody_else = self.scratch.lock().await;
        if let Some(view) = self.ahead.known().await? {
            offered.extend(self.offers(&view.of(argv)).await?);
            offered.sort();
            offered.dedup();
        }
        Ok(offered)
    }

    async fn installable(&self, version: KubernetesVersion) -> HostResult<bool> {
        match &self.directory {
            Some(directory) => Ok(directory.offered().await?.contains(&version)),
            None => Ok(self.offers(&argv::apt_madison(&KUBERNETES_PACKAGES)).await?.contains(&version)),
        }
    }

    async fn source(&self) -> HostResult<PackageSource> {
        let directory = self.directory.as_ref().map(Directory::folder);
        let found = split_files(self.files.as_ref(), &self.layout).await?;
        let split_by_minor = directory.is_none() && !found.is_empty();
        Ok(PackageSource { manager: PackageManager::Apt, directory, split_by_minor })
    }

    async fn refresh_from(
        &self,
        permit: &Permit,
        files: &[Utf8PathBuf],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        for (number, file) in files.iter().enumerate() {
            let unit = format!("liftlock-{}-apt-update-{number}", permit.token());
            let argv = argv::apt_update_from(file.as_str());
            self.commands.run(permit, &unit, &argv, &REFRESH.into(), lines).await?;
        }
        Ok(())
    }

    async fn held(&self) -> HostResult<Vec<String>> {
        let mut held = output::lines(&self.ask(&argv::apt_showhold(&KUBERNETES_PACKAGES)).await?);
        held.extend(self.noted().await?);
        held.sort();
        held.dedup();
        Ok(held)
    }

    async fn refresh(&self, lines: &dyn Lines) -> HostResult<()> {
        if let Some(directory) = &self.directory {
            return directory.offered().await.map(drop);
        }
        self.commands.run_undisturbing("liftlock-apt-update", &argv::apt_update(), REFRESH, lines).await?;
        let found = split_files(self.files.as_ref(), &self.layout).await?;
        let _nobody_else = self.scratch.lock().await;
        self.ahead.look(&found, REFRESH, lines).await
    }

    async fn download(&self, version: KubernetesVersion, lines: &dyn Lines) -> HostResult<()> {
        if let Some(directory) = &self.directory {
            return directory.prepare(&self.installed().await?, version, true).await.map(drop);
        }
        let unit = format!("liftlock-apt-download-{}", version.bare());
        let argv = {
            // Not held while it downloads: whoever asks what is offered does not wait for that.
            let _nobody_else = self.scratch.lock().await;
            self.looking_for(version, argv::apt_download(&KUBERNETES_PACKAGES, version)).await?
        };
        self.commands.run_undisturbing(&unit, &argv, DOWNLOAD, lines).await
    }

    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>> {
        let _only_one = self.scratch.lock().await;
        let package = self.downloaded(version).await?;
        let scratch = Scratch::for_kubeadm(&self.layout)?;
        let extract = argv::dpkg_deb_extract(package.as_str(), scratch.path().as_str());
        images_by_package(&extract, self.commands.as_ref(), self.kube.as_ref(), &scratch, version).await
    }

    async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Option<Vec<Utf8PathBuf>>> {
        archives_in(self.directory.as_ref(), version).await
    }

    async fn take_archive(&self, archive: &Utf8Path) -> HostResult<Utf8PathBuf> {
        taken_from(self.directory.as_ref(), archive).await
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
        let argv = match &self.directory {
            None => argv::apt_install(packages, version),
            Some(directory) => argv::apt_install_files(&directory.at_version(packages, version).await?),
        };
        self.change(permit, &unit, &argv, held, lines).await
    }

    async fn reinstall(
        &self,
        permit: &Permit,
        packages: &[(String, String)],
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let exact: Vec<(&str, &str)> = packages.iter().map(|(p, v)| (p.as_str(), v.as_str())).collect();
        let names: Vec<&str> = exact.iter().map(|(package, _)| *package).collect();
        let unit = format!("liftlock-{}-apt-reinstall-{}", permit.token(), names.join("-"));
        let argv = match &self.directory {
            None => argv::apt_install_exact(&exact),
            Some(directory) => argv::apt_install_files(&directory.exact(packages).await?),
        };
        self.change(permit, &unit, &argv, held, lines).await
    }

    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion> {
        version_of(self.commands.as_ref(), program).await
    }
}
