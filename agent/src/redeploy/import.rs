//! What a system that was replaced had is brought back into the new one. The fence comes last: a system with a fence as
//! high as the export's is not touched, and an import that was cut off anywhere begins anew. Before it comes the kubelet's
//! kubeconfig: beside half of what was there no kubelet starts, and with it etcd on half of its data.

use std::mem::discriminant;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::{FencingToken, NodeName, PlanId};

use super::index::{Exported, Index, PACK};
use super::kept;
use super::record::Record;
use super::store::{Export, exports};
use crate::engine::fence;
use crate::host::trees::{Content, Entry, Kind, Name, Place, Stamp, Survey};
use crate::host::{Clearance, Host, HostError, HostResult};
use crate::protect::compare::first_names;
use crate::trust::distrust;

/// The fence's name in the agent's state.
const FENCE: &str = "fence";

/// How the name of what was moved aside ends.
const FOUND: &str = ".liftlock-found";

/// Proof that no lease as new as the export's was ever seen by this system, so that nothing is lost by writing to it.
struct Bare(());

impl Clearance for Bare {}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// There was nothing to bring back, and why.
    Nothing(String),
    /// Everything is back.
    Back {
        /// The plan under which the system was replaced.
        plan: PlanId,
        /// The lease.
        token: FencingToken,
        /// How many files, folders and links there are.
        entries: usize,
    },
}

/// Why the import stopped. It can be run again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The machine said no.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Nobody knows whether there is something to bring back.
    #[error(
        "the store {store} is not there, and this system has seen no lease: mount it, then import again; nothing was touched"
    )]
    NoStore {
        /// Where it should be.
        store: Utf8PathBuf,
    },
    /// The store is another node's.
    #[error(
        "the store {store} holds exports of {others} and none of {node}: nothing was touched; mount {node}'s own store, or \
         say with --node which node this is"
    )]
    OtherNodes {
        /// Where.
        store: Utf8PathBuf,
        /// Whose exports it holds.
        others: String,
        /// This one.
        node: NodeName,
    },
    /// The node cannot tell which leases it has seen.
    #[error(
        "the fence {path} does not read, so nobody knows whether the export is newer: nothing was touched"
    )]
    Fence {
        /// The file.
        path: Utf8PathBuf,
    },
    /// Others could have written what is in the store.
    #[error("{why}; then import again: nothing was touched")]
    Distrusted {
        /// Who, and what to do.
        why: String,
    },
    /// What was to outlive the system is not there.
    #[error(
        "{path} was to outlive the old system and is not here, or empty: mount it, then import again; nothing was touched"
    )]
    NotKept {
        /// What.
        path: Utf8PathBuf,
    },
    /// What the export has for a file is not what the file held, or nothing.
    #[error(
        "the export {folder} does not hold what was in {path}: it is damaged, and nothing more was brought back; with a whole \
         copy of it in its place, import again"
    )]
    Damaged {
        /// The export.
        folder: Utf8PathBuf,
        /// Of what.
        path: Utf8PathBuf,
    },
}

/// Brings back what the newest whole export of this node in the store holds, unless this system has seen its lease.
pub async fn import(host: &Host, node: &NodeName, store: &Utf8Path) -> Result<Imported, ImportError> {
    let seen = seen(host).await?;
    if !host.files.exists(store).await? && seen.is_none() {
        return Err(ImportError::NoStore { store: store.to_owned() });
    }
    let mut whole = Vec::new();
    for export in exports(host, store).await? {
        if export.is_whole(host).await? {
            whole.push(export);
        }
    }
    let Some(export) = whole.iter().rfind(|export| export.node == *node) else {
        let others: Vec<&str> = whole.iter().map(|export| export.node.as_str()).collect();
        // A system that has seen a lease is no new one, and may share its store.
        if others.is_empty() || seen.is_some() {
            return Ok(Imported::Nothing(format!("the store {store} holds no export of {node}")));
        }
        let (store, node) = (store.to_owned(), node.clone());
        return Err(ImportError::OtherNodes { store, others: others.join(", "), node });
    };
    if let Some(seen) = seen
        && seen >= export.token
    {
        return Ok(Imported::Nothing(format!(
            "this system has seen lease {seen}, and the export {} is of lease {}",
            export.folder, export.token
        )));
    }
    if let Some(why) = distrust(host.trees.as_ref(), &host.layout, store).await? {
        return Err(ImportError::Distrusted { why });
    }
    let index = Index::read(host, &export.folder).await?.ok_or_else(|| HostError::Malformed {
        what: format!("the export {}", export.folder),
        why: "its index is gone".to_owned(),
    })?;
    if (&index.node, index.token) != (&export.node, export.token) {
        let why = format!("its index is of lease {} on {}", index.token, index.node);
        return Err(HostError::Malformed { what: format!("the export {}", export.folder), why }.into());
    }
    for path in &index.kept {
        if !kept::is_there(host, path).await? {
            return Err(ImportError::NotKept { path: path.clone() });
        }
    }
    Import { host, export, index: &index, by: Bare(()) }.all().await
}

/// The highest lease that this system has seen.
async fn seen(host: &Host) -> Result<Option<FencingToken>, ImportError> {
    let path = host.layout.state_dir.join(FENCE);
    match host.files.read(&path).await? {
        None => Ok(None),
        Some(bytes) => fence::read(&bytes).map(Some).ok_or(ImportError::Fence { path }),
    }
}

struct Import<'a> {
    host: &'a Host,
    export: &'a Export,
    index: &'a Index,
    by: Bare,
}

