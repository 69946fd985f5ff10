//! What agents' own files say, read from outside.

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_agent::disk::LocalDisk;
use liftlock_agent::engine::journal::{self, Header};
use liftlock_agent::engine::transition::Event;

/// One lease's journal.
#[derive(Debug, Clone)]
pub struct LeaseJournal {
    /// Whether it is put away: both sides know the lease's end.
    pub closed: bool,
    /// What the lease is.
    pub header: Header,
    /// Everything after that, with its time in milliseconds since the Unix epoch.
    pub records: Vec<(u64, Event)>,
}

impl LeaseJournal {
    /// The name of the step that an event is about.
    pub fn step_of(&self, event: &Event) -> Option<&'static str> {
        let (Event::Started { index, .. }
        | Event::Adopted { index }
        | Event::Succeeded { index, .. }
        | Event::Failed { index, .. }
        | Event::UndoStarted { index }
        | Event::Undone { index, .. }) = event
        else {
            return None;
        };
        self.header.steps.get(*index).map(liftlock_proto::step::Step::name)
    }
}

/// The journals of an agent, the oldest lease first.
pub fn journals(state_dir: &Utf8Path) -> Result<Vec<LeaseJournal>> {
    read(state_dir, 0)
}

/// The newest journal of a lease after this one, if there is one.
pub fn newest_after(state_dir: &Utf8Path, token: u64) -> Result<Option<LeaseJournal>> {
    Ok(read(state_dir, token)?.pop())
}

/// The journals of the leases after one. One that is put away meanwhile has another name by then: looked for again.
fn read(state_dir: &Utf8Path, after: u64) -> Result<Vec<LeaseJournal>> {
    'again: loop {
        let mut found = Vec::new();
        for (token, path) in files(state_dir)?.into_iter().filter(|(token, _)| *token > after) {
            let (header, records) = match journal::records(&LocalDisk, &path) {
                Err(_) if !path.exists() => continue 'again,
                read => read.with_context(|| format!("the journal of lease {token}"))?,
            };
            found.push(LeaseJournal { closed: path.extension() == Some("ended"), header, records });
        }
        return Ok(found);
    }
}

/// The highest fencing token that an agent has made durable; 0 if it has seen none.
pub fn fence(state_dir: &Utf8Path) -> Result<u64> {
    let path = state_dir.join("fence");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let token = text.split_whitespace().next().and_then(|token| token.parse().ok());
            token.with_context(|| format!("{path} holds {text:?}"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("cannot read {path}")),
    }
}

/// Journals with the token in their names, in its order.
fn files(state_dir: &Utf8Path) -> Result<Vec<(u64, Utf8PathBuf)>> {
    let mut found = Vec::new();
    let Ok(entries) = state_dir.join("journal").read_dir_utf8() else {
        return Ok(found);
    };
    for entry in entries {
        let path = entry?.into_path();
        let token =
            path.file_stem().and_then(|stem| stem.rsplit_once('-')).and_then(|(_, token)| token.parse().ok());
        if let (Some(token), Some("journal" | "ended")) = (token, path.extension()) {
            found.push((token, path));
        }
    }
    found.sort();
    Ok(found)
}
