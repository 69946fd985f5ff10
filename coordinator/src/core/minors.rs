//! What each Kubernetes minor changes that can make an upgrade to it fail: the table of facts in minors.toml, each with its
//! source.

use std::sync::LazyLock;

use serde::Deserialize;

static TABLE: LazyLock<Minors> =
    LazyLock::new(|| toml::from_str(include_str!("minors.toml")).unwrap_or_default());

/// The table.
pub fn minors() -> &'static Minors {
    &TABLE
}

/// Kubernetes 1.x for every x that somebody has read up on, oldest first. Of a table that does not read nothing is known.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minors {
    #[serde(rename = "minor", default)]
    rows: Vec<Minor>,
}

/// One minor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minor {
    /// 20 for 1.20.
    pub minor: u16,
    /// What kubeadm brings besides Kubernetes itself.
    pub images: Images,
    /// What the minor before still had.
    #[serde(default)]
    pub removed: Vec<Removal>,
    /// What the minor before took and this one does not.
    #[serde(default)]
    pub refused: Vec<RefusedValue>,
    /// What the minor before could do without.
    #[serde(default)]
    pub requires: Vec<Requirement>,
}

/// Tags of images, as kubeadm's constants have them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// `3.4.13-0`
    pub etcd: String,
    /// `1.7.0`
    pub coredns: String,
    /// `3.2`
    pub pause: String,
    /// Who says so.
    pub source: String,
}

/// Names that mean nothing any more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Removal {
    /// What they are names of.
    pub what: Removed,
    /// Flags with their dashes, APIs as `group/version/resource`, kinds as `resource.group`.
    pub names: Vec<String>,
    /// An upgrade takes the flag out of /var/lib/kubelet/kubeadm-flags.env by itself.
    #[serde(default)]
    pub cleaned_by_kubeadm: bool,
    /// Who says so.
    pub source: String,
}

/// A flag that a component still knows, of which it takes only some values any more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RefusedValue {
    /// `kube-apiserver`
    pub component: String,
    /// Flags with their dashes.
    pub flags: Vec<String>,
    /// With any other value it does not start.
    pub but: Vec<String>,
    /// Who says so.
    pub source: String,
}

/// What a name that was removed is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removed {
    /// The kubelet ends with "unknown flag".
    KubeletFlag,
    /// So does kube-apiserver.
    KubeApiserverFlag,
    /// So does kube-controller-manager.
    KubeControllerManagerFlag,
    /// So does kube-scheduler.
    KubeSchedulerFlag,
    /// Every component that is given it ends with "unrecognized feature gate".
    FeatureGate,
    /// kube-apiserver ends with "unknown plugin".
    AdmissionPlugin,
    /// kube-apiserver ends with "unknown api groups" where `--runtime-config` names it.
    ApiGroup,
    /// Is not served any more; what is stored can be had in a later version.
    Api,
    /// Is not served any more in any version: what is stored cannot be reached.
    Kind,
}

/// What a minor needs of a node.
#[derive(Debug, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Requirement {
    /// The kubelet speaks CRI v1 only, which containerd has from this release on.
    Containerd {
        /// `1.6.0`
        at_least: String,
        /// Who says so.
        source: String,
    },
    /// The kubelet drives Docker no longer by itself.
    NoDockershim {
        /// Who says so.
        source: String,
    },
    /// The kubelet does not start on cgroup v1, unless its configuration allows it.
    CgroupV2 {
        /// Who says so.
        source: String,
    },
    /// The kubelet asks what API servers of the minor before do not understand.
    KubeletBehindOwnApiServer {
        /// Who says so.
        source: String,
    },
}

impl Minors {
    /// The first and the last minor that the table has; `None` where it does not read.
    pub fn span(&self) -> Option<(u16, u16)> {
        Some((self.rows.first()?.minor, self.rows.last()?.minor))
    }

    /// One minor.
    pub fn of(&self, minor: u16) -> Option<&Minor> {
        self.rows.iter().find(|row| row.minor == minor)
    }

    /// The minors that are entered on the way from one to another: every one but the first.
    pub fn entered(&self, from: u16, to: u16) -> impl Iterator<Item = &Minor> {
        self.rows.iter().filter(move |row| from < row.minor && row.minor <= to)
    }

    /// What is removed on that way, with the minor that removes it.
    pub fn removed(&self, from: u16, to: u16, what: Removed) -> impl Iterator<Item = (u16, &Removal)> {
        let entered = self.entered(from, to);
        entered
            .flat_map(|row| row.removed.iter().map(move |removal| (row.minor, removal)))
            .filter(move |(_, removal)| removal.what == what)
    }
}

impl Minor {
    /// `3.4`, the release of etcd whose data an earlier one refuses.
    pub fn etcd_minor(&self) -> Option<&str> {
        let (second_dot, _) = self.images.etcd.match_indices('.').nth(1)?;
        self.images.etcd.get(..second_dot)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read() -> Minors {
        toml::from_str(include_str!("minors.toml")).unwrap()
    }

    #[test]
    fn the_table_of_facts_reads_and_has_every_minor_from_1_19_to_1_36() {
        let minors: Vec<u16> = read().rows.iter().map(|row| row.minor).collect();
        assert_eq!(minors, (19..=36).collect::<Vec<u16>>());
    }

    #[test]
    fn every_fact_of_the_table_names_its_source() {
        for row in read().rows {
            let removed = row.removed.iter().map(|removal| &removal.source);
            let required = row.requires.iter().map(|requirement| match requirement {
                Requirement::Containerd { source, .. }
                | Requirement::NoDockershim { source }
                | Requirement::CgroupV2 { source }
                | Requirement::KubeletBehindOwnApiServer { source } => source,
            });
            let refused = row.refused.iter().map(|refused| &refused.source);
            for source in removed.chain(required).chain(refused) {
                assert!(source.starts_with("https://"), "1.{}: {source}", row.minor);
            }
            assert!(row.images.source.contains(&format!("release-1.{}", row.minor)), "1.{}", row.minor);
        }
    }

    #[test]
    fn names_of_the_table_are_written_as_they_are_looked_up_and_removed_once() {
        let mut seen = BTreeSet::new();
        for row in read().rows {
            for removal in &row.removed {
                for name in &removal.names {
                    let well_formed = match removal.what {
                        Removed::KubeletFlag
                        | Removed::KubeApiserverFlag
                        | Removed::KubeControllerManagerFlag
                        | Removed::KubeSchedulerFlag => name.starts_with("--") && !name.contains('='),
                        Removed::FeatureGate | Removed::AdmissionPlugin => {
                            name.bytes().all(|byte| byte.is_ascii_alphanumeric())
                        }
                        Removed::Api => name.split('/').count() == 3,
                        Removed::ApiGroup | Removed::Kind => name.contains('.') && !name.contains('/'),
                    };
                    assert!(well_formed, "1.{}: {name}", row.minor);
                    assert!(
                        seen.insert((format!("{:?}", removal.what), name.clone())),
                        "{name} is removed twice"
                    );
                }
            }
        }
    }

    #[test]
    fn an_etcd_of_another_minor_came_with_1_22_and_1_34() {
        let table = read();
        let etcd = |minor| table.of(minor).and_then(Minor::etcd_minor);
        let changes: Vec<u16> = (20..=36).filter(|&minor| etcd(minor) != etcd(minor - 1)).collect();
        assert_eq!(changes, [22, 34]);
        assert_eq!(etcd(19), Some("3.4"));
    }
}
