//! What a machine joins the cluster with: asked for under its lease, made by a control plane that has none.
//!
//! It is secret, and lives for as long as the join takes: in the coordinator's memory on its way, and on the joining machine in
//! a file of the agent's own while kubeadm reads it.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::plan::Role;
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use x509_parser::pem::Pem;

use crate::engine::idle::Idle;
use crate::engine::lease::Permit;
use crate::host::{Host, HostError, HostResult};

/// How long a bootstrap token lets somebody in: a join takes a minute or two, on a slow machine ten.
pub const TOKEN_TTL: Duration = Duration::from_mins(30);

/// The API version of kubeadm's configuration that a release reads and does not warn of
/// (<https://kubernetes.io/docs/reference/config-api/>): v1beta3 came with 1.22, v1beta4 with 1.31.
pub fn api_version(version: KubernetesVersion) -> &'static str {
    match version.minor {
        ..=21 => "kubeadm.k8s.io/v1beta2",
        22..=30 => "kubeadm.k8s.io/v1beta3",
        31.. => "kubeadm.k8s.io/v1beta4",
    }
}

/// What a machine joins with.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// A bootstrap token that ends by itself.
    pub token: BootstrapToken,
    /// Where the API is: `lb.example:6443`.
    pub api_server: String,
    /// Of the cluster's CA: `sha256:…`. One of them has to be that of the CA which the API shows.
    pub ca_cert_hashes: Vec<String>,
    /// What the certificates that kubeadm keeps in the cluster for two hours are encrypted with; `None` for a worker.
    pub certificate_key: Option<SecretString>,
}

/// A bootstrap token (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>): six letters and digits
/// that name it, and sixteen that are secret.
#[derive(Debug, Clone)]
pub struct BootstrapToken {
    /// The public part.
    pub id: String,
    /// The rest.
    pub secret: SecretString,
}

/// Where a joining machine asks.
#[async_trait]
pub trait Invitations: Send + Sync {
    /// Asks for an invitation, and waits for it. Whoever makes it learns for which lease it is.
    async fn ask(&self, permit: &Permit, plan: &PlanId) -> HostResult<Invitation>;
}

/// Where nobody can be asked: outside of a session.
#[derive(Debug)]
pub struct NoInvitations;

#[async_trait]
impl Invitations for NoInvitations {
    async fn ask(&self, _: &Permit, plan: &PlanId) -> HostResult<Invitation> {
        Err(HostError::Malformed {
            what: format!("an invitation under plan {plan}"),
            why: "only an agent that serves a coordinator can ask for one".to_owned(),
        })
    }
}

/// Why nobody is invited.
#[derive(Debug, thiserror::Error)]
pub enum NotInvited {
    /// A rule says no: why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The machine says no.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl BootstrapToken {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

    /// A new one, out of the system's randomness.
    pub fn new() -> HostResult<Self> {
        Ok(Self { id: Self::letters(6)?, secret: Self::letters(16)?.into() })
    }

    /// The two parts with the dot between them, as kubeadm reads it.
    pub fn whole(&self) -> SecretString {
        format!("{}.{}", self.id, self.secret.expose_secret()).into()
    }

    /// So many letters and digits, each as likely as the other.
    fn letters(count: usize) -> HostResult<String> {
        let mut text = String::new();
        while text.len() < count {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| HostError::Malformed {
                what: "a bootstrap token".to_owned(),
                why: format!("the system gives no randomness: {error}"),
            })?;
            // 252 is the largest multiple of 36 that a byte holds.
            let fair = bytes.into_iter().filter(|byte| *byte < 252);
            let letters = fair.filter_map(|byte| Self::LETTERS.get(usize::from(byte % 36)));
            text.extend(letters.map(|letter| char::from(*letter)).take(count - text.len()));
        }
        Ok(text)
    }

    fn parse(text: &str) -> Option<Self> {
        let valid = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| Self::LETTERS.contains(&byte))
        };
        let (id, secret) = text.split_once('.')?;
        (valid(id, 6) && valid(secret, 16)).then(|| Self { id: id.to_owned(), secret: secret.into() })
    }
}

