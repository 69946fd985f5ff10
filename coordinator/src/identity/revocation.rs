//! Certificates that count no more before they end.

use serde::{Deserialize, Serialize};

use super::subject::{Peer, Subject};

/// All certificates that a subject had up to a moment are void. A new join token buys a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Whose.
    pub subject: Subject,
    /// Certificates whose validity began at this second (since the Unix epoch) or before are void.
    pub up_to_s: i64,
}

impl Revocation {
    /// Whether it makes this certificate void.
    pub fn covers(&self, peer: &Peer) -> bool {
        peer.subject == self.subject && peer.not_before_s <= self.up_to_s
    }
}
