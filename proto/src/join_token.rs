//! Join tokens: `liftlock1.<id>.<secret>.<SHA-256 of the CA certificate>`.

use std::fmt;
use std::str::FromStr;

/// A one-time join token. Its `Debug` form leaves the secret out.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the token in lists: 8 lower-case hexadecimal digits.
    pub id: String,
    /// 64 lower-case hexadecimal digits.
    pub secret: String,
    /// SHA-256 of the CA certificate's DER form, 64 lower-case hexadecimal digits.
    pub ca_sha256: String,
}

/// A text that is no join token. Does not repeat the text, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a join token: it should read liftlock1.ID.SECRET.HASH; make one with `liftlock token create --node NAME`"
)]
pub struct JoinTokenError;

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let parts: Vec<&str> = text.trim().split('.').collect();
        match parts.as_slice() {
            ["liftlock1", id, secret, ca] if hex(id, 8) && hex(secret, 64) && hex(ca, 64) => {
                Ok(Self { id: (*id).to_owned(), secret: (*secret).to_owned(), ca_sha256: (*ca).to_owned() })
            }
            _ => Err(JoinTokenError),
        }
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "liftlock1.{}.{}.{}", self.id, self.secret, self.ca_sha256)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}
