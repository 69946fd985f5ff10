//! Serves HTTP and gRPC on a socket until it is dropped; then every connection ends at once, as when a container
//! is killed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::{Extension, Router};
use camino::Utf8Path;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::standin::pki::Subject;

/// A task that ends when this is dropped, with everything that it started.
#[derive(Debug)]
pub struct Running(JoinHandle<()>);

impl Running {
    /// Starts a task.
    pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Binds an address; the reuse of one that was just closed is allowed.
pub fn bind(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((address, port));
    let listener =
        std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Serves TLS, on connections to the listener and on those that a load balancer hands over. Each request carries
/// the client's [`Subject`], if it showed a certificate.
pub fn tls(
    listener: TcpListener,
    handed_over: Option<mpsc::Receiver<TcpStream>>,
    config: Arc<ServerConfig>,
    router: Router,
) -> Running {
    Running::spawn(async move {
        let mut connections = JoinSet::new();
        let mut handed_over = handed_over.unwrap_or_else(|| mpsc::channel(1).1);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
                Some(stream) = handed_over.recv() => stream,
                Some(_) = connections.join_next() => continue,
            };
            connections.spawn(tls_connection(stream, Arc::clone(&config), router.clone()));
        }
    })
}

/// Serves one TLS connection to its end.
async fn tls_connection(stream: TcpStream, config: Arc<ServerConfig>, router: Router) {
    _ = stream.set_nodelay(true);
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        return;
    };
    let subject =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(Subject::of);
    connection(stream, subject, router).await;
}

/// Serves a Unix socket without TLS.
pub fn unix(path: &Utf8Path, router: Router) -> Result<Running> {
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {path}"))?;
    Ok(Running::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, None, router.clone()));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }))
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    subject: Option<Subject>,
    router: Router,
) {
    let service = router.layer(Extension(subject));
    _ = Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
}
