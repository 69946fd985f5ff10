//! Simulated roll-outs: the coordinator's keeper and core, the agents' session, engine and steps, all as they ship, on
//! the twin of a cluster and in virtual time, under schedules of misfortunes that follow from a seed.
//!
//! Nothing is stood in for but what lies beyond the boundaries: the machine ([`liftlock_agent::twin`]), the agents' disk,
//! the coordinator's store, the network, the clocks and the threads. A schedule takes a few milliseconds, so that there
//! can be very many, and the same seed gives the same run to the last message.

pub mod dice;
mod disk;
pub mod laws;
mod ledger;
mod many;
mod outside;
mod process;
pub mod run;
pub mod sabotage;
pub mod schedule;
mod store;
pub mod surroundings;
mod wire;
pub mod workload;

pub use many::{Report, authority, main, shortest, simulate};
