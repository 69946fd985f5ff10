//! The journal of one lease on this node: what was begun and what became of it, durable before and after each effect.

use std::io::{self, ErrorKind};

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use liftlock_proto::plan::Purpose;
use liftlock_proto::step::{STEP_LIST_VERSION, Step};
use serde::{Deserialize, Serialize};

use crate::disk::{Appender, Disk};
use crate::engine::context::Captured;
use crate::engine::frame::{self, MAX_PAYLOAD, Next};
use crate::engine::transition::{Event, Illegal, State};

/// The form of the file. Raised when an older agent could misread a newer journal.
const FORMAT: u32 = 1;

/// The first record: what the lease is. With it a restarted agent knows what it is in the middle of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// The form of the file.
    pub format: u32,
    /// Whose journal it is: a disk that was copied to another node brings none.
    pub node: NodeName,
    /// The plan.
    pub plan: PlanId,
    /// Its hash, lower-case hexadecimal.
    pub plan_hash: String,
    /// The lease.
    pub token: FencingToken,
    /// What it is for.
    #[serde(default)]
    pub purpose: Purpose,
    /// What the names of steps meant when it was begun.
    pub step_list: u32,
    /// The lease's steps, in order.
    pub steps: Vec<Step>,
    /// What earlier leases of this plan captured on this node and did not put back.
    pub inherited: Captured,
    /// When the lease arrived, milliseconds since the Unix epoch.
    pub granted_at_ms: u64,
}

impl Header {
    /// The header of a lease that begins now.
    pub fn new(
        node: NodeName,
        plan: PlanId,
        plan_hash: String,
        token: FencingToken,
        purpose: Purpose,
        steps: Vec<Step>,
    ) -> Self {
        Self {
            format: FORMAT,
            node,
            plan,
            plan_hash,
            token,
            purpose,
            step_list: STEP_LIST_VERSION,
            steps,
            inherited: Captured::new(),
            granted_at_ms: 0,
        }
    }

    /// Whether both are the same lease of the same work.
    pub fn same_lease(&self, other: &Self) -> bool {
        let key = |header: &Self| (header.plan.clone(), header.plan_hash.clone(), header.token);
        key(self) == key(other) && self.purpose == other.purpose && self.steps == other.steps
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// For people: milliseconds since the Unix epoch.
    at_ms: u64,
    #[serde(rename = "what")]
    event: Event,
}

/// Why a journal cannot be written or believed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No room to write: what was to happen next did not.
    #[error(
        "the disk is full, or a limit is reached: cannot write the journal {path} ({source}). What it was to record was \
         not begun or is not acknowledged, and nothing is lost: make room there, then `liftlock retry` the node"
    )]
    NoRoom {
        /// The journal.
        path: Utf8PathBuf,
        /// No space, a quota, or a limit on the size of files.
        source: io::Error,
    },
    /// The disk said no.
    #[error("cannot {doing} the journal {path}: {source}")]
    Io {
        /// `read`, `write`, `create`
        doing: &'static str,
        /// The journal.
        path: Utf8PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An append failed before: what is at the end of the file is not known until it is opened again.
    #[error(
        "the journal {path} could not be written before; it is opened anew before anything else is begun"
    )]
    Unusable {
        /// The journal.
        path: Utf8PathBuf,
    },
    /// It was damaged after it was written.
    #[error(
        "the journal {path} is damaged at byte {offset}: {why}. Nothing is guessed and nothing was started: \
         compare the node with its plan, move the file away, then `liftlock retry` the node"
    )]
    Damaged {
        /// The journal.
        path: Utf8PathBuf,
        /// Where the record that does not check begins.
        offset: usize,
        /// What does not check.
        why: String,
    },
    /// A rollback where nothing tells what was changed.
    #[error(
        "no journal of plan {plan} is in {folder}, so nobody knows here what it changed on this node, and nothing is \
         put back by guessing: bring the journals back, or compare the node with the plan's backup in \
         /etc/kubernetes/tmp by hand, then `liftlock abort`"
    )]
    NothingKnown {
        /// The plan that is to be rolled back.
        plan: PlanId,
        /// Where its journals would lie.
        folder: Utf8PathBuf,
    },
    /// It is whole, and not for this agent or this lease.
    #[error("the journal {path} is not this lease's: {why}. Nothing was started")]
    Foreign {
        /// The journal.
        path: Utf8PathBuf,
        /// Why.
        why: String,
    },
    /// The engine asked for an event that cannot follow. Nothing was written.
    #[error("the journal {path} cannot take this event: {source}")]
    Illegal {
        /// The journal.
        path: Utf8PathBuf,
        /// Why.
        source: Illegal,
    },
}

/// An open journal.
pub struct Journal {
    path: Utf8PathBuf,
    header: Header,
    state: State,
    file: Box<dyn Appender>,
    length: usize,
    usable: bool,
}

/// A journal as its bytes say it; nothing is open.
pub(crate) struct Reading {
    pub(crate) header: Header,
    pub(crate) state: State,
    /// Bytes that were acknowledged.
    length: usize,
}

