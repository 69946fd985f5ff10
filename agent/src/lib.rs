//! The node's side of Liftlock. See ARCHITECTURE.md for the rooms and the way of one plan through them.

pub mod addons;
pub mod backup;
pub mod config;
pub mod disk;
pub mod drift;
pub mod engine;
pub mod etcd;
pub mod facts;
pub mod findings;
pub mod hooks;
pub mod host;
pub mod invitation;
pub mod kube;
mod labels;
pub mod obstacles;
pub mod packages;
pub mod protect;
pub mod redeploy;
pub mod runtime;
pub mod session;
pub mod steps;
pub mod trust;
#[cfg(any(test, feature = "twin"))]
pub mod twin;
