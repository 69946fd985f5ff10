//! Liftlock itself as processes: a coordinator, agents and the command line, on stand-in nodes.

pub mod binaries;
pub mod freeze;
pub mod journals;
pub mod link;
pub mod operator;
pub mod process;
pub mod proofs;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;

use crate::fleet::binaries::Binaries;
use crate::fleet::freeze::{Freezer, Watch};
use crate::fleet::link::Link;
use crate::fleet::operator::Operator;
use crate::fleet::process::{Output, Process};
use crate::scratch;
use crate::standin::cluster::{Cluster, Shape};
use crate::standin::node::{PERSISTENT, REPLACE};
use crate::standin::pki::write_secret;

/// Seconds that an API which is gone is waited for.
const API_TIMEOUT: u32 = 20;

/// The store that outlives a node's system.
pub const STORE: &str = "/mnt/persistent/liftlock";

/// How long a fleet may take to come up, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The agent's unit, which says in what environment it runs.
const UNIT: &str = include_str!("../../../deploy/systemd/liftlock-agent.service");

/// The custom resource, and what its role lets the coordinator do with it.
const DEFINITION: &str = include_str!("../../../deploy/kubernetes/upgradeplans.yaml");
const ROLE: &str = include_str!("../../../deploy/kubernetes/rbac.yaml");

/// The user whom that role is bound to.
const PLANS_ACCOUNT: &str = "system:serviceaccount:kube-system:liftlock-plans";

/// A coordinator and an agent for each node of a stand-in cluster. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    // In the order in which they have to go: Liftlock, the cluster, the folder.
    agents: BTreeMap<String, Process>,
    coordinator: Option<Process>,
    links: BTreeMap<String, Link>,
    terms: Terms,
    /// The machine and the cluster.
    pub cluster: Cluster,
    binaries: &'static Binaries,
    port: u16,
    folder: TempDir,
}

/// What a node's hook runs.
pub const NOTE: &str = "/usr/local/sbin/note";

/// Where packages and images lie on a node that asks no repository and no registry.
pub const OFFLINE: &str = "/var/lib/offline";

/// What is not as in a real fleet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// Seconds that a lease lasts without renewal, where a test has to wait for its end.
    pub lease_ttl: Option<u32>,
    /// Seconds that an API which is gone is waited for, where a test has to wait for that.
    pub api_timeout: Option<u32>,
    /// Each agent reaches the coordinator over a [`Link`] of its own.
    pub links: bool,
    /// Each node says how its system is replaced as a whole.
    pub redeploy: bool,
    /// Each node's configuration has the hook `note`, which is the program [`NOTE`].
    pub hooks: bool,
    /// Each node's packages and images come out of [`OFFLINE`].
    pub offline: bool,
    /// The coordinator follows [`Fleet::plans`].
    pub follow_plans: bool,
    /// The coordinator follows the objects of kind `UpgradePlan`, with what deploy/kubernetes lets it do.
    pub follow_objects: bool,
    /// The coordinator is told of the file [`Fleet::catalogue`].
    pub catalogue: bool,
    /// The coordinator is told that it runs on this node.
    pub on_node: Option<&'static str>,
}

impl Fleet {
    /// Makes a cluster, starts a coordinator and an agent on each node, and waits until the coordinator knows what
    /// every node is.
    pub async fn start(shape: &Shape) -> Result<Self> {
        Self::start_on(shape, Terms::default()).await
    }

    /// The same on other terms.
    pub async fn start_on(shape: &Shape, terms: Terms) -> Result<Self> {
        let mut fleet = Self::without_agents_on(shape, terms).await?;
        let nodes = fleet.nodes();
        for node in &nodes {
            fleet.start_agent(node).await?;
        }
        fleet
            .operator()
            .await?
            .wait_for_facts(&nodes, START_LIMIT)
            .await
            .with_context(|| fleet.last_words())?;
        Ok(fleet)
    }

    /// The same with no agent started or enrolled.
    pub async fn without_agents(shape: &Shape) -> Result<Self> {
        Self::without_agents_on(shape, Terms::default()).await
    }

