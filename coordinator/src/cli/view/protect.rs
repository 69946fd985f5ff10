//! What is protected on a node, and what is not as it was sealed.

use std::fmt::Write as _;

use jiff::Timestamp;
use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{clock, moment};
use crate::cli::view::backups::size;
use crate::cli::view::said;

/// The protected paths of a node.
#[derive(Debug, Serialize)]
pub struct ProtectedPathsView {
    /// Whose.
    pub node: String,
    /// Sorted by path.
    pub paths: Vec<ProtectedPathView>,
    /// The newest; `None` where nothing was sealed yet.
    pub seal: Option<SealView>,
}

/// One protected path.
#[derive(Debug, Serialize)]
pub struct ProtectedPathView {
    /// Absolute.
    pub path: String,
    /// `sealed`, `managed`, `live`, `except`
    pub class: String,
    /// Who says so.
    pub source: String,
    /// Something is there now.
    pub exists: bool,
    /// Regular files in it when it was sealed; `None` where nobody looked.
    pub files: Option<u64>,
    /// Bytes in them.
    pub bytes: Option<u64>,
    /// Its contents were copied, so that what changes is put back.
    pub copied: bool,
}

/// The protected paths as a lease found them.
#[derive(Debug, Serialize)]
pub struct SealView {
    /// The backup that it lies in.
    pub backup: String,
    /// The lease's plan.
    pub plan: String,
    /// When the backup was begun.
    pub taken_at: Option<Timestamp>,
}

/// What comparing a node with its newest seal found.
#[derive(Debug, Serialize)]
pub struct ProtectionVerdictView {
    /// Whose.
    pub node: String,
    /// What it was compared with.
    pub seal: Option<SealView>,
    /// Protected paths that were compared.
    pub paths: u32,
    /// Nothing was found.
    pub intact: bool,
    /// What is not as it was.
    pub findings: Vec<FindingView>,
}

/// One thing that is not as it was.
#[derive(Debug, Serialize)]
pub struct FindingView {
    /// Absolute.
    pub path: String,
    /// In what it differs.
    pub differences: Vec<String>,
    /// A lease that ended now would put it back.
    pub curable: bool,
    /// Why it could not.
    pub why_not: Option<String>,
}

impl From<v1::Seal> for SealView {
    fn from(seal: v1::Seal) -> Self {
        Self { backup: seal.backup, plan: seal.plan_id, taken_at: moment(seal.taken_at_ms) }
    }
}

impl ProtectedPathsView {
    /// Of an agent's answer.
    pub fn new(node: &NodeName, message: v1::ProtectedPaths) -> Self {
        Self {
            node: node.to_string(),
            paths: message.paths.into_iter().map(Into::into).collect(),
            seal: message.seal.map(Into::into),
        }
    }
}

impl From<v1::ProtectedPath> for ProtectedPathView {
    fn from(path: v1::ProtectedPath) -> Self {
        let v1::ProtectedPath { path, class, source, exists, files, bytes, copied } = path;
        Self { path, class, source, exists, files, bytes, copied }
    }
}

impl ProtectedPathView {
    /// `sealed` is false where nothing was sealed on the node yet.
    fn state(&self, sealed: bool) -> Cell {
        match (self.files, self.bytes) {
            _ if !self.exists => Cell::new(Tone::Faint, "nothing there"),
            (Some(files), Some(bytes)) => {
                let copied = if self.copied { "copied" } else { "proven, not copied" };
                let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                Cell::plain(format!("{files} with {}, {copied}", size(bytes)))
            }
            _ if sealed && matches!(self.class.as_str(), "sealed" | "managed") => {
                Cell::plain("sealed by the next lease")
            }
            _ => Cell::plain(""),
        }
    }
}

impl View for ProtectedPathsView {
    fn table(&self, paint: Paint) -> String {
        let mut table = Table::new(&["PATH", "CLASS", "BY", "WHEN SEALED"]);
        for path in &self.paths {
            table.row(vec![
                Cell::plain(&path.path),
                Cell::plain(&path.class),
                Cell::plain(&path.source),
                path.state(self.seal.is_some()),
            ]);
        }
        let mut text = table.render(paint);
        let _ = match &self.seal {
            Some(seal) => writeln!(text, "Sealed last {} in {}.", clock(seal.taken_at), seal.backup),
            None => writeln!(
                text,
                "Nothing was sealed on {} yet: a lease does so before its first change.",
                self.node
            ),
        };
        text
    }
}

impl ProtectionVerdictView {
    /// Of an agent's answer.
    pub fn new(node: &NodeName, message: v1::ProtectedPathsVerdict) -> Self {
        Self {
            node: node.to_string(),
            seal: message.seal.map(Into::into),
            paths: message.paths,
            intact: message.findings.is_empty(),
            findings: message.findings.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::ProtectedPathFinding> for FindingView {
    fn from(finding: v1::ProtectedPathFinding) -> Self {
        let v1::ProtectedPathFinding { path, differences, curable, why_not } = finding;
        Self { path, differences, curable, why_not: said(why_not) }
    }
}

impl View for ProtectionVerdictView {
    fn table(&self, paint: Paint) -> String {
        let since = clock(self.seal.as_ref().and_then(|seal| seal.taken_at));
        if self.intact {
            let intact = paint.paint(Tone::Good, "as they were sealed");
            return format!("{}: {} protected paths, all {intact} {since}\n", self.node, self.paths);
        }
        let mut table = Table::new(&["CHANGED", "IN WHAT", "A LEASE"]);
        for finding in &self.findings {
            let cure = match &finding.why_not {
                None => Cell::plain("would put it back"),
                Some(why) => Cell::new(Tone::Bad, format!("would halt: {why}")),
            };
            table.row(vec![Cell::plain(&finding.path), Cell::plain(finding.differences.join(", ")), cure]);
        }
        let mut text = table.render(paint);
        let things = match self.findings.len() {
            1 => "1 thing is".to_owned(),
            count => format!("{count} things are"),
        };
        let _ = writeln!(text, "{}: {things} not as sealed {since}.", self.node);
        text
    }
}
