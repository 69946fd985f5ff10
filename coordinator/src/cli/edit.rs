//! `liftlock edit -f FILE`

use clap::Args;
use liftlock_proto::v1::EditRequest;

use crate::cli::Desk;
use crate::cli::document::{self, DocumentArgs};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::rollout::RolloutView;

/// Options of `edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    #[command(flatten)]
    document: DocumentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: EditArgs) -> Result<Exit, CliError> {
    let wanted = document::request(args.document.read()?);
    let request =
        EditRequest { to_version: wanted.to_version, policy: wanted.policy, conduct: wanted.conduct };
    let rollout = desk.whereabouts.connect().await?.edit(request).await?.into_inner();
    output::write(&output::render(&RolloutView::from(rollout), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
