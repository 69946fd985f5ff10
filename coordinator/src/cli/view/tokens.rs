//! Join tokens.

use jiff::Timestamp;
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{clock, moment};

/// Every token that was not removed yet.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct TokensView(pub Vec<TokenView>);

/// A token without its secret.
#[derive(Debug, Serialize)]
pub struct TokenView {
    /// Its name in lists.
    pub id: String,
    /// `node`, `operator`, `viewer`
    pub subject: &'static str,
    /// The node's or the operator's name.
    pub name: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// It was traded for a certificate.
    pub used: bool,
}

/// A token that was just made: the only time that its secret is shown.
#[derive(Debug, Serialize)]
pub struct NewTokenView {
    /// Its name in lists.
    pub id: String,
    /// The token itself.
    pub token: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

impl From<v1::ListTokensResponse> for TokensView {
    fn from(message: v1::ListTokensResponse) -> Self {
        Self(message.tokens.into_iter().map(Into::into).collect())
    }
}

impl From<v1::TokenEntry> for TokenView {
    fn from(entry: v1::TokenEntry) -> Self {
        let subject = match entry.subject() {
            v1::Subject::Unspecified => "unknown",
            v1::Subject::Node => "node",
            v1::Subject::Operator => "operator",
            v1::Subject::Viewer => "viewer",
        };
        Self {
            id: entry.id,
            subject,
            name: entry.name,
            expires_at: moment(entry.expires_at_ms),
            used: entry.used,
        }
    }
}

impl From<v1::CreateTokenResponse> for NewTokenView {
    fn from(message: v1::CreateTokenResponse) -> Self {
        Self { id: message.id, token: message.token, expires_at: moment(message.expires_at_ms) }
    }
}

impl View for TokensView {
    fn table(&self, paint: Paint) -> String {
        if self.0.is_empty() {
            return "There is no join token: `liftlock token create --node NAME` makes one.\n".to_owned();
        }
        let mut table = Table::new(&["ID", "FOR", "NAME", "EXPIRES", "STATE"]);
        for token in &self.0 {
            let state = if token.used { Cell::new(Tone::Faint, "used") } else { Cell::plain("unused") };
            table.row(vec![
                Cell::plain(&token.id),
                Cell::plain(token.subject),
                Cell::plain(&token.name),
                Cell::plain(clock(token.expires_at)),
                state,
            ]);
        }
        table.render(paint)
    }
}

impl View for NewTokenView {
    /// The token alone, so that a file takes it.
    fn table(&self, _: Paint) -> String {
        format!("{}\n", self.token)
    }
}
