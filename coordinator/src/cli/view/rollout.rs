//! A roll-out: where it stands, node by node, and where the time went.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{clock, moment, seconds, span};
use crate::cli::view::said;
use crate::core::window::minutes;

/// What nobody puts back once it was begun.
const FINAL_STEPS: [&str; 3] = ["kubeadm-reset", "remove-etcd-member", "delete-node"];

/// Where a roll-out stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutPhase {
    /// The coordinator is newer and has a phase that this command does not know.
    Unknown,
    /// Nodes prepare; no lease has been granted.
    Preparing,
    /// Leases are granted, as many at a time as the budget allows.
    Running,
    /// The node under lease finishes, no other starts.
    Paused,
    /// A node failed.
    Halted,
    /// The node under lease finishes, then it ends.
    Aborting,
    /// Every node is raised to this stop; the next one has not begun.
    BetweenStops,
    /// Every node runs the target.
    Raised,
    /// Ended by an operator before that.
    Aborted,
    /// Nodes are put back one at a time, the last one first.
    RollingBack,
    /// Every node that was changed was put back.
    RolledBack,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodePhase {
    /// The coordinator is newer and has a phase that this command does not know.
    Unknown,
    /// Not prepared yet.
    Pending,
    /// Ready for its lease.
    Prepared,
    /// Under its lease.
    Leased,
    /// At the target.
    Raised,
    /// Its preparation or a step failed.
    Failed,
    /// To be put back under its next lease.
    ToRollBack,
    /// What was changed on it was put back.
    RolledBack,
    /// It could not be drained and was put back; the roll-out went on without it.
    Quarantined,
    /// It has joined the cluster.
    Joined,
    /// Its pods are moved to others, and it is cordoned.
    Emptied,
    /// It has left the cluster.
    Left,
    /// A control plane: it has ended the memberships of those that left.
    Done,
}

/// A roll-out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutView {
    /// The plan's id.
    pub plan: String,
    /// What the cluster came from.
    pub from_version: String,
    /// What it goes to.
    pub to_version: String,
    /// Where it stands.
    pub phase: RolloutPhase,
    /// Why it is halted or waits, or null.
    pub reason: Option<String>,
    /// When what it waits for is there by itself; left out where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
    /// When it was applied.
    pub started_at: Option<Timestamp>,
    /// Null while it goes on.
    pub ended_at: Option<Timestamp>,
    /// The operator that applied it.
    pub started_by: String,
    /// In the order of leases.
    pub nodes: Vec<RolloutNodeView>,
    /// Which stop of its path it leads to, counted from 1.
    pub stop: u32,
    /// How many stops the path has.
    pub stops: u32,
    /// The stops that follow, the nearest first.
    pub onward: Vec<StopView>,
    /// Why a document that the coordinator follows is not begun with, or null.
    pub plans: Option<String>,
    /// Who joins and who leaves by the plan; left out where nodes are raised where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
    /// What the document that wants it is called; left out where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// What keeps the taint of nodes that are not raised from being where it belongs; left out where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taint: Option<String>,
    /// What an abort leaves half done, each with what mends it; left out where nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<String>,
}

/// A stop of a path that lies ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StopView {
    /// The id of the plan that leads there.
    pub plan: String,
    /// What every node then runs.
    pub to_version: String,
    /// Who joins and who leaves by that plan; left out where nodes are raised where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
}

/// One node of a roll-out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutNodeView {
    /// The Node's name.
    pub name: String,
    /// `first-control-plane`, `control-plane`, `worker`
    pub role: &'static str,
    /// Where it stands.
    pub phase: NodePhase,
    /// Of its last lease; null if it never had one.
    pub fencing_token: Option<u64>,
    /// The step that runs or ran last; null before the lease.
    pub step: Option<String>,
    /// That step's position, counted from 1; 0 before the lease.
    pub step_number: u32,
    /// How many steps the node takes under its lease.
    pub steps_total: u32,
    /// What failed, why, and what to do, or null.
    pub failure: Option<String>,
    /// When its last lease was granted.
    pub leased_at: Option<Timestamp>,
    /// Null while the lease is held.
    pub lease_ended_at: Option<Timestamp>,
    /// Where the time of its last lease went; all null before its end.
    #[serde(flatten)]
    pub time: LeaseTime,
    /// Whether its agent's stream is open.
    pub connected: bool,
    /// The last line that a child process printed, or null.
    pub last_output: Option<String>,
}

