//! A folder with packages and images, put on the node before: nothing comes over a network.
//!
//! `SHA256SUMS` in it lists what may be used, as `sha256sum` writes it. Nothing that is not listed is used, and every file is
//! compared with the list right before each use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::KUBERNETES_PACKAGES;
use liftlock_proto::packages::PackageManager;
use liftlock_proto::version::KubernetesVersion;

use super::checksum::sha256_of;
use crate::host::{Files, HostError, HostResult, Layout};

/// The list.
const LIST: &str = "SHA256SUMS";

/// The folder.
pub(super) struct Directory {
    files: Arc<dyn Files>,
    /// On this machine.
    path: Utf8PathBuf,
    manager: PackageManager,
}

/// The archives of images for a version in a node's folder; `None` where it has no folder.
pub(super) async fn archives_in(
    directory: Option<&Directory>,
    version: KubernetesVersion,
) -> HostResult<Option<Vec<Utf8PathBuf>>> {
    match directory {
        Some(directory) => directory.image_archives(version).await.map(Some),
        None => Ok(None),
    }
}

/// A program of Kubernetes as a file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    /// `kubeadm`
    name: String,
    /// In the package manager's spelling: `1.31.2-1.1`; without a package `1.31.2`.
    version: String,
    /// Relative to the folder.
    file: String,
}

impl Directory {
    pub(super) fn new(files: Arc<dyn Files>, path: Utf8PathBuf, manager: PackageManager) -> Self {
        Self { files, path, manager }
    }

    /// The folder's path as on a real node.
    pub(super) fn on_node(&self, layout: &Layout) -> Utf8PathBuf {
        layout.on_node(&self.path)
    }

    /// SHA-256 by file, as the list has them.
    async fn listed(&self) -> HostResult<BTreeMap<String, String>> {
        let path = self.path.join(LIST);
        let malformed = |why: String| HostError::Malformed { what: format!("the list {path}"), why };
        let Some(text) = self.files.read(&path).await? else {
            return Err(malformed(
                "it is not there: put packages and images into the folder and list them with `sha256sum`"
                    .to_owned(),
            ));
        };
        parse(&String::from_utf8_lossy(&text)).map_err(malformed)
    }

    async fn offers(&self) -> HostResult<Vec<Offer>> {
        let listed = self.listed().await?;
        Ok(listed.keys().filter_map(|file| offer(self.manager, file)).collect())
    }

