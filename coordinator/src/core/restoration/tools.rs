//! How etcd's own tools are called on a node: they are on few nodes, and in etcd's image on all of them.

use liftlock_proto::argv::{self, Argv};

/// Where a node has etcd's tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tools {
    /// Its own, with the program that restores snapshots: `etcdctl 3.4.23`.
    Installed(String),
    /// In an image that containerd has: `k8s.gcr.io/etcd:3.4.13-0`.
    Image(String),
    /// Nowhere that is known.
    Missing,
}

impl Tools {
    /// The command that restores a snapshot, made of the program's name.
    pub(super) fn restore(&self, data_dir: &str, command: impl FnOnce(&str) -> Argv) -> Argv {
        match self {
            Self::Installed(tool) => command(tool.split(' ').next().unwrap_or("etcdctl")),
            Self::Image(image) => argv::in_etcds_image(image, data_dir, command(restoring(image))),
            Self::Missing => command("etcdctl"),
        }
    }

    /// `etcdctl` that asks the member on the same node.
    pub(super) fn etcdctl(&self, data_dir: &str, words: &[&str]) -> Argv {
        let etcdctl = argv::etcdctl_local(words);
        match self {
            Self::Installed(_) | Self::Missing => etcdctl,
            Self::Image(image) => argv::in_etcds_image(image, data_dir, etcdctl),
        }
    }

    /// What has to be done first.
    pub(super) fn missing(&self, etcd: Option<&str>) -> Option<String> {
        let version =
            etcd.map_or_else(|| "etcd's own version".to_owned(), |version| format!("etcd {version}"));
        (*self == Self::Missing).then(|| {
            format!(
                "install etcdctl here first (of {version}; from 3.6 on etcdutl in its place restores): this node has no \
                 program that restores snapshots, and containerd no image of etcd"
            )
        })
    }
}

/// etcdctl restores no snapshots from 3.6 on. The image's tag is etcd's version: `registry.k8s.io/etcd:3.6.1-0`.
fn restoring(image: &str) -> &'static str {
    let version = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let minor = version.strip_prefix("3.").and_then(|rest| rest.split('.').next()).map(str::parse::<u32>);
    if matches!(minor, Some(Ok(minor)) if minor >= 6) { "etcdutl" } else { "etcdctl" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tool_of_an_image_is_the_one_that_restores_in_its_version() {
        assert_eq!(restoring("k8s.gcr.io/etcd:3.4.13-0"), "etcdctl");
        assert_eq!(restoring("registry.k8s.io/etcd:3.5.15-0"), "etcdctl");
        assert_eq!(restoring("registry.k8s.io/etcd:3.6.1-0"), "etcdutl");
        assert_eq!(restoring("localhost:5000/etcd"), "etcdctl");
    }

    #[test]
    fn a_tool_in_an_image_sees_the_folders_that_it_works_on_where_they_are() {
        let tools = Tools::Image("k8s.gcr.io/etcd:3.4.13-0".to_owned());
        assert_eq!(
            tools.etcdctl("/var/lib/etcd", &["member", "list"]).join(" "),
            "ctr --namespace k8s.io run --rm --net-host --mount \
             type=bind,src=/etc/kubernetes,dst=/etc/kubernetes,options=rbind:ro --mount \
             type=bind,src=/var/lib/etcd,dst=/var/lib/etcd,options=rbind:rw k8s.gcr.io/etcd:3.4.13-0 liftlock-etcd etcdctl \
             --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt \
             --cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt --key=/etc/kubernetes/pki/etcd/healthcheck-client.key \
             member list"
        );
    }
}
