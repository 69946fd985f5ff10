//! What is not as it was sealed, and what can be done about it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::PlanId;

use super::class::Class;
use super::compare::{self, Difference, Differences};
use super::manifest::{Manifest, Protected, Slice, look};
use super::rules::Rules;
use super::{kubeadms, logs};
use crate::host::trees::{Entry, Hash, Kind, Name, PART, Place, Tree};
use crate::host::{Host, HostResult};
use crate::redeploy::record::Record;

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Absolute, as on a real node; not to be opened.
    pub path: Utf8PathBuf,
    /// Where it lies.
    pub place: Place,
    /// In what it differs.
    pub differences: BTreeSet<Difference>,
    /// What can be done.
    pub cure: Cure,
}

/// What can be done about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cure {
    /// Its content and all else is put back.
    Content(Entry, Hash, Slice),
    /// Its metadata are put back; for what is no file, all there is.
    Metadata(Entry),
    /// It is made another name of this file in its tree.
    Link(Name),
    /// It is moved into the backup folder.
    Aside,
    /// It is right once the others are, to which it was linked.
    Follows,
    /// Nothing, and why.
    None(&'static str),
}

const TOO_LARGE: &str = "its tree is too large for copies, so there is none";
const CAME: &str = "nothing of its tree was copied, so nothing is moved out of it";

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differences: Vec<String> = self.differences.iter().map(ToString::to_string).collect();
        write!(f, "{} ({}", self.path, differences.join(", "))?;
        if let Cure::None(why) = self.cure {
            write!(f, "; {why}")?;
        }
        write!(f, ")")
    }
}

impl Finding {
    /// Whether something can be done about it.
    pub fn is_curable(&self) -> bool {
        !matches!(self.cure, Cure::Follows | Cure::None(_))
    }
}

/// Compares every protected path with the manifest. What the rules as they are now let change is not told: an operator
/// may have said so since. `plan` is the one under which the manifest was taken: what came back into a new system under
/// it is another folder on another mount, and no finding for that.
pub async fn find(
    host: &Host,
    plan: &PlanId,
    rules: &Rules,
    manifest: &Manifest,
) -> HostResult<Vec<Finding>> {
    let mut findings = Vec::new();
    let came_back = Record::read(host).await?.filter(|record| record.plan == *plan);
    for tree in &manifest.trees {
        match rules.class_of(&tree.path).unwrap_or(tree.class) {
            Class::Except => {}
            Class::Sealed | Class::Managed if tree.class.is_compared() => {
                findings.extend(sealed(host, rules, manifest, tree).await?);
            }
            // Also where somebody has sealed it since: nobody knows what it was.
            Class::Live | Class::Sealed | Class::Managed => {
                let moved = came_back.as_ref().is_some_and(|record| record.has(&tree.path));
                findings.extend(in_use(host, rules, tree, moved).await?);
            }
        }
    }
    Ok(findings)
}

async fn sealed(
    host: &Host,
    rules: &Rules,
    manifest: &Manifest,
    tree: &Protected,
) -> HostResult<Vec<Finding>> {
    let now = look(host, rules, &tree.path, tree.class, Some(Arc::clone(&tree.tree))).await?;
    let others: Vec<Name> =
        rules.below(&tree.path).into_iter().chain(others_in(manifest, &tree.path)).collect();
    let skip = |path: &Name| {
        others.iter().any(|other| path.is_within(other))
            || (tree.class == Class::Managed && kubeadms::owns(path))
    };
    let differences = compare::sealed(&tree.tree, &now, skip);
    let cures = Cures { manifest, tree, now: &now, differences: &differences };
    let finding = |(path, found): (&Name, &BTreeSet<Difference>)| Finding {
        path: at(&tree.path, path),
        place: Place { root: host.layout.at(tree.path.as_str()), path: path.clone() },
        differences: found.clone(),
        cure: cures.of(path, found),
    };
    Ok(differences.iter().map(finding).collect())
}

