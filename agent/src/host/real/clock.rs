//! Time, from the kernel.

use std::time::Duration;

use async_trait::async_trait;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::host::Clock;

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

#[async_trait]
impl Clock for RealClock {
    fn monotonic(&self) -> Duration {
        since(ClockId::Boottime)
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(since(ClockId::Realtime).as_millis()).unwrap_or(u64::MAX)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// `CLOCK_MONOTONIC`, in which systemd writes down when it started what.
pub(super) fn systemd_monotonic() -> Duration {
    since(ClockId::Monotonic)
}

fn since(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec.try_into().unwrap_or_default(), tv_nsec.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_on_and_knows_this_century() {
        let clock = RealClock;
        let earlier = clock.monotonic();
        assert!(clock.monotonic() >= earlier);
        assert!(clock.unix_ms() > 946_684_800_000, "before the year 2000");
    }
}
