//! Agents and coordinator killed at any time: when, and who, follows from a seed. What the processes are doing then does not, so
//! the same seed strikes about the same places, and what always holds is what counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use liftlock_proto::plan::Purpose;
use liftlock_proto::v1::RolloutPhase;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::matrix::chance::Chance;
use crate::matrix::course::Course;
use crate::matrix::voyage::{Ship, is_over};

/// An agent that is killed once more in the same step may take that for the step's fault.
const MOST_OF_AN_AGENT: u32 = 4;
/// The longest time between two kills, and the longest that a process stays away, in milliseconds.
const PAUSE_MS: usize = 2_500;
const AWAY_MS: usize = 1_500;
const KILLS: usize = 8;

/// Roll-outs in which processes were killed at random times.
#[derive(Debug, Serialize)]
pub struct Kills {
    /// Every one ended as it should, and no invariant was violated.
    pub ok: bool,
    /// Roll-outs, each of a seed of its own.
    pub seeds: u64,
    /// The first one's.
    pub first_seed: u64,
    /// How often an agent was killed.
    pub agents: u64,
    /// How often the coordinator was.
    pub coordinators: u64,
    /// How many roll-outs ended raised.
    pub raised: u64,
    /// How many were rolled back, as was ordered.
    pub rolled_back: u64,
    /// How many invariants did not hold.
    pub violations: u64,
    /// From the first roll-out to the last one's end, in seconds.
    pub wall_s: f64,
    /// What went wrong, for people, with how to have it again.
    #[serde(skip)]
    pub findings: Vec<String>,
}

/// What became of one seed.
struct Drift {
    seed: u64,
    purpose: Purpose,
    killed: Killed,
    /// What did not hold; an error where the roll-out did not end as it should.
    judged: Result<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Killed {
    agents: u64,
    coordinators: u64,
}

/// Runs the roll-outs of these seeds, so many at once.
pub(super) async fn run(
    first_seed: u64,
    seeds: u64,
    jobs: usize,
    mut say: impl FnMut(String),
) -> Result<Kills> {
    crate::fleet::binaries::Binaries::find()?;
    let started = Instant::now();
    let places = Arc::new(Semaphore::new(jobs));
    let mut under_way = JoinSet::new();
    for seed in (first_seed..).take(usize::try_from(seeds)?) {
        let places = Arc::clone(&places);
        under_way.spawn(async move {
            let _place = places.acquire_owned().await;
            drift(seed).await
        });
    }
    let mut kills = Kills {
        ok: false,
        seeds: 0,
        first_seed,
        agents: 0,
        coordinators: 0,
        raised: 0,
        rolled_back: 0,
        violations: 0,
        wall_s: 0.0,
        findings: Vec::new(),
    };
    while let Some(drift) = under_way.join_next().await {
        let Drift { seed, purpose, killed, judged } = drift?;
        kills.seeds += 1;
        kills.agents += killed.agents;
        kills.coordinators += killed.coordinators;
        let again = format!("again with --random 1 --seed {seed}");
        let finding = match judged {
            Ok(violations) => {
                kills.violations += u64::try_from(violations.len())?;
                kills.raised += u64::from(purpose == Purpose::Raise);
                kills.rolled_back += u64::from(purpose == Purpose::RollBack);
                (!violations.is_empty()).then(|| format!("seed {seed}, {again}: {}", violations.join("; ")))
            }
            Err(error) => Some(format!("seed {seed}, {again}: {error:#}")),
        };
        let word = if finding.is_some() { "NOT WELL" } else { "ok" };
        say(format!(
            "{:>5.0} s  {}/{seeds}  seed {seed}: {word}, {killed:?}",
            started.elapsed().as_secs_f64(),
            kills.seeds
        ));
        if let Some(finding) = &finding {
            say(finding.clone());
        }
        kills.findings.extend(finding);
    }
    kills.ok = kills.findings.is_empty();
    kills.wall_s = started.elapsed().as_secs_f64();
    Ok(kills)
}

async fn drift(seed: u64) -> Drift {
    let mut chance = Chance::of(seed, ["random".to_owned()]);
    let purpose = if chance.below(3) == 0 { Purpose::RollBack } else { Purpose::Raise };
    let course = Course::without_points(purpose, chance.below(2) == 0, seed);
    let mut killed = Killed::default();
    let judged = sail(&course, &mut chance, &mut killed).await;
    Drift { seed, purpose, killed, judged }
}

async fn sail(course: &Course, chance: &mut Chance, killed: &mut Killed) -> Result<Vec<String>> {
    let mut ship = Ship::launch(course).await?;
    let ended = kill_at_random(&mut ship, course, chance, killed).await;
    let judged = match ended {
        Ok(()) => ship.judge(course, &mut []).await,
        Err(error) => Err(error),
    };
    match judged {
        Ok(violations) if violations.is_empty() => Ok(violations),
        Ok(violations) => Ok(violations.into_iter().chain([ship.fleet.last_words()]).collect()),
        Err(error) => bail!("{error:#}\n{}", ship.fleet.last_words()),
    }
}

/// Begins the roll-out, and kills until it is over or there was enough of it.
async fn kill_at_random(
    ship: &mut Ship,
    course: &Course,
    chance: &mut Chance,
    killed: &mut Killed,
) -> Result<()> {
    ship.apply().await?;
    let raises = course.purpose == Purpose::Raise;
    if !raises {
        ship.stop_before_the_last(course).await?;
        ship.fleet.cli(&["rollback", "--cluster"]).await?.success()?;
    }
    let mut left: Vec<(String, u32)> =
        ship.fleet.nodes().into_iter().map(|node| (node, MOST_OF_AN_AGENT)).collect();
    for _ in 0..=chance.below(KILLS) {
        tokio::time::sleep(time(chance, PAUSE_MS)).await;
        if is_over(&ship.wait_for("an answer", |_| true).await?) {
            break;
        }
        // One of them, or both in the same moment.
        let (agent, coordinator) = match chance.below(4) {
            0 => (false, true),
            1 => (true, true),
            _ => (true, false),
        };
        let place = chance.below(left.len());
        let node = left.get_mut(place).filter(|(_, left)| agent && *left > 0);
        let node = node.map(|(node, left)| {
            *left -= 1;
            node.clone()
        });
        if let Some(node) = &node {
            ship.fleet.kill_agent(node)?;
            killed.agents += 1;
        }
        if coordinator {
            ship.fleet.kill_coordinator()?;
            killed.coordinators += 1;
            tokio::time::sleep(time(chance, AWAY_MS)).await;
            ship.fleet.start_coordinator().await?;
        }
        if let Some(node) = &node {
            tokio::time::sleep(time(chance, AWAY_MS)).await;
            ship.fleet.start_agent(node).await?;
        }
    }
    let rollout = ship.wait_for("the roll-out's end", is_over).await?;
    let wanted = if raises { RolloutPhase::Raised } else { RolloutPhase::RolledBack };
    if rollout.phase() != wanted {
        bail!("it ended {:?}: {}", rollout.phase(), rollout.reason);
    }
    Ok(())
}

fn time(chance: &mut Chance, most_ms: usize) -> Duration {
    Duration::from_millis(u64::try_from(chance.below(most_ms)).unwrap_or_default())
}
