//! The packages that a node's Kubernetes tools come in.

mod ahead;
mod apt;
mod checksum;
mod chosen;
mod directory;
mod dnf;
pub mod minor;
mod newer;
mod output;
mod plain;
mod programs;
pub(crate) mod scratch;
pub mod surplus;

pub use chosen::{NodePackages, PackageSettings};
