//! Following a roll-out until nothing happens any more.

use std::time::Duration;

use liftlock_proto::v1::GetRequest;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::cli::Desk;
use crate::cli::connect::Client;
use crate::cli::error::{CliError, is_cut};
use crate::cli::exit::Exit;
use crate::cli::output::{self, Format};
use crate::cli::progress::Display;
use crate::cli::view::rollout::{RolloutPhase, RolloutView};

/// How long a coordinator that went away is waited for: long enough to be restarted.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_secs(1);

/// What Ctrl-C says. The roll-out belongs to the coordinator, not to this terminal.
const STOPPED: &str = "Stopped following. The roll-out goes on: `liftlock status --watch` follows it again, \
                       `liftlock pause` and `liftlock abort` stop it.";

/// Shows every change until the roll-out, or that to the last stop of its path, is raised, aborted or halted, or Ctrl-C
/// ends the following. At the end the whole state goes to standard output.
pub(crate) async fn to_the_end(
    desk: &Desk,
    client: Client,
    plan: &str,
    display: &mut dyn Display,
    format: Format,
) -> Result<Exit, CliError> {
    let mut following = Following { desk, plan: plan.to_owned(), display, away_since: None };
    let last = tokio::select! {
        last = following.watch(client) => Some(last),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            None
        }
    };
    display.end();
    let Some(last) = last else {
        output::note(STOPPED);
        return Ok(Exit::StoppedFollowing);
    };
    let last = match last {
        // The roll-out goes on, whoever watches: this is no answer to how it ends.
        Err(CliError::ReaderGone) => return Ok(Exit::StoppedFollowing),
        last => last?,
    };
    if !display.shows_documents() {
        output::write(&output::render(&last, format, desk.paint)?)?;
    }
    Ok(if last.phase == RolloutPhase::Raised { Exit::Done } else { Exit::NotRaised })
}

struct Following<'a> {
    desk: &'a Desk,
    /// The plan of the stop at hand.
    plan: String,
    display: &'a mut dyn Display,
    /// Since when the coordinator has said nothing; `None` while it speaks.
    away_since: Option<Instant>,
}

/// How one stream of states ended.
enum Ended {
    AtRest(Box<RolloutView>),
    Broken(Status),
}

impl Following<'_> {
    /// The state in which the roll-out came to rest. A coordinator that is restarted in between is waited for: the roll-out
    /// goes on without anybody who follows.
    async fn watch(&mut self, mut client: Client) -> Result<RolloutView, CliError> {
        loop {
            match self.stream(&mut client).await? {
                Ended::AtRest(last) => return Ok(*last),
                Ended::Broken(status) if !is_cut(&status) => return Err(status.into()),
                Ended::Broken(status) => self.wait_or(status).await?,
            }
            client = loop {
                match self.desk.whereabouts.connect().await {
                    Err(CliError::Unreachable { why, .. }) => self.wait_or(Status::unavailable(why)).await?,
                    connected => break connected?,
                }
            };
        }
    }

    async fn stream(&mut self, client: &mut Client) -> Result<Ended, CliError> {
        let request = GetRequest { plan_id: self.plan.clone() };
        let mut rollouts = match client.watch(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Ended::Broken(status)),
        };
        loop {
            let rollout = match rollouts.message().await {
                Ok(Some(rollout)) => RolloutView::from(rollout),
                Ok(None) => return Ok(Ended::Broken(Status::unavailable("the coordinator stopped"))),
                Err(status) => return Ok(Ended::Broken(status)),
            };
            if self.away_since.take().is_some() {
                self.display.note("the coordinator is back")?;
            }
            self.display.show(&rollout)?;
            self.plan.clone_from(&rollout.plan);
            if rollout.is_at_rest() {
                return Ok(Ended::AtRest(Box::new(rollout)));
            }
        }
    }

    /// A moment's pause, or the error once patience is at its end.
    async fn wait_or(&mut self, status: Status) -> Result<(), CliError> {
        match self.away_since {
            Some(since) if since.elapsed() >= PATIENCE => return Err(status.into()),
            Some(_) => {}
            None => {
                self.away_since = Some(Instant::now());
                self.display.note("the coordinator went away; waiting for it to come back")?;
            }
        }
        sleep(PAUSE).await;
        Ok(())
    }
}