impl From<Invitation> for v1::Invitation {
    fn from(invitation: Invitation) -> Self {
        let key = invitation.certificate_key.as_ref();
        Self {
            token: invitation.token.whole().expose_secret().to_owned(),
            certificate_key: key.map(|key| key.expose_secret().to_owned()).unwrap_or_default(),
            api_server: invitation.api_server,
            ca_cert_hashes: invitation.ca_cert_hashes,
        }
    }
}

impl TryFrom<v1::Invitation> for Invitation {
    type Error = HostError;

    /// What goes into kubeadm's configuration is what it can be, and nothing else.
    fn try_from(message: v1::Invitation) -> HostResult<Self> {
        let malformed = |why: &str| HostError::Malformed {
            what: "the invitation that a control plane made".to_owned(),
            why: why.to_owned(),
        };
        let token = BootstrapToken::parse(&message.token);
        let hexadecimal = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = |hash: &String| hash.strip_prefix("sha256:").is_some_and(hexadecimal);
        if message.ca_cert_hashes.is_empty() || !message.ca_cert_hashes.iter().all(hash) {
            return Err(malformed("it does not say which CA the cluster's is"));
        }
        let authority: Option<http::uri::Authority> = message.api_server.parse().ok();
        if authority.is_none_or(|authority| authority.port().is_none()) {
            return Err(malformed("it does not say where the API is"));
        }
        let key = message.certificate_key;
        if !key.is_empty() && !hexadecimal(&key) {
            return Err(malformed("its certificate key is none"));
        }
        Ok(Self {
            token: token.ok_or_else(|| malformed("its bootstrap token is none"))?,
            api_server: message.api_server,
            ca_cert_hashes: message.ca_cert_hashes,
            certificate_key: (!key.is_empty()).then(|| key.into()),
        })
    }
}

/// Lets a node join, as a control plane can. What it makes ends by itself, the token after [`TOKEN_TTL`], the certificates
/// after two hours.
///
/// # Errors
/// Refused where etcd still has a member of that name: a new one beside it would count twice. And while the cluster has a Node
/// of that name that is Ready: kubeadm refuses that, and asking again helps as soon as nobody has heard its kubelet for 40 s
/// (`--node-monitor-grace-period`).
pub async fn make(host: &Host, idle: &Idle, node: &NodeName, role: Role) -> Result<Invitation, NotInvited> {
    refuse_ready_node(host, node).await?;
    if role.is_control_plane() {
        refuse_second_member(host, node).await?;
    }
    let (api_server, ca_cert_hashes) = (api_server(host).await?, ca_cert_hashes(host).await?);
    let token = BootstrapToken::new()?;
    let ends_at_ms =
        host.clock.unix_ms().saturating_add(u64::try_from(TOKEN_TTL.as_millis()).unwrap_or(u64::MAX));
    host.kube.create_bootstrap_token(idle, &token, node, ends_at_ms).await?;
    let certificate_key = if role.is_control_plane() {
        let version = host.kube.kubeadm_config_version().await?;
        Some(host.commands.upload_certificates(idle, version).await?)
    } else {
        None
    };
    Ok(Invitation { token, api_server, ca_cert_hashes, certificate_key })
}

async fn refuse_ready_node(host: &Host, node: &NodeName) -> Result<(), NotInvited> {
    let nodes = host.kube.nodes().await?;
    if nodes.iter().any(|one| one.name == node.as_str() && one.ready) {
        return Err(NotInvited::Refused(format!(
            "the cluster has a Node {node} that is Ready: another machine is it, or an interrupted join has left it, which \
             passes in a minute"
        )));
    }
    Ok(())
}

async fn refuse_second_member(host: &Host, node: &NodeName) -> Result<(), NotInvited> {
    let members = host.etcd.members().await?;
    match members.iter().find(|member| member.name == node.as_str()) {
        None => Ok(()),
        Some(member) => Err(NotInvited::Refused(format!(
            "etcd has a member {node} already, which an earlier machine or an interrupted join has left: take it away with \
             `etcdctl member remove {:x}` on a control plane",
            member.id
        ))),
    }
}