    /// The same on other terms.
    pub async fn without_agents_on(shape: &Shape, terms: Terms) -> Result<Self> {
        let binaries = Binaries::find()?;
        let folder = scratch::folder()?;
        let path = Utf8Path::from_path(folder.path()).context("the temporary folder's name is no UTF-8")?;
        let cluster = Cluster::start(&path.join("cluster"), &binaries.standin, shape).await?;
        fs::create_dir_all(path.join("log"))?;
        let mut fleet = Self {
            agents: BTreeMap::new(),
            coordinator: None,
            links: BTreeMap::new(),
            terms,
            cluster,
            binaries,
            port: free_port()?,
            folder,
        };
        if terms.links {
            for node in fleet.nodes() {
                fleet.links.insert(node, Link::to(fleet.port)?);
            }
        }
        if terms.follow_objects {
            fleet.cluster.apply(DEFINITION)?;
            fleet.cluster.apply(ROLE)?;
            write_secret(&fleet.plans_kubeconfig(), &fleet.cluster.kubeconfig(PLANS_ACCOUNT)?)?;
        }
        fleet.start_coordinator().await?;
        Ok(fleet)
    }

    /// The coordinator's key to the cluster, on such terms.
    pub fn plans_kubeconfig(&self) -> Utf8PathBuf {
        self.folder().join("plans.kubeconfig")
    }

    /// The folder of documents that a coordinator on such terms follows; whoever needs it makes it.
    pub fn plans(&self) -> Utf8PathBuf {
        self.folder().join("plans")
    }

    /// The folder that everything lies in.
    pub fn folder(&self) -> &Utf8Path {
        Utf8Path::from_path(self.folder.path()).unwrap_or(Utf8Path::new(""))
    }

    /// The names of all nodes, control planes first.
    pub fn nodes(&self) -> Vec<String> {
        self.cluster.machines().map(|machine| machine.facts.name.clone()).collect()
    }

    /// The coordinator's state.
    pub fn coordinator_state(&self) -> Utf8PathBuf {
        self.folder().join("coordinator")
    }

    /// The file of the catalogue, which is there once a test writes it.
    pub fn catalogue(&self) -> Utf8PathBuf {
        self.folder().join("catalogue.toml")
    }

    /// Where the coordinator listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The local operator's identity.
    pub fn operator_identity(&self) -> Utf8PathBuf {
        self.coordinator_state().join("operator")
    }

    fn log(&self, name: &str) -> Utf8PathBuf {
        self.folder().join("log").join(name)
    }

