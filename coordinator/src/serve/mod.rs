//! `liftlock serve`: the coordinator, from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use liftlock_proto::machine::{MACHINE_ID, mark};
use liftlock_proto::v1;
use liftlock_proto::v1::agent_service_server::AgentServiceServer;
use liftlock_proto::v1::operator_service_server::OperatorServiceServer;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tonic::service::InterceptorLayer;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use crate::clock::SystemClock;
use crate::identity::authority::{Authority, IdentityError};
use crate::identity::files::{self, FileError};
use crate::keeper::{Keeper, LOOK_AGAIN, Whereabouts};
use crate::plans::Follower;
use crate::plans::resource::ResourceFollower;
use crate::rpc::access::AnyRole;
use crate::rpc::agents::{Agents, MAX_MESSAGE};
use crate::rpc::operators::Operators;
use crate::store::{SledStore, Store as _, StoreError};

mod alerts;
mod catalogue;
mod door;
mod hooks;
mod https;
mod leftovers;
mod settings;

use door::{Door, Greeter};
pub use settings::{DEFAULT_CONFIG, ServeOptions};
use settings::{PlansSource, Settings, local_url};

/// How often an idle connection is tried, and how long its answer may take: a node that lost power is noticed
/// within their sum.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long open calls may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

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
    /// The catalogue's name or checksum.
    #[error("the catalogue \"{named}\" is not one to follow: {why}")]
    Catalogue {
        /// What was given.
        named: String,
        /// Why not, and what would be allowed.
        why: String,
    },
    /// Two sources of what is wanted.
    #[error(
        "what is wanted may stand in one place: in the folder {} (plans) or in the cluster of {} (plans-kubeconfig); leave one \
         of them out",
        folder.display(),
        kubeconfig.display()
    )]
    Plans {
        /// The folder.
        folder: PathBuf,
        /// The kubeconfig.
        kubeconfig: PathBuf,
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
    /// Signals cannot be waited for.
    #[error("the system gives no signals: {0}")]
    Signals(io::Error),
    /// TLS or the server itself.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The descriptors of the services.
    #[error("the services cannot be described for reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The start was cut off.
    #[error("the start failed inside: {0}")]
    Inside(#[from] tokio::task::JoinError),
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
    let stop = Stop::install().map_err(ServeError::Signals)?;
    Coordinator::open(options).await?.serve(stop.wait()).await
}

/// A coordinator that has everything it needs and does not answer yet.
pub struct Coordinator {
    settings: Settings,
    listener: TcpListener,
    bound: SocketAddr,
    keeper: Arc<Keeper>,
    tls: ServerTlsConfig,
}

impl Coordinator {
    /// Takes its port, its store and its identity, and makes what is not there yet.
    pub async fn open(options: ServeOptions) -> Result<Self, ServeError> {
        // An error means that this process chose the same provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = Settings::of(options)?;
        let failed = |source| ServeError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let opening = settings.clone();
        let (keeper, tls) = tokio::task::spawn_blocking(move || open_state(&opening, bound)).await??;
        Ok(Self { settings, listener, bound, keeper: Arc::new(keeper), tls })
    }

    /// Where this machine reaches it: `https://127.0.0.1:7443`.
    pub fn url(&self) -> String {
        local_url(self.bound)
    }

    /// Answers until `stop` comes.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let door = Door::default();
        let (health, router) = services(&self.keeper, self.tls.clone(), &door)?;
        let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
        let url = self.url();
        let server = router.serve_with_incoming_shutdown(door.incoming(self.listener), async {
            let _ = stopped.await;
        });
        files::write(&self.settings.state_dir.join("operator/coordinator"), &format!("{url}\n"))?;
        tracing::info!(address = %self.bound, state = %self.settings.state_dir.display(), "the coordinator serves");
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let reporter = tokio::spawn(report_failure(Arc::clone(&self.keeper), health));
        let lookout = tokio::spawn(look_again(Arc::clone(&self.keeper)));
        let follower = self.settings.plans.map(|source| follow(&self.keeper, source));
        let fetcher = tokio::spawn(catalogue::keep(self.settings.catalogue));
        let asker = tokio::spawn(alerts::ask(Arc::clone(&self.keeper), self.settings.alerts));
        let caller = tokio::spawn(hooks::call(Arc::clone(&self.keeper), self.settings.hooks));

        tokio::pin!(server);
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = stop => {}
        }
        tracing::info!("the coordinator stops");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        reporter.abort();
        lookout.abort();
        if let Some(follower) = follower {
            follower.abort();
        }
        fetcher.abort();
        asker.abort();
        caller.abort();
        let _ = stopping.send(());
        self.keeper.stop();
        // Whoever keeps a connection open past the grace loses it.
        tokio::time::timeout(GRACE, server).await.unwrap_or(Ok(()))?;
        Ok(())
    }
}

