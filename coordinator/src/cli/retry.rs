//! `liftlock retry NODE`

use clap::Args;
use liftlock_proto::name::NodeName;
use liftlock_proto::v1::RetryRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::rollout::RolloutView;

/// Options of `retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The node that failed.
    #[arg(value_name = "NODE")]
    node: NodeName,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: RetryArgs) -> Result<Exit, CliError> {
    let request = RetryRequest { node: args.node.into() };
    let rollout = desk.whereabouts.connect().await?.retry(request).await?.into_inner();
    output::write(&output::render(&RolloutView::from(rollout), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
