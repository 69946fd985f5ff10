//! Requests to servers that are not ours: one attempt, with a limit of time and of size.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use liftlock_proto::causes::causes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};

use crate::identity::files::{self, FileError};

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
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not there", .0.display())]
    NoFile(PathBuf),
    #[error("{} holds no token: one line of visible ASCII", .0.display())]
    NoToken(PathBuf),
    #[error("{} holds no certificate of an authority: {why}", file.display())]
    NoAuthority { file: PathBuf, why: String },
}

/// What speaks to an address of this scheme: to one of https with nobody else's consent but of the authorities in the file, or
/// of those that this machine knows. It follows no redirection.
pub(super) fn client(url: &Uri, ca_file: Option<&Path>) -> Result<HttpsClient, HttpsError> {
    let builder = HttpsConnectorBuilder::new();
    let builder = match ca_file {
        None => builder.with_native_roots().map_err(HttpsError::Authorities)?,
        Some(file) => builder.with_tls_config(
            ClientConfig::builder().with_root_certificates(authorities(file)?).with_no_client_auth(),
        ),
    };
    let is_http = url.scheme() == Some(&Scheme::HTTP);
    let builder = if is_http { builder.https_or_http() } else { builder.https_only() };
    Ok(Client::builder(TokioExecutor::new()).build(builder.enable_http1().build()))
}

/// What proves who asks, out of a file that holds nothing else.
pub(super) fn bearer(file: &Path) -> Result<HeaderValue, HttpsError> {
    let token = files::read(file)?.ok_or_else(|| HttpsError::NoFile(file.to_owned()))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .ok()
        .filter(|_| !token.trim().is_empty())
        .ok_or_else(|| HttpsError::NoToken(file.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn authorities(file: &Path) -> Result<RootCertStore, HttpsError> {
    let failed = |why: String| HttpsError::NoAuthority { file: file.to_owned(), why };
    let text = files::read(file)?.ok_or_else(|| HttpsError::NoFile(file.to_owned()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(failed("there is none in it".to_owned())) } else { Ok(roots) }
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

/// The answer's status, and where that is none of success the beginning of its body: as much as comes within the limits. What else
/// a server says to what it is told is not waited for.
pub(super) async fn told(
    client: &HttpsClient,
    request: Request<String>,
    limit: Duration,
    most: usize,
) -> Result<(StatusCode, Vec<u8>), HttpsError> {
    let deadline = Instant::now() + limit;
    let answer =
        timeout_at(deadline, client.request(request)).await.map_err(|_| HttpsError::Slow(limit))??;
    let status = answer.status();
    let (mut body, mut begins) = (answer.into_body(), Vec::new());
    while !status.is_success() && begins.len() < most {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else { break };
        begins.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
    }
    begins.truncate(most);
    Ok((status, begins))
}
