//! What outlives the system where it is. It has to be there again before anything is brought back beside it: etcd would
//! begin a new cluster in the empty folder that a missing mount leaves.

use camino::Utf8Path;

use crate::host::trees::{Kind, Survey};
use crate::host::{Host, HostResult};

/// What the root of a file system has from the beginning (mke2fs).
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// Whether something is there, and in it, if it is a folder.
pub(super) async fn is_there(host: &Host, path: &Utf8Path) -> HostResult<bool> {
    let at = host.layout.at(path.as_str());
    match host.trees.survey(Survey::at(&*at)).await?.root.map(|entry| entry.kind) {
        None => Ok(false),
        Some(Kind::Folder) => Ok(host.files.list(&at).await?.iter().any(|name| name != OF_THE_FILE_SYSTEM)),
        Some(_) => host.files.exists(&at).await,
    }
}
