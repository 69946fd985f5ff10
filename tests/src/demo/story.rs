//! What happens in the demo.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use liftlock_proto::plan::{Plan, Role};
use liftlock_proto::v1::{GetRequest, NodePhase, Rollout, RolloutNode, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;

use crate::demo::narrator::Narrator;
use crate::demo::report::{Check, NodeReport, Recovered, Report, seconds};
use crate::fleet::Fleet;
use crate::fleet::binaries::Binaries;
use crate::fleet::proofs;
use crate::standin::cluster::Shape;
use crate::standin::controllers::Workload;
use crate::standin::fault::{Action, Fault, Point};
use crate::standin::node::Tempo;

const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);
const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);
/// The node whose agent is killed, and the one that an operator has cordoned before.
const KILLED: &str = "cp2";
const CORDONED: &str = "w2";

/// The agent that was killed, and its lease.
struct Killed {
    step: String,
    token: u64,
}

pub(super) async fn tell(narrator: &Narrator, pace: f64) -> Result<Report> {
    // Of a fresh checkout they are built first: that is no part of the run.
    narrator.line("First the programs are built, where they are not yet.");
    Binaries::find()?;
    let start = Instant::now();
    narrator
        .heading("A stand-in cluster: 3 control planes and 3 workers, each a folder with its own programs");
    let tempo = Tempo::paced(2.5 * pace);
    let shape = Shape { version: FROM, offered: vec![TO], tempo, ..Shape::new(3, 3) };
    let mut fleet = Fleet::without_agents(&shape).await?;
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 2,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    fleet.cluster.add_budget("shop", 1);
    fleet
        .cluster
        .wait_for("shop", Duration::from_secs(20), |cluster| cluster.lowest_ready("shop") == Some(2))
        .await?;
    fleet.cluster.cordon(CORDONED, true);
    narrator.line(&format!("  cp1 cp2 cp3 w1 w2 w3 run {FROM}; an app with 2 replicas may lose 1 at a time; {CORDONED} was cordoned by hand"));

    narrator.heading("The real coordinator and six real agents, over mutual TLS, each agent enrolled with a one-time token");
    let nodes = fleet.nodes();
    for node in &nodes {
        fleet.start_agent(node).await?;
    }
    let mut operator = fleet.operator().await?;
    operator.wait_for_facts(&nodes, Duration::from_mins(1)).await.with_context(|| fleet.last_words())?;
    narrator.line(&format!("  {} serves; every node has reported what it is", fleet.url()));

    narrator.heading(&format!("liftlock apply {TO}"));
    let raise = Instant::now();
    let to = TO.to_string();
    fleet.cli(&["apply", &to, "--yes", "--detach"]).await?.success()?;
    let between = Point::KubeadmBetweenRenames("kube-apiserver".to_owned());
    let fault = Fault::arm(&fleet.cluster.machine(KILLED)?.tree, &between, &Action::Pause)?;
    let (rollout, killed) = follow(narrator, &mut fleet, &fault).await.with_context(|| fleet.last_words())?;
    let raise_s = raise.elapsed().as_secs_f64();

    let history = operator.history().await?;
    let killed = killed.context("the agent was never killed: its node did not come to that point")?;
    let leases = proofs::leases_by_node(&history).remove(KILLED).unwrap_or_default();
    let runs = kubeadm_runs(&fleet, KILLED)?;
    let resumed = leases == [killed.token] && runs == 1;
    let checks = vec![
        Check::of(proofs::everything_runs(&fleet, TO)),
        Check::of(if resumed {
            Ok(format!(
                "{KILLED} was raised under the one lease it had (token {}), and kubeadm ran once",
                killed.token
            ))
        } else {
            Err(anyhow::anyhow!("{KILLED} had the leases {leases:?}, and kubeadm ran {runs} times"))
        }),
        Check::of(proofs::only_cordoned(&fleet, &[CORDONED])),
        Check::of(proofs::backups_are_whole(&fleet)),
        Check::of(proofs::holds_are_back(&fleet)),
        Check::of(proofs::one_lease_at_a_time(&history)),
        Check::of(app_was_there(&fleet)),
    ];
    let nodes = rollout.nodes.iter().map(node_report).collect();
    let left_behind = end(fleet);
    Ok(Report {
        ok: checks.iter().all(|check| check.ok) && left_behind.is_empty(),
        wall_s: start.elapsed().as_secs_f64(),
        raise_s,
        from: FROM.to_string(),
        to,
        nodes,
        recovered: Recovered { node: KILLED.to_owned(), killed_at: killed.step, resumed },
        max_concurrent_leases: proofs::most_leases_at_once(&history),
        checks,
        left_behind,
    })
}

/// How far the story of the nodes has been told.
#[derive(Default)]
struct Told {
    /// Nodes whose story has begun; they are raised one after another.
    nodes: usize,
    /// Steps of the last of them.
    steps: usize,
    killed: Option<Killed>,
}

