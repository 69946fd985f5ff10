//! What must have held all the time, read from what everybody recorded: the coordinator's history, the agents' journals
//! and fences, systemd's record of units, every change of the cluster's objects, and the nodes themselves.
//!
//! Numbers are those of the design's list of invariants.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use camino::Utf8PathBuf;
use liftlock_agent::engine::transition::Event;
use liftlock_proto::plan::{Purpose, Role};
use liftlock_proto::step::Step;
use liftlock_proto::v1::HistoryEvent;
use liftlock_proto::version::KubernetesVersion;

use crate::fleet::journals::{self, LeaseJournal};
use crate::fleet::{Fleet, proofs};
use crate::matrix::course::Course;
use crate::matrix::{FROM, TO};
use crate::standin::cluster::Machine;
use crate::standin::objects::text;
use crate::standin::packages::sha256;
use crate::standin::release::STATIC_PODS;

/// What may never change on a node: its identity, its authorities, and etcd's data but by etcd itself.
const UNTOUCHED: [&str; 10] = [
    "/etc/hostname",
    "/etc/machine-id",
    "/etc/kubernetes/pki/ca.crt",
    "/etc/kubernetes/pki/ca.key",
    "/etc/kubernetes/pki/etcd/ca.key",
    "/etc/kubernetes/pki/sa.key",
    "/var/lib/etcd/member/snap/db",
    "/var/lib/etcd/member/wal/0000000000000000-0000000000000000.wal",
    "/var/lib/kubelet/pki/kubelet-client-2026-01-01-00-00-00.pem",
    IN_VOLUME,
];

/// What a pod has mounted: whatever removes more than its own would come to it (kubernetes/kubeadm issue 2923). No user
/// but root can mount, so here it is a folder, and a removal that enters it is seen all the same.
const IN_VOLUME: &str = "/var/lib/kubelet/pods/0c9e/volumes/kubernetes.io~nfs/data/precious";

/// From the moment at which an agent looks at its lease for the last time to the one at which systemd has started what
/// it asks for: two programs begin in between, on a machine that is busy.
const START_MS: u64 = 500;

const OLD_PLAN: &str = "p-00c0ffee0001";
const OLD_TIME: &str = "20200102T120000Z";
const OLD_TIME_MS: u64 = 1_577_966_400_000;

/// How it was before.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The node that an operator has cordoned.
    cordoned: Option<String>,
    /// Path and SHA-256 of what may never change, by node.
    untouched: BTreeMap<String, Vec<(&'static str, Option<String>)>>,
}

impl Baseline {
    pub(super) fn of(fleet: &Fleet, cordoned: Option<String>) -> Result<Self> {
        for machine in fleet.cluster.machines() {
            let precious = machine.tree.at(IN_VOLUME);
            fs::create_dir_all(precious.parent().context("a file without a folder")?)?;
            fs::write(precious, "the app's own data")?;
            let old = old_backup(machine);
            fs::create_dir_all(&old)?;
            fs::write(old.join("index.json"), index_of_nothing(machine)?)?;
        }
        Ok(Self { cordoned, untouched: untouched(fleet) })
    }
}

/// A backup of an earlier plan, taken longer ago than retention keeps any: whole, and never the newest one.
fn old_backup(machine: &Machine) -> Utf8PathBuf {
    machine.tree.at(&format!("/etc/kubernetes/tmp/liftlock-{OLD_PLAN}-{}-{OLD_TIME}", machine.facts.name))
}

