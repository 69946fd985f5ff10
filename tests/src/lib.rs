//! Stand-in nodes on which the real programs run unchanged, and the fleet that starts those programs.
//!
//! [`standin`] is the machine and the cluster: folders, programs and servers. [`fleet`] is Liftlock itself as
//! processes: a coordinator, agents, and the command line. The end-to-end tests and `cargo demo` use both.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests stand on the other side of the host boundary: they are the host"
)]
#![expect(clippy::indexing_slicing, reason = "stand-ins index JSON of their own making")]

pub mod demo;
pub mod fleet;
pub mod matrix;
pub mod powercut;
pub mod scratch;
pub mod simulation;
pub mod standin;
