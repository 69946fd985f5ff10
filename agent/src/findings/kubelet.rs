//! How a kubelet is started: by flags, which files of several kinds give it, and by its configuration file.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::v1::{FileSetting, KubeconfigFacts, KubeletFacts};
use serde::Deserialize;

use super::{spelled, told};
use crate::host::{Host, HostError, HostResult};

/// Where kubeadm and its packages' drop-in take flags from: Debian's and Red Hat's file for an administrator's own.
const FLAG_FILES: [&str; 3] =
    ["/var/lib/kubelet/kubeadm-flags.env", "/etc/default/kubelet", "/etc/sysconfig/kubelet"];

/// Where systemd finds the kubelet's unit; where both folders of a distribution are one, the first of them.
const UNIT_FOLDERS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Where kubeadm writes the kubelet's configuration.
const CONFIGURATION: &str = "/var/lib/kubelet/config.yaml";

/// How this node's kubelet is started.
pub async fn kubelet(host: &Host) -> KubeletFacts {
    told(read(host).await, |facts| facts, |unread| KubeletFacts { unread, ..KubeletFacts::default() })
}

/// Which API server it speaks to.
pub async fn kubelet_kubeconfig(host: &Host) -> KubeconfigFacts {
    told(
        server(host).await,
        |server| KubeconfigFacts { server, ..KubeconfigFacts::default() },
        |unread| KubeconfigFacts { unread, ..KubeconfigFacts::default() },
    )
}

/// A flag with its value, and the file that gives it.
struct Flag {
    name: String,
    value: String,
    file: Utf8PathBuf,
}

async fn read(host: &Host) -> HostResult<KubeletFacts> {
    let mut flags = Vec::new();
    for file in flag_files(host).await? {
        // What the kubelet's own unit does not find it passes over too.
        let Some(text) = host.files.read(&host.layout.at(file.as_str())).await? else {
            continue;
        };
        let given = flags_in(&String::from_utf8_lossy(&text));
        flags.extend(given.into_iter().map(|(name, value)| Flag { name, value, file: file.clone() }));
    }
    let value =
        |name: &str| flags.iter().rev().find(|flag| flag.name == name).map(|flag| flag.value.as_str());
    let path = Utf8Path::new(value("--config").filter(|path| path.starts_with('/')).unwrap_or(CONFIGURATION));
    let configuration = configuration(host, path).await?;
    let setting = |name: &str, file: &Utf8Path| FileSetting { name: name.to_owned(), file: file.to_string() };
    let mut feature_gates: Vec<FileSetting> =
        configuration.feature_gates.keys().map(|gate| setting(gate, path)).collect();
    for flag in flags.iter().filter(|flag| flag.name == "--feature-gates") {
        let gates = flag.value.split(',').filter_map(|gate| gate.split_once('='));
        feature_gates.extend(gates.map(|(gate, _)| setting(gate.trim(), &flag.file)));
    }
    Ok(KubeletFacts {
        unread: String::new(),
        fails_on_swap: value("--fail-swap-on")
            .map_or(configuration.fail_swap_on != Some(false), |on| on != "false"),
        starts_on_cgroup_v1: value("--fail-cgroupv1")
            .map_or(configuration.fail_cgroup_v1 == Some(false), |fails| fails == "false"),
        flags: flags.iter().map(|flag| setting(&flag.name, &flag.file)).collect(),
        feature_gates,
    })
}

/// Every file that may give flags, as on a real node.
async fn flag_files(host: &Host) -> HostResult<Vec<Utf8PathBuf>> {
    let mut files: Vec<Utf8PathBuf> = FLAG_FILES.map(Utf8PathBuf::from).into();
    let mut found = false;
    for folder in UNIT_FOLDERS {
        let folder = Utf8Path::new(folder);
        if found && folder.starts_with("/lib") {
            continue;
        }
        let drop_ins = folder.join("kubelet.service.d");
        for name in host.files.list(&host.layout.at(drop_ins.as_str())).await? {
            if Utf8Path::new(&name).extension() == Some("conf") {
                found |= folder.starts_with("/usr/lib");
                files.push(drop_ins.join(name));
            }
        }
        files.push(folder.join("kubelet.service"));
    }
    Ok(files)
}

