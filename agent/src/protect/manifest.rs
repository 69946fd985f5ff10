//! `protected.json`: the protected paths as they were before the first change.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::class::{Class, LOGS};
use super::rules::Rules;
use crate::backup::digest::FileDigest;
use crate::backup::index::Index;
use crate::backup::{Backup, Folder};
use crate::engine::context::Context;
use crate::host::trees::{Depth, Hash, Survey, Tree};
use crate::host::{Host, HostError, HostResult};

/// Its name in the backup folder.
pub const NAME: &str = "protected.json";

/// Raised whenever the meaning of a field changes.
const FORMAT: u32 = 1;

/// The protected paths at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// One for each path, sorted.
    pub trees: Vec<Protected>,
    /// Where in `protected.pack` the contents of files lie.
    pub contents: BTreeMap<Hash, Slice>,
}

/// One protected path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protected {
    /// Absolute, as on a real node.
    pub path: Utf8PathBuf,
    /// What must hold of it.
    pub class: Class,
    /// The contents of its files were copied.
    pub kept: bool,
    /// What was there. Of a path in use, only the path itself.
    pub tree: Arc<Tree>,
}

/// Bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Of the first one.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl Manifest {
    /// Looks at everything that the rules protect. What `known` saw and nobody touched since is not read again.
    pub async fn take(host: &Host, rules: &Rules, known: Option<&Self>) -> HostResult<Self> {
        let mut trees = Vec::new();
        for rule in rules.iter().filter(|rule| rule.class != Class::Except) {
            let known = known.and_then(|known| known.tree(&rule.path)).map(|known| Arc::clone(&known.tree));
            let tree = look(host, rules, &rule.path, rule.class, known).await?;
            let tree = Arc::new(tree);
            trees.push(Protected { path: rule.path.clone(), class: rule.class, kept: false, tree });
        }
        Ok(Self { format: FORMAT, trees, contents: BTreeMap::new() })
    }

    /// The one of a backup; `None` where nothing was sealed.
    pub async fn of(host: &Host, backup: &Backup) -> HostResult<Option<Self>> {
        Self::read(host, &backup.folder, &backup.index).await
    }

    /// The newest of any earlier backup of this node, to spare reading what it has read. One that does not read any more
    /// spares nothing.
    pub async fn earlier(cx: &Context) -> HostResult<Option<Self>> {
        for folder in Folder::all(cx).await? {
            if let Ok(Some(index)) = Index::read(&cx.host, &folder).await
                && let Ok(Some(manifest)) = Self::read(&cx.host, &folder, &index).await
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// What was at a protected path.
    pub fn tree(&self, path: &Utf8Path) -> Option<&Protected> {
        self.trees.iter().find(|tree| tree.path == path)
    }

    /// The one of a backup with this index; `None` where nothing was sealed.
    pub async fn read(host: &Host, folder: &Folder, index: &Index) -> HostResult<Option<Self>> {
        let Some(entry) = index.entries.iter().find(|entry| entry.path == NAME) else {
            return Ok(None);
        };
        let path = folder.path().join(NAME);
        let malformed = |why: String| HostError::Malformed { what: format!("the manifest {path}"), why };
        let json = host.files.read(&path).await?.ok_or_else(|| malformed("it is gone".to_owned()))?;
        if FileDigest::of(&json) != entry.digest {
            return Err(malformed("it is not what the backup's index says".to_owned()));
        }
        let manifest: Self = serde_json::from_slice(&json).map_err(|error| malformed(error.to_string()))?;
        if manifest.format != FORMAT {
            let why = format!("its format is {}, and this agent knows {FORMAT}", manifest.format);
            return Err(malformed(why));
        }
        Ok(Some(manifest))
    }
}

/// Looks at one protected path, as its class demands.
pub(super) async fn look(
    host: &Host,
    rules: &Rules,
    path: &Utf8Path,
    class: Class,
    known: Option<Arc<Tree>>,
) -> HostResult<Tree> {
    let depth = match class {
        Class::Sealed | Class::Managed => Depth::Whole,
        Class::Live | Class::Except if path.starts_with(LOGS) => Depth::Content,
        Class::Live | Class::Except => Depth::Root,
    };
    let survey = Survey { path: host.layout.at(path.as_str()), depth, leave_out: rules.below(path), known };
    host.trees.survey(survey).await
}
