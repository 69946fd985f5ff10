//! A plan as an operator reads it before saying yes: what will run where, and how far back leads.

use std::fmt::Write as _;

use liftlock_proto::argv::{Argv, commands, kubeadm_upgrade_apply_force};
use liftlock_proto::blocked::{NodePolicy, OnBlocked};
use liftlock_proto::name::NodeName;
use liftlock_proto::packages::{PackageManager, PackageSource};
use liftlock_proto::plan::{OnFailure, Plan, PlannedNode, Policy, Replacement, Role};
use liftlock_proto::step::{self, Step};
use liftlock_proto::strategy::Strategy;
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::Place;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::view::addons::AddonsView;
use crate::cli::view::forecast::ForecastView;
use crate::cli::view::pools::{PoolView, is_none, write_pools};
use crate::core::conduct::Conduct;
use crate::core::membership::Membership;
use crate::core::reversal::{Cause, PointOfNoReturn, changes_etcd_minor, point_of_no_return};

/// What the coordinator says to a wanted version: a path of one plan or several, or why there is none.
#[derive(Debug, Serialize)]
pub struct PlanAnswerView {
    /// What leads to the first stop; null where a rule refuses it.
    pub plan: Option<PlanView>,
    /// What follows, one plan a stop, the last one to the wanted version.
    pub onward: Vec<PlanView>,
    /// How its roll-out is conducted: what the document says, for people.
    #[serde(skip)]
    pub conduct: Conduct,
    /// What their roll-outs will meet; null where there is no plan.
    pub forecast: Option<ForecastView>,
    /// What the add-ons of each stop that has some would change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addons: Vec<AddonsView>,
    /// Empty where there is a plan.
    pub refusals: Vec<RefusalView>,
}

/// Why there is no plan.
#[derive(Debug, Serialize)]
pub struct RefusalView {
    /// The rule's name.
    pub rule: String,
    /// What, why, and what to do.
    pub message: String,
    /// Whether `--accept RULE` lifts it.
    pub acceptable: bool,
}

/// A plan.
#[derive(Debug, Serialize)]
pub struct PlanView {
    /// Its id: `p-` and 12 digits of the hash.
    pub id: String,
    /// SHA-256 of its content.
    pub hash: String,
    /// What the control plane runs now.
    pub from_version: KubernetesVersion,
    /// What to reach.
    pub to_version: KubernetesVersion,
    /// What was decided beforehand.
    pub policy: PolicyView,
    /// In the order of leases.
    pub nodes: Vec<PlannedNodeView>,
    /// The pools of its workers, in the order in which they are raised; left out where workers go one after the other, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolView>,
    /// Null where the way back stays open to the end, or was closed before.
    pub point_of_no_return: Option<PointOfNoReturnView>,
    #[serde(skip)]
    way_back: PointOfNoReturn,
    /// Who joins and who leaves; left out where nodes are raised where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
}

/// What was decided beforehand.
#[derive(Debug, Serialize)]
pub struct PolicyView {
    /// How long a drain may take, in seconds.
    pub drain_timeout_s: u32,
    /// Pods that no controller would start again are deleted.
    pub delete_unmanaged_pods: bool,
    /// Pods whose emptyDir volumes go with them are deleted.
    pub delete_empty_dir_data: bool,
    /// Names of kubeadm preflight checks.
    pub ignore_preflight_errors: Vec<String>,
    /// Names of gates that were consented to.
    pub accepted: Vec<String>,
    /// What follows when a node has failed for good.
    pub on_failure: OnFailure,
    /// Hosts are replaced as a whole.
    pub redeploy: bool,
    /// Workers are raised only at the last stop of a path, and where their kubelets would be too far behind.
    pub workers_skip_stops: bool,
    /// So many workers may fail before nothing more is begun; left out where none may.
    #[serde(skip_serializing_if = "is_none")]
    pub failure_budget: u32,
    /// One machine takes the place of another; left out where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// Every control plane that there is in the end; left out where those that there are stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub control_planes: Vec<String>,
    /// How workers come to the version; left out where they are raised where they are.
    #[serde(skip_serializing_if = "Strategy::is_in_place")]
    pub strategy: Strategy,
    /// What follows when a worker cannot be drained; left out where that is `pause`.
    #[serde(skip_serializing_if = "OnBlocked::is_pause")]
    pub on_blocked: OnBlocked,
    /// What is decided otherwise for single workers; left out where nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodePolicy>,
}

