//! Adds up where a lease's time goes, on its way to whoever else hears of it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::context::{Reporter, TimeSpent};
use crate::engine::transition::Spent;

/// Stands between the steps and the real reporter.
pub(crate) struct Meter {
    inner: Arc<dyn Reporter>,
    busy: Mutex<Busy>,
}

#[derive(Default)]
struct Busy {
    child: Moments,
    wait: Moments,
    snapshot: Moments,
}

/// Moments of the monotonic clock, each counted once, however many things went on in it side by side. Disjoint.
#[derive(Default)]
pub(crate) struct Moments(Vec<Range<Duration>>);

impl Moments {
    pub(crate) fn add(&mut self, mut during: Range<Duration>) {
        self.0.retain(|known| {
            let apart = known.end < during.start || during.end < known.start;
            if !apart {
                during = known.start.min(during.start)..known.end.max(during.end);
            }
            apart
        });
        self.0.push(during);
    }

    pub(crate) fn total(&self) -> Duration {
        self.0.iter().map(|during| during.end.saturating_sub(during.start)).sum()
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.total().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Meter {
    pub(crate) fn new(inner: Arc<dyn Reporter>) -> Self {
        Self { inner, busy: Mutex::default() }
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All time so far.
    pub(crate) fn spent(&self) -> Spent {
        let busy = self.busy();
        Spent { child_ms: busy.child.ms(), wait_ms: busy.wait.ms(), snapshot_ms: busy.snapshot.ms() }
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

    fn remark(&self, step: &str, text: &str) {
        self.inner.remark(step, text);
    }

    fn spent(&self, on: TimeSpent, during: Range<Duration>) {
        let mut busy = self.busy();
        let moments = match on {
            TimeSpent::Child => &mut busy.child,
            TimeSpent::Wait => &mut busy.wait,
            TimeSpent::Snapshot => &mut busy.snapshot,
        };
        moments.add(during.clone());
        drop(busy);
        self.inner.spent(on, during);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_moment_counts_once_however_many_waits_share_it(
            spans in prop::collection::vec((0..60u64, 0..20u64), 0..20)
        ) {
            let mut moments = Moments::default();
            for (start, length) in &spans {
                moments.add(Duration::from_millis(*start)..Duration::from_millis(start + length));
            }
            let covered = (0..80).filter(|at| spans.iter().any(|(start, length)| (*start..start + length).contains(at)));
            prop_assert_eq!(moments.ms(), covered.count() as u64);
        }
    }
}
