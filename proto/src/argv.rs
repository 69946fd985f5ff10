//! The exact commands that steps run: the plan shows them, the agent runs them, and nobody else makes any.
//!
//! Every argument is fixed or a validated version; nothing here comes from a shell or from free text, except
//! the names of preflight checks, which [`preflight_check_name`] admits.

use crate::packages::{PackageManager, PackageSource};
use crate::step::Step;
use crate::version::KubernetesVersion;

/// A program and its arguments.
pub type Argv = Vec<String>;

/// Where packages that dnf downloaded are looked into.
pub const RPMS: &str = "/var/lib/liftlock/rpms";

/// How long apt waits for another process to release dpkg's lock, in seconds.
const DPKG_LOCK_TIMEOUT_SECONDS: u32 = 300;

fn argv(parts: &[&str]) -> Argv {
    parts.iter().map(|&part| part.to_owned()).collect()
}

/// `kubeadm upgrade apply v1.20.2 --yes`
pub fn kubeadm_upgrade_apply(version: KubernetesVersion, ignored: &[String]) -> Argv {
    let mut argv = argv(&["kubeadm", "upgrade", "apply", &version.to_string(), "--yes"]);
    argv.extend(ignore_preflight_errors(ignored));
    argv
}

/// `kubeadm upgrade apply v1.19.7 --force --yes`: back to the version that ran before, or the same once more.
pub fn kubeadm_upgrade_apply_force(version: KubernetesVersion, ignored: &[String]) -> Argv {
    let mut argv = argv(&["kubeadm", "upgrade", "apply", &version.to_string(), "--force", "--yes"]);
    argv.extend(ignore_preflight_errors(ignored));
    argv
}

/// `kubeadm upgrade node`
pub fn kubeadm_upgrade_node(ignored: &[String]) -> Argv {
    let mut argv = argv(&["kubeadm", "upgrade", "node"]);
    argv.extend(ignore_preflight_errors(ignored));
    argv
}

/// `kubeadm join` with a configuration, which holds what no process list may show.
pub fn kubeadm_join(configuration: &str, ignored: &[String]) -> Argv {
    let mut argv = argv(&["kubeadm", "join", &format!("--config={configuration}")]);
    argv.extend(ignore_preflight_errors(ignored));
    argv
}

/// `kubeadm reset --force`: nobody is there to be asked.
pub fn kubeadm_reset() -> Argv {
    argv(&["kubeadm", "reset", "--force"])
}

/// `kubeadm init phase upload-certs`: keeps the cluster's certificates in it, encrypted with a key that it prints.
pub fn kubeadm_upload_certs(configuration: &str) -> Argv {
    argv(&[
        "kubeadm",
        "init",
        "phase",
        "upload-certs",
        "--upload-certs",
        &format!("--config={configuration}"),
    ])
}

