//! kubeadm, kubelet and kubectl from dnf repositories.
//!
//! What keeps them from being upgraded by the way stands in the repository's own file (`exclude=kubelet kubeadm kubectl …`, as
//! Kubernetes' documentation has it) and is passed over by option: nothing is taken off, so nothing has to be put back.
//! What dnf learns of a repository it keeps under that repository's address, so that what was fetched before the
//! node's files lead to another minor is found again once they do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::{self, Argv, KUBERNETES_PACKAGES};
use liftlock_proto::packages::{PackageManager, PackageSource};
use liftlock_proto::version::KubernetesVersion;
use tokio::sync::Mutex;

use super::directory::{Directory, archives_in, offer, taken_from};
use super::minor::{SplitFile, led_to, minors_of, split_files};
use super::newer::compare;
use super::output;
use super::programs::{ASKING, images_by_package, version_of};
use super::scratch::{Folder, Scratch};
use crate::engine::lease::Permit;
use crate::host::{Bounds, Commands, Files, HostError, HostResult, Kube, Layout, Limits, Lines, Packages};
use crate::protect::rules::{Program, Rules};

const REFRESH: Limits = Limits { time: Duration::from_mins(10), silence: Duration::from_mins(6) };
const DOWNLOAD: Limits = Limits { time: Duration::from_mins(30), silence: Duration::from_mins(10) };
const INSTALL: Limits = Limits { time: Duration::from_mins(20), silence: Duration::from_mins(10) };

/// How many minors further than the node's own one is looked.
const FURTHEST: u16 = 8;

/// Where dnf's files of repositories are.
const REPOSITORIES: &str = "/etc/yum.repos.d";

/// The folder of the state folder that packages are downloaded to.
pub(super) const RPMS: &str = "rpms";

/// What is known of later minors: one version a line.
const OFFERS: &str = "offers";

/// The package manager of Red Hat's and its kin.
pub(super) struct Dnf {
    layout: Layout,
    files: Arc<dyn Files>,
    commands: Arc<dyn Commands>,
    kube: Arc<dyn Kube>,
    directory: Option<Directory>,
    ahead: Folder,
    scratch: Mutex<()>,
}

impl Dnf {
    pub(super) fn new(
        layout: Layout,
        files: Arc<dyn Files>,
        commands: Arc<dyn Commands>,
        kube: Arc<dyn Kube>,
        directory: Option<Directory>,
    ) -> Self {
        let ahead = Folder::at(layout.state_dir.join("minors-ahead"));
        Self { layout, files, commands, kube, directory, ahead, scratch: Mutex::new(()) }
    }

    async fn ask(&self, argv: &Argv) -> HostResult<String> {
        self.commands.read(argv, ASKING).await
    }

    async fn split(&self) -> HostResult<Vec<SplitFile>> {
        split_files(self.files.as_ref(), &self.layout).await
    }

    async fn bounds(&self) -> HostResult<Bounds> {
        let rules = Rules::load_from(self.files.as_ref(), &self.layout).await?;
        Ok(rules.bounds(Program::PackageManager, &self.layout, INSTALL))
    }

    /// What dnf knows of what these packages are offered at, without asking any repository.
    async fn known(&self) -> HostResult<Vec<KubernetesVersion>> {
        let argv = argv::dnf_repoquery(&KUBERNETES_PACKAGES);
        Ok(output::offered_by_rows(&self.ask(&argv).await?, &KUBERNETES_PACKAGES))
    }

    /// A folder with files of repositories that lead to a minor: all of the node's, or only those that are split.
    async fn led(&self, found: &[SplitFile], minor: u16, all: bool) -> HostResult<Option<Utf8PathBuf>> {
        let led = led_to(found, minor);
        if led.is_empty() {
            return Ok(None);
        }
        let repositories = self.ahead.below("repositories");
        repositories.renew()?;
        let folder = self.layout.at(REPOSITORIES);
        for name in self.files.list(&folder).await? {
            let path = folder.join(&name);
            match led.iter().find(|file| file.path == path) {
                Some(file) => drop(repositories.write(&name, &file.content)?),
                None if all => repositories.link(&name, &path)?,
                None => {}
            }
        }
        Ok(Some(repositories.path().to_owned()))
    }

