//! The host's view of a node's disk.

use std::io::ErrorKind;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};

use super::children::file_error;
use super::disk::File;
use super::fault::Fault;
use super::node::NodeTwin;
use super::world::World;
use crate::backup::digest::FileDigest;
use crate::engine::lease::Permit;
use crate::host::{
    ChunkSink, Clearance, CopiedFile, Files, HostResult, Inspection, NewFile, RandomAccess, Space,
};

impl NodeTwin {
    /// Puts a file, if its folder is there.
    async fn put(&self, path: &Utf8Path, file: File) -> HostResult<()> {
        let folder = path.parent().unwrap_or(path);
        if self.machine(|machine| machine.disk.folder_mode(folder).is_none())? {
            return Err(file_error("cannot write", path, ErrorKind::NotFound));
        }
        let full = || file_error("cannot write", path, ErrorKind::StorageFull);
        self.change(&format!("write {path}"), full, |world| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.put(path, file.content, file.mode);
                // In one rename, and durable: what lay there before is no more to be lost.
                machine.unsynced.remove(path.as_str());
            }
            world.look_at_manifests(&self.name);
        })
        .await
    }

    /// Copies a file under the name that it is to have: what cuts that off leaves a part of it.
    async fn copy(&self, path: &Utf8Path, file: File) -> HostResult<()> {
        let dead = self.machine(|machine| machine.agent_is_dead)?;
        let fault = self.strike(&format!("write {path}"));
        let arrives = if fault.is_some() { file.content.len() / 2 } else { file.content.len() };
        let content = file.content.get(..arrives).unwrap_or_default().to_vec();
        if !dead {
            self.world(|world| {
                if let Some(machine) = world.machine_mut(&self.name) {
                    machine.disk.put(path, content, file.mode);
                }
                world.look_at_manifests(&self.name);
            });
        }
        match fault {
            None => Ok(()),
            Some(Fault::Fails | Fault::ChildDies) => {
                Err(file_error("cannot write", path, ErrorKind::StorageFull))
            }
            Some(Fault::AgentDies | Fault::PowerFails) => std::future::pending().await,
        }
    }

    fn file(&self, path: &Utf8Path) -> HostResult<File> {
        let file = self.machine(|machine| machine.disk.file(path).cloned())?;
        file.ok_or_else(|| file_error("cannot read", path, ErrorKind::NotFound))
    }
}

#[async_trait]
impl Files for NodeTwin {
    async fn read(&self, path: &Utf8Path) -> HostResult<Option<Vec<u8>>> {
        self.machine(|machine| machine.disk.read(path).map(<[u8]>::to_vec))
    }

    async fn stream(&self, path: &Utf8Path, sink: &mut dyn ChunkSink) -> HostResult<bool> {
        let Some(content) = self.read(path).await? else {
            return Ok(false);
        };
        for chunk in content.chunks(700) {
            sink.chunk(chunk).await?;
        }
        Ok(true)
    }

    async fn list(&self, path: &Utf8Path) -> HostResult<Vec<String>> {
        self.machine(|machine| machine.disk.list(path))
    }

    async fn exists(&self, path: &Utf8Path) -> HostResult<bool> {
        self.machine(|machine| machine.disk.exists(path))
    }

    async fn space(&self, path: &Utf8Path) -> HostResult<Space> {
        self.machine(|machine| machine.space(path))
    }

    async fn size_of_tree(&self, path: &Utf8Path) -> HostResult<u64> {
        self.machine(|machine| machine.disk.size(path))
    }

    async fn make_durable(&self, path: &Utf8Path) -> HostResult<()> {
        self.machine(|machine| {
            machine.unsynced.retain(|unsynced, _| !Utf8Path::new(unsynced).starts_with(path));
        })
    }

    async fn write(&self, _: &Permit, path: &Utf8Path, content: &[u8], mode: u32) -> HostResult<()> {
        self.put(path, File { content: content.into(), mode }).await
    }

    async fn rewrite(&self, permit: &Permit, path: &Utf8Path, content: &[u8]) -> HostResult<()> {
        let mode = self.file(path)?.mode;
        self.write(permit, path, content, mode).await
    }

