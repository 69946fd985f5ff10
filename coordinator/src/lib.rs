//! The coordinator and the operator's command line. See ARCHITECTURE.md for the rooms.

pub mod core;
