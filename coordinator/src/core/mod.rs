//! The pure core: what a plan is made of, what a roll-out's next state is, and what to do next.
//!
//! No input or output, no clock, no randomness: the same inputs give the same answers, so that it can be
//! simulated by the million. The rooms around it record what it says ([`crate::store`]) and carry it out
//! ([`crate::rpc`]).

pub mod absent;
pub mod addons;
pub mod alerts;
pub mod batches;
pub mod blocked;
pub mod budget;
pub mod catalogue;
pub mod conduct;
pub mod decide;
pub mod dismissal;
pub mod forecast;
pub mod gates;
pub mod history;
pub mod hold;
pub mod hooks;
pub mod left_behind;
pub mod leg;
pub mod marks;
pub mod membership;
pub mod minors;
pub mod node_hooks;
pub mod path;
pub mod planning;
pub mod pools;
pub mod replacement;
pub mod restoration;
pub mod reversal;
pub mod rollout;
pub mod selector;
pub mod sequence;
pub mod surge;
pub mod view;
pub mod window;
