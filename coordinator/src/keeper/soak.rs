//! How long canaries have been looked at. The end of the last of them is known by the time of day alone; from when it is
//! first seen here, what goes by is counted by a clock that nobody sets: a time of day that jumps makes no soak shorter or
//! longer than the plan says.

use super::State;
use crate::clock::Clock;
use crate::core::rollout::Rollout;

/// A soak that goes on.
#[derive(Debug)]
pub(super) struct Soak {
    /// Which: when its last canary ended, milliseconds since the Unix epoch.
    ended_at_ms: u64,
    seen: Seen,
}

/// The moment when it was first seen, by two clocks.
#[derive(Debug)]
struct Seen {
    /// The time of day, but not before the end of the last canary: milliseconds since the Unix epoch.
    unix: u64,
    /// By the clock that nobody sets, in milliseconds.
    steady: u64,
}

impl State {
    /// Begins to count where another soak has begun.
    pub(super) fn follow_soak(&mut self, rollout: &Rollout, clock: &dyn Clock) {
        let ended_at_ms = rollout.looked_at_since_ms();
        if self.soak.as_ref().map(|soak| soak.ended_at_ms) == ended_at_ms {
            return;
        }
        self.soak = ended_at_ms.map(|ended_at_ms| Soak {
            ended_at_ms,
            // A coordinator that was away learns of the time that went by meanwhile from the time of day.
            seen: Seen { unix: clock.unix_ms().max(ended_at_ms), steady: clock.steady_ms() },
        });
    }

    /// The time that soaks go by, milliseconds since the Unix epoch: that of the day where none goes on.
    pub(super) fn soak_time_ms(&self, clock: &dyn Clock) -> u64 {
        match &self.soak {
            None => clock.unix_ms(),
            Some(Soak { seen, .. }) => {
                let since_ms = clock.steady_ms().saturating_sub(seen.steady);
                seen.unix.saturating_add(since_ms)
            }
        }
    }
}
