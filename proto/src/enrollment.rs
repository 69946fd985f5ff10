//! Trading a join token for a certificate: what agents and operators do once, and how they dial afterwards.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};
use tonic::{Code, Status};

use crate::address::CoordinatorUrl;
use crate::causes::{causes, find_cause};
use crate::join_token::JoinToken;
use crate::pinned::{ForeignCa, PinnedCa, certificate_sha256};
use crate::v1::EnrollRequest;
use crate::v1::agent_service_client::AgentServiceClient;

/// How long a connection may take to come about, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a silent connection is tried, and how long its answer may take: a coordinator that lost power, or that hangs,
/// is noticed within their sum, well before a lease ends.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers, or TLS fails.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// Somebody accepts the connection and then says nothing.
    #[error("whatever accepts connections there has not answered within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent,
}

/// Connects, or gives up after [`CONNECT_TIMEOUT`].
pub async fn dial(endpoint: &Endpoint) -> Result<Channel, DialError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(DialError::Silent),
    }
}

/// A new P-256 key, PKCS#8 PEM. Kept before it is sent for certification, so that a token that was spent by an answer that
/// never arrived buys the same again: the coordinator certifies one key a token, as often as it is asked.
pub fn new_key() -> Result<String, rcgen::Error> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// A key that was made here, and the request to certify it.
pub struct CertificateRequest {
    /// The private key, PEM. It never leaves this machine.
    pub key_pem: String,
    /// PKCS#10, DER.
    pub csr_der: Vec<u8>,
}

impl CertificateRequest {
    /// A new key and a request for it.
    pub fn new(subject: &str) -> Result<Self, rcgen::Error> {
        Self::for_key(&new_key()?, subject)
    }

    /// A request for a key. The coordinator takes the name from the token, not from here.
    pub fn for_key(key_pem: &str, subject: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(key_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, subject);
        let csr = params.serialize_request(&key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_der: csr.der().to_vec() })
    }
}

/// A key, its certificate, and the CA to trust, all PEM. Its `Debug` form leaves the key out.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The private key.
    pub key_pem: String,
    /// This side's certificate.
    pub certificate_pem: String,
    /// The coordinator's CA.
    pub ca_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Identity {
    /// How to dial the coordinator with this identity over mutual TLS.
    pub fn endpoint(&self, coordinator: &CoordinatorUrl) -> Result<Endpoint, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .identity(TlsIdentity::from_pem(&self.certificate_pem, &self.key_pem));
        let endpoint = Endpoint::from_shared(coordinator.to_string())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        endpoint.tls_config(tls)
    }
}

/// Why a token could not be traded.
#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    /// The system gives no randomness, or the like.
    #[error("could not make a key and a certificate request: {0}")]
    Key(#[from] rcgen::Error),
    /// Nobody answers, or TLS fails.
    #[error("could not connect to the coordinator at {coordinator}: {}", causes(source))]
    Connect {
        /// Who was dialled.
        coordinator: CoordinatorUrl,
        /// Why it failed.
        source: DialError,
    },
    /// The coordinator said no.
    #[error("the coordinator at {coordinator} refused the token: {}", status.message())]
    Refused {
        /// Who was asked.
        coordinator: CoordinatorUrl,
        /// What it said.
        status: Box<tonic::Status>,
    },
    /// The coordinator could not answer, or its answer was lost. The same token and key may be tried again.
    #[error("the coordinator at {coordinator} could not take the token now: {}; try again", causes(status))]
    NotNow {
        /// Who was asked.
        coordinator: CoordinatorUrl,
        /// What it said, or how the call broke off.
        status: Box<tonic::Status>,
    },
    /// Whoever answered is not signed by the CA that the token names.
    #[error("will not enroll with {coordinator}: {cause}")]
    ForeignCa {
        /// Who was dialled.
        coordinator: CoordinatorUrl,
        /// What is wrong with its CA.
        cause: ForeignCa,
    },
}

/// Trades a one-time token for a certificate of a key from [`new_key`]. `subject` is the node's or operator's name; empty
/// means the one that the token was made for.
pub async fn enroll(
    coordinator: &CoordinatorUrl,
    token: &JoinToken,
    subject: &str,
    key_pem: &str,
) -> Result<Identity, EnrollmentError> {
    let request = CertificateRequest::for_key(key_pem, subject)?;
    let foreign_ca = |cause| EnrollmentError::ForeignCa { coordinator: coordinator.clone(), cause };
    let connect = |source: DialError| match find_cause::<ForeignCa>(&source) {
        Some(cause) => foreign_ca(cause.clone()),
        None => EnrollmentError::Connect { coordinator: coordinator.clone(), source },
    };
    let endpoint = Endpoint::from_shared(coordinator.to_string())
        .and_then(|endpoint| {
            endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .tls_config_with_verifier(ClientTlsConfig::new(), PinnedCa::new(&token.ca_sha256))
        })
        .map_err(|error| connect(error.into()))?;
    let channel = dial(&endpoint).await.map_err(connect)?;
    let response = AgentServiceClient::new(channel)
        .enroll(EnrollRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.clone(),
            subject: subject.to_owned(),
            csr_der: request.csr_der,
        })
        .await
        .map_err(|status| {
            let (coordinator, status) = (coordinator.clone(), Box::new(status));
            if is_refusal(&status) {
                EnrollmentError::Refused { coordinator, status }
            } else {
                EnrollmentError::NotNow { coordinator, status }
            }
        })?
        .into_inner();
    let pinned = CertificateDer::from_pem_slice(response.ca_pem.as_bytes())
        .is_ok_and(|ca| certificate_sha256(&ca) == token.ca_sha256);
    if !pinned {
        return Err(foreign_ca(ForeignCa { expected: token.ca_sha256.clone() }));
    }
    Ok(Identity {
        key_pem: request.key_pem,
        certificate_pem: response.certificate_pem,
        ca_pem: response.ca_pem,
    })
}

/// Whether the coordinator said no, and would say it again.
fn is_refusal(status: &Status) -> bool {
    let final_word = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented
    );
    // What the coordinator says has no cause on this side.
    final_word && status.source().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_does_not_print_its_key() {
        let key_pem = CertificateRequest::new("cp1").unwrap().key_pem;
        let identity =
            Identity { key_pem: key_pem.clone(), certificate_pem: String::new(), ca_pem: String::new() };
        assert!(!format!("{identity:?}").contains(&key_pem));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_accepts_a_connection_and_says_nothing_is_not_waited_for_for_ever() {
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::from_shared(format!("https://{}", mute.local_addr().unwrap())).unwrap();
        let endpoint = endpoint.tls_config(ClientTlsConfig::new().domain_name("localhost")).unwrap();
        assert!(matches!(dial(&endpoint).await, Err(DialError::Silent)));
    }

    #[tokio::test]
    async fn a_coordinator_that_is_not_there_is_named_with_the_cause() {
        let token =
            format!("liftlock1.{}.{}.{}", "0".repeat(8), "0".repeat(64), "0".repeat(64)).parse().unwrap();
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let coordinator = format!("https://{unused}").parse().unwrap();
        let error = enroll(&coordinator, &token, "cp1", &new_key().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("https://{unused}")) && error.contains("refused"), "{error}");
    }
}
