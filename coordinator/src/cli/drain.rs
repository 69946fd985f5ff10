//! What an operator decides of drains, whatever they are for.

use clap::Args;
use liftlock_proto::plan::Policy;

use crate::cli::time::parse_seconds;

/// Options of every verb whose plan drains nodes.
#[derive(Debug, Args)]
#[group(id = "drain", multiple = true)]
pub struct DrainArgs {
    /// How long the drain of a node may take.
    #[arg(long, help_heading = "Policy", value_name = "DURATION", default_value = "10m", value_parser = parse_seconds)]
    drain_timeout: u32,
    /// Delete pods that no controller would start again.
    #[arg(long, help_heading = "Policy")]
    delete_unmanaged_pods: bool,
    /// Delete pods whose emptyDir volumes are lost with them.
    #[arg(long, help_heading = "Policy")]
    delete_empty_dir_data: bool,
    /// Names of checks of kubeadm whose errors are ignored, such as `CoreDNSMigration` or `Swap`.
    #[arg(long, help_heading = "Policy", value_name = "CHECK,…", value_delimiter = ',')]
    ignore_preflight_errors: Vec<String>,
}

impl DrainArgs {
    /// The policy that says this, and nothing else.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            drain_timeout_seconds: self.drain_timeout,
            delete_unmanaged_pods: self.delete_unmanaged_pods,
            delete_empty_dir_data: self.delete_empty_dir_data,
            ignore_preflight_errors: self.ignore_preflight_errors.clone(),
            ..Policy::default()
        }
    }
}
