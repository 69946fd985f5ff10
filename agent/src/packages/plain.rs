//! kubeadm, kubelet and kubectl as files that no package owns.
//!
//! New ones come out of the node's folder of packages. Before one is replaced it is kept in the agent's state folder, so that
//! the way back needs nothing from anywhere; what replaces it is a rename, so there is always one or the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::{self, KUBERNETES_PACKAGES};
use liftlock_proto::packages::{PackageManager, PackageSource};
use liftlock_proto::version::KubernetesVersion;
use tokio::sync::Mutex;

use super::checksum::sha256_of;
use super::directory::Directory;
use super::output;
use super::programs::{ASKING, images_by, version_of};
use super::scratch::Scratch;
use crate::engine::lease::Permit;
use crate::host::{Commands, Files, HostError, HostResult, Kube, Layout, Lines, Packages};

/// The folder of the state folder with programs that were replaced.
pub(super) const KEPT: &str = "programs";

/// Programs without a package manager.
pub(super) struct PlainFiles {
    layout: Layout,
    files: Arc<dyn Files>,
    commands: Arc<dyn Commands>,
    kube: Arc<dyn Kube>,
    /// Folders in which programs are looked up.
    path: Vec<Utf8PathBuf>,
    /// Without it nothing is offered.
    directory: Option<Directory>,
    scratch: Mutex<()>,
}

impl PlainFiles {
    pub(super) fn new(
        layout: Layout,
        files: Arc<dyn Files>,
        commands: Arc<dyn Commands>,
        kube: Arc<dyn Kube>,
        path: Vec<Utf8PathBuf>,
        directory: Option<Directory>,
    ) -> Self {
        Self { layout, files, commands, kube, path, directory, scratch: Mutex::new(()) }
    }

    fn directory(&self) -> HostResult<&Directory> {
        self.directory.as_ref().ok_or_else(|| HostError::Malformed {
            what: "the programs of Kubernetes on this node".to_owned(),
            why: "no package owns them, and the agent's configuration names no folder that holds newer ones: write \
                  `directory = \"…\"` under [packages] in /etc/liftlock/agent.toml and restart liftlock-agent"
                .to_owned(),
        })
    }

