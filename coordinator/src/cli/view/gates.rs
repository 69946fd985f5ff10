//! Every gate, and what became of it.

use std::fmt::Write as _;

use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};

/// Every gate, for one version.
#[derive(Debug, Serialize)]
pub struct GatesView {
    /// For which version they were asked.
    pub to_version: String,
    /// In the order in which a plan meets them.
    pub gates: Vec<GateView>,
}

/// One gate.
#[derive(Debug, Serialize)]
pub struct GateView {
    /// Also what `--accept` takes.
    pub name: String,
    /// What has to be so.
    pub about: String,
    /// `never`, `unknown` (only that nobody knows), `always`.
    pub consent: &'static str,
    /// Asked again before each lease that raises a node.
    pub between_nodes: bool,
    /// `passed`, `accepted`, `unknown`, `refused`.
    pub state: &'static str,
    /// What it found: what, why, and what to do.
    pub findings: Vec<String>,
}

impl From<v1::ListGatesResponse> for GatesView {
    fn from(v1::ListGatesResponse { to_version, gates }: v1::ListGatesResponse) -> Self {
        Self { to_version, gates: gates.into_iter().map(Into::into).collect() }
    }
}

impl From<v1::Gate> for GateView {
    fn from(message: v1::Gate) -> Self {
        let consent = match message.consent() {
            v1::GateConsent::Always => "always",
            v1::GateConsent::ToTheUnknown => "unknown",
            v1::GateConsent::Never | v1::GateConsent::Unspecified => "never",
        };
        let state = match message.verdict() {
            v1::GateVerdict::Passed => "passed",
            v1::GateVerdict::Accepted => "accepted",
            v1::GateVerdict::Refused => "refused",
            v1::GateVerdict::Unknown | v1::GateVerdict::Unspecified => "unknown",
        };
        let v1::Gate { name, about, between_nodes, findings, .. } = message;
        Self { name, about, consent, between_nodes, state, findings }
    }
}

impl GatesView {
    /// Whether a plan would pass them all.
    pub fn open(&self) -> bool {
        self.gates.iter().all(|gate| matches!(gate.state, "passed" | "accepted"))
    }
}

impl GateView {
    fn tone(&self) -> Tone {
        match self.state {
            "passed" => Tone::Good,
            "accepted" => Tone::Notice,
            _ => Tone::Bad,
        }
    }
}

impl View for GatesView {
    fn table(&self, paint: Paint) -> String {
        let mut table = Table::new(&["GATE", "STATE", "CONSENT", "ASKED", "WHAT HAS TO BE SO"]);
        for gate in &self.gates {
            table.row(vec![
                Cell::plain(&gate.name),
                Cell::new(gate.tone(), gate.state),
                Cell::plain(match gate.consent {
                    "always" => "possible",
                    "unknown" => "if unknown",
                    _ => "no",
                }),
                Cell::plain(if gate.between_nodes { "before, between nodes" } else { "before" }),
                Cell::plain(&gate.about),
            ]);
        }
        let mut text = format!("For a raise to {}:\n\n{}", self.to_version, table.render(paint));
        let found =
            self.gates.iter().flat_map(|gate| gate.findings.iter().map(move |finding| (gate, finding)));
        for (index, (gate, finding)) in found.enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{} {finding}", paint.paint(gate.tone(), &format!("{}:", gate.name)));
        }
        text
    }
}
