//! Asking an API server that may be away for a moment.

use std::time::Duration;

use crate::engine::context::Context;
use crate::host::{HostError, HostResult};

/// There is no event that says that an API server is back.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);

/// Asks until there is an answer, or for as long as the configuration says and then fails with the last error. What
/// asking again cannot change fails at once.
pub(super) async fn patiently<T, A>(cx: &Context, mut ask: impl FnMut() -> A) -> HostResult<T>
where
    A: Future<Output = HostResult<T>>,
{
    let clock = &cx.host.clock;
    let deadline = clock.monotonic() + cx.host.api_timeout;
    let mut said = false;
    loop {
        match ask().await {
            Err(error @ HostError::Api { transient: true, .. }) if clock.monotonic() < deadline => {
                if !said {
                    cx.reporter.line(cx.step, &format!("{error}; asking again"));
                    said = true;
                }
                clock.sleep(ASK_EVERY).await;
            }
            answer => return answer,
        }
    }
}
