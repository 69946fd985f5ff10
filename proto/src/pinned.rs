//! Trust in a coordinator of which only the hash of its CA is known: what a join token carries.
//!
//! The coordinator therefore sends its CA's certificate after its own in every TLS handshake.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// Lower-case hexadecimal SHA-256 of a certificate's DER form, as join tokens carry it.
pub fn certificate_sha256(der: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(der).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The coordinator that answered was not signed by the CA that the token names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the coordinator's CA is not the one that the token names ({expected}): it is another coordinator, or somebody stands in between"
)]
pub struct ForeignCa {
    /// The hash in the token.
    pub expected: String,
}

/// Accepts a coordinator whose certificate, for the name that was dialled, is signed by the CA with one hash.
#[derive(Debug)]
pub struct PinnedCa {
    ca_sha256: String,
    provider: Arc<CryptoProvider>,
}

impl PinnedCa {
    /// Trusts the CA of this hash ([`certificate_sha256`]) and no other.
    pub fn new(ca_sha256: &str) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { ca_sha256: ca_sha256.to_owned(), provider })
    }

    fn foreign(&self) -> rustls::Error {
        let error = ForeignCa { expected: self.ca_sha256.clone() };
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| certificate_sha256(certificate) == self.ca_sha256)
            .ok_or_else(|| self.foreign())?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::causes::find_cause;

    struct Coordinator {
        ca: CertificateDer<'static>,
        own: CertificateDer<'static>,
    }

    fn coordinator(name: &str) -> Coordinator {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        Coordinator { ca: ca.as_ref().der().clone(), own: own.der().clone() }
    }

    fn verify(
        pin: &str,
        chain: (&CertificateDer<'_>, &CertificateDer<'_>),
        name: &str,
    ) -> Result<(), rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verified = PinnedCa::new(pin).verify_server_cert(
            chain.0,
            std::slice::from_ref(chain.1),
            &name,
            &[],
            UnixTime::now(),
        );
        verified.map(drop)
    }

    #[test]
    fn a_coordinator_signed_by_the_pinned_ca_is_accepted_under_its_name_only() {
        let c = coordinator("lift.example");
        let pin = certificate_sha256(&c.ca);
        assert_eq!(verify(&pin, (&c.own, &c.ca), "lift.example"), Ok(()));
        assert!(verify(&pin, (&c.own, &c.ca), "other.example").is_err());
    }

    #[test]
    fn a_coordinator_of_another_ca_is_refused() {
        let (ours, theirs) = (coordinator("lift.example"), coordinator("lift.example"));
        let pin = certificate_sha256(&ours.ca);
        let error = verify(&pin, (&theirs.own, &theirs.ca), "lift.example").unwrap_err();
        assert_eq!(find_cause(&error), Some(&ForeignCa { expected: pin }));
    }

    #[test]
    fn showing_the_pinned_ca_beside_a_certificate_that_it_did_not_sign_is_refused() {
        let (ours, theirs) = (coordinator("lift.example"), coordinator("lift.example"));
        let pin = certificate_sha256(&ours.ca);
        assert!(verify(&pin, (&theirs.own, &ours.ca), "lift.example").is_err());
    }
}
