//! Hooks: what the coordinator calls before and after plans, pools and nodes.
//!
//! A document names a hook, and the coordinator's own configuration says which command that is: none comes from anywhere
//! else. Or it gives an address that is told over HTTP. That a call begins is recorded before it is made, and how it ended
//! before anything follows from it: one that a crash of the coordinator cut off is made again, so a hook has to bear being
//! called twice. One that has ended well is not called again.
//!
//! No node is begun on past a hook that has not ended well. What was begun before, and what goes back, is held by none.

use std::fmt;
use std::str::FromStr;

use liftlock_proto::name::NodeName;
use liftlock_proto::plan::PlannedNode;
use serde::{Deserialize, Serialize};

use crate::core::rollout::{NodeState, Phase, Rollout, TransitionError};

/// How often a hook is called in all before it is given up, once its roll-out has ended: nothing waits for it any more.
const CALLS_AFTER_THE_END: u32 = 60;

/// What is called, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Before the first node of the plan is begun on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before_plan: Vec<Hook>,
    /// Once every node of the plan is raised, or its roll-out has ended otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_plan: Vec<Hook>,
    /// Before the first node of each pool is begun on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before_pool: Vec<Hook>,
    /// Once no node of a pool is to be raised any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_pool: Vec<Hook>,
    /// Before each node is begun on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before_node: Vec<Hook>,
    /// Once a node is raised.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_node: Vec<Hook>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// What is called.
    #[serde(flatten)]
    pub target: Target,
    /// How long it may take.
    pub timeout_seconds: u32,
}

/// What a hook calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// What the coordinator's configuration has under this name.
    Name(String),
    /// This address, by POST. What stands behind its host may be a secret and is not shown.
    Url(String),
}

/// When a hook is called, and what about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Moment {
    BeforePlan,
    AfterPlan,
    BeforePool(String),
    AfterPool(String),
    BeforeNode(NodeName),
    AfterNode(NodeName),
}

/// How far the hooks of one moment are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Those that have ended well, and those that are not to be called any more.
    pub settled: Vec<Target>,
    /// The last call of one that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Run>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Of what.
    pub target: Target,
    /// Which call it is, counted from 1.
    pub number: u32,
    /// When it began or failed, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why it failed last, kept while it is called again; `None` where no call of it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How many calls have failed.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failures: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_none(count: &u32) -> bool {
    *count == 0
}

/// A hook that is to end well before any node is begun on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When, and what about.
    pub moment: Moment,
    /// Which hook.
    pub hook: Hook,
    /// Its last call, if there was one.
    pub last: Option<Run>,
}

/// A text that names no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no moment of a hook")]
pub struct MomentError(String);

impl Hooks {
    /// Whether there is none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Those of one moment, in their order.
    pub fn of(&self, moment: &Moment) -> &[Hook] {
        match moment {
            Moment::BeforePlan => &self.before_plan,
            Moment::AfterPlan => &self.after_plan,
            Moment::BeforePool(_) => &self.before_pool,
            Moment::AfterPool(_) => &self.after_pool,
            Moment::BeforeNode(_) => &self.before_node,
            Moment::AfterNode(_) => &self.after_node,
        }
    }

    /// Each list by its field in a document.
    pub fn lists(&self) -> [(&'static str, &[Hook]); 6] {
        [
            ("beforePlan", &self.before_plan),
            ("afterPlan", &self.after_plan),
            ("beforePool", &self.before_pool),
            ("afterPool", &self.after_pool),
            ("beforeNode", &self.before_node),
            ("afterNode", &self.after_node),
        ]
    }
}

impl Moment {
    /// `before-plan`, `after-pool`, …
    pub fn name(&self) -> &'static str {
        match self {
            Self::BeforePlan => "before-plan",
            Self::AfterPlan => "after-plan",
            Self::BeforePool(_) => "before-pool",
            Self::AfterPool(_) => "after-pool",
            Self::BeforeNode(_) => "before-node",
            Self::AfterNode(_) => "after-node",
        }
    }

    /// The node that it is about.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::BeforeNode(node) | Self::AfterNode(node) => Some(node),
            _ => None,
        }
    }

    /// The pool that it is about.
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::BeforePool(pool) | Self::AfterPool(pool) => Some(pool),
            _ => None,
        }
    }
}

