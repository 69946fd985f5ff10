//! What an operator wants of the simulated cluster: a raise by one minor and little said, workers in pools with all that may hold
//! them back, a path of two stops, or one machine in the place of another.

use std::collections::BTreeMap;
use std::time::Duration;

use liftlock::core::conduct::Conduct;
use liftlock_proto::blocked::OnBlocked;
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{OnFailure, Policy, Replacement};
use liftlock_proto::version::KubernetesVersion;
use liftlock_proto::workers::{Canary, Pool, Share, Workers};

use super::dice::Dice;
use super::schedule::Schedule;

/// What every node runs at first.
pub(super) const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);
/// The next minor.
pub(super) const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);
/// The one after it.
pub(super) const BEYOND: KubernetesVersion = KubernetesVersion::new(1, 32, 1);

/// The machine that is in no cluster yet.
pub(super) const NEW: &str = "n1";

/// The label by which pools select.
pub(super) const POOL_LABEL: &str = "pool";

/// The pool of workers that no other selects, as plans call it.
const OTHERS: &str = "others";

/// Half of the day is inside: the first ninety minutes of every three hours.
const WINDOW: Duration = Duration::from_mins(90);
const WINDOWS_EVERY: Duration = Duration::from_hours(3);

/// By so much the windows of a broken build are too long.
const TOO_LONG: Duration = Duration::from_mins(29);

/// A lease of which nobody knows how long it takes is begun on only where half an hour is left of the window.
const UNKNOWN_LEASE: Duration = Duration::from_mins(30);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Every node at the next minor.
    Raise,
    /// The same, workers by pools.
    Pools(Pools),
    /// Two minors further, stop by stop.
    Path {
        /// Workers are raised at the last stop alone.
        workers_skip_stops: bool,
    },
    /// One machine in the place of another.
    Replacement {
        /// Which leaves.
        old: String,
        /// Its machine is off for good.
        dead: bool,
    },
}

/// Workers in pools, and what holds them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    /// In the order in which they are raised. The last one is that of all workers that no other selects.
    pub pools: Vec<PoolTerms>,
    /// Where each worker stands, `w1` first.
    pub workers: Vec<Standing>,
    /// How many workers may fail.
    pub failure_budget: u32,
    /// A worker that cannot be drained.
    pub blocked: Option<Blocked>,
    /// Nodes are begun on only inside of [`inside`].
    pub windows: bool,
}

/// What a pool's workers are raised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTerms {
    /// What people call it.
    pub name: String,
    /// How many may be away at once.
    pub max_unavailable: Share,
    /// What goes first.
    pub canary: Option<Canary>,
    /// The roll-out waits for an operator after it.
    pub pause_after: bool,
}

/// Where a worker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The position of its pool.
    pub pool: usize,
    /// Its zone, if it is in one.
    pub zone: Option<&'static str>,
}

/// A budget that lets nobody go from one worker, until an operator takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Which worker.
    pub node: String,
    /// What the plan says of blocked drains.
    pub policy: OnBlocked,
    /// What the Node's annotation says instead.
    pub annotation: Option<OnBlocked>,
}

/// Whether a moment, in milliseconds since the Unix epoch, is inside of every window there is.
pub(super) fn inside(unix_ms: u64) -> bool {
    let every = u64::try_from(WINDOWS_EVERY.as_millis()).unwrap_or(u64::MAX);
    u128::from(unix_ms % every) < WINDOW.as_millis()
}

/// Whether a lease of which nobody knows how long it takes may begin at such a moment.
pub(super) fn ends_inside(unix_ms: u64) -> bool {
    let lasts = u64::try_from(UNKNOWN_LEASE.as_millis()).unwrap_or(u64::MAX);
    inside(unix_ms) && inside(unix_ms.saturating_add(lasts))
}

impl Wanted {
    /// What a seed wants beside `raise`, which a seed was before there was anything else, and its cluster.
    pub(super) fn draw(raise: Schedule) -> Schedule {
        let dice = &mut Dice::apart(raise.seed, 7);
        match dice.within(0..100) {
            0..=59 => raise,
            60..=79 => pools(raise, dice),
            80..=87 => {
                let (workers, workers_skip_stops) = (usize::from(dice.percent(80)), dice.percent(50));
                let wanted = Self::Path { workers_skip_stops };
                Schedule { control_planes: 1, workers, wanted, cordoned: None, ..raise }
            }
            _ => replacement(raise, dice),
        }
    }