impl Import<'_> {
    async fn all(&self) -> Result<Imported, ImportError> {
        for (path, entry) in &self.index.above {
            let root = self.host.layout.at(path.as_str());
            if !self.host.files.exists(&root).await? {
                self.put(&Place { root, path: Name::default() }, entry, Content::Present).await?;
            }
        }
        let last = [self.host.layout.kubelet_kubeconfig(), self.host.layout.state_dir.join(FENCE)];
        let mut held_back = [None, None];
        for exported in &self.index.trees {
            let linked = first_names(&exported.tree);
            let is_first = |path: &Name| linked.get(path).is_none_or(|first| first == path);
            for (path, entry) in exported.tree.entries().filter(|(path, _)| is_first(path)) {
                let place = self.place(exported, &path).display();
                match last.iter().zip(&mut held_back).find(|(last, _)| **last == place) {
                    Some((_, held_back)) => *held_back = Some((exported, path, entry)),
                    None => self.entry(exported, &path, entry).await?,
                }
            }
            for (path, first) in linked.iter().filter(|(path, first)| path != first) {
                self.host.trees.link(&self.by, &self.place(exported, path), first).await?;
            }
        }
        for exported in &self.index.trees {
            self.folders(exported).await?;
        }
        self.record().await?;
        for (exported, path, entry) in held_back.into_iter().flatten() {
            self.entry(exported, &path, entry).await?;
        }
        let entries = self.index.trees.iter().map(|exported| exported.tree.entries().count()).sum();
        Ok(Imported::Back { plan: self.index.plan.clone(), token: self.index.token, entries })
    }

    async fn entry(&self, exported: &Exported, path: &Name, entry: &Entry) -> Result<(), ImportError> {
        let place = self.place(exported, path);
        let damaged = || ImportError::Damaged { folder: self.export.folder.clone(), path: place.display() };
        let content = match &entry.kind {
            Kind::MountPoint if self.host.files.exists(&place.display()).await? => return Ok(()),
            // What was mounted there comes back as it came before: by whoever mounts it.
            Kind::MountPoint => {
                let folder = Entry { kind: Kind::Folder, ..entry.clone() };
                return Ok(self.put(&place, &folder, Content::Present).await?);
            }
            Kind::File { blake3, .. } => {
                let slice = blake3.and_then(|hash| Some((hash, *self.index.contents.get(&hash)?)));
                let (blake3, slice) = slice.ok_or_else(damaged)?;
                let file = self.export.folder.join(PACK);
                Content::Part { file, offset: slice.offset, length: slice.length, blake3 }
            }
            _ => Content::Present,
        };
        match self.put(&place, entry, content).await {
            Err(error) if error.is_damage() => Err(damaged()),
            put => Ok(put?),
        }
    }

    /// What was put into them has changed their times.
    async fn folders(&self, exported: &Exported) -> HostResult<()> {
        let folders: Vec<(Name, &Entry)> =
            exported.tree.entries().filter(|(_, entry)| entry.kind == Kind::Folder).collect();
        for (path, entry) in folders.into_iter().rev() {
            self.put(&self.place(exported, &path), entry, Content::Present).await?;
        }
        Ok(())
    }

    async fn record(&self) -> HostResult<()> {
        let paths = self.index.trees.iter().map(|exported| exported.path.clone()).collect();
        let record = Record { plan: self.index.plan.clone(), token: self.index.token, paths };
        let root = Record::path(&self.host.layout);
        let json = serde_json::to_vec(&record)
            .map_err(|error| HostError::Malformed { what: root.to_string(), why: error.to_string() })?;
        // Whose the state folder is.
        let folders = self.index.trees.iter().filter_map(|exported| {
            let below = root.parent()?.strip_prefix(self.host.layout.at(exported.path.as_str())).ok()?;
            exported.tree.entry(&below.as_str().into())
        });
        let (uid, gid) = folders.map(|folder| (folder.uid, folder.gid)).next().unwrap_or_default();
        let kind = Kind::File { blake3: None, sparse: false };
        let (stamp, xattrs) = (Stamp::default(), [].into());
        let entry = Entry { kind, mode: 0o600, uid, gid, links: 1, stamp, xattrs };
        self.put(&Place { root, path: Name::default() }, &entry, Content::Bytes(json)).await
    }

    async fn put(&self, place: &Place, entry: &Entry, content: Content) -> HostResult<()> {
        let trees = &self.host.trees;
        match trees.put_back(&self.by, place, entry, content.clone()).await {
            Err(_) if self.gave_way(place, entry).await? => {
                trees.put_back(&self.by, place, entry, content).await
            }
            put => put,
        }
    }

    /// Moves what the image has at a place aside, where it is of another kind than what comes there.
    async fn gave_way(&self, place: &Place, entry: &Entry) -> HostResult<bool> {
        let path = place.display();
        let there = self.host.trees.survey(Survey::at(&*path)).await?.root;
        let gives_way = there.is_some_and(|there| discriminant(&there.kind) != discriminant(&entry.kind));
        if gives_way {
            // Hidden: a kubelet takes no such file for a static pod.
            let aside = path.with_file_name(format!(".{}{FOUND}", path.file_name().unwrap_or_default()));
            self.host.trees.set_aside(&self.by, place, &aside).await?;
        }
        Ok(gives_way)
    }

    fn place(&self, exported: &Exported, path: &Name) -> Place {
        Place { root: self.host.layout.at(exported.path.as_str()), path: path.clone() }
    }
}
