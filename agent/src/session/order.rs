//! What the coordinator says, as far as it makes sense; what does not, ends the stream.

use std::collections::BTreeSet;
use std::time::Duration;

use liftlock_proto::name::{FencingToken, NameError, NodeName, PlanId};
use liftlock_proto::plan;
use liftlock_proto::step::{Step, StepError};
use liftlock_proto::v1::coordinator_message::Message;
use liftlock_proto::v1::{Asked, CoordinatorMessage, Grant, JoinAnswer, MarkNodes, Prepare};

use crate::engine::journal::Header;

/// One message of the coordinator.
#[derive(Debug, PartialEq)]
pub(crate) enum Order {
    /// It knows this agent now.
    Welcome {
        /// Its version.
        version: String,
    },
    /// Say what is on this node.
    Facts {
        /// Read the package repositories' lists anew first.
        refresh: bool,
        /// So much later.
        pause: Duration,
        /// Which question it answers.
        number: u64,
    },
    /// Do what disturbs nothing.
    Prepare {
        /// For which plan.
        plan: PlanId,
        /// In this order.
        steps: Vec<Step>,
    },
    /// A lease.
    Grant {
        /// What it is for.
        lease: Box<Header>,
        /// From its arrival.
        ttl: Duration,
    },
    /// The lease goes on.
    Renewed {
        /// Which.
        token: FencingToken,
        /// From the moment the renewal was sent.
        ttl: Duration,
    },
    /// The end of the lease is durable at the coordinator.
    EndRecorded {
        /// Which.
        token: FencingToken,
    },
    /// The lease is not this node's any more.
    Refused {
        /// Which.
        token: FencingToken,
        /// Why.
        reason: String,
    },
    /// A new certificate, PEM.
    Certificate(String),
    /// The roll-out has raised every node.
    Tidy,
    /// What this machine joins with, or why there is nothing.
    JoinAnswer(JoinAnswer),
    /// These Nodes and no others carry the taint of what is not raised yet.
    Mark {
        /// What the answer must name.
        id: u64,
        /// Which.
        nodes: BTreeSet<NodeName>,
        /// So much later.
        pause: Duration,
    },
    /// An operator asks something.
    Question {
        /// What the answer must name.
        id: u64,
        /// What is asked; `None` where this agent is older than the question.
        asked: Option<Asked>,
    },
}

/// A message that makes no sense to this agent.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator sent {what} that does not read: {why}. Are both sides of one version?")]
pub(crate) struct Unreadable {
    what: &'static str,
    why: String,
}

