//! Asks the coordinator, under a lease, for what this machine joins the cluster with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};
use liftlock_proto::name::{FencingToken, PlanId};
use liftlock_proto::v1::agent_message::Message;
use liftlock_proto::v1::join_answer::Outcome;
use liftlock_proto::v1::{AskToJoin, JoinAnswer};
use tokio::sync::Notify;

use crate::engine::lease::Permit;
use crate::host::{Clock, HostError, HostResult};
use crate::invitation::{Invitation, Invitations};
use crate::session::outbox::Outbox;

/// How long a control plane may take to answer before it is asked again: the stream may have broken meanwhile.
const ANSWER: Duration = Duration::from_secs(30);

/// How long it is before somebody asks again who was told no.
const PAUSE: Duration = Duration::from_secs(5);

/// How long it is asked for.
const LIMIT: Duration = Duration::from_mins(3);

/// The coordinator's last answer, until it is taken.
#[derive(Default)]
pub(crate) struct Mailbox {
    answer: Mutex<Option<JoinAnswer>>,
    came: Notify,
}

impl Mailbox {
    /// Puts an answer in.
    pub(crate) fn put(&self, answer: JoinAnswer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.came.notify_one();
    }

    /// Waits for the answer to the holder of a lease; others are dropped.
    async fn take(&self, token: FencingToken) -> Option<Outcome> {
        loop {
            let came = self.came.notified();
            let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(answer) = answer.filter(|answer| answer.fencing_token == token.0) {
                return answer.outcome;
            }
            came.await;
        }
    }
}

/// What asks within a session.
pub(crate) struct Asking {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Invitations for Asking {
    async fn ask(&self, permit: &Permit, plan: &PlanId) -> HostResult<Invitation> {
        let token = permit.token();
        let deadline = self.clock.monotonic().saturating_add(LIMIT);
        let mut last = "no answer".to_owned();
        while self.clock.monotonic() < deadline {
            permit.still_holds(self.clock.as_ref())?;
            self.outbox
                .push(Message::AskToJoin(AskToJoin { plan_id: plan.to_string(), fencing_token: token.0 }));
            let answer = Box::pin(self.mailbox.take(token));
            match select(answer, self.clock.sleep(ANSWER)).await {
                Either::Left((Some(Outcome::Invitation(invitation)), _)) => return invitation.try_into(),
                Either::Left((Some(Outcome::Failure(why)), _)) => last = why,
                Either::Left((None, _)) => "an answer that does not read".clone_into(&mut last),
                Either::Right(_) => continue,
            }
            self.clock.sleep(PAUSE).await;
        }
        Err(HostError::Timeout {
            what: "a control plane to let this machine join".to_owned(),
            limit: LIMIT,
            seen: last,
        })
    }
}
