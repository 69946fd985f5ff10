//! With which identity, and to which coordinator, a verb speaks.

use std::path::{Path, PathBuf};

use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::causes::{causes, find_cause};
use liftlock_proto::enrollment::{DialError, Identity, dial};
use liftlock_proto::v1::operator_service_client::OperatorServiceClient;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::transport::Channel;

use crate::cli::error::CliError;
use crate::cli::time::{clock, moment};
use crate::clock::{Clock, SystemClock};
use crate::identity::files;
use crate::identity::subject::Peer;

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
            None => self.own_folder.iter().cloned().chain([PathBuf::from(LOCAL_OPERATOR)]).collect(),
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
            files::read(&folder.join(missing))?
                .ok_or_else(|| CliError::BrokenIdentity { folder: folder.clone(), missing })
        };
        let identity = Identity { key_pem: part(KEY)?, certificate_pem, ca_pem: part(CA)? };
        let coordinator = match &self.coordinator {
            Some(named) => named.clone(),
            None => part(COORDINATOR)?
                .parse()
                .map_err(|_| CliError::BrokenIdentity { folder: folder.clone(), missing: COORDINATOR })?,
        };
        Ok(Found { folder, identity, coordinator })
    }

    /// Speaks with the coordinator, or says why that cannot be.
    pub async fn connect(&self) -> Result<Client, CliError> {
        let found = self.find()?;
        found.refuse_ended(SystemClock.unix_ms())?;
        let endpoint =
            found.identity.endpoint(&found.coordinator).map_err(|error| found.unusable(causes(&error)))?;
        let channel = dial(&endpoint).await.map_err(|error| not_connected(&found.coordinator, &error))?;
        Ok(OperatorServiceClient::new(channel))
    }
}

impl Found {
    /// TLS would only cut the connection, without a word.
    fn refuse_ended(&self, now_ms: u64) -> Result<(), CliError> {
        let unusable = |why: String| self.unusable(why);
        let der = CertificateDer::from_pem_slice(self.identity.certificate_pem.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
        let peer = Peer::of_certificate(&der).map_err(|error| unusable(error.to_string()))?;
        let end_ms = u64::try_from(peer.not_after_s).unwrap_or(0).saturating_mul(1000);
        if now_ms <= end_ms {
            return Ok(());
        }
        Err(CliError::CertificateEnded { folder: self.folder.clone(), ended: clock(moment(end_ms)) })
    }

    fn unusable(&self, why: String) -> CliError {
        CliError::UnusableIdentity { folder: self.folder.clone(), why }
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

fn not_connected(coordinator: &CoordinatorUrl, error: &DialError) -> CliError {
    let why = causes(error);
    if let Some(rustls::Error::InvalidCertificate(reason)) = find_cause(error) {
        CliError::CoordinatorNotTrusted { coordinator: coordinator.clone(), why: reason.to_string() }
    } else {
        CliError::Unreachable { coordinator: coordinator.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;
    use crate::identity::authority::Authority;

    fn whereabouts(folder: &Path) -> Whereabouts {
        Whereabouts { identity: Some(folder.to_owned()), coordinator: None, own_folder: None }
    }

    struct At(u64);

    impl Clock for At {
        fn unix_ms(&self) -> u64 {
            self.0
        }
    }

    const NOON: u64 = 1_767_268_800_000;

    fn identity_made_at(now: u64, folder: &Path) {
        let authority = Authority::open(&folder.join("ca"), &At(now)).unwrap();
        authority.local_operator(&folder.join("operator"), &At(now)).unwrap();
    }

    #[test]
    fn an_empty_folder_is_named_with_the_ways_to_an_identity() {
        let folder = tempfile::tempdir().unwrap();
        let error = whereabouts(folder.path()).find().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{} (nothing there)", folder.path().display())), "{text}");
        assert!(text.contains("liftlock login"), "{text}");
    }

    #[test]
    fn what_is_stored_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity {
            key_pem: "key".to_owned(),
            certificate_pem: "certificate".to_owned(),
            ca_pem: "ca".to_owned(),
        };
        let coordinator: CoordinatorUrl = "https://lift.example".parse().unwrap();
        store(folder.path(), &identity, &coordinator).unwrap();
        let found = whereabouts(folder.path()).find().unwrap();
        assert_eq!((found.identity, found.coordinator), (identity, coordinator));
    }

    #[test]
    fn a_part_of_an_identity_is_not_taken_for_a_whole_one() {
        for missing in [KEY, CA, COORDINATOR] {
            let folder = tempfile::tempdir().unwrap();
            for part in [KEY, CERTIFICATE, CA, COORDINATOR].into_iter().filter(|part| *part != missing) {
                files::write(&folder.path().join(part), "https://lift.example").unwrap();
            }
            let text = whereabouts(folder.path()).find().unwrap_err().to_string();
            assert!(text.contains(&format!("{missing} is missing")), "{text}");
        }
    }

    #[test]
    fn a_certificate_that_has_ended_is_named_with_its_end_before_anyone_is_dialled() {
        let folder = tempfile::tempdir().unwrap();
        identity_made_at(NOON, folder.path());
        let operator = folder.path().join("operator");
        files::write(&operator.join(COORDINATOR), "https://lift.example").unwrap();
        let found = whereabouts(&operator).find().unwrap();
        assert!(found.refuse_ended(NOON).is_ok());
        let in_a_hundred_years = NOON + 100 * 366 * 24 * 3_600 * 1_000;
        let error = found.refuse_ended(in_a_hundred_years).unwrap_err();
        assert_eq!(error.exit(), Exit::NotPermitted);
        assert!(error.to_string().contains("liftlock login"), "{error}");
    }
}
