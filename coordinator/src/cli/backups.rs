//! `liftlock backups list|verify|prune NODE`

use clap::{Args, Subcommand};
use liftlock_proto::name::NodeName;
use liftlock_proto::retention::{Age, Retention, Size};
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::{ListBackups, PruneBackups, VerifyBackups, reply};

use crate::cli::Desk;
use crate::cli::ask::ask;
use crate::cli::confirm::{self, confirm};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, OutputArgs, View};
use crate::cli::view::backups::{BackupsView, PrunedView, VerdictsView};

/// Options of `backups`.
#[derive(Debug, Args)]
pub struct BackupsArgs {
    #[command(subcommand)]
    verb: BackupsVerb,
}

#[derive(Debug, Subcommand)]
enum BackupsVerb {
    /// Show the backups of a node, and what kubeadm left beside them.
    List(ListArgs),
    /// Read every file of a node's backups anew and compare it with their indexes.
    Verify(VerifyArgs),
    /// Remove backups of a node; its newest whole one always stays.
    ///
    /// A backup goes where any limit that is given is exceeded; without one, those of the agent's settings count. Refused
    /// while the node holds a lease, and until the roll-out has ended well.
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Whose.
    #[arg(value_name = "NODE")]
    node: NodeName,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Whose.
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// The folder's name, as `liftlock backups list` shows it; otherwise every one.
    #[arg(value_name = "BACKUP")]
    backup: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Whose.
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Keep so many whole ones.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Keep none that was taken longer ago, such as 30d.
    #[arg(long, value_name = "AGE")]
    older_than: Option<Age>,
    /// Keep as many of the newest as fit, such as 5GiB.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,
    /// Remove kubeadm's own folders too, which it never does itself.
    #[arg(long)]
    kubeadm_leftovers: bool,
    /// Only show what would go.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(desk: &Desk, args: BackupsArgs) -> Result<Exit, CliError> {
    match args.verb {
        BackupsVerb::List(args) => list(desk, args).await,
        BackupsVerb::Verify(args) => verify(desk, args).await,
        BackupsVerb::Prune(args) => prune(desk, args).await,
    }
}

async fn list(desk: &Desk, args: ListArgs) -> Result<Exit, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let backups = ask(&mut client, &args.node, Kind::ListBackups(ListBackups {}), |reply| match reply {
        reply::Kind::Backups(backups) => Some(backups),
        _ => None,
    });
    let view = BackupsView::new(&args.node, backups.await?);
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}

async fn verify(desk: &Desk, args: VerifyArgs) -> Result<Exit, CliError> {
    let mut client = desk.whereabouts.connect().await?;
    let asked = Kind::VerifyBackups(VerifyBackups { backup: args.backup.unwrap_or_default() });
    let verdicts = ask(&mut client, &args.node, asked, |reply| match reply {
        reply::Kind::Verdicts(verdicts) => Some(verdicts),
        _ => None,
    });
    let view = VerdictsView::new(&args.node, verdicts.await?);
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(if view.all_whole() { Exit::Done } else { Exit::NotRaised })
}

async fn prune(desk: &Desk, args: PruneArgs) -> Result<Exit, CliError> {
    if !args.yes && !args.dry_run && !confirm::possible() {
        return Err(CliError::Usage(
            "there is no terminal to ask on: look at it with --dry-run, then give --yes".to_owned(),
        ));
    }
    let retention = Retention { keep: args.keep, age: args.older_than, size: args.max_size };
    let mut wanted = PruneBackups {
        retention: (retention != Retention::default()).then(|| retention.into()),
        kubeadm_leftovers: args.kubeadm_leftovers,
        dry_run: true,
    };
    let mut client = desk.whereabouts.connect().await?;
    let mut asked = async |wanted: PruneBackups| {
        let pruned = ask(&mut client, &args.node, Kind::PruneBackups(wanted), |reply| match reply {
            reply::Kind::Pruned(pruned) => Some(pruned),
            _ => None,
        });
        Ok::<_, CliError>(PrunedView::new(&args.node, pruned.await?))
    };
    let mut view = asked(wanted).await?;
    if !args.dry_run && !view.pruned.is_empty() {
        if !args.yes {
            output::note(view.table(desk.error_paint).trim_end());
            confirm(format!("Remove {} for good? [y/N] ", view.count())).await?;
        }
        wanted.dry_run = false;
        view = asked(wanted).await?;
    }
    output::write(&output::render(&view, args.output.output, desk.paint)?)?;
    Ok(Exit::Done)
}
