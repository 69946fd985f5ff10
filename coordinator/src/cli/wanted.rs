//! What `plan` and `apply` are asked for: a version and a policy, from options or from a document.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use liftlock_proto::blocked::{NodePolicy, OnBlocked};
use liftlock_proto::control_planes::ControlPlanes;
use liftlock_proto::plan::{OnFailure, Policy};
use liftlock_proto::strategy::Strategy;
use liftlock_proto::v1::MakePlanRequest;
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Canary, SOAK_SECONDS, Share, Workers};

use crate::cli::document;
use crate::cli::drain::DrainArgs;
use crate::cli::error::CliError;
use crate::cli::time::parse_seconds;
use crate::document::UpgradePlan;

/// A version and a policy.
#[derive(Debug, Args)]
pub struct WantedArgs {
    /// The version to reach, such as v1.20.2.
    #[arg(value_name = "VERSION", required_unless_present = "file")]
    version: Option<KubernetesVersion>,
    /// Version and policy from a document (YAML or JSON, kind `UpgradePlan`) instead of options; `-` reads standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["version", "policy", "drain"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// What an operator decides beforehand.
#[derive(Debug, Args)]
#[group(id = "policy", multiple = true)]
struct PolicyArgs {
    /// Consent to what the gate of this name would refuse; `liftlock gates` lists them. May be given several times.
    #[arg(long, help_heading = "Policy", value_name = "NAME")]
    accept: Vec<String>,
    #[command(flatten)]
    drain: DrainArgs,
    /// What follows when a node has failed for good: halt (an operator is asked), roll-back-node, roll-back-cluster.
    #[arg(long, help_heading = "Policy", value_name = "POLICY", default_value_t = OnFailure::Halt)]
    on_failure: OnFailure,
    /// Replace each host as a whole, with the command in its own /etc/liftlock/agent.toml: its protected paths are kept.
    #[arg(long, help_heading = "Policy")]
    redeploy: bool,
    /// Raise workers only at the last stop of a path, and where their kubelets would be too far behind.
    #[arg(long, help_heading = "Policy")]
    workers_skip_stops: bool,
    /// What follows when a worker cannot be drained because budgets protect its pods: pause (it has failed), skip (it is put
    /// back, and the others are raised), force (they are deleted); NODE=WHAT for one worker. May be given several times.
    #[arg(long, help_heading = "Policy", value_name = "[NODE=]WHAT")]
    on_blocked: Vec<BlockedWord>,
    /// Every control plane that there is in the end, as many as now: those that stay, and machines that have not joined, which take
    /// the others' places one at a time once those are raised. [default: those that there are]
    #[arg(long, help_heading = "Control planes", value_name = "NODE,…", value_delimiter = ',')]
    control_planes: Vec<String>,
    /// How many workers may be away at once, all of one zone: 2, or 20%. Pools of their own are for a document to say.
    /// [default: one after the other, by name]
    #[arg(long, help_heading = "Workers", value_name = "N|PERCENT%")]
    max_unavailable: Option<Share>,
    /// So many workers first, one at a time; the others once nothing was amiss for as long as --soak says.
    #[arg(long, help_heading = "Workers", value_name = "N")]
    canary: Option<u32>,
    /// How long the canaries are looked at; with --strategy blue-green, how long the new nodes are before the old ones leave.
    /// [default: 10m]
    #[arg(long, help_heading = "Workers", value_name = "DURATION", value_parser = parse_seconds)]
    soak: Option<u32>,
    /// So many workers may fail before nothing more is begun.
    #[arg(long, help_heading = "Workers", value_name = "N", default_value_t = 0)]
    failure_budget: u32,
    /// Whether workers are raised where they are (in-place), or other machines join at the version and workers leave: some at a
    /// time (surge), or all at once, after the new ones were looked at (blue-green).
    #[arg(long, help_heading = "Workers", value_name = "STRATEGY", default_value_t = Strategy::InPlace)]
    strategy: Strategy,
    /// So many machines join before as many workers leave: 2, or 20%; with --strategy surge. [default: 1]
    #[arg(long, help_heading = "Workers", value_name = "N|PERCENT%", requires = "strategy")]
    max_surge: Option<Share>,
    /// The machines that join, in this order; with --strategy surge or blue-green. [default: those that have not joined, by
    /// name]
    #[arg(
        long,
        help_heading = "Workers",
        value_name = "NODE,…",
        value_delimiter = ',',
        requires = "strategy"
    )]
    with: Vec<String>,
}

/// `skip`, or `w3=force`.
#[derive(Debug, Clone)]
struct BlockedWord {
    node: Option<String>,
    word: OnBlocked,
}

impl FromStr for BlockedWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, word) = match text.split_once('=') {
            Some((node, word)) => (Some(node.to_owned()), word),
            None => (None, text),
        };
        Ok(Self { node, word: word.parse()? })
    }
}

impl WantedArgs {
    /// As the coordinator is asked, and what the document is called, where there is one that says so.
    pub fn request(&self) -> Result<(MakePlanRequest, String), CliError> {
        let document = match (&self.file, self.version) {
            (Some(path), _) => document::read(path)?,
            (None, Some(version)) => {
                let wanted = UpgradePlan::new(version, self.policy.checked()?);
                return Ok((document::request(wanted), String::new()));
            }
            (None, None) => return Err(CliError::Usage("give a VERSION or --file FILE".to_owned())),
        };
        let name = document.name().map(ToString::to_string).unwrap_or_default();
        Ok((document::request(document), name))
    }
}

impl PolicyArgs {
    fn checked(&self) -> Result<Policy, CliError> {
        if self.soak.is_some() && self.canary.is_none() && self.strategy != Strategy::BlueGreen {
            let why = "--soak says how long something is looked at: give --canary N or --strategy blue-green with it";
            return Err(CliError::Usage(why.to_owned()));
        }
        Ok(self.policy())
    }

    fn control_planes_strategy(&self) -> Strategy {
        if self.control_planes.is_empty() { Strategy::InPlace } else { Strategy::Surge }
    }

    fn policy(&self) -> Policy {
        let of_all = self.on_blocked.iter().rev().find(|word| word.node.is_none());
        let of_one = |BlockedWord { node, word }: &BlockedWord| {
            Some(NodePolicy { name: node.clone()?, on_blocked: *word })
        };
        Policy {
            accepted: self.accept.clone(),
            on_failure: self.on_failure,
            redeploy: self.redeploy,
            workers_skip_stops: self.workers_skip_stops,
            control_planes: ControlPlanes {
                strategy: self.control_planes_strategy(),
                nodes: self.control_planes.clone(),
            },
            workers: Workers {
                max_unavailable: self.max_unavailable,
                failure_budget: self.failure_budget,
                canary: self
                    .canary
                    .map(|nodes| Canary { nodes, soak_seconds: self.soak.unwrap_or(SOAK_SECONDS) }),
                pools: Vec::new(),
                strategy: self.strategy,
                max_surge: self.max_surge,
                with: self.with.clone(),
                soak_seconds: self.soak.filter(|_| self.strategy == Strategy::BlueGreen),
                nodes: self.on_blocked.iter().filter_map(of_one).collect(),
            },
            on_blocked: of_all.map(|word| word.word).unwrap_or_default(),
            ..self.drain.policy()
        }
    }
}
