//! What happened, oldest first.

use jiff::Timestamp;
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::Paint;
use crate::cli::table::{Cell, Table};
use crate::cli::time::{clock, moment};
use crate::cli::view::said;

/// Every record that was asked for.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct HistoryView(pub Vec<HistoryEventView>);

/// One durable record.
#[derive(Debug, Serialize)]
pub struct HistoryEventView {
    /// Counted from 1 over the coordinator's whole life.
    pub sequence: u64,
    /// When.
    pub time: Option<Timestamp>,
    /// `plan-applied`, `lease-granted`, …
    pub kind: String,
    /// The plan's id, or null.
    pub plan: Option<String>,
    /// The node, or null.
    pub node: Option<String>,
    /// The lease, or null.
    pub fencing_token: Option<u64>,
    /// The operator that asked for it, or null.
    pub operator: Option<String>,
    /// For people.
    pub text: String,
}

impl From<v1::HistoryResponse> for HistoryView {
    fn from(message: v1::HistoryResponse) -> Self {
        Self(message.events.into_iter().map(Into::into).collect())
    }
}

impl From<v1::HistoryEvent> for HistoryEventView {
    fn from(event: v1::HistoryEvent) -> Self {
        Self {
            sequence: event.sequence,
            time: moment(event.at_ms),
            kind: event.kind,
            plan: said(event.plan_id),
            node: said(event.node),
            fencing_token: Some(event.fencing_token).filter(|&token| token > 0),
            operator: said(event.operator),
            text: event.text,
        }
    }
}

impl View for HistoryView {
    fn table(&self, paint: Paint) -> String {
        if self.0.is_empty() {
            return "Nothing has happened yet.\n".to_owned();
        }
        let mut table = Table::new(&["NO", "TIME", "KIND", "PLAN", "NODE", "LEASE", "OPERATOR", "TEXT"]);
        for event in &self.0 {
            let text = |text: &Option<String>| Cell::plain(text.clone().unwrap_or_default());
            table.row(vec![
                Cell::plain(event.sequence.to_string()),
                Cell::plain(clock(event.time)),
                Cell::plain(&event.kind),
                text(&event.plan),
                text(&event.node),
                Cell::plain(event.fencing_token.map(|token| token.to_string()).unwrap_or_default()),
                text(&event.operator),
                Cell::plain(&event.text),
            ]);
        }
        table.render(paint)
    }
}
