//! What befalls one simulated roll-out, and when: drawn from a seed, and made shorter where it ends badly.

use std::fmt;
use std::time::Duration;

use liftlock_proto::plan::OnFailure;

use super::dice::Dice;
use super::surroundings::Surroundings;
use super::workload::Wanted;

/// One roll-out and everything that befalls it.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Everything else follows from it, as does every delay of the network.
    pub seed: u64,
    /// `cp1`, `cp2`, …
    pub control_planes: usize,
    /// `w1`, `w2`, …
    pub workers: usize,
    /// A node that an operator had cordoned before.
    pub cordoned: Option<String>,
    /// What is wanted of them.
    pub wanted: Wanted,
    /// What is around.
    pub around: Surroundings,
    /// The plan's policy.
    pub on_failure: OnFailure,
    /// How many workers may be away at once.
    pub max_unavailable: u32,
    /// What goes wrong.
    pub misfortunes: Vec<Misfortune>,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfortune {
    /// A node's agent, or the whole machine, ends and comes back.
    Ends {
        /// Which node.
        node: String,
        /// In the middle of what.
        at: Moment,
        /// What ends.
        what: End,
        /// How long it stays away.
        away: Duration,
    },
    /// A change on a node fails once, as on a full disk.
    ChangeFails {
        /// Which node.
        node: String,
        /// Which of its changes, counted from 1.
        nth: u64,
    },
    /// A child is killed.
    ChildDies {
        /// Which node.
        node: String,
        /// Before which change that children make, counted from 1.
        nth: u64,
    },
    /// The disk under the agent's journal takes nothing for a while.
    DiskFull {
        /// Which node.
        node: String,
        /// Since the beginning.
        at: Duration,
        /// For how long.
        lasts: Duration,
    },
    /// SIGSTOP, and SIGCONT later.
    Stopped {
        /// Which node.
        node: String,
        /// Since the beginning.
        at: Duration,
        /// For how long.
        lasts: Duration,
    },
    /// Nothing arrives.
    Partition {
        /// Which node.
        node: String,
        /// From where to where.
        way: Way,
        /// Since the beginning.
        at: Duration,
        /// For how long.
        lasts: Duration,
    },
    /// A connection breaks.
    Reset {
        /// Which node.
        node: String,
        /// Since the beginning.
        at: Duration,
    },
    /// The coordinator ends and comes back.
    CoordinatorEnds {
        /// In the middle of what.
        at: Commit,
        /// How long it stays away.
        away: Duration,
    },
    /// The coordinator is put back from a copy of its store.
    CoordinatorRestored {
        /// The copy is as of this commit.
        copy: u64,
        /// Since the beginning.
        at: Duration,
        /// How long it stays away.
        away: Duration,
    },
    /// The store takes no more from this commit on, until somebody makes room and starts the coordinator anew.
    StoreFull {
        /// Counted from 1.
        commit: u64,
        /// For how long.
        lasts: Duration,
    },
    /// Somebody sets a node's time of day, or the coordinator's.
    ClockSet {
        /// Which node; `None`: the coordinator's machine.
        node: Option<String>,
        /// Since the beginning.
        at: Duration,
        /// By how many milliseconds it is ahead from then on.
        by_ms: i64,
    },
    /// The cluster's API answers nobody.
    ApiAway {
        /// Since the beginning.
        at: Duration,
        /// For how long.
        lasts: Duration,
    },
    /// An operator speaks.
    Order {
        /// Since the beginning.
        at: Duration,
        /// What.
        verb: Verb,
    },
}

/// In the middle of what something ends on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// Before a change, counted from 1.
    Change(u64),
    /// At an append to a journal, counted from 1.
    Append(u64, Arrives),
    /// Where the agent waits for something, counted from 1.
    Await(u64),
    /// Since the beginning.
    At(Duration),
}

/// What of an append reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrives {
    /// Nothing.
    Nothing,
    /// A part.
    Half,
    /// All of it, though nobody learns of it.
    All,
}

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent. Children stand still until it is back.
    Agent,
    /// The agent. Children come to their end meanwhile.
    AgentOnly,
    /// The machine.
    Power,
    /// The machine, and a manifest that was moved a moment ago is gone with it.
    PowerAndManifest,
    /// The machine, and a manifest that was moved a moment ago is empty.
    PowerEmptiesManifest,
}

/// Where nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In neither direction.
    Both,
    /// At the coordinator.
    Up,
    /// At the agent.
    Down,
}

/// When a coordinator ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Before a commit, counted from 1.
    Before(u64),
    /// After a commit and before anybody learns of it.
    After(u64),
    /// Since the beginning.
    At(Duration),
}

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// `liftlock pause`
    Pause,
    /// `liftlock resume`
    Resume,
    /// `liftlock abort`
    Abort,
    /// `liftlock retry NODE`
    Retry(String),
    /// `liftlock rollback --node NODE`
    RollBackNode(String),
    /// `liftlock rollback --cluster`
    RollBackCluster,
    /// `liftlock edit`: from now on only inside of windows.
    Edit,
}