impl Journal {
    /// Begins one. The file is there with its whole header or not at all.
    pub fn create(disk: &dyn Disk, path: Utf8PathBuf, header: Header) -> Result<Self, JournalError> {
        let state = start(&path, &header)?;
        let frame = encode(&path, 0, &header)?;
        disk.replace(&path, &frame).map_err(failed("create", &path))?;
        let file = disk.append_to(&path, frame.len() as u64).map_err(failed("create", &path))?;
        Ok(Self { path, header, state, file, length: frame.len(), usable: true })
    }

    /// Opens one after a restart. An append at its end that was cut off, and so never acknowledged, is taken away;
    /// anything else that does not check is refused.
    pub fn open(disk: &dyn Disk, path: Utf8PathBuf) -> Result<Self, JournalError> {
        let Reading { header, state, length } = read(disk, &path)?;
        let file = disk.append_to(&path, length as u64).map_err(failed("open", &path))?;
        Ok(Self { path, header, state, file, length, usable: true })
    }

    /// Makes an event durable. When this returns an error the event did not happen as far as the journal knows, and
    /// the journal takes no other until it is opened anew.
    pub fn append(&mut self, at_ms: u64, event: &Event) -> Result<(), JournalError> {
        if !self.usable {
            return Err(JournalError::Unusable { path: self.path.clone() });
        }
        let illegal = |source| JournalError::Illegal { path: self.path.clone(), source };
        let next = self.state.after(event).map_err(illegal)?;
        let frame = encode(&self.path, self.length, &Entry { at_ms, event: event.clone() })?;
        self.usable = false;
        self.file.append(&frame).map_err(failed("write", &self.path))?;
        self.usable = true;
        self.length += frame.len();
        self.state = next;
        Ok(())
    }

    /// What the lease is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How far it is.
    pub fn state(&self) -> &State {
        &self.state
    }
}

/// Reads a journal and believes all of it or nothing.
pub(crate) fn read(disk: &dyn Disk, path: &Utf8Path) -> Result<Reading, JournalError> {
    scan(disk, path, |_| {})
}

/// Everything that a journal says, oldest first, each event with its time in milliseconds since the Unix epoch. For
/// whoever looks from outside, also while the agent writes: it opens nothing and changes nothing.
pub fn records(disk: &dyn Disk, path: &Utf8Path) -> Result<(Header, Vec<(u64, Event)>), JournalError> {
    let mut records = Vec::new();
    let reading = scan(disk, path, |entry| records.push((entry.at_ms, entry.event)))?;
    Ok((reading.header, records))
}

fn scan(disk: &dyn Disk, path: &Utf8Path, mut each: impl FnMut(Entry)) -> Result<Reading, JournalError> {
    let bytes = disk.read(path).map_err(failed("read", path))?;
    let bytes = bytes.ok_or_else(|| failed("read", path)(ErrorKind::NotFound.into()))?;
    let damaged = |offset, why: &dyn std::fmt::Display| JournalError::Damaged {
        path: path.to_owned(),
        offset,
        why: why.to_string(),
    };
    let frame_at = |offset| frame::next(&bytes, offset).map_err(|damage| damaged(damage.offset, &damage.why));

    let Next::Frame { payload, end } = frame_at(0)? else {
        return Err(damaged(0, &"its first record is not whole, though a journal is put in place with it"));
    };
    // The format first: a newer header need not parse as one of ours.
    let format: Format = serde_json::from_slice(payload).map_err(|error| damaged(0, &error))?;
    if format.format != FORMAT {
        let why = format!("it has format {}, this agent knows {FORMAT}", format.format);
        return Err(JournalError::Foreign { path: path.to_owned(), why });
    }
    let header: Header = serde_json::from_slice(payload).map_err(|error| damaged(0, &error))?;
    let mut state = start(path, &header)?;
    let mut length = end;
    while let Next::Frame { payload, end } = frame_at(length)? {
        let entry: Entry = serde_json::from_slice(payload).map_err(|error| damaged(length, &error))?;
        state = state.after(&entry.event).map_err(|illegal| damaged(length, &illegal))?;
        each(entry);
        length = end;
    }
    Ok(Reading { header, state, length })
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn start(path: &Utf8Path, header: &Header) -> Result<State, JournalError> {
    if header.step_list != STEP_LIST_VERSION {
        let why = format!(
            "it was begun with version {} of the list of steps, this agent knows {STEP_LIST_VERSION}: \
             finish it with the agent that began it",
            header.step_list
        );
        return Err(JournalError::Foreign { path: path.to_owned(), why });
    }
    State::new(header.purpose, header.steps.iter().map(Step::name), header.inherited.clone())
        .map_err(|source| JournalError::Illegal { path: path.to_owned(), source })
}

fn encode(path: &Utf8Path, offset: usize, record: &impl Serialize) -> Result<Vec<u8>, JournalError> {
    let invalid = |why: String| failed("write", path)(io::Error::new(ErrorKind::InvalidData, why));
    let payload = serde_json::to_vec(record).map_err(|error| invalid(error.to_string()))?;
    if payload.len() > MAX_PAYLOAD {
        return Err(invalid(format!(
            "a record of {} bytes is too large (at most {MAX_PAYLOAD})",
            payload.len()
        )));
    }
    Ok(frame::encode(offset, &payload))
}

fn failed(doing: &'static str, path: &Utf8Path) -> impl Fn(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| {
        let path = path.clone();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                JournalError::NoRoom { path, source }
            }
            _ => JournalError::Io { doing, path, source },
        }
    }
}

#[cfg(test)]
mod tests;
