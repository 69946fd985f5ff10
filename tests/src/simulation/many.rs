//! Very many schedules, and the shortest one that breaks a law.

use std::collections::BTreeMap;
use std::num::ParseFloatError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use liftlock::clock::SystemClock;
use liftlock::identity::authority::Authority;
use serde::Serialize;

use super::laws::{Law, Violation};
use super::run::{Ended, Outcome, run};
use super::sabotage::Sabotage;
use super::schedule::Schedule;

/// Simulates roll-outs under random schedules of misfortunes.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Args {
    /// How many schedules; with --seed and nothing else, that one, with its story.
    #[arg(long)]
    schedules: Option<u64>,
    /// The first schedule's seed; the others follow it.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; as many as there are processors if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Something broken on purpose, which must be caught.
    #[arg(long, value_name = "WHAT")]
    sabotage: Option<Sabotage>,
    /// Say nothing but the last line.
    #[arg(long)]
    json: bool,
}

/// How many schedules there are if nobody says.
const SCHEDULES: u64 = 100_000;

/// What came of them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many ran.
    pub schedules: u64,
    /// Messages that arrived and moments that came.
    pub events: u64,
    /// Misfortunes that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// In which a plan was applied.
    pub applied: u64,
    /// Came to rest with every node at the target.
    pub raised: u64,
    /// Came to rest with every node as it was.
    pub rolled_back: u64,
    /// Ended by an operator's abort.
    pub aborted: u64,
    /// Came to rest with a question, which an operator then answered.
    pub asks: u64,
    /// Schedules that broke a law.
    pub violations: u64,
    /// Seconds.
    pub wall_s: f64,
    /// The first that broke one.
    #[serde(skip)]
    pub broken: Option<(Schedule, Violation)>,
}

impl Report {
    /// How long a schedule took on the clock, and how much happened and went wrong in it, on average.
    fn of_each(&self) -> Result<(Duration, f64, f64)> {
        let schedules: f64 = self.schedules.max(1).to_string().parse()?;
        let each = |count: u64| Ok::<_, ParseFloatError>(count.to_string().parse::<f64>()? / schedules);
        let time = Duration::from_secs_f64(self.wall_s / schedules);
        Ok((time, each(self.events)?, each(self.faults.values().sum())?))
    }

    fn add(&mut self, ended: &Ended) {
        self.schedules += 1;
        self.events += ended.events;
        self.applied += u64::from(ended.applied);
        for (kind, count) in &ended.struck {
            *self.faults.entry(kind).or_default() += count;
        }
        match ended.end {
            Some(Outcome::Raised) => self.raised += 1,
            Some(Outcome::RolledBack) => self.rolled_back += 1,
            Some(Outcome::Aborted) => self.aborted += 1,
            Some(Outcome::Asks) => self.asks += 1,
            None => {}
        }
        self.violations += u64::from(ended.violation.is_some());
    }
}

/// A CA for coordinators that sign nothing.
pub fn authority() -> Result<Arc<Authority>> {
    let folder = tempfile::tempdir().context("a folder for the CA")?;
    Ok(Arc::new(Authority::open(folder.path(), &SystemClock)?))
}

/// One schedule; a panic is a broken law too.
fn run_one(
    schedule: &Schedule,
    sabotage: Option<Sabotage>,
    authority: &Arc<Authority>,
    tells: bool,
) -> Ended {
    let ended = catch_unwind(AssertUnwindSafe(|| run(schedule, sabotage, authority, tells)));
    ended.unwrap_or_else(|_| Ended {
        violation: Some(Violation { law: Law::NoPanic, seen: "it panicked, see above".to_owned() }),
        ..Ended::default()
    })
}

/// Runs the schedules of these seeds, and stops at the first that breaks a law where there is one.
pub fn simulate(
    first_seed: u64,
    schedules: u64,
    jobs: usize,
    sabotage: Option<Sabotage>,
    authority: &Arc<Authority>,
) -> Report {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let broken = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    let work = || {
        let mut own = Report::default();
        while !broken.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= schedules {
                break;
            }
            let schedule = Schedule::of(first_seed.wrapping_add(number));
            let ended = run_one(&schedule, sabotage, authority, false);
            own.add(&ended);
            if let Some(violation) = ended.violation {
                broken.store(true, Ordering::Relaxed);
                own.broken = Some((schedule, violation));
            }
        }
        let mut all = report.lock().unwrap_or_else(PoisonError::into_inner);
        all.schedules += own.schedules;
        all.events += own.events;
        all.applied += own.applied;
        all.raised += own.raised;
        all.rolled_back += own.rolled_back;
        all.aborted += own.aborted;
        all.asks += own.asks;
        all.violations += own.violations;
        for (kind, count) in own.faults {
            *all.faults.entry(kind).or_default() += count;
        }
        all.broken = all.broken.take().or(own.broken);
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.wall_s = began.elapsed().as_secs_f64();
    report
}

/// The same schedule without the misfortunes that the violation does not need.
pub fn shortest(
    schedule: &Schedule,
    law: Law,
    sabotage: Option<Sabotage>,
    authority: &Arc<Authority>,
) -> Schedule {
    let mut shortest = schedule.clone();
    loop {
        let mut shorter = (0..shortest.misfortunes.len()).map(|index| shortest.without(index));
        let still = shorter.find(|less| {
            run_one(less, sabotage, authority, false).violation.is_some_and(|seen| seen.law == law)
        });
        match still {
            Some(less) => shortest = less,
            None => return shortest,
        }
    }
}

/// `simulate`
#[expect(clippy::print_stdout, reason = "it is what the program is for")]
pub fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let authority = authority()?;
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (first, schedules) = match (args.seed, args.schedules) {
        (Some(seed), None) => (seed, 1),
        (seed, schedules) => (seed.unwrap_or(1), schedules.unwrap_or(SCHEDULES)),
    };
    let report = simulate(first, schedules, jobs, args.sabotage, &authority);
    if let Some((schedule, violation)) = &report.broken {
        println!("{violation}\nwith {schedule}");
        let shortest = shortest(schedule, violation.law, args.sabotage, &authority);
        println!("The shortest that breaks the same law: {shortest}");
        for line in run_one(&shortest, args.sabotage, &authority, true).story {
            println!("{line}");
        }
    } else if schedules == 1 && !args.json {
        let schedule = Schedule::of(first);
        println!("{schedule}");
        for line in run_one(&schedule, args.sabotage, &authority, true).story {
            println!("{line}");
        }
    } else if !args.json {
        let (each, events, faults) = report.of_each()?;
        let schedules = report.schedules;
        println!(
            "{schedules} schedules on {jobs} threads, each {each:?}, {events:.0} events, {faults:.2} faults"
        );
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(if report.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
