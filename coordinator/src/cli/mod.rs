//! The operator's command line: one file a verb, and what the verbs share.

pub mod abort;
pub mod apply;
pub mod ask;
pub mod backups;
pub mod completions;
pub mod confirm;
pub mod connect;
pub mod diff;
pub mod document;
pub mod drain;
pub mod edit;
pub mod error;
pub mod etcd;
pub mod exit;
pub mod follow;
pub mod gates;
pub mod get;
pub mod history;
pub mod login;
pub mod man;
pub mod nodes;
pub mod output;
pub mod paint;
pub mod pause;
pub mod plan;
pub mod progress;
pub mod protect;
pub mod replace;
pub mod resume;
pub mod retry;
pub mod rollback;
pub mod schema;
pub mod status;
pub mod table;
pub mod time;
pub mod token;
pub mod versions;
pub mod view;
pub mod wanted;

use std::env;
use std::error::Error;
use std::io::{IsTerminal, stderr, stdout};
use std::path::PathBuf;

use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};
use liftlock_proto::address::CoordinatorUrl;

use crate::cli::connect::Whereabouts;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::paint::{Paint, Tone};
use crate::serve::ServeOptions;

/// Raises a kubeadm cluster from one Kubernetes version to the next, unattended, and never leaves it half way.
///
/// `liftlock serve` is the coordinator; every other verb asks it something or tells it something.
#[derive(Debug, Parser)]
#[command(name = "liftlock", version, max_term_width = 110, after_long_help = man::after_long_help())]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The coordinator, or something to ask or tell it.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the coordinator.
    Serve(ServeOptions),
    /// What an operator does.
    #[command(flatten)]
    Operator(OperatorVerb),
}

/// What holds for every verb.
#[derive(Debug, Args)]
pub struct Globals {
    /// The coordinator, such as `https://10.0.0.5:7443`; otherwise the one that the identity was made by.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "LIFTLOCK_COORDINATOR",
        help_heading = "Connection"
    )]
    pub coordinator: Option<CoordinatorUrl>,
    /// The folder with key, certificate and CA; otherwise ~/.config/liftlock, or that of the coordinator on this
    /// machine.
    #[arg(long, global = true, value_name = "DIR", env = "LIFTLOCK_IDENTITY", help_heading = "Connection")]
    pub identity: Option<PathBuf>,
    /// Colour; auto means on a terminal, unless `NO_COLOR` is set.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
}

/// What can be asked or told.
#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// Show what raising the cluster to a version takes; changes nothing.
    Plan(plan::PlanArgs),
    /// Show every gate, and whether the cluster would pass it now; changes nothing.
    Gates(gates::GatesArgs),
    /// Raise the cluster to a version and follow it to the end.
    Apply(apply::ApplyArgs),
    /// Show what sets a document apart from what runs; changes nothing.
    Diff(diff::DiffArgs),
    /// Change when the nodes of the roll-out that goes on may be begun on: windows, alerts and hooks of its document.
    Edit(edit::EditArgs),
    /// Show where the roll-out stands.
    Status(status::StatusArgs),
    /// Show a roll-out with its whole plan; as YAML or JSON it is the document that wants it.
    Get(get::GetArgs),
    /// Show the nodes, their versions and their agents.
    Nodes(nodes::NodesArgs),
    /// Show the versions that are installed and offered, and what the catalogue says of them.
    Versions(versions::VersionsArgs),
    /// Start no further node; the one under its lease finishes.
    Pause(pause::PauseArgs),
    /// Go on after a pause, past a node whose certificate was taken back, or with a path that halted before its next stop.
    Resume(resume::ResumeArgs),
    /// End the roll-out; the node under its lease finishes.
    Abort(abort::AbortArgs),
    /// Lease a failed node again; what it has done is not done twice.
    Retry(retry::RetryArgs),
    /// Put back what the roll-out changed, on one node or on all, the last one first.
    Rollback(rollback::RollbackArgs),
    /// Have one machine take the place of another, as a worker or as a control plane; the other may be dead.
    Replace(replace::ReplaceArgs),
    /// Show, verify and remove the backups that a node keeps of itself.
    Backups(backups::BackupsArgs),
    /// Show the protected paths of a node, and whether they are as they were sealed.
    Protect(protect::ProtectArgs),
    /// Show how etcd is restored from a backup.
    Etcd(etcd::EtcdArgs),
    /// Show what happened, oldest first.
    History(history::HistoryArgs),
    /// Make, list and revoke join tokens.
    Token(token::TokenArgs),
    /// Trade an operator's or viewer's token for an identity on this machine.
    Login(login::LoginArgs),
    /// Print the JSON schema of documents, for editors, or the definition of the custom resource.
    Schema(schema::SchemaArgs),
    /// Print shell completions.
    Completions(completions::CompletionsArgs),
    /// Write the manual pages.
    Man(man::ManArgs),
}

