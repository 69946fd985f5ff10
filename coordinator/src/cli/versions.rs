//! `liftlock versions`

use clap::Args;
use liftlock_proto::v1::ListVersionsRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::versions::VersionsView;

/// Options of `versions`.
#[derive(Debug, Args)]
pub struct VersionsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: VersionsArgs) -> Result<Exit, CliError> {
    let versions =
        desk.whereabouts.connect().await?.list_versions(ListVersionsRequest {}).await?.into_inner();
    output::write(&output::render(&VersionsView::from(versions), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
