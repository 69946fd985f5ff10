//! The node's side of Liftlock. See ARCHITECTURE.md for the rooms and the way of one plan through them.

pub mod engine;
pub mod host;
