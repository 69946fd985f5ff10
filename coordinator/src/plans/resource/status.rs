//! What an object's status says: conditions as Kubernetes has them, and how far the roll-out is.

use liftlock_proto::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Characters of a condition's message, at most: refusals of a large cluster name every node.
const LONGEST_MESSAGE: usize = 8192;

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// The generation of the spec that this status is about.
    observed_generation: i64,
    /// Where the object or its roll-out stands, for people; programs read the conditions.
    phase: Phase,
    /// The plan that is or was rolled out for it, as in `liftlock get PLAN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_id: Option<String>,
    /// That plan's hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_hash: Option<String>,
    /// What that plan raises the nodes to: on a path the stop at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_version: Option<String>,
    /// How far its nodes are.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Nodes>,
    /// When the roll-out began; on a path that to the stop at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    started_at: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    ended_at: Option<String>,
    /// Accepted, Progressing, Succeeded and Degraded; Ready, Reconciling and Stalled say the same in the words of kstatus.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    conditions: Vec<Condition>,
}

/// Counts of nodes, and the one at hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Nodes {
    /// Of the plan.
    total: u32,
    /// That run what it leads to.
    raised: u32,
    /// That failed.
    failed: u32,
    /// The one under its lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    /// The step at which it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

/// Where an object or its roll-out stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum Phase {
    Waiting,
    Refused,
    Preparing,
    Running,
    Paused,
    Halted,
    Aborting,
    BetweenStops,
    Raised,
    Aborted,
    RollingBack,
    RolledBack,
    Unknown,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    kind: Kind,
    /// Whether it is so.
    status: Is,
    /// Why, in one word: a phase, or the rule that refuses the plan.
    reason: String,
    /// Why, for people, and what to do.
    message: String,
    /// The generation that it is about.
    observed_generation: i64,
    /// Since when the status is this one.
    #[schemars(extend("format" = "date-time"))]
    last_transition_time: String,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum Kind {
    /// What the object asks for was planned and begun with, or is so already.
    Accepted,
    /// Its roll-out goes on.
    Progressing,
    /// Every node runs what it asks for.
    Succeeded,
    /// Its roll-out asks for an operator, or was put back after a failure.
    Degraded,
    /// As `Succeeded`, and `False` as long as that is not known.
    Ready,
    /// It will go on by itself, or once somebody lets it.
    Reconciling,
    /// It will not be fulfilled before somebody has seen to it.
    Stalled,
}

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum Is {
    True,
    False,
    Unknown,
}

/// What the coordinator did about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// It was begun with.
    Begun,
    /// Every node ran what it asks for already.
    AlreadyThere,
    /// Its status says that it was begun with, and this coordinator's store knows nothing of that.
    BegunElsewhere,
    /// It was not tried yet.
    Waiting(String),
    /// It does not read, or rules speak against it.
    Refused {
        /// The first rule, such as `api-outage`.
        rule: String,
        /// Everything.
        why: String,
    },
}

/// What an object's status said before.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    observed_generation: i64,
    conditions: Vec<Condition>,
}

/// How an object stands since a moment ago.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News<'a> {
    /// In one word: a phase, or the rule that refuses the plan.
    pub(super) reason: &'a str,
    /// For people.
    pub(super) message: &'a str,
    /// It will not go on by itself.
    pub(super) is_warning: bool,
}

/// Whether something is so, the reason and the message.
type Verdict = (Is, String, String);

impl Before {
    /// As far as it reads: others may have written it, or another version.
    pub(super) fn read(status: Option<&Value>) -> Self {
        let field = |name: &str| status.and_then(|status| status.get(name));
        let conditions = field("conditions").and_then(Value::as_array).into_iter().flatten();
        Self {
            observed_generation: field("observedGeneration").and_then(Value::as_i64).unwrap_or_default(),
            conditions: conditions.filter_map(|one| serde_json::from_value(one.clone()).ok()).collect(),
        }
    }

    fn condition(&self, kind: Kind) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether a coordinator has said of this generation that it was accepted.
    pub(super) fn accepted(&self, generation: i64) -> bool {
        self.observed_generation == generation
            && self.condition(Kind::Accepted).is_some_and(|accepted| {
                accepted.status == Is::True && accepted.observed_generation == generation
            })
    }

