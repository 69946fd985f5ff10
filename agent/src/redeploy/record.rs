//! `redeployed.json` in the agent's state: this system is another than the one that the lease began on.

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::{FencingToken, PlanId};
use serde::{Deserialize, Serialize};

use crate::host::{Host, HostError, HostResult, Layout};

/// Its name in the state folder.
const NAME: &str = "redeployed.json";

/// Written by the import, once everything but the fence is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The plan under which the system was replaced.
    pub plan: PlanId,
    /// The lease under which it was exported.
    pub token: FencingToken,
    /// What came back, absolute, as on a real node.
    pub paths: Vec<Utf8PathBuf>,
}

impl Record {
    /// Where it lies.
    pub fn path(layout: &Layout) -> Utf8PathBuf {
        layout.state_dir.join(NAME)
    }

    /// The one of this system; `None` where it is the one that it was.
    pub async fn read(host: &Host) -> HostResult<Option<Self>> {
        let path = Self::path(&host.layout);
        let Some(json) = host.files.read(&path).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| HostError::Malformed {
            what: format!("the record of this system's replacement, {path}"),
            why: error.to_string(),
        })
    }

    /// Whether a path came back with it.
    pub fn has(&self, path: &Utf8Path) -> bool {
        self.paths.iter().any(|came_back| path.starts_with(came_back))
    }
}
