//! Whether what a log held is still there: at its beginning, or in a file that it was rotated to.

use async_trait::async_trait;
use camino::Utf8Path;

use crate::host::trees::{Hash, Name, Place};
use crate::host::{ChunkSink, Host, HostResult};

/// What rotated logs are packed with; what is in those is taken on trust.
const PACKED: [&str; 4] = ["bz2", "gz", "xz", "zst"];

/// Whether the log at `path` (below the layout's root), or one that was rotated from it, begins with so many bytes of
/// this hash.
pub(super) async fn hold(host: &Host, path: &Utf8Path, size: u64, hash: Hash) -> HostResult<bool> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(false);
    };
    if begins_with(host, folder, name, size, hash).await? {
        return Ok(true);
    }
    for other in host.files.list(folder).await? {
        let rotated = other.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '-']));
        if rotated
            && (Utf8Path::new(&other).extension().is_some_and(|extension| PACKED.contains(&extension))
                || begins_with(host, folder, &other, size, hash).await?)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn begins_with(host: &Host, folder: &Utf8Path, name: &str, size: u64, hash: Hash) -> HostResult<bool> {
    let place = Place { root: folder.join(name), path: Name::default() };
    let mut beginning = Beginning { left: size, hasher: blake3::Hasher::new() };
    let there = host.trees.read(&place, &mut beginning).await?;
    Ok(there && beginning.left == 0 && Hash::from(beginning.hasher.finalize()) == hash)
}

/// Hashes the first bytes of a stream.
struct Beginning {
    left: u64,
    hasher: blake3::Hasher,
}

#[async_trait]
impl ChunkSink for Beginning {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.hasher.update(bytes.get(..length).unwrap_or_default());
        self.left = self.left.saturating_sub(length as u64);
        Ok(())
    }
}
