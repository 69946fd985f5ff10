//! `liftlock serve`: the coordinator, from its start to its end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use liftlock_proto::v1;
use liftlock_proto::v1::agent_service_server::AgentServiceServer;
use liftlock_proto::v1::operator_service_server::OperatorServiceServer;
use sd_notify::NotifyState;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;

use crate::clock::SystemClock;
use crate::identity::authority::{Authority, IdentityError};
use crate::identity::files::{self, FileError};
use crate::keeper::Keeper;
use crate::rpc::access::AnyRole;
use crate::rpc::agents::{Agents, MAX_MESSAGE};
use crate::rpc::operators::Operators;
use crate::store::{SledStore, StoreError};

/// Read when `--config` names no other file.
pub const DEFAULT_CONFIG: &str = "/etc/liftlock/coordinator.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/liftlock-coordinator";
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7443);

/// How often an idle connection is tried, and how long its answer may take: a node that lost power is noticed
/// within their sum.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long open calls may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

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
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct ConfigFile {
    listen: Option<SocketAddr>,
    state_dir: Option<PathBuf>,
    names: Vec<String>,
}

/// What flags, file and defaults come to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    listen: SocketAddr,
    state_dir: PathBuf,
    names: Vec<String>,
}

/// Why the coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration file.
    #[error("{} is not a configuration of the coordinator: {why}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// A file of its own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The CA or a certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}; {}", listen_hint(source))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// TLS or the server itself.
    #[error("the server failed: {0}")]
    Server(String),
}

fn listen_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "another process has that port, stop it or give another --listen",
        io::ErrorKind::AddrNotAvailable => "that is no address of this machine, give another --listen",
        io::ErrorKind::PermissionDenied => "ports below 1024 take a privilege, give another --listen",
        _ => "give another --listen",
    }
}

/// Runs the coordinator until SIGTERM or SIGINT.
pub async fn run(options: ServeOptions) -> Result<(), ServeError> {
    // Another part of the process may have chosen the same provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = Settings::of(options)?;
    let mut stop = Stop::install().map_err(|error| ServeError::Server(error.to_string()))?;

    // The port first: a second coordinator is told so before it touches anything.
    let listener = listen(settings.listen).await?;
    let bound = listener.local_addr().map_err(|source| ServeError::Listen {
        address: settings.listen,
        source,
    })?;
    let opened = settings.clone();
    let coordinator = tokio::task::spawn_blocking(move || Coordinator::open(&opened, bound))
        .await
        .map_err(|error| ServeError::Server(error.to_string()))??;

    let keeper = Arc::clone(&coordinator.keeper);
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ServeError::Server(error.to_string()))?;
    let any_role = AnyRole(Arc::clone(&keeper));
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        .tls_config(coordinator.tls)
        .map_err(|error| ServeError::Server(error.to_string()))?
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .tcp_keepalive(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .add_service(
            AgentServiceServer::new(Agents::new(Arc::clone(&keeper))).max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(OperatorServiceServer::new(Operators::new(Arc::clone(&keeper))))
        .add_service(InterceptedService::new(health_service, any_role.clone()))
        .add_service(InterceptedService::new(reflection, any_role))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            let _ = stopped.await;
        });

    files::write(
        &settings.state_dir.join("operator/coordinator"),
        &format!("{}\n", local_url(bound)),
    )?;
    tracing::info!(address = %bound, state = %settings.state_dir.display(), "the coordinator serves");
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    tokio::spawn(report_failure(Arc::clone(&keeper), health));
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(|error| ServeError::Server(error.to_string())),
        () = stop.wait() => {}
    }
    tracing::info!("the coordinator stops");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let _ = stopping.send(());
    keeper.stop();
    match tokio::time::timeout(GRACE, server).await {
        Ok(ended) => ended.map_err(|error| ServeError::Server(error.to_string())),
        Err(_) => Ok(()),
    }
}

/// What lives in the state directory, opened.
struct Coordinator {
    keeper: Arc<Keeper>,
    tls: ServerTlsConfig,
}

impl Coordinator {
    /// The store first: its lock keeps a second coordinator away from everything else.
    fn open(settings: &Settings, bound: SocketAddr) -> Result<Self, ServeError> {
        let clock = SystemClock;
        let state_dir = &settings.state_dir;
        files::make_folder(state_dir)?;
        let store = SledStore::open(&state_dir.join("store"))?;
        let authority = Authority::open(&state_dir.join("ca"), &clock)?;
        let own = authority.server(&state_dir.join("server"), &names(settings, bound), &clock)?;
        authority.local_operator(&state_dir.join("operator"), &clock)?;
        // The CA goes along, so that whoever knows only its hash can check it.
        let chain = format!("{}{}", own.certificate_pem, authority.certificate_pem());
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(chain, own.key_pem))
            .client_ca_root(Certificate::from_pem(authority.certificate_pem()))
            .client_auth_optional(true);
        let keeper = Keeper::open(Box::new(store), authority, Box::new(clock))?;
        Ok(Self {
            keeper: Arc::new(keeper),
            tls,
        })
    }
}

impl Settings {
    fn of(options: ServeOptions) -> Result<Self, ServeError> {
        let file = read_config(options.config.as_deref())?;
        let names = if options.names.is_empty() {
            file.names
        } else {
            options.names
        };
        Ok(Self {
            listen: options.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN),
            state_dir: options
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            names: if names.is_empty() {
                host_name().into_iter().collect()
            } else {
                names
            },
        })
    }
}

/// The file that was named, or the default one if it is there.
fn read_config(named: Option<&Path>) -> Result<ConfigFile, ServeError> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    let failed = |why: String| ServeError::Config {
        path: path.to_owned(),
        why,
    };
    match files::read(path)? {
        Some(text) => toml::from_str(&text).map_err(|error| failed(error.to_string())),
        None if named.is_none() => Ok(ConfigFile::default()),
        None => Err(failed("there is no such file".to_owned())),
    }
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// What was named, what was bound, and this machine as it calls itself.
fn names(settings: &Settings, bound: SocketAddr) -> Vec<String> {
    let mut names = settings.names.clone();
    if !bound.ip().is_unspecified() {
        names.push(bound.ip().to_string());
    }
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Where this machine itself reaches the coordinator.
fn local_url(bound: SocketAddr) -> String {
    let address = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("https://{}", SocketAddr::new(address, bound.port()))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
}

/// Tells systemd and whoever asks for health once nothing can be recorded any more.
async fn report_failure(keeper: Arc<Keeper>, health: tonic_health::server::HealthReporter) {
    let mut changes = keeper.changes();
    health.set_service_status("", ServingStatus::Serving).await;
    while changes.changed().await.is_ok() {
        if let Some(why) = keeper.failure() {
            health.set_service_status("", ServingStatus::NotServing).await;
            let _ = sd_notify::notify(&[NotifyState::Status(&why)]);
            return;
        }
    }
}

/// The signals that end a service.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
