//! What apt, dpkg and kubeadm print, read. Each form was recorded on a real node: see tests/fixtures/real.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use liftlock_proto::packages::PackageManager;
use liftlock_proto::version::KubernetesVersion;
use serde::Deserialize;

use super::newer::compare;
use crate::host::{HostError, HostResult};

/// A package as `apt-get download --print-uris` names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PackageFile {
    /// Where it is already, if its repository is a folder of this machine.
    pub(super) local: Option<Utf8PathBuf>,
    /// What apt calls it in its archives.
    pub(super) name: String,
    /// Lower-case hexadecimal.
    pub(super) sha256: String,
}

/// Lines that are not blank, trimmed.
pub(super) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Package → version, from `${Package}\t${Version}\t${db:Status-Abbrev}`. A package that is not wholly installed
/// (unpacked, half configured, configuration left over) is not in it.
pub(super) fn installed(text: &str) -> BTreeMap<String, String> {
    let whole = |line: &str| {
        let mut fields = line.split('\t');
        let (package, version, status) = (fields.next()?, fields.next()?, fields.next()?);
        // The second letter is the state (`i`: installed), the third an error flag.
        let mut letters = status.chars().skip(1);
        let sound = letters.next() == Some('i') && letters.next().is_none_or(|error| error == ' ');
        sound.then(|| (package.to_owned(), version.to_owned()))
    };
    text.lines().filter_map(whole).collect()
}

/// The names in the first column, whatever the state of their packages.
pub(super) fn listed(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.split_once('\t')).map(|(name, _)| name.to_owned()).collect()
}

/// Name and version of each row of `rpm --query --all` or `dnf repoquery`. dnf 4 ends each row twice.
fn rows(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.trim_end().split_once('\t'))
}

/// Package → version of those that are there once.
pub(super) fn installed_once(text: &str) -> BTreeMap<String, String> {
    let mut installed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version) in rows(text) {
        installed.entry(name).or_default().push(version);
    }
    let once = installed.into_iter().filter(|(_, versions)| versions.len() == 1);
    once.flat_map(|(name, versions)| {
        versions.into_iter().map(|version| (name.to_owned(), version.to_owned()))
    })
    .collect()
}

/// `kubeadm-1.30.4-150500.1.1`: every package of ours but the newest one of its name, where it is there more than once.
pub(super) fn older_of_two(text: &str) -> Vec<String> {
    let mut installed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version) in rows(text) {
        if upstream(version).is_some() {
            installed.entry(name).or_default().push(version);
        }
    }
    let mut older = Vec::new();
    for (name, mut versions) in installed {
        versions.sort_by(|one, other| compare(PackageManager::Dnf, one, other));
        versions.pop();
        older.extend(versions.into_iter().map(|version| format!("{name}-{version}")));
    }
    older
}

/// The Kubernetes versions of which every one of the packages is offered, oldest first, from `dnf repoquery`.
pub(super) fn offered_by_rows(text: &str, packages: &[&str]) -> Vec<KubernetesVersion> {
    let of = |package: &&str| -> BTreeSet<KubernetesVersion> {
        rows(text).filter(|(name, _)| name == package).filter_map(|(_, version)| upstream(version)).collect()
    };
    packages.iter().map(of).reduce(|all, one| &all & &one).unwrap_or_default().into_iter().collect()
}

/// Refuses what says of itself that it is another dnf than version 4: `4.14.0` is, `dnf5 version 5.2.6.2` is not.
pub(super) fn speaks_dnf_4(version: &str) -> HostResult<()> {
    let said = version.lines().next().unwrap_or_default().trim();
    if said.split('.').next() == Some("4") {
        return Ok(());
    }
    Err(HostError::Malformed {
        what: "the dnf of this node".to_owned(),
        why: format!(
            "`dnf --version` says {said:?}, and Liftlock speaks dnf 4 (dnf 5 downloads with other options): put a link `dnf` to \
             dnf 4 (dnf-3 of python3-dnf) into a folder that comes first in the agent's `path`"
        ),
    })
}

/// `gitVersion` of what `kubectl version --client --output=json` says.
pub(super) fn kubectl_version(text: &str) -> HostResult<KubernetesVersion> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        client_version: Client,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Client {
        git_version: String,
    }
    let malformed =
        |why: String| HostError::Malformed { what: "the version that kubectl reports".to_owned(), why };
    let said: Said = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    said.client_version.git_version.parse().map_err(|error| malformed(format!("{error}")))
}

