//! A host that its own command replaces as a whole.

use std::collections::VecDeque;
use std::time::Duration;

use camino::Utf8PathBuf;

use super::children::Op;
use super::machine::Package;
use super::world::World;
use crate::host::Limits;
use crate::redeploy::replacement::Replacement;

/// The command that replaces a host.
pub const COMMAND: &str = "/usr/local/sbin/replace-system";

/// What outlives it.
pub const PERSISTENT: &str = "/mnt/persistent";

/// How the command ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Replacing {
    /// With another system.
    #[default]
    Works,
    /// With exit status 1, before anything has changed.
    Fails,
    /// Well, and the system is the one that it was.
    DoesNothing,
}

/// A configuration whose store outlives the system by its word.
pub fn replacement() -> Replacement {
    let time = Duration::from_hours(1);
    Replacement {
        command: vec![COMMAND.to_owned()],
        store: Utf8PathBuf::from(PERSISTENT).join("liftlock"),
        keeps: vec![PERSISTENT.into()],
        limits: Limits { time, silence: time },
    }
}

pub(super) fn script(replacing: Replacing) -> VecDeque<Op> {
    let begin = [Op::Say("pulling the new system".to_owned()), Op::Elapse(Duration::from_secs(30))];
    let end = match replacing {
        Replacing::Works => Some(Op::ReplaceSystem),
        Replacing::Fails => Some(Op::GiveUp("no such image".to_owned())),
        Replacing::DoesNothing => None,
    };
    begin.into_iter().chain(end).collect()
}

/// Lays the new system: nothing of the old one is there but what outlives it.
pub(super) fn replace(world: &mut World, node: &str) {
    let version = world.offered.last().copied();
    let Some(machine) = world.machine_mut(node) else {
        return;
    };
    machine.disk.keep_only(PERSISTENT.into());
    machine.boot();
    for folder in ["/etc", "/var/lib", "/var/cache/apt/archives", "/usr/bin", "/usr/local/sbin"] {
        machine.disk.make_folder(folder.into(), 0o755);
    }
    machine.disk.put(COMMAND, "#!", 0o755);
    machine.disk.put("/etc/os-release", "the new system", 0o644);
    for (name, package) in &mut machine.packages {
        if let Some(version) = version {
            let version = format!("{}-1.1", version.bare());
            *package = Package { version, configured: true, held: true };
        } else {
            tracing::error!(name, "nothing is offered");
        }
    }
    machine.unsynced.clear();
    world.strike(node, super::Fault::PowerFails);
}
