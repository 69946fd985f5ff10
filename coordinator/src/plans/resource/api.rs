//! The three requests that the coordinator makes of the cluster's API: every `UpgradePlan`, one's status, and an event about one.
//!
//! A client of its own: kube's brings every way to log in that a kubeconfig may name, and three requests
//! need none of its types.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use liftlock_proto::causes::causes;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::Value;

use super::definition::{API_VERSION, PLURAL};
use super::event::NAMESPACE;
use super::kubeconfig::{Credential, Kubeconfig, KubeconfigError};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(15);

/// The longest for which an API server is left alone because it asks for that: longer it is not known whether there is something new.
const LEFT_ALONE: Duration = Duration::from_mins(1);

/// A status of a large cluster's roll-out has a few thousand bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The file with the key.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// What the file holds is no key.
    #[error("{path}: its {what} cannot be used: {why}")]
    Key {
        /// The kubeconfig.
        path: String,
        /// `authority`, `token`, `client certificate`
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The API server's own words.
    #[error("{message} ({code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Its words.
        message: String,
        /// For how long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer, or half of one.
    #[error("{server} does not answer: {why}")]
    Unreachable {
        /// The kubeconfig's server.
        server: String,
        /// Why.
        why: String,
    },
}

impl ApiError {
    /// Whether it may pass by itself: an API server that is raised answers nothing, or that it is not ready.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Kubeconfig(_) | Self::Key { .. } => false,
            Self::Refused { code, .. } => *code >= 500 || *code == StatusCode::TOO_MANY_REQUESTS,
            Self::Unreachable { .. } => true,
        }
    }

    /// For how long the API server asks to be left alone: it has too much to do, or is not ready.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Kubeconfig(_) | Self::Key { .. } | Self::Unreachable { .. } => None,
        }
    }

    /// Whether the object is another one by now, or gone: the next list shows it.
    pub(super) fn is_of_another_object(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == StatusCode::CONFLICT || *code == StatusCode::NOT_FOUND)
    }
}

type Https = HttpsConnector<HttpConnector>;

/// A client of the API server that a kubeconfig names.
pub(super) struct Api {
    client: Client<Https, String>,
    server: String,
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// What an API server says of a refusal.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Api {
    /// Reads the kubeconfig; connects to nobody yet.
    pub(super) fn open(path: &Path) -> Result<Self, ApiError> {
        let Kubeconfig { server, authorities, credential } = Kubeconfig::read(path)?;
        let unusable = |what, why: String| ApiError::Key { path: path.display().to_string(), what, why };
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&authorities) {
            let authority = authority.map_err(|error| unusable("authority", error.to_string()))?;
            roots.add(authority).map_err(|error| unusable("authority", error.to_string()))?;
        }
        let tls = ClientConfig::builder().with_root_certificates(Arc::new(roots));
        let (tls, authorization) = match credential {
            Credential::Token(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|error| unusable("token", error.to_string()))?;
                value.set_sensitive(true);
                (tls.with_no_client_auth(), Some(value))
            }
            Credential::Certificate { certificate, key } => {
                let failed = |why: String| unusable("client certificate", why);
                let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| failed(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| failed(error.to_string()))?;
                (tls.with_client_auth_cert(chain, key).map_err(|error| failed(error.to_string()))?, None)
            }
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(https), server, authorization })
    }

    /// Every object, as it is now.
    pub(super) async fn list(&self) -> Result<Vec<Value>, ApiError> {
        let text = self.call(Method::GET, &format!("/apis/{API_VERSION}/{PLURAL}"), String::new()).await?;
        let List { items } = serde_json::from_str(&text).map_err(|error| self.unreadable(&error))?;
        Ok(items)
    }

    /// Writes the status of an object as it was listed. Another write since is a conflict.
    pub(super) async fn put_status(&self, name: &str, object: &Value) -> Result<(), ApiError> {
        let path = format!("/apis/{API_VERSION}/{PLURAL}/{name}/status");
        self.call(Method::PUT, &path, object.to_string()).await.map(drop)
    }

    /// Makes an event.
    pub(super) async fn post_event(&self, event: &Value) -> Result<(), ApiError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/events");
        self.call(Method::POST, &path, event.to_string()).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: String) -> Result<String, ApiError> {
        let asked = tokio::time::timeout(REQUEST, self.ask(method, path, body)).await;
        let (status, headers, text) = asked
            .unwrap_or_else(|_| Err(format!("there was no answer within {} s", REQUEST.as_secs())))
            .map_err(|why| ApiError::Unreachable { server: self.server.clone(), why })?;
        if status.is_success() {
            return Ok(text);
        }
        let message = serde_json::from_str(&text).map_or_else(|_| text, |Refusal { message }| message);
        Err(ApiError::Refused { code: status.as_u16(), message, retry_after: retry_after(&headers) })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, HeaderMap, String), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            // Its first part is the manager of what is written, in managedFields.
            .header(USER_AGENT, concat!("liftlock/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| error.to_string())?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let answer = self.client.request(request).await.map_err(|error| causes(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, headers, String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn unreadable(&self, error: &serde_json::Error) -> ApiError {
        let why = format!("its answer is no list: {error}");
        ApiError::Unreachable { server: self.server.clone(), why }
    }
}

/// Kubernetes tells it in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LEFT_ALONE))
}
