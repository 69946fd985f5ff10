//! The versions that anybody speaks of: who runs them, who is offered them, and what the catalogue says.

use std::fmt::Write as _;

use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::view::said;

/// So many nodes are named in a cell; more are counted.
const NAMED: usize = 3;

/// Every version that is installed, offered or on the catalogue.
#[derive(Debug, Serialize)]
pub struct VersionsView {
    /// The catalogue's file; null where none is kept, and everything that is offered may be raised to.
    pub catalogue: Option<String>,
    /// Why it cannot be read, and nothing is planned.
    pub catalogue_flaw: Option<String>,
    /// How many nodes there are.
    pub nodes: u32,
    /// Those of them that could not be asked.
    pub silent: Vec<String>,
    /// The oldest first.
    pub versions: Vec<VersionView>,
}

/// One version.
#[derive(Debug, Serialize)]
pub struct VersionView {
    /// `v1.20.2`
    pub version: String,
    /// Nodes whose kubelets run it.
    pub kubelets: Vec<String>,
    /// Nodes whose API servers run it.
    pub control_planes: Vec<String>,
    /// How many nodes' package repositories offer it.
    pub offered_by: u32,
    /// `approved`, `known-bad`, `off-catalogue`; null where no catalogue says anything.
    pub standing: Option<&'static str>,
    /// No path goes past it.
    pub required_stop: bool,
    /// Why it is bad, or what else the catalogue says.
    pub text: Option<String>,
}

impl From<v1::ListVersionsResponse> for VersionsView {
    fn from(message: v1::ListVersionsResponse) -> Self {
        Self {
            catalogue: said(message.catalogue),
            catalogue_flaw: said(message.catalogue_flaw),
            nodes: message.nodes,
            silent: message.silent,
            versions: message.versions.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::VersionEntry> for VersionView {
    fn from(message: v1::VersionEntry) -> Self {
        let standing = match message.standing() {
            v1::VersionStanding::Approved => Some("approved"),
            v1::VersionStanding::KnownBad => Some("known-bad"),
            v1::VersionStanding::OffCatalogue => Some("off-catalogue"),
            v1::VersionStanding::Unspecified => None,
        };
        let v1::VersionEntry { version, kubelets, control_planes, offered_by, text, required_stop, .. } =
            message;
        Self { version, kubelets, control_planes, offered_by, standing, required_stop, text: said(text) }
    }
}

impl VersionView {
    fn standing(&self) -> Cell {
        match self.standing {
            Some("approved") if self.required_stop => Cell::new(Tone::Good, "approved, required stop"),
            Some("approved") => Cell::new(Tone::Good, "approved"),
            Some("known-bad") => Cell::new(Tone::Bad, "known bad"),
            Some(_) => Cell::new(Tone::Notice, "not on it"),
            None => Cell::plain(""),
        }
    }
}

/// `cp1, w1`, or `7 nodes`.
fn named(nodes: &[String]) -> Cell {
    Cell::plain(if nodes.len() > NAMED { format!("{} nodes", nodes.len()) } else { nodes.join(", ") })
}

fn in_a_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl View for VersionsView {
    fn table(&self, paint: Paint) -> String {
        let mut table =
            Table::new(&["VERSION", "CATALOGUE", "KUBELETS", "CONTROL PLANES", "OFFERED BY", "NOTES"]);
        for version in &self.versions {
            table.row(vec![
                Cell::plain(&version.version),
                version.standing(),
                named(&version.kubelets),
                named(&version.control_planes),
                Cell::plain(match version.offered_by {
                    0 => String::new(),
                    count => format!("{count} of {}", self.nodes),
                }),
                Cell::plain(version.text.as_deref().map(in_a_line).unwrap_or_default()),
            ]);
        }
        let mut text = table.render(paint);
        let _ = match (&self.catalogue, &self.catalogue_flaw) {
            (None, _) => {
                writeln!(text, "\nNo catalogue is kept: whatever every node is offered may be raised to.")
            }
            (Some(path), None) => writeln!(text, "\nThe catalogue is {path}."),
            (Some(path), Some(flaw)) => writeln!(
                text,
                "\n{} the catalogue {path} cannot be read, and nothing is raised without it: {flaw}",
                paint.paint(Tone::Bad, "catalogue-unread:")
            ),
        };
        if !self.silent.is_empty() {
            let silent = paint.paint(Tone::Notice, "Not asked:");
            let _ = writeln!(text, "{silent} {}; what they said last counts.", self.silent.join(", "));
        }
        text
    }
}
