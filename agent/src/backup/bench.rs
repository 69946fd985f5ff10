//! A node with backups of earlier plans, for tests.

use camino::Utf8PathBuf;
use liftlock_proto::plan::Role;

use super::Folder;
use super::SNAPSHOT;
use super::digest::FileDigest;
use super::index::{Entry, Index};
use super::name::BackupName;
use super::snapshot::{FACTS, SnapshotFacts};
use crate::twin::{Shape, Twin, bolt};

pub(crate) const NODE: &str = "cp1";
pub(crate) const DAY_MS: u64 = 86_400_000;
/// Whole days after the Unix epoch, a little after the twin's own beginning.
pub(crate) const NOW_MS: u64 = 20_800 * DAY_MS;

/// A node whose backups were taken so many days ago; `false` for one that was never finished. It is [`NOW_MS`].
pub(crate) fn node_with_backups(backups: &[(u64, bool)]) -> Twin {
    let version = "v1.30.4".parse().unwrap();
    let twin = Twin::new(Shape { control_planes: 1, workers: 0, version, offered: version });
    let host = twin.host(NODE);
    let behind = NOW_MS.checked_sub(host.clock.unix_ms()).unwrap();
    twin.settle(std::time::Duration::from_millis(behind));
    for (days, whole) in backups {
        let plan = format!("p-{days:012x}").parse().unwrap();
        let name = BackupName::at(&plan, &NODE.parse().unwrap(), NOW_MS - days * DAY_MS);
        let folder = Folder::of(&host, &name);
        let put = |path: Utf8PathBuf, content: &[u8]| {
            let path = folder.path().join(path);
            twin.world().change(NODE, |machine| machine.disk.put(path, content, 0o600)).unwrap();
        };
        let file = Utf8PathBuf::from("files/etc/kubernetes/admin.conf");
        put(file.clone(), b"secret");
        let snapshot = bolt::snapshot(bolt::database(7, &[("key".to_owned(), b"value".to_vec())]));
        put(SNAPSHOT.into(), &snapshot);
        let facts = SnapshotFacts {
            size: snapshot.len() as u64,
            sha256: FileDigest::of(&snapshot[..snapshot.len() - 32]).sha256,
            revision: 7,
            keys: 1,
            rehearsed_with: "liftlock".to_owned(),
        };
        put(FACTS.into(), &serde_json::to_vec(&facts).unwrap());
        if *whole {
            let digest = FileDigest::of(b"secret");
            let mut index =
                Index::of(name.plan.clone(), name.node.clone(), Role::FirstControlPlane, name.taken_at_ms());
            index.snapshot = Some(facts.digest());
            index.entries.push(Entry { path: file, digest });
            put("index.json".into(), &index.sealed().unwrap());
        }
    }
    twin
}
