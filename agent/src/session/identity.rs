//! Who this agent is to the coordinator: key, certificate, CA and address, under `identity/` in the state folder.

use std::fmt;
use std::io;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::enrollment::{self, EnrollmentError, Identity};
use liftlock_proto::join_token::{JoinToken, JoinTokenError};
use liftlock_proto::name::NodeName;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::disk::Disk;

const KEY: &str = "key.pem";
const CA: &str = "ca.pem";
const COORDINATOR: &str = "coordinator";
/// Written last: without it the others are nothing.
const CERTIFICATE: &str = "cert.pem";
/// A key that is being certified.
const NEXT_KEY: &str = "next-key.pem";

/// The folder that holds the identity.
#[derive(Clone)]
pub struct IdentityStore {
    disk: Arc<dyn Disk>,
    folder: Utf8PathBuf,
}

/// An identity that is whole: the certificate is for the key and names a node.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// What TLS needs.
    pub identity: Identity,
    /// The coordinator that signed it.
    pub coordinator: CoordinatorUrl,
    /// The node that the certificate names.
    pub node: NodeName,
    /// From when on a new certificate is asked for: half of its life. Milliseconds since the Unix epoch.
    pub renew_at_ms: u64,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_at_ms: u64,
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk said no.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// `read`, `write`
        doing: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it does not fit.
    #[error(
        "the identity in {folder} cannot be used: {why}. Enrol again: `liftlock token create --node NAME`, then \
             `liftlock-agent enroll --token-file FILE`"
    )]
    Unusable {
        /// The folder.
        folder: Utf8PathBuf,
        /// Why.
        why: String,
    },
    /// A renewed certificate that is not better than the one at hand.
    #[error("the certificate that the coordinator sent is not taken: {0}")]
    Renewal(String),
    /// No token where there should be one.
    #[error(
        "there is no join token at {path}: make one with `liftlock token create --node {node}` and put it there"
    )]
    NoToken {
        /// The file.
        path: Utf8PathBuf,
        /// This node.
        node: NodeName,
    },
    /// The file holds something else.
    #[error("{path}: {source}")]
    Token {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        source: JoinTokenError,
    },
    /// The token was not traded.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
}

impl IdentityStore {
    /// The identity in a folder.
    pub fn new(disk: Arc<dyn Disk>, folder: Utf8PathBuf) -> Self {
        Self { disk, folder }
    }

    /// The identity, or `None` before the agent has enrolled.
    pub fn load(&self) -> Result<Option<Enrolled>, IdentityError> {
        let Some(certificate_pem) = self.read(CERTIFICATE)? else {
            return Ok(None);
        };
        let whole = |name: &str| self.read(name)?.ok_or_else(|| self.unusable(format!("{name} is missing")));
        let coordinator = whole(COORDINATOR)?.parse().map_err(|error| self.unusable(error))?;
        let identity = Identity { key_pem: whole(KEY)?, certificate_pem, ca_pem: whole(CA)? };
        enrolled(identity, coordinator).map(Some).map_err(|why| self.unusable(why))
    }

    /// Trades the token in a file for an identity, stores it, and removes the file: the token is used up.
    pub async fn enroll(
        &self,
        coordinator: &CoordinatorUrl,
        node: &NodeName,
        token_file: &Utf8Path,
    ) -> Result<Enrolled, IdentityError> {
        let token = self.token(token_file, node)?;
        let key_pem = self.next_key()?;
        let identity = enrollment::enroll(coordinator, &token, node.as_str(), &key_pem).await?;
        let enrolled = self.keep(identity, coordinator, node)?;
        for used in [token_file, &self.folder.join(NEXT_KEY)] {
            self.disk.remove(used).map_err(io_error("remove", used))?;
        }
        Ok(enrolled)
    }

    /// The key to be certified: that of an enrolment whose answer never arrived, or a new one. Durable before a token is
    /// spent on it.
    fn next_key(&self) -> Result<String, IdentityError> {
        if let Some(key_pem) = self.read(NEXT_KEY)?
            && KeyPair::from_pem(&key_pem).is_ok()
        {
            return Ok(key_pem);
        }
        let key_pem = enrollment::new_key().map_err(EnrollmentError::Key)?;
        self.disk.create_folder(&self.folder).map_err(io_error("make", &self.folder))?;
        self.write(NEXT_KEY, &key_pem)?;
        Ok(key_pem)
    }