    /// Which versions the nodes' package repositories have beside what they run.
    pub(super) fn offered(&self) -> Vec<KubernetesVersion> {
        match self {
            Self::Path { .. } => vec![BEYOND],
            Self::Raise | Self::Pools(_) | Self::Replacement { .. } => Vec::new(),
        }
    }

    /// What is applied.
    pub(super) fn target(&self) -> KubernetesVersion {
        match self {
            Self::Raise | Self::Pools(_) => TO,
            Self::Path { .. } => BEYOND,
            Self::Replacement { .. } => FROM,
        }
    }

    /// The pools, where there are any.
    pub(super) fn pools(&self) -> Option<&Pools> {
        match self {
            Self::Pools(pools) => Some(pools),
            _ => None,
        }
    }

    /// The machine that is in no cluster, if there is one.
    pub(super) fn joins(&self) -> Option<&'static str> {
        matches!(self, Self::Replacement { .. }).then_some(NEW)
    }

    /// The node whose machine is off for good.
    pub(super) fn dead(&self) -> Option<&str> {
        match self {
            Self::Replacement { old, dead: true } => Some(old),
            _ => None,
        }
    }

    /// Whether somebody has to speak for it to end well though nothing goes wrong.
    pub(super) fn asks(&self) -> bool {
        self.pools().is_some_and(|pools| pools.blocked.is_some())
    }
}

fn pools(raise: Schedule, dice: &mut Dice) -> Schedule {
    let workers = usize::try_from(dice.within(3..6)).unwrap_or(3);
    let named = usize::try_from(dice.within(1..3)).unwrap_or(1);
    let share = |dice: &mut Dice| {
        let nodes = u32::try_from(dice.within(1..4)).unwrap_or(1);
        if dice.percent(70) { Share::Nodes(nodes) } else { Share::Percent(50) }
    };
    let terms = |dice: &mut Dice, position: usize| {
        let canary = dice.percent(40).then(|| Canary {
            nodes: u32::try_from(dice.within(1..3)).unwrap_or(1),
            soak_seconds: u32::try_from(dice.within(5..180)).unwrap_or(5),
        });
        let name = ["a", "b"].get(position).filter(|_| position < named).copied().unwrap_or(OTHERS);
        let pause_after = name != OTHERS && dice.percent(30);
        PoolTerms { name: name.to_owned(), max_unavailable: share(dice), canary, pause_after }
    };
    let pools = (0..=named).map(|position| terms(dice, position)).collect();
    let zones = dice.percent(50);
    let standing = |dice: &mut Dice| Standing {
        pool: usize::try_from(dice.within(0..u64::try_from(named + 1).unwrap_or(1))).unwrap_or_default(),
        zone: if zones { dice.one(&[None, Some("east"), Some("west")]).copied().flatten() } else { None },
    };
    let mut standings: Vec<Standing> = (0..workers).map(|_| standing(dice)).collect();
    leave_no_pool_empty(&mut standings, named);
    let words = OnBlocked::ALL;
    let word = |dice: &mut Dice| dice.one(&words).copied().unwrap_or_default();
    let blocked = dice.percent(40).then(|| Blocked {
        node: format!("w{}", dice.within(1..u64::try_from(workers + 1).unwrap_or(2))),
        policy: word(dice),
        annotation: dice.percent(30).then(|| word(dice)),
    });
    let failure_budget = u32::try_from(dice.within(0..3)).unwrap_or_default();
    let windows = dice.percent(20);
    let wanted = Wanted::Pools(Pools { pools, workers: standings, failure_budget, blocked, windows });
    // What is put back by policy goes with no failure that is borne.
    let on_failure = if failure_budget > 0 { OnFailure::Halt } else { raise.on_failure };
    let cordoned = raise.cordoned.filter(|node| node.starts_with("cp"));
    Schedule { control_planes: 1, workers, wanted, on_failure, cordoned, max_unavailable: 1, ..raise }
}

/// A pool that selects nobody is refused.
fn leave_no_pool_empty(standings: &mut [Standing], named: usize) {
    let standing_in = |standings: &[Standing], pool| standings.iter().filter(|one| one.pool == pool).count();
    for pool in 0..named {
        let crowded = standings.iter().position(|one| standing_in(standings, one.pool) > 1);
        if standing_in(standings, pool) == 0
            && let Some(one) = crowded.and_then(|position| standings.get_mut(position))
        {
            one.pool = pool;
        }
    }
}