/// How long a roll-out over the twin takes for each node, and before the first, in milliseconds.
const NODE_SPAN: u64 = 35_000;
const START_SPAN: u64 = 5_000;

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let raise = Self::of_a_raise(seed);
        let schedule = Wanted::draw(raise);
        let schedule = if schedule.wanted == Wanted::Raise { schedule } else { schedule.struck_anew() };
        Surroundings::draw(schedule)
    }

    /// The same cluster and wish under misfortunes that are drawn for it.
    fn struck_anew(mut self) -> Self {
        let mut dice = Dice::apart(self.seed, 8);
        let mut nodes = self.nodes();
        nodes.retain(|node| self.wanted.dead() != Some(node));
        let count = dice.within(0..5);
        self.misfortunes = (0..count).map(|_| misfortune(&mut dice, &nodes)).collect();
        self
    }

    /// The schedule of a seed where every node is raised by a minor, as the policy has it that says least.
    fn of_a_raise(seed: u64) -> Self {
        let mut dice = Dice::apart(seed, 1);
        let (control_planes, workers) = match dice.within(0..10) {
            0 | 1 => (1, 0),
            2..=6 => (1, 1),
            7 => (1, 2),
            8 => (2, 0),
            _ => (3, 0),
        };
        let on_failure = match dice.within(0..10) {
            0 => OnFailure::RollBackNode,
            1 | 2 => OnFailure::RollBackCluster,
            _ => OnFailure::Halt,
        };
        // Dice of their own: what a seed was before there were budgets it still is where there is one worker.
        let side_by_side = workers > 1 && Dice::apart(seed, 5).percent(60);
        let mut schedule = Self {
            seed,
            control_planes,
            workers,
            cordoned: None,
            wanted: Wanted::Raise,
            around: Surroundings::default(),
            on_failure,
            max_unavailable: if side_by_side { 2 } else { 1 },
            misfortunes: Vec::new(),
        };
        let nodes = schedule.nodes();
        if dice.percent(25) {
            schedule.cordoned = dice.one(&nodes).cloned();
        }
        let count = dice.within(1..6);
        for _ in 0..count {
            schedule.misfortunes.push(misfortune(&mut dice, &nodes));
        }
        if dice.percent(5) {
            schedule.misfortunes.extend(restored_in_a_pause(&mut dice));
        }
        schedule
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        let control_planes = (1..=self.control_planes).map(|number| format!("cp{number}"));
        let workers = (1..=self.workers).map(|number| format!("w{number}"));
        control_planes.chain(workers).chain(self.wanted.joins().map(str::to_owned)).collect()
    }

    /// Whether all of this must end with the cluster raised and nobody asked: processes, machines and networks that
    /// end and come back.
    pub fn needs_nobody(&self) -> bool {
        let children =
            self.misfortunes.iter().filter(|one| matches!(one, Misfortune::ChildDies { .. })).count();
        // Whether the command had changed anything nobody knows.
        let power = |one: &Misfortune| matches!(one, Misfortune::Ends { what, .. } if what.cuts_power());
        let unclear = self.around.redeploy && self.misfortunes.iter().any(power);
        !self.wanted.asks()
            && !unclear
            && children <= 1
            && self.misfortunes.iter().all(Misfortune::needs_nobody)
    }

    /// Whether the plan has to be applied in the end: whatever is away comes back. What is put back from an old copy may have
    /// forgotten a roll-out that has begun, and plan no other.
    pub fn must_be_applied(&self) -> bool {
        !self.misfortunes.iter().any(|one| matches!(one, Misfortune::CoordinatorRestored { .. }))
    }

    /// The same without one of its misfortunes.
    #[must_use]
    pub fn without(&self, index: usize) -> Self {
        let mut less = self.clone();
        if index < less.misfortunes.len() {
            less.misfortunes.remove(index);
        }
        less
    }
}

/// An old copy is put back while nobody is under lease. In the middle of a lease its journal tells of it; here only what
/// the nodes remember of tokens does.
fn restored_in_a_pause(dice: &mut Dice) -> [Misfortune; 2] {
    let paused = dice.time(START_SPAN..START_SPAN + NODE_SPAN);
    let restored = paused + dice.time(NODE_SPAN..3 * NODE_SPAN);
    let (copy, away) = (dice.within(3..30), dice.time(200..60_000));
    [
        Misfortune::Order { at: paused, verb: Verb::Pause },
        Misfortune::CoordinatorRestored { copy, at: restored, away },
    ]
}

