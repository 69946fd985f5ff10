//! Whether a backup is still what its index says: what is damaged in it, what is missing, and what is foreign.

use camino::{Utf8Path, Utf8PathBuf};

use super::digest::{FileDigest, SnapshotProof};
use super::index::{self, Index};
use super::inventory::Stored;
use super::snapshot::{self, SnapshotFacts};
use super::{CLOSED, Folder, SNAPSHOT};
use crate::host::{Host, HostResult};

/// What a reading of a whole backup found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Files that were read.
    pub files: u32,
    /// Bytes in them.
    pub bytes: u64,
    /// A sentence each; empty where it is whole.
    pub findings: Vec<String>,
}

impl Verdict {
    /// Reads every file of a backup.
    pub async fn of(host: &Host, stored: &Stored) -> HostResult<Self> {
        let mut verdict = Self::default();
        match &stored.index {
            Err(flaw) => verdict.findings.push(flaw.clone()),
            Ok(index) => {
                verdict.entries(host, &stored.folder, index).await?;
                verdict.snapshot(host, &stored.folder, index).await?;
                verdict.foreign(host, &stored.folder, index).await?;
            }
        }
        Ok(verdict)
    }

    async fn entries(&mut self, host: &Host, folder: &Folder, index: &Index) -> HostResult<()> {
        for entry in &index.entries {
            let found = FileDigest::of_file(host, &folder.path().join(&entry.path)).await?;
            self.compare(&entry.path, found, &entry.digest);
        }
        Ok(())
    }

    async fn snapshot(&mut self, host: &Host, folder: &Folder, index: &Index) -> HostResult<()> {
        let Some(known) = &index.snapshot else {
            return Ok(());
        };
        let mut proof = SnapshotProof::default();
        let there = host.files.stream(&snapshot::path(folder), &mut proof).await?;
        match proof.finish() {
            Ok(found) => self.compare(Utf8Path::new(SNAPSHOT), Some(found), known),
            Err(_) if !there => self.compare(Utf8Path::new(SNAPSHOT), None, known),
            Err(why) => self.findings.push(format!("{SNAPSHOT} is damaged: {why}")),
        }
        match SnapshotFacts::read(host, folder).await {
            Ok(Some(facts)) if facts.digest() == *known => {}
            Ok(Some(_)) => self.findings.push(format!("{} is of another snapshot", snapshot::FACTS)),
            Ok(None) => self.findings.push(format!("{} is missing", snapshot::FACTS)),
            Err(error) => self.findings.push(error.to_string()),
        }
        Ok(())
    }

    /// Nothing of ours writes what the index does not name.
    async fn foreign(&mut self, host: &Host, folder: &Folder, index: &Index) -> HostResult<()> {
        let ours = [index::NAME, CLOSED, SNAPSHOT, snapshot::FACTS].map(Utf8PathBuf::from);
        let files = host.files.files_below(folder.path()).await?;
        let named = |file: &Utf8PathBuf| {
            ours.contains(file) || index.entries.binary_search_by(|entry| entry.path.cmp(file)).is_ok()
        };
        let foreign = files.into_iter().filter(|file| !named(file));
        self.findings.extend(foreign.map(|file| format!("{file} is foreign: the index does not name it")));
        Ok(())
    }

    fn compare(&mut self, path: &Utf8Path, found: Option<FileDigest>, known: &FileDigest) {
        let Some(found) = found else {
            return self.findings.push(format!("{path} is missing"));
        };
        self.files += 1;
        self.bytes += found.size;
        if found != *known {
            self.findings.push(format!(
                "{path} is damaged: it has {} bytes with SHA-256 {}, and had {} with {}",
                found.size, found.sha256, known.size, known.sha256
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::bench::{NODE, node_with_backups};
    use crate::backup::inventory::Inventory;
    use crate::twin::Disk;

    /// The findings after somebody meddled with the only backup of a node.
    fn findings(meddle: impl FnOnce(&mut Disk, &Utf8Path)) -> Vec<String> {
        let twin = node_with_backups(&[(1, true)]);
        let (host, node) = (twin.host(NODE), NODE.parse().unwrap());
        let take = || twin.drive(Inventory::take(&host, &node)).done().unwrap().unwrap();
        let folder = take().backups[0].folder.path().to_owned();
        twin.world().change(NODE, |machine| meddle(&mut machine.disk, &folder)).unwrap();
        let verdict = twin.drive(Verdict::of(&host, &take().backups[0]));
        verdict.done().unwrap().unwrap().findings
    }

    const COPY: &str = "files/etc/kubernetes/admin.conf";

    #[test]
    fn a_whole_backup_has_no_findings() {
        assert_eq!(findings(|_, _| ()), [""; 0]);
    }

    #[test]
    fn what_is_damaged_missing_or_foreign_is_named() {
        let damaged = findings(|disk, folder| disk.put(folder.join(COPY), "secreT", 0o600));
        assert!(damaged.len() == 1 && damaged[0].starts_with(&format!("{COPY} is damaged")), "{damaged:?}");
        let missing = findings(|disk, folder| assert!(disk.remove(&folder.join(COPY))));
        assert_eq!(missing, [format!("{COPY} is missing")]);
        let foreign = findings(|disk, folder| disk.put(folder.join("files/etc/passwd"), "root", 0o600));
        assert_eq!(foreign, ["files/etc/passwd is foreign: the index does not name it"]);
    }

    #[test]
    fn one_flipped_byte_of_the_snapshot_or_the_index_is_found() {
        let flip = |name: &'static str| {
            findings(move |disk, folder| {
                let path = folder.join(name);
                let mut bytes = disk.read(&path).unwrap().to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                disk.put(path, bytes, 0o600);
            })
        };
        let snapshot = flip(SNAPSHOT);
        assert!(snapshot.len() == 1 && snapshot[0].contains("is damaged"), "{snapshot:?}");
        let index = flip(index::NAME);
        assert!(index.len() == 1 && index[0].contains("index"), "{index:?}");
    }

    #[test]
    fn a_snapshot_that_is_gone_or_anothers_is_found() {
        let gone = findings(|disk, folder| assert!(disk.remove(&folder.join(SNAPSHOT))));
        assert_eq!(gone, [format!("{SNAPSHOT} is missing")]);
        let unrehearsed = findings(|disk, folder| assert!(disk.remove(&folder.join(snapshot::FACTS))));
        assert_eq!(unrehearsed, [format!("{} is missing", snapshot::FACTS)]);
    }
}