/// The index of a backup that holds nothing, with its checksum.
fn index_of_nothing(machine: &Machine) -> Result<String> {
    let role = if machine.facts.control_plane { Role::ControlPlane } else { Role::Worker };
    let (node, role) = (serde_json::to_string(&machine.facts.name)?, serde_json::to_string(&role)?);
    let index = format!(
        r#"{{"format":1,"plan":"{OLD_PLAN}","node":{node},"role":{role},"takenAtMs":{OLD_TIME_MS},"clusterVersion":null,"earlierKubeadmBackups":[],"snapshot":null,"entries":[]}}"#
    );
    Ok(format!(r#"{{"index":{index},"sha256":"{}"}}"#, sha256(index.as_bytes())))
}

/// The nodes whose backup of an earlier plan is there.
pub(super) fn with_old_backup(fleet: &Fleet) -> Vec<&str> {
    let there = fleet.cluster.machines().filter(|machine| old_backup(machine).exists());
    there.map(|machine| machine.facts.name.as_str()).collect()
}

fn untouched(fleet: &Fleet) -> BTreeMap<String, Vec<(&'static str, Option<String>)>> {
    let of_node = |tree: &crate::standin::node::NodeTree| {
        UNTOUCHED.map(|path| (path, fs::read(tree.at(path)).ok().map(|content| sha256(&content)))).to_vec()
    };
    fleet.cluster.machines().map(|machine| (machine.facts.name.clone(), of_node(&machine.tree))).collect()
}

/// A time in which an agent could not renew its lease.
#[derive(Debug)]
pub(super) struct Silence {
    pub(super) node: String,
    /// The latest moment at which the lease can have ended, milliseconds since the Unix epoch.
    pub(super) lease_ends_ms: u64,
    /// When it was over.
    pub(super) to_ms: u64,
}

/// Everything that the checks look at.
struct Record<'a> {
    fleet: &'a Fleet,
    course: &'a Course,
    baseline: &'a Baseline,
    silences: &'a [Silence],
    history: &'a [HistoryEvent],
    journals: BTreeMap<String, Vec<LeaseJournal>>,
}

/// Every invariant that does not hold, as a sentence.
pub(super) fn violations(
    fleet: &Fleet,
    course: &Course,
    baseline: &Baseline,
    silences: &[Silence],
    history: &[HistoryEvent],
) -> Result<Vec<String>> {
    let mut found = BTreeMap::new();
    for machine in fleet.cluster.machines() {
        found.insert(machine.facts.name.clone(), journals::journals(&machine.tree.agent_state())?);
    }
    let record = Record { fleet, course, baseline, silences, history, journals: found };
    let checks = [
        (
            "1, 5: one lease at a time, each after the end of the one before",
            proofs::one_lease_at_a_time(history).map(drop),
        ),
        ("2: never below etcd's quorum but by the outage of one member", record.one_member_stops_at_a_time()),
        ("3: fencing tokens only rise, and the node remembers the highest", record.tokens_rise()),
        ("4: an agent that cannot renew starts nothing", record.nothing_starts_in_silence()),
        ("6: a verified backup precedes the first change", record.backups_come_first()),
        (
            "6: retention is applied once every node is raised, and never otherwise",
            record.old_backups_go_at_the_end(),
        ),
        ("7: the intent is durable before the effect", record.intents_come_first()),
        (
            "8, 9, 12: protected files, what pods have mounted and etcd's data are as before",
            record.nothing_sealed_changed(),
        ),
        ("10: the end is raised or rolled back", record.everything_runs()),
        ("10: cordons that were there stay, ours go", record.cordons_are_as_before()),
        ("10: nothing is left half done", record.nothing_is_left()),
        ("10: packages are held as before", proofs::holds_are_back(fleet).map(drop)),
        ("11: order and skew hold", record.order_and_skew_hold()),
        ("13: a failure halts the roll-out", record.failures_halt()),
    ];
    let judged = checks.into_iter().filter_map(|(invariant, check)| {
        check.err().map(|error| format!("invariant {invariant}: {error:#}"))
    });
    Ok(judged.collect())
}

impl Record<'_> {
    fn version(&self) -> KubernetesVersion {
        if self.course.purpose == Purpose::Raise { TO } else { FROM }
    }

    fn one_member_stops_at_a_time(&self) -> Result<()> {
        let most = self.fleet.cluster.etcd.most_stopped();
        ensure!(most <= 1, "{most} members of etcd stood still at once");
        Ok(())
    }

    fn tokens_rise(&self) -> Result<()> {
        let granted = proofs::leases_by_node(self.history);
        for machine in self.fleet.cluster.machines() {
            let node = &machine.facts.name;
            let granted = granted.get(node).cloned().unwrap_or_default();
            let journals = self.journals.get(node).into_iter().flatten();
            let began: Vec<u64> = journals.map(|journal| journal.header.token.0).collect();
            ensure!(
                began == granted,
                "{node}: leases {granted:?} were granted, and {began:?} have a journal"
            );
            let fence = journals::fence(&machine.tree.agent_state())?;
            ensure!(
                Some(fence) == granted.last().copied().or(Some(0)),
                "{node}: its fence says {fence}, its last lease was {:?}",
                granted.last()
            );
        }
        Ok(())
    }

    fn nothing_starts_in_silence(&self) -> Result<()> {
        for silence in self.silences {
            let machine = self.fleet.cluster.machine(&silence.node)?;
            let within = |at_ms: u64| silence.lease_ends_ms + START_MS < at_ms && at_ms < silence.to_ms;
            let started = machine.systemd.started_units().into_iter().find(|started| within(started.at_ms));
            if let Some(started) = started {
                let late = started.at_ms - silence.lease_ends_ms;
                anyhow::bail!(
                    "{} was started on {} {late} ms after its lease had run out",
                    started.unit,
                    silence.node
                );
            }
        }
        Ok(())
    }

    fn backups_come_first(&self) -> Result<()> {
        for machine in self.fleet.cluster.machines() {
            let node = &machine.facts.name;
            for journal in self.journals.get(node).into_iter().flatten() {
                if journal.header.purpose != Purpose::Raise {
                    continue;
                }
                let position = |step: &str, events: &[&str]| {
                    journal.records.iter().position(|(_, event)| {
                        journal.step_of(event) == Some(step) && events.contains(&event.name())
                    })
                };
                let backed_up = position("back-up-node", &["succeeded", "adopted"]);
                let changed = position("install-kubeadm", &["started"]);
                ensure!(
                    changed.is_none() || backed_up.is_some_and(|backed_up| Some(backed_up) < changed),
                    "{node}: lease {} changed the node before its backup",
                    journal.header.token
                );
            }
            let mut backups = proofs::backups_of(self.fleet, node)?;
            backups.retain(|backup| *backup != old_backup(machine));
            let had_a_lease = self.journals.get(node).is_some_and(|journals| !journals.is_empty());
            ensure!(
                backups.len() == usize::from(had_a_lease),
                "{node} has {} backups: {backups:?}",
                backups.len()
            );
            for backup in &backups {
                proofs::backup_is_whole(backup, machine.facts.control_plane)?;
                let closed = backup.join("closed").exists();
                ensure!(closed == (self.course.purpose == Purpose::RollBack), "{backup} is closed: {closed}");
            }
        }
        Ok(())
    }

    fn old_backups_go_at_the_end(&self) -> Result<()> {
        let left = with_old_backup(self.fleet);
        let wanted = match self.course.purpose {
            Purpose::Raise => 0,
            Purpose::RollBack => self.fleet.cluster.machines().count(),
        };
        ensure!(left.len() == wanted, "an earlier plan's backup is there on {left:?}");
        Ok(())
    }

    /// Units are named after a plan and a step of it, or after a lease's token; those of preparations need no intent.
    fn intents_come_first(&self) -> Result<()> {
        for machine in self.fleet.cluster.machines() {
            let journals = self.journals.get(&machine.facts.name).map(Vec::as_slice).unwrap_or_default();
            for started in machine.systemd.started_units() {
                let unit = &started.unit;
                let named = |what: &dyn std::fmt::Display| unit.starts_with(&format!("liftlock-{what}-"));
                let step_named = |journal: &LeaseJournal| {
                    let mut steps = journal.header.steps.iter().map(Step::name);
                    steps.find(|step| named(&format!("{}-{step}", journal.header.plan)))
                };
                let step = journals.iter().find_map(step_named);
                if step.is_none() && !journals.iter().any(|journal| named(&journal.header.token)) {
                    continue;
                }
                let last = journals
                    .iter()
                    .flat_map(|journal| journal.records.iter().map(move |record| (journal, record)))
                    .rfind(|(_, (at_ms, _))| *at_ms <= started.at_ms);
                let (journal, (_, event)) =
                    last.with_context(|| format!("{unit} was started with no intent"))?;
                let intended = matches!(event, Event::Started { .. } | Event::UndoStarted { .. })
                    && (step.is_none() || step == journal.step_of(event));
                let what = journal.step_of(event).unwrap_or("the lease");
                ensure!(intended, "{unit} was started after {what} was {}", event.name());
            }
        }
        Ok(())
    }

    fn nothing_sealed_changed(&self) -> Result<()> {
        let now = untouched(self.fleet);
        for (node, before) in &self.baseline.untouched {
            for ((path, before), (_, after)) in before.iter().zip(now.get(node).into_iter().flatten()) {
                ensure!(before == after, "{node}: {path} is not what it was");
            }
        }
        Ok(())
    }

    fn everything_runs(&self) -> Result<()> {
        proofs::everything_runs(self.fleet, self.version()).map(drop)
    }

    fn cordons_are_as_before(&self) -> Result<()> {
        let cordoned: Vec<&str> = self.baseline.cordoned.as_deref().into_iter().collect();
        proofs::only_cordoned(self.fleet, &cordoned).map(drop)
    }

    fn nothing_is_left(&self) -> Result<()> {
        for machine in self.fleet.cluster.machines() {
            let node = &machine.facts.name;
            let units = machine.systemd.loaded_units();
            ensure!(units.is_empty(), "{node}: the units {units:?} are loaded still");
            if machine.facts.control_plane {
                for component in STATIC_PODS {
                    ensure!(
                        machine.tree.manifest(component).exists(),
                        "{node} has no manifest of {component}"
                    );
                }
            }
            let logs = machine.tree.agent_state().join("run");
            let logs: Vec<String> = logs
                .read_dir_utf8()
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_owned())
                .filter(|name| name.strip_suffix(".log").is_some())
                .collect();
            ensure!(logs.is_empty(), "{node}: logs of units that are gone: {logs:?}");
        }
        Ok(())
    }

    fn order_and_skew_hold(&self) -> Result<()> {
        let granted: Vec<&str> = self
            .history
            .iter()
            .filter(|event| event.kind == "lease-granted")
            .map(|event| event.node.as_str())
            .collect();
        let nodes: Vec<&str> = self.course.nodes().into_iter().map(|(node, _)| node).collect();
        let back = nodes.iter().rev().copied();
        let wanted: Vec<&str> = match self.course.purpose {
            Purpose::Raise => nodes.clone(),
            Purpose::RollBack => nodes.iter().copied().chain(back).collect(),
        };
        ensure!(granted == wanted, "leases went to {granted:?}, not to {wanted:?}");

        let mut cluster = FROM;
        for change in self.fleet.cluster.objects.changes_after(0) {
            if change.key.name == "kubeadm-config"
                && let Some(said) = text(&change.object, "/data/ClusterConfiguration")
                && let Some(version) = said.lines().find_map(|line| line.strip_prefix("kubernetesVersion: "))
            {
                cluster = version.parse()?;
            }
            if change.key.resource == "nodes"
                && let Some(kubelet) = text(&change.object, "/status/nodeInfo/kubeletVersion")
            {
                let kubelet: KubernetesVersion = kubelet.parse()?;
                ensure!(
                    kubelet <= cluster,
                    "{} ran a kubelet {kubelet} in a cluster {cluster}",
                    change.key.name
                );
            }
        }
        Ok(())
    }

    fn failures_halt(&self) -> Result<()> {
        let failed = self.history.iter().find(|event| event.kind == "lease-failed");
        if let Some(failed) = failed {
            anyhow::bail!("lease {} of {} failed: {}", failed.fencing_token, failed.node, failed.text);
        }
        Ok(())
    }
}
