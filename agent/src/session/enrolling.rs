//! Enrols, and waits for a coordinator that is not there yet: a node may boot before it.

use camino::Utf8Path;
use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::enrollment::EnrollmentError;
use liftlock_proto::name::NodeName;

use crate::host::Clock;
use crate::session::backoff::Backoff;
use crate::session::identity::{Enrolled, IdentityError, IdentityStore};

/// Trades the token in a file for an identity. Tries again as long as the coordinator cannot be reached or cannot
/// answer; what it refuses is final.
pub async fn enroll(
    store: &IdentityStore,
    coordinator: &CoordinatorUrl,
    node: &NodeName,
    token_file: &Utf8Path,
    clock: &dyn Clock,
) -> Result<Enrolled, IdentityError> {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        let error = match store.enroll(coordinator, node, token_file).await {
            Err(
                error @ IdentityError::Enrollment(
                    EnrollmentError::Connect { .. } | EnrollmentError::NotNow { .. },
                ),
            ) => error.to_string(),
            result => return result,
        };
        if error != said {
            tracing::warn!(%error, "not enrolled yet; trying on");
            said = error;
        }
        clock.sleep(backoff.next_random()).await;
    }
}
