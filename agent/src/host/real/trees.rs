//! Whole trees: looked at on many threads, and put back by descriptor.

use async_trait::async_trait;
use camino::{Utf8Component, Utf8Path};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::AsyncReadExt;

use super::beneath::{self, Mounts, folder_of};
use super::files::{CHUNK, failed, on_a_thread};
use super::{mend, survey};
use crate::host::trees::{Content, Entry, Name, Place, Survey, Tree, Trees};
use crate::host::{ChunkSink, Clearance, HostError, HostResult, Layout};

/// The node's trees: nothing outside the layout's root.
#[derive(Debug, Clone)]
pub struct RealTrees {
    layout: Layout,
}

impl RealTrees {
    /// The trees of this layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    fn admit(&self, path: &Utf8Path) -> HostResult<()> {
        if path.starts_with(&self.layout.root)
            && !path.components().any(|part| part == Utf8Component::ParentDir)
        {
            return Ok(());
        }
        Err(HostError::Malformed {
            what: format!("the path {path}"),
            why: format!("it is not below {}; nothing was touched", self.layout.root),
        })
    }
}

#[async_trait]
impl Trees for RealTrees {
    async fn survey(&self, survey: Survey) -> HostResult<Tree> {
        self.admit(&survey.path)?;
        let top = self.layout.root.clone();
        on_a_thread(move || survey::survey(&top, &survey)).await
    }

    async fn read(&self, place: &Place, sink: &mut dyn ChunkSink) -> HostResult<bool> {
        self.admit(&place.root)?;
        let (top, place, path) = (self.layout.root.clone(), place.clone(), place.display());
        let opened = on_a_thread(move || {
            let mounts = if place.path.as_bytes().is_empty() { Mounts::Crossed } else { Mounts::Refused };
            let (folder, name) = folder_of(&top, &place)?;
            match beneath::open(&folder, &name, OFlags::NONBLOCK | OFlags::NOCTTY, mounts) {
                Ok(file) => Ok(Some(file)),
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(failed("cannot open", &place.display())(error)),
            }
        });
        let Some(file) = opened.await? else {
            return Ok(false);
        };
        let mut file = tokio::fs::File::from_std(file.into());
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = file.read(&mut buffer).await.map_err(failed("cannot read", &path))?;
            match buffer.get(..length) {
                Some(chunk) if !chunk.is_empty() => sink.chunk(chunk).await?,
                _ => return Ok(true),
            }
        }
    }

    async fn put_back(
        &self,
        _: &dyn Clearance,
        place: &Place,
        entry: &Entry,
        content: Content,
    ) -> HostResult<()> {
        self.admit(&place.root)?;
        if let Content::Part { file, .. } = &content {
            self.admit(file)?;
        }
        let (top, place, entry) = (self.layout.root.clone(), place.clone(), entry.clone());
        on_a_thread(move || mend::put_back(&top, &place, &entry, &content)).await
    }

    async fn link(&self, _: &dyn Clearance, place: &Place, of: &Name) -> HostResult<()> {
        self.admit(&place.root)?;
        let (top, place, of) = (self.layout.root.clone(), place.clone(), of.clone());
        on_a_thread(move || mend::link(&top, &place, &of)).await
    }

    async fn set_aside(&self, _: &dyn Clearance, place: &Place, to: &Utf8Path) -> HostResult<()> {
        self.admit(&place.root)?;
        self.admit(to)?;
        let (top, place, to) = (self.layout.root.clone(), place.clone(), to.to_owned());
        on_a_thread(move || mend::set_aside(&top, &place, &to)).await
    }
}
