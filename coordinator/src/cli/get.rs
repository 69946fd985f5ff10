//! `liftlock get`

use clap::Args;
use liftlock_proto::plan::Plan;
use liftlock_proto::v1::GetRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::rollout::RolloutAndPlanView;

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
    let plan = Plan::try_from(rollout.plan.clone().unwrap_or_default())?;
    let view = RolloutAndPlanView { plan: plan.into(), rollout: rollout.into() };
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
