//! What flags, the configuration file and the defaults come to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use http::Uri;
use http::uri::Scheme;
use liftlock_proto::address::DEFAULT_PORT;
use liftlock_proto::name::NodeName;
use serde::Deserialize;

use super::ServeError;
use super::alerts::Prometheus;
use super::hooks::HookTargets;
use crate::core::catalogue::Checksum;
use crate::identity::files;
use crate::keeper::{CatalogueSource, Fetched, LEASE_TTL_MS};

/// Read when `--config` names no other file.
pub const DEFAULT_CONFIG: &str = "/etc/liftlock/coordinator.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/liftlock-coordinator";
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT);

/// Where the coordinator listens and where its state lies. A flag counts more than the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeOptions {
    /// Configuration file [default: /etc/liftlock/coordinator.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [default: 0.0.0.0:7443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where the store, the CA and the local operator's identity lie [default: /var/lib/liftlock-coordinator]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// DNS name or IP address under which agents and operators dial this machine (repeatable) [default: its host name]
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Folder (a Git checkout, a mounted `ConfigMap`) with one document that says what the cluster is to be raised to; each
    /// change of it is planned and applied
    #[arg(long, value_name = "DIR")]
    pub plans: Option<PathBuf>,
    /// Kubeconfig with which the objects of kind `UpgradePlan` in the cluster are followed instead, and their status is
    /// written; deploy/kubernetes has what it may do
    #[arg(long, value_name = "FILE", conflicts_with = "plans")]
    pub plans_kubeconfig: Option<PathBuf>,
    /// File of the versions that may be raised to, those known to be bad and the stops that are required; read anew for
    /// every plan [default: none, whatever the nodes' repositories offer may be raised to]
    #[arg(long, value_name = "FILE|URL")]
    pub catalogue: Option<String>,
    /// SHA-256 of the catalogue, where it is fetched from an https URL
    #[arg(long, value_name = "HEX")]
    pub catalogue_sha256: Option<Checksum>,
    /// The node that this coordinator runs on, which is raised last of its class [default: the one whose machine-id is this
    /// machine's, if there is one]; needed in a container
    #[arg(long, value_name = "NODE")]
    pub on_node: Option<NodeName>,
    /// Seconds that a lease lasts without renewal. The shorter, the more a slow network costs; for tests that wait for
    /// a lease's end
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = clap::value_parser!(u32).range(1..=30))]
    pub lease_ttl: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct ConfigFile {
    listen: Option<SocketAddr>,
    state_dir: Option<PathBuf>,
    names: Vec<String>,
    plans: Option<PathBuf>,
    plans_kubeconfig: Option<PathBuf>,
    catalogue: Option<String>,
    catalogue_sha256: Option<Checksum>,
    on_node: Option<NodeName>,
    alerts: Option<Prometheus>,
    hooks: HookTargets,
    taint_not_raised: Option<bool>,
}

/// Where what is wanted stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlansSource {
    /// In a folder of documents.
    Folder(PathBuf),
    /// In objects of the cluster that this kubeconfig names.
    Cluster(PathBuf),
}

/// What counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) listen: SocketAddr,
    pub(super) state_dir: PathBuf,
    /// In milliseconds.
    pub(super) lease_ttl: u32,
    /// What is followed.
    pub(super) plans: Option<PlansSource>,
    pub(super) catalogue: Option<CatalogueSource>,
    /// The node that it runs on, where somebody says so.
    pub(super) on_node: Option<NodeName>,
    /// Whose alerts hold a roll-out.
    pub(super) alerts: Option<Prometheus>,
    /// What documents may name to be called.
    pub(super) hooks: HookTargets,
    /// Whether nodes that are not raised yet carry their taint.
    pub(super) taint_not_raised: bool,
    names: Vec<String>,
}

