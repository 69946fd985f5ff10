//! The coordinator's CA: made on its first start, it signs every certificate that counts here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use liftlock_proto::pinned::certificate_sha256;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use super::files::{self, FileError};
use super::subject::{Role, Subject};
use super::token::hex;
use crate::clock::Clock;

const DAY: i64 = 24 * 3600;
/// Agents renew theirs at half its life; operators trade a new token.
const CLIENT_LIFE: i64 = 30 * DAY;
/// The coordinator's own are made anew at its start once half their life is over. They lie beside the key of the CA, so
/// a shorter life would protect nothing.
const OWN_LIFE: i64 = 5 * 365 * DAY;
const CA_LIFE: i64 = 20 * 365 * DAY;
/// The coordinator's own certificates begin a little earlier, for nodes whose clock is behind.
const CLOCK_SKEW: i64 = 3600;

/// Why an identity cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// One of the pair is missing or is not what it should be.
    #[error(
        "the CA in {} is damaged ({why}): put back both files from a copy; a new CA would make every node enrol \
         again, so none is made (to begin anew, move the whole state directory away)", path.display()
    )]
    Damaged {
        /// The CA's folder.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A request that is none, or is not signed by its key.
    #[error(
        "the certificate request is not valid ({0}): it must be PKCS#10, signed with the key that it names"
    )]
    Request(String),
    /// Neither a DNS name nor an address.
    #[error("\"{0}\" is neither a DNS name nor an IP address: give --name what nodes dial")]
    Name(String),
    /// The cryptography refused.
    #[error("a certificate cannot be made: {0}")]
    Signing(#[from] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// A moment that X.509 cannot express.
    #[error("the clock of this machine is far off: set it, then try again")]
    Clock,
}

/// A private key and its certificate, both PEM.
#[derive(Clone)]
pub struct KeyAndCertificate {
    /// PKCS#8.
    pub key_pem: String,
    /// X.509.
    pub certificate_pem: String,
}

/// A certificate request whose signature was checked. Only its key counts.
pub struct CheckedRequest {
    key: rcgen::PublicKey,
    /// SHA-256 of the public key, lower-case hexadecimal.
    pub key_sha256: String,
}

/// The CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    fingerprint: String,
}

