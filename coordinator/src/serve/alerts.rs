//! The Prometheus whose alerts hold a roll-out: asked whenever the keeper wants to know.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use super::https::{HttpsClient, HttpsError, exchange};
use crate::core::alerts::{Alert, AnswerError, firing};
use crate::identity::files::{self, FileError};
use crate::keeper::{Keeper, LOOK_AGAIN};

/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Thousands of alerts fit.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Where Prometheus is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Prometheus {
    /// `https://prometheus.example:9090`, a path before `/api/v1/alerts` included.
    url: String,
    /// What is said to prove who asks; read anew each time.
    bearer_token_file: Option<PathBuf>,
    /// The authorities that vouch for it; those of this machine where none is named.
    ca_file: Option<PathBuf>,
}

/// Why it cannot be asked. Says nothing of the token.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("it answers {0}, and only 200 is taken: see to url and bearer-token-file")]
    Status(StatusCode),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not there", .0.display())]
    NoFile(PathBuf),
    #[error("{} holds no token: one line of visible ASCII", .0.display())]
    NoToken(PathBuf),
    #[error("{} holds no certificate of an authority: {why}", file.display())]
    NoAuthority { file: PathBuf, why: String },
}

impl Prometheus {
    /// Refuses what could not be asked, or would be told the token in clear.
    pub(super) fn checked(self) -> Result<Self, String> {
        if self.url.contains('@') {
            return Err("[alerts] url names a user: allowed is one without, and what proves who asks in bearer-token-file".to_owned());
        }
        let url = self.address().map_err(|why| format!("[alerts] url = \"{}\": {why}", self.url))?;
        if self.bearer_token_file.is_some() && url.scheme() != Some(&Scheme::HTTPS) {
            return Err(format!(
                "[alerts] url = \"{}\": a token goes over https:// only; allowed is that, or no bearer-token-file",
                self.url
            ));
        }
        Ok(self)
    }

    fn address(&self) -> Result<Uri, String> {
        let allowed = "allowed is an URL such as https://prometheus.example:9090";
        let base = self.url.parse::<Uri>().map_err(|error| format!("{error}; {allowed}"))?;
        let known = base.scheme().is_some_and(|scheme| *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP);
        if !known || base.query().is_some() {
            return Err(format!("{allowed}, without a query"));
        }
        let whole = format!("{}/api/v1/alerts", self.url.trim_end_matches('/'));
        whole.parse::<Uri>().map_err(|error| format!("{error}; {allowed}"))
    }

    async fn ask(&self) -> Result<Vec<Alert>, AskError> {
        let client = self.client()?;
        let mut request = Request::new(String::new());
        *request.uri_mut() = self.address().unwrap_or_default();
        if let Some(file) = &self.bearer_token_file {
            let token = files::read(file)?.ok_or_else(|| AskError::NoFile(file.clone()))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .ok()
                .filter(|_| !token.trim().is_empty())
                .ok_or_else(|| AskError::NoToken(file.clone()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let (status, body) = exchange(&client, request, LIMIT, MAX_BYTES).await?;
        if status != StatusCode::OK {
            return Err(AskError::Status(status));
        }
        Ok(firing(&body)?)
    }

    fn client(&self) -> Result<HttpsClient, AskError> {
        let builder = HttpsConnectorBuilder::new();
        let builder = match &self.ca_file {
            None => builder.with_native_roots().map_err(HttpsError::Authorities)?,
            Some(file) => builder.with_tls_config(
                ClientConfig::builder().with_root_certificates(authorities(file)?).with_no_client_auth(),
            ),
        };
        Ok(Client::builder(TokioExecutor::new()).build(builder.https_or_http().enable_http1().build()))
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, AskError> {
    let failed = |why: String| AskError::NoAuthority { file: file.to_owned(), why };
    let text = files::read(file)?.ok_or_else(|| AskError::NoFile(file.to_owned()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(failed("there is none in it".to_owned())) } else { Ok(roots) }
}

/// Asks whenever an answer is wanted.
pub(super) async fn ask(keeper: Arc<Keeper>, prometheus: Option<Prometheus>) {
    let Some(prometheus) = prometheus else { return };
    let mut changes = keeper.changes();
    loop {
        if keeper.wants_alerts() {
            let answer = prometheus.ask().await;
            let answer = answer.map_err(|error| format!("{} cannot be asked: {error}", prometheus.url));
            let keeper = Arc::clone(&keeper);
            if let Err(error) = tokio::task::spawn_blocking(move || keeper.alerts_are(answer)).await {
                tracing::error!(%error, "what Prometheus said was not taken up");
            }
        }
        // A change may have been told before it was listened for.
        let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
    }
}

#[cfg(test)]
mod tests;