impl Settings {
    pub(super) fn of(options: ServeOptions) -> Result<Self, ServeError> {
        let file = read_config(options.config.as_deref())?;
        let mut names = if options.names.is_empty() { file.names } else { options.names };
        if names.is_empty() {
            names.extend(host_name());
        }
        let state_dir = options.state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        // A checksum belongs to the catalogue beside which it was given.
        let (catalogue, sha256) = match options.catalogue {
            Some(catalogue) => (Some(catalogue), options.catalogue_sha256),
            None => (file.catalogue, options.catalogue_sha256.or(file.catalogue_sha256)),
        };
        let catalogue = catalogue_source(catalogue.as_deref(), sha256, &state_dir)?;
        // A flag names the one source, whatever the file names.
        let plans = match (options.plans, options.plans_kubeconfig) {
            (None, None) => plans_source(file.plans, file.plans_kubeconfig)?,
            (folder, kubeconfig) => plans_source(folder, kubeconfig)?,
        };
        let path = options.config.unwrap_or_else(|| DEFAULT_CONFIG.into());
        let alerts = file.alerts.map(Prometheus::checked).transpose();
        let config = |why| ServeError::Config { path: path.clone(), why };
        let alerts = alerts.map_err(config)?;
        let hooks = file.hooks.checked(&path).map_err(config)?;
        Ok(Self {
            listen: options.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN),
            state_dir,
            lease_ttl: options.lease_ttl.map_or(LEASE_TTL_MS, |seconds| seconds.saturating_mul(1000)),
            plans,
            catalogue,
            on_node: options.on_node.or(file.on_node),
            alerts,
            hooks,
            taint_not_raised: file.taint_not_raised.unwrap_or(true),
            names,
        })
    }

    /// What the server's certificate is for: what was named, what was bound, and this machine as it calls itself.
    pub(super) fn names(&self, bound: SocketAddr) -> Vec<String> {
        let bound = (!bound.ip().is_unspecified()).then(|| bound.ip().to_string());
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut names: Vec<String> = Vec::new();
        for name in self.names.iter().cloned().chain(bound).chain(local) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// Where this machine itself reaches a coordinator that is bound to an address.
pub(super) fn local_url(bound: SocketAddr) -> String {
    let address = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("https://{}", SocketAddr::new(address, bound.port()))
}

/// The file that was named, or the default one if it is there.
fn read_config(named: Option<&Path>) -> Result<ConfigFile, ServeError> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    let failed = |why: String| ServeError::Config { path: path.to_owned(), why };
    match files::read(path)? {
        Some(text) => toml::from_str(&text).map_err(|error| failed(error.to_string())),
        None if named.is_none() => Ok(ConfigFile::default()),
        None => Err(failed("there is no such file".to_owned())),
    }
}

/// The one source of what is wanted.
fn plans_source(
    folder: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
) -> Result<Option<PlansSource>, ServeError> {
    match (folder, kubeconfig) {
        (None, None) => Ok(None),
        (Some(folder), None) => Ok(Some(PlansSource::Folder(folder))),
        (None, Some(kubeconfig)) => Ok(Some(PlansSource::Cluster(kubeconfig))),
        (Some(folder), Some(kubeconfig)) => Err(ServeError::Plans { folder, kubeconfig }),
    }
}

