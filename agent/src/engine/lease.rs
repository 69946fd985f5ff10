//! The lease as the agent holds it: a fencing token and a deadline on the monotonic clock.

use std::sync::Mutex;
use std::time::Duration;

use liftlock_proto::name::FencingToken;

use crate::host::Clock;

/// Proof, just made, that the lease was this agent's. Not `Clone`: each effect asks anew.
#[derive(Debug)]
pub struct Permit {
    token: FencingToken,
}

impl Permit {
    /// The lease that permits.
    pub fn token(&self) -> FencingToken {
        self.token
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
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Held { deadline: Duration },
    Lost { why: String },
}

impl Lease {
    /// A lease that ends at `deadline` on the monotonic clock unless it is renewed.
    pub fn new(token: FencingToken, deadline: Duration) -> Self {
        Self {
            token,
            state: Mutex::new(State::Held { deadline }),
        }
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
        let why = match &*self.lock() {
            State::Held { deadline } if clock.monotonic() < *deadline => {
                return Ok(Permit { token: self.token });
            }
            State::Held { .. } => "it could not be renewed in time".to_owned(),
            State::Lost { why } => why.clone(),
        };
        Err(LeaseLost {
            token: self.token,
            why,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