/// The Kubernetes versions of which every one of the packages is offered, oldest first, from `apt-cache madison`.
pub(super) fn offered(text: &str, packages: &[&str]) -> Vec<KubernetesVersion> {
    let mut offers: BTreeMap<&str, BTreeSet<KubernetesVersion>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(str::trim);
        if let (Some(package), Some(version)) = (fields.next(), fields.next().and_then(upstream)) {
            offers.entry(package).or_default().insert(version);
        }
    }
    let of = |package: &&str| offers.get(*package).cloned().unwrap_or_default();
    packages.iter().map(of).reduce(|all, one| &all & &one).unwrap_or_default().into_iter().collect()
}

/// `1.20.2-00` and `1.30.4-1.1` are versions of Kubernetes; `1.31.0~rc.1-1` is none that is raised to.
fn upstream(package_version: &str) -> Option<KubernetesVersion> {
    let (version, _revision) = package_version.rsplit_once('-')?;
    version.parse().ok()
}

/// The Kubernetes version in a package's version: `v1.31.2` of `1.31.2-1.1`, `0:1.31.2-1.1` or `1.31.2`.
pub(super) fn kubernetes_version(version: &str) -> Option<KubernetesVersion> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split('-').next()?.parse().ok()
}

/// The one line of `apt-get download --print-uris`: `'URI' NAME SIZE SHA256:DIGITS`.
pub(super) fn package_file(text: &str) -> HostResult<PackageFile> {
    let read = |line: &str| {
        let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
        let mut fields = rest.split(' ');
        let (name, _size, sum) = (fields.next()?, fields.next()?, fields.next()?);
        // apt prints the path as it is, without percent signs.
        let local = uri.strip_prefix("file:").map(Utf8PathBuf::from);
        let sha256 = sum.strip_prefix("SHA256:")?.to_ascii_lowercase();
        let plain = !name.is_empty() && !name.contains('/');
        plain.then(|| PackageFile { local, name: name.to_owned(), sha256 })
    };
    text.lines().find_map(read).ok_or_else(|| HostError::Malformed {
        what: "the answer of `apt-get download --print-uris`".to_owned(),
        why: format!("it names no package with a SHA-256: {text:?}"),
    })
}

/// `ClusterConfiguration` of the `ConfigMap` kubeadm-config (as YAML), raised to a version. One line is replaced,
/// as kubeadm wrote it, so that nothing else changes on the way.
pub(super) fn cluster_configuration(map: &str, version: KubernetesVersion) -> HostResult<String> {
    #[derive(Deserialize)]
    struct Map {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "ClusterConfiguration")]
        configuration: String,
    }
    let malformed =
        |why: String| HostError::Malformed { what: "the ConfigMap kubeadm-config".to_owned(), why };
    let map: Map = serde_saphyr::from_str(map).map_err(|error| malformed(error.to_string()))?;
    let configuration = map.data.configuration;
    let names_version = |line: &&str| line.starts_with("kubernetesVersion:");
    if configuration.lines().filter(names_version).count() != 1 {
        return Err(malformed("its ClusterConfiguration has no one kubernetesVersion".to_owned()));
    }
    let raised = configuration.lines().map(|line| {
        if names_version(&line) { format!("kubernetesVersion: {version}\n") } else { format!("{line}\n") }
    });
    Ok(raised.collect())
}

