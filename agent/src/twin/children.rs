//! Children: what they do step by step, under transient units that outlive the agent.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::Argv;
use liftlock_proto::version::KubernetesVersion;
use secrecy::SecretString;

use super::fault::Fault;
use super::hooks;
use super::join;
use super::kubeadm;
use super::machine::{Failure, MANIFESTS, Unit};
use super::node::NodeTwin;
use super::redeploy;
use super::world::World;
use crate::engine::idle::Idle;
use crate::engine::lease::Permit;
use crate::host::{Bounds, Commands, HostError, HostResult, Limits, Lines, UnitState};

/// How long kubeadm waits for a static pod.
const STATIC_POD_LIMIT: Duration = Duration::from_mins(5);

/// One thing that a child does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Say(String),
    Elapse(Duration),
    MakeFolder(Utf8PathBuf),
    WriteFile(Utf8PathBuf, String),
    CopyTree(Utf8PathBuf, Utf8PathBuf),
    /// kubeadm moves it back if it fails later.
    MoveManifest(Utf8PathBuf, Utf8PathBuf),
    /// A component and the image that its container must have.
    AwaitContainer(&'static str, String),
    /// A pod of the cluster's DNS that is ready; says nothing meanwhile.
    AwaitDns,
    /// kubeadm-config.
    RaiseCluster(KubernetesVersion),
    /// The kube-proxy `DaemonSet`.
    RaiseProxy(KubernetesVersion),
    /// A package and its version.
    Unpack(String, String),
    Configure(String),
    Hold(String),
    /// The package manager reads what its sources lead to.
    ReadLists,
    /// containerd takes the images of an archive; that of a version holds them all.
    ImportImages(KubernetesVersion),
    DaemonReload,
    RestartKubelet,
    StopKubelet,
    /// Ends what the kubelet started.
    StopContainers,
    /// A file, or everything in a folder.
    Remove(Utf8PathBuf),
    /// The kubelet makes its Node.
    Register {
        control_plane: bool,
    },
    /// etcd learns of this node's member, or forgets it.
    AddMember,
    RemoveMember,
    /// Everything but the store gives way to a system with the packages that are offered, and the machine starts anew.
    ReplaceSystem,
    /// The command says that it failed.
    GiveUp(String),
}

impl Op {
    /// What it changes, in words; `None` if nothing.
    fn change(&self) -> Option<String> {
        Some(match self {
            Self::Say(_) | Self::Elapse(_) | Self::AwaitContainer(..) | Self::AwaitDns => return None,
            Self::MakeFolder(path) => format!("child: make {path}"),
            Self::WriteFile(path, _) => format!("child: write {path}"),
            Self::CopyTree(from, to) => format!("child: copy {from} to {to}"),
            Self::MoveManifest(from, to) => format!("child: move {from} to {to}"),
            Self::RaiseCluster(version) => format!("child: kubeadm-config to {version}"),
            Self::RaiseProxy(version) => format!("child: kube-proxy to {version}"),
            Self::Unpack(package, version) => format!("child: unpack {package} {version}"),
            Self::Configure(package) => format!("child: configure {package}"),
            Self::Hold(package) => format!("child: hold {package}"),
            Self::ReadLists => "child: read the package lists".to_owned(),
            Self::ImportImages(version) => format!("child: import the images of {version}"),
            Self::DaemonReload => "child: daemon-reload".to_owned(),
            Self::RestartKubelet => "child: restart the kubelet".to_owned(),
            Self::StopKubelet => "child: stop the kubelet".to_owned(),
            Self::StopContainers => "child: stop every container".to_owned(),
            Self::Remove(path) => format!("child: remove {path}"),
            Self::Register { .. } => "child: make the Node".to_owned(),
            Self::AddMember => "child: add the member of etcd".to_owned(),
            Self::RemoveMember => "child: remove the member of etcd".to_owned(),
            Self::ReplaceSystem => "child: replace the system".to_owned(),
            Self::GiveUp(_) => "child: give up".to_owned(),
        })
    }

