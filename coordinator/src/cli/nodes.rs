//! `liftlock nodes`

use clap::Args;
use liftlock_proto::v1::ListNodesRequest;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::nodes::NodesView;

/// Options of `nodes`.
#[derive(Debug, Args)]
pub struct NodesArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: NodesArgs) -> Result<Exit, CliError> {
    let nodes = desk
        .whereabouts
        .connect()
        .await?
        .list_nodes(ListNodesRequest { ask_anew: false })
        .await?
        .into_inner();
    output::write(&output::render(&NodesView::from(nodes), args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
