//! A stand-in systemd: transient units whose processes outlive whoever started them, and the kubelet's service.
//!
//! It is a task of the process that holds the cluster, asked over a Unix socket by the stand-in `systemctl` and
//! `systemd-run`. Its children are this process's own, so nothing is left behind when it is dropped.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use crate::standin::node::NodeTree;
use crate::standin::serve::Running;

/// The kubelet's unit.
pub const KUBELET: &str = "kubelet.service";

/// Set for the processes of units: they die with the process that holds the cluster.
pub const UNIT_VARIABLE: &str = "LIFTLOCK_STANDIN_UNIT";

/// What systemd is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// `systemd-run`
    Run(Transient),
    /// `systemctl show`
    Show(String),
    /// `systemctl stop`
    Stop(String),
    /// `systemctl reset-failed`
    ResetFailed(String),
    /// `systemctl restart`, `start`
    Restart(String),
    /// `systemctl daemon-reload`
    Reload,
    /// `systemctl reboot` into a system whose kubelet has no configuration yet: nothing runs.
    Reboot,
}

/// A transient unit to be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Transient {
    /// With `.service`.
    pub unit: String,
    /// For people.
    pub description: String,
    /// `RemainAfterExit=yes` and so on.
    pub properties: Vec<(String, String)>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// An absolute path and its arguments.
    pub argv: Vec<String>,
}

/// What systemd says of a unit, as `systemctl show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// `loaded` or `not-found`
    pub load: String,
    /// `active`, `inactive`, `failed`
    pub active: String,
    /// `running`, `exited`, `dead`, `failed`
    pub sub: String,
    /// `success`, `exit-code`, `signal`
    pub result: String,
    /// 0 where none runs.
    pub main_pid: u32,
    /// The process that ran last; 0 where none did.
    pub exec_main_pid: u32,
    /// 1 where it exited, 2 where a signal ended it, 0 while it runs.
    pub code: i32,
    /// Exit status or signal.
    pub status: i32,
    /// Microseconds since boot; 0 where it never started.
    pub started_us: u64,
    /// For people.
    pub description: String,
}

impl UnitState {
    fn not_found(unit: &str) -> Self {
        Self {
            load: "not-found".to_owned(),
            active: "inactive".to_owned(),
            sub: "dead".to_owned(),
            result: "success".to_owned(),
            main_pid: 0,
            exec_main_pid: 0,
            code: 0,
            status: 0,
            started_us: 0,
            description: unit.to_owned(),
        }
    }
}

/// The answer.
pub type Told = Result<Option<UnitState>, String>;

/// A node's systemd. A cheap handle; the units end with the last of them.
#[derive(Debug, Clone)]
pub struct Systemd {
    units: Arc<Mutex<Units>>,
}

#[derive(Debug, Default)]
struct Units {
    transient: BTreeMap<String, Unit>,
    kubelet: KubeletService,
    started: Vec<Started>,
}

/// That a transient unit was started: systemd's journal, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// With `.service`.
    pub unit: String,
}

#[derive(Debug)]
struct Unit {
    child: Child,
    ended: Option<ExitStatus>,
    remains: bool,
    description: String,
    started_us: u64,
}

/// The kubelet's service: no process of its own, but everything that systemd says of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeletService {
    /// The package version of the binary that runs; `None` while it does not.
    pub running: Option<String>,
    /// How often it was started.
    pub starts: u32,
    started_us: u64,
}