    /// Does it.
    fn apply(&self, world: &mut World, node: &str, unit: &str) {
        match self {
            Self::RaiseCluster(version) => world.cluster.version = *version,
            Self::RaiseProxy(version) => world.cluster.proxy_version = *version,
            Self::RestartKubelet => world.restart_kubelet(node),
            // What the node lifecycle controller sees of a kubelet that reports no more.
            Self::StopContainers => {
                if let Some(object) = world.cluster.nodes.get_mut(node) {
                    object.ready = false;
                }
            }
            Self::Register { control_plane } => world.register(node, *control_plane),
            Self::AddMember if !world.cluster.etcd_members.iter().any(|member| member == node) => {
                world.cluster.etcd_members.push(node.to_owned());
            }
            Self::RemoveMember => world.cluster.etcd_members.retain(|member| member != node),
            Self::ReplaceSystem => redeploy::replace(world, node),
            Self::GiveUp(words) => return fail(world, node, unit, words.clone()),
            _ => {}
        }
        let now = world.now();
        let Some(machine) = world.machine_mut(node) else {
            return;
        };
        if let Self::WriteFile(path, _) | Self::MoveManifest(_, path) = self {
            machine.unsynced.insert(path.to_string(), now);
        }
        match self {
            Self::MakeFolder(path) => machine.disk.make_folder(path, 0o700),
            Self::WriteFile(path, content) => {
                // As open(2): the mode of a file that is there stays.
                let mode = machine.disk.file(path).map_or(0o600, |file| file.mode);
                machine.disk.put(path.clone(), content, mode);
            }
            Self::CopyTree(from, to) => {
                for (path, file) in machine.disk.below(from) {
                    if let Ok(rest) = path.strip_prefix(from) {
                        machine.disk.put(to.join(rest), file.content, file.mode);
                    }
                }
            }
            Self::MoveManifest(from, to) => {
                if machine.disk.rename(from, to)
                    && let Some(unit) = machine.units.get_mut(unit)
                {
                    unit.moved.push((to.clone(), from.clone()));
                }
            }
            Self::Unpack(name, version) => {
                if let Some(package) = machine.packages.get_mut(name) {
                    package.version.clone_from(version);
                    package.configured = false;
                    package.held = false;
                }
            }
            Self::Configure(name) => {
                if let Some(package) = machine.packages.get_mut(name) {
                    package.configured = true;
                }
            }
            Self::ImportImages(version) => {
                let missing = machine.unpullable.clone();
                machine
                    .images
                    .extend(kubeadm::images(*version).into_iter().filter(|image| !missing.contains(image)));
            }
            Self::ReadLists => machine.read_lists(),
            Self::StopKubelet => machine.kubelet = None,
            Self::StopContainers => machine.containers.clear(),
            Self::Remove(path) => {
                let folder = machine.disk.folder_mode(path);
                machine.disk.remove_tree(path);
                if let Some(mode) = folder {
                    machine.disk.make_folder(path, mode);
                }
            }
            Self::Hold(name) => {
                if let Some(package) = machine.packages.get_mut(name) {
                    package.held = true;
                }
            }
            _ => {}
        }
        world.look_at_manifests(node);
    }

    /// Whether it can go on: `None` while it has to wait.
    fn waits_for(&self, world: &World, node: &str) -> bool {
        match self {
            Self::AwaitContainer(component, image) => {
                let machine = world.machine(node);
                let container = machine.and_then(|machine| machine.containers.get(*component));
                // Its hash is asked for through the API.
                container.is_none_or(|container| container.image != *image) || !world.api_is_up()
            }
            Self::AwaitDns => world.cluster.dns.is_some_and(|dns| dns.ready == 0),
            _ => false,
        }
    }
}

/// How a child ended.
enum End {
    Well,
    Failed(Failure),
    /// It was ended, having said nothing for longer than it may.
    Silent,
}