    /// What a process has said so far.
    pub fn log_of(&self, name: &str) -> String {
        fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// The end of what each process has said, for a failing test.
    pub fn last_words(&self) -> String {
        let names = self.nodes().into_iter().chain(["coordinator".to_owned()]);
        let words = names.map(|name| {
            let log = self.log_of(&name);
            let lines: Vec<&str> = log.lines().rev().take(12).collect();
            let tail: Vec<&str> = lines.into_iter().rev().collect();
            format!("--- {name}\n{}\n", tail.join("\n"))
        });
        words.collect()
    }

    /// Starts the coordinator, and waits until it answers.
    pub async fn start_coordinator(&mut self) -> Result<()> {
        let (state, address) = (self.coordinator_state(), format!("127.0.0.1:{}", self.port));
        let ttl = self.terms.lease_ttl.map(|seconds| format!("--lease-ttl={seconds}"));
        let mut arguments =
            vec!["serve", "--listen", &address, "--state-dir", state.as_str(), "--name", "127.0.0.1"];
        arguments.extend(ttl.as_deref());
        let plans = self.plans();
        if self.terms.follow_plans {
            arguments.extend(["--plans", plans.as_str()]);
        }
        let kubeconfig = self.plans_kubeconfig();
        if self.terms.follow_objects {
            arguments.extend(["--plans-kubeconfig", kubeconfig.as_str()]);
        }
        let catalogue = self.catalogue();
        if self.terms.catalogue {
            arguments.extend(["--catalogue", catalogue.as_str()]);
        }
        arguments.extend(self.terms.on_node.into_iter().flat_map(|node| ["--on-node", node]));
        let config = self.coordinator_config();
        if config.exists() {
            arguments.extend(["--config", config.as_str()]);
        }
        let process = Process::start(
            self.binaries,
            &self.binaries.liftlock,
            &arguments,
            &[],
            &self.log("coordinator"),
        )?;
        self.coordinator = Some(process);
        let end = tokio::time::Instant::now() + START_LIMIT;
        loop {
            let failure = match self.operator().await {
                Ok(mut operator) => match operator.nodes().await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let ended = self.coordinator.as_mut().is_none_or(|process| !process.runs());
            if ended || tokio::time::Instant::now() > end {
                bail!("the coordinator does not serve: {failure:#}\n{}", self.log_of("coordinator"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the coordinator start again with this configuration, and waits until every agent is back.
    pub async fn reconfigure_coordinator(&mut self, config: &str) -> Result<()> {
        self.kill_coordinator()?;
        fs::write(self.coordinator_config(), config)?;
        self.start_coordinator().await?;
        let nodes: Vec<String> = self.agents.keys().cloned().collect();
        self.operator().await?.wait_for_facts(&nodes, START_LIMIT).await
    }

    fn coordinator_config(&self) -> Utf8PathBuf {
        self.folder().join("coordinator.toml")
    }

    /// SIGKILL to the coordinator.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinator.take().context("the coordinator does not run")?.kill()
    }

    /// A connection with the local operator's identity.
    pub async fn operator(&self) -> Result<Operator> {
        Operator::connect(&self.operator_identity()).await
    }

    /// Makes a join token.
    pub async fn token(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(&[&["token", "create"], arguments].concat()).await?.success()?;
        let token = output.stdout.split_whitespace().find(|word| word.starts_with("liftlock1."));
        token.map(str::to_owned).with_context(|| format!("no token in {:?}", output.stdout))
    }

    /// Writes a node's agent configuration, and a token for it if it has no identity.
    pub async fn prepare_agent(&self, node: &str) -> Result<Utf8PathBuf> {
        let machine = self.cluster.machine(node)?;
        let folder = machine.tree.at("/etc/liftlock");
        fs::create_dir_all(&folder)?;
        if !machine.tree.agent_state().join("identity/cert.pem").exists() {
            let token = self.token(&["--node", node]).await?;
            write_secret(&folder.join("join-token"), &token)?;
        }
        let config = folder.join("agent.toml");
        let text = format!(
            "coordinator = \"{}\"\nnode = \"{node}\"\nstate-dir = \"{}\"\nroot = \"{}\"\npath = [\"{}\"]\n\
             runtime-endpoint = \"unix://{}\"\netcd-endpoint = \"https://{}:2379\"\napi-timeout = \"{}s\"\n",
            self.links
                .get(node)
                .map_or_else(|| self.url(), |link| format!("https://127.0.0.1:{}", link.port())),
            machine.tree.agent_state(),
            machine.tree.root(),
            machine.tree.programs(),
            machine.tree.runtime_socket(),
            machine.facts.address,
            self.terms.api_timeout.unwrap_or(API_TIMEOUT),
        );
        let text = if self.terms.offline {
            text + &format!("[packages]\ndirectory = \"{OFFLINE}\"\n")
        } else {
            text
        };
        let text =
            if self.terms.hooks { text + &format!("[hooks.note]\ncommand = [\"{NOTE}\"]\n") } else { text };
        let redeploy = format!(
            "[redeploy]\ncommand = [\"{REPLACE}\"]\nstore = \"{STORE}\"\nkeeps = [\"{PERSISTENT}\"]\n"
        );
        fs::write(&config, if self.terms.redeploy { text + &redeploy } else { text })?;
        Ok(config)
    }

    /// Starts a node's agent as systemd would: it enrolls if it has to.
    pub async fn start_agent(&mut self, node: &str) -> Result<()> {
        let config = self.prepare_agent(node).await?;
        let token = config.with_file_name("join-token");
        let mut arguments = vec!["run", "--config", config.as_str()];
        if token.exists() {
            arguments.extend(["--token-file", token.as_str()]);
        }
        self.run_agent(node, &arguments)
    }

    fn run_agent(&mut self, node: &str, arguments: &[&str]) -> Result<()> {
        let environment: Vec<(&str, &str)> =
            UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")).flat_map(assignments).collect();
        let log = self.log(node);
        let process = Process::start(self.binaries, &self.binaries.agent, arguments, &environment, &log)?;
        fs::write(self.cluster.machine(node)?.tree.agent_pid(), process.id().to_string())?;
        self.agents.insert(node.to_owned(), process);
        Ok(())
    }

    /// The command that brings back what a node's replaced system had, as the new system's unit runs it: it knows the
    /// store, and nothing of the node but its host's name.
    pub fn import_command(&self, node: &str) -> Result<Vec<String>> {
        let tree = &self.cluster.machine(node)?.tree;
        let said = [
            ("store", STORE.into()),
            ("root", tree.root()),
            ("state-dir", tree.agent_state()),
            ("node", node.into()),
        ];
        let said = said.into_iter().map(|(name, value): (_, Utf8PathBuf)| format!("--{name}={value}"));
        Ok(["redeploy", "import"].map(str::to_owned).into_iter().chain(said).collect())
    }

    /// Starts the import of a node, which goes on by itself.
    pub fn start_import(&self, node: &str) -> Result<Process> {
        let command = self.import_command(node)?;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        Process::start(self.binaries, &self.binaries.agent, &words, &[], &self.log(node))
    }

    /// Waits until a node's system is replaced, which ends its agent, and plays what starts in the new one: the import,
    /// then the agent with the configuration that came back.
    pub async fn start_new_system(&mut self, node: &str, limit: Duration) -> Result<()> {
        if let Some(mut agent) = self.agents.remove(node) {
            agent.ended(limit).await?;
        }
        let tree = self.cluster.machine(node)?.tree.clone();
        let replaced = |_: &Cluster| tree.at("/etc/os-release").exists();
        self.cluster.wait_for("the new system", limit, replaced).await?;
        let command = self.import_command(node)?;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.agent_program(&words).await?.success()?;
        self.run_agent(node, &["run", "--config", tree.at("/etc/liftlock/agent.toml").as_str()])
    }

    /// SIGKILL to a node's agent. What it started as a unit runs on.
    pub fn kill_agent(&mut self, node: &str) -> Result<()> {
        self.agents.remove(node).with_context(|| format!("no agent runs on {node}"))?.kill()
    }

    /// A node's agent.
    pub fn agent(&mut self, node: &str) -> Result<&mut Process> {
        self.agents.get_mut(node).with_context(|| format!("no agent runs on {node}"))
    }

    /// An agent's way to the coordinator.
    pub fn link(&self, node: &str) -> Result<&Link> {
        self.links.get(node).with_context(|| format!("the agent of {node} has no link of its own"))
    }

    /// Waits, from when this returns, for a moment of a node's agent: see [`freeze`].
    pub async fn freezer(&mut self, node: &str, watch: &Watch) -> Result<Freezer> {
        let (binaries, agent) = (self.binaries, self.agent(node)?.id());
        Freezer::arm(binaries, agent, watch).await
    }

    /// Lets no file that a node's running agent writes grow beyond so many bytes.
    pub fn limit_file_size(&mut self, node: &str, bytes: u64) -> Result<()> {
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(self.agent(node)?.id())?).context("no process")?;
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit)?;
        Ok(())
    }

    /// Every process of the fleet and of its nodes' units, by id.
    pub fn processes(&self) -> Vec<u32> {
        let units = self.cluster.machines().flat_map(|machine| {
            let units = machine.systemd.running_units();
            units.into_iter().filter_map(|unit| machine.systemd.main_pid(&unit)).collect::<Vec<_>>()
        });
        self.agents.values().chain(&self.coordinator).map(Process::id).chain(units).collect()
    }

    /// Runs the agent's program to its end.
    pub async fn agent_program(&self, arguments: &[&str]) -> Result<Output> {
        process::run(&self.binaries.agent, arguments, &[]).await
    }

    /// Runs the command line with the local operator's identity.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.cli_as(&self.operator_identity(), arguments).await
    }

    /// Runs the command line with another identity.
    pub async fn cli_as(&self, identity: &Utf8Path, arguments: &[&str]) -> Result<Output> {
        self.cli_reading(identity, arguments, "").await
    }

    /// Runs the command line with the local operator's identity and a text on its standard input.
    pub async fn cli_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        self.cli_reading(&self.operator_identity(), arguments, input).await
    }

    async fn cli_reading(&self, identity: &Utf8Path, arguments: &[&str], input: &str) -> Result<Output> {
        let home = self.folder().join("home");
        let environment = [
            ("LIFTLOCK_IDENTITY", identity.as_str()),
            ("HOME", home.as_str()),
            ("NO_COLOR", "1"),
            ("COLUMNS", "110"),
        ];
        process::run_with_input(&self.binaries.liftlock, arguments, &environment, input).await
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.agents.clear();
        self.coordinator = None;
    }
}

/// `A=1 B=2`
fn assignments(words: &str) -> impl Iterator<Item = (&str, &str)> {
    words.split(' ').filter_map(|word| word.split_once('='))
}

/// A port that nobody listens on now. The coordinator takes the same one again after a restart, as agents expect.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
