//! Certificates that end soon and that an upgrade does not renew. kubeadm renews those that it made, with a CA whose key
//! lies on the node; a kubelet's own client certificate is rotated by the kubelet.

use camino::Utf8Path;
use liftlock_proto::v1::{CertificateFacts, ExpiringCertificate};
use x509_parser::time::ASN1Time;

use super::told;
use crate::host::{Host, HostResult};
use crate::obstacles::not_after;

/// An upgrade that begins now ends before, whatever befalls it.
const SOON_SECONDS: i64 = 30 * 24 * 60 * 60;

const PKI: &str = "/etc/kubernetes/pki";

/// CAs of a control plane, without their endings, and what kubeadm makes with each.
const AUTHORITIES: [(&str, &[&str]); 3] = [
    ("ca", &["apiserver", "apiserver-kubelet-client"]),
    ("etcd/ca", &["apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client"]),
    ("front-proxy-ca", &["front-proxy-client"]),
];

/// A kubelet rotates it when at least a tenth of its life is left: 36 days of kubeadm's year.
const KUBELET_CLIENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// Those that somebody has to renew within 30 days.
pub async fn certificates(host: &Host) -> CertificateFacts {
    told(
        find(host).await,
        |expiring| CertificateFacts { expiring, ..CertificateFacts::default() },
        |unread| CertificateFacts { unread, ..CertificateFacts::default() },
    )
}

async fn find(host: &Host) -> HostResult<Vec<ExpiringCertificate>> {
    let pki = Utf8Path::new(PKI);
    let mut found = Vec::new();
    for (authority, made) in AUTHORITIES {
        found.extend(expiring(host, &pki.join(format!("{authority}.crt")), "kubeadm renews no CA").await?);
        let key = pki.join(format!("{authority}.key"));
        if host.files.exists(&host.layout.at(key.as_str())).await? {
            continue;
        }
        let why = format!("the key of its CA, {key}, is not on this node, so kubeadm cannot renew it");
        for name in made {
            found.extend(expiring(host, &pki.join(format!("{name}.crt")), &why).await?);
        }
    }
    let why = "the kubelet should have rotated it by now: look at `journalctl -u kubelet`";
    found.extend(expiring(host, Utf8Path::new(KUBELET_CLIENT), why).await?);
    Ok(found)
}

async fn expiring(host: &Host, path: &Utf8Path, why: &str) -> HostResult<Option<ExpiringCertificate>> {
    let pem = host.files.read(&host.layout.at(path.as_str())).await?;
    let ends = pem.and_then(|pem| not_after(&pem)).filter(|ends| is_soon(host, *ends));
    Ok(ends.map(|ends| ExpiringCertificate {
        path: path.to_string(),
        ends: format!("it ends {ends}"),
        why: why.to_owned(),
    }))
}

fn is_soon(host: &Host, ends: ASN1Time) -> bool {
    let now = i64::try_from(host.clock.unix_ms() / 1000).unwrap_or(i64::MAX);
    ends.timestamp() <= now.saturating_add(SOON_SECONDS)
}
