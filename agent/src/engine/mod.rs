//! Runs a node's steps so that a crash at any moment can be recovered from.

pub mod context;
pub mod lease;
pub mod step;
