//! A folder with packages and images, put on the node before: nothing comes over a network.
//!
//! `SHA256SUMS` in it lists what may be used, as `sha256sum` writes it. Nothing that is not listed is used, nor anything that
//! others than root could have written. What is used is a copy in the agent's state folder, summed as it was copied: nobody
//! changes it between the look and the use. The preparation makes the copies, and the list's among them, so that a lease
//! needs the folder only where a copy is not there any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::KUBERNETES_PACKAGES;
use liftlock_proto::packages::PackageManager;
use liftlock_proto::version::KubernetesVersion;

use super::checksum::sha256_of;
use super::newer::compare;
use super::output::kubernetes_version;
use crate::host::trees::{Kind, Survey};
use crate::host::{Files, HostError, HostResult, Layout, Trees};
use crate::trust::distrust;

/// The list.
pub(super) const LIST: &str = "SHA256SUMS";

/// Copies are in this folder of the state folder.
pub(super) const TAKEN: &str = "packages";

/// The folder.
#[derive(Clone)]
pub(super) struct Directory {
    layout: Layout,
    files: Arc<dyn Files>,
    trees: Arc<dyn Trees>,
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
pub(super) struct Offer {
    /// `kubeadm`
    pub(super) name: String,
    /// In the package manager's spelling: `1.31.2-1.1`; without a package `1.31.2`.
    pub(super) version: String,
    /// Relative to the folder.
    file: String,
}

/// A version that somebody asks for.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    /// Any build of it.
    Release(KubernetesVersion),
    /// As the package manager spells it: `1.30.4-1.1`.
    Exact(&'a str),
}

impl Wanted<'_> {
    fn fits(self, offer: &Offer) -> bool {
        match self {
            Self::Release(version) => kubernetes_version(&offer.version) == Some(version),
            Self::Exact(version) => offer.version == version,
        }
    }

    fn spelled(self) -> String {
        match self {
            Self::Release(version) => version.bare(),
            Self::Exact(version) => version.to_owned(),
        }
    }
}

impl Directory {
    pub(super) fn new(
        layout: Layout,
        files: Arc<dyn Files>,
        trees: Arc<dyn Trees>,
        folder: &Utf8Path,
        manager: PackageManager,
    ) -> Self {
        let path = layout.at(folder.as_str());
        Self { layout, files, trees, path, manager }
    }

    /// Its path as on a real node.
    pub(super) fn folder(&self) -> String {
        self.layout.on_node(&self.path).to_string()
    }

    /// Where copies lie.
    fn taken(&self) -> Utf8PathBuf {
        self.layout.state_dir.join(TAKEN)
    }

    /// Refuses what others than root could have written.
    async fn trust(&self, file: &str) -> HostResult<()> {
        let path = self.path.join(file);
        match distrust(self.trees.as_ref(), &self.layout, &path).await? {
            None => Ok(()),
            Some(why) => Err(HostError::Malformed { what: format!("the file {path}"), why }),
        }
    }

    /// Where the symbolic link at a path of the node's leads; `None` where there is no link.
    pub(super) async fn link_at(&self, path: &Utf8Path) -> HostResult<Option<String>> {
        let found = self.trees.survey(Survey::at(path)).await?.root;
        Ok(match found.map(|entry| entry.kind) {
            Some(Kind::Link(target)) => Some(target.to_string()),
            _ => None,
        })
    }

    /// SHA-256 by file, as a list has them.
    async fn read(&self, list: &Utf8Path) -> HostResult<BTreeMap<String, String>> {
        let malformed = |why: String| HostError::Malformed { what: format!("the list {list}"), why };
        let Some(text) = self.files.read(list).await? else { return Err(no_list(list)) };
        parse(&String::from_utf8_lossy(&text)).map_err(malformed)
    }

    /// What the folder lists.
    async fn listed(&self) -> HostResult<BTreeMap<String, String>> {
        self.trust(LIST).await?;
        self.read(&self.path.join(LIST)).await
    }

    /// The Kubernetes versions of which all three programs are listed, oldest first.
    pub(super) async fn offered(&self) -> HostResult<Vec<KubernetesVersion>> {
        let listed = self.listed().await?;
        let offers: Vec<Offer> = listed.keys().filter_map(|file| offer(self.manager, file)).collect();
        let of = |name: &str| -> BTreeSet<KubernetesVersion> {
            let named = offers.iter().filter(|offer| offer.name == name);
            named.filter_map(|offer| kubernetes_version(&offer.version)).collect()
        };
        let all = KUBERNETES_PACKAGES.into_iter().map(of).reduce(|all, one| &all & &one);
        Ok(all.unwrap_or_default().into_iter().collect())
    }