impl Units {
    fn kill(unit: &mut Unit) {
        if unit.ended.is_none()
            && let Ok(pid) = i32::try_from(unit.child.id())
        {
            _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            unit.ended = unit.child.wait().ok();
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for unit in self.transient.values_mut() {
            Self::kill(unit);
        }
    }
}

impl Systemd {
    /// Starts the systemd of a node, and its kubelet.
    pub fn start(node: &NodeTree) -> Result<(Self, Running)> {
        let systemd = Self { units: Arc::default() };
        systemd.restart_kubelet(node)?;
        let path = node.systemd_socket();
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {path}"))?;
        let (handle, node) = (systemd.clone(), node.clone());
        let task = Running::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handle, node) = (handle.clone(), node.clone());
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.into_split();
                    let mut line = String::new();
                    if tokio::io::BufReader::new(reader).read_line(&mut line).await.is_ok()
                        && let Ok(ask) = serde_json::from_str::<Ask>(&line)
                    {
                        let told: Told = handle.answer(&node, ask).map_err(|error| error.to_string());
                        if let Ok(answer) = serde_json::to_vec(&told) {
                            _ = writer.write_all(&answer).await;
                        }
                    }
                });
            }
        });
        Ok((systemd, task))
    }

    fn lock(&self) -> MutexGuard<'_, Units> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kubelet's service.
    pub fn kubelet(&self) -> KubeletService {
        self.lock().kubelet.clone()
    }

    /// Ends the kubelet, as a crash does that systemd does not mend.
    pub fn stop_kubelet(&self) {
        self.lock().kubelet.running = None;
    }

    /// SIGKILL to the kubelet, which systemd starts anew by itself (`Restart=always` in kubeadm's unit): another process
    /// of the binary that is installed.
    pub fn kill_kubelet(&self, node: &NodeTree) -> Result<()> {
        self.stop_kubelet();
        self.restart_kubelet(node)
    }

    /// Starts the kubelet anew, with the binary that is installed.
    pub fn restart_kubelet(&self, node: &NodeTree) -> Result<()> {
        let version = std::fs::read_to_string(node.at("/usr/lib/standin/kubelet"))?;
        let mut units = self.lock();
        units.kubelet.running = Some(version.trim().to_owned());
        units.kubelet.starts += 1;
        units.kubelet.started_us = uptime_us();
        Ok(())
    }

    /// The process of a running transient unit.
    pub fn main_pid(&self, unit: &str) -> Option<u32> {
        let state = self.show(unit);
        (state.main_pid != 0).then_some(state.main_pid)
    }

    /// The transient units whose processes run.
    pub fn running_units(&self) -> Vec<String> {
        let names: Vec<String> = self.lock().transient.keys().cloned().collect();
        names.into_iter().filter(|name| self.show(name).sub == "running").collect()
    }

    /// The transient units that are loaded, also those that have ended.
    pub fn loaded_units(&self) -> Vec<String> {
        self.lock().transient.keys().cloned().collect()
    }

    /// Every transient unit that was ever started, in order.
    pub fn started_units(&self) -> Vec<Started> {
        self.lock().started.clone()
    }

    /// What a power cut leaves: no process and no transient unit.
    pub fn cut_power(&self) {
        let mut units = self.lock();
        for unit in units.transient.values_mut() {
            Units::kill(unit);
        }
        units.transient.clear();
        units.kubelet.running = None;
    }

    fn answer(&self, node: &NodeTree, ask: Ask) -> Result<Option<UnitState>> {
        match ask {
            Ask::Run(transient) => self.run(transient)?,
            Ask::Show(unit) => return Ok(Some(self.show(&unit))),
            Ask::Stop(unit) if unit == KUBELET => self.stop_kubelet(),
            Ask::Stop(unit) => match self.lock().transient.remove(&unit) {
                Some(mut stopped) => Units::kill(&mut stopped),
                None => bail!("Failed to stop {unit}: Unit {unit} not loaded."),
            },
            Ask::ResetFailed(unit) => {
                if self.show(&unit).load == "not-found" {
                    bail!("Failed to reset failed state of unit {unit}: Unit {unit} not loaded.");
                }
                if self.show(&unit).active == "failed" {
                    self.lock().transient.remove(&unit);
                }
            }
            Ask::Restart(unit) if unit == KUBELET => self.restart_kubelet(node)?,
            Ask::Restart(unit) => bail!("Failed to restart {unit}: Unit {unit} not found."),
            Ask::Reload => {}
            Ask::Reboot => self.cut_power(),
        }
        Ok(None)
    }

    fn run(&self, transient: Transient) -> Result<()> {
        let Transient { unit, description, properties, environment, argv } = transient;
        let property = |name: &str| {
            properties.iter().find(|(property, _)| property == name).map(|(_, value)| value.as_str())
        };
        let output = |name: &str| -> Result<Stdio> {
            let Some((mode, path)) = property(name).and_then(|value| value.split_once(':')) else {
                return Ok(Stdio::null());
            };
            let mut options = OpenOptions::new();
            options.create(true).mode(0o644);
            match mode {
                "append" => options.append(true),
                _ => options.write(true).truncate(mode == "truncate"),
            };
            Ok(options.open(path).with_context(|| format!("cannot open {path}"))?.into())
        };
        if self.show(&unit).load == "loaded" {
            bail!(
                "Failed to start transient service unit: Unit {unit} was already loaded or has a fragment file."
            );
        }
        let (program, arguments) = argv.split_first().context("no command")?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .env(UNIT_VARIABLE, &unit)
            .stdin(Stdio::null())
            .stdout(output("StandardOutput")?)
            .stderr(output("StandardError")?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("Failed to find executable {program}"))?;
        let remains = property("RemainAfterExit") == Some("yes");
        let unit_state = Unit { child, ended: None, remains, description, started_us: uptime_us() };
        let mut units = self.lock();
        units.started.push(Started { at_ms: unix_ms(), unit: unit.clone() });
        units.transient.insert(unit, unit_state);
        Ok(())
    }

    fn show(&self, name: &str) -> UnitState {
        let mut units = self.lock();
        if name == KUBELET {
            return kubelet_state(&units.kubelet);
        }
        let Some(unit) = units.transient.get_mut(name) else {
            return UnitState::not_found(name);
        };
        if unit.ended.is_none() {
            unit.ended = unit.child.try_wait().ok().flatten();
        }
        let pid = unit.child.id();
        let state = |active: &str, sub: &str, result: &str, main_pid, code, status| UnitState {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            sub: sub.to_owned(),
            result: result.to_owned(),
            main_pid,
            exec_main_pid: pid,
            code,
            status,
            started_us: unit.started_us,
            description: unit.description.clone(),
        };
        match unit.ended {
            None => state("active", "running", "success", pid, 0, 0),
            Some(status) => match (status.code(), status.signal()) {
                (Some(0), _) if unit.remains => state("active", "exited", "success", 0, 1, 0),
                (Some(0), _) => {
                    units.transient.remove(name);
                    UnitState::not_found(name)
                }
                (Some(code), _) => state("failed", "failed", "exit-code", 0, 1, code),
                (None, signal) => state("failed", "failed", "signal", 0, 2, signal.unwrap_or_default()),
            },
        }
    }
}