impl Authority {
    /// Opens the CA in `folder`, or makes it. The key is written last: without it there is no CA yet.
    pub fn open(folder: &Path, clock: &dyn Clock) -> Result<Self, IdentityError> {
        let damaged = |why: &str| IdentityError::Damaged { path: folder.to_owned(), why: why.to_owned() };
        let (certificate_path, key_path) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        files::make_folder(folder)?;
        let (key_pem, certificate_pem) = match (files::read(&key_path)?, files::read(&certificate_path)?) {
            (Some(key), Some(certificate)) => (key, certificate),
            (Some(_), None) => return Err(damaged("ca.pem is missing")),
            (None, _) => {
                let made = make_ca(now_s(clock))?;
                files::write(&certificate_path, &made.certificate_pem)?;
                files::write(&key_path, &made.key_pem)?;
                (made.key_pem, made.certificate_pem)
            }
        };
        let key = KeyPair::from_pem(&key_pem).map_err(|_| damaged("ca-key.pem holds no key"))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| damaged("ca.pem holds no certificate"))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| damaged("ca.pem holds no certificate"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(damaged("ca-key.pem is not the key of ca.pem"));
        }
        let fingerprint = certificate_sha256(&der);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| damaged(&error.to_string()))?;
        Ok(Self { issuer, certificate_pem, fingerprint })
    }

    /// Refuses a folder without the CA's key. For a coordinator that has had one: whoever trusts it trusts no other.
    pub fn require(folder: &Path) -> Result<(), IdentityError> {
        if files::read(&folder.join("ca-key.pem"))?.is_some() {
            return Ok(());
        }
        Err(IdentityError::Damaged { path: folder.to_owned(), why: "ca-key.pem is missing".to_owned() })
    }

    /// The CA's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the CA certificate's DER form, lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Signs a request for a client certificate of 30 days, valid from `from_s` (seconds since the Unix epoch). The
    /// subject is ours to say; whatever else the request asks for is ignored.
    pub fn sign(
        &self,
        request: &CheckedRequest,
        subject: &Subject,
        from_s: i64,
    ) -> Result<String, IdentityError> {
        let mut params = params(subject, from_s, from_s + CLIENT_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.key, &self.issuer)?;
        Ok(certificate.pem())
    }

    /// The server's certificate for these names, kept in `folder` and made again when the names change or half its
    /// life is over.
    pub fn server(
        &self,
        folder: &Path,
        names: &[String],
        clock: &dyn Clock,
    ) -> Result<KeyAndCertificate, IdentityError> {
        let subject = Subject { kind: Role::Coordinator, name: "liftlock".to_owned() };
        let names: Vec<SanType> =
            names.iter().map(|name| alternative_name(name)).collect::<Result<_, _>>()?;
        self.kept(folder, &subject, &names, ExtendedKeyUsagePurpose::ServerAuth, clock)
    }

    /// The identity of whoever may read `folder`: an operator on the coordinator's own machine.
    pub fn local_operator(&self, folder: &Path, clock: &dyn Clock) -> Result<(), IdentityError> {
        let subject = Subject { kind: Role::Operator, name: "local".to_owned() };
        self.kept(folder, &subject, &[], ExtendedKeyUsagePurpose::ClientAuth, clock)?;
        Ok(files::write(&folder.join("ca.pem"), &self.certificate_pem)?)
    }

    fn kept(
        &self,
        folder: &Path,
        subject: &Subject,
        names: &[SanType],
        usage: ExtendedKeyUsagePurpose,
        clock: &dyn Clock,
    ) -> Result<KeyAndCertificate, IdentityError> {
        files::make_folder(folder)?;
        let (certificate_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
        let now = now_s(clock);
        if let (Some(key_pem), Some(certificate_pem)) =
            (files::read(&key_path)?, files::read(&certificate_path)?)
        {
            let found = KeyAndCertificate { key_pem, certificate_pem };
            if self.still_good(&found, names, now) {
                return Ok(found);
            }
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(subject, now - CLOCK_SKEW, now + OWN_LIFE)?;
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![usage];
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        let made = KeyAndCertificate { key_pem: key.serialize_pem(), certificate_pem };
        files::write(&key_path, &made.key_pem)?;
        files::write(&certificate_path, &made.certificate_pem)?;
        Ok(made)
    }

    /// Whether a kept certificate is ours, fits its key, has these names, and is in the first half of its life.
    fn still_good(&self, found: &KeyAndCertificate, names: &[SanType], now: i64) -> bool {
        let Ok(key) = KeyPair::from_pem(&found.key_pem) else {
            return false;
        };
        let Ok(der) = CertificateDer::from_pem_slice(found.certificate_pem.as_bytes()) else {
            return false;
        };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
            return false;
        };
        let ours = SpkiOf(self.issuer.key());
        let (from, to) =
            (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        certificate.public_key().raw == key.subject_public_key_info()
            && ours.signed(&certificate)
            && from <= now
            && now < from + (to - from) / 2
            && alternative_names(&certificate).as_deref() == Some(names)
    }
}

impl CheckedRequest {
    /// Reads a PKCS#10 request, DER, and checks that it is signed by its own key.
    pub fn parse(der: &[u8]) -> Result<Self, IdentityError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| IdentityError::Request(error.to_string()))?;
        let key_sha256 = hex(&Sha256::digest(request.public_key.subject_public_key_info()));
        Ok(Self { key: request.public_key, key_sha256 })
    }
}

struct SpkiOf<'a>(&'a KeyPair);

impl SpkiOf<'_> {
    fn signed(&self, certificate: &X509Certificate<'_>) -> bool {
        let spki = self.0.subject_public_key_info();
        x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki)
            .is_ok_and(|(_, key)| certificate.verify_signature(Some(&key)).is_ok())
    }
}

