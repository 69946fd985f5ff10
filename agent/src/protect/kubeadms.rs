//! What kubeadm may change in /etc/kubernetes. Everything else there is sealed: the authorities, the key for service
//! account tokens, an operator's own static pods, a cloud provider's configuration.

use crate::host::trees::Name;

const STATIC_PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
const KUBECONFIGS: [&str; 6] =
    ["admin", "bootstrap-kubelet", "controller-manager", "kubelet", "scheduler", "super-admin"];
/// The certificates that `kubeadm upgrade` renews, with their keys.
const LEAVES: [&str; 7] = [
    "apiserver",
    "apiserver-etcd-client",
    "apiserver-kubelet-client",
    "etcd/healthcheck-client",
    "etcd/peer",
    "etcd/server",
    "front-proxy-client",
];

/// Whether a path relative to /etc/kubernetes is kubeadm's to change.
pub(super) fn owns(path: &Name) -> bool {
    let Ok(path) = std::str::from_utf8(path.as_bytes()) else {
        return false;
    };
    let one_of = |names: &[&str], extension: &str| {
        path.strip_suffix(extension).is_some_and(|name| names.contains(&name))
    };
    if let Some(manifest) = path.strip_prefix("manifests/") {
        return manifest.strip_suffix(".yaml").is_some_and(|name| STATIC_PODS.contains(&name));
    }
    if let Some(leaf) = path.strip_prefix("pki/") {
        let name = leaf.strip_suffix(".crt").or_else(|| leaf.strip_suffix(".key"));
        return name.is_some_and(|name| LEAVES.contains(&name));
    }
    one_of(&KUBECONFIGS, ".conf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadm_owns_what_it_writes_and_no_authority_nor_anything_of_an_operator() {
        for its in
            ["manifests/etcd.yaml", "admin.conf", "pki/apiserver.key", "pki/etcd/peer.crt", "kubelet.conf"]
        {
            assert!(owns(&its.into()), "{its}");
        }
        for not in [
            "",
            "pki",
            "pki/ca.crt",
            "pki/ca.key",
            "pki/sa.key",
            "pki/etcd/ca.key",
            "pki/front-proxy-ca.crt",
            "manifests/haproxy.yaml",
            "manifests/etcd.yaml.bak",
            "cloud.conf",
            "pki/admin.conf",
            "manifests/admin.conf",
        ] {
            assert!(!owns(&not.into()), "{not}");
        }
    }
}
