//! What belongs to a Kubernetes release: images, names of `ConfigMap`s, package versions.

use liftlock_proto::version::KubernetesVersion;

/// The etcd, `CoreDNS` and pause images of a minor release, as kubeadm's constants name them.
/// Source: `cmd/kubeadm/app/constants/constants.go` of each release.
const IMAGES: [(u16, &str, &str, &str); 16] = [
    (19, "3.4.13-0", "1.7.0", "3.2"),
    (20, "3.4.13-0", "1.7.0", "3.2"),
    (21, "3.4.13-0", "v1.8.0", "3.4.1"),
    (22, "3.5.0-0", "v1.8.4", "3.5"),
    (23, "3.5.1-0", "v1.8.6", "3.6"),
    (24, "3.5.3-0", "v1.8.6", "3.7"),
    (25, "3.5.4-0", "v1.9.3", "3.8"),
    (26, "3.5.6-0", "v1.9.3", "3.9"),
    (27, "3.5.7-0", "v1.10.1", "3.9"),
    (28, "3.5.9-0", "v1.10.1", "3.9"),
    (29, "3.5.10-0", "v1.11.1", "3.9"),
    (30, "3.5.12-0", "v1.11.1", "3.9"),
    (31, "3.5.15-0", "v1.11.1", "3.10"),
    (32, "3.5.16-0", "v1.11.3", "3.10"),
    (33, "3.5.21-0", "v1.12.0", "3.10"),
    (34, "3.6.4-0", "v1.12.1", "3.10.1"),
];

/// The components that run as static pods, in the order in which kubeadm upgrades them.
pub const STATIC_PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// One release.
#[derive(Debug, Clone, Copy)]
pub struct Release(pub KubernetesVersion);

impl Release {
    fn companions(self) -> (&'static str, &'static str, &'static str) {
        let newest = IMAGES.last().map(|&(_, etcd, coredns, pause)| (etcd, coredns, pause));
        IMAGES
            .iter()
            .find(|(minor, ..)| *minor == self.0.minor)
            .map(|&(_, etcd, coredns, pause)| (etcd, coredns, pause))
            .or(newest)
            .unwrap_or_default()
    }

    /// The default registry: it moved with 1.25.
    pub fn registry(self) -> &'static str {
        if self.0.minor >= 25 { "registry.k8s.io" } else { "k8s.gcr.io" }
    }

    /// The image of a static pod or of kube-proxy.
    pub fn image(self, component: &str, registry: &str) -> String {
        match component {
            "etcd" => format!("{registry}/etcd:{}", self.companions().0),
            "coredns" if self.0.minor >= 21 => format!("{registry}/coredns/coredns:{}", self.companions().1),
            "coredns" => format!("{registry}/coredns:{}", self.companions().1),
            "pause" => format!("{registry}/pause:{}", self.companions().2),
            _ => format!("{registry}/{component}:{}", self.0),
        }
    }

    /// The version of its etcd: `3.5.15`.
    pub fn etcd(self) -> &'static str {
        let tag = self.companions().0;
        tag.split('-').next().unwrap_or(tag)
    }

    /// What `kubeadm config images list` prints, in its order.
    pub fn images(self, registry: &str) -> Vec<String> {
        [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "pause",
            "etcd",
            "coredns",
        ]
        .map(|component| self.image(component, registry))
        .to_vec()
    }

    /// The `ConfigMap` with the kubelets' configuration: it lost its suffix with 1.24.
    pub fn kubelet_config_map(self) -> String {
        if self.0.minor >= 24 {
            "kubelet-config".to_owned()
        } else {
            format!("kubelet-config-{}.{}", self.0.major, self.0.minor)
        }
    }

    /// A Debian package's version: `1.20.2-00` in the old repository, `1.31.2-1.1` in the new one (from 1.24).
    pub fn package_version(self) -> String {
        if self.0.minor >= 24 { format!("{}-1.1", self.0.bare()) } else { format!("{}-00", self.0.bare()) }
    }

    /// Whether the API server knows policy/v1 Eviction (from 1.22).
    pub fn has_policy_v1_eviction(self) -> bool {
        self.0.minor >= 22
    }

    /// Whether the API server serves `PodDisruptionBudgets` of this version of policy: v1 from 1.21, v1beta1 before 1.25.
    pub fn has_budgets(self, version: &str) -> bool {
        match version {
            "v1" => self.0.minor >= 21,
            "v1beta1" => self.0.minor < 25,
            _ => false,
        }
    }

    /// The container runtime of that time, as a Node names it.
    pub fn container_runtime(self) -> &'static str {
        if self.has_cri_v1() { "containerd://1.7.13" } else { "containerd://1.4.13" }
    }

    /// Whether the container runtime of that time speaks CRI v1 (containerd 1.6, about 1.23).
    pub fn has_cri_v1(self) -> bool {
        self.0.minor >= 23
    }
}

/// The Kubernetes version of a package version: `1.31.2-1.1` → `v1.31.2`.
pub fn version_of_package(package_version: &str) -> Option<KubernetesVersion> {
    package_version.split('-').next()?.parse().ok()
}
