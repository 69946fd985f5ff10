//! What a roll-out will meet, as an operator reads it before saying yes.

use std::fmt::Write as _;

use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::v1;
use liftlock_proto::v1::ForecastKind;
use serde::Serialize;

use super::said;
use crate::cli::paint::{Paint, Tone};
use crate::cli::time::{seconds, span};

/// Kinds of findings of which every one is shown.
const BLOCKED: &str = "blocked";
const REFUSED: &str = "refused";

/// So many findings of a kind at which nothing halts are shown to people.
const SHOWN: usize = 10;

/// What the roll-outs of a path will meet.
#[derive(Debug, Serialize)]
pub struct ForecastView {
    /// Why nobody can tell what will happen to workloads; null where `findings` says it.
    pub unknown: Option<String>,
    /// In the order in which they will be met.
    pub findings: Vec<FindingView>,
    /// How many more there are that the coordinator left out, of downtime and missing room.
    pub left_out: u32,
    /// Pods with rules that were not reckoned with, such as affinities.
    pub bound_otherwise: u32,
    /// How long each role's leases took that raised a node here.
    pub leases: Vec<RoleDurationView>,
    /// All leases of the path one after the other, in seconds; null where some role was never raised here.
    pub duration_s: Option<f64>,
    /// How the leases fit into the windows; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<String>,
}

/// Something that a drain will meet.
#[derive(Debug, Serialize)]
pub struct FindingView {
    /// `blocked`, `refused`, `downtime`, `no-room`
    pub kind: &'static str,
    /// Whose drain it is.
    pub node: String,
    /// At which stop.
    pub to_version: String,
    /// `Deployment shop/cart`
    pub workload: String,
    /// How many of its pods it is about.
    pub pods: u32,
    /// What blocks.
    pub budgets: Vec<BudgetView>,
    /// What follows a blocked drain there: `pause`, `skip`, `force`; left out of all else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_blocked: Option<OnBlocked>,
    /// What, why, and what to do.
    pub message: String,
}

/// A budget, as it is when the drain waits for it.
#[derive(Debug, Serialize)]
pub struct BudgetView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `minAvailable: 2`
    pub rule: String,
    /// How many of its pods may go.
    pub disruptions_allowed: u32,
    /// How many are healthy.
    pub current_healthy: u32,
    /// How many have to be.
    pub desired_healthy: u32,
}

