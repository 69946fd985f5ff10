//! The checksum of a file that is too large to hold.

use async_trait::async_trait;
use camino::Utf8Path;
use sha2::{Digest, Sha256};

use crate::host::real::files::hexadecimal;
use crate::host::{ChunkSink, Files, HostResult};

struct Sum(Sha256);

#[async_trait]
impl ChunkSink for Sum {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.0.update(bytes);
        Ok(())
    }
}

/// A file's SHA-256 in lower-case hexadecimal; `None` where there is no file.
pub(super) async fn sha256_of(files: &dyn Files, path: &Utf8Path) -> HostResult<Option<String>> {
    let mut sum = Sum(Sha256::new());
    let found = files.stream(path, &mut sum).await?;
    Ok(found.then(|| hexadecimal(&sum.0.finalize())))
}
