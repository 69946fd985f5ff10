//! The line to the coordinator: mutual TLS over TCP, or a simulation's network.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use liftlock_proto::causes::causes;
use liftlock_proto::enrollment::dial;
use liftlock_proto::v1::agent_service_client::AgentServiceClient;
use liftlock_proto::v1::{AgentMessage, CoordinatorMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::session::identity::Enrolled;

/// What the coordinator says, in order, until the stream ends.
pub type Heard = BoxStream<'static, Result<CoordinatorMessage, Status>>;

/// Opens streams to the coordinator.
#[async_trait]
pub trait Line: Send + Sync {
    /// Opens one stream that says what comes out of `said`.
    async fn open(&self, enrolled: &Enrolled, said: mpsc::Receiver<AgentMessage>)
    -> Result<Heard, LineError>;
    /// Anything between 0 and the largest number: spreads out the agents that dial again.
    fn jitter(&self) -> u32;
}

/// Why there is no stream.
#[derive(Debug)]
pub enum LineError {
    /// Nobody was reached.
    Unreachable(String),
    /// The coordinator was reached and refused.
    Refused(Status),
}

/// Mutual TLS to the address that the identity names.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsLine;

#[async_trait]
impl Line for TlsLine {
    async fn open(
        &self,
        enrolled: &Enrolled,
        said: mpsc::Receiver<AgentMessage>,
    ) -> Result<Heard, LineError> {
        let endpoint = enrolled.identity.endpoint(&enrolled.coordinator);
        let endpoint = endpoint.map_err(|error| LineError::Unreachable(causes(&error)))?;
        let channel = dial(&endpoint).await.map_err(|error| LineError::Unreachable(causes(&error)))?;
        let mut client = AgentServiceClient::new(channel);
        let stream = client.session(ReceiverStream::new(said)).await.map_err(LineError::Refused)?;
        Ok(stream.into_inner().boxed())
    }

    fn jitter(&self) -> u32 {
        // Where the system gives no randomness, the longest wait.
        getrandom::u32().unwrap_or(u32::MAX)
    }
}
