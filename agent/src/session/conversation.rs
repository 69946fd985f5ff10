//! One stream to the coordinator, from Hello until it breaks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use liftlock_proto::address::CoordinatorUrl;
use liftlock_proto::causes::causes;
use liftlock_proto::enrollment::CONNECT_TIMEOUT;
use liftlock_proto::name::FencingToken;
use liftlock_proto::step::STEP_LIST_VERSION;
use liftlock_proto::v1::agent_message::Message;
use liftlock_proto::v1::{AgentMessage, CoordinatorMessage, Hello};
use tokio::sync::mpsc::{self, Permit, Sender};
use tonic::Status;

use crate::host::Clock;
use crate::session::duties::{Done, EngineFailed, Finished};
use crate::session::line::{Heard, LineError};
use crate::session::order::{self, Order, Unreadable};
use crate::session::{Agent, StartError};

/// How long a coordinator may take to greet.
const WELCOME: Duration = Duration::from_secs(15);

/// Messages between the outbox and the wire. Few: what is here cannot be dropped, and delays a renewal.
const IN_FLIGHT: usize = 4;

/// How long an answer to a certificate request is waited for before it is asked again.
const CERTIFICATE_RETRY: Duration = Duration::from_mins(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("cannot reach the coordinator at {coordinator}: {why}")]
    Unreachable { coordinator: CoordinatorUrl, why: String },
    #[error("the coordinator at {coordinator} ended the stream: {why}")]
    Ended { coordinator: CoordinatorUrl, why: String },
    #[error("the coordinator at {0} took the connection and did not greet within {WELCOME:?}")]
    NoWelcome(CoordinatorUrl),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(
        "the lease ran out before the coordinator renewed it; connecting anew, so that it is granted again"
    )]
    LeaseLapsed,
    /// Only starting the agent anew helps.
    #[error(transparent)]
    EngineFailed(#[from] EngineFailed),
    /// Only starting the agent anew helps.
    #[error(transparent)]
    State(#[from] StartError),
}

/// What happens next on a stream.
enum Next<'a> {
    Heard(Result<Option<CoordinatorMessage>, Status>),
    Say(Permit<'a, AgentMessage>, Due),
    Finished(Finished),
    NoWelcome,
}

/// What is to be said, most urgent first.
enum Due {
    Renewal,
    CertificateRequest,
    Message(Box<Message>),
}

/// What one stream has to remember.
struct Talk {
    welcomed: bool,
    /// Renewals that were not answered yet, oldest first: the lease and the moment of sending.
    renewals: VecDeque<(FencingToken, Duration)>,
    renew_at: Duration,
    certificate_at: Duration,
}

impl Agent {
    /// Connects, says Hello and goes on until the stream ends; the reason comes back.
    pub(crate) async fn converse(&mut self) -> Broken {
        match self.talk().await {
            Ok(never) => match never {},
            Err(broken) => broken,
        }
    }

    async fn talk(&mut self) -> Result<std::convert::Infallible, Broken> {
        let clock = Arc::clone(&self.place.host.clock);
        let outbox = Arc::clone(&self.outbox);
        let (say, said) = mpsc::channel(IN_FLIGHT);
        // What ended while there was no connection comes first, so that Hello says how things are now.
        while let Some(finished) = self.duties.finished().now_or_never() {
            self.duties.take(finished).await?;
        }
        self.duties.of_another_session();
        self.greet(&say).await;
        let mut heard = self.connect(said).await?;

        let now = clock.monotonic();
        let greet_by = now.saturating_add(WELCOME);
        let mut talk = Talk {
            welcomed: false,
            renewals: VecDeque::new(),
            renew_at: now,
            certificate_at: now.saturating_add(self.until_certificate_renewal()),
        };
        loop {
            let greet_by = (!talk.welcomed).then_some(greet_by);
            let renew_at = self.duties.to_renew().map(|_| talk.renew_at);
            // A place first: what is taken out of the outbox must not be lost for want of one.
            let speak = async {
                let Ok(place) = say.reserve().await else {
                    // The stream is going down; what is heard last says why.
                    return std::future::pending().await;
                };
                tokio::select! {
                    biased;
                    () = until(clock.as_ref(), renew_at) => (place, Due::Renewal),
                    () = until(clock.as_ref(), Some(talk.certificate_at)) => (place, Due::CertificateRequest),
                    message = outbox.next() => (place, Due::Message(Box::new(message))),
                }
            };
            let next = tokio::select! {
                biased;
                message = heard.try_next() => Next::Heard(message),
                finished = self.duties.finished() => Next::Finished(finished),
                (place, due) = speak => Next::Say(place, due),
                () = until(clock.as_ref(), greet_by) => Next::NoWelcome,
            };
            match next {
                Next::Heard(message) => self.hear(message, &mut talk).await?,
                Next::Say(place, due) => self.say(place, due, &mut talk),
                Next::Finished(finished) => {
                    let done = self.duties.take(finished).await?;
                    self.tell_status("connected");
                    if done == Done::LeaseLapsed {
                        return Err(Broken::LeaseLapsed);
                    }
                }
                Next::NoWelcome => return Err(Broken::NoWelcome(self.enrolled.coordinator.clone())),
            }
        }
    }

    /// Hello goes first, so it is in the channel before the stream is open.
    async fn greet(&self, say: &Sender<AgentMessage>) {
        let hello = Message::Hello(Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            highest_token: self.duties.highest_token().0,
            held: self.duties.held(),
            step_list_version: STEP_LIST_VERSION,
        });
        let report = self.duties.last_report().map(Message::StepReport);
        for message in std::iter::once(hello).chain(report) {
            // The receiver is at hand and the channel has room for both.
            let _ = say.send(self.message(message)).await;
        }
    }

    async fn connect(&self, said: mpsc::Receiver<AgentMessage>) -> Result<Heard, Broken> {
        let coordinator = self.enrolled.coordinator.clone();
        tokio::select! {
            biased;
            opened = self.place.line.open(&self.enrolled, said) => opened.map_err(|error| match error {
                LineError::Unreachable(why) => Broken::Unreachable { coordinator, why },
                LineError::Refused(status) => self.ended(&status),
            }),
            () = self.place.host.clock.sleep(CONNECT_TIMEOUT.saturating_add(WELCOME)) => {
                Err(Broken::NoWelcome(coordinator.clone()))
            }
        }
    }

    async fn hear(
        &mut self,
        message: Result<Option<CoordinatorMessage>, Status>,
        talk: &mut Talk,
    ) -> Result<(), Broken> {
        let message = message.map_err(|status| self.ended(&status))?;
        let message = message.ok_or_else(|| self.ended(&Status::ok("it stopped")))?;
        match order::read(message, &self.place.node)? {
            Order::Welcome { version } => {
                talk.welcomed = true;
                self.connected(&version);
            }
            Order::Facts { refresh, pause, number } => self.duties.inquire(refresh, pause, number),
            Order::Prepare { plan, steps } => self.duties.prepare(plan, steps),
            Order::Grant { lease, ttl } => {
                self.duties.grant(lease, ttl);
                // Renew at once: the coordinator then knows that the grant arrived.
                talk.renew_at = self.place.host.clock.monotonic();
            }
            Order::Renewed { token, ttl } => {
                // Answers come in the order of the questions; one to a lease that has passed is skipped.
                while let Some((asked, sent)) = talk.renewals.pop_front() {
                    if asked == token {
                        self.duties.renewed(token, sent, ttl);
                        break;
                    }
                }
            }
            Order::EndRecorded { token } => {
                self.duties.over(token, "the coordinator has recorded its end").await?;
            }
            Order::Refused { token, reason } => self.duties.over(token, &reason).await?,
            Order::Certificate(pem) => self.take_certificate(pem, talk),
            Order::Tidy => self.duties.tidy(),
            Order::Mark { id, nodes, pause } => self.duties.mark(id, nodes, pause),
            Order::Question { id, asked } => self.duties.answer(id, asked),
            Order::JoinAnswer(answer) => self.duties.join_answer(answer),
        }
        self.tell_status("connected");
        Ok(())
    }

    fn say(&self, place: Permit<'_, AgentMessage>, due: Due, talk: &mut Talk) {
        let now = self.place.host.clock.monotonic();
        let message = match due {
            Due::Message(message) => *message,
            Due::Renewal => {
                let Some((renew, ttl)) = self.duties.to_renew() else {
                    return;
                };
                talk.renewals.push_back((FencingToken(renew.fencing_token), now));
                talk.renew_at = now.saturating_add(ttl / 3);
                Message::RenewLease(renew)
            }
            Due::CertificateRequest => {
                talk.certificate_at = now.saturating_add(CERTIFICATE_RETRY);
                match self.store.renewal(&self.enrolled) {
                    Ok(request) => Message::RenewCertificateCsrDer(request),
                    Err(error) => return tracing::error!(%error, "cannot ask for a new certificate"),
                }
            }
        };
        place.send(self.message(message));
    }

    fn take_certificate(&mut self, pem: String, talk: &mut Talk) {
        match self.store.renew(&self.enrolled, pem) {
            Ok(renewed) => {
                tracing::info!(ends_at_ms = renewed.ends_at_ms, "the certificate was renewed");
                self.enrolled = renewed;
                let wait = self.until_certificate_renewal();
                talk.certificate_at = self.place.host.clock.monotonic().saturating_add(wait);
            }
            // The old one goes on; it is asked for again.
            Err(error) => tracing::error!(%error, "the certificate was not renewed"),
        }
    }

    fn until_certificate_renewal(&self) -> Duration {
        Duration::from_millis(self.enrolled.renew_at_ms.saturating_sub(self.place.host.clock.unix_ms()))
    }

    fn ended(&self, status: &Status) -> Broken {
        let coordinator = self.enrolled.coordinator.clone();
        let why = if status.message().is_empty() { causes(status) } else { status.message().to_owned() };
        Broken::Ended { coordinator, why }
    }

    fn message(&self, message: Message) -> AgentMessage {
        AgentMessage { node: self.place.node.to_string(), message: Some(message) }
    }
}

/// Waits until a moment on the monotonic clock, for ever if there is none.
async fn until(clock: &dyn Clock, moment: Option<Duration>) {
    match moment {
        Some(moment) => clock.sleep(moment.saturating_sub(clock.monotonic())).await,
        None => std::future::pending().await,
    }
}
