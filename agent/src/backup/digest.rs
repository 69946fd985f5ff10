//! Digests of files and of etcd snapshots, made chunk by chunk.

use async_trait::async_trait;
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host::{ChunkSink, Host, HostError, HostResult, NewFile};

/// etcd appends the SHA-256 of everything before.
const TRAILER: usize = 32;

/// bbolt writes whole pages, so a snapshot is a multiple of this and the trailer.
const SECTOR: u64 = 512;

/// Size and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// In bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl FileDigest {
    /// Of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = FileHasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Of a file on the node, or `None` where there is none.
    pub async fn of_file(host: &Host, path: &Utf8Path) -> HostResult<Option<Self>> {
        let mut hasher = FileHasher::default();
        Ok(host.files.stream(path, &mut hasher).await?.then(|| hasher.finish()))
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Default)]
struct FileHasher {
    size: u64,
    sha256: Sha256,
}

impl FileHasher {
    fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    fn finish(self) -> FileDigest {
        FileDigest { size: self.size, sha256: hex(&self.sha256.finalize()) }
    }
}

#[async_trait]
impl ChunkSink for FileHasher {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.update(bytes);
        Ok(())
    }
}

/// Proves an etcd snapshot while it streams by: its own digest over all but the last 32 bytes must be those bytes.
/// etcdctl looks at the trailer only when a snapshot is restored, which is too late to find out.
#[derive(Default)]
pub struct SnapshotProof {
    size: u64,
    body: Sha256,
    tail: Vec<u8>,
}

impl SnapshotProof {
    fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let body = self.tail.len().saturating_sub(TRAILER);
        self.body.update(self.tail.drain(..body).as_slice());
    }

    /// The snapshot's size and the digest that it ends with, if it is whole.
    pub fn finish(self) -> Result<FileDigest, String> {
        let Self { size, body, tail } = self;
        if size <= TRAILER as u64 || size % SECTOR != TRAILER as u64 {
            return Err(format!(
                "it has {size} bytes, which is no whole number of {SECTOR}-byte sectors and a 32-byte digest"
            ));
        }
        let found = hex(&body.finalize());
        let said = hex(&tail);
        if found == said {
            Ok(FileDigest { size, sha256: found })
        } else {
            Err(format!("its content has SHA-256 {found}, and etcd said {said}"))
        }
    }
}

#[async_trait]
impl ChunkSink for SnapshotProof {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.update(bytes);
        Ok(())
    }
}

/// Writes a snapshot to a file and proves it on the way.
pub struct SnapshotWriter {
    file: Box<dyn NewFile>,
    proof: SnapshotProof,
}

impl SnapshotWriter {
    /// Into this new file.
    pub fn new(file: Box<dyn NewFile>) -> Self {
        Self { file, proof: SnapshotProof::default() }
    }

    /// Gives the file its name, if the snapshot is whole; otherwise nothing is there.
    pub async fn finish(self) -> HostResult<FileDigest> {
        let digest = self.proof.finish().map_err(|why| HostError::Malformed {
            what: "the snapshot that etcd sent".to_owned(),
            why: format!("{why}; nothing was kept, take another"),
        })?;
        self.file.finish().await?;
        Ok(digest)
    }
}

#[async_trait]
impl ChunkSink for SnapshotWriter {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.proof.update(bytes);
        self.file.write(bytes).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(sectors: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..sectors * 512).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    fn prove(bytes: &[u8], chunk: usize) -> Result<FileDigest, String> {
        let mut proof = SnapshotProof::default();
        for chunk in bytes.chunks(chunk) {
            proof.update(chunk);
        }
        proof.finish()
    }

    proptest! {
        #[test]
        fn a_whole_snapshot_proves_itself_however_it_is_cut(sectors in 1_usize..8, chunk in 1_usize..700) {
            let bytes = snapshot(sectors);
            prop_assert_eq!(prove(&bytes, chunk).unwrap().size, bytes.len() as u64);
        }

        #[test]
        fn a_snapshot_with_any_flipped_byte_is_refused(sectors in 1_usize..4, at in 0_usize..2000) {
            let mut bytes = snapshot(sectors);
            let at = at % bytes.len();
            bytes[at] ^= 1;
            prop_assert!(prove(&bytes, 100).is_err());
        }

        #[test]
        fn a_snapshot_that_was_cut_off_is_refused(sectors in 1_usize..4, lost in 1_usize..2000) {
            let bytes = snapshot(sectors);
            let kept = bytes.len().saturating_sub(lost);
            prop_assert!(prove(&bytes[..kept], 100).is_err());
        }
    }
}