fn kubelet_state(kubelet: &KubeletService) -> UnitState {
    let running = kubelet.running.is_some();
    // Any number above those of real processes will do; nobody signals it.
    let pid = if running { 0x4000_0000 + kubelet.starts } else { 0 };
    UnitState {
        load: "loaded".to_owned(),
        active: if running { "active" } else { "inactive" }.to_owned(),
        sub: if running { "running" } else { "dead" }.to_owned(),
        main_pid: pid,
        exec_main_pid: pid,
        started_us: kubelet.started_us,
        ..UnitState::not_found("kubelet: The Kubernetes Node Agent")
    }
}

fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

fn uptime_us() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let digits = uptime.split_whitespace().next().unwrap_or_default().replace('.', "");
    digits.parse::<u64>().unwrap_or_default() * 10_000
}

/// Asks a node's systemd; what its `systemctl` and `systemd-run` do.
pub fn ask(node: &Utf8Path, ask: &Ask) -> Result<Option<UnitState>> {
    let socket = NodeTree::of_root(node)?.systemd_socket();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket)
        .context("System has not been booted with systemd as init system (PID 1). Can't operate.")?;
    stream.write_all(&serde_json::to_vec(ask)?)?;
    stream.write_all(b"\n")?;
    let mut told = String::new();
    BufReader::new(stream).read_line(&mut told)?;
    serde_json::from_str::<Told>(&told)?.map_err(anyhow::Error::msg)
}
