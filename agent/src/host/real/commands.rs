//! Commands: short ones as children of the agent, those that change the node as transient units.

use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use liftlock_proto::argv::{self, Argv};
use liftlock_proto::version::KubernetesVersion;
use secrecy::SecretString;

use super::programs::Programs;
use super::units::Units;
use crate::engine::idle::Idle;
use crate::engine::lease::Permit;
use crate::host::{Bounds, Commands, HostError, HostResult, Layout, Limits, Lines, UnitState};
use crate::invitation::api_version;
use crate::packages::scratch::Scratch;

/// How long systemd may take for its own journal.
const JOURNAL: Duration = Duration::from_secs(30);

/// How long kubeadm may take for a few objects of the API.
const UPLOAD: Duration = Duration::from_mins(2);

/// Runs what the steps ask for.
#[derive(Debug, Clone)]
pub struct RealCommands {
    programs: Programs,
    units: Units,
    state_dir: Utf8PathBuf,
}

impl RealCommands {
    /// Programs are looked up in the folders of `path`, in their order.
    pub fn new(layout: &Layout, path: Vec<Utf8PathBuf>) -> Self {
        let programs = Programs::new(layout, path);
        let units = Units::new(programs.clone(), layout.state_dir.join("run"));
        Self { programs, units, state_dir: layout.state_dir.clone() }
    }

    /// Removes what is left of transient units that are gone. Only before anything is run here.
    pub async fn forget_lost_units(&self) -> HostResult<()> {
        self.units.forget_lost().await
    }

    /// Has the system's journal go on under the machine's id as it is now: journald knows the one that it was started with,
    /// and journalctl shows nobody that one's files.
    pub async fn restart_journal(&self) -> HostResult<()> {
        self.programs.output(&argv::systemctl_restart_journal(), JOURNAL).await.map(drop)
    }
}

#[async_trait]
impl Commands for RealCommands {
    async fn read(&self, argv: &Argv, limit: Duration) -> HostResult<String> {
        self.programs.output(argv, limit).await
    }

    async fn run(
        &self,
        permit: &Permit,
        unit: &str,
        argv: &Argv,
        bounds: &Bounds,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        self.units.run(Some(permit), unit, argv, bounds, lines).await
    }

    async fn run_undisturbing(
        &self,
        unit: &str,
        argv: &Argv,
        limits: Limits,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        self.units.run(None, unit, argv, &limits.into(), lines).await
    }

    async fn upload_certificates(&self, _: &Idle, version: KubernetesVersion) -> HostResult<SecretString> {
        // Without a version kubeadm asks the internet for the newest one.
        let api = api_version(version);
        let configuration = format!(
            "apiVersion: {api}\nkind: InitConfiguration\n---\napiVersion: {api}\nkind: ClusterConfiguration\n\
             kubernetesVersion: {version}\n"
        );
        let scratch = Scratch::new(self.state_dir.join("invite"))?;
        let argv = argv::kubeadm_upload_certs(scratch.write("kubeadm.yaml", &configuration)?.as_str());
        let said = self.programs.output(&argv, UPLOAD).await.map_err(without_keys)?;
        let key = said.lines().map(str::trim).find(|line| is_key(line));
        key.map(Into::into).ok_or_else(|| HostError::Malformed {
            what: format!("what `{}` printed", argv.join(" ")),
            why: "there is no certificate key in it".to_owned(),
        })
    }

    async fn unit_state(&self, unit: &str) -> HostResult<UnitState> {
        self.units.state(unit).await
    }
}

/// A certificate key: 32 bytes in hexadecimal.
fn is_key(line: &str) -> bool {
    line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a command said before it ended badly, without a key that may be among it.
fn without_keys(mut error: HostError) -> HostError {
    if let HostError::Command { output, .. }
    | HostError::CommandKilled { output, .. }
    | HostError::CommandLimit { output, .. } = &mut error
    {
        *output = output.lines().filter(|line| !is_key(line.trim())).collect::<Vec<_>>().join("\n");
    }
    error
}
