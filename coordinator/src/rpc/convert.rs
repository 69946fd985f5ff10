//! The core's types as messages.

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::plan::{Plan, PlannedNode};
use liftlock_proto::strategy::Part;
use liftlock_proto::v1;

use crate::core::forecast::{Budget, Durations, Finding, Forecast, RoleDuration, What};
use crate::core::gates::{Consent, Gate, Verdict, When};
use crate::core::history::HistoryRecord;
use crate::core::leg::Stop;
use crate::core::membership::{Membership, under_lease};
use crate::core::planning::Refusal;
use crate::core::rollout::{Lease, NodeState, Phase, Progress, Rollout, Timings};
use crate::identity::token::TokenRecord;

/// What is known of a node only while the coordinator runs.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Its agent's stream is open.
    pub connected: bool,
    /// The last line that a child process printed there.
    pub last_output: String,
}

/// So many findings that are not of each node's drain go into one message: clients take up to 4 MiB, plans among them.
const FINDINGS: usize = 1000;

/// A gate, and what became of it.
pub fn gate((gate, verdict, findings): (&Gate, Verdict, Vec<String>)) -> v1::Gate {
    let consent = match gate.consent {
        Consent::Never => v1::GateConsent::Never,
        Consent::ToTheUnknown => v1::GateConsent::ToTheUnknown,
        Consent::Always => v1::GateConsent::Always,
    };
    let verdict = match verdict {
        Verdict::Passed => v1::GateVerdict::Passed,
        Verdict::Accepted => v1::GateVerdict::Accepted,
        Verdict::Unknown => v1::GateVerdict::Unknown,
        Verdict::Refused => v1::GateVerdict::Refused,
    };
    v1::Gate {
        name: gate.name.to_owned(),
        about: gate.about.to_owned(),
        consent: consent.into(),
        between_nodes: gate.when != When::Before,
        verdict: verdict.into(),
        findings,
    }
}

/// A roll-out as operators see it. `obstacle` is what holds it up and is no part of it.
pub fn rollout(rollout: &Rollout, live: &dyn Fn(&NodeName) -> Live, obstacle: Option<&str>) -> v1::Rollout {
    let (phase, reason) = match rollout.phase() {
        Phase::Preparing => (v1::RolloutPhase::Preparing, None),
        Phase::Running => (v1::RolloutPhase::Running, None),
        Phase::Paused => {
            let after = rollout.paused_after.as_ref().map(|pool| format!("paused after pool {pool}"));
            (v1::RolloutPhase::Paused, after)
        }
        Phase::Halted { reason } => (v1::RolloutPhase::Halted, Some(reason)),
        Phase::Aborting => (v1::RolloutPhase::Aborting, None),
        Phase::BetweenStops => (v1::RolloutPhase::BetweenStops, None),
        Phase::Raised => (v1::RolloutPhase::Raised, None),
        Phase::Aborted => (v1::RolloutPhase::Aborted, None),
        Phase::RollingBack => (v1::RolloutPhase::RollingBack, rollout.answered.clone()),
        Phase::RolledBack => (v1::RolloutPhase::RolledBack, rollout.answered.clone()),
    };
    let one = |(planned, state): (&PlannedNode, &NodeState)| {
        let told = node(&rollout.plan, planned, state, live(&planned.name));
        match (rollout.quarantined.get(&planned.name), state) {
            (Some(why), NodeState::RolledBack { .. }) => {
                v1::RolloutNode { phase: v1::NodePhase::Quarantined.into(), failure: why.clone(), ..told }
            }
            _ => told,
        }
    };
    let reasons: Vec<String> = obstacle.map(str::to_owned).into_iter().chain(reason).collect();
    v1::Rollout {
        plan: Some(rollout.plan.clone().into()),
        phase: phase.into(),
        reason: reasons.join("; "),
        nodes: rollout.nodes().map(one).collect(),
        started_at_ms: rollout.started_at_ms,
        ended_at_ms: rollout.ended_at_ms.unwrap_or(0),
        started_by: rollout.started_by.clone(),
        stop: rollout.leg.stop,
        onward: rollout.leg.onward.iter().map(stop).collect(),
        plans: String::new(),
        conduct: (!rollout.conduct.is_default()).then(|| rollout.conduct.clone().into()),
        held_until_ms: 0,
        membership: words(Membership::of(&rollout.plan)),
        document: rollout.document.clone().unwrap_or_default(),
        taint: String::new(),
        left_behind: rollout.left_behind(),
    }
}

fn stop(ahead: &Stop) -> v1::Stop {
    v1::Stop {
        plan_id: ahead.id.to_string(),
        to_version: ahead.to_version.to_string(),
        membership: words(ahead.membership()),
    }
}

/// Who joins and who leaves, for people.
fn words(membership: Option<Membership>) -> String {
    membership.map(|membership| membership.to_string()).unwrap_or_default()
}