    /// Whether it has said how it ended, too.
    pub(super) fn ended(&self) -> bool {
        self.condition(Kind::Succeeded).is_some_and(|succeeded| succeeded.status != Is::Unknown)
    }
}

impl Status {
    /// What is new of how the object stands, if something is.
    pub(super) fn news(&self, before: &Before) -> Option<News<'_>> {
        let condition = |kind| self.conditions.iter().find(|condition| condition.kind == kind);
        let Condition { reason, message, .. } = condition(Kind::Ready)?;
        let known = before.condition(Kind::Ready).is_some_and(|known| known.reason == *reason);
        let is_warning = condition(Kind::Stalled)?.status == Is::True;
        (!known).then_some(News { reason, message, is_warning })
    }

    /// Whether it says the same, whatever it says of since when.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let timeless = |status: &Self| {
            let mut status = status.clone();
            status.conditions.iter_mut().for_each(|condition| condition.last_transition_time.clear());
            status
        };
        timeless(self) == timeless(other)
    }

    /// The status of an object of this generation, with what its roll-out is like if it has one.
    pub(super) fn of(
        acceptance: &Acceptance,
        rollout: Option<&v1::Rollout>,
        generation: i64,
        before: &Before,
        now_ms: u64,
    ) -> Self {
        let phase = phase(acceptance, rollout);
        let condition = |kind, (status, reason, message): Verdict| {
            let known = before.condition(kind).filter(|known| known.status == status);
            Condition {
                kind,
                status,
                reason,
                message: shortened(message),
                observed_generation: generation,
                last_transition_time: known
                    .map_or_else(|| time(now_ms), |known| known.last_transition_time.clone()),
            }
        };
        let plan = rollout.and_then(|rollout| rollout.plan.as_ref());
        let at = |ms: u64| (ms != 0).then(|| time(ms));
        Self {
            observed_generation: generation,
            phase,
            plan_id: plan.map(|plan| plan.id.clone()),
            plan_hash: plan.map(|plan| plan.hash.clone()),
            plan_version: plan.map(|plan| plan.to_version.clone()),
            nodes: rollout.map(Nodes::of),
            started_at: rollout.and_then(|rollout| at(rollout.started_at_ms)),
            ended_at: rollout.and_then(|rollout| at(rollout.ended_at_ms)),
            conditions: vec![
                condition(Kind::Accepted, accepted(acceptance, plan)),
                condition(Kind::Progressing, progressing(phase, rollout)),
                condition(Kind::Succeeded, succeeded(acceptance, phase)),
                condition(Kind::Degraded, degraded(phase, rollout)),
                condition(Kind::Ready, ready(acceptance, phase, rollout)),
                condition(Kind::Reconciling, reconciling(acceptance, phase, rollout)),
                condition(Kind::Stalled, stalled(acceptance, phase, rollout)),
            ],
        }
    }
}

impl Nodes {
    fn of(rollout: &v1::Rollout) -> Self {
        let count = |phase| {
            let nodes = rollout.nodes.iter().filter(|node| node.phase() == phase).count();
            u32::try_from(nodes).unwrap_or(u32::MAX)
        };
        let leased = leased(rollout);
        Self {
            total: u32::try_from(rollout.nodes.len()).unwrap_or(u32::MAX),
            raised: [
                v1::NodePhase::Raised,
                v1::NodePhase::Joined,
                v1::NodePhase::Emptied,
                v1::NodePhase::Left,
                v1::NodePhase::Done,
            ]
            .map(count)
            .iter()
            .sum(),
            failed: count(v1::NodePhase::Failed),
            current: leased.map(|node| node.name.clone()),
            step: leased.map(|node| node.step.clone()).filter(|step| !step.is_empty()),
        }
    }
}

fn leased(rollout: &v1::Rollout) -> Option<&v1::RolloutNode> {
    rollout.nodes.iter().find(|node| node.phase() == v1::NodePhase::Leased)
}

