//! The flags in a static pod's manifest: how this node's API server and etcd are started.

use serde::Deserialize;

use crate::host::HostError;

/// Image and command of a static pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPod {
    name: String,
    /// Its reference, such as `k8s.gcr.io/etcd:3.4.13-0`.
    pub image: String,
    command: Vec<String>,
}

#[derive(Deserialize)]
struct Manifest {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
}

impl StaticPod {
    /// The container `name` of a manifest such as `/etc/kubernetes/manifests/kube-apiserver.yaml`.
    pub fn parse(name: &str, manifest: &[u8]) -> Result<Self, HostError> {
        let malformed =
            |why: String| HostError::Malformed { what: format!("the static pod manifest of {name}"), why };
        let text = std::str::from_utf8(manifest).map_err(|error| malformed(error.to_string()))?;
        let manifest: Manifest =
            serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let container = manifest
            .spec
            .containers
            .into_iter()
            .find(|container| container.name == name)
            .ok_or_else(|| malformed("it has no container of that name".to_owned()))?;
        let command = container.command.into_iter().chain(container.args).collect();
        Ok(Self { name: name.to_owned(), image: container.image, command })
    }

    /// The value of `--flag=value` or `--flag value`; the last one counts, as in the programs themselves.
    pub fn flag(&self, flag: &str) -> Option<&str> {
        let mut value = None;
        let mut words = self.command.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix("--").and_then(|word| word.strip_prefix(flag)) else {
                continue;
            };
            if let Some(given) = rest.strip_prefix('=') {
                value = Some(given);
            } else if rest.is_empty() {
                value = words.next_if(|next| !next.starts_with("--")).or(value);
            }
        }
        value
    }

    /// The value of a flag that kubeadm always writes.
    pub fn required(&self, flag: &str) -> Result<&str, HostError> {
        self.flag(flag).ok_or_else(|| HostError::Malformed {
            what: format!("the static pod manifest of {}", self.name),
            why: format!("it has no --{flag}, which kubeadm always writes; put the flag back"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real() -> StaticPod {
        let manifest = include_bytes!("../../../tests/fixtures/real/files/manifest-kube-apiserver/stdout");
        StaticPod::parse("kube-apiserver", manifest).unwrap()
    }

    #[test]
    fn the_flags_of_a_real_manifest_are_read() {
        let pod = real();
        assert_eq!(pod.flag("advertise-address"), Some("172.30.0.11"));
        assert_eq!(pod.flag("secure-port"), Some("6443"));
        assert_eq!(pod.flag("etcd-servers"), Some("https://127.0.0.1:2379"));
        assert_eq!(pod.flag("etcd"), None, "a flag is not taken for the beginning of another");
        assert!(pod.required("no-such-flag").is_err());
    }

    #[test]
    fn a_flag_may_have_its_value_in_the_next_word_and_the_last_one_counts() {
        let manifest = b"spec: {containers: [{name: x, command: [x, --a, '1', --b], args: [--a=2, --c]}]}";
        let pod = StaticPod::parse("x", manifest).unwrap();
        assert_eq!((pod.flag("a"), pod.flag("b"), pod.flag("c")), (Some("2"), None, None));
    }

    #[test]
    fn a_manifest_that_was_cut_off_is_an_error_that_names_it() {
        let whole = include_str!("../../../tests/fixtures/real/files/manifest-kube-apiserver/stdout");
        let cut = whole.get(..200).unwrap();
        let error = StaticPod::parse("kube-apiserver", cut.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("static pod manifest of kube-apiserver"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn a_flag_reads_back_whatever_stands_around_it(
            before in proptest::collection::vec("--[a-z]{1,8}(=[a-z0-9:/.,]{0,12})?", 0..6),
            value in "[a-z0-9:/.,]{1,20}",
            apart in proptest::bool::ANY,
        ) {
            let mut words = before;
            if apart {
                words.extend(["--the-flag".to_owned(), value.clone()]);
            } else {
                words.push(format!("--the-flag={value}"));
            }
            let pod = serde_json::json!({"spec": {"containers": [{"name": "x", "command": words}]}}).to_string();
            let pod = StaticPod::parse("x", pod.as_bytes()).unwrap();
            proptest::prop_assert_eq!(pod.flag("the-flag"), Some(value.as_str()));
        }
    }
}