    /// Takes copies of what a raise to the version needs, and of what it needs to go back; says which.
    pub(super) async fn prepare(
        &self,
        installed: &BTreeMap<String, String>,
        version: KubernetesVersion,
        back: bool,
    ) -> HostResult<Vec<Utf8PathBuf>> {
        let ours = || installed.iter().filter(|(name, _)| KUBERNETES_PACKAGES.contains(&name.as_str()));
        let mut wanted: Vec<(&str, Wanted<'_>)> =
            ours().map(|(name, _)| (name.as_str(), Wanted::Release(version))).collect();
        if back {
            wanted.extend(ours().map(|(name, version)| (name.as_str(), Wanted::Exact(version))));
        }
        let (list, copy) = (self.path.join(LIST), self.taken().join(LIST));
        self.trust(LIST).await?;
        if self.files.take(&list, &copy).await?.is_none() {
            return Err(no_list(&list));
        }
        let listed = self.read(&copy).await?;
        let mut taken = Vec::new();
        for (name, wanted) in wanted {
            taken.push(self.take_offer(&listed, name, wanted).await?);
        }
        Ok(taken)
    }

    /// Copies of these programs at a Kubernetes version, each verified.
    pub(super) async fn at_version(
        &self,
        names: &[&str],
        version: KubernetesVersion,
    ) -> HostResult<Vec<Utf8PathBuf>> {
        let mut found = Vec::new();
        for name in names {
            found.push(self.found(name, Wanted::Release(version)).await?);
        }
        Ok(found)
    }

    /// Copies of exact package versions such as (`kubeadm`, `1.30.4-1.1`), each verified.
    pub(super) async fn exact(&self, packages: &[(String, String)]) -> HostResult<Vec<Utf8PathBuf>> {
        let mut found = Vec::new();
        for (name, version) in packages {
            found.push(self.found(name, Wanted::Exact(version)).await?);
        }
        Ok(found)
    }

    /// A verified copy: the one that was taken before, or else a new one.
    async fn found(&self, name: &str, wanted: Wanted<'_>) -> HostResult<Utf8PathBuf> {
        let taken = self.taken();
        if self.files.exists(&taken.join(LIST)).await? {
            let listed = self.read(&taken.join(LIST)).await?;
            if let Some((offer, sum)) = self.offer_of(&listed, name, wanted)
                && let copy = taken.join(&offer.file)
                && sha256_of(self.files.as_ref(), &copy).await?.as_ref() == Some(sum)
            {
                return Ok(copy);
            }
        }
        self.take_offer(&self.listed().await?, name, wanted).await
    }

    /// Of several builds of one version the newest, of those for this machine's architecture where there are any: one folder may
    /// serve nodes of several.
    fn offer_of<'a>(
        &self,
        listed: &'a BTreeMap<String, String>,
        name: &str,
        wanted: Wanted<'_>,
    ) -> Option<(Offer, &'a String)> {
        let fitting = listed.iter().filter_map(|(file, sum)| {
            let offer = offer(self.manager, file)?;
            (offer.name == name && wanted.fits(&offer)).then_some((offer, sum))
        });
        fitting.max_by(|(one, _), (other, _)| {
            let ours = |offer: &Offer| is_for_this_machine(&offer.file);
            ours(one).cmp(&ours(other)).then_with(|| compare(self.manager, &one.version, &other.version))
        })
    }

    async fn take_offer(
        &self,
        listed: &BTreeMap<String, String>,
        name: &str,
        wanted: Wanted<'_>,
    ) -> HostResult<Utf8PathBuf> {
        let Some((offer, sum)) = self.offer_of(listed, name, wanted) else {
            let version = wanted.spelled();
            return Err(HostError::Malformed {
                what: format!("{name} {version}"),
                why: format!(
                    "{} lists no such {}: expected a line for {}; put the file there and list it",
                    self.path.join(LIST),
                    if self.manager == PackageManager::Files { "program" } else { "package" },
                    spelled(self.manager, name, &version),
                ),
            });
        };
        self.take(&offer.file, sum).await
    }

    /// Archives of images for a version: files that are called `….tar` and have the version in their names.
    pub(super) async fn image_archives(&self, version: KubernetesVersion) -> HostResult<Vec<Utf8PathBuf>> {
        let listed = self.listed().await?;
        let files = listed.keys().filter(|file| is_archive_of(file, version));
        Ok(files.map(|file| self.path.join(file)).collect())
    }

    /// A verified copy of a file of the folder.
    pub(super) async fn take_file(&self, path: &Utf8Path) -> HostResult<Utf8PathBuf> {
        let listed = self.listed().await?;
        let file = path.strip_prefix(&self.path).unwrap_or(path).as_str();
        let sum = listed.get(file).ok_or_else(|| HostError::Malformed {
            what: format!("the file {path}"),
            why: format!("{LIST} lists it no more: list it, then retry the node (`liftlock retry`)"),
        })?;
        self.take(file, sum).await
    }

