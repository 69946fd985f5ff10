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

/// Why nobody can look: a kubeadm of another minor words manifests in its own way, which would be taken for edits.
pub fn unseen(kubeadm: KubernetesVersion, running: KubernetesVersion) -> Option<String> {
    (kubeadm.minor != running.minor).then(|| {
        format!(
            "its kubeadm is {kubeadm} and its API server runs {running}, and only a kubeadm of the same minor tells an edit from \
             its own words: look at /etc/kubernetes/manifests there yourself, or install kubeadm of {} again",
            running.minor_name()
        )
    })
}

/// The manifests of this control plane that are not what kubeadm makes of kubeadm-config at the version that runs, which is of
/// the minor of the kubeadm that is installed. etcd's manifest is not among them, kubeadm compares the other three.
pub async fn find(host: &Host, running: KubernetesVersion) -> HostResult<Vec<ManifestDrift>> {
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
    fn where_kubeadm_is_of_another_minor_it_is_said_that_nobody_can_look_and_what_to_do() {
        let [older, newer] = ["v1.30.4", "v1.31.2"].map(|version| version.parse().unwrap());
        let why = unseen(newer, older).unwrap();
        for part in ["its kubeadm is v1.31.2", "runs v1.30.4", "install kubeadm of v1.30 again"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert_eq!(unseen(newer, KubernetesVersion::new(1, 31, 0)), None);
    }

    #[test]
    fn manifests_as_kubeadm_wrote_them_are_no_drift() {
        assert_eq!(parse(include_str!("../../tests/fixtures/real/kubeadm/upgrade-diff-same/stdout")), []);
        assert_eq!(parse(""), []);
    }
}
