//! What can go wrong for an operator: what happened, why, and what to do.

use std::error::Error as _;
use std::path::PathBuf;

use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::causes::causes;
use liftlock_proto::enrollment::EnrollmentError;
use liftlock_proto::join_token::JoinTokenError;
use liftlock_proto::plan::PlanError;
use tonic::{Code, Status};

use crate::cli::exit::Exit;
use crate::cli::view::upgrade_plan::UnreadRollout;
use crate::document::DocumentError;
use crate::identity::files::FileError;

/// Why a verb did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The words of the command line fit, and yet it makes no sense.
    #[error("{0}")]
    Usage(String),
    /// No folder holds an identity.
    #[error(
        "no identity to speak with: looked in {}. On the coordinator's own machine run this as root; anywhere else get a \
         token from an operator (`liftlock token create --operator NAME`) and run `liftlock login --token-file FILE \
         --coordinator URL`",
        looked.join(", ")
    )]
    NoIdentity {
        /// The folders, each with what was found there.
        looked: Vec<String>,
    },
    /// A folder holds a part of an identity.
    #[error("the identity in {} is not whole, {missing} is missing: run `liftlock login` again", folder.display())]
    BrokenIdentity {
        /// Where it lies.
        folder: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// The key, the certificate or the CA does not read.
    #[error("the identity in {} cannot be used ({why}): run `liftlock login` again", folder.display())]
    UnusableIdentity {
        /// Where it lies.
        folder: PathBuf,
        /// What TLS says of it.
        why: String,
    },
    /// Nobody said where the coordinator is.
    #[error("no coordinator is named: give --coordinator URL, such as https://10.0.0.5:7443")]
    NoCoordinator,
    /// A file that an operator named or an identity needs.
    #[error("{} cannot be {}: {}", .0.path.display(), .0.what, .0.source)]
    File(#[from] FileError),
    /// A file that an operator named is not there.
    #[error("there is no file {}", path.display())]
    NoFile {
        /// The name that was given.
        path: PathBuf,
    },
    /// A document that does not read.
    #[error("{name} is not an upgrade plan: {error}; `liftlock schema` prints what one may hold")]
    Document {
        /// The file that was named, or that it was standard input.
        name: String,
        /// What is wrong, with line and column.
        error: DocumentError,
    },
    /// A document that should come through standard input.
    #[error("standard input cannot be read: {0}")]
    Stdin(std::io::Error),
    /// `diff` could not compare.
    #[error(transparent)]
    NotCompared(Box<CliError>),
    /// Nobody answers at the address.
    #[error(
        "cannot reach the coordinator at {coordinator} ({why}): is `liftlock serve` running there? Another address goes \
         with --coordinator URL"
    )]
    Unreachable {
        /// Who was dialled.
        coordinator: CoordinatorUrl,
        /// What the network says.
        why: String,
    },
    /// It answered before, and then no more.
    #[error(
        "the connection to the coordinator was cut ({why}): either `liftlock serve` stopped, which undoes nothing, or it \
         does not accept this identity's certificate; then run `liftlock login` with a new token"
    )]
    Lost {
        /// What the network says.
        why: String,
    },
    /// The coordinator's certificate does not satisfy this identity.
    #[error(
        "the coordinator at {coordinator} shows a certificate that this identity does not trust ({why}): dial it by a name \
         that `liftlock serve --name` lists; if its CA was made anew, run `liftlock login` again"
    )]
    CoordinatorNotTrusted {
        /// Who was dialled.
        coordinator: CoordinatorUrl,
        /// What TLS says.
        why: String,
    },
    /// The identity was made too long ago.
    #[error(
        "the certificate in {} ended at {ended}: get a new token from an operator and run `liftlock login` again", folder.display()
    )]
    CertificateEnded {
        /// Where it lies.
        folder: PathBuf,
        /// When, RFC 3339.
        ended: String,
    },
    /// The role does not reach so far.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// A rule of the coordinator says no.
    #[error("refused: {0}")]
    Refused(String),
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// A node's agent could not do it, or did not answer.
    #[error("{0}")]
    Agent(String),
    /// The coordinator could not do it.
    #[error("the coordinator could not do it: {message} ({code:?}); its log says more")]
    Coordinator {
        /// Its code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// The coordinator is of another version.
    #[error("the coordinator does not know this call: bring it and this command to one version of Liftlock")]
    OtherVersion,
    /// A message that does not read.
    #[error("the coordinator's answer does not read: {0}")]
    Answer(#[from] PlanError),
    /// A roll-out that does not read.
    #[error("the coordinator's answer does not read: {0}")]
    Rollout(#[from] UnreadRollout),
    /// The token does not read.
    #[error(transparent)]
    Token(#[from] JoinTokenError),
    /// The token could not be traded.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// The operator said no.
    #[error("not confirmed: nothing was changed")]
    NotConfirmed,
    /// Standard output does not take it, or a value has no textual form.
    #[error("the answer could not be written: {why}")]
    Unwritable {
        /// The cause.
        why: String,
    },
    /// Whoever read standard output (`| head`) has had enough. Said to nobody.
    #[error("nobody reads the answer any more")]
    ReaderGone,
    /// The terminal or a signal handler failed.
    #[error("the terminal could not be used: {0}")]
    Terminal(#[from] std::io::Error),
}

impl CliError {
    /// What the process returns.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::NoCoordinator | Self::Document { .. } => Exit::Usage,
            Self::NotCompared(_) => Exit::NotCompared,
            Self::Refused(_) => Exit::Refused,
            Self::ReaderGone => Exit::Done,
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Enrollment(EnrollmentError::Connect { .. } | EnrollmentError::NotNow { .. }) => {
                Exit::Unreachable
            }
            Self::NotPermitted(_)
            | Self::CertificateEnded { .. }
            | Self::Enrollment(EnrollmentError::Refused { .. }) => Exit::NotPermitted,
            _ => Exit::Error,
        }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::NotPermitted(message),
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Self::Refused(message),
            Code::NotFound => Self::NotFound(message),
            Code::InvalidArgument => Self::Usage(message),
            Code::Unimplemented => Self::OtherVersion,
            _ if is_cut(&status) => Self::Lost { why: status.source().map_or(message, causes) },
            Code::Unknown | Code::DeadlineExceeded => Self::Agent(message),
            code => Self::Coordinator { code, message },
        }
    }
}

/// Whether the call broke off instead of being answered: what a coordinator says has no cause on this side. (In TLS 1.3 a
/// server that refuses a client's certificate cuts a connection that the client takes for established.)
pub(crate) fn is_cut(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_the_exit_code_that_the_manual_promises() {
        let exit = |code| CliError::from(Status::new(code, "why")).exit();
        assert_eq!(exit(Code::PermissionDenied), Exit::NotPermitted);
        assert_eq!(exit(Code::Unauthenticated), Exit::NotPermitted);
        assert_eq!(exit(Code::FailedPrecondition), Exit::Refused);
        assert_eq!(exit(Code::Unavailable), Exit::Unreachable);
        assert_eq!(exit(Code::InvalidArgument), Exit::Usage);
        assert_eq!(exit(Code::NotFound), Exit::Error);
        assert_eq!(exit(Code::Internal), Exit::Error);
    }

    #[test]
    fn a_call_that_breaks_off_is_told_from_one_that_the_coordinator_answers() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!(CliError::from(broken).exit(), Exit::Unreachable);
        assert_eq!(CliError::from(Status::unknown("why")).exit(), Exit::Error);
    }
}
