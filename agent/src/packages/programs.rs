//! What kubeadm and kubelet say of themselves, however they came onto the node.

use std::time::Duration;

use camino::Utf8Path;
use liftlock_proto::argv::{self, Argv};
use liftlock_proto::version::KubernetesVersion;

use super::output;
use super::scratch::Scratch;
use crate::host::{Commands, HostError, HostResult, Kube};

/// How long a question to a program may take.
pub(super) const ASKING: Duration = Duration::from_mins(1);

/// The version that the installed kubeadm or kubelet reports.
pub(super) async fn version_of(commands: &dyn Commands, program: &str) -> HostResult<KubernetesVersion> {
    let argv = match program {
        "kubeadm" => argv::kubeadm_version(),
        "kubelet" => argv::kubelet_version(),
        other => {
            return Err(HostError::Malformed {
                what: format!("the program {other}"),
                why: "only kubeadm and kubelet are asked for their version".to_owned(),
            });
        }
    };
    output::binary_version(program, &commands.read(&argv, ASKING).await?)
}

/// Asks the kubeadm of a package that is not installed, which a command lays out in a folder.
pub(super) async fn images_by_package(
    extract: &Argv,
    commands: &dyn Commands,
    kube: &dyn Kube,
    scratch: &Scratch,
    version: KubernetesVersion,
) -> HostResult<Vec<String>> {
    commands.read(extract, ASKING).await?;
    images_by(&scratch.path().join("usr/bin/kubeadm"), commands, kube, scratch, version).await
}

/// Asks a kubeadm that is not installed for the images of the cluster's own configuration.
pub(super) async fn images_by(
    kubeadm: &Utf8Path,
    commands: &dyn Commands,
    kube: &dyn Kube,
    scratch: &Scratch,
    version: KubernetesVersion,
) -> HostResult<Vec<String>> {
    let map = kube.config_map("kubeadm-config").await?.ok_or_else(|| HostError::Malformed {
        what: "the ConfigMap kubeadm-config".to_owned(),
        why: "it is not there, and `kubeadm upgrade` needs it; put it back from a backup".to_owned(),
    })?;
    let configuration = output::cluster_configuration(&map, version)?;
    let configuration = scratch.write("cluster-configuration.yaml", &configuration)?;
    let argv = argv::kubeadm_images(kubeadm.as_str(), configuration.as_str());
    Ok(output::lines(&commands.read(&argv, ASKING).await?))
}
