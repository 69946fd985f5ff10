//! The catalogue's file, and what there is to say of each version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use http::Uri;
use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;

use super::{Keeper, KeeperError};
use crate::core::catalogue::{Catalogue, Checksum, Entry, OPEN};
use crate::core::planning::Refusal;
use crate::core::view::ClusterView;
use crate::identity::files::{self, FileError};

/// Most that a catalogue may hold, in bytes: a line or three a version.
const LARGEST: u64 = 1024 * 1024;

/// Where the catalogue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogueSource {
    /// In an operator's own file, whose every edit counts.
    File(PathBuf),
    /// In a copy of what somebody else keeps.
    Fetched(Fetched),
}

/// A catalogue that somebody else keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// `https://…`
    pub url: Uri,
    /// What it has to be. Another content is another catalogue, and takes another checksum.
    pub sha256: Checksum,
    /// Where it is kept once it is fetched.
    pub copy: PathBuf,
}

impl fmt::Display for CatalogueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Fetched(fetched) => write!(f, "{}", fetched.url),
        }
    }
}

impl CatalogueSource {
    /// The catalogue as it is now, or why there is none.
    fn read(&self) -> Result<Catalogue, String> {
        let text = match self {
            Self::File(path) => text_of(path),
            Self::Fetched(fetched) => {
                let copy = fetched.read().map_err(|error| error.to_string())?;
                copy.ok_or_else(|| {
                    "it has not been fetched yet: `journalctl -u liftlock` says why".to_owned()
                })
            }
        };
        Catalogue::parse(&text?).map_err(|error| error.to_string())
    }
}

/// What an operator's file says, if only those may write to it whom its owner lets: it decides what is raised to.
fn text_of(path: &Path) -> Result<String, String> {
    let failed = |error: FileError| error.source.to_string();
    let missing = || "there is no such file".to_owned();
    let found = files::found(path).map_err(failed)?.ok_or_else(missing)?;
    if !found.is_file() {
        return Err("it is no file".to_owned());
    }
    if found.mode() & 0o002 != 0 {
        return Err(format!("anybody on this machine may write to it: `chmod o-w {}`", path.display()));
    }
    let content = files::first_bytes(path, LARGEST + 1).map_err(failed)?.ok_or_else(missing)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > LARGEST) {
        return Err(format!("it has more than {LARGEST} bytes"));
    }
    String::from_utf8(content).map_err(|_| "it is no text: allowed is UTF-8".to_owned())
}

impl Fetched {
    /// The copy, if there is one and it is what it has to be.
    pub fn read(&self) -> Result<Option<String>, FileError> {
        let text = files::read(&self.copy)?;
        Ok(text.filter(|text| Checksum::of(text.as_bytes()) == self.sha256))
    }
}

/// Why a catalogue that was named does not count. Nothing is planned without it: it may say that a version is bad.
#[derive(Debug, thiserror::Error)]
#[error(
    "the catalogue {source_name} cannot be read ({why}), and nothing is raised without it: put it right, or take its name \
     out of the coordinator's configuration"
)]
pub(super) struct CatalogueUnread {
    source_name: String,
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
        let Some(source) = &self.catalogue else { return Ok(OPEN.clone()) };
        source.read().map_err(|why| CatalogueUnread { source_name: source.to_string(), why })
    }

    /// Each version that is installed, offered or on the catalogue. These nodes were asked and did not answer.
    pub fn versions(&self, silent: Vec<NodeName>) -> v1::ListVersionsResponse {
        let view = self.lock().view();
        let (catalogue, flaw) = match self.catalogue() {
            Ok(catalogue) => (catalogue, String::new()),
            Err(CatalogueUnread { why, .. }) => (OPEN.clone(), why),
        };
        let connected = |name: &NodeName| {
            let agent = view.nodes.get(name).and_then(|node| node.agent.as_ref());
            agent.is_some_and(|agent| agent.connected)
        };
        let mut silent: BTreeSet<NodeName> = silent.into_iter().collect();
        silent.extend(view.nodes.keys().filter(|name| !connected(name)).cloned());
        v1::ListVersionsResponse {
            catalogue: self.catalogue.as_ref().map(ToString::to_string).unwrap_or_default(),
            catalogue_flaw: flaw,
            nodes: view.nodes.len().try_into().unwrap_or(u32::MAX),
            silent: silent.into_iter().map(Into::into).collect(),
            versions: entries(&view, &catalogue),
        }
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
