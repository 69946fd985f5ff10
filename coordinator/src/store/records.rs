//! The records in the store: their keys, and what each holds.
//!
//! A roll-out is spread over several keys, so that a step's report writes one small value and not the whole plan:
//! `rollout/N` (head), `rollout/N/plan/I` (one node's part of the plan, never changed) and `rollout/N/node/I` (how
//! far that node is). N counts roll-outs from 1. A roll-out exists once its head does.

use std::collections::BTreeMap;
use std::fmt::Display;

use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use liftlock_proto::plan::{Plan, PlannedNode, Policy};
use liftlock_proto::version::KubernetesVersion;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Batch, Store, StoreError};
use crate::core::history::HistoryRecord;
use crate::core::rollout::{Intent, NodeState, Rollout};
use crate::identity::revocation::Revocation;
use crate::identity::subject::Subject;
use crate::identity::token::TokenRecord;

/// Raised whenever a record changes in a way that an older version would misread.
pub const FORMAT: u32 = 1;

/// Nodes of a plan that are written in one batch.
const NODES_A_BATCH: usize = 64;

const FORMAT_KEY: &str = "format";
const FENCE_KEY: &str = "fence";

/// Everything that the store holds.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// The highest fencing token that was ever granted, or that an agent reported.
    pub fence: FencingToken,
    /// Every roll-out, oldest first; the number counts from 1.
    pub rollouts: BTreeMap<u64, Rollout>,
    /// Everything that happened, by sequence number, counted from 1.
    pub history: BTreeMap<u64, HistoryRecord>,
    /// Join tokens by id.
    pub tokens: BTreeMap<String, TokenRecord>,
    /// Nodes whose agents have a certificate.
    pub enrolled: BTreeMap<NodeName, Enrolled>,
    /// Whose earlier certificates count no more.
    pub revocations: BTreeMap<Subject, Revocation>,
}

/// A node whose agent traded a token for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    plan: PlanHead,
    intent: Intent,
    started_at_ms: u64,
    started_by: String,
    ended_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlanHead {
    id: PlanId,
    hash: String,
    from_version: KubernetesVersion,
    to_version: KubernetesVersion,
    policy: Policy,
    nodes: usize,
}

#[derive(Serialize, Deserialize)]
struct Fence {
    highest: FencingToken,
}

#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
}

impl Saved {
    /// Reads all that a store holds. A new store is given its format.
    pub fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut entries = Entries(store.load()?);
        match entries.take::<Format>(FORMAT_KEY)? {
            Some(Format { version: FORMAT }) => {}
            Some(Format { version: found }) => return Err(StoreError::Format { found, known: FORMAT }),
            None if entries.0.is_empty() => {
                let mut batch = Batch::default();
                batch.put(FORMAT_KEY.to_owned(), &Format { version: FORMAT })?;
                store.commit(&batch)?;
            }
            None => return Err(unreadable(FORMAT_KEY, &"it is missing")),
        }
        let mut saved = Self::default();
        if let Some(Fence { highest }) = entries.take(FENCE_KEY)? {
            saved.fence = highest;
        }
        for (key, value) in &entries.0 {
            let mut parts = key.split('/');
            let (family, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            match (family, parts.next()) {
                ("history", None) => {
                    saved.history.insert(number(key, name)?, parse(key, value)?);
                }
                ("token", None) => {
                    saved.tokens.insert(name.to_owned(), parse(key, value)?);
                }
                ("node", None) => {
                    let name = name.parse().map_err(|e| unreadable(key, &e))?;
                    saved.enrolled.insert(name, parse(key, value)?);
                }
                ("revocation", None) => {
                    let revocation: Revocation = parse(key, value)?;
                    saved.revocations.insert(revocation.subject.clone(), revocation);
                }
                ("rollout", None) => {
                    saved
                        .rollouts
                        .insert(number(key, name)?, entries.rollout(key, value)?);
                }
                ("rollout", Some("plan" | "node")) => {}
                _ => return Err(unreadable(key, &"no record of this version has such a key")),
            }
        }
        Ok(saved)
    }
}

/// What is to be remembered from now on, all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The highest fencing token.
    pub fence: Option<FencingToken>,
    /// A roll-out's number and its new state.
    pub rollout: Option<(u64, Rollout)>,
    /// What happened, appended to the history in this order.
    pub history: Vec<HistoryRecord>,
    /// A join token's id and its new state.
    pub token: Option<(String, TokenRecord)>,
    /// A node whose agent has a certificate from now on.
    pub enrolled: Option<(NodeName, Enrolled)>,
    /// A subject whose earlier certificates count no more.
    pub revocation: Option<Revocation>,
}

impl Saved {
    /// Makes a change durable, then part of `self`. After an error `self` is as it was.
    pub fn commit(&mut self, store: &dyn Store, change: Change) -> Result<(), StoreError> {
        if let Some((number, rollout)) = &change.rollout
            && !self.rollouts.contains_key(number)
        {
            for batch in plan_batches(*number, &rollout.plan)? {
                store.commit(&batch)?;
            }
        }
        store.commit(&self.batch(&change)?)?;
        self.apply(change);
        Ok(())
    }

    /// The newest roll-out and its number.
    pub fn newest(&self) -> Option<(u64, &Rollout)> {
        self.rollouts
            .last_key_value()
            .map(|(number, rollout)| (*number, rollout))
    }

