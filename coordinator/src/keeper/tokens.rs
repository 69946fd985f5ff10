//! Join tokens, and the certificates that they buy.

use std::fmt::Write as _;

use liftlock_proto::join_token::JoinToken;
use liftlock_proto::name::NodeName;

use super::{Keeper, KeeperError, State};
use crate::core::dismissal;
use crate::core::history::{HistoryKind, HistoryRecord};
use crate::core::rollout::{Event, Lease};
use crate::identity::authority::{CheckedRequest, IdentityError, now_s};
use crate::identity::revocation::Revocation;
use crate::identity::subject::{Peer, Role, Subject};
use crate::identity::token::{MAX_TTL_SECONDS, TokenRecord, TokenRefused};
use crate::store::records::{Change, Enrolled};

/// What a token buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The subject's certificate, PEM.
    pub certificate_pem: String,
    /// The coordinator's CA, PEM.
    pub ca_pem: String,
}

impl Keeper {
    /// Makes a one-time token for a subject. Returns it with the moment at which it expires (milliseconds since the
    /// Unix epoch).
    pub fn create_token(
        &self,
        subject: Subject,
        ttl_seconds: u32,
        operator: &str,
    ) -> Result<(JoinToken, u64), KeeperError> {
        if ttl_seconds == 0 || ttl_seconds > MAX_TTL_SECONDS {
            return Err(KeeperError::Invalid(format!(
                "a join token lives from 1 s to 7 days, not {ttl_seconds} s: give another --ttl"
            )));
        }
        let mut random = [0; 36];
        getrandom::fill(&mut random).map_err(IdentityError::Random)?;
        let expires_at_ms = self.clock.unix_ms().saturating_add(u64::from(ttl_seconds) * 1000);
        let ca_sha256 = self.authority.fingerprint().to_owned();
        let text = format!("a join token for {subject}");
        let (token, kept) = TokenRecord::new(random, ca_sha256, subject, expires_at_ms);
        let mut state = self.lock();
        let record = about(&kept, self.record(HistoryKind::TokenCreated, text));
        let change = Change {
            history: vec![HistoryRecord { operator: Some(operator.to_owned()), ..record }],
            token: Some((token.id.clone(), kept)),
            ..Change::default()
        };
        self.commit(&mut state, change)?;
        Ok((token, expires_at_ms))
    }

    /// Every token that was made, by id, with whether it is of no more use.
    pub fn tokens(&self) -> Vec<(String, TokenRecord)> {
        self.lock().saved.tokens.clone().into_iter().collect()
    }

    /// Takes a token back. If it was used already, every certificate that its subject has up to now is void, its session
    /// ends, and so does the lease that it holds: refused unless an operator says that the machine is `fenced`, which is off
    /// or cut off from the cluster. Returns what became of the lease, if it held one.
    pub fn revoke_token(
        &self,
        id: &str,
        fenced: bool,
        operator: &str,
    ) -> Result<Option<String>, KeeperError> {
        let mut state = self.lock();
        let token = state.saved.tokens.get(id).cloned().ok_or_else(|| {
            KeeperError::NotFound(format!("there is no join token {id}: see `liftlock token list`"))
        })?;
        let subject = token.subject.clone();
        let used = token.used_for.is_some();
        let node = node_of(&subject).filter(|_| used);
        if let Some(node) = node.as_ref().filter(|_| !fenced) {
            state.refuse_to_dismiss(node, id, self.clock.unix_ms())?;
        }
        let mut text = format!("the join token of {subject} was taken back");
        if used {
            let _ = write!(text, ", and with it every certificate that {subject} had");
        }
        if node.is_some() && fenced {
            text.push_str("; the machine is off or cut off, the operator says");
        }
        let record = about(&token, self.record(HistoryKind::TokenRevoked, text));
        let change = Change {
            history: vec![HistoryRecord { operator: Some(operator.to_owned()), ..record }],
            token: Some((id.to_owned(), TokenRecord { revoked: true, ..token })),
            revocation: used.then(|| Revocation {
                subject: subject.clone(),
                up_to_s: self.revoked_up_to_s(&state, &subject),
            }),
            ..Change::default()
        };
        self.commit(&mut state, change)?;
        let Some(node) = node else { return Ok(None) };
        state.cut_off(&node, "its certificate was revoked");
        let ended = self.dismiss_holder(&mut state, &node)?;
        self.advance(&mut state);
        Ok(ended)
    }

    /// A holder that is not let in any more cannot renew its lease, so it begins nothing more, and never reports an end. It has
    /// failed, and an operator says what becomes of what it did.
    fn dismiss_holder(&self, state: &mut State, node: &NodeName) -> Result<Option<String>, KeeperError> {
        let Some(Lease { token, .. }) = state.lease_of(node) else { return Ok(None) };
        let text = format!("{node} failed: {}", dismissal::failure(node, token));
        let record = state.about(node, token, self.record(HistoryKind::LeaseFailed, text.clone()));
        let event = Event::HolderDismissed { node: node.clone(), token, at_ms: self.clock.unix_ms() };
        self.happen(state, &event, vec![record])?;
        Ok(Some(text))
    }

