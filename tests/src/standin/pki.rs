//! Certificate authorities and certificates of a stand-in cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A certificate authority whose certificate and key lie in two files, as kubeadm's do.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// Makes one and writes it to `NAME.crt` and `NAME.key`.
    pub fn create(name: &str, folder: &Utf8Path, file: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("{file}.crt")), &certificate)?;
        write_secret(&folder.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Reads one from `NAME.crt` and `NAME.key`.
    pub fn load(folder: &Utf8Path, file: &str) -> Result<Self> {
        let read = |path: &Utf8Path| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let certificate = read(&folder.join(format!("{file}.crt")))?;
        let key = KeyPair::from_pem(&read(&folder.join(format!("{file}.key")))?)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&certificate, key)?, certificate })
    }

    /// Issues a certificate for a client and, where names or addresses are given, for a server.
    pub fn issue(&self, common_name: &str, organization: &str, names: &[String]) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

impl Identity {
    /// Writes it to `NAME.crt` and `NAME.key`.
    pub fn write(&self, folder: &Utf8Path, file: &str) -> Result<()> {
        if let Some(parent) = folder.join(file).parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(folder.join(format!("{file}.crt")), &self.certificate)?;
        write_secret(&folder.join(format!("{file}.key")), &self.key)
    }
}

/// A file for its owner only.
pub fn write_secret(path: &Utf8Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {path}"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

/// A TLS server from PEM files. Clients must show a certificate of the authority, or may where `anonymous`.
pub fn server_config(
    certificate: &Utf8Path,
    key: &Utf8Path,
    client_authority: &Utf8Path,
    anonymous: bool,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(client_authority)? {
        roots.add(authority?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    if anonymous {
        verifier = verifier.allow_unauthenticated();
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Who a client's certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user's name.
    pub common_name: String,
    /// O: the user's groups.
    pub organizations: Vec<String>,
}

impl Subject {
    /// From a certificate that was verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().ok().map(str::to_owned)
        };
        Some(Self {
            common_name: subject.iter_common_name().find_map(text).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
        })
    }
}
