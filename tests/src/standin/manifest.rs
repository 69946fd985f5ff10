//! Static pod manifests, as kubeadm writes them, as far as anything reads them.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::standin::node::NodeFacts;
use crate::standin::release::Release;

/// How a node's etcd came into the cluster; kubeadm writes it into etcd's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdOrigin<'a> {
    /// Written by `kubeadm init`, and by each `kubeadm upgrade` on any node.
    Own,
    /// Written by `kubeadm join`: the members of then, as `cp1=https://…:2380,cp2=…`.
    Joined(&'a str),
}

/// The manifest of a component on a node. The same input gives the same text.
pub fn render(
    component: &str,
    node: &NodeFacts,
    release: Release,
    registry: &str,
    etcd: EtcdOrigin<'_>,
) -> String {
    let address = node.address;
    let annotation = match component {
        "etcd" => format!("kubeadm.kubernetes.io/etcd.advertise-client-urls: https://{address}:2379"),
        "kube-apiserver" => {
            format!("kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: {address}:6443")
        }
        _ => String::new(),
    };
    let mut text = String::from("apiVersion: v1\nkind: Pod\nmetadata:\n");
    if !annotation.is_empty() {
        _ = writeln!(text, "  annotations:\n    {annotation}");
    }
    _ = write!(
        text,
        "  creationTimestamp: null\n  labels:\n    component: {component}\n    tier: control-plane\n  \
         name: {component}\n  namespace: kube-system\nspec:\n  containers:\n  - command:\n    - {component}\n"
    );
    for flag in flags(component, node, etcd) {
        _ = writeln!(text, "    - --{flag}");
    }
    let image = release.image(component, registry);
    _ = write!(
        text,
        "    image: {image}\n    imagePullPolicy: IfNotPresent\n    name: {component}\n    resources: {{}}\n  \
         hostNetwork: true\n  priorityClassName: system-node-critical\nstatus: {{}}\n"
    );
    text
}

fn flags(component: &str, node: &NodeFacts, etcd: EtcdOrigin<'_>) -> Vec<String> {
    let NodeFacts { name, address, .. } = node;
    let pki = "/etc/kubernetes/pki";
    match component {
        "etcd" => {
            let mut flags = vec![
                format!("advertise-client-urls=https://{address}:2379"),
                format!("cert-file={pki}/etcd/server.crt"),
                "client-cert-auth=true".to_owned(),
                "data-dir=/var/lib/etcd".to_owned(),
                format!("initial-advertise-peer-urls=https://{address}:2380"),
            ];
            match etcd {
                EtcdOrigin::Own => flags.push(format!("initial-cluster={name}=https://{address}:2380")),
                EtcdOrigin::Joined(members) => {
                    flags.push(format!("initial-cluster={members}"));
                    flags.push("initial-cluster-state=existing".to_owned());
                }
            }
            flags.extend([
                format!("key-file={pki}/etcd/server.key"),
                format!("listen-client-urls=https://127.0.0.1:2379,https://{address}:2379"),
                format!("name={name}"),
                format!("trusted-ca-file={pki}/etcd/ca.crt"),
            ]);
            flags
        }
        "kube-apiserver" => vec![
            format!("advertise-address={address}"),
            "authorization-mode=Node,RBAC".to_owned(),
            format!("client-ca-file={pki}/ca.crt"),
            "enable-admission-plugins=NodeRestriction".to_owned(),
            "etcd-servers=https://127.0.0.1:2379".to_owned(),
            "secure-port=6443".to_owned(),
            format!("tls-cert-file={pki}/apiserver.crt"),
            format!("tls-private-key-file={pki}/apiserver.key"),
        ],
        "kube-controller-manager" => vec![
            "kubeconfig=/etc/kubernetes/controller-manager.conf".to_owned(),
            "leader-elect=true".to_owned(),
        ],
        _ => {
            vec!["kubeconfig=/etc/kubernetes/scheduler.conf".to_owned(), "leader-elect=true".to_owned()]
        }
    }
}

/// What the kubelet reads of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPod {
    /// `kube-apiserver`
    pub component: String,
    /// `registry.k8s.io/kube-apiserver:v1.31.2`
    pub image: String,
    /// What the kubelet puts into the mirror pod's annotation `kubernetes.io/config.hash`.
    pub hash: String,
}

impl StaticPod {
    /// Reads a manifest; `None` where it is no pod that would run (cut off, no image).
    pub fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.trim_start().strip_prefix(key))
                .map(|value| value.trim().to_owned())
        };
        let digest = Sha256::digest(text);
        let hash = digest.iter().take(16).fold(String::new(), |mut hash, byte| {
            _ = write!(hash, "{byte:02x}");
            hash
        });
        Some(Self { component: value("component:")?, image: value("image:")?, hash })
    }
}

/// The tag of an image: `registry.k8s.io/etcd:3.5.15-0` → `3.5.15-0`.
pub fn tag(image: &str) -> &str {
    image.rsplit_once(':').map_or("", |(_, tag)| tag)
}

/// The registry of an image: `registry.k8s.io/etcd:3.5.15-0` → `registry.k8s.io`.
pub fn registry(image: &str) -> &str {
    image.rsplit_once('/').map_or("", |(registry, _)| registry)
}
