//! `liftlock schema`

use clap::Args;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::document;

/// Options of `schema`: there are none.
#[derive(Debug, Args)]
pub struct SchemaArgs {}

pub(crate) fn run(_: &SchemaArgs) -> Result<Exit, CliError> {
    let json = serde_json::to_string_pretty(&document::schema())
        .map_err(|error| CliError::Unwritable { why: error.to_string() })?;
    output::write(&format!("{json}\n"))?;
    Ok(Exit::Done)
}
