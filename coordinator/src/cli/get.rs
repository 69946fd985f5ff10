//! `liftlock get`

use clap::Args;
use liftlock_proto::v1::GetRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::upgrade_plan::UpgradePlanView;

/// Options of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The plan's id; the newest roll-out if none is given.
    #[arg(value_name = "PLAN", default_value = "", hide_default_value = true)]
    plan: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: GetArgs) -> Result<Exit, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let rollout = client.get(GetRequest { plan_id: args.plan }).await?.into_inner();
    let view = UpgradePlanView::try_from(rollout)?;
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