fn phase(acceptance: &Acceptance, rollout: Option<&v1::Rollout>) -> Phase {
    if let Some(rollout) = rollout {
        return match rollout.phase() {
            v1::RolloutPhase::Preparing => Phase::Preparing,
            v1::RolloutPhase::Running => Phase::Running,
            v1::RolloutPhase::Paused => Phase::Paused,
            v1::RolloutPhase::Halted => Phase::Halted,
            v1::RolloutPhase::Aborting => Phase::Aborting,
            v1::RolloutPhase::BetweenStops => Phase::BetweenStops,
            v1::RolloutPhase::Raised => Phase::Raised,
            v1::RolloutPhase::Aborted => Phase::Aborted,
            v1::RolloutPhase::RollingBack => Phase::RollingBack,
            v1::RolloutPhase::RolledBack => Phase::RolledBack,
            v1::RolloutPhase::Unspecified => Phase::Unknown,
        };
    }
    match acceptance {
        Acceptance::AlreadyThere => Phase::Raised,
        Acceptance::Waiting(_) => Phase::Waiting,
        Acceptance::Refused { .. } => Phase::Refused,
        Acceptance::Begun | Acceptance::BegunElsewhere => Phase::Unknown,
    }
}

fn accepted(acceptance: &Acceptance, plan: Option<&v1::Plan>) -> Verdict {
    match acceptance {
        Acceptance::Begun => {
            let plan = plan.map(|plan| format!("plan {} was applied", plan.id));
            (Is::True, "Begun".to_owned(), plan.unwrap_or_else(|| "it was begun with".to_owned()))
        }
        Acceptance::AlreadyThere => (
            Is::True,
            "AlreadyThere".to_owned(),
            "every node ran what it asks for already: there was nothing to do".to_owned(),
        ),
        Acceptance::BegunElsewhere => (
            Is::True,
            "BegunElsewhere".to_owned(),
            "it was begun with, and this coordinator's store knows nothing of that: it is not begun with again before it \
             says something else or is made anew"
                .to_owned(),
        ),
        Acceptance::Waiting(why) => (Is::Unknown, "Waiting".to_owned(), why.clone()),
        Acceptance::Refused { rule, why } => (Is::False, in_camel_case(rule), why.clone()),
    }
}

fn progressing(phase: Phase, rollout: Option<&v1::Rollout>) -> Verdict {
    let goes_on = match phase {
        Phase::Preparing | Phase::Running | Phase::Aborting | Phase::BetweenStops | Phase::RollingBack => {
            Is::True
        }
        Phase::Waiting
        | Phase::Refused
        | Phase::Paused
        | Phase::Halted
        | Phase::Raised
        | Phase::Aborted
        | Phase::RolledBack => Is::False,
        Phase::Unknown => Is::Unknown,
    };
    let message = rollout.map_or_else(|| "it has no roll-out".to_owned(), progress);
    (goes_on, word(phase), message)
}

/// `stop 1 of 2, v1.20.2: w1 at step 4 of 12, drain; 1 of 3 nodes are raised`
fn progress(rollout: &v1::Rollout) -> String {
    let Nodes { total, raised, .. } = Nodes::of(rollout);
    let version = rollout.plan.as_ref().map(|plan| plan.to_version.as_str()).unwrap_or_default();
    let stops = usize::try_from(rollout.stop).unwrap_or_default() + rollout.onward.len();
    let path = (stops > 1).then(|| format!("stop {} of {stops}, {version}: ", rollout.stop));
    let leased = leased(rollout).map(|node| match node.step.as_str() {
        "" => format!("{} has its lease; ", node.name),
        step => format!("{} at step {} of {}, {step}; ", node.name, node.step_number, node.steps_total),
    });
    let said = [rollout.reason.as_str(), rollout.taint.as_str()];
    let said: Vec<&str> = said.into_iter().filter(|said| !said.is_empty()).collect();
    let said = if said.is_empty() { String::new() } else { format!("; {}", said.join("; ")) };
    format!(
        "{}{}{raised} of {total} nodes are raised{said}",
        path.unwrap_or_default(),
        leased.unwrap_or_default(),
    )
}

fn succeeded(acceptance: &Acceptance, phase: Phase) -> Verdict {
    // What goes on is of an earlier spec.
    if matches!(acceptance, Acceptance::Waiting(_) | Acceptance::Refused { .. }) {
        return (Is::Unknown, word(phase), "it was not begun with".to_owned());
    }
    let (is, message) = match phase {
        Phase::Raised => (Is::True, "every node runs what it asks for"),
        Phase::Aborted => (Is::False, "an operator ended the roll-out before every node was raised"),
        Phase::RolledBack => (Is::False, "what was raised was put back"),
        _ => (Is::Unknown, "its roll-out has not ended"),
    };
    (is, word(phase), message.to_owned())
}