fn unreadable(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Unreadable {
    move |why| Unreadable { what, why: why.to_string() }
}

/// Reads a message to this node.
pub(crate) fn read(message: CoordinatorMessage, node: &NodeName) -> Result<Order, Unreadable> {
    let unknown = || unreadable("a message")(&"it is of a kind that this agent does not know");
    Ok(match message.message.ok_or_else(unknown)? {
        Message::Welcome(welcome) => Order::Welcome { version: welcome.coordinator_version },
        Message::FactsRequest(request) => Order::Facts {
            refresh: request.refresh_packages,
            pause: Duration::from_millis(request.pause_ms.into()),
            number: request.number,
        },
        Message::Prepare(message) => prepare(message)?,
        Message::Grant(message) => grant(message, node)?,
        Message::LeaseRenewed(renewed) => {
            Order::Renewed { token: FencingToken(renewed.fencing_token), ttl: ttl(renewed.ttl_ms) }
        }
        Message::LeaseEndRecorded(recorded) => {
            Order::EndRecorded { token: FencingToken(recorded.fencing_token) }
        }
        Message::LeaseRefused(refused) => {
            Order::Refused { token: FencingToken(refused.fencing_token), reason: refused.reason }
        }
        Message::CertificatePem(pem) => Order::Certificate(pem),
        Message::TidyBackups(_) => Order::Tidy,
        Message::JoinAnswer(answer) => Order::JoinAnswer(answer),
        Message::MarkNodes(message) => mark(&message)?,
        Message::Question(question) => Order::Question { id: question.id, asked: question.asked },
    })
}

fn prepare(message: Prepare) -> Result<Order, Unreadable> {
    let bad = unreadable("a Prepare");
    Ok(Order::Prepare {
        plan: message.plan_id.parse().map_err(|error| bad(&error))?,
        steps: plan::steps(message.steps).map_err(|error| bad(&error))?,
    })
}

fn mark(message: &MarkNodes) -> Result<Order, Unreadable> {
    let nodes = message.nodes.iter().map(|name| name.parse()).collect::<Result<_, _>>();
    let nodes = nodes.map_err(|error: NameError| unreadable("a MarkNodes")(&error))?;
    Ok(Order::Mark { id: message.id, nodes, pause: Duration::from_millis(message.pause_ms.into()) })
}

fn grant(message: Grant, node: &NodeName) -> Result<Order, Unreadable> {
    let bad = unreadable("a Grant");
    let plan: PlanId = message.plan_id.parse().map_err(|error| bad(&error))?;
    if PlanId::of_hash(&message.plan_hash).as_ref() != Ok(&plan) {
        return Err(bad(&format!("its hash is not that of plan {plan}")));
    }
    if message.ttl_ms == 0 {
        return Err(bad(&"its lease has ended before it began"));
    }
    let purpose = message.purpose();
    let steps = plan::steps(message.steps).map_err(|error| bad(&error))?;
    let token = FencingToken(message.fencing_token);
    let purpose = purpose.try_into().map_err(|error: StepError| bad(&error))?;
    let lease = Header::new(node.clone(), plan, message.plan_hash, token, purpose, steps);
    Ok(Order::Grant { lease: Box::new(lease), ttl: ttl(message.ttl_ms) })
}

fn ttl(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use liftlock_proto::v1;

    use super::*;

    fn read(message: Option<Message>) -> Result<Order, Unreadable> {
        super::read(CoordinatorMessage { message }, &"cp1".parse().unwrap())
    }

    fn grant() -> Grant {
        let plan_hash = format!("0123456789ab{}", "0".repeat(52));
        Grant {
            plan_id: "p-0123456789ab".to_owned(),
            plan_hash,
            fencing_token: 7,
            ttl_ms: 30_000,
            role: v1::Role::Worker.into(),
            steps: vec![Step::RestoreSchedulability {}.into()],
            purpose: v1::Purpose::Raise.into(),
        }
    }

    #[test]
    fn a_grant_becomes_the_header_of_this_nodes_journal() {
        let Order::Grant { lease, ttl } = read(Some(Message::Grant(grant()))).unwrap() else { panic!() };
        assert_eq!((lease.node.as_str(), lease.token, ttl.as_secs()), ("cp1", FencingToken(7), 30));
        assert_eq!(lease.steps, [Step::RestoreSchedulability {}]);
    }

    #[test]
    fn a_grant_that_is_not_whole_is_refused() {
        let broken: [fn(&mut Grant); 6] = [
            |grant| grant.plan_id = "../etc".to_owned(),
            |grant| grant.plan_id = "p-ba9876543210".to_owned(),
            |grant| grant.plan_hash.clear(),
            |grant| grant.ttl_ms = 0,
            |grant| grant.steps.push(v1::Step { kind: None }),
            |grant| grant.purpose = 0,
        ];
        for (number, break_it) in broken.iter().enumerate() {
            let mut grant = grant();
            break_it(&mut grant);
            assert!(read(Some(Message::Grant(grant))).is_err(), "grant {number} was read");
        }
    }

    #[test]
    fn a_message_of_an_unknown_kind_is_refused() {
        let error = read(None).unwrap_err().to_string();
        assert!(error.contains("does not know"), "{error}");
    }
}