/// The flags in a file of `NAME="--flag=value …"`, or in a unit: whatever begins with two dashes, comments left out.
fn flags_in(text: &str) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let apart = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
        let mut words = line.split(apart).filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            // `Environment="KUBELET_EXTRA_ARGS=--v=2"`: the first flag stands right after its variable.
            let flag = if word.starts_with("--") {
                Some(word)
            } else {
                word.find("=--").and_then(|at| word.get(at + 1..))
            };
            let Some(flag) = flag else {
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value),
                None => (flag, words.next_if(|next| !next.starts_with(['-', '$'])).unwrap_or_default()),
            };
            flags.push((spelled(name), value.to_owned()));
        }
    }
    flags
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    feature_gates: BTreeMap<String, bool>,
    fail_swap_on: Option<bool>,
    fail_cgroup_v1: Option<bool>,
}

async fn configuration(host: &Host, path: &Utf8Path) -> HostResult<Configuration> {
    let Some(text) = host.files.read(&host.layout.at(path.as_str())).await? else {
        return Ok(Configuration::default());
    };
    serde_saphyr::from_str(&String::from_utf8_lossy(&text)).map_err(|error| HostError::Malformed {
        what: format!("the kubelet's configuration {path}"),
        why: error.to_string(),
    })
}

async fn server(host: &Host) -> HostResult<String> {
    #[derive(Deserialize)]
    struct Kubeconfig {
        clusters: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        cluster: Cluster,
    }
    #[derive(Deserialize)]
    struct Cluster {
        server: String,
    }
    let path = host.layout.kubelet_kubeconfig();
    let malformed =
        |why: String| HostError::Malformed { what: format!("the kubelet's kubeconfig {path}"), why };
    let text = host.files.read(&path).await?.ok_or_else(|| malformed("it is not there".to_owned()))?;
    let kubeconfig: Kubeconfig = serde_saphyr::from_str(&String::from_utf8_lossy(&text))
        .map_err(|error| malformed(error.to_string()))?;
    // kubeadm writes one.
    let first =
        kubeconfig.clusters.into_iter().next().ok_or_else(|| malformed("it names no cluster".to_owned()))?;
    Ok(first.cluster.server.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Vec<(String, String)> {
        flags_in(text)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_flags_that_kubeadm_wrote_are_read() {
        let real = include_str!("../../../tests/fixtures/real/files/kubeadm-flags.env/stdout");
        let names: Vec<String> = flags(real).into_iter().map(|(name, _)| name).collect();
        assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("--")), "{names:?}");
    }

    #[test]
    fn flags_stand_in_variables_in_quotes_or_by_themselves_and_have_their_values_beside_them() {
        assert_eq!(
            flags("KUBELET_EXTRA_ARGS=\"--v=2 --feature-gates=A=true,B=false\"\n# --old=1\n"),
            [pair("--v", "2"), pair("--feature-gates", "A=true,B=false")]
        );
        assert_eq!(flags("Environment=\"ARGS=--network-plugin cni\""), [pair("--network-plugin", "cni")]);
        assert_eq!(
            flags("ExecStart=/usr/bin/kubelet --config /etc/k.yaml --cloud-config $KUBELET_ARGS"),
            [pair("--config", "/etc/k.yaml"), pair("--cloud-config", "")]
        );
        assert_eq!(flags("ARGS=--log_dir=/var/log_dir"), [pair("--log-dir", "/var/log_dir")]);
        assert_eq!(flags("EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nRestart=always"), []);
    }

    #[test]
    fn a_configuration_says_what_a_kubelet_bears() {
        let text =
            "featureGates: {NodeSwap: true}\nfailSwapOn: false\nfailCgroupV1: false\nstaticPodPath: /x\n";
        let read: Configuration = serde_saphyr::from_str(text).unwrap();
        assert_eq!(read.feature_gates.keys().collect::<Vec<_>>(), ["NodeSwap"]);
        assert_eq!((read.fail_swap_on, read.fail_cgroup_v1), (Some(false), Some(false)));
        let kubeadms = include_str!("../../../tests/fixtures/real/files/kubelet-config.yaml/stdout");
        serde_saphyr::from_str::<Configuration>(kubeadms).unwrap();
    }
}