/// kubeadm's `controlPlaneEndpoint`, or this control plane itself where there is none.
async fn api_server(host: &Host) -> HostResult<String> {
    #[derive(Deserialize)]
    struct ConfigMap {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "ClusterConfiguration")]
        cluster_configuration: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClusterConfiguration {
        #[serde(default)]
        control_plane_endpoint: String,
    }
    let malformed =
        |why: String| HostError::Malformed { what: "the ConfigMap kubeadm-config".to_owned(), why };
    let yaml = host.kube.config_map("kubeadm-config").await?.unwrap_or_default();
    let map: ConfigMap = serde_saphyr::from_str(&yaml).map_err(|error| malformed(error.to_string()))?;
    let configuration: ClusterConfiguration = serde_saphyr::from_str(&map.data.cluster_configuration)
        .map_err(|error| malformed(error.to_string()))?;
    let endpoint = configuration.control_plane_endpoint;
    if endpoint.is_empty() {
        let own = host.kube.own_api_server().await?.address;
        return Ok(own.trim_start_matches("https://").to_owned());
    }
    let authority: http::uri::Authority =
        endpoint.parse().map_err(|error| malformed(format!("controlPlaneEndpoint {endpoint}: {error}")))?;
    // kubeadm's own default.
    Ok(if authority.port().is_some() { endpoint } else { format!("{endpoint}:6443") })
}

/// SHA-256 over the public key (SPKI) of each certificate in the cluster's CA, as kubeadm pins it.
async fn ca_cert_hashes(host: &Host) -> HostResult<Vec<String>> {
    let path = host.layout.at("/etc/kubernetes/pki/ca.crt");
    let malformed = |why: String| HostError::Malformed { what: format!("the cluster's CA {path}"), why };
    let pem = host.files.read(&path).await?.ok_or_else(|| malformed("it is not there".to_owned()))?;
    let mut hashes = Vec::new();
    for certificate in Pem::iter_from_buffer(&pem) {
        let certificate = certificate.map_err(|error| malformed(error.to_string()))?;
        let parsed = certificate.parse_x509().map_err(|error| malformed(error.to_string()))?;
        hashes.push(format!("sha256:{:x}", Sha256::digest(parsed.public_key().raw)));
    }
    if hashes.is_empty() { Err(malformed("it holds no certificate".to_owned())) } else { Ok(hashes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::Invitation {
        v1::Invitation {
            token: "abc012.0123456789abcdef".to_owned(),
            api_server: "lb.example:6443".to_owned(),
            ca_cert_hashes: vec![format!("sha256:{}", "0a".repeat(32))],
            certificate_key: "0a".repeat(32),
        }
    }

    #[test]
    fn a_bootstrap_token_is_of_kubeadms_form_and_never_the_same() {
        let tokens: std::collections::BTreeSet<String> = (0..64)
            .map(|_| BootstrapToken::new().unwrap().whole().expose_secret().to_owned())
            .inspect(|token| assert!(BootstrapToken::parse(token).is_some(), "{token}"))
            .collect();
        assert_eq!(tokens.len(), 64);
    }

    #[test]
    fn an_invitation_does_not_print_what_it_lets_in_with() {
        let printed = format!("{:?} {:?}", message(), Invitation::try_from(message()).unwrap());
        for secret in ["0123456789abcdef", &"0a".repeat(32)] {
            let printed = printed.replace(&format!("sha256:{}", "0a".repeat(32)), "");
            assert!(!printed.contains(secret), "{printed}");
        }
    }

    #[test]
    fn an_invitation_that_could_be_more_than_an_invitation_is_refused() {
        assert_eq!(v1::Invitation::from(Invitation::try_from(message()).unwrap()), message());
        let breaks: [fn(&mut v1::Invitation); 6] = [
            |message| message.token = "abc012.0123456789ABCDEF".to_owned(),
            |message| message.token.clear(),
            |message| message.api_server = "lb.example\nkind: Secret".to_owned(),
            |message| message.api_server = "lb.example".to_owned(),
            |message| message.ca_cert_hashes.clear(),
            |message| message.certificate_key.push('!'),
        ];
        for (number, break_it) in breaks.iter().enumerate() {
            let mut message = message();
            break_it(&mut message);
            assert!(Invitation::try_from(message).is_err(), "invitation {number} was read");
        }
    }
}
