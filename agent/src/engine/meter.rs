//! Adds up where a lease's time goes, on its way to whoever else hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::context::{Reporter, TimeSpent};
use crate::engine::transition::Spent;

/// Stands between the steps and the real reporter.
pub(crate) struct Meter {
    inner: Arc<dyn Reporter>,
    // Microseconds: many short children would otherwise lose most of their time to rounding.
    child_us: AtomicU64,
    wait_us: AtomicU64,
    snapshot_us: AtomicU64,
}

impl Meter {
    pub(crate) fn new(inner: Arc<dyn Reporter>) -> Self {
        Self {
            inner,
            child_us: AtomicU64::new(0),
            wait_us: AtomicU64::new(0),
            snapshot_us: AtomicU64::new(0),
        }
    }

    /// All time so far.
    pub(crate) fn spent(&self) -> Spent {
        let ms = |us: &AtomicU64| us.load(Ordering::Relaxed) / 1000;
        Spent { child_ms: ms(&self.child_us), wait_ms: ms(&self.wait_us), snapshot_ms: ms(&self.snapshot_us) }
    }

    /// The time since an earlier reading.
    pub(crate) fn since(&self, before: Spent) -> Spent {
        let now = self.spent();
        Spent {
            child_ms: now.child_ms.saturating_sub(before.child_ms),
            wait_ms: now.wait_ms.saturating_sub(before.wait_ms),
            snapshot_ms: now.snapshot_ms.saturating_sub(before.snapshot_ms),
        }
    }
}

impl Reporter for Meter {
    fn line(&self, step: &str, line: &str) {
        self.inner.line(step, line);
    }

    fn spent(&self, on: TimeSpent, duration: Duration) {
        let counter = match on {
            TimeSpent::Child => &self.child_us,
            TimeSpent::Wait => &self.wait_us,
            TimeSpent::Snapshot => &self.snapshot_us,
        };
        counter.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.inner.spent(on, duration);
    }
}
