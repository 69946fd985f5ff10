//! Commands: short ones as children of the agent, those that change the node as transient units.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::argv::{self, Argv};

use super::programs::Programs;
use super::units::Units;
use crate::engine::lease::Permit;
use crate::host::{Bounds, Commands, HostResult, Layout, Limits, Lines, UnitState};

/// How long systemd may take for its own journal.
const JOURNAL: Duration = Duration::from_secs(30);

/// Runs what the steps ask for.
#[derive(Debug, Clone)]
pub struct RealCommands {
    programs: Programs,
    units: Units,
}

impl RealCommands {
    /// Programs are looked up in the folders of `path`, in their order.
    pub fn new(layout: &Layout, path: Vec<camino::Utf8PathBuf>) -> Self {
        let programs = Programs::new(layout, path);
        let units = Units::new(programs.clone(), layout.state_dir.join("run"));
        Self { programs, units }
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

    async fn unit_state(&self, unit: &str) -> HostResult<UnitState> {
        self.units.state(unit).await
    }
}
