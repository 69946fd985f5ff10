//! Waiting for objects: a list, then what changes, then the list again whenever the watch ends.

use std::time::Duration;

use futures::StreamExt;
use http::Request;
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;

use super::access::{Access, REQUEST, Refusal};
use super::objects::List;
use crate::host::{HostError, HostResult};

/// How long a watch lasts before its objects are read anew: a peer that vanished says nothing.
const SECONDS: u64 = 30;
/// Before asking an API server again that did not answer: no event says that it is back.
const PAUSE: Duration = Duration::from_millis(250);

/// What a watch shows.
pub(super) enum Seen<T> {
    /// Every object that there is.
    All(Vec<T>),
    /// An object was made or changed.
    Is(T),
    /// An object is there no longer.
    Gone(T),
}

/// Why nothing came of a watch within its limit.
pub(super) enum Missed {
    /// What was waited for did not come.
    Limit,
    /// The API server could not be asked any more; its last error.
    Unasked(HostError),
}

/// Watches the objects of a list's path (which has a query already) until `decide` makes something of them. An
/// API server that goes away meanwhile, as one that is upgraded does, is asked again until the limit.
pub(super) async fn watch<T, R>(
    access: &Access,
    what: &str,
    path: &str,
    limit: Duration,
    mut decide: impl FnMut(Seen<T>) -> Option<R> + Send,
) -> HostResult<Result<R, Missed>>
where
    T: DeserializeOwned + Clone + Send,
    R: Send,
{
    let mut missed = Missed::Limit;
    let watching = async {
        loop {
            match once(access, what, path, &mut decide).await {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => missed = Missed::Limit,
                Err(error @ HostError::Api { transient: false, .. }) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "asking again in a moment");
                    missed = Missed::Unasked(error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    match tokio::time::timeout(limit, watching).await {
        Ok(result) => result.map(Ok),
        Err(_) => Ok(Err(missed)),
    }
}

/// One list and one watch from there; `None` where the watch ended and nothing was decided.
async fn once<T, R>(
    access: &Access,
    what: &str,
    path: &str,
    decide: &mut (impl FnMut(Seen<T>) -> Option<R> + Send),
) -> HostResult<Option<R>>
where
    T: DeserializeOwned + Clone + Send,
{
    let list: List<T> = access.json(what, &super::get(path)?).await?;
    if let Some(result) = decide(Seen::All(list.items)) {
        return Ok(Some(result));
    }
    let version = list.metadata.resource_version;
    let request: Request<Vec<u8>> =
        super::get(&format!("{path}&watch=true&resourceVersion={version}&timeoutSeconds={SECONDS}"))?;
    let failed = |refusal| access.error(what, &refusal);
    let events = access.events::<T>(request).await.map_err(failed)?;
    let reading = async {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let result = match event.map_err(Refusal::from) {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => decide(Seen::Is(object)),
                Ok(WatchEvent::Deleted(object)) => decide(Seen::Gone(object)),
                Ok(WatchEvent::Bookmark(_)) => None,
                // 410: too old a version to go on from. The list mends that, and whatever else it is.
                Ok(WatchEvent::Error(_)) | Err(Refusal::Status(_)) => return Ok(None),
                Err(refusal) => return Err(failed(refusal)),
            };
            if result.is_some() {
                return Ok(result);
            }
        }
        Ok(None)
    };
    // The server ends a watch after its seconds; one that is late by this much has vanished.
    let patience = Duration::from_secs(SECONDS) + REQUEST;
    tokio::time::timeout(patience, reading).await.unwrap_or(Ok(None))
}
