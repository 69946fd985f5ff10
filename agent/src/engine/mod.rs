//! Runs a node's steps so that a crash at any moment can be recovered from.

pub mod context;
pub mod fence;
mod frame;
pub mod idle;
pub mod journal;
pub mod lease;
pub(crate) mod meter;
pub mod recovery;
pub mod runner;
pub mod step;
pub mod transition;