/// Follows the roll-out to its end, and kills an agent on the way.
async fn follow(narrator: &Narrator, fleet: &mut Fleet, fault: &Fault) -> Result<(Rollout, Option<Killed>)> {
    let mut operator = fleet.operator().await?;
    let mut stream = operator.client.watch(GetRequest::default()).await?.into_inner();
    let mut told = Told::default();
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let mut last: Option<Rollout> = None;
    narrator.line("  every node fetches packages and images, side by side: nothing is disturbed yet");
    loop {
        tokio::select! {
            message = stream.message() => {
                let rollout = message?.context("the roll-out's stream ended early")?;
                tell_nodes(narrator, &mut told, &rollout)?;
                match rollout.phase() {
                    RolloutPhase::Raised => return Ok((rollout, told.killed)),
                    RolloutPhase::Halted | RolloutPhase::Aborted => bail!("the roll-out halted: {}", rollout.reason),
                    _ => last = Some(rollout),
                }
            }
            // Whether the point was reached is asked at each tick: a condition of the branch would be asked only when
            // something else has happened.
            _ = looks.tick(), if told.killed.is_none() => {
                if !fault.was_reached() {
                    continue;
                }
                let node = last.iter().flat_map(|rollout| &rollout.nodes).find(|node| node.name == KILLED);
                let node = node.context("the node's agent is to be killed, and it has no lease")?;
                kill(narrator, fleet, node)?;
                told.killed = Some(Killed { step: node.step.clone(), token: node.fencing_token });
                fault.disarm()?;
                fleet.start_agent(KILLED).await?;
                narrator.relief("kubeadm runs on in a unit of its own; systemd starts the agent again, and it looks before it acts");
            }
        }
    }
}

fn tell_nodes(narrator: &Narrator, told: &mut Told, rollout: &Rollout) -> Result<()> {
    let plan = Plan::try_from(rollout.plan.clone().context("a roll-out without a plan")?)?;
    for (index, (node, planned)) in rollout.nodes.iter().zip(&plan.nodes).enumerate() {
        if index + 1 < told.nodes || node.step_number == 0 {
            continue;
        }
        if index == told.nodes {
            if told.nodes == 0 {
                narrator.line("  then one node at a time, each under a lease with a fencing token:");
            }
            narrator.node(&node.name);
            (told.nodes, told.steps) = (index + 1, 0);
        }
        let raised = node.phase() == NodePhase::Raised;
        let reached = if raised { planned.steps.len() } else { usize::try_from(node.step_number)? };
        for step in planned.steps.iter().take(reached).skip(told.steps) {
            narrator.step(step.name());
        }
        if raised && told.steps <= planned.steps.len() {
            narrator.node_done(&format!("✔ {:.1} s", lease_seconds(node)));
            told.steps = usize::MAX;
        }
        told.steps = told.steps.max(reached);
    }
    Ok(())
}

/// Kills the agent while its kubeadm is between its two renames: the node has no kube-apiserver manifest.
fn kill(narrator: &Narrator, fleet: &mut Fleet, node: &RolloutNode) -> Result<()> {
    let machine = fleet.cluster.machine(&node.name)?;
    ensure!(!machine.tree.manifest("kube-apiserver").exists(), "the manifest should be away just now");
    let units = machine.systemd.running_units();
    let kubeadm =
        units.iter().find(|unit| unit.contains("kubeadm")).context("kubeadm does not run as a unit")?;
    let pid = machine.systemd.main_pid(kubeadm).context("kubeadm has no process")?;
    narrator.alarm(&format!(
        "SIGKILL to the agent of {}: its kubeadm has just moved kube-apiserver.yaml away and not yet put the new one there",
        node.name
    ));
    fleet.kill_agent(&node.name)?;
    let machine = fleet.cluster.machine(&node.name)?;
    ensure!(machine.systemd.main_pid(kubeadm) == Some(pid), "kubeadm should have outlived its agent");
    Ok(())
}

/// How often kubeadm upgraded this node's static pods: each run leaves one folder.
fn kubeadm_runs(fleet: &Fleet, node: &str) -> Result<usize> {
    let folder = fleet.cluster.machine(node)?.tree.at("/etc/kubernetes/tmp");
    let names = folder.read_dir_utf8()?.flatten();
    Ok(names.filter(|entry| entry.file_name().starts_with("kubeadm-backup-manifests-")).count())
}

fn app_was_there(fleet: &Fleet) -> Result<String> {
    let lowest = fleet.cluster.lowest_ready("shop").context("the app was never ready")?;
    ensure!(lowest >= 1, "the app had no ready replica at a time");
    Ok(format!("the app had {lowest} ready replica{} at the least", if lowest == 1 { "" } else { "s" }))
}

fn lease_seconds(node: &RolloutNode) -> f64 {
    node.timings.map_or(0.0, |timings| seconds(timings.lease_ms))
}

fn node_report(node: &RolloutNode) -> NodeReport {
    let timings = node.timings.unwrap_or_default();
    let spent = timings.child_ms + timings.wait_ms + timings.snapshot_ms;
    NodeReport {
        name: node.name.clone(),
        role: Role::try_from(node.role()).map_or("unknown", Role::name),
        lease_s: seconds(timings.lease_ms),
        child_s: seconds(timings.child_ms),
        overhead_s: seconds(timings.lease_ms.saturating_sub(spent)),
    }
}

/// Ends everything, and says what is still there.
fn end(fleet: Fleet) -> Vec<String> {
    let folder = fleet.folder().to_owned();
    let processes = fleet.processes();
    drop(fleet);
    let mut left: Vec<String> = processes
        .into_iter()
        .filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists())
        .map(|pid| format!("process {pid}"))
        .collect();
    if folder.exists() {
        left.push(folder.into_string());
    }
    left
}
