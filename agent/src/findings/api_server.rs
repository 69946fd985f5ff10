//! This control plane's own API server: whether it is ready, and what it is asked for.

use liftlock_proto::v1::{ApiServerFacts, RequestedApi};

use super::told;
use crate::host::{Host, HostResult};

/// As it is now.
pub async fn api_server(host: &Host) -> ApiServerFacts {
    told(ask(host).await, |facts| facts, |unread| ApiServerFacts { unread, ..ApiServerFacts::default() })
}

async fn ask(host: &Host) -> HostResult<ApiServerFacts> {
    let own = host.kube.own_api_server().await?;
    // One that is not ready may not tell what it was asked for either; that it is not ready is the worse of both.
    let requested =
        if own.unready.is_empty() { host.kube.deprecated_apis_in_use().await? } else { Vec::new() };
    let deprecated =
        requested.into_iter().map(|(api, removed_in)| RequestedApi { api, removed_in: removed_in.into() });
    Ok(ApiServerFacts {
        unread: String::new(),
        address: own.address,
        unready: own.unready,
        deprecated: deprecated.collect(),
    })
}
