//! `liftlock history`

use clap::Args;
use liftlock_proto::v1::HistoryRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::history::HistoryView;

/// Options of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The plan's id; everything if none is given.
    #[arg(value_name = "PLAN", default_value = "", hide_default_value = true)]
    plan: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: HistoryArgs) -> Result<Exit, CliError> {
    let request = HistoryRequest { plan_id: args.plan };
    let history = desk.whereabouts.connect().await?.history(request).await?.into_inner();
    output::write(&output::render(&HistoryView::from(history), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