fn misfortune(dice: &mut Dice, nodes: &[String]) -> Misfortune {
    let node = dice.one(nodes).cloned().unwrap_or_default();
    let span = START_SPAN + NODE_SPAN * u64::try_from(nodes.len()).unwrap_or(1);
    let at = dice.time(0..span);
    match dice.within(0..100) {
        0..=29 => {
            let moment = match dice.within(0..10) {
                0..=4 => Moment::Change(dice.within(1..110)),
                5..=6 => {
                    let arrives = [Arrives::Nothing, Arrives::Half, Arrives::All];
                    Moment::Append(dice.within(1..26), *dice.one(&arrives).unwrap_or(&Arrives::Half))
                }
                7..=8 => Moment::Await(dice.within(1..400)),
                _ => Moment::At(at),
            };
            let ends =
                [End::Agent, End::AgentOnly, End::Power, End::PowerAndManifest, End::PowerEmptiesManifest];
            let what = *dice.one(&ends).unwrap_or(&End::Agent);
            let away = match what {
                End::Agent | End::AgentOnly => dice.time(200..40_000),
                _ => dice.time(10_000..90_000),
            };
            Misfortune::Ends { node, at: moment, what, away }
        }
        30..=34 => Misfortune::ChangeFails { node, nth: dice.within(1..110) },
        35..=42 => Misfortune::ChildDies { node, nth: dice.within(1..50) },
        43..=45 => Misfortune::DiskFull { node, at, lasts: dice.time(1_000..60_000) },
        46..=52 => Misfortune::Stopped { node, at, lasts: dice.time(500..90_000) },
        53..=62 => {
            let way = *dice.one(&[Way::Both, Way::Up, Way::Down]).unwrap_or(&Way::Both);
            Misfortune::Partition { node, way, at, lasts: dice.time(500..90_000) }
        }
        63..=66 => Misfortune::Reset { node, at },
        67..=78 => {
            let at = match dice.within(0..5) {
                0 | 1 => Commit::Before(dice.within(1..90)),
                2 | 3 => Commit::After(dice.within(1..90)),
                _ => Commit::At(at),
            };
            Misfortune::CoordinatorEnds { at, away: dice.time(200..60_000) }
        }
        79..=82 => {
            Misfortune::CoordinatorRestored { copy: dice.within(3..80), at, away: dice.time(200..60_000) }
        }
        83..=84 => Misfortune::StoreFull { commit: dice.within(3..90), lasts: dice.time(1_000..60_000) },
        85..=88 => {
            let node = if dice.percent(70) { Some(node) } else { None };
            let hour = 3_600_000;
            let ahead = i64::try_from(dice.within(0..48 * hour)).unwrap_or_default();
            Misfortune::ClockSet { node, at, by_ms: ahead - 24 * 3_600_000 }
        }
        89..=91 => Misfortune::ApiAway { at, lasts: dice.time(500..90_000) },
        _ => {
            let verbs = [
                Verb::Pause,
                Verb::Resume,
                Verb::Abort,
                Verb::Retry(node.clone()),
                Verb::RollBackNode(node),
                Verb::RollBackCluster,
            ];
            Misfortune::Order { at, verb: dice.one(&verbs).cloned().unwrap_or(Verb::Pause) }
        }
    }
}

impl Misfortune {
    /// Its name in counts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ends { what: End::Agent | End::AgentOnly, .. } => "agent-killed",
            Self::Ends { .. } => "power-cut",
            Self::ChangeFails { .. } => "change-failed",
            Self::ChildDies { .. } => "child-killed",
            Self::DiskFull { .. } => "disk-full",
            Self::Stopped { .. } => "agent-stopped",
            Self::Partition { way: Way::Both, .. } => "partition",
            Self::Partition { .. } => "one-way-partition",
            Self::Reset { .. } => "connection-reset",
            Self::CoordinatorEnds { .. } => "coordinator-killed",
            Self::CoordinatorRestored { .. } => "coordinator-restored",
            Self::StoreFull { .. } => "store-full",
            Self::ClockSet { .. } => "clock-set",
            Self::ApiAway { .. } => "api-away",
            Self::Order { .. } => "operator",
        }
    }

    fn needs_nobody(&self) -> bool {
        matches!(
            self,
            Self::Ends { .. }
                | Self::ChildDies { .. }
                | Self::Stopped { .. }
                | Self::Partition { .. }
                | Self::Reset { .. }
                | Self::CoordinatorEnds { .. }
                | Self::ClockSet { .. }
        )
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} control planes, {} workers, {} at a time, cordoned by an operator before: {}, on failure: {}",
            self.seed,
            self.control_planes,
            self.workers,
            self.max_unavailable,
            self.cordoned.as_deref().unwrap_or("none"),
            self.on_failure
        )?;
        if self.wanted != Wanted::Raise {
            writeln!(f, "  wanted: {:?}", self.wanted)?;
        }
        if self.around != Surroundings::default() {
            writeln!(f, "  around: {:?}", self.around)?;
        }
        for misfortune in &self.misfortunes {
            writeln!(f, "  {misfortune:?}")?;
        }
        Ok(())
    }
}