fn make_ca(now: i64) -> Result<KeyAndCertificate, IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // A name of its own, so that a certificate of another coordinator is said to come from an unknown CA.
    let key_id = hex(&Sha256::digest(key.subject_public_key_info()));
    let name = format!("liftlock CA {}", key_id.get(..8).unwrap_or_default());
    let subject = Subject { kind: Role::Coordinator, name };
    let mut params = params(&subject, now - CLOCK_SKEW, now + CA_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    let certificate_pem = params.self_signed(&key)?.pem();
    Ok(KeyAndCertificate { key_pem: key.serialize_pem(), certificate_pem })
}

fn params(subject: &Subject, from_s: i64, to_s: i64) -> Result<CertificateParams, IdentityError> {
    let time = |seconds| {
        ASN1Time::from_timestamp(seconds).map(|time| time.to_datetime()).map_err(|_| IdentityError::Clock)
    };
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(IdentityError::Random)?;
    // A positive number of 127 bits: the first bit of a DER integer is its sign.
    serial[0] &= 0x7f;
    let mut params = CertificateParams::default();
    params.not_before = time(from_s)?;
    params.not_after = time(to_s)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, subject.kind.organisation());
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn alternative_name(name: &str) -> Result<SanType, IdentityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let refused = || IdentityError::Name(name.to_owned());
    if name.is_empty() || !plain {
        return Err(refused());
    }
    name.try_into().map(SanType::DnsName).map_err(|_| refused())
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Option<Vec<SanType>> {
    let Some(extension) = certificate.subject_alternative_name().ok()? else {
        return Some(Vec::new());
    };
    extension
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => (*name).try_into().ok().map(SanType::DnsName),
            GeneralName::IPAddress(bytes) => {
                let address = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = address.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                address.ok().map(SanType::IpAddress)
            }
            _ => None,
        })
        .collect()
}

