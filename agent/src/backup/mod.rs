//! What a node keeps of itself before anything is changed:
//! `/etc/kubernetes/tmp/liftlock-<plan>-<node>-<UTC time>/`, 0700.
//!
//! ```text
//! etcd-snapshot.db     on control planes with a local etcd
//! etcd-snapshot.json   its size, digest, revision and number of keys: it was rehearsed
//! files/…              copies below their absolute paths
//! configmaps/*.yaml    on control planes
//! packages.json        installed versions and holds
//! protected.json       the protected paths as they were
//! protected.pack       the contents of the sealed files among them, as far as they are small
//! found-<time>/…       what was found where a sealed file was put back
//! index.json           size and SHA-256 of everything, checksummed, written last
//! addons.json          what add-ons change in the cluster, as it was, on the control plane that applies them
//! closed               the node was put back: the next lease takes a new backup
//! ```
//!
//! One folder serves one node in one plan, whatever number of leases that takes: a lease that resumes or retries
//! finds the folder again and keeps it, because it alone shows the node as it was before the first change. Without
//! a folder whose index reads, nothing on the node is changed ([`Backup::require`]).

use camino::{Utf8Path, Utf8PathBuf};

use crate::engine::context::Context;
use crate::engine::step::StepFailure;
use crate::host::{Host, HostError, HostResult};

#[cfg(test)]
pub(crate) mod bench;
pub mod bolt;
pub mod digest;
pub mod index;
pub mod inventory;
pub mod name;
pub mod packages;
pub mod prune;
pub mod rehearsal;
pub mod snapshot;
pub mod verification;

use digest::FileDigest;
use index::{Entry, Index};
use name::BackupName;

/// The files of the kubelet that kubeadm or a package may change.
pub const KUBELET_FILES: [&str; 4] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/instance-config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
];

/// The snapshot of etcd in a folder.
pub const SNAPSHOT: &str = "etcd-snapshot.db";

const CLOSED: &str = "closed";

/// A backup folder, complete or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    path: Utf8PathBuf,
}

impl Folder {
    /// The folder of this name.
    pub fn of(host: &Host, name: &BackupName) -> Self {
        Self { path: host.layout.backups().join(name.to_string()) }
    }

