//! Join tokens: made once, shown once, good for one key.

use std::hint::black_box;

use liftlock_proto::join_token::JoinToken;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::subject::{Role, Subject};

/// The longest life of a token, in seconds: 7 days.
pub const MAX_TTL_SECONDS: u32 = 7 * 24 * 3600;

/// What is kept of a join token. The secret itself is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Whom it is for.
    pub subject: Subject,
    /// SHA-256 of the secret, lower-case hexadecimal.
    pub secret_sha256: String,
    /// Milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// SHA-256 of the public key that it was traded for, lower-case hexadecimal, once it was.
    pub used_for: Option<String>,
    /// An operator took it back.
    pub revoked: bool,
}

/// Why a token buys nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// One answer for all that a stranger could probe.
    #[error(
        "the join token is unknown, was taken back, or its secret is wrong: make a new one with \
         `liftlock token create`"
    )]
    Unknown,
    /// Its time is over.
    #[error("join token {id} has expired: make a new one with `liftlock token create`")]
    Expired {
        /// Which.
        id: String,
    },
    /// Another key has it.
    #[error(
        "join token {id} was used already, for another key: if that was not {subject}, take it back with \
         `liftlock token revoke {id}`; make a new one with `liftlock token create`"
    )]
    Used {
        /// Which.
        id: String,
        /// Whom it was for.
        subject: Subject,
    },
    /// An agent's, and whoever came with it is none.
    #[error(
        "join token {id} was made for {wanted}, and was not spent: write it to /etc/liftlock/join-token there; a login \
         takes one of `liftlock token create --operator NAME`"
    )]
    Agents {
        /// Which.
        id: String,
        /// Whom it is for.
        wanted: Subject,
    },
    /// It was made for someone else.
    #[error("join token {id} was made for {wanted}, not for {given}: each node has a token of its own")]
    Subject {
        /// Which.
        id: String,
        /// Whom it is for.
        wanted: Subject,
        /// Who came with it.
        given: String,
    },
}

impl TokenRecord {
    /// A new token and what is kept of it. `random` is 36 bytes that nobody can guess.
    pub fn new(
        random: [u8; 36],
        ca_sha256: String,
        subject: Subject,
        expires_at_ms: u64,
    ) -> (JoinToken, Self) {
        let digits = hex(&random);
        let (id, secret) = digits.split_at(8);
        let token = JoinToken { id: id.to_owned(), secret: secret.to_owned(), ca_sha256 };
        let secret_sha256 = hex(&Sha256::digest(secret));
        (token, Self { subject, secret_sha256, expires_at_ms, used_for: None, revoked: false })
    }

    /// Whether whoever has this secret may have a certificate for `given` now.
    pub fn check(&self, id: &str, secret: &str, given: &str, now_ms: u64) -> Result<(), TokenRefused> {
        if !same(&hex(&Sha256::digest(secret)), &self.secret_sha256) || self.revoked {
            return Err(TokenRefused::Unknown);
        }
        if now_ms >= self.expires_at_ms {
            return Err(TokenRefused::Expired { id: id.to_owned() });
        }
        if given.is_empty() && self.subject.kind == Role::Agent {
            return Err(TokenRefused::Agents { id: id.to_owned(), wanted: self.subject.clone() });
        }
        if !given.is_empty() && given != self.subject.name {
            let (wanted, given) = (self.subject.clone(), given.to_owned());
            return Err(TokenRefused::Subject { id: id.to_owned(), wanted, given });
        }
        Ok(())
    }

    /// Whether it may be traded for this key. The same key may come again until the token expires, because the answer
    /// may have been lost on its way.
    pub fn check_key(&self, id: &str, key_sha256: &str) -> Result<(), TokenRefused> {
        match &self.used_for {
            Some(earlier) if earlier != key_sha256 => {
                Err(TokenRefused::Used { id: id.to_owned(), subject: self.subject.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether two texts are the same, in a time that depends on their length only.
fn same(left: &str, right: &str) -> bool {
    let differences = left.bytes().zip(right.bytes()).fold(0, |all, (l, r)| black_box(all | (l ^ r)));
    left.len() == right.len() && differences == 0
}
