//! `liftlock gates [VERSION]`

use clap::Args;
use liftlock_proto::v1::ListGatesRequest;
use liftlock_proto::version::KubernetesVersion;

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::view::gates::GatesView;

/// Options of `gates`.
#[derive(Debug, Args)]
pub struct GatesArgs {
    /// For a raise to this version, at every stop on the way; otherwise to the newest that every node could be raised to now.
    #[arg(value_name = "VERSION")]
    version: Option<KubernetesVersion>,
    /// As if this gate were consented to. May be given several times.
    #[arg(long, value_name = "NAME")]
    accept: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: GatesArgs) -> Result<Exit, CliError> {
    let to_version = args.version.map(|version| version.to_string()).unwrap_or_default();
    let request = ListGatesRequest { to_version, accepted: args.accept };
    let gates = desk.whereabouts.connect().await?.list_gates(request).await?.into_inner();
    let view = GatesView::from(gates);
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(if view.open() { Exit::Done } else { Exit::Refused })
}
