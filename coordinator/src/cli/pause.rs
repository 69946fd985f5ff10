//! `liftlock pause`

use clap::Args;
use liftlock_proto::v1::PauseRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::rollout::RolloutView;

/// Options of `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: PauseArgs) -> Result<Exit, CliError> {
    let rollout = desk.whereabouts.connect().await?.pause(PauseRequest {}).await?.into_inner();
    output::write(&output::render(&RolloutView::from(rollout), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
