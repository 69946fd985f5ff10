//! `liftlock abort`

use clap::Args;
use liftlock_proto::v1::AbortRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::rollout::RolloutView;

/// Options of `abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: AbortArgs) -> Result<Exit, CliError> {
    let rollout = desk.whereabouts.connect().await?.abort(AbortRequest {}).await?.into_inner();
    output::write(&output::render(&RolloutView::from(rollout), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