    async fn install_program(&self, _: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<()> {
        self.put(to, File { mode: 0o755, ..self.file(from)? }).await
    }

    async fn create_dir(&self, _: &Permit, path: &Utf8Path, mode: u32) -> HostResult<()> {
        if self.machine(|machine| machine.disk.folder_mode(path).is_some())? {
            return Ok(());
        }
        let full = || file_error("cannot make", path, ErrorKind::StorageFull);
        self.change(&format!("make {path}"), full, |world: &mut World| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.make_folder(path, mode);
            }
        })
        .await
    }

    async fn copy_tree(
        &self,
        permit: &Permit,
        from: &Utf8Path,
        to: &Utf8Path,
    ) -> HostResult<Vec<CopiedFile>> {
        let files = self.machine(|machine| machine.disk.below(from))?;
        let mut copied = Vec::new();
        for (path, file) in files {
            let Ok(rest) = path.strip_prefix(from) else {
                continue;
            };
            let target = if rest.as_str().is_empty() { to.to_owned() } else { to.join(rest) };
            self.create_dir(permit, target.parent().unwrap_or(&target), 0o700).await?;
            let digest = FileDigest::of(&file.content);
            copied.push(CopiedFile { path: rest.to_owned(), size: digest.size, sha256: digest.sha256 });
            self.copy(&target, file).await?;
        }
        Ok(copied)
    }

    async fn take(&self, from: &Utf8Path, to: &Utf8Path) -> HostResult<Option<CopiedFile>> {
        let Some(content) = self.read(from).await? else {
            return Ok(None);
        };
        let digest = FileDigest::of(&content);
        let full = || file_error("cannot write", to, ErrorKind::StorageFull);
        self.change(&format!("take {from}"), full, |world: &mut World| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.put(to, &content, 0o600);
            }
        })
        .await?;
        Ok(Some(CopiedFile { path: Utf8PathBuf::new(), size: digest.size, sha256: digest.sha256 }))
    }

    async fn discard(&self, taken: &Utf8Path) -> HostResult<()> {
        if !self.exists(taken).await? {
            return Ok(());
        }
        let refused = || file_error("cannot remove", taken, ErrorKind::PermissionDenied);
        self.change(&format!("discard {taken}"), refused, |world: &mut World| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.remove(taken);
            }
        })
        .await
    }

    async fn restore_file(&self, _: &Permit, from: &Utf8Path, to: &Utf8Path) -> HostResult<()> {
        self.put(to, self.file(from)?).await
    }

    async fn remove_file(&self, _: &Permit, path: &Utf8Path) -> HostResult<()> {
        if !self.exists(path).await? {
            return Ok(());
        }
        let refused = || file_error("cannot remove", path, ErrorKind::PermissionDenied);
        self.change(&format!("remove {path}"), refused, |world| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.remove(path);
            }
            world.look_at_manifests(&self.name);
        })
        .await
    }

    async fn remove_tree(&self, _: &dyn Clearance, path: &Utf8Path) -> HostResult<()> {
        if !self.exists(path).await? {
            return Ok(());
        }
        let refused = || file_error("cannot remove", path, ErrorKind::PermissionDenied);
        self.change(&format!("remove all of {path}"), refused, |world| {
            if let Some(machine) = world.machine_mut(&self.name) {
                machine.disk.remove_tree(path);
            }
        })
        .await
    }

    async fn files_below(&self, path: &Utf8Path) -> HostResult<Vec<Utf8PathBuf>> {
        let files = self.machine(|machine| machine.disk.below(path))?;
        let relative = files.iter().filter_map(|(file, _)| file.strip_prefix(path).ok());
        Ok(relative.filter(|file| !file.as_str().is_empty()).map(Utf8Path::to_owned).collect())
    }

    async fn inspect(&self, path: &Utf8Path, inspect: Inspection) -> HostResult<bool> {
        let Some(mut content) = self.read(path).await? else {
            return Ok(false);
        };
        inspect(&mut content);
        Ok(true)
    }

    async fn create(&self, _: &Permit, path: &Utf8Path) -> HostResult<Box<dyn NewFile>> {
        Ok(Box::new(Unfinished { twin: self.clone(), path: path.to_owned(), content: Vec::new() }))
    }
}

impl RandomAccess for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.get(start..start.saturating_add(buffer.len())).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file that has no name yet. Nothing of it is left when the agent dies.
struct Unfinished {
    twin: NodeTwin,
    path: Utf8PathBuf,
    content: Vec<u8>,
}

#[async_trait]
impl NewFile for Unfinished {
    async fn write(&mut self, bytes: &[u8]) -> HostResult<()> {
        let full = || file_error("cannot write", &self.path, ErrorKind::StorageFull);
        self.twin.change(&format!("write a part of {}", self.path), full, |_| ()).await?;
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> HostResult<()> {
        self.twin.put(&self.path, File { content: self.content.into(), mode: 0o600 }).await
    }
}
