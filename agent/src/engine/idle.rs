//! Whose turn it is to change something on this node: a lease's engine, or housekeeping while there is no lease.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// One at a time. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<Mutex<()>>);

/// Held by the engine of a lease for as long as it runs.
#[derive(Debug)]
pub struct Busy(#[expect(dead_code, reason = "it is there to be dropped")] OwnedMutexGuard<()>);

/// Proof that no lease is carried out on this node, and that none begins before this is dropped.
#[derive(Debug)]
pub struct Idle(#[expect(dead_code, reason = "it is there to be dropped")] OwnedMutexGuard<()>);

impl Turn {
    /// For a lease. Housekeeping under way is waited for: it is short, and the lease is renewed meanwhile.
    pub async fn take(&self) -> Busy {
        Busy(Arc::clone(&self.0).lock_owned().await)
    }

    /// For housekeeping; `None` while a lease is carried out, or other housekeeping.
    pub fn idle(&self) -> Option<Idle> {
        Arc::clone(&self.0).try_lock_owned().ok().map(Idle)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn housekeeping_and_a_lease_have_their_turns_one_after_the_other() {
        let turn = Turn::default();
        let idle = turn.idle().unwrap();
        assert!(turn.take().now_or_never().is_none(), "a lease began in the middle of housekeeping");
        assert!(turn.idle().is_none());
        drop(idle);
        let busy = turn.take().await;
        assert!(turn.idle().is_none(), "housekeeping began in the middle of a lease");
        drop(busy);
        assert!(turn.idle().is_some());
    }
}
