//! With which identity, and to which coordinator, a verb speaks.

use std::path::{Path, PathBuf};

use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::causes::{causes, find_cause};
use liftlock_proto::enrollment::Identity;
use liftlock_proto::v1::operator_service_client::OperatorServiceClient;
use tonic::transport::{Channel, Error as TransportError};

use crate::cli::error::{CliError, refuses_certificate};
use crate::identity::files;

/// The coordinator's operator service.
pub type Client = OperatorServiceClient<Channel>;

/// The identity that `liftlock serve` makes for the machine that it runs on.
pub const LOCAL_OPERATOR: &str = "/var/lib/liftlock-coordinator/operator";

/// Where an identity may lie and who was named as coordinator.
#[derive(Debug, Clone)]
pub struct Whereabouts {
    /// `--identity` or `LIFTLOCK_IDENTITY`.
    pub identity: Option<PathBuf>,
    /// `--coordinator` or `LIFTLOCK_COORDINATOR`.
    pub coordinator: Option<CoordinatorUrl>,
    /// `~/.config/liftlock`, where there is a home.
    pub own_folder: Option<PathBuf>,
}

/// An identity, and the coordinator that it is for.
#[derive(Debug)]
pub struct Found {
    folder: PathBuf,
    identity: Identity,
    coordinator: CoordinatorUrl,
}

impl Whereabouts {
    /// The folder that was named, or else the operator's own and then the local coordinator's.
    fn candidates(&self) -> Vec<PathBuf> {
        match &self.identity {
            Some(named) => vec![named.clone()],
            None => self
                .own_folder
                .iter()
                .cloned()
                .chain([PathBuf::from(LOCAL_OPERATOR)])
                .collect(),
        }
    }

    /// The first identity in the candidates.
    pub fn find(&self) -> Result<Found, CliError> {
        let mut looked = Vec::new();
        for folder in self.candidates() {
            match files::read(&folder.join(CERTIFICATE)) {
                Ok(Some(certificate_pem)) => return self.load(folder, certificate_pem),
                Ok(None) => looked.push(format!("{} (nothing there)", folder.display())),
                Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                    looked.push(format!("{} (not readable by this user)", folder.display()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CliError::NoIdentity { looked })
    }

    fn load(&self, folder: PathBuf, certificate_pem: String) -> Result<Found, CliError> {
        let part = |missing: &'static str| {
            files::read(&folder.join(missing))?.ok_or_else(|| CliError::BrokenIdentity {
                folder: folder.clone(),
                missing,
            })
        };
        let identity = Identity {
            key_pem: part(KEY)?,
            certificate_pem,
            ca_pem: part(CA)?,
        };
        let coordinator = match &self.coordinator {
            Some(named) => named.clone(),
            None => part(COORDINATOR)?.parse().map_err(|_| CliError::BrokenIdentity {
                folder: folder.clone(),
                missing: COORDINATOR,
            })?,
        };
        Ok(Found {
            folder,
            identity,
            coordinator,
        })
    }

    /// Speaks with the coordinator, or says why that cannot be.
    pub async fn connect(&self) -> Result<Client, CliError> {
        let found = self.find()?;
        let unusable = |error: TransportError| CliError::UnusableIdentity {
            folder: found.folder.clone(),
            why: causes(&error),
        };
        let endpoint = found.identity.endpoint(&found.coordinator).map_err(unusable)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| not_connected(&found.coordinator, &error))?;
        Ok(OperatorServiceClient::new(channel))
    }
}

/// Puts an identity into a folder, each file as a whole, 0600.
pub fn store(folder: &Path, identity: &Identity, coordinator: &CoordinatorUrl) -> Result<(), CliError> {
    files::make_folder(folder)?;
    files::write(&folder.join(KEY), &identity.key_pem)?;
    files::write(&folder.join(CA), &identity.ca_pem)?;
    files::write(&folder.join(COORDINATOR), &format!("{coordinator}\n"))?;
    files::write(&folder.join(CERTIFICATE), &identity.certificate_pem)?;
    Ok(())
}

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";
const CA: &str = "ca.pem";
const COORDINATOR: &str = "coordinator";

fn not_connected(coordinator: &CoordinatorUrl, error: &TransportError) -> CliError {
    let why = causes(error);
    if refuses_certificate(&why) {
        CliError::CertificateNotAccepted { why }
    } else if let Some(rustls::Error::InvalidCertificate(reason)) = find_cause(error) {
        CliError::CoordinatorNotTrusted {
            coordinator: coordinator.clone(),
            why: reason.to_string(),
        }
    } else {
        CliError::Unreachable {
            coordinator: coordinator.clone(),
            why,
        }
    }
}
