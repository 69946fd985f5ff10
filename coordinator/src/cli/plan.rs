//! `liftlock plan VERSION`

use std::fmt::Write as _;

use clap::Args;
use liftlock_proto::plan::Plan;
use liftlock_proto::v1::{self, MakePlanResponse};

use crate::cli::Desk;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::paint::{Paint, Tone};
use crate::cli::view::plan::{PlanAnswerView, PlanView, RefusalView};
use crate::cli::view::upgrade_plan::UnreadRollout;
use crate::cli::wanted::WantedArgs;
use crate::core::conduct::Conduct;

/// Options of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    wanted: WantedArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: PlanArgs) -> Result<Exit, CliError> {
    let (request, _) = args.wanted.request()?;
    let (to_version, conduct) = (request.to_version.clone(), request.conduct.clone());
    let answer = desk.whereabouts.connect().await?.make_plan(request).await?.into_inner();
    let view = view(answer, conduct)?;
    if view.plan.is_none() {
        return refuse(desk, &to_version, &view, args.output.output);
    }
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}

/// A path under this conduct, or why there is none; never both.
pub(crate) fn view(
    answer: MakePlanResponse,
    conduct: Option<v1::Conduct>,
) -> Result<PlanAnswerView, CliError> {
    let conduct = Conduct::try_from(conduct.unwrap_or_default()).map_err(UnreadRollout::from)?;
    let refusals: Vec<RefusalView> = answer.refusals.into_iter().map(Into::into).collect();
    let view = |plan| Plan::try_from(plan).map(PlanView::from);
    match answer.plan {
        Some(plan) if refusals.is_empty() => Ok(PlanAnswerView {
            plan: Some(view(plan)?),
            onward: answer.onward.into_iter().map(view).collect::<Result<_, _>>()?,
            forecast: answer.forecast.map(Into::into),
            addons: answer.addons.into_iter().map(Into::into).collect(),
            conduct,
            refusals,
        }),
        _ => Ok(PlanAnswerView {
            plan: None,
            onward: Vec::new(),
            forecast: None,
            addons: Vec::new(),
            conduct,
            refusals,
        }),
    }
}

/// People read the reasons on standard error; programs find them in the answer too.
pub(crate) fn refuse(
    desk: &Desk,
    to_version: &str,
    view: &PlanAnswerView,
    format: Format,
) -> Result<Exit, CliError> {
    told(desk, view, format, &refusals(to_version, &view.refusals, desk.error_paint))
}

/// The same of anything else that was wanted.
pub(crate) fn refuse_that(
    desk: &Desk,
    what: &str,
    view: &PlanAnswerView,
    format: Format,
) -> Result<Exit, CliError> {
    told(desk, view, format, &reasons(what, &view.refusals, desk.error_paint))
}

fn told(desk: &Desk, view: &PlanAnswerView, format: Format, reasons: &str) -> Result<Exit, CliError> {
    if format != Format::Table {
        output::write(&output::render(view, format, desk.paint)?)?;
    }
    output::note(reasons.trim_end());
    Ok(Exit::Refused)
}

/// Every reason against a plan, one a line.
pub(crate) fn refusals(to_version: &str, refusals: &[RefusalView], paint: Paint) -> String {
    reasons(&format!("the cluster cannot be raised to {to_version}"), refusals, paint)
}

fn reasons(what: &str, refusals: &[RefusalView], paint: Paint) -> String {
    let mut text = format!("{} {what}:\n", paint.paint(Tone::Bad, "refused:"));
    for refusal in refusals {
        let consent = if refusal.acceptable && !refusal.message.contains("--accept") {
            format!(" (--accept {} consents)", refusal.rule)
        } else {
            String::new()
        };
        let rule = paint.paint(Tone::Strong, &refusal.rule);
        let _ = writeln!(text, "  {rule}: {}{consent}", refusal.message);
    }
    text
}
