//! `index.json`: what a backup holds. It is written last and proves itself, so a backup with an index is whole.

use camino::Utf8PathBuf;
use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;
use serde::{Deserialize, Serialize};

use super::Folder;
use super::digest::FileDigest;
use crate::engine::context::Context;
use crate::host::{Host, HostError, HostResult};

/// Its name in the folder.
pub const NAME: &str = "index.json";

/// Raised whenever the meaning of a field changes.
const FORMAT: u32 = 1;

/// What a backup holds, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Index {
    format: u32,
    /// The plan before whose first change it was taken.
    pub plan: PlanId,
    /// The node.
    pub node: NodeName,
    /// What the node is in that plan.
    pub role: Role,
    /// Milliseconds since the Unix epoch.
    pub taken_at_ms: u64,
    /// What kubeadm-config said; on control planes.
    pub cluster_version: Option<KubernetesVersion>,
    /// kubeadm's own manifest backups that lay in /etc/kubernetes/tmp already: they are of earlier upgrades.
    pub earlier_kubeadm_backups: Vec<String>,
    /// The etcd snapshot's size and digest (without its trailer); where etcd is local.
    pub snapshot: Option<FileDigest>,
    /// Every other file, sorted by path.
    pub entries: Vec<Entry>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Relative to the folder: `files/etc/kubernetes/manifests/etcd.yaml`.
    pub path: Utf8PathBuf,
    /// Its content.
    pub digest: FileDigest,
}

/// The index as it lies in the file. `sha256` is over the compact JSON of `index`, which the same fields always
/// give again.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    index: Index,
    sha256: String,
}

impl Index {
    /// An index of nothing yet.
    pub fn new(cx: &Context, role: Role, cluster_version: Option<KubernetesVersion>) -> Self {
        let index = Self::of(cx.plan.clone(), cx.node.clone(), role, cx.host.clock.unix_ms());
        Self { cluster_version, ..index }
    }

    pub(super) fn of(plan: PlanId, node: NodeName, role: Role, taken_at_ms: u64) -> Self {
        Self {
            format: FORMAT,
            plan,
            node,
            role,
            taken_at_ms,
            cluster_version: None,
            earlier_kubeadm_backups: Vec::new(),
            snapshot: None,
            entries: Vec::new(),
        }
    }

    /// Writes it; from now on the backup counts as whole.
    pub async fn write(mut self, cx: &Context, folder: &Folder) -> HostResult<()> {
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        let json = self.sealed().map_err(|source| malformed(folder, &source.to_string()))?;
        cx.host.files.write(&cx.permit()?, &folder.path().join(NAME), &json, 0o600).await
    }

    /// As it lies in the file.
    pub(super) fn sealed(self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(&Sealed { sha256: self.sha256(), index: self })
    }

    /// The index of a folder, or `None` where none was written.
    pub async fn read(host: &Host, folder: &Folder) -> HostResult<Option<Self>> {
        let Some(json) = host.files.read(&folder.path().join(NAME)).await? else {
            return Ok(None);
        };
        let Sealed { index, sha256 } =
            serde_json::from_slice(&json).map_err(|source| malformed(folder, &source.to_string()))?;
        if index.format != FORMAT {
            return Err(malformed(
                folder,
                &format!("its format is {}, and this agent knows {FORMAT}", index.format),
            ));
        }
        if index.sha256() != sha256 {
            return Err(malformed(folder, "its checksum does not match"));
        }
        Ok(Some(index))
    }

    fn sha256(&self) -> String {
        // Strings, numbers and lists always serialize.
        FileDigest::of(&serde_json::to_vec(self).unwrap_or_default()).sha256
    }
}

fn malformed(folder: &Folder, why: &str) -> HostError {
    HostError::Malformed {
        what: format!("the index of the backup {}", folder.path()),
        why: format!("{why}; compare the folder with the node by hand, move it away, and retry the node"),
    }
}
