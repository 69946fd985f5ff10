//! The client that a kubeconfig describes: its server, its authorities, its client certificate or token.
//!
//! kube's own would bring every way to log in that a kubeconfig may name, from programs to the tokens of clouds. A node's
//! kubeconfigs have a client certificate, and an agent sits idle on every node: its size counts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, InvalidHeaderValue};
use http::{HeaderValue, Request};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::ByteString;
use kube::client::{Body, ConfigExt};
use kube::config::AuthInfo;
use kube::{Client, Config};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as NoBase64;
use tower::ServiceBuilder;

const CONNECT: Duration = Duration::from_secs(5);

/// Why a kubeconfig makes no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// Nobody could tell whether its server is the right one.
    #[error("it names no certificate authority")]
    NoAuthority,
    /// A certificate or a key that does not read.
    #[error("its {what} does not read")]
    Pem {
        /// `client certificate`, `client key`
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// What is in the kubeconfig itself is no base64.
    #[error("its {what} does not read")]
    Base64 {
        /// `client certificate`, `client key`
        what: &'static str,
        /// Why.
        source: NoBase64,
    },
    /// rustls takes none of it.
    #[error("its certificates are of no use")]
    Tls(#[from] rustls::Error),
    /// The name that its server's certificate should have.
    #[error("its tls-server-name is no name")]
    ServerName(#[from] InvalidDnsNameError),
    /// A token of characters that no header takes.
    #[error("its token is none")]
    Token(#[from] InvalidHeaderValue),
}

/// A client of the server that `config` names. There is no time limit but the one for a connection.
pub(super) fn client(config: &Config) -> Result<Client, Unusable> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls(config)?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = ServerName::try_from(name.clone())?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let https = https.enable_http1().wrap_connector(http);
    let authorization = authorization(config.auth_info.token.as_ref())?;
    let authorized = move |mut request: Request<Body>| {
        if let Some(value) = &authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        request
    };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .map_request(authorized)
        .service(HttpClient::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace.clone()))
}

fn tls(config: &Config) -> Result<ClientConfig, Unusable> {
    let mut roots = RootCertStore::empty();
    for authority in config.root_cert.iter().flatten() {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    if roots.is_empty() && config.cluster_url.scheme_str() == Some("https") {
        return Err(Unusable::NoAuthority);
    }
    let builder = ClientConfig::builder().with_root_certificates(Arc::new(roots));
    Ok(match identity(&config.auth_info)? {
        Some((certificates, key)) => builder.with_client_auth_cert(certificates, key)?,
        None => builder.with_no_client_auth(),
    })
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Certificate and key, from the kubeconfig itself or from the files that it names.
fn identity(user: &AuthInfo) -> Result<Option<ClientIdentity>, Unusable> {
    let what = "client certificate";
    let certificates = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => CertificateDer::pem_slice_iter(&decoded(what, data)?).collect(),
        (None, Some(path)) => CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect),
        (None, None) => return Ok(None),
    };
    let certificates = certificates.map_err(|source| Unusable::Pem { what, source })?;
    let what = "client key";
    let key = match (&user.client_key_data, &user.client_key) {
        (Some(data), _) => PrivateKeyDer::from_pem_slice(&decoded(what, data.expose_secret())?),
        (None, Some(path)) => PrivateKeyDer::from_pem_file(Path::new(path)),
        (None, None) => Err(pem::Error::NoItemsFound),
    };
    Ok(Some((certificates, key.map_err(|source| Unusable::Pem { what, source })?)))
}

/// What base64 stands for.
fn decoded(what: &'static str, data: &str) -> Result<Vec<u8>, Unusable> {
    let bytes = ByteString::deserialize(data.into_deserializer());
    bytes.map(|ByteString(bytes)| bytes).map_err(|source| Unusable::Base64 { what, source })
}

fn authorization(token: Option<&SecretString>) -> Result<Option<HeaderValue>, Unusable> {
    let Some(token) = token else {
        return Ok(None);
    };
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