    /// A copy whose content is what the list says. One that is there already is taken anew: it is not known what became of it.
    async fn take(&self, file: &str, expected: &str) -> HostResult<Utf8PathBuf> {
        let (path, copy) = (self.path.join(file), self.taken().join(file));
        let refused = |why: String| HostError::Malformed { what: format!("the file {path}"), why };
        if self.path.starts_with(self.taken()) {
            return Err(refused(format!(
                "{} is the agent's own: put packages and images into another folder and name that one",
                self.taken()
            )));
        }
        self.trust(file).await?;
        match self.files.take(&path, &copy).await? {
            None => Err(refused(format!("it is not there, and {LIST} lists it with SHA-256 {expected}"))),
            Some(found) if found.sha256 != expected => {
                self.files.discard(&copy).await?;
                Err(refused(format!(
                    "its SHA-256 is {}, and {LIST} says {expected}: put the right file there",
                    found.sha256
                )))
            }
            Some(_) => Ok(copy),
        }
    }
}

/// A verified copy of an archive of images out of a folder, where there is one.
pub(super) async fn taken_from(directory: Option<&Directory>, archive: &Utf8Path) -> HostResult<Utf8PathBuf> {
    match directory {
        Some(directory) => directory.take_file(archive).await,
        None => Err(HostError::Malformed {
            what: format!("the archive {archive}"),
            why: "images of this node come from registries".to_owned(),
        }),
    }
}

