//! Time, as it comes in from outside the core.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// When steady time was first asked for.
#[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where the time of day comes from.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;

    /// Milliseconds since some moment of this process, which go by however the time of day is set meanwhile: for how long
    /// something lasts. A clock that nobody sets tells its time of day.
    fn steady_ms(&self) -> u64 {
        self.unix_ms()
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn steady_ms(&self) -> u64 {
        u64::try_from(STARTED.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
