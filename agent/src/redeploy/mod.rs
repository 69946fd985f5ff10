//! Hosts that are replaced as a whole, as container or image based nodes are: what the node must keep is exported to a
//! store that outlives the system ([`export`]), the operator's own command replaces the system, and the new one brings it
//! back before its agent starts ([`import`]).
//!
//! ```text
//! <store>/<node>-<token>/   0700, one for each lease that came so far
//!   content.pack            the contents of all files, one after another, each once
//!   index.json              what lies where, with owner, mode, times, attributes and BLAKE3; checksummed, written last
//! ```
//!
//! An export without an index is none. It holds the agent's own state too, with the journal that says that the
//! replacement was begun: the agent of the new system goes on with the lease as after any other crash.

pub mod export;
pub mod import;
pub mod index;
mod kept;
pub mod record;
pub mod replacement;
pub mod store;

#[cfg(test)]
mod tests;
