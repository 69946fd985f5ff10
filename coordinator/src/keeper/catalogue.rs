//! The catalogue's file, and what there is to say of each version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;

use super::{Keeper, KeeperError};
use crate::core::catalogue::{Catalogue, Entry, OPEN};
use crate::core::planning::Refusal;
use crate::core::view::ClusterView;
use crate::identity::files;

/// Why a catalogue that was named does not count. Nothing is planned without it: it may say that a version is bad.
#[derive(Debug, thiserror::Error)]
#[error(
    "the catalogue {} cannot be read ({why}), and nothing is raised without it: put it right, or take its name out of the \
     coordinator's configuration", path.display()
)]
pub(super) struct CatalogueUnread {
    path: PathBuf,
    why: String,
}

impl From<CatalogueUnread> for Refusal {
    fn from(unread: CatalogueUnread) -> Self {
        Self { rule: "catalogue-unread", message: unread.to_string(), acceptable: false }
    }
}

impl From<CatalogueUnread> for KeeperError {
    fn from(unread: CatalogueUnread) -> Self {
        Self::NotNow(unread.to_string())
    }
}

impl Keeper {
    /// The catalogue as it is now.
    pub(super) fn catalogue(&self) -> Result<Catalogue, CatalogueUnread> {
        let Some(path) = &self.catalogue else { return Ok(OPEN.clone()) };
        read(path).map_err(|why| CatalogueUnread { path: path.clone(), why })
    }

    /// Each version that is installed, offered or on the catalogue. These nodes were asked and did not answer.
    pub fn versions(&self, silent: Vec<NodeName>) -> v1::ListVersionsResponse {
        let view = self.lock().view();
        let (catalogue, flaw) = match self.catalogue() {
            Ok(catalogue) => (catalogue, String::new()),
            Err(CatalogueUnread { why, .. }) => (OPEN.clone(), why),
        };
        let path = self.catalogue.as_ref().map(|path| path.display().to_string());
        let connected = |name: &NodeName| {
            let agent = view.nodes.get(name).and_then(|node| node.agent.as_ref());
            agent.is_some_and(|agent| agent.connected)
        };
        let mut silent: BTreeSet<NodeName> = silent.into_iter().collect();
        silent.extend(view.nodes.keys().filter(|name| !connected(name)).cloned());
        v1::ListVersionsResponse {
            catalogue: path.unwrap_or_default(),
            catalogue_flaw: flaw,
            nodes: view.nodes.len().try_into().unwrap_or(u32::MAX),
            silent: silent.into_iter().map(Into::into).collect(),
            versions: entries(&view, &catalogue),
        }
    }
}

/// The catalogue in a file, or why there is none.
fn read(path: &Path) -> Result<Catalogue, String> {
    match files::read(path) {
        Ok(Some(text)) => Catalogue::parse(&text).map_err(|error| error.to_string()),
        Ok(None) => Err("there is no such file".to_owned()),
        Err(error) => Err(error.source.to_string()),
    }
}

/// One for each version that anybody speaks of, the oldest first.
fn entries(view: &ClusterView, catalogue: &Catalogue) -> Vec<v1::VersionEntry> {
    let mut entries: BTreeMap<KubernetesVersion, v1::VersionEntry> =
        catalogue.entries().map(|(version, _)| (version, v1::VersionEntry::default())).collect();
    for (name, node) in &view.nodes {
        if let Some(version) = node.kubelet_version() {
            entries.entry(version).or_default().kubelets.push(name.to_string());
        }
        let Some(agent) = &node.agent else { continue };
        if let Some(version) = agent.control_plane_version {
            entries.entry(version).or_default().control_planes.push(name.to_string());
        }
        for version in agent.offered.iter().copied().collect::<BTreeSet<_>>() {
            entries.entry(version).or_default().offered_by += 1;
        }
    }
    let told = |(version, mut entry): (KubernetesVersion, v1::VersionEntry)| {
        entry.version = version.to_string();
        match catalogue.entry(version) {
            Some(Entry::Approved { notes, required_stop }) => {
                entry.set_standing(v1::VersionStanding::Approved);
                entry.text.clone_from(notes);
                entry.required_stop = *required_stop;
            }
            Some(Entry::KnownBad { why }) => {
                entry.set_standing(v1::VersionStanding::KnownBad);
                entry.text.clone_from(why);
            }
            None if catalogue.is_open() => {}
            None => entry.set_standing(v1::VersionStanding::OffCatalogue),
        }
        entry
    };
    entries.into_iter().map(told).collect()
}
