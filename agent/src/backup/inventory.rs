//! Which backups lie on the node, and what kubeadm left beside them.

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;

use super::index::Index;
use super::name::BackupName;
use super::{CLOSED, Folder, SNAPSHOT};
use crate::host::{HALF_REMOVED, Host, HostResult};

/// What kubeadm makes in /etc/kubernetes/tmp with every upgrade and never removes
/// (kubernetes/kubernetes, cmd/kubeadm/app/constants and phases/upgrade/staticpods.go).
const KUBEADM: [&str; 3] =
    ["kubeadm-backup-etcd-", "kubeadm-backup-manifests-", "kubeadm-upgraded-manifests"];

/// Everything in the folder of backups that somebody may want to keep or to remove.
#[derive(Debug)]
pub struct Inventory {
    /// This node's backups, oldest first.
    pub backups: Vec<Stored>,
    /// kubeadm's folders, by name.
    pub leftovers: Vec<Leftover>,
    /// Folders whose removal was interrupted; they have lost their names already.
    pub half_removed: Vec<String>,
}

/// A backup as it lies on the disk.
#[derive(Debug)]
pub struct Stored {
    /// What it is called.
    pub name: BackupName,
    /// Where it lies.
    pub folder: Folder,
    /// In all of its files.
    pub bytes: u64,
    /// What is in it, or why it does not count as whole.
    pub index: Result<Index, String>,
    /// A snapshot of etcd lies in it.
    pub snapshot: bool,
    /// The node was put back from it.
    pub closed: bool,
}

/// A folder of kubeadm's.
#[derive(Debug)]
pub struct Leftover {
    /// What it is called.
    pub name: String,
    /// In all of its files.
    pub bytes: u64,
}

impl Inventory {
    /// As it is now. Only indexes are read.
    pub async fn take(host: &Host, node: &NodeName) -> HostResult<Self> {
        let folder = host.layout.backups();
        let mut inventory = Self { backups: Vec::new(), leftovers: Vec::new(), half_removed: Vec::new() };
        for name in host.files.list(&folder).await? {
            let path = folder.join(&name);
            if let Ok(backup) = name.parse::<BackupName>()
                && backup.node == *node
            {
                inventory.backups.push(Stored::look(host, backup).await?);
            } else if let Some(name) = removed_name(&name) {
                inventory.half_removed.push(name.to_owned());
            } else if is_kubeadms(&name) {
                let bytes = host.files.size_of_tree(&path).await?;
                inventory.leftovers.push(Leftover { name, bytes });
            }
        }
        inventory.backups.sort_by_key(|backup| backup.name.taken_at_ms());
        Ok(inventory)
    }
}

fn is_kubeadms(name: &str) -> bool {
    KUBEADM.iter().any(|prefix| name.starts_with(prefix))
}

/// What a folder was called before its removal began.
fn removed_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix('.')?.strip_suffix(HALF_REMOVED)?;
    (is_kubeadms(name) || name.parse::<BackupName>().is_ok()).then_some(name)
}

impl Stored {
    async fn look(host: &Host, name: BackupName) -> HostResult<Self> {
        let folder = Folder::of(host, &name);
        let bytes = host.files.size_of_tree(folder.path()).await?;
        let index = match Index::read(host, &folder).await {
            Ok(Some(index)) if (&index.plan, &index.node) == (&name.plan, &name.node) => Ok(index),
            Ok(Some(index)) => Err(format!("its index is one of {} in plan {}", index.node, index.plan)),
            Ok(None) => Err("it was never finished: it has no index".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let snapshot = host.files.exists(&folder.path().join(SNAPSHOT)).await?;
        let closed = host.files.exists(&folder.path().join(CLOSED)).await?;
        Ok(Self { name, folder, bytes, index, snapshot, closed })
    }
}

impl From<Inventory> for v1::Backups {
    fn from(inventory: Inventory) -> Self {
        Self {
            backups: inventory.backups.into_iter().map(Into::into).collect(),
            leftovers: inventory.leftovers.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Stored> for v1::BackupEntry {
    fn from(stored: Stored) -> Self {
        let Stored { name, folder: _, bytes, index, snapshot, closed } = stored;
        let files = index.as_ref().map_or(0, |index| index.entries.len());
        Self {
            taken_at_ms: name.taken_at_ms(),
            name: name.to_string(),
            plan_id: name.plan.into(),
            bytes,
            files: u32::try_from(files).unwrap_or(u32::MAX),
            etcd_snapshot: snapshot,
            whole: index.is_ok(),
            flaw: index.err().unwrap_or_default(),
            closed,
        }
    }
}

impl From<Leftover> for v1::KubeadmLeftover {
    fn from(Leftover { name, bytes }: Leftover) -> Self {
        Self { name, bytes }
    }
}
