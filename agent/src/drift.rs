//! Static pod manifests that somebody edited by hand. `kubeadm upgrade` makes each anew from kubeadm-config, and the edit
//! is gone.

use std::time::Duration;

use liftlock_proto::argv;
use liftlock_proto::v1::ManifestDrift;
use liftlock_proto::version::KubernetesVersion;

use crate::host::{Host, HostResult};

/// kubeadm asks the API for its configuration and renders three manifests.
const LIMIT: Duration = Duration::from_secs(30);

/// How many changed lines of a manifest are told.
const LINES: usize = 40;

/// The manifests of this control plane that are not what kubeadm makes of kubeadm-config at the version that runs. Empty
/// where the kubeadm that is installed is of another minor version: it words manifests in its own way. etcd's manifest
/// is not among them, kubeadm compares the other three.
pub async fn find(
    host: &Host,
    kubeadm: KubernetesVersion,
    running: KubernetesVersion,
) -> HostResult<Vec<ManifestDrift>> {
    if kubeadm.minor != running.minor {
        return Ok(Vec::new());
    }
    let diff = host.commands.read(&argv::kubeadm_upgrade_diff(running), LIMIT).await?;
    Ok(parse(&diff))
}

/// Reads a unified diff of several files, as kubeadm prints it after lines of its own.
fn parse(diff: &str) -> Vec<ManifestDrift> {
    let mut drifts: Vec<ManifestDrift> = Vec::new();
    for line in diff.lines() {
        if let Some(path) = line.strip_prefix("--- /") {
            drifts.push(ManifestDrift { path: format!("/{}", path.trim_end()), lines: Vec::new() });
        } else if let Some(drift) = drifts.last_mut()
            && (line.starts_with('-') || (line.starts_with('+') && !line.starts_with("+++ ")))
            && drift.lines.len() < LINES
        {
            drift.lines.push(line.trim_end().to_owned());
        }
    }
    drifts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubeadm_said_of_an_edited_manifest_becomes_its_path_and_its_lines() {
        let drifts = parse(include_str!("../../tests/fixtures/real/kubeadm/upgrade-diff-edited/stdout"));
        let [ManifestDrift { path, lines }] = drifts.as_slice() else { panic!("{drifts:?}") };
        assert_eq!(path, "/etc/kubernetes/manifests/kube-scheduler.yaml");
        assert_eq!(lines, &["-    - --profiling=false"]);
    }

    #[test]
    fn manifests_as_kubeadm_wrote_them_are_no_drift() {
        assert_eq!(parse(include_str!("../../tests/fixtures/real/kubeadm/upgrade-diff-same/stdout")), []);
        assert_eq!(parse(""), []);
    }
}
