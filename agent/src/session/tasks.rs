//! Work that goes on beside the conversation: threads of the runtime, or whatever a simulation polls.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{AbortHandle, BoxFuture, abortable};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Carries out work that its own process's end ends, and nothing else.
pub trait Tasks: Send + Sync {
    /// Starts work that waits more than it does.
    fn start(&self, work: BoxFuture<'static, ()>);
    /// Starts work that may hold up its thread for as long as a disk takes.
    fn start_blocking(&self, work: BoxFuture<'static, ()>);
}

/// The threads of the tokio runtime that this is called on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads;

impl Tasks for Threads {
    fn start(&self, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }

    fn start_blocking(&self, work: BoxFuture<'static, ()>) {
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || handle.block_on(work));
    }
}

/// The result of work that was started. Dropped, it leaves the work alone.
pub(crate) struct Task<T> {
    result: oneshot::Receiver<Result<T, String>>,
    abort: AbortHandle,
}

/// Work that panicked or was given up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TaskFailed(String);

impl<T: Send + 'static> Task<T> {
    /// Starts work that waits more than it does.
    pub(crate) fn start(tasks: &dyn Tasks, work: impl Future<Output = T> + Send + 'static) -> Self {
        let (work, task) = Self::of(work);
        tasks.start(work);
        task
    }

    /// Starts work that may hold up its thread.
    pub(crate) fn start_blocking(tasks: &dyn Tasks, work: impl Future<Output = T> + Send + 'static) -> Self {
        let (work, task) = Self::of(work);
        tasks.start_blocking(work);
        task
    }

    fn of(work: impl Future<Output = T> + Send + 'static) -> (BoxFuture<'static, ()>, Self) {
        let (tell, result) = oneshot::channel();
        let (work, abort) = abortable(AssertUnwindSafe(work).catch_unwind());
        let work = work.map(move |ended| {
            if let Ok(ended) = ended {
                // Nobody waits for it any more: so be it.
                let _ = tell.send(ended.map_err(|panic| words(panic.as_ref())));
            }
        });
        (work.boxed(), Self { result, abort })
    }

    /// Gives the work up at the next point where it waits.
    pub(crate) fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskFailed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.poll_unpin(cx).map(|ended| match ended {
            Ok(result) => result.map_err(TaskFailed),
            Err(_) => Err(TaskFailed("it was given up".to_owned())),
        })
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_work_ends_with_is_told_and_so_is_its_panic() {
        assert_eq!(Task::start(&Threads, async { 7 }).await.unwrap(), 7);
        let panics = Task::start_blocking(&Threads, async { panic!("no such step") });
        let failed: Result<(), TaskFailed> = panics.await;
        assert_eq!(failed.unwrap_err().to_string(), "no such step");
    }

    #[tokio::test]
    async fn work_that_was_given_up_never_ends() {
        let task = Task::start(&Threads, std::future::pending::<()>());
        task.abort();
        assert_eq!(task.await.unwrap_err().to_string(), "it was given up");
    }
}
