//! The records in the store: their keys, and what each holds.
//!
//! A roll-out is spread over several keys, so that a step's report writes one small value and not the whole plan:
//! `rollout/N` (head), `rollout/N/plan/I` (one node's part of the plan, never changed), `rollout/N/node/I` (how
//! far that node is), `rollout/N/hook/M` (how far the hooks of a moment are) and `rollout/N/onward/S/I` (one node of the Sth
//! stop that follows on its path, never changed). N counts roll-outs from 1. A roll-out exists once its head does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use liftlock_proto::name::{FencingToken, NodeName, PlanId};
use liftlock_proto::plan::{Plan, PlannedNode, Policy};
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::PlannedPool;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Batch, Store, StoreError};
use crate::core::conduct::Conduct;
use crate::core::history::HistoryRecord;
use crate::core::hooks::{Moment, Progress};
use crate::core::leg::{Leg, Next, Passing, Stop};
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
const ACTED_ON_KEY: &str = "acted-on";

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
    /// The followed document that was begun with or found fulfilled last.
    pub acted_on: Option<ActedOn>,
    /// The same for each object of kind `UpgradePlan` in the cluster, by its uid.
    pub objects: BTreeMap<String, ActedOnObject>,
}

/// A document of the folder that the coordinator follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActedOn {
    /// SHA-256 of what it says, lower-case hexadecimal.
    pub document: String,
}

/// What an object of kind `UpgradePlan` said when it was begun with or found fulfilled last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActedOnObject {
    /// SHA-256 of what it said, lower-case hexadecimal.
    pub document: String,
    /// The number of the roll-out that it began, the first of a path; `None` where there was nothing to do.
    pub rollout: Option<u64>,
}

