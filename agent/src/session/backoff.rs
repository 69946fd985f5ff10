//! How long to wait before the next try to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Exponential with full jitter: when a coordinator restarts, its agents come back spread over the whole wait.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure; `random` may be any number.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let ceiling = FIRST.saturating_mul(doubled).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// The wait after one more failure. Where the system gives no randomness, the longest.
    pub(crate) fn next_random(&mut self) -> Duration {
        self.next(getrandom::u32().unwrap_or(u32::MAX))
    }

    /// The coordinator was reached.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_seconds_and_start_over_once_connected() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<_> = (0..40).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(ceilings[..7], [200, 400, 800, 1600, 3200, 6400, 10_000]);
        assert!(ceilings[7..].iter().all(|wait| *wait == 10_000));
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), FIRST);
    }

    #[test]
    fn the_jitter_covers_the_whole_wait() {
        assert_eq!(Backoff::default().next(0), Duration::ZERO);
        assert_eq!(Backoff::default().next(u32::MAX / 2).as_millis(), 100);
    }
}
