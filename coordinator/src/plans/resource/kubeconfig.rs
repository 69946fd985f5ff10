//! The kubeconfig of the coordinator's one key to the cluster: a server, its authority, and a token or a client certificate.
//!
//! All of it lies in the file itself, which nobody else may read. What else a kubeconfig may name (programs to log in with,
//! other files, a proxy) is refused rather than passed over.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_saphyr::Error;

use crate::identity::files::{self, FileError};

/// Why a kubeconfig is none to use.
#[derive(Debug, thiserror::Error)]
pub(super) enum KubeconfigError {
    /// The system refused it.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is none.
    #[error("{}: there is no such file; README.md says how it is made", .0.display())]
    Missing(PathBuf),
    /// Others may read it.
    #[error(
        "{} is a key, and others than its owner may read it: chown liftlock: and chmod 0600 it",
        .0.display()
    )]
    Open(PathBuf),
    /// It says something else than it may.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Which field, why, and what would be allowed; nothing of any secret.
        why: String,
    },
}

/// Who asks, and whom.
pub(super) struct Kubeconfig {
    /// `https://10.0.0.10:6443`
    pub(super) server: String,
    /// The server's authorities, PEM.
    pub(super) authorities: Vec<u8>,
    pub(super) credential: Credential,
}

/// What proves who asks.
pub(super) enum Credential {
    /// Of a service account.
    Token(String),
    /// A client certificate with its key, PEM.
    Certificate { certificate: Vec<u8>, key: Vec<u8> },
}

/// What people keep beside the rest (`apiVersion`, `kind`, `preferences`) is not read.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct User {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key_data: Option<String>,
}

impl Kubeconfig {
    /// Reads it anew.
    pub(super) fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = files::read(path)?.ok_or_else(|| KubeconfigError::Missing(path.to_owned()))?;
        if !files::is_owners_only(path)? {
            return Err(KubeconfigError::Open(path.to_owned()));
        }
        parse(&text).map_err(|why| KubeconfigError::Unusable { path: path.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Kubeconfig, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| what(&error))?;
    let File { current_context: current, clusters, contexts, users } = file;
    let Some(NamedContext { context, .. }) = contexts.into_iter().find(|named| named.name == current) else {
        return Err(format!("current-context: there is no context {current}"));
    };
    let Some(NamedCluster { cluster, .. }) = clusters.into_iter().find(|named| named.name == context.cluster)
    else {
        return Err(format!("contexts: there is no cluster {}", context.cluster));
    };
    let Some(NamedUser { user, .. }) = users.into_iter().find(|named| named.name == context.user) else {
        return Err(format!("contexts: there is no user {}", context.user));
    };
    if !cluster.server.starts_with("https://") {
        return Err(format!(
            "clusters: the server {} is not asked: allowed is https://HOST:PORT",
            cluster.server
        ));
    }
    let credential = match (user.token, user.client_certificate_data, user.client_key_data) {
        (Some(token), None, None) => Credential::Token(token),
        (None, Some(certificate), Some(key)) => Credential::Certificate {
            certificate: decoded("client-certificate-data", &certificate)?,
            key: decoded("client-key-data", &key)?,
        },
        _ => {
            return Err(format!(
                "users: {} has to have a token, or client-certificate-data with client-key-data, and not both",
                context.user
            ));
        }
    };
    Ok(Kubeconfig {
        server: cluster.server.trim_end_matches('/').to_owned(),
        authorities: decoded("certificate-authority-data", &cluster.certificate_authority_data)?,
        credential,
    })
}

/// What does not read. Most errors show the value that they are about, which may be a secret: of those only the place is told.
fn what(error: &Error) -> String {
    let error = error.without_snippet();
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("{field} is not read here; allowed are {}", expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => format!("{field} is missing"),
        error => match error.location() {
            Some(place) => {
                format!("line {}, column {} does not read as a kubeconfig", place.line(), place.column())
            }
            None => "it does not read as a kubeconfig".to_owned(),
        },
    }
}

fn decoded(field: &str, data: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(data.trim()).map_err(|_| format!("{field} is no base64"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TOKEN: &str = "\
apiVersion: v1
kind: Config
current-context: plans
clusters:
- name: kubernetes
  cluster: {server: \"https://10.0.0.10:6443\", certificate-authority-data: QQ==}
contexts:
- name: plans
  context: {cluster: kubernetes, user: liftlock-plans}
users:
- name: liftlock-plans
  user: {token: s3cret}
";

    fn why(text: &str) -> String {
        parse(text).err().unwrap()
    }

    #[test]
    fn a_kubeconfig_holds_a_server_its_authority_and_a_token_or_a_certificate() {
        let read = parse(TOKEN).ok().unwrap();
        assert_eq!(
            (read.server.as_str(), read.authorities.as_slice()),
            ("https://10.0.0.10:6443", &b"A"[..])
        );
        assert!(matches!(read.credential, Credential::Token(token) if token == "s3cret"));
        let certificate =
            TOKEN.replace("token: s3cret", "client-certificate-data: Qg==, client-key-data: Qw==");
        let read = parse(&certificate).ok().unwrap();
        assert!(matches!(
            read.credential,
            Credential::Certificate { certificate, key } if certificate == b"B" && key == b"C"
        ));
    }

    #[test]
    fn what_else_a_kubeconfig_may_name_is_refused_and_no_error_shows_a_secret() {
        for (before, after, expected) in [
            ("token: s3cret", "token: s3cret, exec: {command: sh}", "exec"),
            ("token: s3cret", "tokenFile: /etc/shadow", "tokenFile"),
            ("token: s3cret", "client-certificate: /etc/shadow", "client-certificate"),
            ("token: s3cret", "", "has to have a token"),
            ("token: s3cret", "token: s3cret, client-key-data: Qw==", "and not both"),
            ("token: s3cret", "token: [s3cret]", "does not read"),
            ("user: {token: s3cret}", "user: s3cret", "does not read"),
            (
                "certificate-authority-data: QQ==",
                "insecure-skip-tls-verify: true",
                "insecure-skip-tls-verify",
            ),
            ("QQ==", "Q-Q", "is no base64"),
            ("https://", "http://", "allowed is https://"),
            ("current-context: plans", "current-context: other", "there is no context other"),
            ("user: liftlock-plans", "user: nobody", "there is no user nobody"),
        ] {
            let error = why(&TOKEN.replace(before, after));
            assert!(!error.contains("s3cret"), "{error}");
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plans.kubeconfig");
        let error = Kubeconfig::read(&path).err().unwrap().to_string();
        assert!(error.contains("there is no such file"), "{error}");
        files::write(&path, TOKEN).unwrap();
        assert!(Kubeconfig::read(&path).is_ok());
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Kubeconfig::read(&path).err().unwrap().to_string();
            assert!(error.contains("chmod 0600"), "{error}");
        }
    }
}
