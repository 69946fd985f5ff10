//! The host's view of whole trees on a node's disk. There are no times, owners and links in memory, so files differ in
//! their content and mode only.

use std::io::ErrorKind;
use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8Path;
use rustix::io::Errno;

use super::children::file_error;
use super::disk::Disk;
use super::node::NodeTwin;
use super::world::World;
use crate::host::trees::{Content, Depth, Entry, Hash, Kind, Name, Place, Stamp, Survey, Tree, Trees};
use crate::host::{ChunkSink, Clearance, Files, HostError, HostResult};

#[async_trait]
impl Trees for NodeTwin {
    async fn survey(&self, survey: Survey) -> HostResult<Tree> {
        self.machine(|machine| tree(&machine.disk, &survey))
    }

    async fn read(&self, place: &Place, sink: &mut dyn ChunkSink) -> HostResult<bool> {
        self.stream(&place.display(), sink).await
    }

    async fn put_back(
        &self,
        _: &dyn Clearance,
        place: &Place,
        entry: &Entry,
        content: Content,
    ) -> HostResult<()> {
        let path = place.display();
        let content = match content {
            Content::Present => None,
            Content::Bytes(bytes) => Some(bytes),
            Content::Part { file, offset, length, blake3 } => {
                let whole = self.machine(|machine| machine.disk.read(&file).map(<[u8]>::to_vec))?;
                let (start, length) = (usize::try_from(offset), usize::try_from(length));
                let part =
                    whole.as_deref().zip(start.ok().zip(length.ok())).and_then(|(whole, (start, length))| {
                        whole.get(start..start.checked_add(length)?).map(<[u8]>::to_vec)
                    });
                let part = part.filter(|part| Hash::from(blake3::hash(part)) == blake3);
                let damaged = || HostError::File {
                    doing: "cannot put back",
                    path: path.clone(),
                    source: Errno::BADMSG.into(),
                };
                Some(part.ok_or_else(damaged)?)
            }
        };
        let full = || file_error("cannot put back", &path, ErrorKind::StorageFull);
        self.change(&format!("put back {path}"), full, |world: &mut World| {
            if let Some(machine) = world.machine_mut(&self.name) {
                match (&entry.kind, content) {
                    (Kind::Folder, _) => machine.disk.make_folder(&path, entry.mode),
                    (_, Some(content)) => machine.disk.put(path.clone(), content, entry.mode),
                    (_, None) => {}
                }
                machine.disk.set_mode(&path, entry.mode);
            }
            world.look_at_manifests(&self.name);
        })
        .await
    }

    async fn link(&self, _: &dyn Clearance, place: &Place, _: &Name) -> HostResult<()> {
        Err(file_error("cannot link", &place.display(), ErrorKind::Unsupported))
    }

    async fn set_aside(&self, _: &dyn Clearance, place: &Place, to: &Utf8Path) -> HostResult<()> {
        let path = place.display();
        let refused = || file_error("cannot move out of the way", &path, ErrorKind::PermissionDenied);
        self.change(&format!("move {path} to {to}"), refused, |world: &mut World| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.move_tree(&path, to);
            }
            world.look_at_manifests(&self.name);
        })
        .await
    }
}

fn tree(disk: &Disk, survey: &Survey) -> Tree {
    let mut tree = Tree { root: entry(disk, &survey.path, survey.depth), ..Tree::default() };
    if survey.depth == Depth::Whole {
        list(disk, survey, &Name::default(), &mut tree);
    }
    tree
}

fn list(disk: &Disk, survey: &Survey, folder: &Name, tree: &mut Tree) {
    let place = Place { root: survey.path.clone(), path: folder.clone() };
    for name in disk.list(&place.display()) {
        let name = Name::from(name.as_str());
        let path = folder.join(&name);
        if survey.leave_out.contains(&path) {
            continue;
        }
        let place = Place { root: survey.path.clone(), path: path.clone() };
        if let Some(entry) = entry(disk, &place.display(), survey.depth) {
            let is_folder = entry.kind == Kind::Folder;
            Arc::make_mut(tree.folders.entry(folder.clone()).or_default()).insert(name, entry);
            if is_folder {
                list(disk, survey, &path, tree);
            }
        }
    }
}

fn entry(disk: &Disk, path: &Utf8Path, depth: Depth) -> Option<Entry> {
    let (kind, mode, size) = match (disk.file(path), disk.folder_mode(path)) {
        (Some(file), _) => {
            let read = depth != Depth::Root;
            let blake3 = read.then(|| Hash::from(blake3::hash(&file.content)));
            (Kind::File { blake3, sparse: false }, file.mode, file.content.len() as u64)
        }
        (None, Some(mode)) => (Kind::Folder, mode, 0),
        (None, None) => return None,
    };
    let stamp = Stamp { size, ..Stamp::default() };
    Some(Entry { kind, mode, uid: 0, gid: 0, links: 1, stamp, xattrs: [].into() })
}
