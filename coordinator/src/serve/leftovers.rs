//! Commands of hooks that outlived the coordinator that called them. Its unit ends them with it; one that is killed outside of
//! a unit leaves them running. They are known by the call that they were started for, which stands in their environment and in
//! that of their children: so nothing is recorded, and no end comes between a command's start and a record of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::identity::files::{self, FileError};

/// In which variable a command has its call.
pub(super) const CALL: &str = "LIFTLOCK_CALL";

/// More bytes of an environment than any process may be started with.
const MAX_ENVIRONMENT: u64 = 8 * 1024 * 1024;

/// How long a process that was killed may take to end.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// How often it is looked for those that were begun meanwhile.
const ROUNDS: usize = 10;

/// Why something of an earlier call may go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeftoverError {
    #[error("it cannot be seen whether an earlier call still runs: {0}")]
    Unseen(#[from] FileError),
    #[error(
        "process {pid} of an earlier call still runs though it was killed ({why}): end it, nothing is called beside it"
    )]
    Runs { pid: i32, why: io::Error },
    #[error(
        "an earlier call goes on starting processes though they are killed: end it, nothing is called beside it"
    )]
    Multiplies,
}

/// Kills whatever was started for this call and still runs, and waits for its end.
pub(super) fn end(call: &str) -> Result<(), LeftoverError> {
    for _ in 0..ROUNDS {
        let left = started_for(call)?;
        if left.is_empty() {
            return Ok(());
        }
        for (pid, process) in left {
            tracing::warn!(pid, call, "a process of an earlier call still runs: it is killed");
            kill(&process).map_err(|why| LeftoverError::Runs { pid, why })?;
        }
    }
    Err(LeftoverError::Multiplies)
}

/// Each process with this call in its environment. What ended meanwhile, or belongs to somebody else, has none to be read.
fn started_for(call: &str) -> Result<Vec<(i32, OwnedFd)>, FileError> {
    let wanted = format!("{CALL}={call}");
    let mut found = Vec::new();
    for folder in files::entries(Path::new("/proc"))? {
        let name = folder.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(|name| name.parse().ok()) else { continue };
        // Held before its environment is read, so that no other process of that number is killed.
        let Some(Ok(process)) = Pid::from_raw(id).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            continue;
        };
        let environment = files::first_bytes(&folder.join("environ"), MAX_ENVIRONMENT).ok().flatten();
        let mut variables = environment.as_deref().unwrap_or_default().split(|byte| *byte == 0);
        if variables.any(|variable| variable == wanted.as_bytes()) {
            found.push((id, process));
        }
    }
    Ok(found)
}

fn kill(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&PATIENCE))?;
    if ended == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}
