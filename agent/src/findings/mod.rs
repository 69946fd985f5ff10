//! What a raise depends on and that nobody would notice before it fails: the coordinator's gates judge it. Everything is
//! read; what cannot be read says why.

use std::fmt::Display;

mod api_server;
mod certificates;
mod cluster;
mod json;
mod kubelet;
mod machine;
mod stored;

pub use api_server::api_server;
pub use certificates::certificates;
pub use cluster::{arguments, etcd, workloads};
pub use json::as_json;
pub use kubelet::{kubelet, kubelet_kubeconfig};
pub use machine::{cgroup, room, swap};
pub use stored::{VANISHING, stored};

/// A message about what was read, or one that says why it was not.
fn told<T, M, E: Display>(
    read: Result<T, E>,
    message: impl FnOnce(T) -> M,
    unread: impl FnOnce(String) -> M,
) -> M {
    match read {
        Ok(found) => message(found),
        Err(error) => unread(error.to_string()),
    }
}

/// A flag's name as the table of facts has it: Kubernetes' components take `--log_dir` for `--log-dir`
/// (k8s.io/component-base, cli/flag/flags.go: `WordSepNormalizeFunc`).
fn spelled(name: &str) -> String {
    name.replace('_', "-")
}