/// One node's part.
#[derive(Debug, Serialize)]
pub struct PlannedNodeView {
    /// The Node's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The pool that a worker belongs to; left out where the plan has no pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The zone that it is in; left out where the plan has no pools, or it is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Before any lease.
    pub prepare: Vec<StepView>,
    /// Under its lease.
    pub steps: Vec<StepView>,
    /// Where its packages come from; left out where apt brings them from repositories of all minors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packages: Option<String>,
}

/// One step.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct StepView {
    /// Its name.
    pub step: &'static str,
    /// The commands that it runs, each as its arguments.
    pub commands: Vec<Argv>,
    /// What it asks or does through an API; null where the commands say it all.
    pub asks: Option<String>,
    /// What it takes to undo it in this plan.
    pub reversal: Reversal,
}

/// What undoing a step of this plan means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reversal {
    /// It changes nothing that would have to be put back.
    Nothing,
    /// The agent puts back what it captured before.
    Automatic,
    /// `kubeadm upgrade apply --force` to the earlier version.
    KubeadmForce,
    /// It cannot be undone: it brings another minor version of etcd, or another system.
    Impossible,
}

/// Where the way back ends.
#[derive(Debug, Serialize)]
pub struct PointOfNoReturnView {
    /// The first control plane.
    pub node: String,
    /// The step with which it ends.
    pub step: &'static str,
    /// Why.
    pub why: String,
}

/// For people.
fn when_a_node_fails(policy: OnFailure) -> &'static str {
    match policy {
        OnFailure::Halt => "nothing more is begun, and you are asked (--on-failure)",
        OnFailure::RollBackNode => "it is put back, and you are asked",
        OnFailure::RollBackCluster => "every node that was changed is put back, the last one first",
    }
}

impl From<v1::Refusal> for RefusalView {
    fn from(message: v1::Refusal) -> Self {
        let v1::Refusal { rule, message, acceptable } = message;
        Self { rule, message, acceptable }
    }
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        Self {
            drain_timeout_s: policy.drain_timeout_seconds,
            delete_unmanaged_pods: policy.delete_unmanaged_pods,
            delete_empty_dir_data: policy.delete_empty_dir_data,
            ignore_preflight_errors: policy.ignore_preflight_errors,
            accepted: policy.accepted,
            on_failure: policy.on_failure,
            redeploy: policy.redeploy,
            workers_skip_stops: policy.workers_skip_stops,
            failure_budget: policy.workers.failure_budget,
            replacement: policy.replacement,
            control_planes: policy.control_planes.nodes,
            strategy: policy.workers.strategy,
            on_blocked: policy.on_blocked,
            nodes: policy.workers.nodes,
        }
    }
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        let way_back = point_of_no_return(&plan);
        let etcd_changes = changes_etcd_minor(&plan);
        let membership = Membership::of(&plan).map(|membership| membership.to_string());
        let point = match &way_back {
            PointOfNoReturn::At { node, step, cause } => Some(PointOfNoReturnView {
                node: node.to_string(),
                step,
                why: no_way_back(*cause, plan.to_version),
            }),
            PointOfNoReturn::Nowhere | PointOfNoReturn::Behind => None,
        };
        Self {
            id: plan.id.into(),
            hash: plan.hash,
            from_version: plan.from_version,
            to_version: plan.to_version,
            policy: plan.policy.into(),
            pools: plan.pools.into_iter().map(Into::into).collect(),
            nodes: plan.nodes.into_iter().map(|node| planned_node(node, etcd_changes)).collect(),
            point_of_no_return: point,
            way_back,
            membership,
        }
    }
}

fn planned_node(node: PlannedNode, etcd_changes: bool) -> PlannedNodeView {
    let views =
        |steps: &[Step]| steps.iter().map(|step| step_view(step, &node.packages, etcd_changes)).collect();
    let (pool, zone) = node.place.map(|Place { pool, zone }| (pool, zone)).unzip();
    PlannedNodeView {
        pool,
        zone: zone.flatten(),
        prepare: views(&node.prepare),
        steps: views(&node.steps),
        packages: Some(node.packages.words()).filter(|_| !node.packages.is_default()),
        name: node.name.into(),
        role: node.role,
    }
}

