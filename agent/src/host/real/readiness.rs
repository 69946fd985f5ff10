//! Waiting for a descriptor on tokio's own event loop: the end of a process, a change of a file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A descriptor that can be waited for.
pub(super) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    #[expect(
        unsafe_code,
        reason = "tokio's only way to register a descriptor of a kind that it does not know"
    )]
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is valid until it is dropped, and this one is neither replaced nor taken out of the
        // AsyncFd, which is private to this type and only ever borrowed.
        Ok(Self(unsafe { AsyncFd::register(descriptor)? }))
    }

    /// Waits until there is something to read, or, for a process, until it has ended.
    pub(super) async fn ready(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
