//! `liftlock etcd restore`

use clap::{Args, Subcommand, ValueEnum};
use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::{DescribeEtcd, ListBackups, ListNodesRequest, RehearseSnapshot, reply};

use crate::cli::Desk;
use crate::cli::ask::ask;
use crate::cli::connect::Client;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs};
use crate::cli::time::{clock, moment};
use crate::cli::view::restoration::RestorationView;
use crate::core::restoration::{Loss, Member, Running, RunningMember, Situation, Snapshot, Tools};

/// Options of `etcd`.
#[derive(Debug, Args)]
pub struct EtcdArgs {
    #[command(subcommand)]
    verb: EtcdVerb,
}

#[derive(Debug, Subcommand)]
enum EtcdVerb {
    /// Show how etcd is restored from a backup, command by command; carries out nothing.
    ///
    /// The backup is verified and its restore is rehearsed on its node before a command is shown. What was written to the
    /// cluster after it is lost: that has to be accepted by name.
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
struct RestoreArgs {
    #[command(flatten)]
    scope: Scope,
    /// The control plane whose backup it is; otherwise the one with the newest.
    #[arg(long, value_name = "NODE")]
    from: Option<NodeName>,
    /// The folder's name, as `liftlock backups list` shows it; otherwise the newest whole one with a snapshot.
    #[arg(long, value_name = "BACKUP")]
    backup: Option<String>,
    /// Consent to what a rule refuses.
    #[arg(long, value_enum, value_name = "RULE")]
    accept: Vec<Accepted>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Scope {
    /// One member; where the others are a quorum, it is removed and added again, without a snapshot.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Every member, from one snapshot.
    #[arg(long)]
    cluster: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Accepted {
    /// What was written after the snapshot is lost.
    DataLoss,
}

pub(crate) async fn run(desk: &Desk, args: EtcdArgs) -> Result<Exit, CliError> {
    match args.verb {
        EtcdVerb::Restore(args) => restore(desk, args).await,
    }
}

async fn restore(desk: &Desk, args: RestoreArgs) -> Result<Exit, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let situation = situation(&mut client).await?;
    if let Some(node) = &args.scope.node
        && !situation.members.iter().any(|member| member.node == *node)
    {
        return Err(CliError::NotFound(format!("{node} has no member of etcd: see `liftlock nodes`")));
    }
    if let Some(node) = &args.scope.node
        && situation.members.len() > 1
    {
        if !situation.others_are_a_quorum(node) {
            return Err(CliError::Refused(format!(
                "the members other than {node} are no quorum, and a member that is restored alone begins a cluster of its \
                 own: restore all of them with --cluster"
            )));
        }
        let stages = situation.replace(node).unwrap_or_default();
        let view = RestorationView::replacement(node, stages);
        output::write(&output::render(&view, args.output.output, desk.paint)?)?;
        let why = format!(
            "the other members are healthy, and a snapshot would take {node} back behind them: remove the member and add it \
             again, as shown; it takes its data from the others"
        );
        if args.from.is_some() || args.backup.is_some() || !args.accept.is_empty() {
            return Err(CliError::Refused(why));
        }
        output::note(&format!("No snapshot is needed: {why}."));
        return Ok(Exit::Done);
    }
    let backup = choose(&mut client, &situation, &args).await?;
    let snapshot = rehearse(&mut client, &backup).await?;
    let loss = situation.loss(snapshot.revision);
    if loss != Loss::Nothing && !args.accept.contains(&Accepted::DataLoss) {
        return Err(CliError::Refused(format!(
            "{} Say --accept data-loss if that is worth it",
            in_words(loss, &snapshot)
        )));
    }
    let view = RestorationView::restore(
        &backup.name,
        &snapshot,
        loss,
        &in_words(loss, &snapshot),
        situation.restore(&snapshot),
    );
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}

fn in_words(loss: Loss, snapshot: &Snapshot) -> String {
    let Snapshot { revision, taken_at, .. } = snapshot;
    match loss {
        Loss::Nothing => format!("Nothing was written after revision {revision} of {taken_at}."),
        Loss::Revisions(count) => {
            format!("What was written after revision {revision}, at {taken_at}, is lost: {count} revisions.")
        }
        Loss::AnotherHistory => format!(
            "The running etcd has not come to revision {revision} of {taken_at}: it is of another history, and all of it \
             is lost."
        ),
        Loss::Unknown => format!(
            "What was written after revision {revision}, at {taken_at}, is lost; no member answers, so nobody knows how \
             much that is."
        ),
    }
}

/// A backup with a snapshot, and whose it is.
struct Backup {
    node: NodeName,
    name: String,
    taken_at_ms: u64,
}

/// The named backup, or the newest whole one with a snapshot.
async fn choose(client: &mut Client, situation: &Situation, args: &RestoreArgs) -> Result<Backup, CliError> {
    let mut newest: Option<Backup> = None;
    let mut failures = Vec::new();
    let members = situation.members.iter().map(|member| &member.node);
    for node in members.filter(|node| args.from.as_ref().is_none_or(|from| from == *node)) {
        let listed = ask(client, node, Kind::ListBackups(ListBackups {}), |reply| match reply {
            reply::Kind::Backups(backups) => Some(backups.backups),
            _ => None,
        });
        let backups = match listed.await {
            Ok(backups) => backups,
            Err(error) => {
                failures.push(format!("{node}: {error}"));
                continue;
            }
        };
        for entry in backups {
            let wanted =
                args.backup.as_ref().map_or(entry.whole && entry.etcd_snapshot, |name| *name == entry.name);
            if wanted && newest.as_ref().is_none_or(|newest| newest.taken_at_ms < entry.taken_at_ms) {
                newest =
                    Some(Backup { node: node.clone(), name: entry.name, taken_at_ms: entry.taken_at_ms });
            }
        }
    }
    newest.ok_or_else(|| {
        let failures =
            if failures.is_empty() { String::new() } else { format!(" ({})", failures.join("; ")) };
        CliError::NotFound(match &args.backup {
            Some(name) => format!("no control plane that was asked has a backup {name}{failures}"),
            None => format!(
                "no control plane that was asked has a whole backup with a snapshot of etcd{failures}"
            ),
        })
    })
}

async fn rehearse(client: &mut Client, backup: &Backup) -> Result<Snapshot, CliError> {
    let asked = Kind::RehearseSnapshot(RehearseSnapshot { backup: backup.name.clone() });
    let rehearsal = ask(client, &backup.node, asked, |reply| match reply {
        reply::Kind::Rehearsal(rehearsal) => Some(rehearsal),
        _ => None,
    })
    .await?;
    output::note(&format!(
        "{} on {} was verified and its restore rehearsed with {}: revision {}, {} keys.",
        backup.name, backup.node, rehearsal.with, rehearsal.revision, rehearsal.keys
    ));
    Ok(Snapshot {
        node: backup.node.clone(),
        path: rehearsal.path,
        revision: rehearsal.revision,
        taken_at: clock(moment(rehearsal.taken_at_ms)),
    })
}

/// Asks every control plane what its etcd is. One that cannot say is an error: a member that is forgotten keeps the old
/// data.
async fn situation(client: &mut Client) -> Result<Situation, CliError> {
    let nodes = client.list_nodes(ListNodesRequest { ask_anew: false }).await?.into_inner().nodes;
    let control_plane = |entry: &v1::NodeEntry| {
        let reported = entry.facts.as_ref().is_some_and(|facts| facts.control_plane);
        reported || entry.cluster_node.as_ref().is_some_and(|node| node.control_plane)
    };
    let mut situation = Situation { members: Vec::new(), workers: Vec::new(), running: None };
    for entry in nodes {
        let node: NodeName = entry.name.parse().map_err(|_| CliError::OtherVersion)?;
        if !control_plane(&entry) {
            situation.workers.push(node);
            continue;
        }
        let etcd = ask(client, &node, Kind::DescribeEtcd(DescribeEtcd {}), |reply| match reply {
            reply::Kind::Etcd(etcd) => Some(etcd),
            _ => None,
        });
        let etcd = etcd.await?;
        if !etcd.manifest_failure.is_empty() {
            return Err(CliError::Agent(format!("{node}: {}", etcd.manifest_failure)));
        }
        situation.add(node, etcd);
    }
    if situation.members.is_empty() {
        return Err(CliError::NotFound("no control plane is known: see `liftlock nodes`".to_owned()));
    }
    Ok(situation)
}

impl Situation {
    fn add(&mut self, node: NodeName, etcd: v1::EtcdDescription) {
        let v1::EtcdDescription {
            data_dir,
            peer_urls,
            tool,
            image,
            control_plane_version,
            version,
            revision,
            members,
            unreachable,
            ..
        } = etcd;
        let tools = if !tool.is_empty() {
            Tools::Installed(tool)
        } else if !image.is_empty() {
            Tools::Image(image)
        } else {
            Tools::Missing
        };
        let control_plane = control_plane_version.parse().ok();
        self.members.push(Member { node, peer_urls, data_dir, tools, control_plane });
        if !unreachable.is_empty() {
            return;
        }
        let members = members.into_iter().map(|member| RunningMember {
            id: member.id,
            healthy: !member.learner && member.flaw.is_empty(),
            name: member.name,
            peer_urls: member.peer_urls,
        });
        // Each lists all of them; the one that is furthest knows most.
        if self.running.as_ref().is_none_or(|running| running.revision <= revision) {
            self.running = Some(Running { version, revision, members: members.collect() });
        }
    }
}
