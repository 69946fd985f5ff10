//! What a verb's exit code says.

use std::process::ExitCode;

/// How a verb ended. The numbers are stable; [`Exit::ALL`] documents them in `--help` and the manual pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for `apply`: every node runs the target.
    Done,
    /// An error that is none of the others.
    Error,
    /// `diff` found differences; like kubectl's, it shares its number with an error, which `diff` itself ends with
    /// [`Exit::NotCompared`].
    Different,
    /// The command line or the document does not make sense.
    Usage,
    /// A rule refuses the plan or the order.
    Refused,
    /// The roll-out halted at a failure or was aborted, or a backup is damaged.
    NotRaised,
    /// The coordinator does not answer.
    Unreachable,
    /// This identity may not do that.
    NotPermitted,
    /// `diff` ended at what is [`Exit::Error`] anywhere else.
    NotCompared,
    /// Ctrl-C ended the following; the roll-out goes on.
    StoppedFollowing,
}

impl Exit {
    /// Every code's way to end, in their order.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Error,
        Self::Usage,
        Self::Refused,
        Self::NotRaised,
        Self::Unreachable,
        Self::NotPermitted,
        Self::NotCompared,
        Self::StoppedFollowing,
    ];

    /// What the process returns.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error | Self::Different => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NotRaised => 4,
            Self::Unreachable => 5,
            Self::NotPermitted => 6,
            Self::NotCompared => 7,
            Self::StoppedFollowing => 130,
        }
    }

    /// What the code means, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done; after apply: every node runs the target",
            Self::Error | Self::Different => {
                "an error that is none of those below; after diff: the document and what runs differ"
            }
            Self::Usage => "the command line or the document does not make sense",
            Self::Refused => "a rule refuses it; nothing was changed",
            Self::NotRaised => {
                "the roll-out halted at a failure or was aborted; after backups verify: one is damaged"
            }
            Self::Unreachable => "the coordinator does not answer",
            Self::NotPermitted => "this identity may not do that",
            Self::NotCompared => "diff: an error that is none of those above",
            Self::StoppedFollowing => "Ctrl-C ended the following; the roll-out goes on",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