    /// The newest folder of this node in this plan that was not closed.
    pub async fn newest(cx: &Context) -> HostResult<Option<Self>> {
        let backups = cx.host.layout.backups();
        for name in cx.host.files.list(&backups).await?.iter().rev() {
            let folder = Self { path: backups.join(name) };
            if is_name_of(cx, name) && !cx.host.files.exists(&folder.path.join(CLOSED)).await? {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// Every folder of this node, whatever its plan, and closed or not: the newest first.
    pub async fn all(cx: &Context) -> HostResult<Vec<Self>> {
        let backups = cx.host.layout.backups();
        let mut names = cx.host.files.list(&backups).await?;
        names.retain(|name| name.parse::<BackupName>().is_ok_and(|name| name.node == cx.node));
        let time = |name: &str| name.rsplit_once('-').map(|(_, time)| time.to_owned());
        names.sort_by_key(|name| std::cmp::Reverse(time(name)));
        Ok(names.iter().map(|name| Self { path: backups.join(name) }).collect())
    }

    /// The name of the folder to use: the newest open one, or a new one named after the present second, or after the
    /// first one from then on that no closed folder is named after.
    pub async fn choose(cx: &Context) -> HostResult<String> {
        if let Some(folder) = Self::newest(cx).await? {
            return Ok(folder.name().to_owned());
        }
        let taken = cx.host.files.list(&cx.host.layout.backups()).await?;
        let mut unix_ms = cx.host.clock.unix_ms();
        loop {
            let name = BackupName::at(&cx.plan, &cx.node, unix_ms).to_string();
            if !taken.contains(&name) {
                return Ok(name);
            }
            unix_ms = unix_ms.saturating_add(1000);
        }
    }

    /// The folder of a name that [`Folder::choose`] gave.
    pub fn named(cx: &Context, name: &str) -> HostResult<Self> {
        if is_name_of(cx, name) {
            Ok(Self { path: cx.host.layout.backups().join(name) })
        } else {
            Err(HostError::Malformed {
                what: format!("the name of the backup folder, \"{name}\""),
                why: format!("it is not one of {} in plan {}", cx.node, cx.plan),
            })
        }
    }

    /// Makes it, 0700, where it is not there yet.
    pub async fn create(&self, cx: &Context) -> HostResult<()> {
        cx.host.files.create_dir(&cx.permit()?, &self.path, 0o700).await
    }

    /// Its last component.
    pub fn name(&self) -> &str {
        self.path.file_name().unwrap_or_default()
    }

    /// Where it lies.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Where the copy of a file lies whose path is absolute as on a real node.
    pub fn copy_of(&self, path: &str) -> Utf8PathBuf {
        self.path.join("files").join(path.trim_start_matches('/'))
    }

    /// Keeps the folder, but no later lease of this plan takes it for the state before its first change.
    pub async fn close(&self, cx: &Context) -> HostResult<()> {
        if cx.host.files.exists(&self.path).await? {
            let closed = self.path.join(CLOSED);
            cx.host.files.write(&cx.permit()?, &closed, b"", 0o600).await?;
        }
        Ok(())
    }
}

/// A folder whose index reads: the node as it was before its first change.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Where it lies.
    pub folder: Folder,
    /// What is in it.
    pub index: Index,
}

impl Backup {
    /// The open backup of this node, or `None` where none was finished. One whose index is damaged is an error:
    /// nobody may take a node that is changed already for the node as it was.
    pub async fn find(cx: &Context) -> HostResult<Option<Self>> {
        let Some(folder) = Folder::newest(cx).await? else {
            return Ok(None);
        };
        let index = Index::read(&cx.host, &folder).await?;
        Ok(index.map(|index| Self { folder, index }))
    }

    /// The open backup, without which no step may change anything.
    pub async fn require(cx: &Context) -> Result<Self, StepFailure> {
        Self::find(cx).await?.ok_or_else(|| {
            StepFailure::Refused(format!(
                "there is no finished backup of {} for plan {} in {}: nothing is changed without one; run the plan's \
                 step back-up-node first",
                cx.node,
                cx.plan,
                cx.host.layout.backups()
            ))
        })
    }

    /// Reads every file anew and compares it with the index.
    pub async fn verify(&self, host: &Host) -> HostResult<()> {
        for entry in &self.index.entries {
            let path = self.folder.path.join(&entry.path);
            let found = FileDigest::of_file(host, &path).await?;
            if found.as_ref() != Some(&entry.digest) {
                return Err(HostError::Malformed {
                    what: format!("the backup {path}"),
                    why: match found {
                        None => "it is gone".to_owned(),
                        Some(found) => format!(
                            "it has {} bytes with SHA-256 {}, and had {} with {}",
                            found.size, found.sha256, entry.digest.size, entry.digest.sha256
                        ),
                    },
                });
            }
        }
        Ok(())
    }

    /// The files in it whose path on the node starts with `below`: absolute path, entry.
    pub fn files<'a>(&'a self, below: &'a str) -> impl Iterator<Item = (String, &'a Entry)> + 'a {
        self.index.entries.iter().filter_map(move |entry| {
            let path = format!("/{}", entry.path.strip_prefix("files").ok()?);
            path.starts_with(below).then_some((path, entry))
        })
    }

    /// Puts a file back where the node has another one or none; whether it did.
    pub async fn put_back(&self, cx: &Context, path: &str, entry: &Entry) -> Result<bool, StepFailure> {
        let target = cx.host.layout.at(path);
        if FileDigest::of_file(&cx.host, &target).await?.as_ref() == Some(&entry.digest) {
            return Ok(false);
        }
        let copy = self.folder.path.join(&entry.path);
        if FileDigest::of_file(&cx.host, &copy).await?.as_ref() != Some(&entry.digest) {
            return Err(StepFailure::Unproven(format!(
                "{target} is not put back: its backup {copy} is not what the index says; put it back by hand"
            )));
        }
        cx.host.files.restore_file(&cx.permit()?, &copy, &target).await?;
        Ok(true)
    }
}

/// Whether a folder of this name serves this node in this plan.
fn is_name_of(cx: &Context, name: &str) -> bool {
    name.parse::<BackupName>().is_ok_and(|name| (&name.plan, &name.node) == (&cx.plan, &cx.node))
}
