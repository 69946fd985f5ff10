//! An agent's process: the real session, engine and steps, polled by hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use liftlock_agent::session::identity::{Enrolled, IdentityStore};
use liftlock_agent::session::{Agent, Tasks, Workplace};
use tokio::sync::watch;

/// What an agent started beside its conversation, and nobody has polled yet.
#[derive(Clone, Default)]
pub(super) struct Started(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Tasks for Started {
    fn start(&self, work: BoxFuture<'static, ()>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(work);
    }

    fn start_blocking(&self, work: BoxFuture<'static, ()>) {
        self.start(work);
    }
}

/// A process. Dropped, it has ended where it was.
pub(super) struct Process {
    started: Started,
    tasks: Vec<Task>,
    // The agent would stop if nobody could tell it to.
    _stop: watch::Sender<bool>,
}

struct Task {
    work: BoxFuture<'static, ()>,
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How far one poll came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    /// Nothing was to be done.
    Nothing,
    /// Something went on.
    Moved,
    /// The agent has ended by itself.
    Ended,
}

impl Task {
    fn new(work: BoxFuture<'static, ()>) -> Self {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        Self { work, woken, waker }
    }
}

impl Process {
    /// Starts an agent as its `main` does, after what its unit has come `before`.
    pub(super) fn start(
        place: Workplace,
        started: Started,
        store: IdentityStore,
        enrolled: Enrolled,
        before: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let main = async move {
            before.await;
            // Whatever ends it, systemd starts it again.
            if let Ok(agent) = Agent::open(place, store, enrolled).await {
                let _ = agent.run(stopped).await;
            }
        };
        Self { started, tasks: vec![Task::new(Box::pin(main))], _stop: stop }
    }

    /// Polls the first task that was woken. The first of all is the agent itself.
    pub(super) fn poll(&mut self) -> Polled {
        for (index, task) in self.tasks.iter_mut().enumerate() {
            if !task.woken.0.swap(false, Ordering::Relaxed) {
                continue;
            }
            let ended = task.work.as_mut().poll(&mut Context::from_waker(&task.waker)) == Poll::Ready(());
            if ended && index == 0 {
                return Polled::Ended;
            }
            if ended {
                drop(self.tasks.remove(index));
            }
            let started = std::mem::take(&mut *self.started.0.lock().unwrap_or_else(PoisonError::into_inner));
            self.tasks.extend(started.into_iter().map(Task::new));
            return Polled::Moved;
        }
        Polled::Nothing
    }
}
