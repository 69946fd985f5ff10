//! Reads the node's facts when the coordinator asks for them, one reading at a time.

use std::time::Duration;

use liftlock_proto::v1::NodeFacts;

use crate::facts;
use crate::host::{Host, Lines};
use crate::session::duties::Workplace;
use crate::session::tasks::Task;

/// The reading under way, and the one to follow.
#[derive(Default)]
pub(crate) struct Inquiry {
    under_way: Option<Task<NodeFacts>>,
    /// Asked for while one was under way: whether to read the package repositories' lists anew, and how much later.
    again: Option<(bool, Duration)>,
    /// What was found wrong when the agent started, and stays wrong until it is started again.
    always: Vec<String>,
}

impl Inquiry {
    /// A sentence that goes with all facts from now on.
    pub(crate) fn always(&mut self, error: String) {
        self.always.push(error);
    }

    /// Asks for the facts as they are after this moment.
    pub(crate) fn ask(&mut self, place: &Workplace, refresh: bool, pause: Duration) {
        if self.under_way.is_some() {
            // Whoever waits longer bears to be answered earlier.
            let (earlier_refresh, earlier_pause) = self.again.unwrap_or((false, pause));
            self.again = Some((refresh || earlier_refresh, pause.min(earlier_pause)));
        } else {
            let reading = read(place.host.clone(), refresh, pause);
            self.under_way = Some(Task::start(place.tasks.as_ref(), reading));
        }
    }

    /// Waits for facts, for ever if nobody asked.
    pub(crate) async fn done(&mut self, place: &Workplace) -> NodeFacts {
        let Some(under_way) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let mut facts = under_way.await.unwrap_or_else(|error| NodeFacts {
            errors: vec![format!("the agent failed while it read this node's facts: {error}")],
            ..NodeFacts::default()
        });
        self.under_way = None;
        if let Some((refresh, pause)) = self.again.take() {
            self.ask(place, refresh, pause);
        }
        facts.errors.extend(self.always.iter().cloned());
        facts
    }
}

async fn read(host: Host, refresh: bool, pause: Duration) -> NodeFacts {
    host.clock.sleep(pause).await;
    let refreshed = if refresh { host.packages.refresh(&ToLog).await } else { Ok(()) };
    let mut facts = facts::gather(&host).await;
    facts.errors.extend(refreshed.err().map(|error| error.to_string()));
    facts
}

/// What the package manager prints while it reads its lists concerns nobody unless it fails.
struct ToLog;

impl Lines for ToLog {
    fn line(&self, line: &str) {
        tracing::debug!(line, "package lists");
    }
}
