//! `liftlock-agent`: the service on every node.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_mangen::Man;
use liftlock_agent::config::{Config, Settings};
use liftlock_agent::disk::{Disk, LocalDisk};
use liftlock_agent::host::real::RealCommands;
use liftlock_agent::host::{self, Clock};
use liftlock_agent::redeploy::import::Imported;
use liftlock_agent::session::enrolling;
use liftlock_agent::session::identity::{Enrolled, IdentityStore};
use liftlock_agent::session::{Agent, Threads, TlsLine, Workplace};
use liftlock_agent::steps;
use liftlock_proto::causes::causes;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Carries out leased Kubernetes upgrade steps on this node, and proves what it did.
#[derive(Debug, Parser)]
#[command(name = "liftlock-agent", version)]
struct Cli {
    /// How to log to standard error. What is logged follows `LIFTLOCK_LOG`, such as `info` or `liftlock_agent=debug`.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people and the system's journal.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serves the coordinator until SIGTERM; enrols first if there is a join token and no identity.
    Run(NodeArgs),
    /// Trades a one-time join token for this node's identity, also in the place of an old one.
    Enroll(NodeArgs),
    /// Reads what this node reports of itself and, on a control plane, of its cluster, and prints it as JSON. Changes
    /// nothing and needs no coordinator.
    Facts(NodeArgs),
    /// Brings back what a host that was replaced as a whole has to keep.
    #[command(subcommand)]
    Redeploy(RedeployVerb),
    /// Writes the manual pages.
    Man {
        /// The folder to write to; it is made if need be.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: Utf8PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum RedeployVerb {
    /// Brings the newest whole export of this node in its store back into this system, unless the system has seen that
    /// lease already. Run before the kubelet and the agent start; it may be cut off anywhere and run again.
    Import {
        /// The store: by default the one in the configuration's [redeploy]; without either, nothing is done.
        #[arg(long, value_name = "DIR")]
        store: Option<Utf8PathBuf>,
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The configuration file: /etc/liftlock/agent.toml, where there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<Utf8PathBuf>,
    /// The file with the join token, which is removed once it is used: /etc/liftlock/join-token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<Utf8PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    let Cli { log_format, verb } = Cli::parse();
    // The only provider that is compiled in; an error means that it was installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    log(log_format);
    let result = match verb {
        Verb::Run(args) => with_runtime(run(args)),
        Verb::Enroll(args) => with_runtime(enroll(args)),
        Verb::Facts(args) => with_runtime(facts(args)),
        Verb::Redeploy(RedeployVerb::Import { store, node }) => with_runtime(import(store, node)),
        Verb::Man { dir } => manual(&dir),
    };
    if let Err(error) = result {
        tracing::error!("{}", causes(error.as_ref()));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// One thread for everything that waits: an engine, an answer to a question and what blocks get threads of their own, which
/// end when nothing is left for them. A pool of workers would be memory on every node that does nothing nearly all of its
/// life.
fn with_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the agent's event loop")?;
    let result = runtime.block_on(work);
    // An engine may be in the middle of a step: it is left as a crash would leave it, and its journal knows.
    runtime.shutdown_background();
    result
}

/// Everything that `run` and `enroll` share.
struct Start {
    config: Config,
    disk: Arc<dyn Disk>,
    store: IdentityStore,
    token_file: Utf8PathBuf,
}

impl Start {
    fn new(args: NodeArgs) -> Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
        let config = Config::load(disk.as_ref(), args.config.as_deref(), args.settings)?;
        let token_file = args.token_file.unwrap_or_else(|| config.token_file());
        let store = IdentityStore::new(Arc::clone(&disk), config.layout().state_dir.join("identity"));
        Ok(Self { config, disk, store, token_file })
    }

    async fn enroll(&self, clock: &dyn Clock) -> Result<Enrolled> {
        let coordinator = self.config.coordinator().ok_or_else(|| {
            anyhow!("the coordinator's address is needed to enrol: --coordinator https://HOST:7443, or the configuration")
        })?;
        let node = self.config.node_or_host_name()?;
        Ok(enrolling::enroll(&self.store, coordinator, &node, &self.token_file, clock).await?)
    }

    /// The identity at hand, or a new one if there is none, or none any more, and a token is there.
    async fn identity(&self, clock: &dyn Clock) -> Result<Enrolled> {
        let unreadable = || format!("cannot read {}", self.token_file);
        let token_is_there =
            || Ok::<_, anyhow::Error>(self.disk.read(&self.token_file).with_context(unreadable)?.is_some());
        let mut enrolled = match self.store.load()? {
            Some(enrolled) if clock.unix_ms() < enrolled.ends_at_ms => enrolled,
            Some(_) if !token_is_there()? => bail!(
                "this node's certificate has ended: make a token with `liftlock token create --node NAME`, put it in {}",
                self.token_file
            ),
            _ => self.enroll(clock).await?,
        };
        if let Some(node) = self.config.node()
            && *node != enrolled.node
        {
            bail!(
                "the configuration says that this is node {node}, and its certificate is for {}",
                enrolled.node
            );
        }
        if let Some(coordinator) = self.config.coordinator() {
            enrolled.coordinator.clone_from(coordinator);
        }
        Ok(enrolled)
    }
}

async fn run(args: NodeArgs) -> Result<()> {
    let start = Start::new(args)?;
    let mut stop = stop_signal()?;
    notify(NotifyState::Ready);
    let clock = host::real::RealClock;
    let enrolled = tokio::select! {
        enrolled = start.identity(&clock) => enrolled?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let config = start.config.host(enrolled.node.clone());
    if let Err(error) = RealCommands::new(&config.layout, config.path.clone()).forget_lost_units().await {
        tracing::warn!(%error, "logs of children that are gone may be left");
    }
    let host = host::real::host(&config)?;
    let place = Workplace {
        host,
        node: enrolled.node.clone(),
        disk: Arc::clone(&start.disk),
        steps: Arc::new(steps::runner),
        preparations: Arc::new(steps::preparation),
        tasks: Arc::new(Threads),
        line: Arc::new(TlsLine),
        retention: start.config.retention(),
    };
    let agent = Agent::open(place, start.store.clone(), enrolled).await?;
    let result = agent.run(stop).await;
    notify(NotifyState::Stopping);
    Ok(result?)
}

async fn enroll(args: NodeArgs) -> Result<()> {
    let enrolled = Start::new(args)?.enroll(&host::real::RealClock).await?;
    tracing::info!(node = %enrolled.node, coordinator = %enrolled.coordinator, "enrolled");
    Ok(())
}

async fn facts(args: NodeArgs) -> Result<()> {
    let start = Start::new(args)?;
    let node = match start.store.load()? {
        Some(enrolled) => enrolled.node,
        None => start.config.node_or_host_name()?,
    };
    let host = host::real::host(&start.config.host(node))?;
    let facts = liftlock_agent::facts::as_json(&liftlock_agent::facts::gather(&host).await);
    writeln!(io::stdout(), "{facts:#}").context("cannot write to the standard output")
}

async fn import(store: Option<Utf8PathBuf>, args: NodeArgs) -> Result<()> {
    let start = Start::new(args)?;
    let layout = start.config.layout();
    let said = store.map(|store| layout.at(store.as_str()));
    let Some(store) = said.or_else(|| Some(start.config.redeploy()?.store(&layout))) else {
        tracing::info!("no store is said, so there is nothing to bring back");
        return Ok(());
    };
    let node = start.config.node_or_host_name()?;
    let config = start.config.host(node.clone());
    let host = host::real::host(&config)?;
    // Whoever finds that nothing happens and calls it by hand too waits for the first, and finds that all is done.
    let _alone = host::real::alone_at(&layout.root).await?;
    match liftlock_agent::redeploy::import::import(&host, &node, &store).await? {
        Imported::Nothing(why) => tracing::info!(why, "nothing is brought back"),
        Imported::Back { plan, token, entries } => {
            tracing::info!(%plan, %token, entries, "what the replaced system had is back");
            // The machine's id is among it.
            if let Err(error) = RealCommands::new(&config.layout, config.path.clone()).restart_journal().await
            {
                tracing::warn!(%error, "`journalctl` shows what was logged since only with --merge, until a restart");
            }
        }
    }
    Ok(())
}

/// Turns true at SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    // With a handler in place, a write beyond a limit on file sizes is an error to report and not the agent's death.
    let beyond_limit = signal(SignalKind::from_raw(nix::libc::SIGXFSZ))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let _handled = beyond_limit;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; what runs goes on as its unit, and is taken up again at the next start");
        let _ = stop.send(true);
    });
    Ok(stopped)
}

/// Tells systemd, if it is systemd that started this.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn log(format: LogFormat) {
    // kube logs each failed request as an error of its own; here it is an answer, and whoever asked decides.
    let asked = std::env::var("LIFTLOCK_LOG").ok().and_then(|wanted| wanted.parse().ok());
    let filter: Targets = asked.unwrap_or_else(|| {
        Targets::new().with_default(LevelFilter::INFO).with_target("kube_client", LevelFilter::OFF)
    });
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let log = match format {
        LogFormat::Text => log.compact().with_target(false).with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(log.with_filter(filter)).init();
}

#[expect(clippy::disallowed_methods, reason = "manual pages are for everyone to read, and made anew at will")]
fn manual(dir: &Utf8Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let verbs: Vec<_> = command.get_subcommands().cloned().collect();
    for page in std::iter::once(command).chain(verbs) {
        let man = Man::new(page).section("8");
        let path = dir.join(man.get_filename());
        let mut text = Vec::new();
        man.render(&mut text)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}
