//! Where a coordinator listens, as agents and operators write it: `https://host:7443`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tonic::transport::Uri;

/// The port that a coordinator listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7443;

/// The address of a coordinator: `https`, a host, a port, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CoordinatorUrl {
    host: String,
    port: u16,
}

/// A text that is no coordinator's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not a coordinator's address: write it as https://HOST:PORT, such as https://10.0.0.5:7443"
)]
pub struct CoordinatorUrlError {
    /// What was given.
    pub text: String,
}

impl CoordinatorUrl {
    /// A DNS name or an IP address, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for CoordinatorUrl {
    type Err = CoordinatorUrlError;

    fn from_str(text: &str) -> Result<Self, CoordinatorUrlError> {
        let error = || CoordinatorUrlError { text: text.to_owned() };
        let uri: Uri = text.trim().parse().map_err(|_| error())?;
        let plain = uri.scheme_str() == Some("https")
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        match (uri.host(), uri.port_u16()) {
            (Some(host), Some(port)) if plain && !host.is_empty() => Ok(Self { host: host.to_owned(), port }),
            // A port that does not read is not one that was left out.
            (Some(host), None) if plain && !host.is_empty() && authority == host => {
                Ok(Self { host: host.to_owned(), port: DEFAULT_PORT })
            }
            _ => Err(error()),
        }
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

impl TryFrom<String> for CoordinatorUrl {
    type Error = CoordinatorUrlError;

    fn try_from(text: String) -> Result<Self, CoordinatorUrlError> {
        text.parse()
    }
}

impl From<CoordinatorUrl> for String {
    fn from(url: CoordinatorUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_default_one() {
        assert_eq!(
            "https://lift.example".parse::<CoordinatorUrl>().unwrap().to_string(),
            "https://lift.example:7443"
        );
        assert_eq!(
            "https://[::1]:8000/\n".parse::<CoordinatorUrl>().unwrap().to_string(),
            "https://[::1]:8000"
        );
    }

    #[test]
    fn what_is_no_plain_https_address_is_refused() {
        for text in [
            "",
            "lift.example",
            "http://lift.example",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://me@a",
            "https://a:99999",
            "https://a:",
            "lift.example:7443",
        ] {
            assert!(text.parse::<CoordinatorUrl>().is_err(), "{text:?} parsed");
        }
    }
}
