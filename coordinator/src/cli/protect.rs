//! `liftlock protect show|verify NODE`

use clap::{Args, Subcommand};
use liftlock_proto::name::NodeName;
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::{CompareProtectedPaths, ShowProtectedPaths, reply};

use crate::cli::Desk;
use crate::cli::ask::ask;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::protect::{ProtectedPathsView, ProtectionVerdictView};

/// Options of `protect`.
#[derive(Debug, Args)]
pub struct ProtectArgs {
    #[command(subcommand)]
    verb: ProtectVerb,
}

#[derive(Debug, Subcommand)]
enum ProtectVerb {
    /// Show the protected paths of a node, each with its class and who says so.
    Show(NodeArgs),
    /// Compare a node's protected paths with what its last lease sealed.
    ///
    /// Changes nothing. What somebody changed since on purpose is told as well.
    Verify(NodeArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Whose.
    #[arg(value_name = "NODE")]
    node: NodeName,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: ProtectArgs) -> Result<Exit, CliError> {
    match args.verb {
        ProtectVerb::Show(args) => show(desk, args).await,
        ProtectVerb::Verify(args) => verify(desk, args).await,
    }
}

async fn show(desk: &Desk, args: NodeArgs) -> Result<Exit, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let asked = Kind::ShowProtectedPaths(ShowProtectedPaths {});
    let paths = ask(&mut client, &args.node, asked, |reply| match reply {
        reply::Kind::ProtectedPaths(paths) => Some(paths),
        _ => None,
    });
    let view = ProtectedPathsView::new(&args.node, paths.await?);
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}

async fn verify(desk: &Desk, args: NodeArgs) -> Result<Exit, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let asked = Kind::CompareProtectedPaths(CompareProtectedPaths {});
    let verdict = ask(&mut client, &args.node, asked, |reply| match reply {
        reply::Kind::ProtectedPathsVerdict(verdict) => Some(verdict),
        _ => None,
    });
    let view = ProtectionVerdictView::new(&args.node, verdict.await?);
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(if view.intact { Exit::Done } else { Exit::NotRaised })
}