/// Where the time of a lease went, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LeaseTime {
    /// From the grant's arrival to the end of the last step.
    pub lease_s: Option<f64>,
    /// In child processes.
    pub child_s: Option<f64>,
    /// In waits for Kubernetes.
    pub wait_s: Option<f64>,
    /// In the etcd snapshot.
    pub snapshot_s: Option<f64>,
    /// What is left of `lease_s` without the three others: Liftlock's own.
    pub overhead_s: Option<f64>,
}

impl RolloutPhase {
    /// For people; the same word that JSON has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Aborting => "aborting",
            Self::BetweenStops => "between-stops",
            Self::Raised => "raised",
            Self::Aborted => "aborted",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
        }
    }

    /// In which tone it is said.
    pub fn tone(self) -> Tone {
        match self {
            Self::Raised => Tone::Good,
            Self::Halted | Self::Aborted => Tone::Bad,
            Self::Paused | Self::Aborting | Self::RollingBack | Self::RolledBack => Tone::Notice,
            Self::Unknown | Self::Preparing | Self::Running | Self::BetweenStops => Tone::Plain,
        }
    }
}

impl From<v1::RolloutPhase> for RolloutPhase {
    fn from(phase: v1::RolloutPhase) -> Self {
        match phase {
            v1::RolloutPhase::Unspecified => Self::Unknown,
            v1::RolloutPhase::Preparing => Self::Preparing,
            v1::RolloutPhase::Running => Self::Running,
            v1::RolloutPhase::Paused => Self::Paused,
            v1::RolloutPhase::Halted => Self::Halted,
            v1::RolloutPhase::Aborting => Self::Aborting,
            v1::RolloutPhase::BetweenStops => Self::BetweenStops,
            v1::RolloutPhase::Raised => Self::Raised,
            v1::RolloutPhase::Aborted => Self::Aborted,
            v1::RolloutPhase::RollingBack => Self::RollingBack,
            v1::RolloutPhase::RolledBack => Self::RolledBack,
        }
    }
}

impl NodePhase {
    /// For people; the same word that JSON has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Prepared => "prepared",
            Self::Leased => "leased",
            Self::Raised => "raised",
            Self::Failed => "failed",
            Self::ToRollBack => "to-roll-back",
            Self::RolledBack => "rolled-back",
            Self::Quarantined => "quarantined",
            Self::Joined => "joined",
            Self::Emptied => "emptied",
            Self::Left => "left",
            Self::Done => "done",
        }
    }

    /// Whether nothing is left of its part in the plan.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Raised | Self::Joined | Self::Emptied | Self::Left | Self::Done)
    }

    fn tone(self) -> Tone {
        match self {
            Self::Raised | Self::Joined | Self::Emptied | Self::Left | Self::Done => Tone::Good,
            Self::Failed | Self::Quarantined => Tone::Bad,
            Self::Leased | Self::ToRollBack | Self::RolledBack => Tone::Notice,
            Self::Unknown | Self::Pending | Self::Prepared => Tone::Plain,
        }
    }
}

impl From<v1::NodePhase> for NodePhase {
    fn from(phase: v1::NodePhase) -> Self {
        match phase {
            v1::NodePhase::Unspecified => Self::Unknown,
            v1::NodePhase::Pending => Self::Pending,
            v1::NodePhase::Prepared => Self::Prepared,
            v1::NodePhase::Leased => Self::Leased,
            v1::NodePhase::Raised => Self::Raised,
            v1::NodePhase::Failed => Self::Failed,
            v1::NodePhase::ToRollBack => Self::ToRollBack,
            v1::NodePhase::RolledBack => Self::RolledBack,
            v1::NodePhase::Quarantined => Self::Quarantined,
            v1::NodePhase::Joined => Self::Joined,
            v1::NodePhase::Emptied => Self::Emptied,
            v1::NodePhase::Left => Self::Left,
            v1::NodePhase::Done => Self::Done,
        }
    }
}

