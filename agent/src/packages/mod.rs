//! The packages that a node's Kubernetes tools come in.

mod apt;
mod output;
mod scratch;

pub use apt::Apt;