    /// The Kubernetes versions of which all three programs are listed, oldest first.
    pub(super) async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        let offers = self.offers().await?;
        let of = |name: &str| -> BTreeSet<KubernetesVersion> {
            let named = offers.iter().filter(|offer| offer.name == name);
            named.filter_map(|offer| kubernetes_version(&offer.version)).collect()
        };
        let all = KUBERNETES_PACKAGES.into_iter().map(of).reduce(|all, one| &all & &one);
        Ok(all.unwrap_or_default().into_iter().collect())
    }

    /// The files of these programs at a Kubernetes version, each verified.
    pub(super) async fn at_version(
        &self,
        names: &[&str],
        version: KubernetesVersion,
    ) -> HostResult<Vec<Utf8PathBuf>> {
        let wanted: Vec<(String, String)> =
            names.iter().map(|name| ((*name).to_owned(), version.bare())).collect();
        self.verified_offers(&wanted, |offer, _| kubernetes_version(&offer.version) == Some(version)).await
    }

    /// The files of exact package versions such as (`kubeadm`, `1.30.4-1.1`), each verified.
    pub(super) async fn exact(&self, packages: &[(String, String)]) -> HostResult<Vec<Utf8PathBuf>> {
        self.verified_offers(packages, |offer, version| offer.version == version).await
    }

    /// Archives of images for a version: files that are called `….tar` and have the version in their names.
    pub(super) async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Vec<Utf8PathBuf>> {
        let listed = self.listed().await?;
        let mut archives = Vec::new();
        for (file, sum) in &listed {
            if is_archive_of(file, version) {
                archives.push(self.verified(file, sum).await?);
            }
        }
        Ok(archives)
    }

    async fn verified_offers(
        &self,
        wanted: &[(String, String)],
        fits: impl Fn(&Offer, &str) -> bool,
    ) -> HostResult<Vec<Utf8PathBuf>> {
        let listed = self.listed().await?;
        let offers: Vec<Offer> = listed.keys().filter_map(|file| offer(self.manager, file)).collect();
        let mut found = Vec::new();
        for (name, version) in wanted {
            // Of several builds of one version the last one by name.
            let offer = offers.iter().rfind(|offer| offer.name == *name && fits(offer, version));
            let Some(offer) = offer else {
                return Err(HostError::Malformed {
                    what: format!("{name} {version}"),
                    why: format!(
                        "{} lists no such {}: expected a line for {}; put the file there and list it",
                        self.path.join(LIST),
                        if self.manager == PackageManager::Files { "program" } else { "package" },
                        spelled(self.manager, name, version),
                    ),
                });
            };
            found.push(self.verified(&offer.file, listed.get(&offer.file).map_or("", String::as_str)).await?);
        }
        Ok(found)
    }

    /// The file, whose content is what the list says.
    async fn verified(&self, file: &str, expected: &str) -> HostResult<Utf8PathBuf> {
        let path = self.path.join(file);
        let refused = |why: String| HostError::Malformed { what: format!("the file {path}"), why };
        match sha256_of(self.files.as_ref(), &path).await? {
            None => Err(refused(format!("it is not there, and {LIST} lists it with SHA-256 {expected}"))),
            Some(found) if found != expected => Err(refused(format!(
                "its SHA-256 is {found}, and {LIST} says {expected}: put the right file there"
            ))),
            Some(_) => Ok(path),
        }
    }
}

/// SHA-256 by file: `DIGEST  NAME` or `DIGEST *NAME`, one a line.
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut listed = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let refuse = |why: &str| format!("line {number}, {line:?}: {why}");
        let (sum, name) = line
            .split_once(' ')
            .ok_or_else(|| refuse("it is not `SHA-256  name`, as sha256sum writes it"))?;
        let name = name.strip_prefix([' ', '*']).unwrap_or(name);
        let name = name.strip_prefix("./").unwrap_or(name);
        if sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refuse("it begins with no SHA-256 of 64 hexadecimal digits"));
        }
        let stays = |part: Utf8Component<'_>| matches!(part, Utf8Component::Normal(_));
        if name.is_empty() || !Utf8Path::new(name).components().all(stays) {
            return Err(refuse("the name has to be that of a file in this folder or below it"));
        }
        let sum = sum.to_ascii_lowercase();
        if listed.insert(name.to_owned(), sum.clone()).is_some_and(|earlier| earlier != sum) {
            return Err(refuse("the file is listed twice, with two sums"));
        }
    }
    Ok(listed)
}

/// What a file is, by its name.
fn offer(manager: PackageManager, file: &str) -> Option<Offer> {
    let base = file.rsplit('/').next()?;
    let (name, version) = match manager {
        PackageManager::Apt => {
            let mut fields = base.strip_suffix(".deb")?.split('_');
            // apt writes the colon of an epoch as %3a.
            (fields.next()?, fields.next()?.replace("%3a", ":"))
        }
        PackageManager::Dnf => {
            let (rest, _architecture) = base.strip_suffix(".rpm")?.rsplit_once('.')?;
            let (rest, release) = rest.rsplit_once('-')?;
            let (name, version) = rest.rsplit_once('-')?;
            (name, format!("{version}-{release}"))
        }
        PackageManager::Files => {
            let (name, version) = match base.split_once("-v") {
                Some((name, version)) => (name, version),
                None => {
                    (base, file.strip_suffix(base)?.strip_suffix('/')?.rsplit('/').next()?.strip_prefix('v')?)
                }
            };
            version.parse::<KubernetesVersion>().ok()?;
            (name, version.to_owned())
        }
    };
    KUBERNETES_PACKAGES.contains(&name).then(|| Offer {
        name: name.to_owned(),
        version,
        file: file.to_owned(),
    })
}