    /// Looks which later minors there are, up to the first whose repository does not answer.
    async fn look_ahead(&self, lines: &dyn Lines) -> HostResult<()> {
        let found = self.split().await?;
        let Some(newest) = minors_of(&found).last().copied() else {
            return self.ahead.remove();
        };
        self.ahead.renew()?;
        let mut offers: Vec<String> = Vec::new();
        for minor in (newest + 1)..=(newest + FURTHEST) {
            let Some(folder) = self.led(&found, minor, false).await? else { break };
            let unit = format!("liftlock-dnf-makecache-{minor}");
            let argv = argv::dnf_with_repositories(argv::dnf_makecache(), folder.as_str());
            match self.commands.run_undisturbing(&unit, &argv, REFRESH, lines).await {
                Ok(()) => {}
                Err(error) if error.ended_badly() => {
                    lines.line(&format!("nothing is known of v1.{minor} and later: {error}"));
                    break;
                }
                Err(error) => return Err(error),
            }
            let argv = argv::dnf_repoquery(&KUBERNETES_PACKAGES);
            let rows = self.ask(&argv::dnf_with_repositories(argv, folder.as_str())).await?;
            offers
                .extend(output::offered_by_rows(&rows, &KUBERNETES_PACKAGES).iter().map(ToString::to_string));
        }
        self.ahead.write(OFFERS, &offers.join("\n")).map(drop)
    }

    /// Makes the packages what they are to be, whatever an interrupted transaction left of them.
    async fn change(&self, permit: &Permit, name: &str, argv: &Argv, lines: &dyn Lines) -> HostResult<()> {
        let unit = format!("liftlock-{}-dnf-{name}", permit.token());
        self.commands.run(permit, &unit, argv, &self.bounds().await?, lines).await
    }

    /// Whether the files of a package are those that came with it.
    async fn is_intact(&self, package: &str) -> bool {
        self.ask(&argv::rpm_verify(package)).await.is_ok()
    }
}

#[async_trait]
impl Packages for Dnf {
    /// A package that is there twice was interrupted between the new one and the old one's removal.
    async fn installed(&self) -> HostResult<BTreeMap<String, String>> {
        Ok(output::installed_once(&self.ask(&argv::rpm_query("kube*")).await?))
    }

