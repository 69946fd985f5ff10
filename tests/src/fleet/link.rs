//! The way from one agent to the coordinator, which can be cut.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::standin::serve::{self, Running};

/// What does not get through. As in a real partition nothing is refused: it is only never delivered, and what is still
/// on its way arrives when the link is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Cut {
    /// Everything gets through.
    #[default]
    Nothing,
    /// Neither side hears the other.
    Both,
    /// The coordinator does not hear the agent.
    FromAgent,
    /// The agent does not hear the coordinator.
    ToAgent,
}

/// A link that runs until it is dropped.
#[derive(Debug)]
pub struct Link {
    port: u16,
    cut: watch::Sender<Cut>,
    _task: Running,
}

impl Link {
    /// A link to a port of this machine.
    pub fn to(coordinator: u16) -> Result<Self> {
        let listener = serve::bind(Ipv4Addr::LOCALHOST, 0)?;
        let port = listener.local_addr()?.port();
        let cut = watch::Sender::new(Cut::Nothing);
        let task = Running::spawn(carry(listener, coordinator, cut.clone()));
        Ok(Self { port, cut, _task: task })
    }

    /// Where the agent dials.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts it, or mends it.
    pub fn set(&self, cut: Cut) {
        self.cut.send_replace(cut);
    }
}

async fn carry(listener: TcpListener, coordinator: u16, cut: watch::Sender<Cut>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((agent, _)) = accepted {
                connections.spawn(connection(agent, coordinator, cut.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(agent: TcpStream, coordinator: u16, cut: watch::Sender<Cut>) {
    through(&cut, |cut| cut == Cut::Nothing).await;
    let Ok(coordinator) = TcpStream::connect((Ipv4Addr::LOCALHOST, coordinator)).await else {
        return;
    };
    _ = agent.set_nodelay(true);
    _ = coordinator.set_nodelay(true);
    let (mut from_agent, mut to_agent) = agent.into_split();
    let (mut from_coordinator, mut to_coordinator) = coordinator.into_split();
    tokio::join!(
        pass(&mut from_agent, &mut to_coordinator, &cut, |cut| matches!(cut, Cut::Nothing | Cut::ToAgent)),
        pass(&mut from_coordinator, &mut to_agent, &cut, |cut| matches!(cut, Cut::Nothing | Cut::FromAgent)),
    );
}

/// Carries bytes one way, and the end of the stream after them.
async fn pass(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    cut: &watch::Sender<Cut>,
    open: impl Fn(Cut) -> bool,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or_default();
        through(cut, &open).await;
        let whole = match bytes.get(..read) {
            Some(bytes) if read > 0 => to.write_all(bytes).await.is_ok(),
            _ => false,
        };
        if !whole {
            _ = to.shutdown().await;
            return;
        }
    }
}

async fn through(cut: &watch::Sender<Cut>, open: impl Fn(Cut) -> bool) {
    _ = cut.subscribe().wait_for(|cut| open(*cut)).await;
}
