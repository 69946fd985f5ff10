//! One node's view of the world: what implements the host traits.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::fault::Fault;
use super::machine::Machine;
use super::world::World;
use crate::host::{HostError, HostResult};

/// A node's agent's access to everything.
#[derive(Clone)]
pub(super) struct NodeTwin {
    world: Arc<Mutex<World>>,
    pub(super) name: String,
}

impl NodeTwin {
    pub(super) fn new(world: Arc<Mutex<World>>, name: &str) -> Self {
        Self { world, name: name.to_owned() }
    }

    /// Looks at the world, or changes it in no time.
    pub(super) fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at this node's machine, or changes it in no time.
    pub(super) fn machine<T>(&self, look: impl FnOnce(&mut Machine) -> T) -> HostResult<T> {
        self.world(|world| world.machine_mut(&self.name).map(look)).ok_or_else(|| HostError::Malformed {
            what: format!("the twin's node {}", self.name),
            why: "there is none of that name".to_owned(),
        })
    }

    /// Makes a change, unless a fault strikes: then its error, or nothing for ever.
    pub(super) async fn change<T>(
        &self,
        what: &str,
        failure: impl FnOnce() -> HostError,
        change: impl FnOnce(&mut World) -> T,
    ) -> HostResult<T> {
        match self.strike(what) {
            None => Ok(self.world(change)),
            Some(Fault::Fails | Fault::ChildDies) => Err(failure()),
            Some(Fault::AgentDies | Fault::PowerFails) => std::future::pending().await,
        }
    }

    /// The fault that strikes before a change. Of an agent that is dead already, nothing is ever heard again.
    pub(super) fn strike(&self, what: &str) -> Option<Fault> {
        self.world(|world| {
            if world.machine(&self.name).is_some_and(|machine| machine.agent_is_dead) {
                return Some(Fault::AgentDies);
            }
            world.before(&self.name, what)
        })
    }

    /// Waits until there is something to see, or the limit: then `None`.
    pub(super) async fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&mut World) -> Option<T>,
    ) -> Option<T> {
        let deadline = self.world(|world| {
            let deadline = world.now().saturating_add(limit);
            world.wake_at(deadline);
            deadline
        });
        std::future::poll_fn(|context| {
            self.world(|world| {
                if let Some(seen) = look(world) {
                    Poll::Ready(Some(seen))
                } else if world.now() >= deadline {
                    Poll::Ready(None)
                } else {
                    world.wake_on_change(context.waker());
                    Poll::Pending
                }
            })
        })
        .await
    }
}