fn node(plan: &Plan, planned: &PlannedNode, state: &NodeState, live: Live) -> v1::RolloutNode {
    let phase = match state {
        NodeState::Pending => v1::NodePhase::Pending,
        NodeState::Prepared | NodeState::ToRetry { .. } => v1::NodePhase::Prepared,
        NodeState::Leased { .. } => v1::NodePhase::Leased,
        NodeState::Raised { .. } => match planned.part() {
            Part::Raise => v1::NodePhase::Raised,
            Part::Join => v1::NodePhase::Joined,
            Part::Empty => v1::NodePhase::Emptied,
            Part::Leave => v1::NodePhase::Left,
            Part::End => v1::NodePhase::Done,
        },
        NodeState::Unprepared { .. } | NodeState::Failed { .. } => v1::NodePhase::Failed,
        NodeState::ToRollBack { .. } => v1::NodePhase::ToRollBack,
        NodeState::RolledBack { .. } => v1::NodePhase::RolledBack,
    };
    let last = Last::of(planned, state);
    let steps = match state {
        NodeState::Leased { purpose, .. } | NodeState::Failed { purpose, .. } => {
            under_lease(plan, planned, *purpose).0
        }
        _ => planned.steps.clone(),
    };
    let step = last.step.and_then(|index| steps.get(usize::try_from(index).ok()?));
    v1::RolloutNode {
        name: planned.name.to_string(),
        role: v1::Role::from(planned.role).into(),
        phase: phase.into(),
        fencing_token: last.lease.map_or(0, |lease| lease.token.0),
        step: step.map(|step| step.name().to_owned()).unwrap_or_default(),
        step_number: last.step.filter(|_| step.is_some()).map_or(0, |index| index + 1),
        steps_total: u32::try_from(steps.len()).unwrap_or(u32::MAX),
        failure: state.failure().unwrap_or_default().to_owned(),
        leased_at_ms: last.lease.map_or(0, |lease| lease.granted_at_ms),
        lease_ended_at_ms: last.ended_at_ms,
        timings: last.timings.map(|Timings { lease_ms, child_ms, wait_ms, snapshot_ms }| v1::Timings {
            lease_ms,
            child_ms,
            wait_ms,
            snapshot_ms,
        }),
        connected: live.connected,
        last_output: live.last_output,
        purpose: purpose(state).into(),
    }
}

/// What a node's last lease is or was for.
fn purpose(state: &NodeState) -> v1::Purpose {
    match state {
        NodeState::Pending | NodeState::Prepared | NodeState::Unprepared { .. } => v1::Purpose::Unspecified,
        NodeState::Leased { purpose, .. } => (*purpose).into(),
        NodeState::Raised { .. }
        | NodeState::Failed { .. }
        | NodeState::ToRetry { .. }
        | NodeState::ToRollBack { .. } => v1::Purpose::Raise,
        NodeState::RolledBack { .. } => v1::Purpose::RollBack,
    }
}

/// A node's last lease and how far it came.
#[derive(Default)]
struct Last {
    lease: Option<Lease>,
    /// Counted from 0; `None` before the first step began.
    step: Option<u32>,
    ended_at_ms: u64,
    timings: Option<Timings>,
}

impl Last {
    fn of(planned: &PlannedNode, state: &NodeState) -> Self {
        let begun = |progress: &Progress| (progress.attempt > 0).then_some(progress.index);
        match state {
            NodeState::Pending | NodeState::Prepared | NodeState::Unprepared { .. } => Self::default(),
            NodeState::Leased { lease, progress, .. } => {
                Self { lease: Some(*lease), step: begun(progress), ..Self::default() }
            }
            NodeState::Raised { lease, ended_at_ms, timings } => Self {
                lease: Some(*lease),
                step: u32::try_from(planned.steps.len()).ok().and_then(|steps| steps.checked_sub(1)),
                ended_at_ms: *ended_at_ms,
                timings: Some(*timings),
            },
            NodeState::Failed { lease, ended_at_ms, timings, progress, .. } => Self {
                lease: Some(*lease),
                step: begun(progress),
                ended_at_ms: *ended_at_ms,
                timings: Some(*timings),
            },
            NodeState::ToRetry { lease, .. } | NodeState::ToRollBack { lease } => {
                Self { lease: Some(*lease), ..Self::default() }
            }
            NodeState::RolledBack { lease, ended_at_ms, timings } => Self {
                lease: Some(*lease),
                ended_at_ms: *ended_at_ms,
                timings: Some(*timings),
                ..Self::default()
            },
        }
    }
}

/// Why a plan cannot be made.
pub fn refusal(refusal: Refusal) -> v1::Refusal {
    let Refusal { rule, message, acceptable } = refusal;
    v1::Refusal { rule: rule.to_owned(), message, acceptable }
}

