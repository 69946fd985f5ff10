//! The contents of many files in one, one after another, so that they are made durable at once.

use async_trait::async_trait;

use super::manifest::Slice;
use crate::engine::context::Context;
use crate::host::trees::{Hash, Place};
use crate::host::{ChunkSink, HostResult, NewFile};

/// A pack that is being written. It is there only once it is [finished](Self::finish).
pub struct Pack {
    file: Box<dyn NewFile>,
    /// Of the file that is being added.
    hasher: blake3::Hasher,
    length: u64,
}

impl Pack {
    /// An empty one that this file is to become.
    pub fn new(file: Box<dyn NewFile>) -> Self {
        Self { file, hasher: blake3::Hasher::new(), length: 0 }
    }

    /// Adds a file and says where it lies; `None` where it is gone or no longer has this hash.
    pub async fn add(&mut self, cx: &Context, place: &Place, hash: Hash) -> HostResult<Option<Slice>> {
        let offset = self.length;
        self.hasher.reset();
        let there = cx.host.trees.read(place, self).await?;
        let whole = there && Hash::from(self.hasher.finalize()) == hash;
        Ok(whole.then_some(Slice { offset, length: self.length - offset }))
    }

    /// Makes it durable, and gives it its name.
    pub async fn finish(self) -> HostResult<()> {
        self.file.finish().await
    }
}

#[async_trait]
impl ChunkSink for Pack {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write(bytes).await
    }
}
