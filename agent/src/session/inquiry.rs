//! Reads the node's facts when the coordinator asks for them, one reading at a time.

use std::time::Duration;

use liftlock_proto::v1::NodeFacts;

use crate::facts;
use crate::host::{Host, Lines};
use crate::session::duties::Workplace;
use crate::session::tasks::Task;

/// What the coordinator asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Read the package repositories' lists anew first.
    pub(crate) refresh: bool,
    /// So much later.
    pub(crate) pause: Duration,
    /// Which question it is: the facts say which they answer.
    pub(crate) number: u64,
}

impl Asked {
    /// What answers both. Whoever waits longer bears to be answered earlier.
    fn and(self, other: Self) -> Self {
        Self {
            refresh: self.refresh || other.refresh,
            pause: self.pause.min(other.pause),
            number: self.number.max(other.number),
        }
    }
}

/// The reading under way, and the one to follow.
#[derive(Default)]
pub(crate) struct Inquiry {
    /// The question that it answers, and the reading.
    under_way: Option<(u64, Task<NodeFacts>)>,
    /// Asked for while one was under way, which is no answer to it.
    again: Option<Asked>,
    /// What was found wrong when the agent started, and stays wrong until it is started again.
    always: Vec<String>,
}

impl Inquiry {
    /// A sentence that goes with all facts from now on.
    pub(crate) fn always(&mut self, error: String) {
        self.always.push(error);
    }

    /// Asks for the facts as they are after this moment.
    pub(crate) fn ask(&mut self, place: &Workplace, asked: Asked) {
        if self.under_way.is_some() {
            self.again = Some(self.again.map_or(asked, |earlier| earlier.and(asked)));
        } else {
            let reading = read(place.host.clone(), asked);
            self.under_way = Some((asked.number, Task::start(place.tasks.as_ref(), reading)));
        }
    }

    /// Another session begins, maybe with another run of the coordinator, whose numbers may be the same or lower: what answers
    /// the questions of the last one answers none of this.
    pub(crate) fn of_another_session(&mut self) {
        if let Some((number, _)) = &mut self.under_way {
            *number = 0;
        }
        if let Some(asked) = &mut self.again {
            asked.number = 0;
        }
    }

    /// Waits for facts, for ever if nobody asked.
    pub(crate) async fn done(&mut self, place: &Workplace) -> NodeFacts {
        let Some((number, under_way)) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let mut facts = under_way.await.unwrap_or_else(|error| NodeFacts {
            errors: vec![format!("the agent failed while it read this node's facts: {error}")],
            ..NodeFacts::default()
        });
        facts.answers = *number;
        self.under_way = None;
        if let Some(asked) = self.again.take() {
            self.ask(place, asked);
        }
        facts.errors.extend(self.always.iter().cloned());
        facts
    }
}

async fn read(host: Host, asked: Asked) -> NodeFacts {
    host.clock.sleep(asked.pause).await;
    let refreshed = if asked.refresh { host.packages.refresh(&ToLog).await } else { Ok(()) };
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
