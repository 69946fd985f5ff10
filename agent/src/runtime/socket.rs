//! Where the container runtime listens: where the kubelet looks for it.

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use crate::host::{Files, HostError, HostResult, Layout};

/// kubeadm's own defaults, in its order of preference on Linux.
const USUAL: [&str; 2] = ["/run/containerd/containerd.sock", "/var/run/crio/crio.sock"];
const FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
const CONFIGURATION: &str = "/var/lib/kubelet/config.yaml";

/// The socket: what Liftlock's configuration says, else the kubelet's flags (until 1.26 kubeadm wrote them), else
/// the kubelet's configuration (since 1.27), else the usual ones.
pub(super) async fn find(
    layout: &Layout,
    files: &dyn Files,
    configured: Option<&str>,
) -> HostResult<Utf8PathBuf> {
    if let Some(endpoint) = configured {
        return Ok(socket(endpoint).to_owned());
    }
    let text = async |path: &str| -> HostResult<String> {
        let content = files.read(&layout.at(path)).await?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&content).into_owned())
    };
    if let Some(endpoint) = in_flags(&text(FLAGS).await?) {
        return Ok(layout.at(socket(&endpoint).as_str()));
    }
    if let Some(endpoint) = in_configuration(&text(CONFIGURATION).await?) {
        return Ok(layout.at(socket(&endpoint).as_str()));
    }
    for path in USUAL {
        let path = layout.at(path);
        if files.exists(&path).await? {
            return Ok(path);
        }
    }
    Err(HostError::Malformed {
        what: "the container runtime".to_owned(),
        why: format!(
            "neither {FLAGS} nor {CONFIGURATION} names its socket, and none is at {}; \
             set `runtime-endpoint` in /etc/liftlock/agent.toml",
            USUAL.join(" or ")
        ),
    })
}

/// The path of an endpoint, which may have a scheme.
fn socket(endpoint: &str) -> &Utf8Path {
    Utf8Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

/// The value of `--container-runtime-endpoint` in `KUBELET_KUBEADM_ARGS="…"`.
fn in_flags(text: &str) -> Option<String> {
    let words = || text.split(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    let joined = words().find_map(|word| word.strip_prefix("--container-runtime-endpoint="));
    let apart = || words().skip_while(|word| *word != "--container-runtime-endpoint").nth(1);
    joined.or_else(apart).filter(|value| !value.is_empty()).map(str::to_owned)
}

fn in_configuration(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Configuration {
        container_runtime_endpoint: Option<String>,
    }
    let configuration: Configuration = serde_saphyr::from_str(text).ok()?;
    configuration.container_runtime_endpoint.filter(|endpoint| !endpoint.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_in_real_kubelet_flags_is_found() {
        let real = include_str!("../../../tests/fixtures/real/files/kubeadm-flags.env/stdout");
        assert_eq!(in_flags(real).as_deref(), Some("/run/containerd/containerd.sock"));
    }

    #[test]
    fn the_flag_may_be_anywhere_and_its_value_apart() {
        let found = |text| in_flags(text).as_deref().map(socket).map(ToString::to_string);
        let text = "KUBELET_KUBEADM_ARGS=\"--a=b --container-runtime-endpoint unix:///run/crio.sock --c\"\n";
        assert_eq!(found(text).as_deref(), Some("/run/crio.sock"));
        assert_eq!(found("KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=\""), None);
        assert_eq!(found("KUBELET_KUBEADM_ARGS=\"--network-plugin=cni\""), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn the_socket_in_a_kubelet_configuration_is_found() {
        let text =
            "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n";
        assert_eq!(in_configuration(text).as_deref(), Some("unix:///run/containerd/containerd.sock"));
        let real = include_str!("../../../tests/fixtures/real/files/kubelet-config.yaml/stdout");
        assert_eq!(in_configuration(real), None);
        assert_eq!(in_configuration("containerRuntimeEndpoint: ''"), None);
    }
}
