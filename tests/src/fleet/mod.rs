//! Liftlock itself as processes: a coordinator, agents and the command line, on stand-in nodes.

pub mod binaries;
