//! `protected.pack`: the contents of sealed files, one after another, so that they are made durable at once.
//!
//! Identity and configuration are small. A tree with more than [`TREE_LIMIT`] bytes, as /root and /data may be, is
//! proven and not copied: the lease would wait for the copy, and the disk may not hold it.

use std::collections::BTreeMap;

use super::class::Class;
use super::kubeadms;
use super::manifest::{Manifest, Slice};
use super::pack::Pack;
use crate::backup::digest::FileDigest;
use crate::backup::{Backup, Folder};
use crate::engine::context::Context;
use crate::engine::step::StepFailure;
use crate::host::trees::{Hash, Kind, Place};
use crate::host::{HostError, HostResult};

/// Its name in the backup folder.
pub const NAME: &str = "protected.pack";

/// The most that a tree may hold and be copied, in bytes.
pub const TREE_LIMIT: u64 = 16 << 20;

/// The most that is copied in all, in bytes: it is read into memory when something has to be put back.
pub const LIMIT: u64 = 64 << 20;

/// Room that must be left beside the copies, in bytes: the etcd that runs on this disk comes first.
const MARGIN: u64 = 64 << 20;

/// Copies what is small enough, and writes down in the manifest where. Fails where a file changes meanwhile.
pub async fn pack(cx: &Context, folder: &Folder, manifest: &mut Manifest) -> Result<FileDigest, StepFailure> {
    choose(manifest);
    require_space(cx, folder, manifest).await?;
    let file = cx.host.files.create(&cx.permit()?, &folder.path().join(NAME)).await?;
    let mut pack = Pack::new(file);
    let mut contents = BTreeMap::new();
    for tree in manifest.trees.iter().filter(|tree| tree.kept) {
        for (path, entry) in tree.tree.entries() {
            let Kind::File { blake3: Some(hash), .. } = entry.kind else { continue };
            if contents.contains_key(&hash) || (tree.class == Class::Managed && kubeadms::owns(&path)) {
                continue;
            }
            let place = Place { root: cx.host.layout.at(tree.path.as_str()), path };
            let slice = pack.add(cx, &place, hash).await?.ok_or_else(|| {
                StepFailure::Unproven(format!(
                    "{} changes while it is being sealed: stop what writes there, or say `live` or `except` of it in \
                     /etc/liftlock/protect.d",
                    place.display()
                ))
            })?;
            contents.insert(hash, slice);
        }
    }
    manifest.contents = contents;
    pack.finish().await?;
    let path = folder.path().join(NAME);
    FileDigest::of_file(&cx.host, &path).await?.ok_or_else(|| {
        StepFailure::Unproven(format!("{path} was written and is gone: find out who removes files there"))
    })
}

/// The contents of the manifest's files.
pub struct Contents {
    bytes: Vec<u8>,
}

impl Contents {
    /// Reads all of them.
    pub async fn open(cx: &Context, backup: &Backup) -> HostResult<Self> {
        let path = backup.folder.path().join(NAME);
        let bytes = cx.host.files.read(&path).await?.ok_or_else(|| HostError::Malformed {
            what: format!("the copies of sealed files {path}"),
            why: "they are gone; put back by hand what changed".to_owned(),
        })?;
        Ok(Self { bytes })
    }

    /// The content with this hash, if it is there and whole.
    pub fn get(&self, slice: Slice, hash: Hash) -> Option<Vec<u8>> {
        let start = usize::try_from(slice.offset).ok()?;
        let end = start.checked_add(usize::try_from(slice.length).ok()?)?;
        let bytes = self.bytes.get(start..end)?;
        (Hash::from(blake3::hash(bytes)) == hash).then(|| bytes.to_vec())
    }
}

/// Marks the trees that are copied.
fn choose(manifest: &mut Manifest) {
    let mut all = 0;
    for tree in manifest.trees.iter_mut().filter(|tree| tree.class.is_compared()) {
        let size = tree.tree.size();
        tree.kept = size <= TREE_LIMIT && all + size <= LIMIT;
        if tree.kept {
            all += size;
        }
    }
}

async fn require_space(cx: &Context, folder: &Folder, manifest: &Manifest) -> Result<(), StepFailure> {
    let kept = manifest.trees.iter().filter(|tree| tree.kept);
    let need = kept.map(|tree| tree.tree.size()).sum::<u64>() + MARGIN;
    let free = cx.host.files.space(folder.path()).await?.free;
    if free >= need {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(StepFailure::Refused(format!(
        "copies of the sealed files need {} MiB in {}, and {} MiB are free there: make room, then retry the node",
        mebibytes(need),
        folder.path(),
        mebibytes(free)
    )))
}
