//! The packages that a node's Kubernetes tools come in.

mod apt;
mod output;
pub(crate) mod scratch;

pub use apt::Apt;