    async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        if let Some(directory) = &self.directory {
            return directory.offered().await;
        }
        let mut offered = self.known().await?;
        let ahead = self.files.read(&self.ahead.path().join(OFFERS)).await?.unwrap_or_default();
        offered.extend(
            String::from_utf8_lossy(&ahead).lines().filter_map(|line| line.parse::<KubernetesVersion>().ok()),
        );
        offered.sort();
        offered.dedup();
        Ok(offered)
    }

    async fn installable(&self, version: KubernetesVersion) -> HostResult<bool> {
        match &self.directory {
            Some(directory) => Ok(directory.offered().await?.contains(&version)),
            None => Ok(self.known().await?.contains(&version)),
        }
    }

    async fn source(&self) -> HostResult<PackageSource> {
        let directory = self.directory.as_ref().map(Directory::folder);
        let split_by_minor = directory.is_none() && !self.split().await?.is_empty();
        Ok(PackageSource { manager: PackageManager::Dnf, directory, split_by_minor })
    }

    async fn refresh_from(&self, permit: &Permit, _: &[Utf8PathBuf], lines: &dyn Lines) -> HostResult<()> {
        self.change(permit, "makecache", &argv::dnf_makecache(), lines).await
    }

    async fn held(&self) -> HostResult<Vec<String>> {
        Ok(Vec::new())
    }

    async fn refresh(&self, lines: &dyn Lines) -> HostResult<()> {
        output::speaks_dnf_4(&self.ask(&argv::dnf_version()).await?)?;
        if let Some(directory) = &self.directory {
            return directory.offered().await.map(drop);
        }
        self.commands
            .run_undisturbing("liftlock-dnf-makecache", &argv::dnf_makecache(), REFRESH, lines)
            .await?;
        let _nobody_else = self.scratch.lock().await;
        self.look_ahead(lines).await
    }

    async fn download(&self, version: KubernetesVersion, lines: &dyn Lines) -> HostResult<()> {
        let installed = self.installed().await?;
        if let Some(directory) = &self.directory {
            return directory.prepare(&installed, version, true).await.map(drop);
        }
        let names: Vec<&str> =
            KUBERNETES_PACKAGES.into_iter().filter(|name| installed.contains_key(*name)).collect();
        // For the look into kubeadm. dnf fetches what it installs once more: what lies here was not bound to its repository.
        let into = self.layout.state_dir.join(RPMS);
        let mut argv = argv::dnf_download(&names, version, into.as_str());
        let led = {
            let _nobody_else = self.scratch.lock().await;
            self.led(&self.split().await?, version.minor, true).await?
        };
        if let Some(folder) = led {
            argv = argv::dnf_with_repositories(argv, folder.as_str());
        }
        let unit = format!("liftlock-dnf-download-{}", version.bare());
        self.commands.run_undisturbing(&unit, &argv, DOWNLOAD, lines).await
    }

    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>> {
        let _only_one = self.scratch.lock().await;
        let package = if let Some(directory) = &self.directory {
            directory.at_version(&["kubeadm"], version).await?.pop()
        } else {
            let folder = self.layout.state_dir.join(RPMS);
            let names = self.files.list(&folder).await?;
            let offers = names.iter().filter_map(|name| Some((offer(PackageManager::Dnf, name)?, name)));
            let builds = offers.filter(|(offer, _)| {
                offer.name == "kubeadm" && output::kubernetes_version(&offer.version) == Some(version)
            });
            let newest = builds
                .max_by(|(one, _), (other, _)| compare(PackageManager::Dnf, &one.version, &other.version));
            newest.map(|(_, name)| folder.join(name))
        };
        let package = package.ok_or_else(|| HostError::Malformed {
            what: format!("the package kubeadm {version}"),
            why: "it was not downloaded".to_owned(),
        })?;
        self.ask(&argv::rpm_check(package.as_str())).await?;
        let scratch = Scratch::for_kubeadm(&self.layout)?;
        let extract = argv::rpm_extract(package.as_str(), scratch.path().as_str());
        images_by_package(&extract, self.commands.as_ref(), self.kube.as_ref(), &scratch, version).await
    }

    async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Option<Vec<Utf8PathBuf>>> {
        archives_in(self.directory.as_ref(), version).await
    }

    async fn take_archive(&self, archive: &Utf8Path) -> HostResult<Utf8PathBuf> {
        taken_from(self.directory.as_ref(), archive).await
    }

    /// Of a package that is there twice the older one goes: its transaction had got as far as to bring the newer one.
    async fn repair(&self, permit: &Permit, lines: &dyn Lines) -> HostResult<()> {
        let older = output::older_of_two(&self.ask(&argv::rpm_query("kube*")).await?);
        if older.is_empty() {
            return Ok(());
        }
        let unit = format!("liftlock-{}-rpm-erase", permit.token());
        self.commands.run(permit, &unit, &argv::rpm_erase(&older), &self.bounds().await?, lines).await
    }

    async fn install(
        &self,
        permit: &Permit,
        packages: &[&str],
        version: KubernetesVersion,
        _: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let argv = match &self.directory {
            None => argv::dnf_install(packages, version),
            Some(directory) => argv::dnf_install_files(&directory.at_version(packages, version).await?),
        };
        self.change(permit, &format!("install-{}", packages.join("-")), &argv, lines).await
    }

    async fn reinstall(
        &self,
        permit: &Permit,
        packages: &[(String, String)],
        _: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let installed = self.installed().await?;
        for package in packages {
            let (name, version) = package;
            let is_there = installed.get(name) == Some(version);
            if is_there && self.is_intact(name).await {
                continue;
            }
            let argv = match &self.directory {
                None => argv::dnf_exact(name, version, is_there),
                Some(directory) => {
                    let files = directory.exact(std::slice::from_ref(package)).await?;
                    if is_there { argv::dnf_reinstall_files(&files) } else { argv::dnf_install_files(&files) }
                }
            };
            self.change(permit, &format!("put-back-{name}"), &argv, lines).await?;
        }
        Ok(())
    }

    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion> {
        version_of(self.commands.as_ref(), program).await
    }
}
