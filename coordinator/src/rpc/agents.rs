//! The agents' service: enrolment, and one stream for as long as an agent runs.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use liftlock_proto::name::{NameError, NodeName};
use liftlock_proto::v1;
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::agent_service_server::AgentService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::access::caller;
use super::with_keeper;
use crate::identity::subject::Role;
use crate::keeper::{Keeper, Outbox, SessionId};

/// Messages that wait for an agent before it counts as not listening.
const OUTBOX: usize = 64;

/// Bytes of the largest message that an agent may send: facts of a large cluster.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// The agents' service.
pub struct Agents {
    keeper: Arc<Keeper>,
}

impl Agents {
    /// The service on top of the keeper.
    pub fn new(keeper: Arc<Keeper>) -> Self {
        Self { keeper }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let v1::EnrollRequest { token_id, token_secret, subject, csr_der } = request.into_inner();
        let certified = with_keeper(&self.keeper, move |keeper| {
            keeper.enroll(&token_id, &token_secret, &subject, &csr_der)
        })
        .await?;
        Ok(Response::new(v1::EnrollResponse {
            certificate_pem: certified.certificate_pem,
            ca_pem: certified.ca_pem,
        }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = caller(&self.keeper, &request, &[Role::Agent])?;
        let node: NodeName = peer
            .subject
            .name
            .parse()
            .map_err(|error: NameError| Status::unauthenticated(error.to_string()))?;
        let (outbox, answers) = mpsc::channel(OUTBOX);
        let conversation =
            Conversation { keeper: Arc::clone(&self.keeper), node, said: request.into_inner() };
        tokio::spawn(conversation.hold(outbox));
        let answers = ReceiverStream::new(answers)
            .map(|answer| answer.map(|message| v1::CoordinatorMessage { message: Some(message) }));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One agent's stream, from its Hello to its end.
struct Conversation {
    keeper: Arc<Keeper>,
    node: NodeName,
    said: Streaming<v1::AgentMessage>,
}

impl Conversation {
    async fn hold(mut self, outbox: Outbox) {
        let ended = tokio::select! {
            ended = self.listen(&outbox) => ended,
            () = outbox.closed() => Ok(()),
        };
        if let Err(why) = ended {
            tracing::info!(node = %self.node, why = why.message(), "a session ends");
            let _ = outbox.try_send(Err(why));
        }
    }

    async fn listen(&mut self, outbox: &Outbox) -> Result<(), Status> {
        let Some(Said::Hello(hello)) = self.next().await? else {
            return Err(Status::invalid_argument("the first message of a session must be Hello"));
        };
        let (node, answers) = (self.node.clone(), outbox.clone());
        let session =
            with_keeper(&self.keeper, move |keeper| keeper.open_session(&node, hello, answers)).await?;
        let _open = OpenSession { keeper: Arc::clone(&self.keeper), node: self.node.clone(), session };
        while let Some(said) = self.next().await? {
            let node = self.node.clone();
            if !with_keeper(&self.keeper, move |keeper| keeper.hear(&node, session, said)).await? {
                break;
            }
        }
        Ok(())
    }

    /// The next message, if it comes from the node that the certificate names.
    async fn next(&mut self) -> Result<Option<Said>, Status> {
        let Some(v1::AgentMessage { node, message }) = self.said.message().await? else {
            return Ok(None);
        };
        if node != self.node.as_str() {
            return Err(Status::permission_denied(format!(
                "the certificate is that of {}, and the message says it comes from \"{}\": each agent speaks for its own \
                 node only",
                self.node,
                node.escape_default().take(64).collect::<String>(),
            )));
        }
        match message {
            None => Err(Status::invalid_argument(
                "a message of a kind that this coordinator does not know: install the same version of Liftlock on both",
            )),
            known => Ok(known),
        }
    }
}

/// Closes the session however the conversation ends.
struct OpenSession {
    keeper: Arc<Keeper>,
    node: NodeName,
    session: SessionId,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let (keeper, node, session) = (Arc::clone(&self.keeper), self.node.clone(), self.session);
        tokio::task::spawn_blocking(move || keeper.close_session(&node, session));
    }
}