/// How the file of a program may be called.
fn spelled(manager: PackageManager, name: &str, version: &str) -> String {
    match manager {
        PackageManager::Apt if version.contains('-') => format!("{name}_{version}_ARCHITECTURE.deb"),
        PackageManager::Apt => format!("{name}_{version}-BUILD_ARCHITECTURE.deb"),
        PackageManager::Dnf if version.contains('-') => format!("{name}-{version}.ARCHITECTURE.rpm"),
        PackageManager::Dnf => format!("{name}-{version}-BUILD.ARCHITECTURE.rpm"),
        PackageManager::Files => format!("{name}-v{version} or v{version}/{name}"),
    }
}

fn is_archive_of(file: &str, version: KubernetesVersion) -> bool {
    let version = version.to_string();
    let ends = |(_, rest): (usize, &str)| {
        let rest = rest.strip_prefix(version.as_str()).unwrap_or(rest);
        !rest.starts_with(|letter: char| letter.is_ascii_digit())
    };
    let places = || file.match_indices(version.as_str()).filter_map(|(at, _)| Some((at, file.get(at..)?)));
    Utf8Path::new(file).extension() == Some("tar") && places().any(ends)
}

/// The Kubernetes version in a package's version.
fn kubernetes_version(version: &str) -> Option<KubernetesVersion> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{Shape, Twin};

    const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);
    const PATH: &str = "/var/lib/liftlock/offline";

    fn twin() -> Twin {
        let version = KubernetesVersion::new(1, 30, 4);
        Twin::new(Shape { control_planes: 1, workers: 0, version, offered: TO })
    }

    fn put(twin: &Twin, name: &str, content: &str) -> String {
        twin.world()
            .change("cp1", |machine| machine.disk.put(format!("{PATH}/{name}"), content, 0o644))
            .unwrap();
        format!("{}  {name}\n", crate::backup::digest::FileDigest::of(content.as_bytes()).sha256)
    }

    fn directory(twin: &Twin, manager: PackageManager) -> Directory {
        Directory::new(twin.host("cp1").files, PATH.into(), manager)
    }

    fn with_packages() -> Twin {
        let twin = twin();
        let mut list = String::new();
        for name in ["kubeadm", "kubelet", "kubectl"] {
            for version in ["1.30.4", "1.31.2"] {
                list.push_str(&put(
                    &twin,
                    &format!("{name}_{version}-1.1_amd64.deb"),
                    &format!("{name} {version}"),
                ));
            }
        }
        list += &put(&twin, "images-v1.31.2.tar", "images");
        list += &put(&twin, "images-v1.31.20.tar", "later images");
        put(&twin, "kubeadm_1.32.0-1.1_amd64.deb", "nobody listed it");
        put(&twin, "SHA256SUMS", &list);
        twin
    }

    fn why<T: std::fmt::Debug>(twin: &Twin, ask: impl Future<Output = HostResult<T>>) -> String {
        twin.drive(ask).done().unwrap().unwrap_err().to_string()
    }

    #[test]
    fn what_is_listed_is_offered_and_found_and_nothing_else_is() {
        let twin = with_packages();
        let directory = directory(&twin, PackageManager::Apt);
        let offered = twin.drive(directory.offered()).done().unwrap().unwrap();
        assert_eq!(offered, [KubernetesVersion::new(1, 30, 4), TO]);
        let found = twin.drive(directory.at_version(&["kubelet", "kubectl"], TO)).done().unwrap().unwrap();
        let expected = ["kubelet", "kubectl"].map(|name| format!("{PATH}/{name}_1.31.2-1.1_amd64.deb"));
        assert_eq!(found, expected);
        let archives = twin.drive(directory.image_archives(TO)).done().unwrap().unwrap();
        assert_eq!(archives, [format!("{PATH}/images-v1.31.2.tar")]);
        let unlisted = KubernetesVersion::new(1, 32, 0);
        let why = why(&twin, directory.at_version(&["kubeadm"], unlisted));
        assert!(
            why.contains("kubeadm 1.32.0") && why.contains("kubeadm_1.32.0-BUILD_ARCHITECTURE.deb"),
            "{why}"
        );
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_refused_with_its_name_and_both_sums() {
        let twin = with_packages();
        let directory = directory(&twin, PackageManager::Apt);
        let file = format!("{PATH}/kubeadm_1.31.2-1.1_amd64.deb");
        put(&twin, "kubeadm_1.31.2-1.1_amd64.deb", "another");
        let sum = |content: &str| crate::backup::digest::FileDigest::of(content.as_bytes()).sha256;
        let wrong = why(&twin, directory.at_version(&["kubeadm"], TO));
        for said in [file.as_str(), sum("another").as_str(), sum("kubeadm 1.31.2").as_str()] {
            assert!(wrong.contains(said), "{wrong}");
        }
        twin.world().change("cp1", |machine| machine.disk.remove(Utf8Path::new(&file))).unwrap();
        let exact = [("kubeadm".to_owned(), "1.31.2-1.1".to_owned())];
        let missing = why(&twin, directory.exact(&exact));
        assert!(missing.contains("it is not there") && missing.contains(&sum("kubeadm 1.31.2")), "{missing}");
        twin.world()
            .change("cp1", |machine| machine.disk.remove(Utf8Path::new(&format!("{PATH}/SHA256SUMS"))))
            .unwrap();
        assert!(why(&twin, directory.offered()).contains("SHA256SUMS: it is not there"));
    }

    #[test]
    fn the_names_of_packages_and_programs_tell_what_they_are() {
        let of = |manager, file| offer(manager, file).map(|offer| (offer.name, offer.version));
        let is = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(of(PackageManager::Apt, "kubeadm_1.31.2-1.1_amd64.deb"), is("kubeadm", "1.31.2-1.1"));
        assert_eq!(
            of(PackageManager::Apt, "a/kubelet_0%3a1.31.2-1.1_arm64.deb"),
            is("kubelet", "0:1.31.2-1.1")
        );
        assert_eq!(
            of(PackageManager::Dnf, "kubectl-1.31.2-150500.1.1.x86_64.rpm"),
            is("kubectl", "1.31.2-150500.1.1")
        );
        assert_eq!(of(PackageManager::Files, "kubeadm-v1.31.2"), is("kubeadm", "1.31.2"));
        assert_eq!(of(PackageManager::Files, "bin/v1.31.2/kubelet"), is("kubelet", "1.31.2"));
        for (manager, file) in [
            (PackageManager::Apt, "cri-tools_1.31.1-1.1_amd64.deb"),
            (PackageManager::Apt, "kubeadm-1.31.2-1.x86_64.rpm"),
            (PackageManager::Dnf, "kubeadm.rpm"),
            (PackageManager::Files, "kubeadm"),
            (PackageManager::Files, "kubeadm-v1"),
            (PackageManager::Files, "v1.31.2/etcd"),
        ] {
            assert_eq!(of(manager, file), None, "{file}");
        }
    }

    #[test]
    fn a_list_that_leads_out_of_the_folder_or_contradicts_itself_is_refused_with_its_line() {
        let (one, other) = ("0".repeat(64), "1".repeat(64));
        let good = parse(&format!("{one}  a.deb\n\n{other} *./b/c.deb\n{one}  a.deb\n")).unwrap();
        assert_eq!(
            good.into_iter().collect::<Vec<_>>(),
            [("a.deb".into(), one.clone()), ("b/c.deb".into(), other.clone())]
        );
        for (text, why) in [
            (format!("{one}  ../a.deb"), "in this folder"),
            (format!("{one}  /etc/a.deb"), "in this folder"),
            (format!("{one}  "), "in this folder"),
            (format!("{one}  a\n{other}  a"), "line 2"),
            ("abc  a.deb".to_owned(), "64 hexadecimal"),
            ("a.deb".to_owned(), "sha256sum"),
        ] {
            let refused = parse(&text).unwrap_err();
            assert!(refused.contains(why), "{text:?}: {refused}");
        }
    }
}