    /// Where a program lies.
    async fn place(&self, program: &str) -> HostResult<Option<Utf8PathBuf>> {
        for folder in &self.path {
            let place = folder.join(program);
            if self.files.exists(&place).await? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Refuses a program that is a symbolic link: what would be kept of it for the way back is the link, and what it leads to may go
    /// or change.
    async fn refuse_links(&self) -> HostResult<()> {
        for program in KUBERNETES_PACKAGES {
            if let Some(place) = self.place(program).await?
                && let Some(target) = self.directory()?.link_at(&place).await?
            {
                return Err(HostError::Malformed {
                    what: format!("the program {place}"),
                    why: format!(
                        "it is a symbolic link to {target}: put the folder in which the program itself lies first into `path` in \
                         /etc/liftlock/agent.toml and restart liftlock-agent, and it is replaced there"
                    ),
                });
            }
        }
        Ok(())
    }

    async fn version(&self, program: &str) -> HostResult<KubernetesVersion> {
        if program == "kubectl" {
            output::kubectl_version(&self.commands.read(&argv::kubectl_version(), ASKING).await?)
        } else {
            version_of(self.commands.as_ref(), program).await
        }
    }

    /// Where an earlier program is kept.
    fn kept(&self, program: &str, version: &str) -> Utf8PathBuf {
        self.layout.state_dir.join(KEPT).join(format!("{program}-v{version}"))
    }

    /// Keeps the program that is there, and puts another one in its place.
    async fn replace(
        &self,
        permit: &Permit,
        program: &str,
        by: &Utf8Path,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let place = self.place(program).await?.ok_or_else(|| HostError::Malformed {
            what: format!("the program {program}"),
            why: "it is not on this node, so nothing takes its place".to_owned(),
        })?;
        let (there, new) =
            (sha256_of(self.files.as_ref(), &place).await?, sha256_of(self.files.as_ref(), by).await?);
        if there == new {
            return Ok(());
        }
        if let Ok(earlier) = self.version(program).await {
            let kept = self.kept(program, &earlier.bare());
            if !self.files.exists(&kept).await? {
                let folder = kept.parent().unwrap_or(&kept);
                self.files.create_dir(permit, folder, 0o700).await?;
                // In one rename: half a program under this name would be what the way back brings.
                self.files.restore_file(permit, &place, &kept).await?;
            }
        }
        lines.line(&format!("{by} takes the place of {place}"));
        self.files.install_program(permit, by, &place).await
    }
}

#[async_trait]
impl Packages for PlainFiles {
    async fn installed(&self) -> HostResult<BTreeMap<String, String>> {
        let mut installed = BTreeMap::new();
        for program in KUBERNETES_PACKAGES {
            if self.place(program).await?.is_some() {
                installed.insert(program.to_owned(), self.version(program).await?.bare());
            }
        }
        Ok(installed)
    }

    async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        self.directory()?.offered().await
    }

    async fn installable(&self, version: KubernetesVersion) -> HostResult<bool> {
        Ok(self.offered().await?.contains(&version))
    }

    async fn source(&self) -> HostResult<PackageSource> {
        let directory = self.directory.as_ref().map(Directory::folder);
        Ok(PackageSource { manager: PackageManager::Files, directory, split_by_minor: false })
    }

    async fn refresh_from(&self, _: &Permit, _: &[Utf8PathBuf], _: &dyn Lines) -> HostResult<()> {
        Ok(())
    }

    async fn held(&self) -> HostResult<Vec<String>> {
        Ok(Vec::new())
    }

    async fn refresh(&self, _: &dyn Lines) -> HostResult<()> {
        self.directory()?.offered().await.map(drop)
    }

    async fn download(&self, version: KubernetesVersion, lines: &dyn Lines) -> HostResult<()> {
        self.refuse_links().await?;
        // What is replaced is kept: the way back needs nothing of the folder.
        for file in self.directory()?.prepare(&self.installed().await?, version, false).await? {
            lines.line(&format!("{file} is what the list says"));
        }
        Ok(())
    }

    async fn images_of(&self, version: KubernetesVersion) -> HostResult<Vec<String>> {
        let _only_one = self.scratch.lock().await;
        let scratch = Scratch::for_kubeadm(&self.layout)?;
        let files = self.directory()?.at_version(&["kubeadm"], version).await?;
        let listed = files.first().map(|file| scratch.program("kubeadm", file)).transpose()?;
        let kubeadm = listed.unwrap_or_else(|| scratch.path().join("kubeadm"));
        images_by(&kubeadm, self.commands.as_ref(), self.kube.as_ref(), &scratch, version).await
    }

    async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Option<Vec<Utf8PathBuf>>> {
        self.directory()?.image_archives(version).await.map(Some)
    }

    async fn take_archive(&self, archive: &Utf8Path) -> HostResult<Utf8PathBuf> {
        self.directory()?.take_file(archive).await
    }

    async fn repair(&self, _: &Permit, _: &dyn Lines) -> HostResult<()> {
        Ok(())
    }

    async fn install(
        &self,
        permit: &Permit,
        packages: &[&str],
        version: KubernetesVersion,
        _: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let files = self.directory()?.at_version(packages, version).await?;
        for (program, file) in packages.iter().zip(files) {
            self.replace(permit, program, &file, lines).await?;
        }
        Ok(())
    }

    async fn reinstall(
        &self,
        permit: &Permit,
        packages: &[(String, String)],
        _: &[String],
        lines: &dyn Lines,
    ) -> HostResult<()> {
        for (program, version) in packages {
            let kept = self.kept(program, version);
            if self.files.exists(&kept).await? {
                self.replace(permit, program, &kept, lines).await?;
            } else if self.version(program).await?.bare() != *version {
                let exact = [(program.clone(), version.clone())];
                for file in self.directory()?.exact(&exact).await? {
                    self.replace(permit, program, &file, lines).await?;
                }
            }
        }
        Ok(())
    }

    async fn binary_version(&self, program: &str) -> HostResult<KubernetesVersion> {
        version_of(self.commands.as_ref(), program).await
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use liftlock_proto::argv::Argv;
    use liftlock_proto::name::FencingToken;

    use secrecy::SecretString;

    use super::*;
    use crate::backup::digest::FileDigest;
    use crate::engine::idle::Idle;
    use crate::engine::lease::Lease;
    use crate::host::real::{RealFiles, RealTrees};
    use crate::host::{Bounds, Limits, UnitState};
    use crate::twin::{Fault, Meanwhile, Outcome, Shape, Twin};

    const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);
    const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);
    const FOLDER: &str = "/srv/offline";