impl NodeTwin {
    /// Runs a child as a unit, or joins the unit where it is there.
    pub(super) async fn child(
        &self,
        name: &str,
        argv: &Argv,
        script: impl FnOnce(&mut World, &str) -> Result<VecDeque<Op>, String>,
        silence: Duration,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let failed = |output: String| HostError::Command {
            argv: argv.clone(),
            status: "exit status 1".to_owned(),
            output,
        };
        match self.machine(|machine| machine.units.get(name).map(|unit| unit.argv.clone()))? {
            Some(running) if running != *argv => {
                return Err(HostError::Malformed {
                    what: format!("the unit {name}.service"),
                    why: format!("it runs something else: {}", running.join(" ")),
                });
            }
            Some(_) => {}
            None => {
                let start = |world: &mut World| {
                    let (ops, failure) = match script(world, &self.name) {
                        Ok(ops) => (ops, None),
                        Err(failure) => (VecDeque::new(), Some(Failure::Said(failure))),
                    };
                    let unit = Unit { argv: argv.clone(), ops, moved: Vec::new(), failure };
                    if let Some(machine) = world.machine_mut(&self.name) {
                        machine.units.insert(name.to_owned(), unit);
                    }
                };
                let not_started = || failed("it could not be started".to_owned());
                self.change(&format!("start `{}`", argv.join(" ")), not_started, start).await?;
            }
        }
        let end = self.follow(name, silence, lines).await?;
        self.machine(|machine| machine.units.remove(name))?;
        match end {
            End::Well => Ok(()),
            End::Failed(Failure::Said(failure)) => Err(failed(failure)),
            End::Failed(Failure::Killed) => Err(HostError::CommandKilled {
                argv: argv.clone(),
                signal: "signal 9 (SIGKILL)".to_owned(),
                output: String::new(),
            }),
            End::Silent => Err(HostError::CommandLimit {
                argv: argv.clone(),
                what: "said nothing for that long",
                limit: silence,
                output: String::new(),
            }),
        }
    }