/// How long leases of one role took.
#[derive(Debug, Serialize)]
pub struct RoleDurationView {
    /// `first-control-plane`, `control-plane`, `worker`
    pub role: &'static str,
    /// The median, in seconds.
    pub lease_s: f64,
    /// Of so many leases.
    pub leases: u32,
    /// What they were for: `join`, `empty`, `leave`, `end`; left out where they raised nodes where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

impl From<v1::Forecast> for ForecastView {
    fn from(message: v1::Forecast) -> Self {
        Self {
            unknown: said(message.unknown),
            findings: message.findings.into_iter().map(Into::into).collect(),
            left_out: message.left_out,
            bound_otherwise: message.bound_otherwise,
            leases: message.durations.iter().map(Into::into).collect(),
            duration_s: message.duration_ms.map(seconds),
            windows: said(message.windows),
        }
    }
}

impl From<v1::ForecastFinding> for FindingView {
    fn from(message: v1::ForecastFinding) -> Self {
        let kind = match message.kind() {
            ForecastKind::Blocked => BLOCKED,
            ForecastKind::Refused => REFUSED,
            ForecastKind::Downtime => "downtime",
            ForecastKind::NoRoom => "no-room",
            ForecastKind::Unspecified => "unknown",
        };
        let on_blocked = (kind == BLOCKED).then(|| message.on_blocked().into());
        Self {
            kind,
            node: message.node,
            to_version: message.to_version,
            workload: message.workload,
            pods: message.pods,
            budgets: message.budgets.into_iter().map(Into::into).collect(),
            on_blocked,
            message: message.message,
        }
    }
}

impl FindingView {
    /// Whether the roll-out halts at it.
    fn halts(&self) -> bool {
        self.kind == REFUSED || self.on_blocked == Some(OnBlocked::Pause)
    }
}

impl From<v1::DisruptionBudget> for BudgetView {
    fn from(message: v1::DisruptionBudget) -> Self {
        Self {
            namespace: message.namespace,
            name: message.name,
            rule: message.rule,
            disruptions_allowed: message.disruptions_allowed,
            current_healthy: message.current_healthy,
            desired_healthy: message.desired_healthy,
        }
    }
}

impl From<&v1::RoleDuration> for RoleDurationView {
    fn from(message: &v1::RoleDuration) -> Self {
        let role = match message.role() {
            v1::Role::FirstControlPlane => "first-control-plane",
            v1::Role::ControlPlane => "control-plane",
            v1::Role::Worker | v1::Role::Unspecified => "worker",
        };
        let part = said(message.part.clone());
        Self { role, lease_s: seconds(message.lease_ms), leases: message.leases, part }
    }
}

impl RoleDurationView {
    fn what(&self) -> String {
        let role = self.role;
        match self.part.as_deref() {
            None => format!("a {role}"),
            Some("join") => format!("a {role} that joins"),
            Some("empty") => format!("a {role} that is emptied"),
            Some("leave") => format!("a {role} that leaves"),
            Some(_) => format!("a {role} that ends memberships"),
        }
    }
}

impl ForecastView {
    /// One line where all is well.
    pub fn table(&self, paint: Paint) -> String {
        let halts = self.findings.iter().any(FindingView::halts);
        let (tone, verdict) = match &self.unknown {
            Some(why) => (Tone::Notice, format!("nobody can tell what drains will meet: {why}")),
            None if halts => (Tone::Bad, "the roll-out will halt at a drain".to_owned()),
            None if self.findings.is_empty() => (
                Tone::Strong,
                "every drain ends, no workload goes down, what is evicted finds room".to_owned(),
            ),
            None => (Tone::Notice, self.without_a_halt()),
        };
        let mut text = format!("{} {verdict}; {}.\n", paint.paint(tone, "Forecast:"), self.how_long());
        if let Some(windows) = &self.windows {
            let _ = writeln!(text, "  Windows: {windows}");
        }
        for (kind, most) in
            [(BLOCKED, usize::MAX), (REFUSED, usize::MAX), ("downtime", SHOWN), ("no-room", SHOWN)]
        {
            let of_kind = || self.findings.iter().filter(|finding| finding.kind == kind);
            for finding in of_kind().take(most) {
                let tone = if finding.halts() { Tone::Bad } else { Tone::Notice };
                let _ = writeln!(text, "  {} {}", paint.paint(tone, &format!("{kind:<9}")), finding.message);
            }
            let more = of_kind().count().saturating_sub(most);
            if more > 0 {
                let _ = writeln!(text, "  {kind:<9} and {more} more: see -o json");
            }
        }
        if self.left_out > 0 {
            let _ =
                writeln!(text, "  Left out: {} findings more of downtime and missing room", self.left_out);
        }
        if self.bound_otherwise > 0 {
            let _ = writeln!(
                text,
                "  Not reckoned with: affinities, spread constraints, host ports or devices of {} pods",
                self.bound_otherwise
            );
        }
        text
    }

    /// What becomes of drains where none halts the roll-out, and something will be noticed.
    fn without_a_halt(&self) -> String {
        let at =
            |word: OnBlocked| self.findings.iter().filter(move |finding| finding.on_blocked == Some(word));
        let mut passed_over: Vec<&str> = at(OnBlocked::Skip).map(|finding| finding.node.as_str()).collect();
        passed_over.dedup();
        let mut will = Vec::new();
        if !passed_over.is_empty() {
            will.push(format!("pass over {}", passed_over.join(", ")));
        }
        if at(OnBlocked::Force).next().is_some() {
            will.push("delete pods whatever their budgets say".to_owned());
        }
        match will.as_slice() {
            [] => "every drain ends, but workloads will notice".to_owned(),
            will => format!("the roll-out will {}", will.join(", and ")),
        }
    }

    fn how_long(&self) -> String {
        if let Some(duration) = self.duration_s {
            let leases: u32 = self.leases.iter().map(|role| role.leases).sum();
            let raised = self.leases.iter().all(|role| role.part.is_none());
            let earlier = if raised { "that raised nodes here" } else { "earlier ones here" };
            return format!("leases take about {} in all, by {leases} {earlier}", span(duration));
        }
        let known: Vec<String> = self
            .leases
            .iter()
            .map(|known| format!("{} takes {}", known.what(), span(known.lease_s)))
            .collect();
        if known.is_empty() {
            "how long it takes is not known, no such node was raised here yet".to_owned()
        } else {
            format!("how long it takes is not known for every role: {}", known.join(", "))
        }
    }
}
