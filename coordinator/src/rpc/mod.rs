//! The services that agents and operators call, over mutual TLS.

use std::sync::Arc;

use tonic::{Code, Status};

use crate::identity::authority::IdentityError;
use crate::keeper::{Keeper, KeeperError};

pub mod access;
pub mod agents;
pub mod conduct;
pub mod convert;
pub mod operators;

/// Runs something of the keeper's that waits for the disk, to its end even if the caller goes away meanwhile.
async fn with_keeper<T: Send + 'static>(
    keeper: &Arc<Keeper>,
    call: impl FnOnce(&Keeper) -> Result<T, KeeperError> + Send + 'static,
) -> Result<T, Status> {
    let keeper = Arc::clone(keeper);
    let done = tokio::task::spawn_blocking(move || call(&keeper)).await;
    done.map_err(|error| Status::internal(format!("the coordinator failed inside: {error}")))?
        .map_err(|error| status(&error))
}

/// The gRPC code of an error; its message says what to do.
fn status(error: &KeeperError) -> Status {
    let code = match error {
        KeeperError::NotFound(_) => Code::NotFound,
        KeeperError::NotNow(_) | KeeperError::Transition(_) => Code::FailedPrecondition,
        KeeperError::Denied(_) => Code::PermissionDenied,
        KeeperError::Token(_) => Code::Unauthenticated,
        KeeperError::Invalid(_) | KeeperError::Identity(IdentityError::Request(_)) => Code::InvalidArgument,
        KeeperError::Agent(_) => Code::Unknown,
        KeeperError::Unanswered(_) => Code::DeadlineExceeded,
        KeeperError::Identity(_) | KeeperError::Store(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}