/// Where the catalogue is that was named.
fn catalogue_source(
    named: Option<&str>,
    sha256: Option<Checksum>,
    state_dir: &Path,
) -> Result<Option<CatalogueSource>, ServeError> {
    let refused = |why: &str| {
        Err(ServeError::Catalogue { named: named.unwrap_or_default().to_owned(), why: why.to_owned() })
    };
    let is_path = |text: &str| !text.contains("://");
    match (named, sha256) {
        (None, None) => Ok(None),
        (None, Some(_)) => refused("a checksum needs a catalogue, as an https URL"),
        (Some(path), None) if is_path(path) => Ok(Some(CatalogueSource::File(path.into()))),
        (Some(path), Some(_)) if is_path(path) => {
            refused("a file of this machine takes no checksum: its edits count at once")
        }
        (Some(_), None) => refused(
            "what is fetched from an URL needs its checksum: give catalogue-sha256, as `sha256sum` prints it",
        ),
        (Some(text), Some(sha256)) => match text.parse::<Uri>() {
            Ok(url) if url.scheme() == Some(&Scheme::HTTPS) => {
                let copy = state_dir.join("catalogue.toml");
                Ok(Some(CatalogueSource::Fetched(Fetched { url, sha256, copy })))
            }
            _ => refused("give the path of a file, or an URL with https://"),
        },
    }
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(file: &str, options: ServeOptions) -> Result<Settings, ServeError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.toml");
        files::write(&path, file).unwrap();
        Settings::of(ServeOptions { config: Some(path), ..options })
    }

    #[test]
    fn a_flag_counts_more_than_the_file_and_the_file_more_than_the_default() {
        let file = "listen = \"10.0.0.5:1\"\nstate-dir = \"/srv/liftlock\"\nnames = [\"lift.example\"]\nplans = \"/srv/plans\"\n\
                    catalogue = \"/srv/catalogue.toml\"\non-node = \"w3\"\n";
        let from_file = settings(file, ServeOptions::default()).unwrap();
        assert_eq!(from_file.listen, "10.0.0.5:1".parse().unwrap());
        assert_eq!(from_file.state_dir, Path::new("/srv/liftlock"));
        assert_eq!(from_file.plans, Some(PlansSource::Folder("/srv/plans".into())));
        assert_eq!(from_file.catalogue, Some(CatalogueSource::File("/srv/catalogue.toml".into())));
        assert_eq!(from_file.on_node, "w3".parse().ok());
        let flags = ServeOptions {
            listen: Some("127.0.0.1:2".parse().unwrap()),
            names: vec!["other.example".to_owned()],
            catalogue: Some("/other.toml".into()),
            plans_kubeconfig: Some("/etc/liftlock/plans.kubeconfig".into()),
            ..ServeOptions::default()
        };
        let both = settings(file, flags).unwrap();
        assert_eq!(both.plans, Some(PlansSource::Cluster("/etc/liftlock/plans.kubeconfig".into())));
        assert_eq!((both.listen.port(), both.names[0].as_str()), (2, "other.example"));
        assert_eq!(both.catalogue, Some(CatalogueSource::File("/other.toml".into())));
        let neither = settings("", ServeOptions::default()).unwrap();
        assert_eq!(neither.listen, "0.0.0.0:7443".parse().unwrap());
        assert_eq!(neither.catalogue, None);
    }

    #[test]
    fn a_file_that_cannot_be_followed_is_named_with_the_line() {
        let error = settings("listen = 7443\n", ServeOptions::default()).unwrap_err().to_string();
        assert!(error.contains("coordinator.toml") && error.contains("line 1"), "{error}");
        let error = settings("lisen = \"0.0.0.0:1\"\n", ServeOptions::default()).unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
        let missing = ServeOptions { config: Some("/nowhere/at/all.toml".into()), ..ServeOptions::default() };
        let error = Settings::of(missing).unwrap_err().to_string();
        assert!(error.contains("there is no such file"), "{error}");
    }

    #[test]
    fn what_is_wanted_stands_in_a_folder_or_in_the_cluster_and_not_in_both() {
        let file = "plans = \"/srv/plans\"\nplans-kubeconfig = \"/srv/kubeconfig\"\n";
        let error = settings(file, ServeOptions::default()).unwrap_err().to_string();
        assert!(error.contains("/srv/plans") && error.contains("/srv/kubeconfig"), "{error}");
        let file = "plans-kubeconfig = \"/srv/kubeconfig\"\n";
        let cluster = Some(PlansSource::Cluster("/srv/kubeconfig".into()));
        assert_eq!(settings(file, ServeOptions::default()).unwrap().plans, cluster);
    }

    #[test]
    fn a_catalogue_is_a_file_or_an_https_url_with_a_checksum_and_nothing_else() {
        let given = |catalogue: &str, sha256: Option<&str>| {
            let sha256 = sha256.map(|hex| format!("catalogue-sha256 = \"{hex}\"\n")).unwrap_or_default();
            settings(&format!("catalogue = \"{catalogue}\"\n{sha256}"), ServeOptions::default())
        };
        let url = "https://lists.example/catalogue.toml";
        let sha256 = Checksum::of(b"");
        let hex = sha256.to_string().to_ascii_uppercase();
        let Some(CatalogueSource::Fetched(fetched)) = given(url, Some(&hex)).unwrap().catalogue else {
            panic!()
        };
        assert_eq!((fetched.url.to_string().as_str(), fetched.sha256), (url, sha256));
        assert_eq!(fetched.copy, Path::new("/var/lib/liftlock-coordinator/catalogue.toml"));
        for (catalogue, sha256, why) in [
            (url, None, "needs its checksum"),
            (url, Some("abc"), "is no SHA-256"),
            ("http://lists.example/catalogue.toml", Some(hex.as_str()), "an URL with https://"),
            ("/etc/liftlock/catalogue.toml", Some(&hex), "takes no checksum"),
        ] {
            let error = given(catalogue, sha256).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_certificate_names_what_was_bound_and_this_machine_once_each() {
        let named = ServeOptions { names: vec!["localhost".to_owned()], ..ServeOptions::default() };
        let settings = settings("", named).unwrap();
        assert_eq!(settings.names("0.0.0.0:1".parse().unwrap()), ["localhost", "127.0.0.1", "::1"]);
        let bound = settings.names("10.0.0.5:1".parse().unwrap());
        assert_eq!(bound, ["localhost", "10.0.0.5", "127.0.0.1", "::1"]);
    }

    #[test]
    fn a_coordinator_that_listens_everywhere_is_reached_here_over_the_loopback() {
        let url = |address: &str| local_url(address.parse().unwrap());
        assert_eq!(url("0.0.0.0:7443"), "https://127.0.0.1:7443");
        assert_eq!(url("[::]:7443"), "https://[::1]:7443");
        assert_eq!(url("10.0.0.5:7443"), "https://10.0.0.5:7443");
    }
}
