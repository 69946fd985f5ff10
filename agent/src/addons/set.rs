//! The manifests of one version, as they lie on this node.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::version::KubernetesVersion;
use sha2::{Digest, Sha256};

use super::manifest::{self, Manifest};
use super::{crd, order};
use crate::host::trees::{Kind, Survey};
use crate::host::{Host, HostResult};
use crate::trust::distrust;

/// Bytes of one version's files: each object is held in memory.
const LARGEST: u64 = 8 << 20;
/// How many objects a version has: their names go into one `ConfigMap`, what becomes of them into one message.
const MOST: usize = 500;
/// How the names of files end that are read.
const ENDINGS: [&str; 3] = [".yaml", ".yml", ".json"];

/// The manifests of one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// The folder's name: `v1.20.2`, or `v1.20` for every release of a minor.
    pub name: String,
    /// SHA-256 over the files' names and contents and over how conflicts are met, lower-case hexadecimal.
    pub digest: String,
    /// In the order in which they are applied.
    pub manifests: Vec<Manifest>,
}

/// A set, or why none of it is applied: what, and what to do.
pub type Trusted = Result<Set, String>;

impl Set {
    /// The set of this name.
    pub async fn read(host: &Host, name: &str) -> HostResult<Trusted> {
        let folder = directory(host).join(name);
        if let Some(why) = distrust(host.trees.as_ref(), &host.layout, &folder).await? {
            return Ok(Err(why));
        }
        let mut names = host.files.list(&folder).await?;
        names.retain(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)));
        let mut room = LARGEST;
        let mut files = Vec::new();
        for name in names {
            match file(host, &folder.join(&name), &mut room).await? {
                Ok(text) => files.push((name, text)),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Self::of(name, &files, host.addons.take_over).map_err(|why| format!("{folder}/{why}")))
    }

    /// The set for a version: of that very release, else of its minor. `None` where there is neither.
    pub async fn of_version(host: &Host, version: KubernetesVersion) -> HostResult<Option<Trusted>> {
        let there = names(host).await?;
        let wanted = [version.to_string(), version.minor_name()];
        match wanted.into_iter().find(|name| there.contains(name)) {
            Some(name) => Self::read(host, &name).await.map(Some),
            None => Ok(None),
        }
    }

    /// The set of these files, given by name and content in the order of their names.
    fn of(name: &str, files: &[(String, String)], take_over: bool) -> Trusted {
        let mut digest = Sha256::new();
        // Whether others' fields are changed is a part of what is done.
        digest.update([u8::from(take_over)]);
        let mut manifests: Vec<Manifest> = Vec::new();
        for (file, text) in files {
            for part in [file, text] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
            manifests.extend(manifest::parse(file, text)?);
        }
        let mut seen = BTreeMap::new();
        for manifest in &manifests {
            if let Some(earlier) = seen.insert(&manifest.name, &manifest.file) {
                return Err(format!(
                    "{}: the {} stands in {earlier} too: leave it in one place",
                    manifest.file, manifest.name
                ));
            }
        }
        if manifests.is_empty() {
            return Err(": it holds no object, and everything that was applied before would be deleted: remove the folder, or \
                        put manifests there"
                .to_owned());
        }
        if manifests.len() > MOST {
            return Err(format!(": it holds {} objects, and {MOST} are allowed", manifests.len()));
        }
        manifests.sort_by_key(|manifest| order::rank(&manifest.name.kind));
        Ok(Self { name: name.to_owned(), digest: format!("{:x}", digest.finalize()), manifests })
    }

    /// Whether one of its definitions makes the API server serve a kind.
    pub fn defines(&self, api_version: &str, kind: &str) -> bool {
        self.manifests.iter().any(|manifest| crd::defines(&manifest.object, api_version, kind))
    }

    /// Whether it has a namespace of this name.
    pub fn makes_namespace(&self, name: &str) -> bool {
        self.manifests.iter().any(|manifest| manifest.name.kind == "Namespace" && manifest.name.name == name)
    }
}