/// A hook of the node's own configuration: it sees this environment, where its programs are looked up, and nothing else.
pub fn hook(environment: &[(&str, String)], command: &[String]) -> Argv {
    let mut argv =
        argv(&["/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    argv.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
    argv.extend(command.iter().cloned());
    argv
}

/// Where the agent keeps kubeadm's configuration while a machine joins, below its state folder.
pub const JOIN_CONFIGURATION: &str = "join.yaml";

/// Whether the text can only be the name of a preflight check: letters, digits and dashes.
pub fn preflight_check_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn ignore_preflight_errors(names: &[String]) -> Option<String> {
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| preflight_check_name(name)).collect();
    (!names.is_empty()).then(|| format!("--ignore-preflight-errors={}", names.join(",")))
}

/// `apt-get update`
pub fn apt_update() -> Argv {
    // apt before 2.1 has no --error-on=any; an option that it does not know is not an error.
    argv(&["apt-get", "update", "--quiet", "--option=APT::Update::Error-Mode=any"])
}

/// `apt-get install --download-only` of the packages at `1.20.2-*` (apt matches the pattern itself).
pub fn apt_download(packages: &[&str], version: KubernetesVersion) -> Argv {
    let mut argv = argv(&["apt-get", "install", "--download-only"]);
    argv.extend(apt_options());
    argv.extend(packages.iter().map(|package| format!("{package}={}-*", version.bare())));
    argv
}

/// `apt-get install` of the packages at `1.20.2-*`. Whoever runs it holds again what was held.
pub fn apt_install(packages: &[&str], version: KubernetesVersion) -> Argv {
    let mut argv = argv(&["apt-get", "install"]);
    argv.extend(apt_options());
    argv.extend(packages.iter().map(|package| format!("{package}={}-*", version.bare())));
    argv
}

/// `apt-get install --allow-downgrades` of exact package versions such as (`kubeadm`, `1.19.7-00`).
pub fn apt_install_exact(packages: &[(&str, &str)]) -> Argv {
    let mut argv = argv(&["apt-get", "install", "--allow-downgrades"]);
    argv.extend(apt_options());
    argv.extend(packages.iter().map(|(package, version)| format!("{package}={version}")));
    argv
}

/// `apt-mark hold` of packages that were held before.
pub fn apt_hold(packages: &[&str]) -> Argv {
    let mut argv = argv(&["apt-mark", "hold"]);
    argv.extend(packages.iter().map(|&package| package.to_owned()));
    argv
}

/// The operator's configuration files stay; a held package may change, because its exact version is named.
fn apt_options() -> Vec<String> {
    vec![
        "--yes".to_owned(),
        "--quiet".to_owned(),
        "--no-install-recommends".to_owned(),
        "--allow-change-held-packages".to_owned(),
        format!("--option=DPkg::Lock::Timeout={DPKG_LOCK_TIMEOUT_SECONDS}"),
        "--option=Dpkg::Use-Pty=0".to_owned(),
        "--option=Dpkg::Options::=--force-confdef".to_owned(),
        "--option=Dpkg::Options::=--force-confold".to_owned(),
    ]
}

/// `dpkg --configure -a`: finishes what an interrupted dpkg left half installed.
pub fn dpkg_configure() -> Argv {
    argv(&["dpkg", "--configure", "--pending", "--force-confdef", "--force-confold"])
}

/// `dpkg --audit`: says nothing where no package is half installed.
pub fn dpkg_audit() -> Argv {
    argv(&["dpkg", "--audit"])
}

/// `dpkg-query --show`: package, version and state of what is installed under a pattern such as `kube*`. Unlike a
/// list of names, a pattern is no error where one of them is not installed.
pub fn dpkg_query(pattern: &str) -> Argv {
    argv(&["dpkg-query", "--show", r"--showformat=${Package}\t${Version}\t${db:Status-Abbrev}\n", pattern])
}

/// `dpkg-deb --extract` of a package into a folder.
pub fn dpkg_deb_extract(package: &str, folder: &str) -> Argv {
    argv(&["dpkg-deb", "--extract", package, folder])
}

/// `apt-cache madison`: every version that the repositories offer.
pub fn apt_madison(packages: &[&str]) -> Argv {
    let mut argv = argv(&["apt-cache", "madison"]);
    argv.extend(packages.iter().map(|&package| package.to_owned()));
    argv
}

/// `apt-mark showhold`
pub fn apt_showhold(packages: &[&str]) -> Argv {
    let mut argv = argv(&["apt-mark", "showhold"]);
    argv.extend(packages.iter().map(|&package| package.to_owned()));
    argv
}

/// `apt-get download --print-uris`: where a package comes from, its file's name and its checksum; loads nothing.
pub fn apt_print_uris(package: &str, version: KubernetesVersion) -> Argv {
    argv(&["apt-get", "download", "--print-uris", &format!("{package}={}-*", version.bare())])
}

/// Which sources a command of apt's looks at instead of the machine's own, and where it keeps what it learns of them.
#[derive(Debug, Clone, Copy)]
pub struct AptSources<'a> {
    /// A file as /etc/apt/sources.list.
    pub list: &'a str,
    /// A folder as /etc/apt/sources.list.d, or /dev/null.
    pub parts: &'a str,
    /// A folder as /var/lib/apt/lists.
    pub lists: &'a str,
}