fn no_list(list: &Utf8Path) -> HostError {
    HostError::Malformed {
        what: format!("the list {list}"),
        why: "it is not there: put packages and images into the folder and list them with `sha256sum`"
            .to_owned(),
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
pub(super) fn offer(manager: PackageManager, file: &str) -> Option<Offer> {
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

/// Whether a package, by its name, is for this machine's architecture or for any.
fn is_for_this_machine(file: &str) -> bool {
    let (deb, rpm) = architecture();
    let base = file.strip_suffix(".deb").map(|base| (base, '_', [deb, "all"]));
    let base = base.or_else(|| file.strip_suffix(".rpm").map(|base| (base, '.', [rpm, "noarch"])));
    base.and_then(|(base, before, own)| Some(own.contains(&base.rsplit_once(before)?.1))).unwrap_or(false)
}

/// This machine's architecture as dpkg and as rpm call it.
fn architecture() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", "x86_64"),
        "aarch64" => ("arm64", "aarch64"),
        "powerpc64" => ("ppc64el", "ppc64le"),
        "arm" => ("armhf", "armv7hl"),
        other => (other, other),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{Fault, Shape, Twin};

    const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);
    const PATH: &str = "/srv/offline";
    const TAKEN_HERE: &str = "/var/lib/liftlock/packages";

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
        let host = twin.host("cp1");
        Directory::new(host.layout, host.files, host.trees, PATH.into(), manager)
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
        let expected = ["kubelet", "kubectl"].map(|name| format!("{TAKEN_HERE}/{name}_1.31.2-1.1_amd64.deb"));
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
    fn of_several_builds_of_a_version_the_newest_is_taken_and_for_the_way_back_the_one_that_was_there() {
        for (manager, build, spell) in [
            (
                PackageManager::Apt,
                "1",
                &(|version: &str| format!("kubeadm_{version}_amd64.deb")) as &dyn Fn(&str) -> String,
            ),
            (PackageManager::Dnf, "150500.1", &|version: &str| format!("kubeadm-{version}.x86_64.rpm")),
        ] {
            let twin = twin();
            let builds = [1, 9, 10].map(|number| format!("1.30.4-{build}.{number}"));
            let list: String = builds.iter().map(|build| put(&twin, &spell(build), build)).collect();
            put(&twin, LIST, &list);
            let directory = directory(&twin, manager);
            let version = KubernetesVersion::new(1, 30, 4);
            let found = twin.drive(directory.at_version(&["kubeadm"], version)).done().unwrap().unwrap();
            assert_eq!(found, [format!("{TAKEN_HERE}/{}", spell(&builds[2]))]);
            let exact = [("kubeadm".to_owned(), builds[1].clone())];
            let found = twin.drive(directory.exact(&exact)).done().unwrap().unwrap();
            assert_eq!(found, [format!("{TAKEN_HERE}/{}", spell(&builds[1]))]);
        }
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
    fn what_others_than_root_may_write_is_refused_be_it_the_folder_the_list_or_a_file() {
        let file = format!("{PATH}/kubeadm_1.31.2-1.1_amd64.deb");
        for (path, mode) in
            [(PATH, 0o777), (&format!("{PATH}/SHA256SUMS"), 0o646), (&file, 0o602), ("/srv", 0o757)]
        {
            let twin = with_packages();
            let directory = directory(&twin, PackageManager::Apt);
            twin.world().change("cp1", |machine| machine.disk.set_mode(Utf8Path::new(path), mode)).unwrap();
            let refused = why(&twin, directory.at_version(&["kubeadm"], TO));
            assert!(
                refused.contains(&format!("others than root may write to {path}"))
                    && refused.contains(&format!("`chmod go-w {path}`")),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_was_checked_is_what_is_used_whatever_becomes_of_the_folder_afterwards() {
        let twin = with_packages();
        let directory = directory(&twin, PackageManager::Apt);
        let installed = ["kubeadm", "kubelet"].map(|name| (name.to_owned(), "1.30.4-1.1".to_owned()));
        let prepared =
            twin.drive(directory.prepare(&installed.clone().into(), TO, true)).done().unwrap().unwrap();
        assert_eq!(prepared.len(), 4, "{prepared:?}");
        put(&twin, "kubeadm_1.31.2-1.1_amd64.deb", "another");
        twin.world()
            .change("cp1", |machine| machine.disk.remove(Utf8Path::new(&format!("{PATH}/SHA256SUMS"))));
        let forward = twin.drive(directory.at_version(&["kubeadm"], TO)).done().unwrap().unwrap();
        let back = twin.drive(directory.exact(&installed)).done().unwrap().unwrap();
        let content = |path: &Utf8PathBuf| {
            String::from_utf8(twin.world().machine("cp1").unwrap().disk.read(path).unwrap().to_vec()).unwrap()
        };
        assert_eq!(content(&forward[0]), "kubeadm 1.31.2");
        assert_eq!(back.iter().map(content).collect::<Vec<_>>(), ["kubeadm 1.30.4", "kubelet 1.30.4"]);
        // A copy that is not what it was is not used, and there is no other.
        twin.world().change("cp1", |machine| machine.disk.put(forward[0].clone(), "broken", 0o600));
        assert!(why(&twin, directory.at_version(&["kubeadm"], TO)).contains("SHA256SUMS"));
    }

    #[test]
    fn a_disk_that_is_full_while_copies_are_taken_is_told_and_with_room_the_next_preparation_succeeds() {
        let installed = ["kubeadm", "kubelet"].map(|name| (name.to_owned(), "1.30.4-1.1".to_owned()));
        // The list and four packages.
        for nth in 1..=5 {
            let twin = with_packages();
            let directory = directory(&twin, PackageManager::Apt);
            twin.inject("cp1", nth, Fault::Fails);
            let refused = why(&twin, directory.prepare(&installed.clone().into(), TO, true));
            assert!(refused.contains(TAKEN_HERE) && refused.contains("no storage space"), "{refused}");
            twin.drive(directory.prepare(&installed.clone().into(), TO, true)).done().unwrap().unwrap();
        }
    }

    #[test]
    fn of_packages_for_several_architectures_a_node_takes_its_own() {
        let (deb, rpm) = architecture();
        for (manager, name, version) in [
            (PackageManager::Apt, "kubeadm_1.31.2-1.1_ARCHITECTURE.deb", deb),
            (PackageManager::Dnf, "kubeadm-1.31.2-150500.1.1.ARCHITECTURE.rpm", rpm),
        ] {
            let twin = twin();
            let mut list = String::new();
            for architecture in ["aaa", "amd64", "arm64", "aarch64", "x86_64", "zzz", version] {
                list += &put(&twin, &name.replace("ARCHITECTURE", architecture), architecture);
            }
            put(&twin, "SHA256SUMS", &list);
            let directory = directory(&twin, manager);
            let found = twin.drive(directory.at_version(&["kubeadm"], TO)).done().unwrap().unwrap();
            assert!(found[0].as_str().ends_with(&name.replace("ARCHITECTURE", version)), "{found:?}");
        }
    }

    #[test]
    fn the_agents_own_folder_is_not_taken_for_the_operators() {
        let twin = with_packages();
        let host = twin.host("cp1");
        let own = Directory::new(host.layout, host.files, host.trees, TAKEN_HERE.into(), PackageManager::Apt);
        twin.world().change("cp1", |machine| {
            machine.disk.put(
                format!("{TAKEN_HERE}/SHA256SUMS"),
                format!("{}  kubeadm_1.31.2-1.1_amd64.deb", "0".repeat(64)),
                0o600,
            );
        });
        assert!(why(&twin, own.at_version(&["kubeadm"], TO)).contains("is the agent's own"));
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