fn step_view(step: &Step, source: &PackageSource, etcd_changes: bool) -> StepView {
    let reversal = match step.reversal() {
        step::Reversal::Nothing => Reversal::Nothing,
        step::Reversal::Automatic => Reversal::Automatic,
        step::Reversal::KubeadmForce if etcd_changes => Reversal::Impossible,
        step::Reversal::KubeadmForce => Reversal::KubeadmForce,
        step::Reversal::Never => Reversal::Impossible,
    };
    let asks = asks(step).or_else(|| out_of_directory(step, source));
    StepView { step: step.name(), commands: commands(step, source), asks, reversal }
}

impl View for PlanAnswerView {
    fn table(&self, paint: Paint) -> String {
        self.each_stop(paint, PlanView::table) + &self.conduct() + &self.forecast(paint)
    }
}

impl PlanAnswerView {
    /// Each stop's nodes in order and its way back, without the steps: what `apply` shows before it asks.
    pub fn summary(&self, paint: Paint) -> String {
        self.each_stop(paint, PlanView::summary) + &self.conduct() + &self.forecast(paint)
    }

    fn conduct(&self) -> String {
        let mut text = String::new();
        for window in &self.conduct.windows {
            let _ = writeln!(text, "Nodes are begun on only: {window}");
        }
        for (field, hooks) in self.conduct.hooks.lists().into_iter().filter(|(_, hooks)| !hooks.is_empty()) {
            let each: Vec<String> = hooks.iter().map(|hook| hook.target.to_string()).collect();
            let _ = writeln!(text, "The coordinator calls {field}: {}", each.join(", "));
        }
        text
    }

    fn forecast(&self, paint: Paint) -> String {
        let forecast = self.forecast.iter().map(|forecast| forecast.table(paint));
        let addons = self.addons.iter().map(|addons| addons.table(paint));
        addons.chain(forecast).flat_map(|text| ["\n".to_owned(), text]).collect()
    }

    fn each_stop(&self, paint: Paint, show: fn(&PlanView, Paint) -> String) -> String {
        let Some(first) = &self.plan else { return String::new() };
        if self.onward.is_empty() {
            return show(first, paint);
        }
        let stops = self.onward.len() + 1;
        let way: Vec<String> = std::iter::once(first.from_version)
            .chain(std::iter::once(first).chain(&self.onward).map(|plan| plan.to_version))
            .map(|version| version.to_string())
            .collect();
        let mut way = way;
        // Where machines take workers' places, several plans are at one version.
        way.dedup();
        let way = format!("Path: {}, {stops} stops, one after the other", way.join(" → "));
        let mut text = format!(
            "{}\nBefore each stop every node is looked at again; where the plan is another by then, nothing more is begun.\n",
            paint.paint(Tone::Strong, &way)
        );
        for (number, plan) in (1..).zip(std::iter::once(first).chain(&self.onward)) {
            let what = plan.membership.clone().unwrap_or_else(|| plan.to_version.to_string());
            let heading = format!("Stop {number} of {stops}: {what}");
            let _ = write!(text, "\n{}\n{}", paint.paint(Tone::Strong, &heading), show(plan, paint));
            if number > 1 && plan.membership.is_none() {
                let _ = writeln!(
                    text,
                    "What was raised before stays: during this stop a rollback leads back to {}, not further.",
                    plan.from_version
                );
            }
        }
        text
    }
}

impl View for PlanView {
    fn table(&self, paint: Paint) -> String {
        let mut text = self.heading(paint);
        let prepare = groups(&self.nodes, |node| &node.prepare);
        for group in prepare.iter().filter(|group| group.iter().any(|node| !node.prepare.is_empty())) {
            let who = if prepare.len() == 1 { "every node".to_owned() } else { names(group) };
            let _ = writeln!(
                text,
                "\n{}",
                paint.paint(
                    Tone::Strong,
                    &format!("Before any lease, on {who} side by side; disturbs nothing:")
                )
            );
            for (number, step) in (1..).zip(group.iter().take(1).flat_map(|node| &node.prepare)) {
                write_step(&mut text, number, step, None, paint);
            }
        }
        let mut position = 1;
        for group in groups(&self.nodes, |node| &node.steps) {
            self.write_group(&mut text, position, group, paint);
            position += group.len();
        }
        let _ = writeln!(text, "\n{}", self.way_back_text(paint));
        text
    }
}