/// A command of apt's that looks at other sources. apt's caches of its own ones are neither used nor changed.
pub fn apt_with_sources(mut argv: Argv, sources: &AptSources<'_>) -> Argv {
    argv.extend([
        format!("--option=Dir::Etc::SourceList={}", sources.list),
        format!("--option=Dir::Etc::SourceParts={}", sources.parts),
        format!("--option=Dir::State::Lists={}", sources.lists),
        "--option=Dir::Cache::pkgcache=".to_owned(),
        "--option=Dir::Cache::srcpkgcache=".to_owned(),
        "--option=APT::Get::List-Cleanup=0".to_owned(),
        // Others than root may not look into the folder.
        "--option=APT::Sandbox::User=root".to_owned(),
    ]);
    argv
}

/// `apt-get update` of one of the machine's files of sources. What is known of all others stays.
pub fn apt_update_from(file: &str) -> Argv {
    let mut argv = apt_update();
    argv.extend([
        format!("--option=Dir::Etc::SourceList={file}"),
        "--option=Dir::Etc::SourceParts=/dev/null".to_owned(),
        "--option=APT::Get::List-Cleanup=0".to_owned(),
    ]);
    argv
}

/// `apt-get install` of files, older ones too, with nothing but them and what is installed.
pub fn apt_install_files(files: &[impl AsRef<str>]) -> Argv {
    let mut argv = argv(&["apt-get", "install", "--allow-downgrades"]);
    argv.extend(apt_options());
    argv.extend(["List", "Parts"].map(|part| format!("--option=Dir::Etc::Source{part}=/dev/null")));
    argv.extend(files.iter().map(|file| file.as_ref().to_owned()));
    argv
}

/// What the repository's own file keeps from being upgraded by the way (`exclude=kubelet kubeadm kubectl`) may change,
/// because it is named. dnf 4 calls all such lines `all`, dnf 5 `*`.
const DNF_NO_EXCLUDES: &str = "--setopt=disable_excludes=all,*";

fn dnf(verb: &str) -> Argv {
    argv(&["dnf", verb, "--assumeyes", DNF_NO_EXCLUDES])
}

/// A command of dnf's that looks at a folder of repositories other than /etc/yum.repos.d.
pub fn dnf_with_repositories(mut argv: Argv, folder: &str) -> Argv {
    argv.push(format!("--setopt=reposdir={folder}"));
    argv
}

/// `dnf --version`: dnf 4 says its version in the first line, dnf 5 `dnf5 version` and it.
pub fn dnf_version() -> Argv {
    argv(&["dnf", "--version"])
}

/// `dnf makecache`: reads what all repositories offer; fails where one does not answer.
pub fn dnf_makecache() -> Argv {
    argv(&["dnf", "makecache", "--refresh", "--setopt=skip_if_unavailable=0"])
}

/// `dnf repoquery`: name, version and release of what the repositories were last seen to offer.
pub fn dnf_repoquery(packages: &[&str]) -> Argv {
    let format = r"--queryformat=%{name}\t%{version}-%{release}\n";
    let mut argv = argv(&["dnf", "repoquery", "--quiet", "--cacheonly", DNF_NO_EXCLUDES, format]);
    argv.extend(packages.iter().map(|&package| package.to_owned()));
    argv
}

/// `dnf install --downloadonly` of the packages at the version, into a folder.
pub fn dnf_download(packages: &[&str], version: KubernetesVersion, folder: &str) -> Argv {
    let mut argv = dnf("install");
    argv.extend(["--downloadonly".to_owned(), format!("--downloaddir={folder}")]);
    argv.extend(packages.iter().map(|package| format!("{package}-{}", version.bare())));
    argv
}

