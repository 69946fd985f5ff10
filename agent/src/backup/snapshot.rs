//! What is known of the snapshot of etcd in a backup: written once it was rehearsed, so one without it is none.

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::digest::FileDigest;
use super::{Folder, SNAPSHOT};
use crate::engine::context::Context;
use crate::host::{Host, HostError, HostResult};

/// Its name in the folder.
pub const FACTS: &str = "etcd-snapshot.json";

/// A snapshot that was rehearsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotFacts {
    /// In bytes, the digest at its end included.
    pub size: u64,
    /// Of everything but the digest at its end, lower-case hexadecimal.
    pub sha256: String,
    /// etcd's revision: that of the last change in it.
    pub revision: u64,
    /// Keys in it.
    pub keys: u64,
    /// What it was rehearsed with: `etcdctl 3.4.23`, or `liftlock` where the node has no such program.
    pub rehearsed_with: String,
}

impl SnapshotFacts {
    /// Of a folder's snapshot; `None` where there is none, or one that was not rehearsed.
    pub async fn read(host: &Host, folder: &Folder) -> HostResult<Option<Self>> {
        let path = folder.path().join(FACTS);
        let Some(json) = host.files.read(&path).await? else {
            return Ok(None);
        };
        let malformed = |source: serde_json::Error| HostError::Malformed {
            what: format!("the backup {path}"),
            why: source.to_string(),
        };
        serde_json::from_slice(&json).map(Some).map_err(malformed)
    }

    /// Writes them; from now on the snapshot counts.
    pub async fn write(&self, cx: &Context, folder: &Folder) -> HostResult<()> {
        let path = folder.path().join(FACTS);
        let json = serde_json::to_vec_pretty(self).map_err(|source| HostError::Malformed {
            what: format!("the backup {path}"),
            why: source.to_string(),
        })?;
        cx.host.files.write(&cx.permit()?, &path, &json, 0o600).await
    }

    /// Size and digest of the snapshot.
    pub fn digest(&self) -> FileDigest {
        FileDigest { size: self.size, sha256: self.sha256.clone() }
    }
}

/// Where a folder's snapshot lies.
pub fn path(folder: &Folder) -> Utf8PathBuf {
    folder.path().join(SNAPSHOT)
}
