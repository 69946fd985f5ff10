//! The crash matrix: every journal boundary of every step, forward and in rollback, times every fault, with the real
//! coordinator and agents on stand-in nodes. See `cargo run -p liftlock-tests --bin crash-matrix -- --help`.

mod chance;
mod course;
mod invariants;
mod points;
mod random;
mod report;
mod voyage;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use liftlock_proto::plan::Purpose;
use liftlock_proto::version::KubernetesVersion;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::matrix::course::Course;
pub use crate::matrix::random::Kills;
pub use crate::matrix::report::Report;
use crate::matrix::voyage::{Voyage, sail};

/// Where the clusters come from, and where they go.
const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);
const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

/// Strikes the real coordinator and agents, on stand-in nodes, at every place where a crash could matter, and looks
/// whether the roll-out ends raised or rolled back with nobody's help and every invariant holds.
///
/// A point is a lease (the node's role; raise or rollback), a place in it and a fault:
/// worker/raise/install-kubelet/started/kill-agent. A place is a record of the agent's journal, at which the agent is
/// stopped dead right after the record is durable, or a place inside a program that the step runs. A point that is not
/// reached is a failure. As any user, without root, without a network; leaves nothing behind.
#[derive(Debug, Clone, Parser)]
#[command(name = "crash-matrix")]
pub struct Options {
    /// Print one JSON object on standard output as the last line, instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Only points whose name contains one of these, separated by commas; a whole name means that point alone.
    #[arg(long, value_name = "FILTER", value_delimiter = ',')]
    pub points: Vec<String>,
    /// Only so many of the points, drawn by the seed: whole roll-outs, forward and back in turn.
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// Draws the sample, spreads the points over roll-outs, and chooses what is left to chance in each.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the points' names and strike none.
    #[arg(long)]
    pub list: bool,
    /// How many roll-outs at once [default: five for each processor; most of the time they wait].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// How many points at most in one lease, each at another step; 1 to have every fault alone.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub per_lease: u8,
    /// No points, but so many roll-outs in which agents and coordinator are killed at times that follow from a seed: --seed for
    /// the first one, and those after it.
    #[arg(long, value_name = "N", conflicts_with_all = ["points", "sample", "list", "per_lease"])]
    pub random: Option<u64>,
}

/// Runs it as a program.
pub async fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seeds) = options.random {
        return kill_at_random(&options, seeds).await;
    }
    let courses = match plot(&options) {
        Ok(courses) => courses,
        Err(error) => {
            say(&format_args!("error: {error:#}"));
            return ExitCode::from(2);
        }
    };
    if options.list {
        let mut points: Vec<_> = courses.iter().flat_map(|course| &course.points).collect();
        points.sort_by_key(|point| {
            (point.purpose == Purpose::RollBack, point.role, point.position, point.blow)
        });
        for point in points {
            print(&point.to_string());
        }
        return ExitCode::SUCCESS;
    }
    // Whatever ends it, the fleets are dropped, and with them every process and folder.
    let report = tokio::select! {
        report = run(&options, true) => report,
        _ = tokio::signal::ctrl_c() => {
            say(&"interrupted: everything was stopped and removed");
            return ExitCode::from(130);
        }
    };
    match report {
        Ok(report) => {
            if options.json {
                print(&serde_json::to_string(&report).unwrap_or_default());
            } else {
                print(&report.table());
            }
            if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Kills agents and coordinator at random times, in so many roll-outs.
pub async fn random(options: &Options, seeds: u64, progress: bool) -> Result<Kills> {
    let tell = |line: String| {
        if progress {
            say(&line);
        }
    };
    random::run(options.seed, seeds, jobs(options), tell).await
}

async fn kill_at_random(options: &Options, seeds: u64) -> ExitCode {
    let kills = tokio::select! {
        kills = random(options, seeds, true) => kills,
        _ = tokio::signal::ctrl_c() => {
            say(&"interrupted: everything was stopped and removed");
            return ExitCode::from(130);
        }
    };
    match kills {
        Ok(kills) => {
            print(&serde_json::to_string(&kills).unwrap_or_default());
            if kills.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn jobs(options: &Options) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    options.jobs.map_or(5 * processors, usize::from)
}

/// Strikes the points that the options name.
pub async fn run(options: &Options, progress: bool) -> Result<Report> {
    // Built before the clock starts, and not by several at once.
    crate::fleet::binaries::Binaries::find()?;
    let started = Instant::now();
    let courses = plot(options)?;
    let (total, points) = (courses.len(), courses.iter().map(|course| course.points.len()).sum::<usize>());
    let jobs = jobs(options);
    if progress {
        say(&format_args!("{points} points over {total} roll-outs, {jobs} at once, seed {}", options.seed));
    }
    let places = Arc::new(Semaphore::new(jobs));
    let mut under_way = JoinSet::new();
    for course in courses {
        let places = Arc::clone(&places);
        under_way.spawn(async move {
            let _place = places.acquire_owned().await;
            sail(course).await
        });
    }
    let mut voyages: Vec<Voyage> = Vec::new();
    while let Some(voyage) = under_way.join_next().await {
        let voyage = voyage?;
        if progress {
            say(&line_of(&voyage, voyages.len() + 1, total, started.elapsed()));
            if let Some(finding) = report::finding(&voyage) {
                say(&finding);
            }
        }
        voyages.push(voyage);
    }
    voyages.sort_by_key(|voyage| voyage.course.number);
    Ok(Report::of(&voyages, options.seed, started.elapsed()))
}

/// The courses of the points that the options name.
fn plot(options: &Options) -> Result<Vec<Course>> {
    let chosen = points::choose(&points::all(), &options.points);
    if chosen.is_empty() {
        bail!("no point is called anything like {}: see --list", options.points.join(" or "));
    }
    let courses = course::plot(&chosen, usize::from(options.per_lease), options.seed);
    Ok(match options.sample {
        Some(sample) => course::draw(courses, sample, options.seed),
        None => courses,
    })
}

fn line_of(voyage: &Voyage, done: usize, total: usize, elapsed: Duration) -> String {
    let names: Vec<String> = voyage.met.iter().map(|met| met.point.to_string()).collect();
    let reached = voyage.met.iter().filter(|met| met.fault_ended_ms.is_some()).count();
    let end = match (voyage.converged, voyage.violations.len()) {
        (false, _) => "DID NOT CONVERGE",
        (true, 0) if reached == names.len() => "ok",
        (true, 0) => "NOT REACHED",
        (true, _) => "VIOLATION",
    };
    format!(
        "{:>5.0} s  {done}/{total}  {end}, {:.1} s: {}",
        elapsed.as_secs_f64(),
        voyage.wall.as_secs_f64(),
        names.join(" ")
    )
}

fn say(words: &dyn std::fmt::Display) {
    use std::io::Write as _;
    _ = writeln!(std::io::stderr(), "{words}");
}

fn print(words: &str) {
    use std::io::Write as _;
    _ = writeln!(std::io::stdout(), "{words}");
}
