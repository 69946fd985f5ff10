//! `liftlock rollback`

use clap::Args;
use liftlock_proto::name::NodeName;
use liftlock_proto::v1::RollbackRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::rollout::RolloutView;

/// Options of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Scope {
    /// Put this node back; refused while a node after it in the plan's order is not.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Put back every node that was changed, one at a time, the last one first.
    #[arg(long)]
    cluster: bool,
}

pub(crate) async fn run(desk: &Desk, args: RollbackArgs) -> Result<Exit, CliError> {
    let request = RollbackRequest { node: args.scope.node.map(String::from).unwrap_or_default() };
    let rollout = desk.whereabouts.connect().await?.rollback(request).await?.into_inner();
    output::write(&output::render(&RolloutView::from(rollout), args.output.output, desk.paint)?)?;
    output::note("`liftlock status --watch` follows it.");
    Ok(Exit::Done)
}