impl From<v1::Rollout> for RolloutView {
    fn from(message: v1::Rollout) -> Self {
        let phase = message.phase().into();
        let plan = message.plan.unwrap_or_default();
        let onward: Vec<StopView> = message.onward.into_iter().map(Into::into).collect();
        // A coordinator that knows no paths says nothing of stops.
        let stop = message.stop.max(1);
        Self {
            stop,
            stops: stop.saturating_add(u32::try_from(onward.len()).unwrap_or(u32::MAX)),
            onward,
            plans: said(message.plans),
            membership: said(message.membership),
            document: said(message.document),
            taint: said(message.taint),
            left_behind: message.left_behind,
            plan: plan.id,
            from_version: plan.from_version,
            to_version: plan.to_version,
            phase,
            reason: said(message.reason),
            held_until: moment(message.held_until_ms),
            started_at: moment(message.started_at_ms),
            ended_at: moment(message.ended_at_ms),
            started_by: message.started_by,
            nodes: message.nodes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::Stop> for StopView {
    fn from(message: v1::Stop) -> Self {
        let v1::Stop { plan_id: plan, to_version, membership } = message;
        Self { plan, to_version, membership: said(membership) }
    }
}

impl From<v1::RolloutNode> for RolloutNodeView {
    fn from(message: v1::RolloutNode) -> Self {
        let (role, phase) = (message.role(), message.phase().into());
        let ended = message.lease_ended_at_ms > 0;
        Self {
            name: message.name,
            role: role_name(role),
            phase,
            fencing_token: Some(message.fencing_token).filter(|&token| token > 0),
            step: said(message.step),
            step_number: message.step_number,
            steps_total: message.steps_total,
            failure: said(message.failure),
            leased_at: moment(message.leased_at_ms),
            lease_ended_at: moment(message.lease_ended_at_ms),
            time: message.timings.filter(|_| ended).map(Into::into).unwrap_or_default(),
            connected: message.connected,
            last_output: said(message.last_output),
        }
    }
}

impl From<v1::Timings> for LeaseTime {
    fn from(timings: v1::Timings) -> Self {
        let v1::Timings { lease_ms, child_ms, wait_ms, snapshot_ms } = timings;
        let spent = child_ms.saturating_add(wait_ms).saturating_add(snapshot_ms);
        Self {
            lease_s: Some(seconds(lease_ms)),
            child_s: Some(seconds(child_ms)),
            wait_s: Some(seconds(wait_ms)),
            snapshot_s: Some(seconds(snapshot_ms)),
            overhead_s: Some(seconds(lease_ms.saturating_sub(spent))),
        }
    }
}

fn role_name(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "unknown",
        v1::Role::FirstControlPlane => "first-control-plane",
        v1::Role::ControlPlane => "control-plane",
        v1::Role::Worker => "worker",
    }
}

impl RolloutView {
    /// How many nodes run the target, or have done what else the plan says of them.
    pub fn raised(&self) -> usize {
        self.nodes.iter().filter(|node| node.phase.is_done()).count()
    }

    /// Whether that is every node.
    pub fn is_raised(&self) -> bool {
        self.raised() == self.nodes.len()
    }

    /// Whether nothing happens any more unless an operator speaks. A stop that is reached is left for the next.
    pub fn is_at_rest(&self) -> bool {
        match self.phase {
            // Workers that were begun on side by side come to their own ends.
            RolloutPhase::Halted => self.nodes.iter().all(|node| node.phase != NodePhase::Leased),
            RolloutPhase::Aborted | RolloutPhase::RolledBack => true,
            RolloutPhase::Raised => self.onward.is_empty(),
            _ => false,
        }
    }

    /// What it waits for by itself, without an operator's word.
    pub fn waits(&self) -> Option<&str> {
        self.reason.as_deref().filter(|_| self.phase == RolloutPhase::Running)
    }

    /// `, stop 1 of 2`; empty where the path has one stop.
    pub fn stop_of_several(&self) -> String {
        if self.stops > 1 { format!(", stop {} of {}", self.stop, self.stops) } else { String::new() }
    }

    /// Where it stands, for people.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            RolloutPhase::Raised if self.membership.is_some() => "done",
            phase => phase.name(),
        }
    }

