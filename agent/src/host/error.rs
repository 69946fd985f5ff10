//! What can go wrong on the machine: what happened, to what, why, and what to do.

use std::time::Duration;

use camino::Utf8PathBuf;
use liftlock_proto::argv::Argv;
use rustix::io::Errno;

use crate::engine::lease::LeaseLost;

/// Something on the machine, or an API that it talks to, said no.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The lease ended before the effect; nothing was done.
    #[error(transparent)]
    LeaseLost(#[from] LeaseLost),
    /// A file or a folder.
    #[error("{doing} {path}: {source}")]
    File {
        /// `cannot write`
        doing: &'static str,
        /// Which.
        path: Utf8PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A command ended badly.
    #[error("`{}` ended with {status}; its last output: {output}", argv.join(" "))]
    Command {
        /// The command.
        argv: Argv,
        /// `exit status 1`, `was not started: …`
        status: String,
        /// Its last lines.
        output: String,
    },
    /// A signal ended a command: somebody killed it, or the kernel did for want of memory.
    #[error("`{}` was ended by {signal}; its last output: {output}", argv.join(" "))]
    CommandKilled {
        /// The command.
        argv: Argv,
        /// `signal 9 (SIGKILL)`
        signal: String,
        /// Its last lines.
        output: String,
    },
    /// A command ran for too long and was ended.
    #[error("`{}` was ended after {limit:?}: it {what}; its last output: {output}", argv.join(" "))]
    CommandLimit {
        /// The command.
        argv: Argv,
        /// `ran longer than its limit`, `said nothing for that long`
        what: &'static str,
        /// Which limit.
        limit: Duration,
        /// Its last lines.
        output: String,
    },
    /// An API did not answer, or not with what it should.
    #[error("{what} at {endpoint}: {why}")]
    Api {
        /// `cannot read the Node`
        what: String,
        /// The address, or the kubeconfig that names it.
        endpoint: String,
        /// Why.
        why: String,
        /// False where asking again cannot help (403, 404, 422).
        transient: bool,
    },
    /// A wait ended before its condition came true.
    #[error("waited {limit:?} for {what}; last seen: {seen}")]
    Timeout {
        /// For what.
        what: String,
        /// How long.
        limit: Duration,
        /// What was seen last.
        seen: String,
    },
    /// Something has a form that nobody expects.
    #[error("{what}: {why}")]
    Malformed {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

impl HostError {
    /// Whether it tells of a command that ran to an end, and a bad one.
    pub fn ended_badly(&self) -> bool {
        matches!(self, Self::Command { .. } | Self::CommandKilled { .. } | Self::CommandLimit { .. })
    }

    /// Whether it tells that what was to be put back is not what was kept (`EBADMSG`).
    pub fn is_damage(&self) -> bool {
        let damage = Errno::BADMSG.raw_os_error();
        matches!(self, Self::File { source, .. } if source.raw_os_error() == Some(damage))
    }
}
