//! The machine itself.

use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Component, Utf8PathBuf};
use liftlock_proto::name::NodeName;

use crate::addons::Addons;
use crate::etcd::RealEtcd;
use crate::hooks::Hooks;
use crate::host::{Commands, Files, Host, HostError, HostResult, Kube, Layout, Trees};
use crate::invitation::NoInvitations;
use crate::kube::RealKube;
use crate::packages::{NodePackages, PackageSettings};
use crate::redeploy::replacement::Replacement;
use crate::runtime::RealRuntime;

mod alone;
mod attributes;
mod beneath;
mod clock;
mod commands;
pub(crate) mod files;
#[cfg(test)]
mod files_tests;
mod mend;
mod mount;
mod programs;
mod readiness;
mod survey;
mod tree;
mod trees;
#[cfg(test)]
mod trees_tests;
mod unit_log;
mod units;

pub use alone::{Alone, alone_at};
pub use clock::RealClock;
pub use commands::RealCommands;
pub use files::RealFiles;
pub use trees::RealTrees;

/// Where programs are looked up unless the configuration says otherwise.
pub const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// An API server is away this long when its control plane is upgraded on a slow machine and a load balancer notices late.
pub const API_TIMEOUT: Duration = Duration::from_mins(3);

/// What the agent's configuration says of the machine.
#[derive(Debug, Clone)]
pub struct RealConfig {
    /// This node's name in the cluster.
    pub node: NodeName,
    /// Where things lie.
    pub layout: Layout,
    /// Folders in which programs are looked up; [`PATH`] on a real node.
    pub path: Vec<Utf8PathBuf>,
    /// The container runtime's socket, a path or `unix://` and a path; the kubelet's own if there is none.
    pub runtime_endpoint: Option<String>,
    /// This node's etcd; `https://127.0.0.1:2379` if there is none.
    pub etcd_endpoint: Option<String>,
    /// How long a step goes on asking an API server that does not answer; [`API_TIMEOUT`] unless somebody knows better.
    pub api_timeout: Duration,
    /// What brings its packages, and from where.
    pub packages: PackageSettings,
    /// How this host is replaced as a whole.
    pub redeploy: Option<Arc<Replacement>>,
    /// Where add-ons lie, and how they are applied.
    pub addons: Arc<Addons>,
    /// What a plan may name to be run here.
    pub hooks: Arc<Hooks>,
}

/// The host of a real node, or of a stand-in for one. Nothing is read before the first question. Refuses a root or
/// a state folder that is not absolute: what lies below them is compared with them.
pub fn host(config: &RealConfig) -> HostResult<Host> {
    let layout = config.layout.clone();
    for folder in [&layout.root, &layout.state_dir] {
        if !folder.is_absolute() || folder.components().any(|part| part == Utf8Component::ParentDir) {
            return Err(HostError::Malformed {
                what: format!("the folder {folder} in the agent's configuration"),
                why: "it must be an absolute path without `..`".to_owned(),
            });
        }
    }
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(layout.clone()));
    let trees: Arc<dyn Trees> = Arc::new(RealTrees::new(layout.clone()));
    let commands: Arc<dyn Commands> = Arc::new(RealCommands::new(&layout, config.path.clone()));
    let real = Arc::new(RealKube::new(config.node.clone(), layout.clone(), files.clone()));
    let kube: Arc<dyn Kube> = real.clone();
    let runtime = RealRuntime::new(layout.clone(), files.clone(), config.runtime_endpoint.clone());
    let etcd = RealEtcd::new(layout.clone(), files.clone(), config.etcd_endpoint.clone());
    let path = config.path.clone();
    let packages = NodePackages::new(
        config.packages.clone(),
        &layout,
        files.clone(),
        commands.clone(),
        &trees,
        &kube,
        path,
    );
    Ok(Host {
        layout,
        files,
        trees,
        commands,
        packages: Arc::new(packages),
        kube,
        objects: real,
        etcd: Arc::new(etcd),
        runtime: Arc::new(runtime),
        clock: Arc::new(RealClock),
        api_timeout: config.api_timeout,
        redeploy: config.redeploy.clone(),
        addons: config.addons.clone(),
        hooks: config.hooks.clone(),
        invitations: Arc::new(NoInvitations),
    })
}
