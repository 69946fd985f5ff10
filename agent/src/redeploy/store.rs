//! The exports in a node's store, by name: `<node>-<token>`.

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::{FencingToken, NodeName};

use super::index;
use crate::engine::idle::Idle;
use crate::host::trees::{Kind, Survey};
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

/// Why what lies in a store is not to be believed, and what to do, if that is so: others than who owns / may write to it
/// or to a folder above it, and what it holds is written all over the system.
pub async fn distrust(host: &Host, store: &Utf8Path) -> HostResult<Option<String>> {
    let look = async |path: &Utf8Path| HostResult::Ok(host.trees.survey(Survey::at(path)).await?.root);
    // / itself lies in no folder to look at it from; it is root's.
    let (uid, gid) = look(&host.layout.root).await?.map_or((0, 0), |root| (root.uid, root.gid));
    for path in store.ancestors().take_while(|path| *path != host.layout.root) {
        let Some(entry) = look(path).await? else { continue };
        if matches!(entry.kind, Kind::Link(_)) {
            return Ok(Some(format!("{path} is a symbolic link: name where it really leads")));
        }
        let others = if entry.gid == gid { 0o002 } else { 0o022 };
        // In a folder with the sticky bit nobody renames what is another's.
        let sticky = path != store && entry.mode & 0o1000 != 0;
        if entry.uid != uid || (entry.mode & others != 0 && !sticky) {
            return Ok(Some(format!(
                "others than root may write to {path}, and could have root write what they like: `chown root:root {path}` \
                 and `chmod go-w {path}`"
            )));
        }
    }
    Ok(None)
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