/// `dnf install` of the packages at `1.31.2`, whichever build.
pub fn dnf_install(packages: &[&str], version: KubernetesVersion) -> Argv {
    let mut argv = dnf("install");
    argv.extend(packages.iter().map(|package| format!("{package}-{}", version.bare())));
    argv
}

/// `dnf install` of an exact package version, older ones too; `dnf reinstall` where it is there and its files are not.
pub fn dnf_exact(package: &str, version: &str, again: bool) -> Argv {
    let mut argv = dnf(if again { "reinstall" } else { "install" });
    argv.push(format!("{package}-{version}"));
    argv
}

/// `dnf install` of files, with no repository.
pub fn dnf_install_files(files: &[impl AsRef<str>]) -> Argv {
    dnf_files("install", files)
}

/// `dnf reinstall` of files, with no repository.
pub fn dnf_reinstall_files(files: &[impl AsRef<str>]) -> Argv {
    dnf_files("reinstall", files)
}

fn dnf_files(verb: &str, files: &[impl AsRef<str>]) -> Argv {
    let mut argv = dnf(verb);
    argv.push("--disablerepo=*".to_owned());
    argv.extend(files.iter().map(|file| file.as_ref().to_owned()));
    argv
}

/// `rpm --query --all`: name, version and release of what is installed under a pattern such as `kube*`.
pub fn rpm_query(pattern: &str) -> Argv {
    argv(&["rpm", "--query", "--all", r"--queryformat=%{NAME}\t%{VERSION}-%{RELEASE}\n", pattern])
}

/// `rpm --verify`: fails where files of a package are not as they came.
pub fn rpm_verify(package: &str) -> Argv {
    argv(&["rpm", "--verify", "--nodeps", "--noscripts", "--noconfig", "--nomtime", package])
}

/// `rpm --checksig`: compares a package's file with the digests in it.
pub fn rpm_check(file: &str) -> Argv {
    argv(&["rpm", "--checksig", "--nosignature", file])
}

/// `rpm --erase` of exact packages such as `kubeadm-1.30.4-150500.1.1`, of each of which another version is there too: files
/// of both stay.
pub fn rpm_erase(packages: &[String]) -> Argv {
    let mut argv = argv(&["rpm", "--erase", "--nodeps", "--noscripts", "--notriggers"]);
    argv.extend(packages.iter().cloned());
    argv
}

/// `rpm --install` of a file into a folder with a database of its own: unpacks it and runs nothing of it.
pub fn rpm_extract(file: &str, folder: &str) -> Argv {
    argv(&[
        "rpm",
        "--root",
        folder,
        "--install",
        "--nodeps",
        "--noscripts",
        "--notriggers",
        "--nosignature",
        file,
    ])
}

/// `kubectl version --client`
pub fn kubectl_version() -> Argv {
    argv(&["kubectl", "version", "--client", "--output=json"])
}

/// `ctr images import`: gives containerd the images of an archive where the kubelet looks for them. CRI has no such call.
pub fn ctr_import(archive: &str) -> Argv {
    argv(&["ctr", "--namespace", "k8s.io", "images", "import", archive])
}

/// `kubeadm config images list` by a kubeadm that is not installed, for a cluster's configuration.
pub fn kubeadm_images(kubeadm: &str, configuration: &str) -> Argv {
    argv(&[kubeadm, "config", "images", "list", &format!("--config={configuration}")])
}

/// `kubeadm upgrade diff` against what kubeadm makes of kubeadm-config at this version; changes nothing.
pub fn kubeadm_upgrade_diff(version: KubernetesVersion) -> Argv {
    argv(&["kubeadm", "upgrade", "diff", &version.to_string(), "--context-lines=0"])
}

/// `kubeadm version --output=short`
pub fn kubeadm_version() -> Argv {
    argv(&["kubeadm", "version", "--output=short"])
}

/// `kubelet --version`
pub fn kubelet_version() -> Argv {
    argv(&["kubelet", "--version"])
}

/// `etcdutl version` or `etcdctl version`
pub fn etcd_tool_version(program: &str) -> Argv {
    argv(&[program, "version"])
}