    /// Programs whose content is their version.
    struct Shells(Arc<dyn Files>);

    #[async_trait]
    impl Commands for Shells {
        async fn read(&self, argv: &Argv, _: Duration) -> HostResult<String> {
            let content = self.0.read(&Utf8PathBuf::from(format!("/usr/local/bin/{}", argv[0]))).await?;
            let version = String::from_utf8(content.unwrap()).unwrap();
            Ok(match argv[0].as_str() {
                "kubelet" => format!("Kubernetes {version}\n"),
                "kubectl" => format!("{{\"clientVersion\": {{\"gitVersion\": \"{version}\"}}}}"),
                _ => format!("{version}\n"),
            })
        }

        async fn run(&self, _: &Permit, _: &str, _: &Argv, _: &Bounds, _: &dyn Lines) -> HostResult<()> {
            panic!("nothing is run to replace a file")
        }

        async fn run_undisturbing(&self, _: &str, _: &Argv, _: Limits, _: &dyn Lines) -> HostResult<()> {
            panic!("nothing is run to replace a file")
        }

        async fn unit_state(&self, _: &str) -> HostResult<UnitState> {
            panic!("no unit is looked at")
        }

        async fn upload_certificates(&self, _: &Idle, _: KubernetesVersion) -> HostResult<SecretString> {
            panic!("nobody is let in")
        }
    }

    struct Silent;

    impl Lines for Silent {
        fn line(&self, _: &str) {}
    }

    fn twin() -> Twin {
        let twin = Twin::new(Shape { control_planes: 1, workers: 0, version: FROM, offered: TO });
        let mut list = String::new();
        twin.world().change("cp1", |machine| {
            for program in KUBERNETES_PACKAGES {
                machine.disk.put(format!("/usr/local/bin/{program}"), FROM.to_string(), 0o755);
                machine.disk.put(format!("{FOLDER}/{TO}/{program}"), TO.to_string(), 0o644);
                let sum = FileDigest::of(TO.to_string().as_bytes()).sha256;
                _ = writeln!(list, "{sum}  {TO}/{program}");
            }
            machine.disk.put(format!("{FOLDER}/SHA256SUMS"), &list, 0o644);
        });
        twin
    }

    fn programs(twin: &Twin) -> PlainFiles {
        let host = twin.host("cp1");
        let commands = Arc::new(Shells(Arc::clone(&host.files)));
        let path = ["/usr/local/sbin", "/usr/local/bin", "/usr/bin"].map(Utf8PathBuf::from).to_vec();
        let directory = Directory::new(
            host.layout.clone(),
            Arc::clone(&host.files),
            host.trees,
            FOLDER.into(),
            PackageManager::Files,
        );
        PlainFiles::new(host.layout, host.files, commands, host.kube, path, Some(directory))
    }

    fn permit(twin: &Twin) -> Permit {
        Lease::new(FencingToken(7), Duration::MAX).permit(twin.host("cp1").clock.as_ref()).unwrap()
    }