impl PlanView {
    /// The nodes in order and the way back, without the steps: what `apply` shows before it asks.
    pub fn summary(&self, paint: Paint) -> String {
        let mut text = self.heading(paint);
        for (position, node) in (1..).zip(&self.nodes) {
            let _ = writeln!(
                text,
                "{position:>4}  {}, {}, {} steps",
                node.name,
                title(node.role),
                node.steps.len()
            );
        }
        let _ = writeln!(text, "{}", self.way_back_text(paint));
        text
    }

    fn heading(&self, paint: Paint) -> String {
        let nodes = self.nodes.len();
        let plural = if nodes == 1 { "" } else { "s" };
        let order =
            if self.pools.is_empty() { "one after the other" } else { "control planes one after the other" };
        let line = match &self.membership {
            Some(membership) => format!(
                "Plan {}: {membership} at {}, {nodes} nodes, one after the other",
                self.id, self.to_version
            ),
            None => format!(
                "Plan {}: {} → {}, {nodes} node{plural}, {order}",
                self.id, self.from_version, self.to_version
            ),
        };
        let mut text = format!("{}\n", paint.paint(Tone::Strong, &line));
        let _ = writeln!(text, "When a node fails: {}", when_a_node_fails(self.policy.on_failure));
        write_pools(&mut text, self);
        if self.policy.redeploy {
            let _ = writeln!(text, "Hosts are replaced as a whole, each by its own command (--redeploy)");
        }
        if !self.policy.control_planes.is_empty() && self.membership.is_none() {
            let _ = writeln!(
                text,
                "Machines take control planes' places later, until those are {} (--control-planes)",
                self.policy.control_planes.join(", ")
            );
        }
        if !self.policy.strategy.is_in_place() && self.membership.is_none() {
            let _ = writeln!(
                text,
                "Workers stay as they are, and other machines take their places later (--strategy {})",
                self.policy.strategy
            );
        }
        if self.policy.workers_skip_stops {
            let _ = writeln!(text, "Workers skip the stops at which their kubelets may stay behind");
        }
        if !self.policy.accepted.is_empty() {
            let _ = writeln!(text, "Consented to: {}", self.policy.accepted.join(", "));
        }
        text
    }

    fn write_group(&self, text: &mut String, position: usize, group: &[PlannedNodeView], paint: Paint) {
        let Some(first) = group.first() else { return };
        let last = position + group.len() - 1;
        let positions = if last == position { position.to_string() } else { format!("{position}–{last}") };
        let one_by_one = match first.pool {
            Some(_) => " as its pool's budget allows",
            None if group.len() > 1 => ", one after the other",
            None => "",
        };
        let heading =
            format!("{positions}. {}, {}, under a lease{one_by_one}:", names(group), title(first.role));
        let _ = writeln!(text, "\n{}", paint.paint(Tone::Strong, &heading));
        for (number, step) in (1..).zip(&first.steps) {
            let here = matches!(&self.way_back, PointOfNoReturn::At { node, step: at, .. }
                if node.as_str() == first.name && *at == step.step);
            let begins = matches!(
                self.way_back,
                PointOfNoReturn::At { cause: Cause::EtcdMinor | Cause::Replaced | Cause::Membership, .. }
            );
            if here && begins {
                write_point(text, paint);
            }
            write_step(text, number, step, Some(self.undone(step.reversal)), paint);
            if here && !begins {
                write_point(text, paint);
            }
        }
    }

    fn undone(&self, reversal: Reversal) -> String {
        match reversal {
            Reversal::Nothing => "nothing to undo".to_owned(),
            Reversal::Automatic => "undone by the agent".to_owned(),
            Reversal::Impossible => "cannot be undone".to_owned(),
            Reversal::KubeadmForce => {
                format!("undone by `{}`", kubeadm_upgrade_apply_force(self.from_version, &[]).join(" "))
            }
        }
    }

    fn way_back_text(&self, paint: Paint) -> String {
        match (&self.way_back, &self.point_of_no_return) {
            (_, Some(end)) => {
                let line = format!("Point of no return: {} on {}.", end.step, end.node);
                format!("{} {}.", paint.paint(Tone::Notice, &line), end.why)
            }
            (PointOfNoReturn::Behind, _) => format!(
                "{} The first control plane runs {} already: this plan finishes what was begun.",
                paint.paint(Tone::Notice, "The point of no return lies behind."),
                self.to_version
            ),
            _ if self.membership.is_some() => {
                "No point of no return: until the old nodes leave, `liftlock rollback --cluster` goes back to them.".to_owned()
            }
            _ => "No point of no return: only the patch release changes.".to_owned(),
        }
    }
}

