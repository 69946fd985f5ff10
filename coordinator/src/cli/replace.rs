//! `liftlock replace OLD --with NEW`

use clap::Args;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{Policy, Replacement};
use liftlock_proto::v1::{ApplyRequest, MakePlanRequest};

use crate::cli::Desk;
use crate::cli::confirm::{self, confirm};
use crate::cli::drain::DrainArgs;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::view::rollout::RolloutView;
use crate::cli::{follow, plan, progress};

/// Options of `replace`.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The node that leaves the cluster.
    #[arg(value_name = "OLD")]
    old: NodeName,
    /// The machine that joins it: its agent is enrolled, and `liftlock nodes` says "not joined".
    #[arg(long, value_name = "NEW")]
    with: NodeName,
    /// Show what it takes; change nothing.
    #[arg(long, conflicts_with_all = ["yes", "detach"])]
    dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(short, long)]
    yes: bool,
    /// Return when the roll-out has started; `liftlock status --watch` follows it.
    #[arg(long)]
    detach: bool,
    /// Consent to what would be refused: node-is-gone, api-outage, drain-only-node. May be given several times.
    #[arg(long, help_heading = "Policy", value_name = "NAME")]
    accept: Vec<String>,
    #[command(flatten)]
    drain: DrainArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ReplaceArgs {
    /// As the coordinator is asked: at the version that the cluster runs, which only it knows.
    fn request(&self) -> MakePlanRequest {
        let policy = Policy {
            accepted: self.accept.clone(),
            replacement: Some(Replacement { old: self.old.clone(), with: self.with.clone() }),
            ..self.drain.policy()
        };
        MakePlanRequest { to_version: String::new(), policy: Some(policy.into()), conduct: None }
    }
}

pub(crate) async fn run(desk: &Desk, args: ReplaceArgs) -> Result<Exit, CliError> {
    if !args.yes && !args.dry_run && !confirm::possible() {
        return Err(CliError::Usage(
            "there is no terminal to ask on: look at `liftlock replace --dry-run`, then give --yes"
                .to_owned(),
        ));
    }
    let format = args.output.output;
    let mut client = desk.whereabouts.connect().await?;
    let answer = client.make_plan(args.request()).await?.into_inner();
    let order = ApplyRequest {
        plan: answer.plan.clone(),
        onward: answer.onward.clone(),
        conduct: None,
        document: String::new(),
    };
    let answer = plan::view(answer, None)?;
    let Some(view) = &answer.plan else {
        let what = format!("{} cannot take the place of {}", args.with, args.old);
        return plan::refuse_that(desk, &what, &answer, format);
    };
    if args.dry_run {
        output::write(&output::render(&answer, format, desk.paint)?)?;
        return Ok(Exit::Done);
    }
    match format {
        Format::Table => output::tell(&answer.summary(desk.paint))?,
        Format::Json | Format::Yaml => output::note(answer.summary(desk.error_paint).trim_end()),
    }
    if !args.yes {
        confirm(format!("Have {} take the place of {}? [y/N] ", args.with, args.old)).await?;
    }
    let rollout = client.apply(order).await?.into_inner();
    if args.detach {
        output::write(&output::render(&RolloutView::from(rollout), format, desk.paint)?)?;
        return Ok(Exit::Done);
    }
    let mut display = progress::choose(format, desk);
    follow::to_the_end(desk, client, &view.id, display.as_mut(), format).await
}
