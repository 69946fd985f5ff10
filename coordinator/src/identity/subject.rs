//! Whom a certificate is for.

use std::fmt;

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Holds a session and acts on its own node.
    Agent,
    /// Changes roll-outs and tokens.
    Operator,
    /// Reads.
    Viewer,
    /// Is the coordinator.
    Coordinator,
}

/// A role and a name: the organisation and the common name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// What it may do.
    pub kind: Role,
    /// The node's or the operator's name.
    pub name: String,
}

/// A certificate that says of no one who they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client certificate is not one that this coordinator signs ({why}): enrol again with a join token"
)]
pub struct ForeignCertificate {
    /// What is missing.
    pub why: &'static str,
}

/// Who a client certificate is for, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whom it is for.
    pub subject: Subject,
    /// Start of its validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of its validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

impl Role {
    const ALL: [Self; 4] = [Self::Agent, Self::Operator, Self::Viewer, Self::Coordinator];

    /// The certificate's organisation: `liftlock:agent`.
    pub fn organisation(self) -> &'static str {
        match self {
            Self::Agent => "liftlock:agent",
            Self::Operator => "liftlock:operator",
            Self::Viewer => "liftlock:viewer",
            Self::Coordinator => "liftlock:coordinator",
        }
    }

    /// Its name in messages: `agent`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Coordinator => "coordinator",
        }
    }
}

impl Subject {
    /// The agent of a node.
    pub fn agent(node: &NodeName) -> Self {
        Self { kind: Role::Agent, name: node.to_string() }
    }

    /// From a request for a token. The name of a node is a node's name; of a person, 1 to 64 plain characters.
    pub fn requested(kind: v1::Subject, name: &str) -> Result<Self, String> {
        let kind = match kind {
            v1::Subject::Node => Role::Agent,
            v1::Subject::Operator => Role::Operator,
            v1::Subject::Viewer => Role::Viewer,
            v1::Subject::Unspecified => {
                return Err("say whom the token is for: a node, an operator or a viewer".to_owned());
            }
        };
        if kind == Role::Agent {
            let node: NodeName = name.parse().map_err(|error| format!("{error}"))?;
            return Ok(Self::agent(&node));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(format!(
                "\"{name}\" is not an operator's name: letters, digits, '.', '_', '-' and '@', at most 64"
            ));
        }
        Ok(Self { kind, name: name.to_owned() })
    }

    /// As messages name it.
    pub fn to_message(&self) -> v1::Subject {
        match self.kind {
            Role::Agent => v1::Subject::Node,
            Role::Operator => v1::Subject::Operator,
            Role::Viewer => v1::Subject::Viewer,
            Role::Coordinator => v1::Subject::Unspecified,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.kind == Role::Agent { "node" } else { self.kind.name() };
        write!(f, "{what} {}", self.name)
    }
}

impl Peer {
    /// Reads a client certificate, whose chain TLS has checked already.
    pub fn of_certificate(der: &[u8]) -> Result<Self, ForeignCertificate> {
        let foreign = |why| ForeignCertificate { why };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| foreign("it does not parse"))?;
        let subject = certificate.subject();
        let single = |mut values: Vec<&str>| {
            if values.len() == 1 { values.pop().map(str::to_owned) } else { None }
        };
        let texts = |attributes: Vec<_>| -> Vec<&str> { attributes.into_iter().flatten().collect() };
        let organisation = single(texts(subject.iter_organization().map(|a| a.as_str().ok()).collect()));
        let name = single(texts(subject.iter_common_name().map(|a| a.as_str().ok()).collect()));
        let kind = organisation
            .and_then(|found| Role::ALL.into_iter().find(|role| role.organisation() == found))
            .ok_or(foreign("its organisation is no role"))?;
        let name = name.ok_or(foreign("it has not exactly one common name"))?;
        Ok(Self {
            subject: Subject { kind, name },
            not_before_s: certificate.validity().not_before.timestamp(),
            not_after_s: certificate.validity().not_after.timestamp(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_somebody_with_a_plain_name() {
        let requested = |kind, name: &str| Subject::requested(kind, name);
        assert!(requested(v1::Subject::Node, "cp1.example").is_ok());
        assert!(requested(v1::Subject::Operator, "alice@example.org").is_ok());
        for (kind, name) in [
            (v1::Subject::Node, "Cp1"),
            (v1::Subject::Node, ""),
            (v1::Subject::Operator, ""),
            (v1::Subject::Viewer, "two words"),
            (v1::Subject::Viewer, "a/b"),
            (v1::Subject::Unspecified, "alice"),
        ] {
            assert!(requested(kind, name).is_err(), "{kind:?} {name:?}");
        }
        assert!(requested(v1::Subject::Operator, &"a".repeat(65)).is_err());
    }
}