    /// Stores an identity, if it is whole and this node's.
    pub fn keep(
        &self,
        identity: Identity,
        coordinator: &CoordinatorUrl,
        node: &NodeName,
    ) -> Result<Enrolled, IdentityError> {
        let enrolled = enrolled(identity, coordinator.clone()).map_err(|why| self.unusable(why))?;
        if enrolled.node != *node {
            let why = format!("its certificate is for node {}, this is {node}", enrolled.node);
            return Err(self.unusable(why));
        }
        self.store(&enrolled)?;
        Ok(enrolled)
    }

    /// A request for a new certificate for the same key, DER.
    pub fn renewal(&self, enrolled: &Enrolled) -> Result<Vec<u8>, IdentityError> {
        let request = || {
            let key = KeyPair::from_pem(&enrolled.identity.key_pem)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, enrolled.node.as_str());
            params.serialize_request(&key)
        };
        let request = request().map_err(|error: rcgen::Error| self.unusable(error))?;
        Ok(request.der().to_vec())
    }

    /// Puts a renewed certificate in the place of the old one.
    pub fn renew(&self, old: &Enrolled, certificate_pem: String) -> Result<Enrolled, IdentityError> {
        let identity = Identity { certificate_pem, ..old.identity.clone() };
        let new = enrolled(identity, old.coordinator.clone()).map_err(IdentityError::Renewal)?;
        if new.node != old.node {
            return Err(IdentityError::Renewal(format!("it is for node {}, this is {}", new.node, old.node)));
        }
        if new.ends_at_ms <= old.ends_at_ms {
            return Err(IdentityError::Renewal("it does not end later than the one at hand".to_owned()));
        }
        self.write(CERTIFICATE, &new.identity.certificate_pem)?;
        Ok(new)
    }

    fn store(&self, enrolled: &Enrolled) -> Result<(), IdentityError> {
        self.disk.create_folder(&self.folder).map_err(io_error("make", &self.folder))?;
        // An old certificate must not stand beside a new key.
        let certificate = self.folder.join(CERTIFICATE);
        self.disk.remove(&certificate).map_err(io_error("remove", &certificate))?;
        self.write(KEY, &enrolled.identity.key_pem)?;
        self.write(CA, &enrolled.identity.ca_pem)?;
        self.write(COORDINATOR, &format!("{}\n", enrolled.coordinator))?;
        self.write(CERTIFICATE, &enrolled.identity.certificate_pem)
    }

    fn token(&self, path: &Utf8Path, node: &NodeName) -> Result<JoinToken, IdentityError> {
        let bytes = self.disk.read(path).map_err(io_error("read", path))?;
        let bytes =
            bytes.ok_or_else(|| IdentityError::NoToken { path: path.to_owned(), node: node.clone() })?;
        let invalid = |source| IdentityError::Token { path: path.to_owned(), source };
        String::from_utf8(bytes).map_err(|_| invalid(JoinTokenError))?.parse().map_err(invalid)
    }

    fn read(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let path = self.folder.join(name);
        let bytes = self.disk.read(&path).map_err(io_error("read", &path))?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|_| self.unusable(format!("{name} is not text")))
    }

    fn write(&self, name: &str, content: &str) -> Result<(), IdentityError> {
        let path = self.folder.join(name);
        self.disk.replace(&path, content.as_bytes()).map_err(io_error("write", &path))
    }

    fn unusable(&self, why: impl fmt::Display) -> IdentityError {
        IdentityError::Unusable { folder: self.folder.clone(), why: why.to_string() }
    }
}

fn io_error(doing: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { doing, path, source }
}