/// `before-plan`, `after-pool:gpu`, `before-node:w1`: a key of the store.
impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        let about = moment.node().map(NodeName::as_str).or(moment.pool());
        about.map_or_else(|| moment.name().to_owned(), |about| format!("{}:{about}", moment.name()))
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let unknown = || MomentError(text.to_owned());
        let node = |name: &str| name.parse().map_err(|_| unknown());
        match text.split_once(':') {
            None if text == "before-plan" => Ok(Self::BeforePlan),
            None if text == "after-plan" => Ok(Self::AfterPlan),
            Some(("before-pool", pool)) => Ok(Self::BeforePool(pool.to_owned())),
            Some(("after-pool", pool)) => Ok(Self::AfterPool(pool.to_owned())),
            Some(("before-node", name)) => Ok(Self::BeforeNode(node(name)?)),
            Some(("after-node", name)) => Ok(Self::AfterNode(node(name)?)),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentError;

    fn try_from(text: String) -> Result<Self, MomentError> {
        text.parse()
    }
}

/// `before the plan`, `after pool gpu`, `before w1`
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforePlan => f.write_str("before the plan"),
            Self::AfterPlan => f.write_str("after the plan"),
            Self::BeforePool(pool) => write!(f, "before pool {pool}"),
            Self::AfterPool(pool) => write!(f, "after pool {pool}"),
            Self::BeforeNode(node) => write!(f, "before {node}"),
            Self::AfterNode(node) => write!(f, "after {node}"),
        }
    }
}

/// `announce`, `https://chat.example/…`
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Url(url) => f.write_str(&origin(url)),
        }
    }
}

/// An address without what may be a secret in it.
pub fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", ""));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.len() == rest.len() { format!("{scheme}://{host}") } else { format!("{scheme}://{host}/…") }
}

/// `the hook announce before w1`
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hook {} {}", self.hook.target, self.moment)
    }
}

impl Call {
    /// Why it failed last, if it ever did.
    pub fn failure(&self) -> Option<&str> {
        self.last.as_ref()?.failure.as_deref()
    }

    /// What is waited for, for operators.
    pub fn waiting(&self) -> String {
        match self.failure() {
            None => format!("waits for {self}"),
            Some(why) => format!(
                "{self} {}: {why}; it is called again every minute, and nothing is begun before it has ended well: put it \
                 right, or take it out of spec.hooks (`liftlock edit`)",
                match self.last.as_ref().map_or(1, |last| last.failures) {
                    0 | 1 => "has failed".to_owned(),
                    failures => format!("has failed {failures} times, the last time"),
                }
            ),
        }
    }
}

impl Rollout {
    /// The next hook to be called of those whose time has come because something has ended.
    pub fn hook_after(&self) -> Option<Call> {
        if self.conduct.hooks.is_default() {
            return None;
        }
        self.ended_moments().into_iter().find_map(|moment| self.next_of(moment))
    }

    /// The next hook to be called before a node is begun on that never was.
    fn hook_before(&self, planned: &PlannedNode) -> Option<Call> {
        if self.conduct.hooks.is_default() {
            return None;
        }
        begun_moments(planned).into_iter().find_map(|moment| self.next_of(moment))
    }

    /// The hook that has to end well before this node is begun on.
    pub fn hook_in_the_way(&self, node: &NodeName) -> Option<Call> {
        match self.node(node)? {
            (planned, NodeState::Prepared) => self.hook_after().or_else(|| self.hook_before(planned)),
            _ => None,
        }
    }

