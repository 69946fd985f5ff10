//! The agent's configuration: `/etc/liftlock/agent.toml`, and the command line over it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use jiff::SignedDuration;
use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::name::{NameError, NodeName};
use liftlock_proto::retention::{Age, Retention, Size};
use serde::Deserialize;

use crate::addons::Addons;
use crate::disk::Disk;
use crate::hooks::{HookCommands, Hooks};
use crate::host::Layout;
use crate::host::real::{API_TIMEOUT, PATH, RealConfig};
use crate::packages::PackageSettings;
use crate::redeploy::replacement::Replacement;

/// Where the configuration is looked for.
pub const DEFAULT_FILE: &str = "/etc/liftlock/agent.toml";

/// Where a join token is looked for, below the root.
const TOKEN_FILE: &str = "/etc/liftlock/join-token";

/// Where the agent keeps its state, below the root.
const STATE_DIR: &str = "/var/lib/liftlock";

/// Room for a few minor versions, of which one is raised after the other in half a year.
const KEEP: Retention =
    Retention { keep: Some(3), age: Some(Age(Duration::from_hours(180 * 24))), size: Some(Size(10 << 30)) };

/// What the configuration file, or the command line over it, may say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Where the coordinator listens. An enrolled agent knows it.
    #[arg(long, value_name = "https://HOST:7443")]
    pub coordinator: Option<CoordinatorUrl>,
    /// This node's name in the cluster. An enrolled agent knows it; before, the host's name is taken.
    #[arg(long)]
    pub node: Option<NodeName>,
    /// Journal, fencing token and identity: /var/lib/liftlock. Must survive a reboot.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<Utf8PathBuf>,
    /// The folder that is / of a stand-in node.
    #[arg(long, value_name = "DIR")]
    pub root: Option<Utf8PathBuf>,
    /// Folders in which programs are looked up.
    #[arg(long, value_name = "DIR")]
    pub path: Option<Vec<Utf8PathBuf>>,
    /// The container runtime's socket; the kubelet's own if it is not given.
    #[arg(long, value_name = "SOCKET")]
    pub runtime_endpoint: Option<String>,
    /// This node's etcd; port 2379 of the loopback address if it is not given.
    #[arg(long, value_name = "URL")]
    pub etcd_endpoint: Option<String>,
    /// How long a step goes on asking an API server that does not answer before it fails, such as 90s: 3m.
    #[arg(long, value_name = "DURATION")]
    pub api_timeout: Option<SignedDuration>,
    /// Once a roll-out has raised every node, keep so many whole backups: 3.
    #[arg(long, value_name = "NUMBER")]
    pub keep_backups: Option<u32>,
    /// And none that is older, such as 90d: 180d. The newest whole one stays.
    #[arg(long, value_name = "AGE")]
    pub keep_backups_for: Option<Age>,
    /// And only as many of the newest as fit, such as 5GiB: 10GiB. The newest whole one stays.
    #[arg(long, value_name = "SIZE")]
    pub keep_backups_within: Option<Size>,
    /// What brings this node's packages, and from where; in the file only.
    #[arg(skip)]
    pub packages: Option<PackageSettings>,
    /// How this host is replaced as a whole; in the file only.
    #[arg(skip)]
    pub redeploy: Option<Replacement>,
    /// Where manifests of add-ons lie, and how they are applied; in the file only.
    #[arg(skip)]
    pub addons: Option<Addons>,
    /// What a plan may name to be run on this node; in the file only.
    #[arg(skip)]
    pub hooks: Option<HookCommands>,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    settings: Settings,
    /// Where they were looked for.
    file: Utf8PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that is no configuration.
    #[error("the configuration {path} does not read: {why}")]
    Invalid {
        /// The file.
        path: Utf8PathBuf,
        /// Why, with the line.
        why: String,
    },
    /// The host has no name that could be a node's.
    #[error("this host's name does not serve as the node's: {0}; say it with --node or `node = \"…\"`")]
    HostName(String),
}