fn no_way_back(cause: Cause, to: KubernetesVersion) -> String {
    let minor = to.minor_name();
    match cause {
        Cause::EtcdMinor => format!(
            "From its start on etcd is of another minor version, whose data the earlier one refuses: the cluster goes forward to {minor}, \
             back only by restoring the snapshot, which loses what was written since"
        ),
        Cause::Membership => "Until its start `liftlock rollback --cluster` goes back to the nodes that were there; from then on a machine has left, \
                              which comes back only by joining: a node that fails is retried"
            .to_owned(),
        Cause::Replaced => "From its start on the node's system is replaced as a whole, and nobody has the earlier one: a node that \
                            fails is retried"
            .to_owned(),
        Cause::ApiMinor => format!(
            "Once it has ended, API servers of {minor} write objects in their own way: a node that fails is retried or put back, \
             the cluster as a whole goes forward"
        ),
    }
}

/// Neighbours that take the same steps, as slices of the order.
fn groups(
    nodes: &[PlannedNodeView],
    steps: fn(&PlannedNodeView) -> &Vec<StepView>,
) -> Vec<&[PlannedNodeView]> {
    nodes.chunk_by(|a, b| steps(a) == steps(b)).collect()
}

fn names(nodes: &[PlannedNodeView]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn title(role: Role) -> &'static str {
    match role {
        Role::FirstControlPlane => "first control plane",
        Role::ControlPlane => "control plane",
        Role::Worker => "worker",
    }
}

fn write_step(text: &mut String, number: usize, step: &StepView, undone: Option<String>, paint: Paint) {
    let undone = undone.map(|undone| paint.paint(Tone::Faint, &undone)).unwrap_or_default();
    let line = format!("{number:>4}  {:<24}{undone}", step.step);
    let _ = writeln!(text, "{}", line.trim_end());
    for command in &step.commands {
        let words: Vec<String> = command.iter().map(|argument| word(argument)).collect();
        let _ = writeln!(text, "        $ {}", words.join(" "));
    }
    if let Some(asks) = &step.asks {
        let _ = writeln!(text, "        {asks}");
    }
}

/// An argument as one word. A node names some of its commands itself: none may read as another one, or be anything but
/// text to a terminal.
pub(super) fn word(argument: &str) -> String {
    let quoted = format!("{argument:?}");
    let is_plain = quoted.len() == argument.len() + 2 && !argument.contains(char::is_whitespace);
    if is_plain && !argument.is_empty() { argument.to_owned() } else { quoted }
}

fn write_point(text: &mut String, paint: Paint) {
    let _ = writeln!(text, "      {}", paint.paint(Tone::Notice, "── point of no return ──"));
}

/// What a step does on a node whose packages come out of a folder, or whose programs no package owns, for people.
fn out_of_directory(step: &Step, source: &PackageSource) -> Option<String> {
    let directory = source.directory.as_deref().unwrap_or("the folder that its configuration names");
    let listed = format!("in {directory}, each compared with SHA256SUMS there");
    if source.directory.is_none() && source.manager != PackageManager::Files {
        return None;
    }
    match step {
        Step::RefreshPackages {} => Some(format!("reads what SHA256SUMS in {directory} lists")),
        Step::FetchPackages { version } => Some(format!("looks for the packages of {version} {listed}")),
        Step::InstallKubeadm { version } => {
            Some(format!("installs kubeadm of {version} from its file {listed}"))
        }
        Step::InstallKubelet { version } => {
            Some(format!("installs kubelet and kubectl of {version} from their files {listed}"))
        }
        _ => None,
    }
}