/// Follows what is wanted.
fn follow(keeper: &Arc<Keeper>, source: PlansSource) -> JoinHandle<()> {
    let keeper = Arc::clone(keeper);
    match source {
        PlansSource::Folder(folder) => tokio::spawn(Follower::new(keeper, folder).follow()),
        PlansSource::Cluster(kubeconfig) => {
            tokio::spawn(ResourceFollower::new(keeper, Box::new(SystemClock), kubeconfig).follow())
        }
    }
}

/// What lives in the state directory. The store first: its lock keeps a second coordinator away from all else.
fn open_state(settings: &Settings, bound: SocketAddr) -> Result<(Keeper, ServerTlsConfig), ServeError> {
    let clock = SystemClock;
    let state_dir = &settings.state_dir;
    files::make_folder(state_dir)?;
    let store = SledStore::open(&state_dir.join("store"))?;
    let ca = state_dir.join("ca");
    // The first start makes the CA before anything is in the store.
    if !store.load()?.is_empty() {
        Authority::require(&ca)?;
    }
    let authority = Authority::open(&ca, &clock)?;
    let own = authority.server(&state_dir.join("server"), &settings.names(bound), &clock)?;
    authority.local_operator(&state_dir.join("operator"), &clock)?;
    // The CA goes along, so that whoever knows only its hash can check it.
    let chain = format!("{}{}", own.certificate_pem, authority.certificate_pem());
    let tls = ServerTlsConfig::new()
        .identity(TlsIdentity::from_pem(chain, own.key_pem))
        .client_ca_root(Certificate::from_pem(authority.certificate_pem()))
        .client_auth_optional(true)
        .timeout(HANDSHAKE);
    let keeper = Keeper::open(Box::new(store), authority, Box::new(clock))?;
    let keeper = keeper.with_lease_ttl(settings.lease_ttl).with_catalogue(settings.catalogue.clone());
    let machine = settings.on_node.clone().map(Whereabouts::Node).or_else(this_machine);
    let keeper = keeper.on(machine).asking_between_nodes().marking_nodes(settings.taint_not_raised);
    let keeper = keeper.with_hooks(settings.hooks.names());
    Ok((if settings.alerts.is_some() { keeper.asking_for_alerts() } else { keeper }, tls))
}

/// This machine by its machine-id. One that has none, as in many containers, is taken for none of the nodes.
fn this_machine() -> Option<Whereabouts> {
    let id = files::read(Path::new(MACHINE_ID)).ok().flatten()?;
    mark(&id).map(Whereabouts::Marked)
}

/// Every service, behind the door.
type Services = Router<Stack<InterceptorLayer<Greeter>, Identity>>;

fn services(
    keeper: &Arc<Keeper>,
    tls: ServerTlsConfig,
    door: &Door,
) -> Result<(HealthReporter, Services), ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let agents = AgentServiceServer::new(Agents::new(Arc::clone(keeper)));
    let any_role = AnyRole(Arc::clone(keeper));
    let router = Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(InterceptorLayer::new(Greeter(door.clone())))
        .add_service(agents.max_decoding_message_size(MAX_MESSAGE))
        .add_service(OperatorServiceServer::new(Operators::new(Arc::clone(keeper))))
        .add_service(InterceptedService::new(health, any_role.clone()))
        .add_service(InterceptedService::new(reflection, any_role));
    Ok((reporter, router))
}

/// Tells systemd and whoever asks for health once nothing can be recorded any more.
async fn report_failure(keeper: Arc<Keeper>, health: HealthReporter) {
    let mut changes = keeper.changes();
    loop {
        if let Some(why) = keeper.failure() {
            health.set_service_status("", ServingStatus::NotServing).await;
            let _ = sd_notify::notify(&[NotifyState::Status(&why)]);
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Has a path that stands between two stops, and canaries that soak, looked at again.
async fn look_again(keeper: Arc<Keeper>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let keeper = Arc::clone(&keeper);
        if let Err(error) = tokio::task::spawn_blocking(move || keeper.look_again()).await {
            tracing::error!(%error, "a look at the cluster between two stops failed inside");
        }
    }
}

/// The signals that end a service.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