    /// Goes through what is left to do of a unit.
    async fn follow(&self, name: &str, silence: Duration, lines: &dyn Lines) -> HostResult<End> {
        loop {
            let next = self.machine(|machine| {
                let unit = machine.units.get_mut(name)?;
                match &unit.failure {
                    Some(failure) => Some(Err(failure.clone())),
                    None => unit.ops.front().cloned().map(Ok),
                }
            })?;
            let op = match next {
                None => return Ok(End::Well),
                Some(Err(failure)) => return Ok(End::Failed(failure)),
                Some(Ok(op)) => op,
            };
            match &op {
                Op::Say(line) => lines.line(line),
                Op::Elapse(duration) => {
                    let _: Option<()> = self.wait(*duration, |_| None).await;
                }
                Op::AwaitContainer(component, _) => {
                    let come = |world: &mut World| (!op.waits_for(world, &self.name)).then_some(());
                    if self.wait(STATIC_POD_LIMIT, come).await.is_none() {
                        let failure =
                            format!("static Pod hash for component {component} did not change after 5m0s");
                        self.world(|world| fail(world, &self.name, name, failure));
                        continue;
                    }
                }
                Op::AwaitDns => {
                    let come = |world: &mut World| (!op.waits_for(world, &self.name)).then_some(());
                    if self.wait(silence, come).await.is_none() {
                        return Ok(End::Silent);
                    }
                }
                _ => {}
            }
            if let Some(change) = op.change() {
                match self.strike(&change) {
                    None => {}
                    Some(Fault::Fails) => {
                        let failure = format!("{change}: no space left on device");
                        self.world(|world| fail(world, &self.name, name, failure));
                        continue;
                    }
                    Some(Fault::ChildDies) => {
                        self.machine(|machine| {
                            if let Some(unit) = machine.units.get_mut(name) {
                                unit.ops.clear();
                                unit.failure = Some(Failure::Killed);
                            }
                        })?;
                        continue;
                    }
                    Some(Fault::AgentDies | Fault::PowerFails) => std::future::pending().await,
                }
            }
            self.world(|world| {
                if let Some(unit) =
                    world.machine_mut(&self.name).and_then(|machine| machine.units.get_mut(name))
                {
                    unit.ops.pop_front();
                }
                op.apply(world, &self.name, name);
            });
            if self.machine(|machine| machine.agent_is_dead)? {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A child ends badly; kubeadm moves back what it moved.
fn fail(world: &mut World, node: &str, name: &str, failure: String) {
    let Some(machine) = world.machine_mut(node) else {
        return;
    };
    let Some(unit) = machine.units.get_mut(name) else {
        return;
    };
    unit.failure = Some(Failure::Said(failure));
    unit.ops.clear();
    for (from, to) in std::mem::take(&mut unit.moved).iter().rev() {
        // Of a pair of moves only the old manifest's is reversed: it replaces the new one.
        if to.starts_with(MANIFESTS) {
            machine.disk.rename(from, to);
        }
    }
    world.look_at_manifests(node);
}

/// Lets every child of a node go on to its end while no agent looks.
pub(super) fn finish(world: &mut World, node: &str) {
    let names: Vec<String> =
        world.machine(node).into_iter().flat_map(|machine| machine.units.keys().cloned()).collect();
    for name in names {
        loop {
            let next = world
                .machine(node)
                .and_then(|machine| machine.units.get(&name))
                .and_then(|unit| unit.ops.front().cloned());
            let Some(op) = next else { break };
            let deadline = world.now() + STATIC_POD_LIMIT;
            world.wake_at(deadline);
            while op.waits_for(world, node) && world.now() < deadline && world.advance() {}
            if op.waits_for(world, node) {
                fail(world, node, &name, "static Pod hash did not change after 5m0s".to_owned());
                break;
            }
            if let Some(unit) = world.machine_mut(node).and_then(|machine| machine.units.get_mut(&name)) {
                unit.ops.pop_front();
            }
            op.apply(world, node, &name);
        }
    }
}

/// What a command does.
fn script(world: &mut World, node: &str, argv: &Argv) -> Result<VecDeque<Op>, String> {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    match argv.as_slice() {
        ["kubeadm", arguments @ ..] => kubeadm::script(world, node, arguments),
        ["systemctl", "daemon-reload"] => Ok([Op::DaemonReload].into()),
        ["systemctl", "restart", "kubelet.service"] => Ok([Op::RestartKubelet].into()),
        ["systemctl", "stop", "kubelet.service"] => Ok([Op::StopKubelet].into()),
        ["ctr", "--namespace", "k8s.io", "images", "import", archive] => {
            let named = archive.rsplit_once("images-").and_then(|(_, name)| name.strip_suffix(".tar"));
            let version = named.and_then(|version| version.parse().ok());
            version
                .map(|version| [Op::ImportImages(version)].into())
                .ok_or_else(|| format!("open {archive}: no such file"))
        }
        ["/usr/bin/env", "-i", words @ ..] => hooks::script(words),
        [redeploy::COMMAND] => Ok(redeploy::script(world.replacing)),
        other => Err(format!("no such command: {other:?}")),
    }
}

#[async_trait]
impl Commands for NodeTwin {
    async fn read(&self, argv: &Argv, _: Duration) -> HostResult<String> {
        // Nobody edits manifests here.
        if argv.iter().map(String::as_str).take(3).eq(["kubeadm", "upgrade", "diff"]) {
            return Ok(String::new());
        }
        Err(HostError::Command {
            argv: argv.clone(),
            status: "was not started".to_owned(),
            output: "the twin has no such program".to_owned(),
        })
    }

    async fn run(
        &self,
        _: &Permit,
        unit: &str,
        argv: &Argv,
        bounds: &Bounds,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        let silence = bounds.limits.silence;
        self.child(unit, argv, |world, node| script(world, node, argv), silence, lines).await
    }

    async fn run_undisturbing(
        &self,
        unit: &str,
        argv: &Argv,
        limits: Limits,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        self.child(unit, argv, |world, node| script(world, node, argv), limits.silence, lines).await
    }

    async fn upload_certificates(&self, _: &Idle, _: KubernetesVersion) -> HostResult<SecretString> {
        Ok(join::CERTIFICATE_KEY.into())
    }

    async fn unit_state(&self, unit: &str) -> HostResult<UnitState> {
        let inactive = || UnitState { active: "inactive".to_owned(), main_pid: 0, started_monotonic_us: 0 };
        self.machine(|machine| match unit.strip_suffix(".service").unwrap_or(unit) {
            "kubelet" => machine.kubelet.map_or_else(inactive, |kubelet| UnitState {
                active: "active".to_owned(),
                main_pid: kubelet.pid,
                started_monotonic_us: u64::try_from(kubelet.started.as_micros()).unwrap_or(u64::MAX),
            }),
            name => match machine.units.get(name) {
                None => inactive(),
                Some(Unit { failure: Some(_), .. }) => {
                    UnitState { active: "failed".to_owned(), main_pid: 0, started_monotonic_us: 1 }
                }
                Some(Unit { ops, .. }) => UnitState {
                    active: "active".to_owned(),
                    main_pid: u32::from(!ops.is_empty()),
                    started_monotonic_us: 1,
                },
            },
        })
    }
}

/// For paths in messages.
pub(super) fn file_error(doing: &'static str, path: &Utf8Path, kind: std::io::ErrorKind) -> HostError {
    HostError::File { doing, path: path.to_owned(), source: kind.into() }
}
