//! What is protected where nobody says otherwise, and what protection means.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What must hold of a protected path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Identity, configuration, data: afterwards as it was, to the byte.
    Sealed,
    /// /etc/kubernetes: kubeadm may change what it owns; the rest is sealed.
    Managed,
    /// In use: afterwards the same folder of the same mount, and a log still begins as it did. What is in a folder is
    /// never looked at.
    Live,
    /// Lies in a protected path, and anybody may change it.
    Except,
}

/// Where kubeadm's own files lie.
pub const KUBERNETES: &str = "/etc/kubernetes";

/// Below it a live file is a log.
pub const LOGS: &str = "/var/log";

/// The paths that Jelastic's Kubernetes keeps when it replaces a node, and where containerd and the kubelet's package
/// keep what docker and the kubelet's RPM do. What is not there is not looked for. Who logs in as root to have a look
/// leaves traces that are none of the upgrade's.
pub const DEFAULTS: [(&str, Class); 27] = [
    ("/data", Class::Sealed),
    ("/etc/cni", Class::Sealed),
    ("/etc/default/kubelet", Class::Sealed),
    (KUBERNETES, Class::Managed),
    ("/etc/machine-id", Class::Sealed),
    ("/etc/sysconfig/iptables", Class::Sealed),
    ("/etc/sysconfig/kubelet", Class::Sealed),
    ("/root", Class::Sealed),
    ("/root/.bash_history", Class::Except),
    ("/root/.cache", Class::Except),
    ("/root/.kube/cache", Class::Except),
    ("/root/.lesshst", Class::Except),
    ("/root/.viminfo", Class::Except),
    ("/root/.zsh_history", Class::Except),
    ("/var/lib/cni", Class::Live),
    ("/var/lib/containerd", Class::Live),
    ("/var/lib/docker", Class::Live),
    ("/var/lib/etcd", Class::Live),
    ("/var/lib/kubelet", Class::Live),
    ("/var/lib/weave", Class::Live),
    ("/var/log/containers", Class::Live),
    ("/var/log/kubeadm-init.log", Class::Live),
    ("/var/log/kubeadm-join-error.log", Class::Live),
    ("/var/log/kubeadm-join.log", Class::Live),
    ("/var/log/kubernetes", Class::Live),
    ("/var/log/pods", Class::Live),
    // kubeadm's leftovers and our backups.
    ("/etc/kubernetes/tmp", Class::Except),
];

impl Class {
    /// Whether all or most of it has to be the same to the byte.
    pub fn is_compared(self) -> bool {
        matches!(self, Self::Sealed | Self::Managed)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed => "sealed",
            Self::Managed => "managed",
            Self::Live => "live",
            Self::Except => "except",
        })
    }
}