impl Config {
    /// Reads the file, `None` for the default one, which may be missing; what `over` says goes before it.
    pub fn load(disk: &dyn Disk, file: Option<&Utf8Path>, over: Settings) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Utf8Path::new(DEFAULT_FILE));
        let failed = |source| ConfigError::Io { path: path.to_owned(), source };
        let read = match (disk.read(path).map_err(failed)?, file) {
            (Some(bytes), _) => parse(path, bytes)?,
            (None, None) => Settings::default(),
            (None, Some(_)) => return Err(failed(io::ErrorKind::NotFound.into())),
        };
        let settings = Settings {
            coordinator: over.coordinator.or(read.coordinator),
            node: over.node.or(read.node),
            state_dir: over.state_dir.or(read.state_dir),
            root: over.root.or(read.root),
            path: over.path.or(read.path),
            runtime_endpoint: over.runtime_endpoint.or(read.runtime_endpoint),
            etcd_endpoint: over.etcd_endpoint.or(read.etcd_endpoint),
            api_timeout: over.api_timeout.or(read.api_timeout),
            keep_backups: over.keep_backups.or(read.keep_backups),
            keep_backups_for: over.keep_backups_for.or(read.keep_backups_for),
            keep_backups_within: over.keep_backups_within.or(read.keep_backups_within),
            packages: over.packages.or(read.packages),
            redeploy: over.redeploy.or(read.redeploy),
            addons: over.addons.or(read.addons),
            hooks: over.hooks.or(read.hooks),
        };
        Ok(Self { settings, file: path.to_owned() })
    }

    /// The coordinator to dial, if it is said; an enrolled agent knows it.
    pub fn coordinator(&self) -> Option<&CoordinatorUrl> {
        self.settings.coordinator.as_ref()
    }

    /// The node's name, if it is said.
    pub fn node(&self) -> Option<&NodeName> {
        self.settings.node.as_ref()
    }

    /// The node's name as it is said, or else the host's, as kubeadm takes it: in lower case.
    pub fn node_or_host_name(&self) -> Result<NodeName, ConfigError> {
        if let Some(node) = self.node() {
            return Ok(node.clone());
        }
        let name = nix::unistd::gethostname().map_err(|error| ConfigError::HostName(error.to_string()))?;
        let name = name.to_string_lossy().trim().to_lowercase();
        name.parse().map_err(|error: NameError| ConfigError::HostName(error.to_string()))
    }

    /// Where things lie.
    pub fn layout(&self) -> Layout {
        let root = self.settings.root.clone().unwrap_or(Utf8PathBuf::from("/"));
        let layout = Layout { root, state_dir: Utf8PathBuf::new() };
        let state_dir = self.settings.state_dir.clone().unwrap_or_else(|| layout.at(STATE_DIR));
        Layout { state_dir, ..layout }
    }

    /// Where a join token is looked for.
    pub fn token_file(&self) -> Utf8PathBuf {
        self.layout().at(TOKEN_FILE)
    }

    /// Which backups stay after a roll-out that ended well.
    pub fn retention(&self) -> Retention {
        Retention {
            keep: self.settings.keep_backups.or(KEEP.keep),
            age: self.settings.keep_backups_for.or(KEEP.age),
            size: self.settings.keep_backups_within.or(KEEP.size),
        }
    }

    /// How this host is replaced as a whole, if it is said.
    pub fn redeploy(&self) -> Option<&Replacement> {
        self.settings.redeploy.as_ref()
    }

    /// What the host needs to know.
    pub fn host(&self, node: NodeName) -> RealConfig {
        let path = || PATH.into_iter().map(Utf8PathBuf::from).collect();
        RealConfig {
            node,
            layout: self.layout(),
            path: self.settings.path.clone().unwrap_or_else(path),
            runtime_endpoint: self.settings.runtime_endpoint.clone(),
            etcd_endpoint: self.settings.etcd_endpoint.clone(),
            // One that is negative asks once, as zero does.
            api_timeout: self
                .settings
                .api_timeout
                .map_or(API_TIMEOUT, |timeout| timeout.try_into().unwrap_or_default()),
            packages: self.settings.packages.clone().unwrap_or_default(),
            redeploy: self.redeploy().cloned().map(Arc::new),
            addons: Arc::new(self.settings.addons.clone().unwrap_or_default()),
            hooks: Arc::new(Hooks {
                file: self.file.clone(),
                commands: self.settings.hooks.clone().unwrap_or_default(),
            }),
        }
    }
}

fn parse(path: &Utf8Path, bytes: Vec<u8>) -> Result<Settings, ConfigError> {
    let invalid = |why: String| ConfigError::Invalid { path: path.to_owned(), why };
    let text = String::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
    toml::from_str(&text).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    fn load(text: &str, over: Settings) -> Result<Config, ConfigError> {
        let disk = MemoryDisk::default();
        disk.put(DEFAULT_FILE.into(), text.as_bytes());
        Config::load(&disk, None, over)
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let file =
            "coordinator = 'https://10.0.0.5:7443'\nnode = 'cp1'\nstate-dir = '/state'\nroot = '/standin'\n";
        let over = Settings { node: "cp2".parse().ok(), ..Settings::default() };
        let config = load(file, over).unwrap();
        assert_eq!(config.node_or_host_name().unwrap().as_str(), "cp2");
        assert_eq!(config.coordinator().unwrap().to_string(), "https://10.0.0.5:7443");
        assert_eq!(
            (config.layout().root.as_str(), config.layout().state_dir.as_str()),
            ("/standin", "/state")
        );
        assert_eq!(config.token_file(), "/standin/etc/liftlock/join-token");
    }

    #[test]
    fn without_a_word_everything_lies_where_the_documents_say() {
        let config = Config::load(&MemoryDisk::default(), None, Settings::default()).unwrap();
        assert_eq!(config.layout().state_dir, STATE_DIR);
        assert_eq!(config.token_file(), TOKEN_FILE);
        assert_eq!(config.host("cp1".parse().unwrap()).path.len(), PATH.len());
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_a_wrong_word_is_named_with_its_line() {
        let named = Config::load(&MemoryDisk::default(), Some("/no.toml".into()), Settings::default());
        assert!(named.unwrap_err().to_string().contains("/no.toml"));
        let wrong = load("coordinater = 'https://a:1'", Settings::default()).unwrap_err().to_string();
        assert!(wrong.contains("coordinater") && wrong.contains("line 1"), "{wrong}");
        let url = load("coordinator = 'http://a:1'", Settings::default()).unwrap_err().to_string();
        assert!(url.contains("write it as https://HOST:PORT"), "{url}");
    }
}
