//! `liftlock apply VERSION`

use clap::Args;
use liftlock_proto::v1::ApplyRequest;

use crate::cli::Desk;
use crate::cli::confirm::{self, confirm};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::view::rollout::RolloutView;
use crate::cli::wanted::WantedArgs;
use crate::cli::{follow, plan, progress};

/// Options of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    wanted: WantedArgs,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(short, long)]
    yes: bool,
    /// Return when the roll-out has started; `liftlock status --watch` follows it.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: ApplyArgs) -> Result<Exit, CliError> {
    if !args.yes && !confirm::possible() {
        return Err(CliError::Usage(
            "there is no terminal to ask on: look at `liftlock plan`, then give apply --yes".to_owned(),
        ));
    }
    let (request, document) = args.wanted.request()?;
    let (to_version, conduct) = (request.to_version.clone(), request.conduct.clone());
    let mut client = desk.whereabouts.connect().await?;
    let answer = client.make_plan(request).await?.into_inner();
    let (plan, onward) = (answer.plan.clone(), answer.onward.clone());
    let order = ApplyRequest { plan, onward, conduct: conduct.clone(), document };
    let answer = plan::view(answer, conduct)?;
    let Some(view) = &answer.plan else {
        return plan::refuse(desk, &to_version, &answer, args.output.output);
    };
    match args.output.output {
        Format::Table => output::tell(&answer.summary(desk.paint))?,
        Format::Json | Format::Yaml => output::note(answer.summary(desk.error_paint).trim_end()),
    }
    if !args.yes {
        confirm(format!(
            "Raise {} to {to_version}{}? [y/N] ",
            nodes(view.nodes.len()),
            stops(answer.onward.len())
        ))
        .await?;
    }
    let rollout = client.apply(order).await?.into_inner();
    if args.detach {
        output::write(&output::render(&RolloutView::from(rollout), args.output.output, desk.paint)?)?;
        return Ok(Exit::Done);
    }
    let mut display = progress::choose(args.output.output, desk);
    follow::to_the_end(desk, client, &view.id, display.as_mut(), args.output.output).await
}

fn nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

/// How many stops there are, where there are several.
fn stops(onward: usize) -> String {
    if onward == 0 { String::new() } else { format!(" in {} stops", onward + 1) }
}
