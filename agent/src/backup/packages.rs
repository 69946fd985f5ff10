//! `packages.json`: which packages a node had, and which of them were held, before its first change.

use std::collections::BTreeMap;

use futures::future::try_join;
use serde::{Deserialize, Serialize};

use super::{Backup, Folder};
use crate::engine::context::Context;
use crate::host::{Host, HostError, HostResult};

/// Its name in the folder.
pub const NAME: &str = "packages.json";

/// The packages of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageState {
    /// Version by name, in the package manager's spelling: `1.19.7-00`.
    pub installed: BTreeMap<String, String>,
    /// Names, sorted.
    pub held: Vec<String>,
}

impl PackageState {
    /// As they are now.
    pub async fn now(host: &Host) -> HostResult<Self> {
        let (installed, mut held) = try_join(host.packages.installed(), host.packages.held()).await?;
        held.sort();
        Ok(Self { installed, held })
    }

    /// As they were before the plan's first change: a lease that comes after an interrupted installation cannot see
    /// on the node which holds it found.
    pub async fn before(cx: &Context, backup: &Backup) -> HostResult<Self> {
        let path = backup.folder.path().join(NAME);
        let malformed = |why: String| HostError::Malformed { what: format!("the backup {path}"), why };
        let json = cx.host.files.read(&path).await?.ok_or_else(|| malformed("it is gone".to_owned()))?;
        serde_json::from_slice(&json).map_err(|source| malformed(source.to_string()))
    }

    /// Those of these packages that were held.
    pub fn held_of(&self, packages: &[&str]) -> Vec<String> {
        self.held.iter().filter(|held| packages.contains(&held.as_str())).cloned().collect()
    }

    /// Those of these packages that were installed, with their versions.
    pub fn installed_of(&self, packages: &[&str]) -> Vec<(String, String)> {
        let of = self.installed.iter().filter(|(name, _)| packages.contains(&name.as_str()));
        of.map(|(name, version)| (name.clone(), version.clone())).collect()
    }

    /// Writes it into a folder.
    pub async fn write(&self, cx: &Context, folder: &Folder) -> HostResult<Vec<u8>> {
        let path = folder.path().join(NAME);
        let json = serde_json::to_vec_pretty(self).map_err(|source| HostError::Malformed {
            what: format!("the backup {path}"),
            why: source.to_string(),
        })?;
        cx.host.files.write(&cx.permit()?, &path, &json, 0o600).await?;
        Ok(json)
    }
}
