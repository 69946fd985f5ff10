//! Requests to servers that are not ours: one attempt, with a limit of time and of size.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use liftlock_proto::causes::causes;

/// What speaks to them.
pub(super) type HttpsClient = Client<HttpsConnector<HttpConnector>, String>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpsError {
    #[error(
        "this machine knows no authorities that its certificate could be checked with: {0}; install ca-certificates"
    )]
    Authorities(io::Error),
    #[error("{}", causes(.0))]
    Request(#[from] hyper_util::client::legacy::Error),
    #[error("the answer does not come to an end within {most} bytes: {why}")]
    Body { most: usize, why: Box<dyn Error + Send + Sync> },
    #[error("there was no answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// The answer's status and its whole body.
pub(super) async fn exchange(
    client: &HttpsClient,
    request: Request<String>,
    limit: Duration,
    most: usize,
) -> Result<(StatusCode, Vec<u8>), HttpsError> {
    let exchange = async {
        let answer = client.request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), most).collect().await;
        let body = body.map_err(|why| HttpsError::Body { most, why })?;
        Ok((status, body.to_bytes().to_vec()))
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| HttpsError::Slow(limit))?
}
