//! Following a roll-out until nothing happens any more.

use std::time::Duration;

use liftlock_proto::v1::{GetRequest, Rollout};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, Streaming};

use crate::cli::Desk;
use crate::cli::connect::Client;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format};
use crate::cli::progress::Display;
use crate::cli::view::rollout::{RolloutPhase, RolloutView};

/// How long a coordinator that went away is waited for: long enough to be restarted.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_secs(1);

/// What Ctrl-C says. The roll-out belongs to the coordinator, not to this terminal.
const STOPPED: &str = "Stopped following. The roll-out goes on: `liftlock status --watch` follows it again, `liftlock pause` and \
                       `liftlock abort` stop it.";

/// Shows every change until the roll-out is raised, aborted or halted, or Ctrl-C ends the following. At the end
/// the whole state goes to standard output.
pub(crate) async fn to_the_end(
    desk: &Desk,
    client: Client,
    plan: &str,
    display: &mut dyn Display,
    format: Format,
) -> Result<Exit, CliError> {
    let last = tokio::select! {
        last = watch(desk, client, plan, display) => last,
        interrupted = tokio::signal::ctrl_c() => {
            display.end();
            interrupted?;
            output::note(STOPPED);
            return Ok(Exit::StoppedFollowing);
        }
    };
    display.end();
    let last = last?;
    if !display.shows_everything() {
        output::write(&output::render(&last, format, desk.paint)?)?;
    }
    Ok(exit(last.phase))
}

fn exit(phase: RolloutPhase) -> Exit {
    if phase == RolloutPhase::Raised {
        Exit::Done
    } else {
        Exit::NotRaised
    }
}

async fn watch(
    desk: &Desk,
    mut client: Client,
    plan: &str,
    display: &mut dyn Display,
) -> Result<RolloutView, CliError> {
    loop {
        let lost = match client
            .watch(GetRequest {
                plan_id: plan.to_owned(),
            })
            .await
        {
            Ok(stream) => match until_at_rest(stream.into_inner(), display).await? {
                Ok(last) => return Ok(last),
                Err(lost) => lost,
            },
            Err(status) => status,
        };
        if !is_away(&lost) {
            return Err(lost.into());
        }
        display.note("the coordinator went away; waiting for it to come back")?;
        client = again(desk).await?;
        display.note("the coordinator is back")?;
    }
}

/// The last state, or how the stream broke off before it.
async fn until_at_rest(
    mut stream: Streaming<Rollout>,
    display: &mut dyn Display,
) -> Result<Result<RolloutView, Status>, CliError> {
    loop {
        let rollout = match stream.message().await {
            Ok(Some(rollout)) => RolloutView::from(rollout),
            Ok(None) => return Ok(Err(Status::unavailable("the stream ended"))),
            Err(status) => return Ok(Err(status)),
        };
        display.show(&rollout)?;
        if rollout.phase.is_at_rest() {
            return Ok(Ok(rollout));
        }
    }
}

/// A coordinator that stops ends its streams in one of these ways; anything else is an answer.
fn is_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

async fn again(desk: &Desk) -> Result<Client, CliError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = timeout_at(deadline, desk.whereabouts.connect()).await;
        match attempt {
            Ok(Err(CliError::Unreachable { .. })) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
            Ok(answer) => return answer,
            Err(_) => {
                return Err(CliError::Lost {
                    why: format!("no answer for {} s", PATIENCE.as_secs()),
                });
            }
        }
    }
}
