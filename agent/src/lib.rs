//! The node's side of Liftlock. See ARCHITECTURE.md for the rooms and the way of one plan through them.

pub mod backup;
pub mod disk;
pub mod engine;
pub mod etcd;
pub mod host;
pub mod kube;
pub mod packages;
pub mod runtime;
pub mod steps;
#[cfg(any(test, feature = "twin"))]
pub mod twin;
