//! The agent's side of the session: it dials the coordinator, says who it is, and does what it is told as long as
//! that makes sense.

use std::sync::Arc;

use tokio::sync::watch;

use crate::engine::fence::FenceError;
use crate::engine::journal::JournalError;
use crate::facts;

pub(crate) mod asking;
mod backoff;
mod conversation;
mod duties;
pub mod enrolling;
pub mod identity;
mod inquiry;
mod line;
mod marking;
mod order;
mod outbox;
mod preparing;
mod questions;
mod tasks;
mod tidying;
mod voice;

pub use duties::{PreparationTable, Workplace};
pub use line::{Heard, Line, LineError, TlsLine};
pub use tasks::{Tasks, Threads};

use backoff::Backoff;
use conversation::Broken;
use duties::Duties;
use identity::{Enrolled, IdentityStore};
use outbox::Outbox;

/// Why the agent cannot run on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its own files cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nobody knows which leases were here.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// A thread died.
    #[error("a thread of the agent failed: {0}")]
    Thread(String),
    /// The agent itself failed in the middle of a lease.
    #[error("{0}")]
    Engine(String),
}

/// The agent of one node.
pub struct Agent {
    place: Workplace,
    store: IdentityStore,
    enrolled: Enrolled,
    outbox: Arc<Outbox>,
    duties: Duties,
    boot_id: String,
    backoff: Backoff,
    /// Why the last try to connect failed: said once, not every ten seconds.
    last_failure: String,
}

impl Agent {
    /// Finds what an earlier run was in the middle of. Nothing is started before the coordinator says so.
    pub async fn open(
        place: Workplace,
        store: IdentityStore,
        enrolled: Enrolled,
    ) -> Result<Self, StartError> {
        let outbox = Arc::new(Outbox::default());
        let duties = Duties::open(place.clone(), Arc::clone(&outbox))?;
        let boot_id = facts::boot_id(&place.host).await.unwrap_or_default();
        let (backoff, last_failure) = (Backoff::default(), String::new());
        Ok(Self { place, store, enrolled, outbox, duties, boot_id, backoff, last_failure })
    }

    /// Serves the coordinator until `stop` says so. What runs then goes on as its unit, and its journal stays open.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), StartError> {
        tracing::info!(node = %self.place.node, coordinator = %self.enrolled.coordinator, "serving");
        self.tell_status("connecting");
        loop {
            let broken = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                broken = self.converse() => broken,
            };
            match broken {
                Broken::EngineFailed(error) => return Err(StartError::Engine(error.to_string())),
                Broken::State(error) => return Err(error),
                broken => self.lost(&broken.to_string()),
            }
            let wait = self.backoff.next(self.place.line.jitter());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                () = self.place.host.clock.sleep(wait) => {}
            }
        }
    }

    fn connected(&mut self, version: &str) {
        self.backoff.reset();
        self.last_failure.clear();
        tracing::info!(coordinator = %self.enrolled.coordinator, version, "connected");
    }

    fn lost(&mut self, why: &str) {
        if self.last_failure == why {
            tracing::debug!(why, "not connected");
        } else {
            tracing::warn!(why, "not connected");
        }
        why.clone_into(&mut self.last_failure);
        self.tell_status(&format!("not connected: {why}"));
    }

    /// One line for `systemctl status`.
    fn tell_status(&self, connection: &str) {
        let status = format!("{connection}; {}", self.duties.status());
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Status(&status)]) {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}

#[cfg(test)]
mod tests;
