//! `liftlock schema`

use clap::Args;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::document;
use crate::plans::resource;

/// Options of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The `CustomResourceDefinition` instead, in YAML, with which documents are objects of a cluster.
    #[arg(long)]
    crd: bool,
}

pub(crate) fn run(args: &SchemaArgs) -> Result<Exit, CliError> {
    let unwritable = |why: String| CliError::Unwritable { why };
    let text = if args.crd {
        serde_saphyr::to_string(&resource::definition()).map_err(|error| unwritable(error.to_string()))?
    } else {
        serde_json::to_string_pretty(&document::schema()).map_err(|error| unwritable(error.to_string()))?
            + "\n"
    };
    output::write(&text)?;
    Ok(Exit::Done)
}