/// A node whose agent traded a token for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Enrolled {
    /// Seconds since the Unix epoch.
    pub fn at_s(&self) -> i64 {
        i64::try_from(self.at_ms / 1000).unwrap_or(i64::MAX)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    plan: PlanHead,
    intent: Intent,
    started_at_ms: u64,
    started_by: String,
    ended_at_ms: Option<u64>,
    #[serde(default)]
    answered: Option<String>,
    #[serde(default)]
    leg: LegHead,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_after: Option<String>,
    #[serde(default, skip_serializing_if = "Conduct::is_default")]
    conduct: Conduct,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    quarantined: BTreeMap<NodeName, String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    dismissed: BTreeSet<NodeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LegHead {
    stop: u32,
    onward: Vec<StopHead>,
    next: Next,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StopHead {
    id: PlanId,
    hash: String,
    from_version: KubernetesVersion,
    to_version: KubernetesVersion,
    nodes: usize,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pools: Vec<PlannedPool>,
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
        saved.acted_on = entries.take(ACTED_ON_KEY)?;
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
                ("object", None) => {
                    saved.objects.insert(name.to_owned(), parse(key, value)?);
                }
                ("rollout", None) => {
                    saved.rollouts.insert(number(key, name)?, entries.rollout(key, value)?);
                }
                ("rollout", Some("plan" | "node" | "onward" | "hook")) => {}
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
    /// Roll-outs' numbers and their new states.
    pub rollouts: BTreeMap<u64, Rollout>,
    /// What happened, appended to the history in this order.
    pub history: Vec<HistoryRecord>,
    /// A join token's id and its new state.
    pub token: Option<(String, TokenRecord)>,
    /// A node whose agent has a certificate from now on.
    pub enrolled: Option<(NodeName, Enrolled)>,
    /// A subject whose earlier certificates count no more.
    pub revocation: Option<Revocation>,
    /// A followed document that is not acted upon again.
    pub acted_on: Option<ActedOn>,
    /// The uid of an object that is not acted upon again, and what it says.
    pub object: Option<(String, ActedOnObject)>,
}

impl Saved {
    /// Makes a change durable, then part of `self`. After an error `self` is as it was.
    pub fn commit(&mut self, store: &dyn Store, change: Change) -> Result<(), StoreError> {
        let new = change.rollouts.iter().filter(|(number, _)| !self.rollouts.contains_key(number));
        for (number, rollout) in new {
            for batch in plan_batches(*number, rollout)? {
                store.commit(&batch)?;
            }
        }
        store.commit(&self.batch(&change)?)?;
        self.apply(change);
        Ok(())
    }

    /// The newest roll-out and its number.
    pub fn newest(&self) -> Option<(u64, &Rollout)> {
        self.rollouts.last_key_value().map(|(number, rollout)| (*number, rollout))
    }

    fn next_sequence(&self) -> u64 {
        self.history.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    fn batch(&self, change: &Change) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        if let Some(highest) = change.fence {
            batch.put(FENCE_KEY.to_owned(), &Fence { highest })?;
        }
        for (number, rollout) in &change.rollouts {
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
        if let Some(acted_on) = &change.acted_on {
            batch.put(ACTED_ON_KEY.to_owned(), acted_on)?;
        }
        if let Some((uid, object)) = &change.object {
            batch.put(format!("object/{uid}"), object)?;
        }
        Ok(batch)
    }

    fn apply(&mut self, change: Change) {
        let first = self.next_sequence();
        self.fence = change.fence.unwrap_or(self.fence);
        self.rollouts.extend(change.rollouts);
        self.history.extend((first..).zip(change.history));
        self.tokens.extend(change.token);
        self.enrolled.extend(change.enrolled);
        let revocation = change.revocation.map(|revocation| (revocation.subject.clone(), revocation));
        self.revocations.extend(revocation);
        self.acted_on = change.acted_on.or(self.acted_on.take());
        self.objects.extend(change.object);
    }
}

/// What changed in a roll-out since it was `before`, its plan left out.
fn put_rollout(
    batch: &mut Batch,
    number: u64,
    before: Option<&Rollout>,
    after: &Rollout,
) -> Result<(), StoreError> {
    let head = |rollout: &Rollout| {
        let Rollout { intent, ended_at_ms, answered, leg, paused_after, conduct, .. } = rollout;
        let word = (answered.clone(), paused_after.clone());
        let word = (word, rollout.quarantined.clone(), rollout.dismissed.clone());
        (*intent, *ended_at_ms, word, leg.next.clone(), conduct.clone())
    };
    if before.map(head) != Some(head(after)) {
        batch.put(head_key(number), &Head::of(after))?;
    }
    for (index, state) in after.nodes.iter().enumerate() {
        if before.and_then(|before| before.nodes.get(index)) != Some(state) {
            batch.put(format!("{}/node/{index:05}", head_key(number)), state)?;
        }
    }
    for (moment, progress) in &after.hooks {
        if before.and_then(|before| before.hooks.get(moment)) != Some(progress) {
            batch
                .put(format!("{}{}", hooks_key(&head_key(number)), String::from(moment.clone())), progress)?;
        }
    }
    Ok(())
}

/// What never changes of a roll-out, the nodes of its plan and of those that follow, in as many batches as it needs.
/// Nothing refers to it before the roll-out's head is there.
fn plan_batches(number: u64, rollout: &Rollout) -> Result<Vec<Batch>, StoreError> {
    let head = head_key(number);
    let mut batches = parts(&format!("{head}/plan"), &rollout.plan.nodes)?;
    for (position, stop) in rollout.leg.onward.iter().enumerate() {
        batches.extend(parts(&onward_key(&head, position), &stop.nodes)?);
    }
    Ok(batches)
}

fn parts<T: Serialize>(key: &str, parts: &[T]) -> Result<Vec<Batch>, StoreError> {
    let keyed: Vec<(usize, &T)> = parts.iter().enumerate().collect();
    keyed
        .chunks(NODES_A_BATCH)
        .map(|chunk| {
            let mut batch = Batch::default();
            for (index, part) in chunk {
                batch.put(format!("{key}/{index:05}"), part)?;
            }
            Ok(batch)
        })
        .collect()
}

impl Head {
    fn of(rollout: &Rollout) -> Self {
        let Plan { id, hash, from_version, to_version, nodes, policy, pools } = &rollout.plan;
        Self {
            plan: PlanHead {
                id: id.clone(),
                hash: hash.clone(),
                from_version: *from_version,
                to_version: *to_version,
                policy: policy.clone(),
                nodes: nodes.len(),
                pools: pools.clone(),
            },
            intent: rollout.intent,
            started_at_ms: rollout.started_at_ms,
            started_by: rollout.started_by.clone(),
            ended_at_ms: rollout.ended_at_ms,
            answered: rollout.answered.clone(),
            leg: LegHead::of(&rollout.leg),
            paused_after: rollout.paused_after.clone(),
            conduct: rollout.conduct.clone(),
            quarantined: rollout.quarantined.clone(),
            dismissed: rollout.dismissed.clone(),
            document: rollout.document.clone(),
        }
    }
}

impl Default for LegHead {
    fn default() -> Self {
        Self::of(&Leg::default())
    }
}

impl LegHead {
    fn of(leg: &Leg) -> Self {
        let head = |stop: &Stop| StopHead {
            id: stop.id.clone(),
            hash: stop.hash.clone(),
            from_version: stop.from_version,
            to_version: stop.to_version,
            nodes: stop.nodes.len(),
        };
        Self { stop: leg.stop, onward: leg.onward.iter().map(head).collect(), next: leg.next.clone() }
    }
}

struct Entries(BTreeMap<String, Vec<u8>>);

impl Entries {
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, StoreError> {
        self.0.remove(key).map(|value| parse(key, &value)).transpose()
    }

    fn rollout(&self, key: &str, value: &[u8]) -> Result<Rollout, StoreError> {
        let head: Head = parse(key, value)?;
        let nodes: Vec<NodeState> = self.parts(&format!("{key}/node"), head.plan.nodes)?;
        let planned: Vec<PlannedNode> = self.parts(&format!("{key}/plan"), head.plan.nodes)?;
        let PlanHead { id, hash, from_version, to_version, policy, pools, .. } = head.plan;
        Ok(Rollout {
            plan: Plan { id, hash, from_version, to_version, nodes: planned, policy, pools },
            intent: head.intent,
            nodes,
            started_at_ms: head.started_at_ms,
            started_by: head.started_by,
            ended_at_ms: head.ended_at_ms,
            answered: head.answered,
            leg: self.leg(key, head.leg)?,
            paused_after: head.paused_after,
            conduct: head.conduct,
            quarantined: head.quarantined,
            dismissed: head.dismissed,
            hooks: self.hooks(key)?,
            document: head.document,
        })
    }

    fn hooks(&self, key: &str) -> Result<BTreeMap<Moment, Progress>, StoreError> {
        let prefix = hooks_key(key);
        let of_rollout = self.0.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let hooks = of_rollout.map(|(key, value)| {
            let moment = key.strip_prefix(&prefix).unwrap_or_default();
            Ok((moment.parse().map_err(|e| unreadable(key, &e))?, parse(key, value)?))
        });
        hooks.collect()
    }

    fn leg(&self, key: &str, head: LegHead) -> Result<Leg, StoreError> {
        let stop = |(position, stop): (usize, StopHead)| {
            let StopHead { id, hash, from_version, to_version, nodes } = stop;
            let nodes: Vec<Passing> = self.parts(&onward_key(key, position), nodes)?;
            Ok(Stop { id, hash, from_version, to_version, nodes })
        };
        let onward = head.onward.into_iter().enumerate().map(stop).collect::<Result<_, StoreError>>()?;
        Ok(Leg { stop: head.stop, onward, next: head.next })
    }

    fn parts<T: DeserializeOwned>(&self, key: &str, count: usize) -> Result<Vec<T>, StoreError> {
        let part = |index| {
            let key = format!("{key}/{index:05}");
            let value = self.0.get(&key).ok_or_else(|| unreadable(&key, &"it is missing"))?;
            parse(&key, value)
        };
        (0..count).map(part).collect()
    }
}

/// Of the nodes of one of the stops that follow, counted from 0.
fn onward_key(head: &str, position: usize) -> String {
    format!("{head}/onward/{position:02}")
}

/// Before the moment of each of its hooks.
fn hooks_key(head: &str) -> String {
    format!("{head}/hook/")
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
    StoreError::Unreadable { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use liftlock_proto::packages::PackageSource;
    use liftlock_proto::plan::Role;

    use super::*;
    use crate::core::history::HistoryKind;
    use crate::core::rollout::Event;
    use crate::core::sequence;
    use crate::identity::subject::Role as Kind;
    use crate::store::SledStore;
    use crate::store::memory::MemoryStore;

    fn rollout(nodes: u32) -> Rollout {
        let version = KubernetesVersion::new(1, 31, 2);
        let policy = Policy::default();
        let node = |number| PlannedNode {
            name: format!("node-{number:04}.cluster.example").parse().unwrap(),
            role: Role::ControlPlane,
            prepare: sequence::prepare(Role::ControlPlane, version),
            steps: sequence::under_lease(Role::ControlPlane, version, &policy, None),
            place: None,
            packages: PackageSource::default(),
        };
        let plan = Plan {
            id: "p-0123456789ab".parse().unwrap(),
            hash: "0".repeat(64),
            from_version: KubernetesVersion::new(1, 30, 4),
            to_version: version,
            nodes: (0..nodes).map(node).collect(),
            policy,
            pools: Vec::new(),
        };
        Rollout::start(plan, "alice".to_owned(), 1)
    }

    fn everything() -> Change {
        let subject = Subject { kind: Kind::Operator, name: "bob".to_owned() };
        let (token, kept) = TokenRecord::new([7; 36], "0".repeat(64), subject.clone(), 99);
        let record = HistoryRecord {
            at_ms: 1,
            kind: HistoryKind::PlanApplied,
            plan: None,
            node: Some("cp1".parse().unwrap()),
            token: Some(FencingToken(3)),
            operator: Some("alice".to_owned()),
            text: "for people".to_owned(),
        };
        Change {
            fence: Some(FencingToken(3)),
            rollouts: [(1, rollout(3))].into(),
            history: vec![record.clone(), record],
            token: Some((token.id, kept)),
            enrolled: Some(("cp1".parse().unwrap(), Enrolled { at_ms: 5 })),
            revocation: Some(Revocation { subject, up_to_s: 6 }),
            acted_on: Some(ActedOn { document: "0".repeat(64) }),
            object: Some((
                "5f4d3c2b-0000-4000-8000-000000000001".to_owned(),
                ActedOnObject { document: "1".repeat(64), rollout: Some(1) },
            )),
        }
    }

    fn same(left: &Saved, right: &Saved) -> bool {
        format!("{left:?}") == format!("{right:?}")
    }

    #[test]
    fn what_is_remembered_is_what_is_loaded() {
        let store = Arc::new(MemoryStore::default());
        let mut saved = Saved::load(&store).unwrap();
        saved.commit(&store, everything()).unwrap();
        assert_eq!((saved.fence, saved.history.len(), saved.rollouts.len()), (FencingToken(3), 2, 1));
        assert!(same(&saved, &Saved::load(&store).unwrap()));

        let prepared =
            Event::PrepareReported { node: "node-0001.cluster.example".parse().unwrap(), failure: None };
        let next = saved.rollouts[&1].after(&prepared).unwrap();
        let change = Change { rollouts: [(1, next)].into(), ..everything() };
        saved.commit(&store, change).unwrap();
        assert_eq!(saved.history.len(), 4);
        assert!(same(&saved, &Saved::load(&store).unwrap()));
    }

    #[test]
    fn a_path_is_kept_with_every_node_of_every_stop_and_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let mut saved = Saved::load(&store).unwrap();
        let first = rollout(300);
        let leg = Leg::first(&vec![first.plan.clone(); 17]);
        let first = first.on(leg);
        saved.commit(&store, Change { rollouts: [(1, first.clone())].into(), ..Change::default() }).unwrap();
        let mut halted = first.clone();
        halted.leg.next = Next::Halted { reason: "é\n\"".repeat(300) };
        halted.answered = Some("a failure".to_owned());
        halted.quarantined = [("w1".parse().unwrap(), "a budget".to_owned())].into();
        halted.dismissed = ["w2".parse().unwrap()].into();
        halted.document = Some("autumn".to_owned());
        let batch =
            saved.batch(&Change { rollouts: [(1, halted.clone())].into(), ..Change::default() }).unwrap();
        let keys: Vec<&str> = batch.writes().map(|(key, _)| key).collect();
        assert_eq!(keys, ["rollout/0000000001"]);
        saved.commit(&store, Change { rollouts: [(1, halted.clone())].into(), ..Change::default() }).unwrap();
        drop(store);
        let store = SledStore::open(folder.path()).unwrap();
        assert_eq!(Saved::load(&store).unwrap().rollouts[&1], halted);
    }

    #[test]
    fn a_step_forward_writes_one_nodes_state_and_not_the_plan() {
        let store = Arc::new(MemoryStore::default());
        let mut saved = Saved::load(&store).unwrap();
        saved.commit(&store, Change { rollouts: [(1, rollout(3))].into(), ..Change::default() }).unwrap();
        let prepared =
            Event::PrepareReported { node: "node-0001.cluster.example".parse().unwrap(), failure: None };
        let next = saved.rollouts[&1].after(&prepared).unwrap();
        let batch = saved.batch(&Change { rollouts: [(1, next)].into(), ..Change::default() }).unwrap();
        let keys: Vec<&str> = batch.writes().map(|(key, _)| key).collect();
        assert_eq!(keys, ["rollout/0000000001/node/00001"]);
    }

    #[test]
    fn a_plan_whose_roll_out_was_never_recorded_is_none() {
        let store = Arc::new(MemoryStore::default());
        let mut saved = Saved::load(&store).unwrap();
        for batch in plan_batches(1, &rollout(200)).unwrap() {
            store.commit(&batch).unwrap();
        }
        assert!(Saved::load(&store).unwrap().rollouts.is_empty());
        saved.commit(&store, Change { rollouts: [(1, rollout(2))].into(), ..Change::default() }).unwrap();
        assert_eq!(Saved::load(&store).unwrap().rollouts[&1], rollout(2));
    }

    #[test]
    fn what_another_version_wrote_is_not_guessed_at() {
        let with = |key: &str, value: &serde_json::Value| {
            let store = Arc::new(MemoryStore::default());
            Saved::load(&store).unwrap();
            let mut batch = Batch::default();
            batch.put(key.to_owned(), value).unwrap();
            store.commit(&batch).unwrap();
            Saved::load(&store).unwrap_err().to_string()
        };
        assert!(with("format", &serde_json::json!({"version": 2})).contains("install the newer one"));
        assert!(with("surprise/1", &serde_json::json!({})).contains("surprise/1"));
        assert!(with("fence", &serde_json::json!({"highest": "three"})).contains("fence"));
        let head = serde_json::to_value(Head::of(&rollout(1))).unwrap();
        assert!(with("rollout/0000000001", &head).contains("rollout/0000000001/node/00000"));
    }

    #[test]
    fn a_roll_out_of_five_hundred_nodes_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let mut saved = Saved::load(&store).unwrap();
        let mut rollout = rollout(500);
        saved
            .commit(&store, Change { rollouts: [(1, rollout.clone())].into(), ..Change::default() })
            .unwrap();
        for planned in rollout.plan.nodes.clone() {
            let event = Event::PrepareReported { node: planned.name, failure: Some("é\n\"".repeat(500)) };
            rollout = rollout.after(&event).unwrap();
        }
        for part in rollout.nodes.clone().chunks(50).enumerate() {
            let mut next = saved.rollouts[&1].clone();
            next.nodes.splice(part.0 * 50..part.0 * 50 + 50, part.1.iter().cloned());
            saved.commit(&store, Change { rollouts: [(1, next)].into(), ..Change::default() }).unwrap();
        }
        drop(store);
        let store = SledStore::open(folder.path()).unwrap();
        assert_eq!(Saved::load(&store).unwrap().rollouts[&1], rollout);
    }
}