fn degraded(phase: Phase, rollout: Option<&v1::Rollout>) -> Verdict {
    let reason = rollout.map(|rollout| rollout.reason.clone()).unwrap_or_default();
    match phase {
        Phase::Halted => {
            let failed = rollout.into_iter().flat_map(|rollout| &rollout.nodes);
            let failed = failed
                .filter(|node| node.phase() == v1::NodePhase::Failed)
                .map(|node| node.name.as_str())
                .next();
            let todo = match failed {
                Some(node) => format!(
                    "mend what failed, then `liftlock retry {node}`; or `liftlock rollback --node {node}` to put it back as it \
                     was, or `liftlock abort` to leave it at this"
                ),
                None => "see `liftlock status`".to_owned(),
            };
            (Is::True, word(phase), format!("{reason}; {todo}"))
        }
        Phase::RollingBack | Phase::RolledBack if !reason.is_empty() => (Is::True, word(phase), reason),
        Phase::Unknown => (Is::Unknown, word(phase), "nothing is known of its roll-out".to_owned()),
        _ => (Is::False, word(phase), "nothing asks for an operator".to_owned()),
    }
}

/// What `kubectl wait --for=condition=Ready`, Flux and whatever else reads by kstatus go by: of an object without these three
/// conditions they believe that it is fulfilled as soon as its generation was seen
/// (<https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md>).
fn ready(acceptance: &Acceptance, phase: Phase, rollout: Option<&v1::Rollout>) -> Verdict {
    let (fulfilled, reason, message) = succeeded(acceptance, phase);
    if fulfilled == Is::True {
        return (Is::True, reason, message);
    }
    let (_, reason, message) = [stalled, reconciling]
        .map(|verdict| verdict(acceptance, phase, rollout))
        .into_iter()
        .find(|(is, ..)| *is == Is::True)
        .unwrap_or((Is::False, reason, message));
    (Is::False, reason, message)
}

fn reconciling(acceptance: &Acceptance, phase: Phase, rollout: Option<&v1::Rollout>) -> Verdict {
    match (acceptance, phase) {
        (Acceptance::Waiting(why), _) => (Is::True, "Waiting".to_owned(), why.clone()),
        (Acceptance::Refused { .. }, _) => (Is::False, "Refused".to_owned(), "it was refused".to_owned()),
        (_, Phase::Paused) => {
            let message = "it is paused: `liftlock resume` has it go on";
            (Is::True, word(phase), message.to_owned())
        }
        _ => {
            let (is, reason, message) = progressing(phase, rollout);
            (if is == Is::True { is } else { Is::False }, reason, message)
        }
    }
}

fn stalled(acceptance: &Acceptance, phase: Phase, rollout: Option<&v1::Rollout>) -> Verdict {
    if let Acceptance::Refused { .. } = acceptance {
        let (_, reason, message) = accepted(acceptance, None);
        return (Is::True, reason, message);
    }
    match (acceptance, phase) {
        (Acceptance::Waiting(_), _) => (Is::False, "Waiting".to_owned(), "it waits".to_owned()),
        (_, Phase::Halted) => degraded(phase, rollout),
        (_, Phase::Aborted | Phase::RolledBack) => {
            let (_, reason, message) = succeeded(acceptance, phase);
            let message = format!(
                "{message}; it is not begun with again before it says something else or is made anew"
            );
            (Is::True, reason, message)
        }
        _ => (Is::False, word(phase), "nothing asks for an operator".to_owned()),
    }
}

/// `BetweenStops`: reasons take no dashes.
fn word(phase: Phase) -> String {
    format!("{phase:?}")
}

/// `api-outage` as a reason is `ApiOutage`.
fn in_camel_case(rule: &str) -> String {
    rule.split('-')
        .flat_map(|part| {
            let mut letters = part.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters)
        })
        .collect()
}

fn shortened(message: String) -> String {
    match message.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

/// As the API writes times: RFC 3339 in UTC, whole seconds.
fn time(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
