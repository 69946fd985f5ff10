//! `liftlock status`

use clap::Args;
use liftlock_proto::v1::GetRequest;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::progress::Documents;
use crate::cli::view::rollout::RolloutView;
use crate::cli::{Desk, follow, progress};

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The plan's id; the newest roll-out if none is given.
    #[arg(value_name = "PLAN", default_value = "", hide_default_value = true)]
    plan: String,
    /// Follow it until it is raised, aborted or halted.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: StatusArgs) -> Result<Exit, CliError> {
    let format = args.output.output;
    let mut client = desk.whereabouts.connect().await?;
    let rollout = client.get(GetRequest { plan_id: args.plan }).await?.into_inner();
    let view = RolloutView::from(rollout);
    if !args.watch {
        output::write(&output::render(&view, format, desk.paint)?)?;
        return Ok(Exit::Done);
    }
    let mut display = match format {
        Format::Table => progress::choose(format, desk),
        Format::Json | Format::Yaml => Box::new(Documents::new(format)),
    };
    follow::to_the_end(desk, client, &view.plan, display.as_mut(), format).await
}