    fn content(twin: &Twin, program: &str) -> String {
        let world = twin.world();
        let path = Utf8PathBuf::from(format!("/usr/local/bin/{program}"));
        String::from_utf8(world.machine("cp1").unwrap().disk.read(&path).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn programs_that_no_package_owns_are_replaced_by_what_is_listed_and_put_back_from_what_was_kept() {
        let twin = twin();
        let programs = programs(&twin);
        let offered = twin.drive(programs.offered()).done().unwrap().unwrap();
        assert_eq!(offered, [TO]);
        let before: Vec<(String, String)> =
            twin.drive(programs.installed()).done().unwrap().unwrap().into_iter().collect();
        assert_eq!(before.len(), 3);
        twin.drive(programs.download(TO, &Silent)).done().unwrap().unwrap();
        for nth in 1.. {
            // Cut off before each change, and gone on with.
            twin.inject("cp1", nth, Fault::AgentDies);
            let permit = permit(&twin);
            let install = programs.install(&permit, &KUBERNETES_PACKAGES, TO, &[], &Silent);
            match twin.drive(install) {
                Outcome::Done(installed) => {
                    installed.unwrap();
                    break;
                }
                Outcome::Died => {
                    for program in KUBERNETES_PACKAGES {
                        let found = content(&twin, program);
                        assert!(
                            [FROM.to_string(), TO.to_string()].contains(&found),
                            "{program} is {found:?}"
                        );
                    }
                    twin.restart("cp1", Meanwhile::Ended);
                }
                Outcome::Stuck => panic!("it waits for ever"),
            }
        }
        for program in KUBERNETES_PACKAGES {
            assert_eq!(content(&twin, program), TO.to_string());
        }
        twin.inject("cp1", usize::MAX, Fault::Fails);
        // What was there is kept on the node: nothing else is needed for the way back.
        twin.world()
            .change("cp1", |machine| machine.disk.remove(format!("{FOLDER}/SHA256SUMS").as_str().into()));
        twin.drive(programs.reinstall(&permit(&twin), &before, &[], &Silent)).done().unwrap().unwrap();
        for program in KUBERNETES_PACKAGES {
            assert_eq!(content(&twin, program), FROM.to_string());
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test looks past what it tests")]
    fn a_program_that_is_a_symbolic_link_is_refused_before_a_lease_with_what_would_be_allowed() {
        let twin = twin();
        let (host, folder) = (twin.host("cp1"), tempfile::TempDir::new().unwrap());
        let root = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        let layout = Layout { state_dir: root.join("state"), root: root.clone() };
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::write(root.join("v1.30.4"), "a program").unwrap();
        std::os::unix::fs::symlink("../../v1.30.4", root.join("usr/bin/kubelet")).unwrap();
        let files: Arc<dyn Files> = Arc::new(RealFiles::new(layout.clone()));
        let trees = Arc::new(RealTrees::new(layout.clone()));
        let manager = PackageManager::Files;
        let directory = Directory::new(layout.clone(), Arc::clone(&files), trees, FOLDER.into(), manager);
        let path = vec![root.join("usr/bin")];
        let programs =
            PlainFiles::new(layout, files, Arc::new(Shells(host.files)), host.kube, path, Some(directory));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(programs.download(TO, &Silent)).unwrap_err().to_string();
        for part in
            ["usr/bin/kubelet", "symbolic link to ../../v1.30.4", "`path` in /etc/liftlock/agent.toml"]
        {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }

    #[test]
    fn half_a_program_is_never_kept_wherever_the_keeping_was_cut_off() {
        for nth in 1.. {
            let twin = twin();
            let programs = programs(&twin);
            let before: Vec<(String, String)> =
                twin.drive(programs.installed()).done().unwrap().unwrap().into_iter().collect();
            let install = || {
                let permit = permit(&twin);
                twin.drive(programs.install(&permit, &KUBERNETES_PACKAGES, TO, &[], &Silent))
            };
            twin.inject("cp1", nth, Fault::PowerFails);
            let cut_off = matches!(install(), Outcome::Died);
            if cut_off {
                twin.restart("cp1", Meanwhile::Ended);
                install().done().unwrap().unwrap();
            }
            twin.inject("cp1", usize::MAX, Fault::Fails);
            twin.drive(programs.reinstall(&permit(&twin), &before, &[], &Silent)).done().unwrap().unwrap();
            for program in KUBERNETES_PACKAGES {
                assert_eq!(content(&twin, program), FROM.to_string(), "cut off before change {nth}");
            }
            if !cut_off {
                assert!(nth > 6, "of three programs each is kept and replaced");
                return;
            }
        }
    }

    #[test]
    fn a_program_that_is_not_what_the_list_says_is_neither_fetched_nor_installed() {
        let twin = twin();
        let programs = programs(&twin);
        twin.world().change("cp1", |machine| {
            machine.disk.put(format!("{FOLDER}/{TO}/kubelet"), "something else", 0o755);
        });
        for refused in [
            twin.drive(programs.download(TO, &Silent)).done().unwrap(),
            twin.drive(programs.install(&permit(&twin), &["kubelet"], TO, &[], &Silent)).done().unwrap(),
        ] {
            let why = refused.unwrap_err().to_string();
            assert!(why.contains("v1.31.2/kubelet") && why.contains("SHA256SUMS says"), "{why}");
        }
        assert_eq!(content(&twin, "kubelet"), FROM.to_string());
    }
}