    /// How it has ended, as hooks after a plan are told.
    pub fn outcome(&self) -> Option<&'static str> {
        match self.phase() {
            _ if self.is_raised() => Some("raised"),
            Phase::Aborted => Some("aborted"),
            Phase::RolledBack => Some("rolled-back"),
            _ => None,
        }
    }

    /// The first hook of a moment that is not settled.
    fn next_of(&self, moment: Moment) -> Option<Call> {
        let progress = self.hooks.get(&moment);
        let is_settled =
            |hook: &&Hook| progress.is_some_and(|progress| progress.settled.contains(&hook.target));
        let hook = self.conduct.hooks.of(&moment).iter().find(|hook| !is_settled(hook))?.clone();
        let last = progress.and_then(|progress| progress.last.clone());
        Some(Call { last: last.filter(|run| run.target == hook.target), moment, hook })
    }

    /// After what: nodes, then pools, then the plan. While nodes are put back, and after that, only after the plan.
    fn ended_moments(&self) -> Vec<Moment> {
        let mut moments = Vec::new();
        if !matches!(self.phase(), Phase::RollingBack | Phase::RolledBack) {
            let raised = self.nodes().filter(|(_, state)| is_raised(state));
            moments.extend(raised.map(|(planned, _)| Moment::AfterNode(planned.name.clone())));
            let pools = self.plan.pools.iter().filter(|pool| self.pool_has_ended(&pool.name));
            moments.extend(pools.map(|pool| Moment::AfterPool(pool.name.clone())));
        }
        if self.outcome().is_some() && self.has_begun() {
            moments.push(Moment::AfterPlan);
        }
        moments
    }

    /// Whether some of a pool is raised, and nothing else of it is to be.
    fn pool_has_ended(&self, pool: &str) -> bool {
        let is_of = |planned: &PlannedNode| planned.place.as_ref().is_some_and(|place| place.pool == pool);
        let mut of_pool = self.nodes().filter(|(planned, _)| is_of(planned)).peekable();
        let passed_over = |planned: &PlannedNode, state: &NodeState| {
            matches!(state, NodeState::RolledBack { .. }) && self.quarantined.contains_key(&planned.name)
        };
        let some = self.nodes().any(|(planned, state)| is_of(planned) && is_raised(state));
        some && of_pool.all(|(planned, state)| is_raised(state) || passed_over(planned, state))
    }

    /// Whether any node was begun on, or a hook called before one.
    fn has_begun(&self) -> bool {
        self.nodes.iter().any(NodeState::is_begun)
            || self.hooks.values().any(|progress| *progress != Progress::default())
    }

    /// Records that a call begins.
    pub(super) fn begin_hook(
        &mut self,
        moment: &Moment,
        target: &Target,
        at_ms: u64,
    ) -> Result<(), TransitionError> {
        let due = self.next_of(moment.clone()).filter(|call| call.hook.target == *target);
        let call = due.ok_or(TransitionError::NotNow {
            what: "call this hook in",
            why: "it is not the next of its moment",
        })?;
        let before =
            call.last.unwrap_or(Run { target: target.clone(), number: 0, at_ms, failure: None, failures: 0 });
        let number = before.number.saturating_add(1);
        let progress = self.hooks.entry(moment.clone()).or_default();
        progress.last = Some(Run { number, at_ms, ..before });
        Ok(())
    }

    /// Records how a call ended. One that is wanted no more, because of an edit meanwhile, changes nothing.
    pub(super) fn end_hook(&mut self, moment: &Moment, target: &Target, failure: Option<&str>, at_ms: u64) {
        let is_final = self.is_final();
        let Some(progress) = self.hooks.get_mut(moment) else { return };
        let Some(run) = progress.last.as_mut().filter(|run| run.target == *target) else { return };
        (run.at_ms, run.failure) = (at_ms, failure.map(str::to_owned));
        run.failures = run.failures.saturating_add(1);
        let given_up = is_final && run.number >= CALLS_AFTER_THE_END;
        if failure.is_none() || given_up {
            progress.settled.push(target.clone());
            progress.last = None;
        }
    }

    /// What an edit brings is called where its moment comes, and not for what was passed before.
    pub(super) fn settle_what_was_passed(&mut self, before: &Self) {
        let begun = before.nodes().filter(|(_, state)| state.is_begun());
        let mut passed: Vec<Moment> = begun.flat_map(|(planned, _)| begun_moments(planned)).collect();
        passed.extend(before.ended_moments());
        passed.retain(|moment| before.next_of(moment.clone()).is_none());
        for moment in passed {
            for hook in self.conduct.hooks.of(&moment) {
                let progress = self.hooks.entry(moment.clone()).or_default();
                if !progress.settled.contains(&hook.target) {
                    progress.settled.push(hook.target.clone());
                }
            }
        }
    }

    /// A node that was put back is begun on anew, and so are its hooks.
    pub(super) fn forget_hooks_of(&mut self, node: &NodeName) {
        for moment in [Moment::BeforeNode(node.clone()), Moment::AfterNode(node.clone())] {
            if let Some(progress) = self.hooks.get_mut(&moment) {
                *progress = Progress::default();
            }
        }
    }
}

/// What comes before a node, in order.
fn begun_moments(planned: &PlannedNode) -> Vec<Moment> {
    let pool = planned.place.as_ref().map(|place| Moment::BeforePool(place.pool.clone()));
    let node = Moment::BeforeNode(planned.name.clone());
    std::iter::once(Moment::BeforePlan).chain(pool).chain([node]).collect()
}

fn is_raised(state: &NodeState) -> bool {
    matches!(state, NodeState::Raised { .. })
}

#[cfg(test)]
mod tests;
