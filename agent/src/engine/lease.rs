//! The lease as the agent holds it: a fencing token and a deadline on the monotonic clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use liftlock_proto::name::FencingToken;

use crate::host::Clock;

/// Proof, just made, that the lease was this agent's. Not `Clone`: each effect asks anew.
#[derive(Debug)]
pub struct Permit {
    token: FencingToken,
    state: Arc<Mutex<State>>,
}

impl Permit {
    /// The lease that permits.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Asks once more: what goes before an effect, such as a question to systemd, may have taken longer than the lease.
    pub fn still_holds(&self, clock: &dyn Clock) -> Result<(), LeaseLost> {
        held(self.token, &self.state, clock)
    }
}

/// The lease ended, was refused, or could not be renewed: nothing more may be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "lease {token} is not this agent's any more ({why}): nothing more was started; what ran before is in the journal"
)]
pub struct LeaseLost {
    /// Which.
    pub token: FencingToken,
    /// Why.
    pub why: String,
}

/// A lease that the coordinator granted to this node.
#[derive(Debug)]
pub struct Lease {
    token: FencingToken,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    Held { deadline: Duration },
    Lost { why: String },
}

impl Lease {
    /// A lease that ends at `deadline` on the monotonic clock unless it is renewed.
    pub fn new(token: FencingToken, deadline: Duration) -> Self {
        Self { token, state: Arc::new(Mutex::new(State::Held { deadline })) }
    }

    /// Its number.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Moves the deadline; never back, and never once it was lost by refusal or by a higher token.
    pub fn renew(&self, deadline: Duration) {
        let mut state = self.lock();
        if let State::Held { deadline: held } = &mut *state {
            *held = deadline.max(*held);
        }
    }

    /// Ends it at once: the coordinator refused it, or a higher token was seen.
    pub fn lose(&self, why: &str) {
        *self.lock() = State::Lost { why: why.to_owned() };
    }

    /// Proof that it is still held, or why it is not.
    pub fn permit(&self, clock: &dyn Clock) -> Result<Permit, LeaseLost> {
        held(self.token, &self.state, clock)?;
        Ok(Permit { token: self.token, state: Arc::clone(&self.state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn held(token: FencingToken, state: &Mutex<State>, clock: &dyn Clock) -> Result<(), LeaseLost> {
    let why = match &*lock(state) {
        State::Held { deadline } if clock.monotonic() < *deadline => return Ok(()),
        State::Held { .. } => "it could not be renewed in time".to_owned(),
        State::Lost { why } => why.clone(),
    };
    Err(LeaseLost { token, why })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use proptest::prelude::*;

    use super::*;

    struct At(u64);

    #[async_trait]
    impl Clock for At {
        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0)
        }

        fn unix_ms(&self) -> u64 {
            0
        }

        async fn sleep(&self, _duration: Duration) {}
    }

    fn lease(deadline: u64) -> Lease {
        Lease::new(FencingToken(7), Duration::from_secs(deadline))
    }

    #[test]
    fn a_lease_permits_until_its_deadline_and_not_at_it() {
        assert_eq!(lease(30).permit(&At(29)).unwrap().token(), FencingToken(7));
        let lost = lease(30).permit(&At(30)).unwrap_err().to_string();
        assert!(lost.contains("lease 7") && lost.contains("could not be renewed in time"), "{lost}");
    }

    #[test]
    fn a_permit_says_no_more_than_its_lease_once_it_is_asked_again() {
        let (renewed, lost) = (lease(30), lease(30));
        let (still, not) = (renewed.permit(&At(29)).unwrap(), lost.permit(&At(29)).unwrap());
        renewed.renew(Duration::from_mins(1));
        lost.lose("lease 8 was granted after it");
        assert_eq!(still.still_holds(&At(59)), Ok(()));
        assert!(still.still_holds(&At(60)).unwrap_err().why.contains("renewed in time"));
        assert_eq!(not.still_holds(&At(29)).unwrap_err().why, "lease 8 was granted after it");
    }

    #[test]
    fn a_late_answer_to_an_early_renewal_does_not_shorten_the_lease() {
        let lease = lease(30);
        lease.renew(Duration::from_secs(50));
        lease.renew(Duration::from_secs(40));
        assert!(lease.permit(&At(49)).is_ok());
    }

    #[test]
    fn a_lease_that_was_taken_back_is_lost_whatever_renewal_comes_after() {
        let lease = lease(30);
        lease.lose("lease 8 was granted after it");
        lease.renew(Duration::from_secs(90));
        let lost = lease.permit(&At(1)).unwrap_err();
        assert_eq!(lost.why, "lease 8 was granted after it");
    }

    proptest! {
        #[test]
        fn nothing_is_permitted_after_the_last_deadline(deadlines in prop::collection::vec(0..100u64, 1..9), at in 0..120u64) {
            let lease = lease(0);
            for deadline in &deadlines {
                lease.renew(Duration::from_secs(*deadline));
            }
            prop_assert_eq!(lease.permit(&At(at)).is_ok(), deadlines.iter().any(|deadline| at < *deadline));
        }
    }
}
