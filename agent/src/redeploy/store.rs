//! The exports in a node's store, by name: `<node>-<token>`.

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::{FencingToken, NodeName};

use super::index;
use crate::engine::idle::Idle;
use crate::host::{Host, HostResult};

/// An export, whole or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Whose.
    pub node: NodeName,
    /// Under which lease.
    pub token: FencingToken,
    /// Where it lies.
    pub folder: Utf8PathBuf,
}

impl Export {
    /// The one of a lease.
    pub fn of(store: &Utf8Path, node: &NodeName, token: FencingToken) -> Self {
        Self { node: node.clone(), token, folder: store.join(format!("{node}-{token}")) }
    }

    fn parse(store: &Utf8Path, name: &str) -> Option<Self> {
        let (node, token) = name.rsplit_once('-')?;
        let export = Self::of(store, &node.parse().ok()?, FencingToken(token.parse().ok()?));
        (export.folder.file_name() == Some(name)).then_some(export)
    }

    /// Whether it was finished.
    pub async fn is_whole(&self, host: &Host) -> HostResult<bool> {
        host.files.exists(&self.folder.join(index::NAME)).await
    }
}

/// Every export of every node, oldest first.
pub async fn exports(host: &Host, store: &Utf8Path) -> HostResult<Vec<Export>> {
    let names = host.files.list(store).await?;
    let mut exports: Vec<Export> = names.iter().filter_map(|name| Export::parse(store, name)).collect();
    exports.sort_by_key(|export| export.token);
    Ok(exports)
}

/// Removes a node's exports: every node of their roll-out is raised, so nobody needs them any more.
pub async fn tidy(host: &Host, node: &NodeName, idle: &Idle) -> HostResult<()> {
    let Some(replacement) = &host.redeploy else {
        return Ok(());
    };
    for export in exports(host, &replacement.store(&host.layout)).await? {
        if export.node == *node {
            host.files.remove_tree(idle, &export.folder).await?;
            tracing::info!(export = %export.folder, "removed from the store");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exports_name_tells_its_node_and_its_lease_and_nothing_else_is_one() {
        let store = Utf8Path::new("/mnt/store");
        let export = Export::of(store, &"ip-10-0-0-1.internal".parse().unwrap(), FencingToken(7));
        assert_eq!(Export::parse(store, export.folder.file_name().unwrap()), Some(export));
        for name in ["lost+found", "w1", "w1-", "w1-07", "W1-7", ".w1-7.liftlock-removed"] {
            assert_eq!(Export::parse(store, name), None, "{name}");
        }
    }
}