fn replacement(raise: Schedule, dice: &mut Dice) -> Schedule {
    let control_plane = dice.percent(60);
    let (control_planes, workers) = if control_plane { (3, 1) } else { (1, 2) };
    let old = if control_plane { format!("cp{}", dice.within(1..4)) } else { "w1".to_owned() };
    let wanted = Wanted::Replacement { old, dead: dice.percent(40) };
    let cordoned = None;
    Schedule {
        control_planes,
        workers,
        wanted,
        cordoned,
        on_failure: OnFailure::Halt,
        max_unavailable: 1,
        ..raise
    }
}

impl Schedule {
    /// What the operator decides beforehand.
    pub(super) fn policy(&self) -> Policy {
        let accepted = ["api-outage", "drain-only-node"].map(str::to_owned).to_vec();
        let (on_failure, redeploy) = (self.on_failure, self.around.redeploy);
        let policy = Policy { accepted, on_failure, redeploy, ..Policy::default() };
        match &self.wanted {
            Wanted::Raise => {
                let side_by_side = Some(self.max_unavailable).filter(|nodes| *nodes > 1);
                let max_unavailable = side_by_side.map(Share::Nodes);
                Policy { workers: Workers { max_unavailable, ..Workers::default() }, ..policy }
            }
            Wanted::Pools(pools) => Policy {
                workers: pools.workers(),
                drain_timeout_seconds: 60,
                on_blocked: pools.blocked.as_ref().map(|blocked| blocked.policy).unwrap_or_default(),
                ..policy
            },
            Wanted::Path { workers_skip_stops } => {
                Policy { workers_skip_stops: *workers_skip_stops, ..policy }
            }
            Wanted::Replacement { old, dead } => {
                let name = |name: &str| name.parse::<NodeName>().ok();
                let replacement = name(old).zip(name(NEW)).map(|(old, with)| Replacement { old, with });
                let mut accepted = policy.accepted;
                accepted.extend(dead.then(|| "node-is-gone".to_owned()));
                Policy { accepted, replacement, ..policy }
            }
        }
    }

    /// When nodes may be begun on.
    pub(super) fn conduct(&self) -> Conduct {
        let windows = self.wanted.pools().is_some_and(|pools| pools.windows);
        let conduct = if windows { inside_of_windows(WINDOW) } else { Conduct::default() };
        Conduct { hooks: self.around.hooks(), ..conduct }
    }

    /// When they may once the operator has said so: inside of windows.
    pub(super) fn edited_conduct(&self) -> Conduct {
        Conduct { hooks: self.around.hooks(), ..inside_of_windows(WINDOW) }
    }

    /// A build whose windows end too late.
    pub(super) fn conduct_of_long_windows(&self) -> Conduct {
        Conduct { hooks: self.around.hooks(), ..inside_of_windows(WINDOW + TOO_LONG) }
    }
}

/// A conduct of windows that are so long.
fn inside_of_windows(long: Duration) -> Conduct {
    let minutes = long.as_secs() / 60;
    let hours = (0_u64..24).step_by(3);
    let windows: Vec<serde_json::Value> = hours
        .map(|hour| {
            serde_json::json!({
                "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
                "from": format!("{hour:02}:00"),
                "to": format!("{:02}:{:02}", hour + minutes / 60, minutes % 60),
                "timeZone": "UTC",
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({ "windows": windows })).unwrap_or_default()
}

impl Pools {
    fn workers(&self) -> Workers {
        let (others, named) = match self.pools.split_last() {
            Some((others, named)) => (Some(others), named),
            None => (None, self.pools.as_slice()),
        };
        let none = Canary { nodes: 0, soak_seconds: 0 };
        let pool = |terms: &PoolTerms| Pool {
            name: terms.name.clone(),
            selector: format!("{POOL_LABEL}={}", terms.name),
            max_unavailable: Some(terms.max_unavailable),
            canary: Some(terms.canary.unwrap_or(none)),
            pause_after: terms.pause_after,
            on_blocked: None,
        };
        Workers {
            max_unavailable: others.map(|others| others.max_unavailable),
            failure_budget: self.failure_budget,
            canary: others.and_then(|others| others.canary),
            pools: named.iter().map(pool).collect(),
            ..Workers::default()
        }
    }

    /// The labels of a worker by its position.
    pub(super) fn labels(&self, worker: usize) -> BTreeMap<String, String> {
        let pool = self.workers.get(worker).and_then(|standing| self.pools.get(standing.pool));
        let label = pool.filter(|pool| pool.name != OTHERS).map(|pool| pool.name.clone());
        label.map(|pool| (POOL_LABEL.to_owned(), pool)).into_iter().collect()
    }
}