/// Seconds since the Unix epoch.
pub fn now_s(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.unix_ms() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use liftlock_proto::enrollment::CertificateRequest;

    use super::*;
    use crate::identity::subject::Peer;

    /// Seconds since the Unix epoch.
    struct At(i64);

    impl Clock for At {
        fn unix_ms(&self) -> u64 {
            u64::try_from(self.0).unwrap() * 1000
        }
    }

    const NOW: At = At(1_700_000_000);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_ca_is_made_once_and_its_key_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        let first = Authority::open(&ca, &NOW).unwrap();
        let second = Authority::open(&ca, &NOW).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert_eq!(first.fingerprint(), certificate_sha256(&der(first.certificate_pem())));
        assert_eq!((mode(&ca), mode(&ca.join("ca-key.pem"))), (0o700, 0o600));
    }

    #[test]
    fn a_start_that_was_cut_off_while_the_ca_was_made_is_made_good() {
        let folder = tempfile::tempdir().unwrap();
        files::write(&folder.path().join("ca.pem"), "half a certi").unwrap();
        Authority::open(folder.path(), &NOW).unwrap();
        Authority::open(folder.path(), &NOW).unwrap();
    }

    #[test]
    fn a_ca_that_others_trust_is_not_made_anew_when_its_key_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open(folder.path(), &NOW).unwrap();
        Authority::require(folder.path()).unwrap();
        fs::remove_file(folder.path().join("ca-key.pem")).unwrap();
        let refused = Authority::require(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("ca-key.pem is missing"), "{refused}");
    }

    #[test]
    fn a_damaged_ca_is_refused_and_left_alone() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::open(one.path(), &NOW).unwrap();
        Authority::open(other.path(), &NOW).unwrap();
        let refused = || match Authority::open(one.path(), &NOW) {
            Err(IdentityError::Damaged { why, .. }) => why,
            _ => panic!("it was not refused"),
        };
        let certificate = one.path().join("ca.pem");
        let foreign = files::read(&other.path().join("ca.pem")).unwrap().unwrap();
        files::write(&certificate, &foreign).unwrap();
        assert_eq!(refused(), "ca-key.pem is not the key of ca.pem");
        files::write(&certificate, "").unwrap();
        assert_eq!(refused(), "ca.pem holds no certificate");
        std::fs::remove_file(&certificate).unwrap();
        assert_eq!(refused(), "ca.pem is missing");
        assert!(!certificate.exists());
    }

    #[test]
    fn the_servers_certificate_is_kept_until_its_names_change_or_half_its_life_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("ca"), &NOW).unwrap();
        let server = |names: &[String], clock: &At| {
            let made = authority.server(&folder.path().join("server"), names, clock).unwrap();
            made.certificate_pem
        };
        let two = names(&["lift.example", "10.0.0.5", "::1"]);
        let first = server(&two, &NOW);
        assert_eq!(server(&two, &At(NOW.0 + OWN_LIFE / 2 - 2 * CLOCK_SKEW)), first);
        let later = server(&two, &At(NOW.0 + OWN_LIFE / 2 + CLOCK_SKEW));
        assert_ne!(later, first);
        assert_ne!(server(&names(&["lift.example"]), &At(NOW.0 + OWN_LIFE / 2 + CLOCK_SKEW)), later);
    }

    #[test]
    fn a_servers_certificate_of_another_ca_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let server = folder.path().join("server");
        let wanted = names(&["lift.example"]);
        let old = Authority::open(&folder.path().join("old"), &NOW).unwrap();
        let new = Authority::open(&folder.path().join("new"), &NOW).unwrap();
        let before = old.server(&server, &wanted, &NOW).unwrap().certificate_pem;
        assert_ne!(new.server(&server, &wanted, &NOW).unwrap().certificate_pem, before);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("ca"), &NOW).unwrap();
        for name in ["", "two words", "a/b", "https://lift.example"] {
            let made = authority.server(folder.path(), &names(&[name]), &NOW);
            assert!(matches!(made, Err(IdentityError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn only_the_key_of_a_request_counts() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), &NOW).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wanted = CertificateParams::new(names(&["lift.example"])).unwrap();
        wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wanted.distinguished_name.push(DnType::OrganizationName, "liftlock:operator");
        wanted.distinguished_name.push(DnType::CommonName, "root");
        let request = wanted.serialize_request(&key).unwrap();

        let subject = Subject::agent(&"cp1".parse().unwrap());
        let checked = CheckedRequest::parse(request.der()).unwrap();
        let signed = der(&authority.sign(&checked, &subject, NOW.0).unwrap());
        let (_, certificate) = X509Certificate::from_der(&signed).unwrap();
        assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
        assert!(!certificate.is_ca());
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let peer = Peer::of_certificate(&signed).unwrap();
        assert_eq!(peer, Peer { subject, not_before_s: NOW.0, not_after_s: NOW.0 + 30 * DAY });
    }

    #[test]
    fn no_two_certificates_have_the_same_serial_number() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), &NOW).unwrap();
        let request = CheckedRequest::parse(&CertificateRequest::new("cp1").unwrap().csr_der).unwrap();
        let serial = || {
            let signed = authority.sign(&request, &Subject::agent(&"cp1".parse().unwrap()), NOW.0).unwrap();
            let der = der(&signed);
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            certificate.raw_serial().to_vec()
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn a_request_that_another_key_signed_is_refused() {
        let mut request = CertificateRequest::new("cp1").unwrap().csr_der;
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(matches!(CheckedRequest::parse(&request), Err(IdentityError::Request(_))));
        assert!(matches!(CheckedRequest::parse(b""), Err(IdentityError::Request(_))));
    }

    #[test]
    fn a_certificate_without_one_of_our_roles_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), &NOW).unwrap();
        let error = Peer::of_certificate(b"no certificate").unwrap_err();
        assert_eq!(error.why, "it does not parse");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &authority.issuer).unwrap();
        assert_eq!(Peer::of_certificate(signed.der()).unwrap_err().why, "its organisation is no role");
    }
}