/// What the certificate says, if it is for this key.
fn enrolled(identity: Identity, coordinator: CoordinatorUrl) -> Result<Enrolled, String> {
    let text = |what: &'static str| move |error: &dyn fmt::Display| format!("{what}: {error}");
    let key = KeyPair::from_pem(&identity.key_pem).map_err(|error| text("its key does not read")(&error))?;
    let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
        .map_err(|error| text("its certificate does not read")(&error))?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| text("its certificate does not read")(&error))?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("its certificate is for another key".to_owned());
    }
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let node =
        name.unwrap_or_default().parse().map_err(|error| text("its certificate names no node")(&error))?;
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let begins_at_ms = ms(certificate.validity().not_before.timestamp());
    let ends_at_ms = ms(certificate.validity().not_after.timestamp());
    let renew_at_ms = begins_at_ms.midpoint(ends_at_ms);
    Ok(Enrolled { identity, coordinator, node, renew_at_ms, ends_at_ms })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};

    use super::*;
    use crate::disk::memory::MemoryDisk;

    const HOUR: u64 = 3600;

    fn certificate(key: &KeyPair, name: &str, from_hour: u64, to_hour: u64) -> (String, String) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let at = |hour| (SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(hour * HOUR)).into();
        (params.not_before, params.not_after) = (at(from_hour), at(to_hour));
        (params.signed_by(key, &ca).unwrap().pem(), ca.as_ref().pem())
    }

    fn identity(name: &str) -> (KeyPair, Identity) {
        let key = KeyPair::generate().unwrap();
        let (certificate_pem, ca_pem) = certificate(&key, name, 100, 300);
        let key_pem = key.serialize_pem();
        (key, Identity { key_pem, certificate_pem, ca_pem })
    }

    fn stored() -> (MemoryDisk, IdentityStore, KeyPair, Enrolled) {
        let disk = MemoryDisk::default();
        let store = IdentityStore::new(Arc::new(disk.clone()), "/identity".into());
        let (key, identity) = identity("cp1");
        let enrolled = enrolled(identity, "https://10.0.0.5:7443".parse().unwrap()).unwrap();
        store.store(&enrolled).unwrap();
        (disk, store, key, enrolled)
    }

    #[test]
    fn a_stored_identity_reads_back_and_knows_its_half_life() {
        let (_, store, _, enrolled) = stored();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!((loaded.identity, loaded.node), (enrolled.identity, "cp1".parse().unwrap()));
        assert_eq!((loaded.renew_at_ms, loaded.ends_at_ms), (200 * HOUR * 1000, 300 * HOUR * 1000));
    }

    #[test]
    fn a_crash_in_the_middle_of_storing_leaves_no_identity_rather_than_a_mixed_one() {
        let (disk, store, ..) = stored();
        disk.remove("/identity/cert.pem".into()).unwrap();
        assert!(store.load().unwrap().is_none());
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let (disk, store, ..) = stored();
        let (_, other) = identity("cp1");
        disk.put("/identity/cert.pem".into(), other.certificate_pem.as_bytes());
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("another key"), "{error}");
    }

    #[test]
    fn a_renewed_certificate_must_be_for_the_same_node_and_key_and_end_later() {
        let (_, store, key, old) = stored();
        let refused = |pem: String| matches!(store.renew(&old, pem), Err(IdentityError::Renewal(_)));
        assert!(refused(certificate(&key, "cp2", 200, 400).0));
        assert!(refused(certificate(&key, "cp1", 200, 300).0));
        assert!(refused(certificate(&KeyPair::generate().unwrap(), "cp1", 200, 400).0));
        assert!(refused("nonsense".to_owned()));
        let new = store.renew(&old, certificate(&key, "cp1", 200, 400).0).unwrap();
        assert_eq!(store.load().unwrap().unwrap().ends_at_ms, new.ends_at_ms);
    }

    #[test]
    fn the_key_of_an_enrolment_whose_answer_never_arrived_is_sent_again_after_a_restart() {
        let (disk, store, _, _) = stored();
        let first = store.next_key().unwrap();
        let restarted = IdentityStore::new(Arc::new(disk.clone()), store.folder.clone());
        assert_eq!(restarted.next_key().unwrap(), first);
        disk.limit(Some(0));
        let full = IdentityStore::new(Arc::new(disk), "/elsewhere".into()).next_key();
        assert!(full.is_err(), "a token would be spent on a key that is not on the disk");
    }

    #[test]
    fn a_renewal_asks_for_the_same_key_and_name() {
        let (_, store, key, enrolled) = stored();
        let request = store.renewal(&enrolled).unwrap();
        let request = rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        assert_eq!(request.public_key.subject_public_key_info(), key.subject_public_key_info());
        assert_eq!(
            request.params.distinguished_name.get(&DnType::CommonName),
            Some(&rcgen::DnValue::Utf8String("cp1".to_owned()))
        );
    }

    #[tokio::test]
    async fn a_missing_or_wrong_token_is_named_with_what_to_do_and_without_its_text() {
        let (disk, store, _, enrolled) = stored();
        let path = Utf8Path::new("/etc/liftlock/join-token");
        let missing =
            store.enroll(&enrolled.coordinator, &enrolled.node, path).await.unwrap_err().to_string();
        assert!(missing.contains("liftlock token create --node cp1"), "{missing}");
        disk.put(path, b"liftlock1.not-a-token");
        let wrong = store.enroll(&enrolled.coordinator, &enrolled.node, path).await.unwrap_err().to_string();
        assert!(wrong.contains(path.as_str()) && !wrong.contains("not-a-token"), "{wrong}");
        assert!(disk.read(path).unwrap().is_some(), "a token that was not used was removed");
    }
}
