//! Packages, through a package manager that can be cut off anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::packages::PackageSource;
use liftlock_proto::version::KubernetesVersion;

use super::children::{self, Op};
use super::kubeadm;
use super::node::NodeTwin;
use super::world::World;
use crate::engine::lease::Permit;
use crate::host::{HostError, HostResult, Lines, Packages};

/// How long it may say nothing.
const SILENCE: Duration = Duration::from_mins(10);

impl NodeTwin {
    /// Runs the package manager. One that an agent left running holds dpkg's lock, so its end is waited for.
    async fn apt(&self, what: &str, ops: VecDeque<Op>, lines: &dyn Lines) -> HostResult<()> {
        self.world(|world: &mut World| {
            let left: Vec<String> = world
                .machine(&self.name)
                .into_iter()
                .flat_map(|machine| machine.units.keys())
                .filter(|unit| unit.starts_with("apt"))
                .cloned()
                .collect();
            if !left.is_empty() {
                children::finish(world, &self.name);
            }
            for unit in left {
                if let Some(machine) = world.machine_mut(&self.name) {
                    machine.units.remove(&unit);
                }
            }
        });
        let argv = vec!["apt-get".to_owned(), what.to_owned()];
        self.child(&format!("apt-{what}"), &argv, |_, _| Ok(ops), SILENCE, lines).await
    }
}

#[async_trait]
impl Packages for NodeTwin {
    async fn installed(&self) -> HostResult<BTreeMap<String, String>> {
        self.machine(|machine| {
            let configured = machine.packages.iter().filter(|(_, package)| package.configured);
            configured.map(|(name, package)| (name.clone(), package.version.clone())).collect()
        })
    }

    async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        Ok(self.world(|world| world.offered.clone()))
    }

    async fn installable(&self, version: KubernetesVersion) -> HostResult<bool> {
        let offered = self.world(|world| world.offered.contains(&version));
        Ok(offered && self.machine(|machine| machine.leads_to(version))?)
    }

    async fn source(&self) -> HostResult<PackageSource> {
        let split_by_minor = self.machine(|machine| !machine.listed.is_empty())?;
        Ok(PackageSource { split_by_minor, ..PackageSource::default() })
    }

    async fn refresh_from(&self, _: &Permit, _: &[Utf8PathBuf], lines: &dyn Lines) -> HostResult<()> {
        self.apt("update", [Op::ReadLists].into(), lines).await
    }

    async fn held(&self) -> HostResult<Vec<String>> {
        self.machine(|machine| {
            let held = machine.packages.iter().filter(|(_, package)| package.held);
            held.map(|(name, _)| name.clone()).collect()
        })
    }

    async fn refresh(&self, _: &dyn Lines) -> HostResult<()> {
        Ok(())
    }

    async fn download(&self, _: KubernetesVersion, _: &dyn Lines) -> HostResult<()> {
        self.machine(|machine| match machine.left_by_download.take() {
            None => Ok(()),
            Some(space) => {
                machine.mounts.insert("/var".into(), space);
                Err(HostError::Malformed {
                    what: "the download".to_owned(),
                    why: "no space left on device".to_owned(),
                })
            }
        })?
    }

    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>> {
        Ok(kubeadm::images(version))
    }

    async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Option<Vec<Utf8PathBuf>>> {
        self.machine(|machine| {
            let offline = machine.offline.as_ref()?;
            Some(vec![offline.join(format!("images-{version}.tar"))])
        })
    }

    async fn take_archive(&self, archive: &Utf8Path) -> HostResult<Utf8PathBuf> {
        Ok(archive.to_owned())
    }

    async fn repair(&self, _: &Permit, lines: &dyn Lines) -> HostResult<()> {
        let broken: VecDeque<Op> = self.machine(|machine| {
            let broken = machine.packages.iter().filter(|(_, package)| !package.configured);
            broken.map(|(name, _)| Op::Configure(name.clone())).collect()
        })?;
        if broken.is_empty() { Ok(()) } else { self.apt("repair", broken, lines).await }
    }

    async fn install(
        &self,
        permit: &Permit,
        packages: &[&str],
        version: KubernetesVersion,
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let version = format!("{}-1.1", version.bare());
        let exact: Vec<(String, String)> =
            packages.iter().map(|package| ((*package).to_owned(), version.clone())).collect();
        self.reinstall(permit, &exact, held, lines).await
    }

    async fn reinstall(
        &self,
        _: &Permit,
        packages: &[(String, String)],
        held: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        for (name, version) in packages {
            let version = version.split('-').next().and_then(|version| version.parse().ok());
            if !self.machine(|machine| version.is_some_and(|version| machine.leads_to(version)))? {
                return Err(HostError::Command {
                    argv: vec!["apt-get".to_owned(), "install".to_owned()],
                    status: "exit status 100".to_owned(),
                    output: format!("E: Version '{version:?}' for '{name}' was not found"),
                });
            }
        }
        let unpack = packages.iter().map(|(name, version)| Op::Unpack(name.clone(), version.clone()));
        let configure = packages.iter().map(|(name, _)| Op::Configure(name.clone()));
        let hold_again = held.iter().map(|name| Op::Hold(name.clone()));
        self.apt("install", unpack.chain(configure).chain(hold_again).collect(), lines).await
    }

    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion> {
        self.machine(|machine| machine.unpacked(program))?.ok_or_else(|| HostError::Malformed {
            what: format!("`{program}`"),
            why: "it is not installed".to_owned(),
        })
    }
}