    /// One line: which plan, where it stands, how far.
    pub fn headline(&self, paint: Paint) -> String {
        let (what, done) = match &self.membership {
            Some(membership) => (format!("{membership} at {}", self.to_version), "done"),
            None => (format!("{} → {}", self.from_version, self.to_version), "raised"),
        };
        format!(
            "Roll-out {}, {what}{}: {}, {} of {} nodes {done}",
            self.plan,
            self.stop_of_several(),
            paint.paint(self.phase.tone(), self.phase_name()),
            self.raised(),
            self.nodes.len()
        )
    }

    /// What an operator can do now; empty where nothing needs to be done.
    pub fn advice(&self) -> String {
        let commands = |verb: &str, phase: NodePhase| {
            let nodes = self.nodes.iter().filter(|node| node.phase == phase);
            nodes.map(|node| format!("`liftlock {verb} {}`", node.name)).collect::<Vec<_>>().join(" and ")
        };
        let retry = commands("retry", NodePhase::Failed);
        let quarantined = commands("retry", NodePhase::Quarantined);
        if self.membership.is_some() {
            return self.advice_on_members(&retry);
        }
        match self.phase {
            RolloutPhase::Halted if retry.is_empty() && !quarantined.is_empty() => format!(
                "Mend what blocks the drain, then {quarantined}; or `liftlock abort` to leave it at this."
            ),
            RolloutPhase::Halted if self.is_raised() => "`liftlock abort` leaves it at this.".to_owned(),
            RolloutPhase::Halted if retry.is_empty() => format!(
                "{} raises it again; `liftlock rollback --cluster` puts the others back too; `liftlock abort` leaves it at \
                 this.",
                commands("retry", NodePhase::RolledBack)
            ),
            // Where no node was changed, there is nothing to put back.
            RolloutPhase::Halted if self.nodes.iter().all(|node| node.fencing_token.is_none()) => {
                format!("Mend what failed, then {retry}; or `liftlock abort` to leave it at this.")
            }
            RolloutPhase::Halted => format!(
                "Mend what failed, then {retry}; or {} to put it back as it was, or `liftlock abort` to leave it at this.",
                commands("rollback --node", NodePhase::Failed)
            ),
            RolloutPhase::Paused => "`liftlock resume` goes on.".to_owned(),
            RolloutPhase::Aborted if self.is_raised() => {
                let target = self.onward.last().map_or(&self.to_version, |stop| &stop.to_version);
                format!(
                    "Every node runs {}: `liftlock plan {target}` shows the way from here.",
                    self.to_version
                )
            }
            RolloutPhase::Aborted if self.raised() > 0 => format!(
                "{} of {} nodes run {}: `liftlock plan {}` shows how to raise the rest.",
                self.raised(),
                self.nodes.len(),
                self.to_version,
                self.to_version
            ),
            _ => String::new(),
        }
    }
}

impl RolloutView {
    /// The same where machines join and leave: all go back, or none, and none once one has left.
    fn advice_on_members(&self, retry: &str) -> String {
        let leaves = |node: &RolloutNodeView| {
            node.phase == NodePhase::Left || FINAL_STEPS.iter().any(|step| node.step.as_deref() == Some(step))
        };
        let back =
            if self.nodes.iter().any(leaves) || self.nodes.iter().all(|node| node.fencing_token.is_none()) {
                ""
            } else {
                "`liftlock rollback --cluster` to go back to the nodes that were there, or "
            };
        match self.phase {
            RolloutPhase::Halted if self.is_raised() => "`liftlock abort` leaves it at this.".to_owned(),
            RolloutPhase::Halted if retry.is_empty() => {
                format!("{back}`liftlock abort` to leave it at this.")
            }
            RolloutPhase::Halted => {
                format!("Mend what failed, then {retry}; or {back}`liftlock abort` to leave it at this.")
            }
            RolloutPhase::Paused => "`liftlock resume` goes on.".to_owned(),
            RolloutPhase::Aborted => {
                "Who has joined or left stays so: `liftlock nodes` shows who is in the cluster.".to_owned()
            }
            _ => String::new(),
        }
    }
}