/// `etcdctl snapshot restore` into a scratch folder, which it makes (0700) and which must not be there yet. What comes
/// out is a member of a cluster of one that is never started.
pub fn etcd_rehearse(program: &str, snapshot: &str, data_dir: &str) -> Argv {
    argv(&[program, "snapshot", "restore", snapshot, &format!("--data-dir={data_dir}")])
}

/// Where the control plane's manifests wait while etcd is restored.
pub const RESTORE_ASIDE: &str = "/etc/kubernetes/liftlock-restore";

/// `ctr … images list`: says the image's name where containerd has it for the kubelet.
pub fn ctr_image(image: &str) -> Argv {
    argv(&["ctr", "--namespace", "k8s.io", "images", "list", "--quiet", &format!("name=={image}")])
}

/// One of etcd's tools out of etcd's own image, by containerd's `ctr`: it asks no kubelet and no API server. It sees
/// /etc/kubernetes and `data_dir` where they are, and may write into the latter. Liftlock shows it and does not run it.
pub fn in_etcds_image(image: &str, data_dir: &str, tool: Argv) -> Argv {
    let mount = |path: &str, access: &str| format!("type=bind,src={path},dst={path},options=rbind:{access}");
    let mut argv = argv(&["ctr", "--namespace", "k8s.io", "run", "--rm", "--net-host"]);
    for mount in [mount("/etc/kubernetes", "ro"), mount(data_dir, "rw")] {
        argv.extend(["--mount".to_owned(), mount]);
    }
    argv.extend([image.to_owned(), "liftlock-etcd".to_owned()]);
    argv.extend(tool);
    argv
}

/// A member of etcd as it begins anew out of a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct RestoredMember<'a> {
    /// Its name: the node's.
    pub name: &'a str,
    /// Where its peers will reach it.
    pub peer_urls: &'a str,
    /// Where its data will lie; must not be there yet.
    pub data_dir: &'a str,
    /// Every member: `cp1=https://10.0.0.1:2380,cp2=…`
    pub initial_cluster: &'a str,
    /// Other than any before, so that no member of the old cluster joins the new one.
    pub token: &'a str,
}

/// `etcdctl snapshot restore` of one member of a cluster. Liftlock shows it and does not run it.
pub fn etcd_restore(program: &str, snapshot: &str, member: &RestoredMember<'_>) -> Argv {
    let RestoredMember { name, peer_urls, data_dir, initial_cluster, token } = member;
    let mut argv = argv(&[program, "snapshot", "restore", snapshot]);
    argv.extend([
        format!("--data-dir={data_dir}"),
        format!("--name={name}"),
        format!("--initial-cluster={initial_cluster}"),
        format!("--initial-cluster-token={token}"),
        format!("--initial-advertise-peer-urls={peer_urls}"),
    ]);
    argv
}

/// `etcdctl` as kubeadm's own certificates let it ask the member on the same node. Liftlock shows it and does not run it.
pub fn etcdctl_local(words: &[&str]) -> Argv {
    let mut argv = argv(&[
        "etcdctl",
        "--endpoints=https://127.0.0.1:2379",
        "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
        "--cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "--key=/etc/kubernetes/pki/etcd/healthcheck-client.key",
    ]);
    argv.extend(words.iter().map(|&word| word.to_owned()));
    argv
}

/// `systemctl daemon-reload`
pub fn systemctl_daemon_reload() -> Argv {
    argv(&["systemctl", "daemon-reload"])
}

/// `systemctl restart kubelet.service`
pub fn systemctl_restart_kubelet() -> Argv {
    argv(&["systemctl", "restart", "kubelet.service"])
}

/// `systemctl stop kubelet.service`
pub fn systemctl_stop_kubelet() -> Argv {
    argv(&["systemctl", "stop", "kubelet.service"])
}

/// `systemctl restart systemd-journald.service`
pub fn systemctl_restart_journal() -> Argv {
    argv(&["systemctl", "restart", "systemd-journald.service"])
}

