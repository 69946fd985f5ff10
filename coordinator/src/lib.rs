//! The coordinator and the operator's command line. See ARCHITECTURE.md for the rooms.

pub mod cli;
pub mod clock;
pub mod core;
pub mod document;
pub mod identity;
pub mod keeper;
pub mod plans;
pub mod printable;
pub mod rpc;
pub mod serve;
pub mod store;