/// What a step asks or does through an API, for people.
fn asks(step: &Step) -> Option<String> {
    Some(match step {
        Step::RefreshPackages {}
        | Step::FetchPackages { .. }
        | Step::InstallKubeadm { .. }
        | Step::KubeadmUpgradeApply { .. }
        | Step::KubeadmUpgradeNode { .. }
        | Step::InstallKubelet { .. }
        | Step::RestartKubelet { .. } => return None,
        Step::PullImages { version, .. } => {
            format!("has the container runtime pull the images of {version} that this node will need")
        }
        Step::SwitchRepository { version } => format!(
            "leads this node's package repositories, which are split by minor, to those of {}",
            version.minor_name()
        ),
        Step::MeasureSpace { .. } => "measures free space; refuses a node too full for packages and backups".to_owned(),
        Step::EtcdQuorumGate { allow_api_outage } => {
            let may_be_missed = if *allow_api_outage {
                "and the API's outage was consented to"
            } else {
                "and this one may be missed without losing quorum"
            };
            format!("asks every etcd member: all healthy, no alarm, no learner, {may_be_missed}")
        }
        Step::EtcdSnapshot {} => {
            "streams a snapshot out of etcd into this node's backup folder and recomputes its SHA-256".to_owned()
        }
        Step::BackUpNode { role } if role.is_control_plane() => {
            "copies manifests, pki, kubeconfigs, kubelet files, ConfigMaps and package versions into the backup folder".to_owned()
        }
        Step::BackUpNode { .. } => {
            "copies kubeconfigs, kubelet files and package versions into the backup folder".to_owned()
        }
        Step::SealProtectedPaths {} => {
            "looks at every protected path, and copies what is small in the sealed ones into the backup folder".to_owned()
        }
        Step::VerifyControlPlane { version } => {
            format!("asks the container runtime, this node's API server and kubeadm-config: all at {version}")
        }
        Step::Drain { timeout_seconds, delete_unmanaged_pods, delete_empty_dir_data, allow_only_schedulable_node, on_blocked } => {
            let mut text = format!("cordons the node and evicts its pods within {timeout_seconds} s, heeding disruption budgets");
            let also = [
                (*delete_unmanaged_pods, "deletes pods that no controller starts again"),
                (*delete_empty_dir_data, "deletes pods with emptyDir data"),
                (*allow_only_schedulable_node, "even where no other node takes pods"),
                (*on_blocked == OnBlocked::Skip, "where they are not allowed to go by then, it is put back and passed over"),
                (*on_blocked == OnBlocked::Force, "where they are not allowed to go by then, they are deleted"),
            ];
            for (_, what) in also.into_iter().filter(|(wanted, _)| *wanted) {
                let _ = write!(text, "; {what}");
            }
            text
        }
        Step::Redeploy { version, .. } => format!(
            "stops the containers, exports the protected paths to the node's store, and waits for the new system, with the paths \
             back and kubeadm and kubelet at {version}"
        ),
        Step::KubeadmJoin { role, .. } => {
            let also = if role.is_control_plane() { " and a key to the cluster's certificates" } else { "" };
            format!(
                "is let in by a control plane: a bootstrap token{also}, made for this lease, kept in a file of the agent's own \
                 while kubeadm runs, and shown nowhere"
            )
        }
        Step::KubeadmReset { .. } => {
            "takes the node out of the cluster, its member of etcd too, and ends every container that is left".to_owned()
        }
        Step::RemoveEtcdMember { node } => {
            format!("takes {node}'s member out of etcd, where it is still there, does not answer, and the others are a quorum")
        }
        Step::DeleteNode { node, also } if also.is_empty() => format!("deletes the Node {node}"),
        Step::DeleteNode { node, also } => {
            let also: Vec<&str> = also.iter().map(NodeName::as_str).collect();
            format!("deletes the Nodes {node}, {}", also.join(", "))
        }
        Step::VerifyNode { version } => format!("waits until the Node is Ready with its kubelet at {version}"),
        Step::RestoreSchedulability {} => "uncordons the node, unless it was cordoned before".to_owned(),
        Step::RunHooks { hooks, .. } => {
            let names: Vec<&str> = hooks.iter().map(|hook| hook.name.as_str()).collect();
            format!("runs what this node's own configuration has as the hook {}", names.join(", then "))
        }
        Step::ApplyAddons { version, digest } => format!(
            "applies the add-ons of {version} that lie on this node (SHA-256 {}…), waits until they are rolled out, and deletes \
             what Liftlock applied before and is not among them",
            digest.get(..12).unwrap_or(digest)
        ),
        Step::VerifyProtectedPaths {} => {
            "compares every protected path; puts back what was sealed and changed, and fails for what it cannot".to_owned()
        }
    })
}