    /// The present second, or that of the subject's enrolment if the clock was set back since.
    fn revoked_up_to_s(&self, state: &State, subject: &Subject) -> i64 {
        let enrolled = node_of(subject).and_then(|node| state.saved.enrolled.get(&node));
        let enrolled_s = enrolled.map_or(0, Enrolled::at_s);
        now_s(self.clock.as_ref()).max(enrolled_s)
    }

    /// Trades a token for a certificate. That the token is used is durable before the certificate is returned.
    pub fn enroll(
        &self,
        id: &str,
        secret: &str,
        given: &str,
        csr_der: &[u8],
    ) -> Result<Certified, KeeperError> {
        let mut state = self.lock();
        let token = state.saved.tokens.get(id).cloned().ok_or(TokenRefused::Unknown)?;
        let now_ms = self.clock.unix_ms();
        token.check(id, secret, given, now_ms)?;
        // Nothing of a stranger's is parsed before the secret was right.
        let request = CheckedRequest::parse(csr_der)?;
        token.check_key(id, &request.key_sha256)?;
        let subject = token.subject.clone();
        if token.used_for.is_none() {
            let node = node_of(&subject);
            let kind = if node.is_some() { HistoryKind::NodeEnrolled } else { HistoryKind::TokenUsed };
            let change = Change {
                history: vec![about(&token, self.record(kind, format!("{subject} has enrolled")))],
                token: Some((
                    id.to_owned(),
                    TokenRecord { used_for: Some(request.key_sha256.clone()), ..token },
                )),
                enrolled: node.map(|node| (node, Enrolled { at_ms: now_ms })),
                ..Change::default()
            };
            self.commit(&mut state, change)?;
        }
        let certificate_pem = self.certify(&state, &request, &subject)?;
        Ok(Certified { certificate_pem, ca_pem: self.authority.certificate_pem().to_owned() })
    }

    /// A new certificate for an agent whose session proves the old one.
    pub(super) fn renew_certificate(
        &self,
        state: &State,
        node: &NodeName,
        csr_der: &[u8],
    ) -> Result<String, KeeperError> {
        let request = CheckedRequest::parse(csr_der)?;
        self.certify(state, &request, &Subject::agent(node))
    }

    /// Refuses a certificate that was revoked.
    pub fn check_peer(&self, peer: &Peer) -> Result<(), KeeperError> {
        let state = self.lock();
        match state.saved.revocations.get(&peer.subject) {
            Some(revocation) if revocation.covers(peer) => Err(KeeperError::Denied(format!(
                "this certificate of {} was revoked: enrol again with a new join token",
                peer.subject
            ))),
            _ => Ok(()),
        }
    }

    /// Valid from now, or from right after the subject's earlier certificates were revoked.
    fn certify(
        &self,
        state: &State,
        request: &CheckedRequest,
        subject: &Subject,
    ) -> Result<String, KeeperError> {
        let after_revocation =
            state.saved.revocations.get(subject).map_or(0, |revocation| revocation.up_to_s + 1);
        let from_s = now_s(self.clock.as_ref()).max(after_revocation);
        Ok(self.authority.sign(request, subject, from_s)?)
    }
}

impl State {
    /// Refuses to take the certificate of a node that may hold a lease: what it does now would go on beside the next one's.
    fn refuse_to_dismiss(&self, node: &NodeName, id: &str, now_ms: u64) -> Result<(), KeeperError> {
        let goes_on = self.saved.newest().is_some_and(|(_, rollout)| !rollout.is_final());
        let holds = if let Some(lease) = self.lease_of(node) {
            format!("holds lease {}", lease.token)
        } else if let Some(token) = self.unknown_leases.get(node) {
            format!("holds lease {token}, which this coordinator never granted")
        } else if goes_on && self.waits_to_hear(node) {
            "may hold a lease, as it has not said what it holds since this coordinator started".to_owned()
        } else {
            return Ok(());
        };
        let heard = match self.last_seen_ms.get(node) {
            _ if self.sessions.contains_key(node) => "its agent is connected".to_owned(),
            Some(seen_ms) => {
                format!("its agent was heard of {} s ago", now_ms.saturating_sub(*seen_ms) / 1000)
            }
            None => "its agent was not heard of since this coordinator started".to_owned(),
        };
        Err(KeeperError::NotNow(format!(
            "{node} {holds}, and {heard}: without its certificate the lease ends, and what runs there, kubeadm too, goes on \
             beside whoever is leased next. Switch the machine off or cut it off from the cluster, and say so: `liftlock token \
             revoke {id} --fenced`; the lease has failed then, the roll-out is halted, and nothing is begun before you say what \
             follows. Where the machine is well: `liftlock pause`, and wait for the lease's end"
        )))
    }
}

fn about(token: &TokenRecord, record: HistoryRecord) -> HistoryRecord {
    HistoryRecord { node: node_of(&token.subject), ..record }
}

fn node_of(subject: &Subject) -> Option<NodeName> {
    if subject.kind == Role::Agent { subject.name.parse().ok() } else { None }
}