/// What a verb works with.
#[derive(Debug)]
pub struct Desk {
    /// Where the identity and the coordinator are.
    pub whereabouts: Whereabouts,
    /// For standard output.
    pub paint: Paint,
    /// For standard error.
    pub error_paint: Paint,
}

impl Desk {
    /// From the options and the environment, which is read here and nowhere else.
    pub fn new(globals: Globals) -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
        Self {
            whereabouts: Whereabouts {
                identity: globals.identity,
                coordinator: globals.coordinator,
                own_folder: config.map(|config| config.join("liftlock")),
            },
            paint: Paint::choose(globals.color, stdout().is_terminal(), no_color),
            error_paint: Paint::choose(globals.color, stderr().is_terminal(), no_color),
        }
    }
}

/// Does what the verb says; an error is said on standard error.
pub async fn run(globals: Globals, verb: OperatorVerb) -> Exit {
    let desk = Desk::new(globals);
    let done = match verb {
        OperatorVerb::Plan(args) => plan::run(&desk, args).await,
        OperatorVerb::Gates(args) => gates::run(&desk, args).await,
        OperatorVerb::Apply(args) => apply::run(&desk, args).await,
        OperatorVerb::Diff(args) => diff::run(&desk, args).await,
        OperatorVerb::Edit(args) => edit::run(&desk, args).await,
        OperatorVerb::Status(args) => status::run(&desk, args).await,
        OperatorVerb::Get(args) => get::run(&desk, args).await,
        OperatorVerb::Nodes(args) => nodes::run(&desk, args).await,
        OperatorVerb::Versions(args) => versions::run(&desk, args).await,
        OperatorVerb::Pause(args) => pause::run(&desk, args).await,
        OperatorVerb::Resume(args) => resume::run(&desk, args).await,
        OperatorVerb::Abort(args) => abort::run(&desk, args).await,
        OperatorVerb::Retry(args) => retry::run(&desk, args).await,
        OperatorVerb::Rollback(args) => rollback::run(&desk, args).await,
        OperatorVerb::Replace(args) => replace::run(&desk, args).await,
        OperatorVerb::Backups(args) => backups::run(&desk, args).await,
        OperatorVerb::Protect(args) => protect::run(&desk, args).await,
        OperatorVerb::Etcd(args) => etcd::run(&desk, args).await,
        OperatorVerb::History(args) => history::run(&desk, args).await,
        OperatorVerb::Token(args) => token::run(&desk, args).await,
        OperatorVerb::Login(args) => login::run(&desk, args).await,
        OperatorVerb::Schema(args) => schema::run(&args),
        OperatorVerb::Completions(args) => completions::run(&args),
        OperatorVerb::Man(args) => man::run(&args),
    };
    done.unwrap_or_else(|error: CliError| {
        if !matches!(error, CliError::ReaderGone) {
            say_error(&error, desk.error_paint);
        }
        error.exit()
    })
}

/// On standard error: what happened, why, and what to do.
pub fn say_error(error: &dyn Error, paint: Paint) {
    output::note(&format!("{} {error}", paint.paint(Tone::Bad, "error:")));
}

/// The whole grammar, for completions and manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}