/// Names of the sets that lie here: folders named after a release or a minor.
pub async fn names(host: &Host) -> HostResult<Vec<String>> {
    let mut names = host.files.list(&directory(host)).await?;
    names.retain(|name| is_name(name));
    Ok(names)
}

fn directory(host: &Host) -> Utf8PathBuf {
    host.layout.at(host.addons.directory.as_str())
}

fn is_name(name: &str) -> bool {
    let of_minor = || format!("{name}.0").parse::<KubernetesVersion>();
    let version = name.parse::<KubernetesVersion>().map(|version| version.to_string());
    let minor = of_minor().map(KubernetesVersion::minor_name);
    [version, minor].into_iter().flatten().any(|read| read == name)
}

/// What a file says, where nobody but root can have written it.
async fn file(host: &Host, path: &Utf8Path, room: &mut u64) -> HostResult<Result<String, String>> {
    if let Some(why) = distrust(host.trees.as_ref(), &host.layout, path).await? {
        return Ok(Err(why));
    }
    let Some(entry) = host.trees.survey(Survey::at(path)).await?.root else {
        return Ok(Err(format!("{path} is gone: put it back, or plan again without it")));
    };
    if !matches!(entry.kind, Kind::File { .. }) {
        return Ok(Err(format!(
            "{path} is no file: give the folder another name, or put its files beside it"
        )));
    }
    let Some(left) = room.checked_sub(entry.stamp.size) else {
        return Ok(Err(format!("{path}: the files of one version have more than {LARGEST} bytes in all")));
    };
    *room = left;
    let bytes = host.files.read(path).await?.unwrap_or_default();
    Ok(String::from_utf8(bytes).map_err(|_| format!("{path} is no text in UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x}\n";

    fn set(files: &[(&str, &str)], take_over: bool) -> Trusted {
        let files: Vec<(String, String)> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Set::of("v1.20.2", &files, take_over)
    }

    #[test]
    fn a_sets_name_is_that_of_a_release_or_of_a_minor() {
        for name in ["v1.20.2", "v1.20"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["1.20.2", "v1", "v1.20.2-old", "v1.020", "latest", ".v1.20", "v2.0"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_digest_is_of_names_contents_and_of_how_conflicts_are_met() {
        let digest = |files: &[(&str, &str)], take_over| set(files, take_over).unwrap().digest;
        let one = digest(&[("a.yaml", MAP)], false);
        assert_eq!(one, digest(&[("a.yaml", MAP)], false));
        let others = [
            digest(&[("b.yaml", MAP)], false),
            digest(&[("a.yaml", &MAP.replace("name: a", "name: b"))], false),
            digest(&[("a.yaml", MAP)], true),
            digest(&[("a.yaml", MAP), ("b.yaml", "# nothing\n")], false),
        ];
        assert!(others.iter().all(|other| *other != one), "{others:?}");
    }

    #[test]
    fn an_object_stands_once_in_a_set_and_a_set_is_never_empty() {
        let twice = set(&[("a.yaml", MAP), ("b.yaml", MAP)], false).unwrap_err();
        assert!(twice.contains("ConfigMap x/a stands in a.yaml too"), "{twice}");
        let none = set(&[("a.yaml", "# nothing\n")], false).unwrap_err();
        assert!(none.contains("would be deleted"), "{none}");
    }

    #[test]
    fn what_others_need_is_applied_first_whatever_the_files_are_called() {
        let object = |kind: &str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n");
        let files = [("a.yaml", &*object("Deployment")), ("b.yaml", &*object("Namespace"))];
        let kinds: Vec<String> =
            set(&files, false).unwrap().manifests.into_iter().map(|one| one.name.kind).collect();
        assert_eq!(kinds, ["Namespace", "Deployment"]);
    }
}
