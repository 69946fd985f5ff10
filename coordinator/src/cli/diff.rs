//! `liftlock diff -f FILE`

use clap::Args;
use liftlock_proto::v1::{GetRequest, ListNodesRequest};
use tonic::Code;

use crate::cli::Desk;
use crate::cli::document::DocumentArgs;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::diff::{DiffError, DiffView};
use crate::cli::view::nodes::NodesView;
use crate::document::Spec;

/// Options of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    document: DocumentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What failed is no difference: whoever asks for the exit code has to be able to tell them apart.
pub(crate) async fn run(desk: &Desk, args: DiffArgs) -> Result<Exit, CliError> {
    diff(desk, args).await.map_err(|error| match error.exit() {
        Exit::Error => CliError::NotCompared(Box::new(error)),
        _ => error,
    })
}

async fn diff(desk: &Desk, args: DiffArgs) -> Result<Exit, CliError> {
    let view = compare(desk, &args.document.read()?.spec).await?;
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(if view.differences.is_empty() { Exit::Done } else { Exit::Different })
}

async fn compare(desk: &Desk, spec: &Spec) -> Result<DiffView, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let newest = match client.get(GetRequest::default()).await {
        Ok(rollout) => Some(rollout.into_inner()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => return Err(status.into()),
    };
    if let Some(goes_on) = newest.filter(|rollout| rollout.ended_at_ms == 0) {
        return DiffView::beside_rollout(spec, &goes_on).map_err(|error| match error {
            DiffError::Rollout(error) => error.into(),
            DiffError::Form(error) => CliError::Unwritable { why: error.to_string() },
        });
    }
    let NodesView(nodes) = client.list_nodes(ListNodesRequest { ask_anew: true }).await?.into_inner().into();
    if nodes.is_empty() {
        return Err(CliError::NotFound(
            "no node is known yet, so there is nothing to compare with: look at `liftlock nodes`".to_owned(),
        ));
    }
    Ok(DiffView::beside_nodes(spec.to_version, &nodes))
}