/// What had a rule of its own when the manifest was taken.
fn others_in<'a>(manifest: &'a Manifest, path: &'a Utf8Path) -> impl Iterator<Item = Name> + 'a {
    let below = manifest.trees.iter().filter_map(move |tree| tree.path.strip_prefix(path).ok());
    below.filter(|rest| !rest.as_str().is_empty()).map(|rest| rest.as_str().into())
}

async fn in_use(host: &Host, rules: &Rules, tree: &Protected, moved: bool) -> HostResult<Option<Finding>> {
    let now = look(host, rules, &tree.path, Class::Live, None).await?;
    let place = Place { root: host.layout.at(tree.path.as_str()), path: Name::default() };
    let was_log = match &tree.tree.root {
        Some(Entry { kind: Kind::File { blake3: Some(hash), .. }, stamp, .. }) => Some((stamp.size, *hash)),
        _ => None,
    };
    let difference = compare::live(&tree.tree, &now)
        .filter(|found| !(moved && matches!(found, Difference::Mount | Difference::Replaced)));
    let difference = match (difference, was_log) {
        (None | Some(Difference::Gone), Some((size, hash))) => {
            let held = logs::hold(host, &place.root, size, hash).await?;
            (!held).then_some(if now.root.is_some() { Difference::Rewritten } else { Difference::Gone })
        }
        (difference, _) => difference,
    };
    Ok(difference.map(|difference| Finding {
        path: tree.path.clone(),
        place,
        differences: [difference].into(),
        cure: Cure::None("it is in use, so nobody copies it"),
    }))
}

fn at(root: &Utf8Path, path: &Name) -> Utf8PathBuf {
    Place { root: root.to_owned(), path: path.clone() }.display()
}

/// What can be done about the differences of one tree.
struct Cures<'a> {
    manifest: &'a Manifest,
    tree: &'a Protected,
    now: &'a Tree,
    differences: &'a Differences,
}

impl Cures<'_> {
    fn of(&self, path: &Name, found: &BTreeSet<Difference>) -> Cure {
        let Some(entry) = self.tree.tree.entry(path) else {
            let is_ours = path.split().is_some_and(|(_, name)| name.as_bytes() == PART.as_bytes());
            return match path.as_bytes() {
                [] => Cure::None("nothing was there"),
                _ if self.tree.kept || is_ours => Cure::Aside,
                _ => Cure::None(CAME),
            };
        };
        if found.contains(&Difference::Type) && !self.tree.kept {
            return Cure::None(TOO_LARGE);
        }
        let metadata = [Difference::Owner, Difference::Mode, Difference::Attributes, Difference::Time];
        match &entry.kind {
            Kind::MountPoint => Cure::None("something was mounted there"),
            Kind::File { .. } if found.iter().all(|difference| metadata.contains(difference)) => {
                Cure::Metadata(entry.clone())
            }
            Kind::File { blake3, .. } => self.of_content(path, entry, *blake3),
            _ => Cure::Metadata(entry.clone()),
        }
    }

    fn of_content(&self, path: &Name, entry: &Entry, hash: Option<Hash>) -> Cure {
        let names = compare::first_names(&self.tree.tree);
        if let Some(first) = names.get(path) {
            let mut group = names.iter().filter(|(_, its)| *its == first).map(|(name, _)| name);
            // The one that nobody wrote to, if there is one; otherwise the one that is put back from the copy.
            let source = group.find(|name| self.is_intact(name)).unwrap_or(first);
            if source == path && self.is_intact(path) {
                return Cure::Follows;
            }
            if source != path && (self.tree.kept || self.is_intact(source)) {
                return Cure::Link(source.clone());
            }
        }
        let slice = hash.and_then(|hash| Some((hash, *self.manifest.contents.get(&hash)?)));
        match slice {
            Some((hash, slice)) if self.tree.kept => Cure::Content(entry.clone(), hash, slice),
            _ => Cure::None(TOO_LARGE),
        }
    }

    /// Whether a file's content is what it was.
    fn is_intact(&self, path: &Name) -> bool {
        let changed = [Difference::Gone, Difference::Type, Difference::Content];
        self.now.entry(path).is_some()
            && !self.differences.get(path).is_some_and(|found| found.iter().any(|one| changed.contains(one)))
    }
}