/// `v1.20.2` (kubeadm) or `Kubernetes v1.20.2` (kubelet).
pub(super) fn binary_version(program: &str, text: &str) -> HostResult<KubernetesVersion> {
    let text = text.trim();
    text.strip_prefix("Kubernetes ").unwrap_or(text).parse().map_err(|error| HostError::Malformed {
        what: format!("the version that {program} reports"),
        why: format!("{error}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKAGES: [&str; 3] = ["kubeadm", "kubelet", "kubectl"];

    fn version(text: &str) -> KubernetesVersion {
        text.parse().unwrap()
    }

    #[test]
    fn held_packages_are_installed_and_half_installed_ones_are_not() {
        let real = include_str!("../../../tests/fixtures/real/dpkg/query/stdout");
        let expected: BTreeMap<String, String> =
            PACKAGES.iter().map(|package| (package.to_string(), "1.19.7-00".to_owned())).collect();
        assert_eq!(installed(real), expected);
        let text = "kubeadm\t1.20.2-00\tiU \nkubelet\t1.20.2-00\tiF \nkubectl\t1.20.2-00\tii \n\
                    kubernetes-cni\t0.8.7-00\trc \nx\t1\tiiR\ny\t\tun \n";
        assert_eq!(installed(text).into_keys().collect::<Vec<_>>(), ["kubectl"]);
    }

    #[test]
    fn only_versions_that_every_package_has_are_offered() {
        let real = include_str!("../../../tests/fixtures/real/apt/madison-kubeadm/stdout");
        assert_eq!(offered(real, &["kubeadm"]), [version("v1.19.7"), version("v1.20.2")]);
        assert_eq!(offered(real, &PACKAGES), []);
        let text = " kubeadm | 1.30.4-1.1 | https://x Packages\n kubeadm | 1.31.2-1.1 | https://x Packages\n\
                    kubelet | 1.31.2-1.1 | https://x Packages\n kubectl | 1.31.2-1.1 | https://x Packages\n\
                    kubelet | 1.31.0~rc.1-1.1 | https://x Packages\n";
        assert_eq!(offered(text, &PACKAGES), [version("v1.31.2")]);
        assert_eq!(offered("", &PACKAGES), []);
    }

    #[test]
    fn what_is_offered_of_later_minors_and_where_it_lies_is_read_as_the_real_apt_says_it() {
        let own = include_str!("../../../tests/fixtures/real/apt/split-madison/stdout");
        let ahead = include_str!("../../../tests/fixtures/real/apt/split-madison-ahead/stdout");
        let unread = include_str!("../../../tests/fixtures/real/apt/split-madison-led-unread/stdout");
        assert_eq!(offered(own, &PACKAGES), [version("v1.30.4")]);
        assert_eq!(offered(ahead, &PACKAGES), [version("v1.31.2")]);
        assert_eq!(offered(unread, &PACKAGES), []);
        let uris = include_str!("../../../tests/fixtures/real/apt/split-print-uris-ahead/stdout");
        assert_eq!(package_file(uris).unwrap().name, "kubeadm_1.31.2-1.1_amd64.deb");
    }

    #[test]
    fn rows_of_rpm_and_dnf_are_read_as_the_real_ones_print_them() {
        let query = include_str!("../../../tests/fixtures/real/rpm/query/stdout");
        let installed = installed_once(query);
        assert_eq!(installed.get("kubeadm").map(String::as_str), Some("1.30.4-150500.1.1"));
        assert_eq!(installed.len(), 3);
        assert_eq!(older_of_two(query), Vec::<String>::new());
        let offers = include_str!("../../../tests/fixtures/real/dnf/repoquery/stdout");
        assert_eq!(offered_by_rows(offers, &PACKAGES), [version("v1.30.4"), version("v1.30.6")]);
        let excluded = include_str!("../../../tests/fixtures/real/dnf/repoquery-excluded/stdout");
        assert_eq!(offered_by_rows(excluded, &PACKAGES), []);
    }

    #[test]
    fn of_a_package_that_is_there_twice_the_older_one_is_named_and_it_counts_as_not_installed() {
        let text = "kubeadm\t1.30.4-150500.1.1\nkubeadm\t1.31.2-150500.1.1\nkubelet\t1.30.4-150500.1.1\n\
                    kubernetes-cni\t1.4.0-150500.1.1\n";
        let names: Vec<String> = installed_once(text).into_keys().collect();
        assert_eq!(names, ["kubelet", "kubernetes-cni"]);
        assert_eq!(older_of_two(text), ["kubeadm-1.30.4-150500.1.1"]);
    }

    #[test]
    fn dnf_4_is_spoken_to_and_any_other_is_refused_with_what_it_says_of_itself() {
        speaks_dnf_4("4.14.0\n  Installed: dnf-0:4.14.0-8.el9.noarch\n").unwrap();
        for (text, said) in [
            ("dnf5 version 5.2.6.2\ndnf5 plugin API version 2.0\n", "dnf5 version 5.2.6.2"),
            ("5.0.0\n", "5.0.0"),
            ("40.1\n", "40.1"),
            ("", "\"\""),
        ] {
            let why = speaks_dnf_4(text).unwrap_err().to_string();
            assert!(why.contains(said) && why.contains("dnf 4"), "{why}");
        }
    }

    #[test]
    fn the_version_of_kubectl_is_the_clients() {
        let text = r#"{"clientVersion": {"major": "1", "gitVersion": "v1.30.4"}, "kustomizeVersion": "v5"}"#;
        assert_eq!(kubectl_version(text).unwrap(), version("v1.30.4"));
        assert!(kubectl_version("{}").is_err());
    }

    #[test]
    fn a_package_of_a_folder_is_where_it_is_and_any_other_in_apts_archives() {
        let sum = "0b49b1e868178e44b5f673aa6f550c8a30560f09f87429093e786b3cc70657fc";
        let local = format!(
            "'file:/srv/x y/./kubectl_1.20.2-00_amd64.deb' kubectl_1.20.2-00_amd64.deb 7859752 SHA256:{sum}\n"
        );
        let file = package_file(&local).unwrap();
        assert_eq!(
            file.local.as_deref().map(camino::Utf8Path::as_str),
            Some("/srv/x y/./kubectl_1.20.2-00_amd64.deb")
        );
        assert_eq!((file.name.as_str(), file.sha256.as_str()), ("kubectl_1.20.2-00_amd64.deb", sum));
        let remote = format!("'https://x.example/a.deb' kubeadm_1.31.2-1.1_amd64.deb 1 SHA256:{sum}\n");
        assert_eq!(package_file(&remote).unwrap().local, None);
    }

    #[test]
    fn a_package_without_a_sha256_or_with_a_path_for_a_name_is_refused() {
        for text in [
            "",
            "E: Version '1.99.0-*' for 'kubeadm' was not found\n",
            "'https://x.example/a.deb' a.deb 1 MD5Sum:00\n",
            "'https://x.example/a.deb' ../../a.deb 1 SHA256:00\n",
            "'https://x.example/a.deb' a.deb\n",
        ] {
            assert!(package_file(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn of_the_clusters_configuration_only_the_version_is_replaced() {
        let recorded = include_str!("../../../tests/fixtures/real/api/configmap-kubeadm-config/stdout");
        let object: serde_json::Value = serde_json::from_str(recorded).unwrap();
        let map = serde_saphyr::to_string(&object).unwrap();
        let before = object["data"]["ClusterConfiguration"].as_str().unwrap();
        let after = cluster_configuration(&map, version("v1.20.2")).unwrap();
        assert_eq!(after, before.replace("v1.19.7", "v1.20.2"));
        assert!(after.contains("\nkubernetesVersion: v1.20.2\n"));
    }

    #[test]
    fn a_configuration_without_a_version_is_refused() {
        let error =
            cluster_configuration("data: {ClusterConfiguration: 'kind: x'}", version("v1.20.2")).unwrap_err();
        assert!(error.to_string().contains("no one kubernetesVersion"), "{error}");
        assert!(cluster_configuration("data: {}", version("v1.20.2")).is_err());
    }

    #[test]
    fn the_versions_of_real_binaries_are_read() {
        let kubeadm = include_str!("../../../tests/fixtures/real/kubeadm/version-short/stdout");
        let kubelet = include_str!("../../../tests/fixtures/real/kubelet/version/stdout");
        assert_eq!(binary_version("kubeadm", kubeadm).unwrap(), version("v1.19.7"));
        assert_eq!(binary_version("kubelet", kubelet).unwrap(), version("v1.19.7"));
        assert!(binary_version("kubelet", "Segmentation fault").is_err());
    }

    #[test]
    fn images_are_one_a_line() {
        let real = include_str!("../../../tests/fixtures/real/kubeadm/images-list-target/stdout");
        let images = lines(real);
        assert_eq!(images.len(), 7);
        assert_eq!(images.first().map(String::as_str), Some("k8s.gcr.io/kube-apiserver:v1.20.2"));
    }

    proptest! {
        #[test]
        fn no_output_whatever_makes_a_parser_panic(text in "[ -~\t\n'|]{0,200}") {
            drop(installed(&text));
            drop(offered(&text, &PACKAGES));
            drop(package_file(&text));
            drop(cluster_configuration(&text, KubernetesVersion::new(1, 20, 2)));
            drop(binary_version("kubeadm", &text));
        }

        #[test]
        fn what_is_offered_is_sorted_and_offered_by_all(
            rows in proptest::collection::vec((0_usize..3, 0_u16..4, 0_u16..4), 0..30)
        ) {
            let row = |(package, minor, patch): &(usize, u16, u16)| {
                format!(" {} | 1.{minor}.{patch}-1.1 | x", PACKAGES[*package])
            };
            let text = rows.iter().map(row).collect::<Vec<_>>().join("\n");
            let offers = offered(&text, &PACKAGES);
            prop_assert!(offers.is_sorted());
            for offer in &offers {
                for package in 0..3 {
                    prop_assert!(rows.contains(&(package, offer.minor, offer.patch)));
                }
            }
            for (_, minor, patch) in &rows {
                if (0..3).all(|package| rows.contains(&(package, *minor, *patch))) {
                    prop_assert!(offers.contains(&KubernetesVersion::new(1, *minor, *patch)));
                }
            }
        }
    }
}
