//! What on this node would make an upgrade fail, and needs no API to be seen.

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::v1::{Obstacle, ObstacleKind};
use serde::Deserialize;
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

use crate::host::{Host, HostResult};

/// What kubeadm writes into the manifests' folder.
const STATIC_PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The leaf certificates that kubeadm makes and that every upgrade relies on; below /etc/kubernetes/pki.
const CERTIFICATES: [&str; 7] = [
    "apiserver.crt",
    "apiserver-etcd-client.crt",
    "apiserver-kubelet-client.crt",
    "front-proxy-client.crt",
    "etcd/server.crt",
    "etcd/peer.crt",
    "etcd/healthcheck-client.crt",
];

/// Everything of that kind on this node.
///
/// # Errors
/// Where a file that is there cannot be read.
pub async fn find(host: &Host) -> HostResult<Vec<Obstacle>> {
    let mut obstacles = stray_manifests(host).await?;
    obstacles.extend(expired_certificates(host).await?);
    Ok(obstacles)
}

/// The kubelet takes every file in the manifests' folder for a pod, whatever its ending: a copy that somebody left beside
/// the manifest of kube-apiserver runs as a second one, of the old version (kubernetes/kubeadm issue 2823).
async fn stray_manifests(host: &Host) -> HostResult<Vec<Obstacle>> {
    let folder = host.layout.manifests();
    let mut obstacles = Vec::new();
    for name in host.files.list(&folder).await? {
        // The kubelet leaves hidden files alone.
        let standard = STATIC_PODS.iter().any(|component| name == format!("{component}.yaml"));
        if standard || name.starts_with('.') {
            continue;
        }
        let path = folder.join(&name);
        let Some(pod) = host.files.read(&path).await?.and_then(|yaml| pod_of(&yaml)) else {
            continue;
        };
        if STATIC_PODS.contains(&pod.as_str()) {
            obstacles.push(Obstacle {
                kind: ObstacleKind::StrayManifest.into(),
                message: format!(
                    "{path} is a second manifest of {pod}, which the kubelet runs beside {pod}.yaml and kubeadm does not \
                     upgrade: move it out of {folder}"
                ),
            });
        }
    }
    Ok(obstacles)
}

/// The name of the pod in a manifest; `None` for what is no pod.
fn pod_of(yaml: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Pod {
        kind: String,
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    let pod: Pod = serde_saphyr::from_str(std::str::from_utf8(yaml).ok()?).ok()?;
    (pod.kind == "Pod").then_some(pod.metadata.name)
}

async fn expired_certificates(host: &Host) -> HostResult<Vec<Obstacle>> {
    let now = i64::try_from(host.clock.unix_ms() / 1000).unwrap_or(i64::MAX);
    let mut expired = Vec::new();
    for name in CERTIFICATES {
        let path: Utf8PathBuf = host.layout.at(Utf8Path::new("/etc/kubernetes/pki").join(name).as_str());
        let ends = host.files.read(&path).await?.and_then(|pem| not_after(&pem));
        if let Some(ends) = ends
            && ends.timestamp() <= now
        {
            expired.push(format!("{path} ({ends})"));
        }
    }
    if expired.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Obstacle {
        kind: ObstacleKind::CertificateExpired.into(),
        message: format!(
            "certificates have expired, and neither kubeadm nor the control plane works with them: {}; renew them with \
             `kubeadm certs renew all` (`kubeadm alpha certs renew all` before 1.20), then restart the static pods by \
             moving their manifests out and back",
            expired.join(", ")
        ),
    }])
}

/// When the first certificate of a PEM file ends; `None` for what is none.
pub(crate) fn not_after(pem: &[u8]) -> Option<ASN1Time> {
    let pem = Pem::iter_from_buffer(pem).next()?.ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after)
}