/// The packages that a node's tools come in.
pub const KUBERNETES_PACKAGES: [&str; 3] = ["kubeadm", "kubelet", "kubectl"];

/// Every command that a step runs to change a node whose packages come from there, in order; none for a step that asks an
/// API or handles files itself. Where needed, the agent adds [`dpkg_configure`] before an installation and, for packages
/// that were held, [`apt_hold`] after.
pub fn commands(step: &Step, source: &PackageSource) -> Vec<Argv> {
    let by_apt = source.directory.is_none() && source.manager == PackageManager::Apt;
    let by_dnf = source.directory.is_none() && source.manager == PackageManager::Dnf;
    match step {
        Step::RefreshPackages {} if by_dnf => vec![dnf_makecache()],
        Step::FetchPackages { version } if by_dnf => {
            vec![dnf_download(&KUBERNETES_PACKAGES, *version, RPMS)]
        }
        Step::InstallKubeadm { version } if by_dnf => vec![dnf_install(&["kubeadm"], *version)],
        Step::InstallKubelet { version } if by_dnf => vec![dnf_install(&["kubelet", "kubectl"], *version)],
        Step::RefreshPackages {} if by_apt => vec![apt_update()],
        Step::FetchPackages { version } if by_apt => vec![apt_download(&KUBERNETES_PACKAGES, *version)],
        Step::InstallKubeadm { version } if by_apt => vec![apt_install(&["kubeadm"], *version)],
        Step::KubeadmUpgradeApply { version, ignore_preflight_errors } => {
            vec![kubeadm_upgrade_apply(*version, ignore_preflight_errors)]
        }
        Step::KubeadmUpgradeNode { ignore_preflight_errors, .. } => {
            vec![kubeadm_upgrade_node(ignore_preflight_errors)]
        }
        Step::InstallKubelet { version } if by_apt => vec![apt_install(&["kubelet", "kubectl"], *version)],
        Step::Redeploy { command, .. } => vec![systemctl_stop_kubelet(), command.clone()],
        Step::KubeadmJoin { ignore_preflight_errors, .. } => {
            vec![kubeadm_join(&format!("/var/lib/liftlock/{JOIN_CONFIGURATION}"), ignore_preflight_errors)]
        }
        Step::KubeadmReset { .. } => vec![kubeadm_reset()],
        Step::RestartKubelet { .. } => vec![systemctl_daemon_reload(), systemctl_restart_kubelet()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: KubernetesVersion = KubernetesVersion::new(1, 20, 2);

    #[test]
    fn packages_are_named_at_their_version_and_the_operators_files_stay() {
        let install = apt_install(&["kubelet", "kubectl"], TARGET);
        assert!(install.ends_with(&["kubelet=1.20.2-*".to_owned(), "kubectl=1.20.2-*".to_owned()]));
        assert!(install.contains(&"--option=Dpkg::Options::=--force-confold".to_owned()));
        let exact = apt_install_exact(&[("kubeadm", "1.19.7-00")]);
        assert!(exact.contains(&"--allow-downgrades".to_owned()));
        assert_eq!(exact.last().map(String::as_str), Some("kubeadm=1.19.7-00"));
    }

    #[test]
    fn what_can_be_no_preflight_check_never_reaches_a_command() {
        let names = ["Swap", "", "a,b", "--config=/etc/shadow", "NumCPU"].map(str::to_owned);
        let argv = kubeadm_upgrade_node(&names);
        assert_eq!(argv.last().map(String::as_str), Some("--ignore-preflight-errors=Swap,NumCPU"));
        assert_eq!(kubeadm_upgrade_node(&[]), ["kubeadm", "upgrade", "node"]);
    }

    #[test]
    fn dpkg_query_is_given_its_own_escapes() {
        let query = dpkg_query("kube*");
        assert_eq!(query[2], "--showformat=${Package}\\t${Version}\\t${db:Status-Abbrev}\\n");
    }
}