impl RolloutNodeView {
    /// `4/12 install-kubeadm`
    pub fn progress(&self) -> String {
        match &self.step {
            Some(step) => format!("{}/{} {step}", self.step_number, self.steps_total),
            None => String::new(),
        }
    }
}

impl View for RolloutView {
    fn table(&self, paint: Paint) -> String {
        let mut text = format!("{}\n", self.headline(paint));
        let _ = write!(text, "Started {} by {}", clock(self.started_at), self.started_by);
        if let Some(document) = &self.document {
            let _ = write!(text, ", document {document}");
        }
        if self.ended_at.is_some() {
            let _ = write!(text, ", ended {}", clock(self.ended_at));
        }
        text.push('\n');
        if !self.onward.is_empty() {
            let then =
                self.onward.iter().map(|stop| stop.membership.as_ref().unwrap_or(&stop.to_version).as_str());
            let then: Vec<&str> = then.collect();
            let _ = writeln!(text, "Then on to {}", then.join(" → "));
        }
        // What a node failed at stands below the table.
        let below = matches!(self.phase, RolloutPhase::Halted | RolloutPhase::Running);
        if let Some(reason) = self.reason.as_ref().filter(|_| self.is_raised() || !below) {
            let _ = writeln!(text, "{}", paint.paint(self.phase.tone(), reason));
        } else if let Some(waits) = self.waits() {
            let remaining = self.held_until.map(|until| until.duration_since(Timestamp::now()));
            let remaining = remaining.filter(SignedDuration::is_positive).map(minutes);
            let remaining = remaining.map(|minutes| format!(", in {minutes}")).unwrap_or_default();
            let _ = writeln!(text, "{} {waits}{remaining}", paint.paint(Tone::Notice, "Held:"));
        }
        if let Some(plans) = &self.plans {
            let _ = writeln!(text, "{} {plans}", paint.paint(Tone::Notice, "plans:"));
        }
        if let Some(taint) = &self.taint {
            let _ = writeln!(text, "{} {taint}", paint.paint(Tone::Notice, "Taint:"));
        }
        text.push('\n');
        let mut table = Table::new(&[
            "NODE", "ROLE", "PHASE", "LEASE", "STEP", "TIME", "CHILDREN", "WAITS", "SNAPSHOT", "OVERHEAD",
            "AGENT",
        ]);
        for node in &self.nodes {
            let time = |seconds: Option<f64>| Cell::plain(seconds.map(span).unwrap_or_default());
            let agent = if node.connected { Cell::plain("connected") } else { Cell::new(Tone::Bad, "gone") };
            table.row(vec![
                Cell::plain(&node.name),
                Cell::plain(node.role),
                Cell::new(node.phase.tone(), node.phase.name()),
                Cell::plain(node.fencing_token.map(|token| token.to_string()).unwrap_or_default()),
                Cell::plain(node.progress()),
                time(node.time.lease_s),
                time(node.time.child_s),
                time(node.time.wait_s),
                time(node.time.snapshot_s),
                time(node.time.overhead_s),
                agent,
            ]);
        }
        text.push_str(&table.render(paint));
        for node in &self.nodes {
            if let Some(failure) = &node.failure {
                let what = if node.phase == NodePhase::Quarantined { "is quarantined" } else { "failed" };
                let _ = writeln!(
                    text,
                    "\n{} {failure}",
                    paint.paint(Tone::Bad, &format!("{} {what}:", node.name))
                );
            }
        }
        for left in &self.left_behind {
            let _ = writeln!(text, "\n{} {left}", paint.paint(Tone::Notice, "Left half done:"));
        }
        let advice = self.advice();
        if !advice.is_empty() {
            let _ = writeln!(text, "\n{advice}");
        }
        text
    }
}