/// What the roll-out of a path will meet, or why nobody can tell, and how long it takes.
pub fn forecast(met: Result<Forecast, String>, durations: Durations) -> v1::Forecast {
    let (unknown, Forecast { mut findings, bound_otherwise, .. }) = match met {
        Ok(forecast) if !forecast.unmeasured.is_empty() => (unmeasured(&forecast.unmeasured), forecast),
        Ok(forecast) => (String::new(), forecast),
        Err(why) => (why, Forecast::default()),
    };
    let all = findings.len();
    let mut bearable = 0;
    findings.retain(|finding| {
        bearable += usize::from(!finding.what.is_always_told());
        finding.what.is_always_told() || bearable <= FINDINGS
    });
    let role = |known: RoleDuration| v1::RoleDuration {
        role: v1::Role::from(known.role).into(),
        lease_ms: known.lease_ms,
        leases: known.leases,
        part: if known.part.is_raise() { String::new() } else { known.part.name().to_owned() },
    };
    v1::Forecast {
        unknown,
        left_out: u32::try_from(all - findings.len()).unwrap_or(u32::MAX),
        findings: findings.into_iter().map(forecast_finding).collect(),
        bound_otherwise,
        durations: durations.roles.into_iter().map(role).collect(),
        duration_ms: durations.total_ms,
        windows: String::new(),
    }
}

/// Why nothing was played through: nobody knows what room these bring.
fn unmeasured(machines: &[NodeName]) -> String {
    let names: Vec<&str> = machines.iter().map(NodeName::as_str).collect();
    format!(
        "nobody knows what room {} will have: the agent there did not say how many CPUs and how much memory there are (see \
         `liftlock-agent facts` there, and install the same version of Liftlock everywhere)",
        names.join(", ")
    )
}

fn forecast_finding(finding: Finding) -> v1::ForecastFinding {
    let message = finding.to_string();
    let Finding { node, to_version, workload, pods, what } = finding;
    let nothing = || (OnBlocked::default(), Vec::new());
    let (kind, (on_blocked, budgets)) = match what {
        What::Blocked { on_blocked, budgets } => (v1::ForecastKind::Blocked, (on_blocked, budgets)),
        What::Refused(_) => (v1::ForecastKind::Refused, nothing()),
        What::Downtime(_) => (v1::ForecastKind::Downtime, nothing()),
        What::NoRoom { .. } => (v1::ForecastKind::NoRoom, nothing()),
    };
    v1::ForecastFinding {
        kind: kind.into(),
        node: node.into(),
        to_version: to_version.to_string(),
        workload,
        pods,
        budgets: budgets.into_iter().map(disruption_budget).collect(),
        message,
        on_blocked: v1::OnBlocked::from(on_blocked).into(),
    }
}

fn disruption_budget(budget: Budget) -> v1::DisruptionBudget {
    let (namespace, name) = budget.name.split_once('/').unwrap_or_default();
    v1::DisruptionBudget {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        rule: budget.rule,
        disruptions_allowed: budget.allowed,
        current_healthy: budget.healthy,
        desired_healthy: budget.needed,
        unhealthy_may_go: budget.unhealthy_may_go,
    }
}

/// One record of what happened.
pub fn history_event(sequence: u64, record: HistoryRecord) -> v1::HistoryEvent {
    let HistoryRecord { at_ms, kind, plan, node, token, operator, text } = record;
    v1::HistoryEvent {
        sequence,
        at_ms,
        kind: kind.name().to_owned(),
        plan_id: plan.map(String::from).unwrap_or_default(),
        node: node.map(String::from).unwrap_or_default(),
        fencing_token: token.map_or(0, |FencingToken(number)| number),
        operator: operator.unwrap_or_default(),
        text,
    }
}

/// A join token as lists show it. One that was taken back is of no more use, like one that was used.
pub fn token_entry(id: String, token: TokenRecord) -> v1::TokenEntry {
    v1::TokenEntry {
        id,
        subject: token.subject.to_message().into(),
        used: token.used_for.is_some() || token.revoked,
        expires_at_ms: token.expires_at_ms,
        name: token.subject.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::forecast::{Cause, Forbidden};

    #[test]
    fn a_forecast_too_long_for_one_message_keeps_its_first_findings_and_all_at_which_the_roll_out_halts() {
        let finding = |number: usize, what| Finding {
            node: "w1".parse().unwrap(),
            to_version: "v1.31.2".parse().unwrap(),
            workload: format!("Deployment default/app-{number}"),
            pods: 1,
            what,
        };
        let mut findings: Vec<Finding> =
            (0..1500).map(|number| finding(number, What::Downtime(Cause::OneReplica))).collect();
        findings.push(finding(1500, What::Refused(Forbidden::EmptyDir)));
        let met = Forecast { findings, ..Forecast::default() };
        let message = forecast(Ok(met), Durations::default());
        assert_eq!((message.findings.len(), message.left_out), (1001, 500));
        assert_eq!(message.findings.last().unwrap().kind(), v1::ForecastKind::Refused);
        assert_eq!(message.findings[999].workload, "Deployment default/app-999");
    }
}
