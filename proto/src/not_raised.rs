//! The taint of nodes that are not raised yet while others are: a pod that is evicted lands on a raised node where there
//! is room, and is moved once.

/// Its key.
pub const KEY: &str = "liftlock.dev/not-raised";

/// Its effect: the scheduler prefers other nodes, and takes these where no other has room. It evicts nobody.
pub const EFFECT: &str = "PreferNoSchedule";