    fn next_sequence(&self) -> u64 {
        self.history.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    fn batch(&self, change: &Change) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        if let Some(highest) = change.fence {
            batch.put(FENCE_KEY.to_owned(), &Fence { highest })?;
        }
        if let Some((number, rollout)) = &change.rollout {
            put_rollout(&mut batch, *number, self.rollouts.get(number), rollout)?;
        }
        for (sequence, record) in (self.next_sequence()..).zip(&change.history) {
            batch.put(format!("history/{sequence:020}"), record)?;
        }
        if let Some((id, token)) = &change.token {
            batch.put(format!("token/{id}"), token)?;
        }
        if let Some((node, enrolled)) = &change.enrolled {
            batch.put(format!("node/{node}"), enrolled)?;
        }
        if let Some(revocation) = &change.revocation {
            let Subject { kind, name } = &revocation.subject;
            batch.put(format!("revocation/{}:{name}", kind.name()), revocation)?;
        }
        Ok(batch)
    }

    fn apply(&mut self, change: Change) {
        let first = self.next_sequence();
        self.fence = change.fence.unwrap_or(self.fence);
        self.rollouts.extend(change.rollout);
        self.history.extend((first..).zip(change.history));
        self.tokens.extend(change.token);
        self.enrolled.extend(change.enrolled);
        let revocation = change
            .revocation
            .map(|revocation| (revocation.subject.clone(), revocation));
        self.revocations.extend(revocation);
    }
}

/// What changed in a roll-out since it was `before`, its plan left out.
fn put_rollout(
    batch: &mut Batch,
    number: u64,
    before: Option<&Rollout>,
    after: &Rollout,
) -> Result<(), StoreError> {
    let head = |rollout: &Rollout| (rollout.intent, rollout.ended_at_ms);
    if before.map(head) != Some(head(after)) {
        batch.put(head_key(number), &Head::of(after))?;
    }
    for (index, state) in after.nodes.iter().enumerate() {
        if before.and_then(|before| before.nodes.get(index)) != Some(state) {
            batch.put(format!("{}/node/{index:05}", head_key(number)), state)?;
        }
    }
    Ok(())
}

/// A plan's nodes in as many batches as they need. Nothing refers to them before the roll-out's head is there.
fn plan_batches(number: u64, plan: &Plan) -> Result<Vec<Batch>, StoreError> {
    let keyed: Vec<(usize, &PlannedNode)> = plan.nodes.iter().enumerate().collect();
    keyed
        .chunks(NODES_A_BATCH)
        .map(|chunk| {
            let mut batch = Batch::default();
            for (index, node) in chunk {
                batch.put(format!("{}/plan/{index:05}", head_key(number)), node)?;
            }
            Ok(batch)
        })
        .collect()
}

impl Head {
    fn of(rollout: &Rollout) -> Self {
        let Plan {
            id,
            hash,
            from_version,
            to_version,
            nodes,
            policy,
        } = &rollout.plan;
        Self {
            plan: PlanHead {
                id: id.clone(),
                hash: hash.clone(),
                from_version: *from_version,
                to_version: *to_version,
                policy: policy.clone(),
                nodes: nodes.len(),
            },
            intent: rollout.intent,
            started_at_ms: rollout.started_at_ms,
            started_by: rollout.started_by.clone(),
            ended_at_ms: rollout.ended_at_ms,
        }
    }
}

struct Entries(BTreeMap<String, Vec<u8>>);

impl Entries {
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, StoreError> {
        self.0.remove(key).map(|value| parse(key, &value)).transpose()
    }

    fn rollout(&self, key: &str, value: &[u8]) -> Result<Rollout, StoreError> {
        let head: Head = parse(key, value)?;
        let all = 0..head.plan.nodes;
        let nodes: Vec<NodeState> = all
            .clone()
            .map(|index| self.part(key, "node", index))
            .collect::<Result<_, _>>()?;
        let planned: Vec<PlannedNode> = all
            .map(|index| self.part(key, "plan", index))
            .collect::<Result<_, _>>()?;
        let PlanHead {
            id,
            hash,
            from_version,
            to_version,
            policy,
            ..
        } = head.plan;
        Ok(Rollout {
            plan: Plan {
                id,
                hash,
                from_version,
                to_version,
                nodes: planned,
                policy,
            },
            intent: head.intent,
            nodes,
            started_at_ms: head.started_at_ms,
            started_by: head.started_by,
            ended_at_ms: head.ended_at_ms,
        })
    }

    fn part<T: DeserializeOwned>(&self, head: &str, part: &str, index: usize) -> Result<T, StoreError> {
        let key = format!("{head}/{part}/{index:05}");
        let value = self
            .0
            .get(&key)
            .ok_or_else(|| unreadable(&key, &"it is missing"))?;
        parse(&key, value)
    }
}

fn head_key(number: u64) -> String {
    format!("rollout/{number:010}")
}

fn number(key: &str, text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|e| unreadable(key, &e))
}

fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|e| unreadable(key, &e))
}

fn unreadable(key: &str, why: &dyn Display) -> StoreError {
    StoreError::Unreadable {
        key: key.to_owned(),
        why: why.to_string(),
    }
}
