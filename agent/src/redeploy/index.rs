//! `index.json`: what an export holds. It is written last and proves itself, so an export with an index is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use serde::{Deserialize, Serialize};

use crate::backup::digest::FileDigest;
use crate::host::trees::{Entry, Hash, Tree};
use crate::host::{Host, HostError, HostResult};
use crate::protect::manifest::Slice;

/// Its name in the export.
pub const NAME: &str = "index.json";

/// The contents of files beside it.
pub const PACK: &str = "content.pack";

/// Raised whenever the meaning of a field changes.
const FORMAT: u32 = 1;

/// What an export holds, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Index {
    format: u32,
    /// Whose system it was.
    pub node: NodeName,
    /// The plan under which it was to be replaced.
    pub plan: PlanId,
    /// The lease.
    pub token: FencingToken,
    /// What is brought back, sorted by path.
    pub trees: Vec<Exported>,
    /// The folders that these lie in, from the top down, for where the new system has none.
    pub above: Vec<(Utf8PathBuf, Entry)>,
    /// What was there, not empty, and outlives the system where it is.
    pub kept: Vec<Utf8PathBuf>,
    /// Where in the pack the contents of files lie.
    pub contents: BTreeMap<Hash, Slice>,
}

/// One path with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    /// Absolute, as on a real node.
    pub path: Utf8PathBuf,
    /// What was there.
    pub tree: Arc<Tree>,
}

/// The index as it lies in the file. `sha256` is over the compact JSON of `index`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    index: Index,
    sha256: String,
}

impl Index {
    /// An index of nothing yet.
    pub fn new(node: NodeName, plan: PlanId, token: FencingToken) -> Self {
        Self {
            format: FORMAT,
            node,
            plan,
            token,
            trees: Vec::new(),
            above: Vec::new(),
            kept: Vec::new(),
            contents: BTreeMap::new(),
        }
    }

    /// Bytes in all files.
    pub fn size(&self) -> u64 {
        self.trees.iter().map(|exported| exported.tree.size()).sum()
    }

    /// As it lies in the file.
    pub fn sealed(self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Sealed { sha256: self.sha256()?, index: self })
    }

    /// The index of an export; `None` where there is none, so that the export is not whole.
    pub async fn read(host: &Host, folder: &Utf8Path) -> HostResult<Option<Self>> {
        let path = folder.join(NAME);
        let malformed = |why: String| HostError::Malformed { what: format!("the index {path}"), why };
        let Some(json) = host.files.read(&path).await? else {
            return Ok(None);
        };
        let Sealed { index, sha256 } =
            serde_json::from_slice(&json).map_err(|error| malformed(error.to_string()))?;
        if index.format != FORMAT {
            let why = format!("its format is {}, and this agent knows {FORMAT}", index.format);
            return Err(malformed(why));
        }
        if index.sha256().map_err(|error| malformed(error.to_string()))? != sha256 {
            return Err(malformed(
                "its checksum does not match; nothing of the export is believed".to_owned(),
            ));
        }
        Ok(Some(index))
    }

    fn sha256(&self) -> serde_json::Result<String> {
        Ok(FileDigest::of(&serde_json::to_vec(self)?).sha256)
    }
}
