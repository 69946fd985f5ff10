//! The door: connections as they come in, and strangers who come in and say nothing.
//!
//! Whoever opens a connection costs a descriptor before anybody knows who it is. So a connection has to make its first
//! call soon, only so many may be open before theirs, and where there are more, the one that has been silent for longest
//! goes. A descriptor that cannot be had is waited for and said.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::service::Interceptor;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Request, Status};

/// From the connection's opening to the first call, TLS included.
const FIRST_CALL: Duration = Duration::from_secs(20);

/// Connections that may wait for their first call at a time; agents and operators make it at once.
const STRANGERS: usize = 256;

/// Before a connection is accepted again where the system had no descriptor left.
const BREATH: Duration = Duration::from_millis(250);

/// Who is inside and has not spoken yet.
#[derive(Clone, Default)]
pub(super) struct Door(Arc<Mutex<Hall>>);

#[derive(Default)]
struct Hall {
    /// By arrival.
    strangers: BTreeMap<u64, Arc<Stranger>>,
    arrivals: u64,
    /// Whether it was said that there are too many.
    crowded: bool,
}

struct Stranger {
    address: SocketAddr,
    shown_out: AtomicBool,
    reader: AtomicWaker,
}

impl Door {
    fn hall(&self) -> MutexGuard<'_, Hall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every connection that comes, for as long as it is asked for.
    pub(super) fn incoming(self, listener: TcpListener) -> impl Stream<Item = io::Result<Guest>> {
        futures::stream::unfold((self, listener), |(door, listener)| async move {
            let guest = door.next(&listener).await;
            Some((Ok(guest), (door, listener)))
        })
    }

    async fn next(&self, listener: &TcpListener) -> Guest {
        let mut said = false;
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    return self.admit(stream, address);
                }
                Err(error) => {
                    if !said {
                        tracing::error!(%error, "no connection can be accepted: close others or raise the limit of open files");
                        said = true;
                    }
                    sleep(BREATH).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr) -> Guest {
        let stranger =
            Arc::new(Stranger { address, shown_out: AtomicBool::new(false), reader: AtomicWaker::new() });
        let mut hall = self.hall();
        hall.arrivals += 1;
        let number = hall.arrivals;
        hall.strangers.insert(number, Arc::clone(&stranger));
        if hall.strangers.len() <= STRANGERS {
            hall.crowded = false;
        } else {
            if !hall.crowded {
                tracing::warn!(
                    strangers = STRANGERS,
                    from = %address,
                    "too many connections are open that make no call: the oldest of them are closed"
                );
                hall.crowded = true;
            }
            if let Some((_, oldest)) = hall.strangers.pop_first() {
                oldest.show_out();
            }
        }
        drop(hall);
        Guest { stream, door: self.clone(), number, stranger, deadline: Box::pin(sleep(FIRST_CALL)) }
    }

    /// Whoever calls is no stranger any more; TLS and the services decide the rest.
    fn spoke(&self, address: SocketAddr) {
        self.hall().strangers.retain(|_, stranger| stranger.address != address);
    }

    fn is_stranger(&self, number: u64) -> bool {
        self.hall().strangers.contains_key(&number)
    }
}

impl Stranger {
    fn show_out(&self) {
        self.shown_out.store(true, Ordering::Release);
        self.reader.wake();
    }
}

/// Notes the first call of each connection.
#[derive(Clone)]
pub(super) struct Greeter(pub(super) Door);

impl Interceptor for Greeter {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(address) = request.remote_addr() {
            self.0.spoke(address);
        }
        Ok(request)
    }
}

/// One connection.
pub(super) struct Guest {
    stream: TcpStream,
    door: Door,
    number: u64,
    stranger: Arc<Stranger>,
    deadline: Pin<Box<Sleep>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.door.hall().strangers.remove(&self.number);
    }
}

impl Connected for Guest {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stranger.reader.register(cx.waker());
        if self.stranger.shown_out.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.deadline.as_mut().poll(cx).is_ready() && self.door.is_stranger(self.number) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_makes_no_call_is_closed_and_one_that_does_stays() {
        let (listener, address) = listener().await;
        let door = Door::default();
        let (silent, caller) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let (mut first, mut second) = (door.next(&listener).await, door.next(&listener).await);
        door.spoke(caller.local_addr().unwrap());
        let closed = first.read_u8().await.unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::TimedOut);
        let waited = tokio::time::timeout(FIRST_CALL * 3, second.read_u8()).await;
        assert!(waited.is_err(), "whoever has spoken may be silent: {waited:?}");
        drop(silent);
    }

    #[tokio::test]
    async fn of_too_many_strangers_the_oldest_goes() {
        let (listener, address) = listener().await;
        let door = Door::default();
        let mut guests = Vec::new();
        for _ in 0..=STRANGERS {
            let outside = TcpStream::connect(address).await.unwrap();
            guests.push((door.next(&listener).await, outside));
        }
        let oldest = guests[0].0.read_u8().await.unwrap_err();
        assert_eq!(oldest.kind(), io::ErrorKind::ConnectionAborted);
        assert!(!guests[1].0.stranger.shown_out.load(Ordering::Acquire));
        assert_eq!(door.hall().strangers.len(), STRANGERS);
    }
}
