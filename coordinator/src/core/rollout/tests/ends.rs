//! Whatever happened and whatever was said, an end can be reached.

use liftlock_proto::plan::OnFailure;
use liftlock_proto::workers::{Canary, PlannedPool};

use super::*;
use crate::core::budget::tests::{pool, rollout};
use crate::core::marks::to_mark;

const NODES: [&str; 6] = ["cp1", "cp2", "g1@gpu/a", "g2@gpu/a", "w1@others/a", "w2@others"];

/// What happens, by the position of a node.
#[derive(Debug, Clone)]
enum Happens {
    Granted,
    Ended(usize, bool),
    Blocked(usize),
    Dismissed(usize),
    Unprepared(usize),
    Found(usize),
    Word(Word),
}

/// What an operator says.
#[derive(Debug, Clone)]
enum Word {
    Pause,
    Resume,
    Abort,
    Retry(usize),
    RollBack(Option<usize>),
}

fn word() -> impl Strategy<Value = Word> {
    let node = || 0..NODES.len();
    prop_oneof![
        2 => Just(Word::Pause),
        4 => Just(Word::Resume),
        1 => Just(Word::Abort),
        4 => node().prop_map(Word::Retry),
        3 => prop::option::weighted(0.8, node()).prop_map(Word::RollBack),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let node = || 0..NODES.len();
    prop_oneof![
        8 => Just(Happens::Granted),
        8 => (node(), prop::bool::weighted(0.3)).prop_map(|(node, fails)| Happens::Ended(node, fails)),
        3 => node().prop_map(Happens::Blocked),
        1 => node().prop_map(Happens::Dismissed),
        1 => node().prop_map(Happens::Unprepared),
        1 => node().prop_map(Happens::Found),
        4 => word().prop_map(Happens::Word),
    ]
}

/// A roll-out with what goes on around it: the clock, and the last token.
#[derive(Debug, Clone)]
struct World {
    rollout: Rollout,
    now_ms: u64,
    token: u64,
}

impl World {
    fn name(&self, index: usize) -> NodeName {
        self.rollout.plan.nodes[index].name.clone()
    }

    fn happen(&mut self, event: &Event) -> bool {
        let next = self.rollout.after(event);
        let fits = next.is_ok();
        self.rollout = next.unwrap_or_else(|_| self.rollout.clone());
        fits
    }

    fn say(&mut self, word: &Word) -> bool {
        let event = match word {
            Word::Pause => Event::Paused,
            Word::Resume => Event::Resumed,
            Word::Abort => Event::Aborted { at_ms: self.now_ms },
            Word::Retry(index) => Event::Retried { node: self.name(*index) },
            Word::RollBack(index) => Event::RollbackOrdered { node: index.map(|index| self.name(index)) },
        };
        self.happen(&event)
    }

    /// Grants the first lease that is due. Whether there was one.
    fn grant(&mut self) -> bool {
        let due = self.rollout.due(self.now_ms).unwrap_or_default();
        let Some((node, purpose)) = due.first().map(|(planned, purpose)| (planned.name.clone(), *purpose))
        else {
            return false;
        };
        self.token += 1;
        let lease = Lease { token: FencingToken(self.token), granted_at_ms: self.now_ms };
        assert!(
            self.happen(&Event::LeaseGranted { node, lease, purpose, soak_time_ms: lease.granted_at_ms }),
            "what is due may be granted"
        );
        true
    }

    fn ended(&mut self, index: usize, failure: Option<&str>) -> bool {
        let Some(lease) = self.rollout.nodes[index].lease() else { return false };
        let event = Event::LeaseEnded {
            node: self.name(index),
            token: lease.token,
            failure: failure.map(str::to_owned),
            timings: Timings::default(),
            at_ms: self.now_ms,
        };
        self.happen(&event)
    }

    fn takes(&mut self, happens: &Happens) {
        self.now_ms += 1;
        match happens {
            Happens::Granted => drop(self.grant()),
            Happens::Ended(index, fails) => drop(self.ended(*index, fails.then_some("it broke"))),
            Happens::Blocked(index) => {
                if let Some(lease) = self.rollout.nodes[*index].lease() {
                    let event = Event::DrainBlocked {
                        node: self.name(*index),
                        token: lease.token,
                        failure: "a budget".to_owned(),
                        timings: Timings::default(),
                        at_ms: self.now_ms,
                    };
                    self.happen(&event);
                }
            }
            Happens::Dismissed(index) => {
                if let Some(lease) = self.rollout.nodes[*index].lease() {
                    let (node, token) = (self.name(*index), lease.token);
                    self.happen(&Event::HolderDismissed { node, token, at_ms: self.now_ms });
                }
            }
            Happens::Unprepared(index) => {
                let failure = Some("no space".to_owned());
                self.happen(&Event::PrepareReported { node: self.name(*index), failure });
            }
            Happens::Found(index) => {
                self.token += 1;
                let lease = Lease { token: FencingToken(self.token), granted_at_ms: self.now_ms };
                self.happen(&Event::LeaseFound { node: self.name(*index), lease });
            }
            Happens::Word(word) => drop(self.say(word)),
        }
    }

    /// Everything goes well for as long as anything goes on by itself.
    fn carried_on(mut self) -> Self {
        for _ in 0..200 {
            let before = self.rollout.clone();
            while self.grant() {}
            for index in 0..self.rollout.nodes.len() {
                self.ended(index, None);
                if self.rollout.nodes[index] == NodeState::Pending {
                    self.happen(&Event::PrepareReported { node: self.name(index), failure: None });
                }
            }
            self.now_ms += 60_000;
            if self.rollout == before && self.rollout.due(self.now_ms).is_err() {
                return self;
            }
        }
        panic!("it goes on for ever: {:?}", self.rollout);
    }
}

/// What has to be so of a roll-out with which nothing goes on by itself any more.
fn came_to_rest(world: &World) -> Result<(), TestCaseError> {
    let rollout = &world.rollout;
    let (phase, nodes) = (rollout.phase(), &rollout.nodes);
    let somebody_is_asked = matches!(phase, Phase::Halted { .. } | Phase::Paused);
    prop_assert!(rollout.is_final() || somebody_is_asked, "it stands still: {phase:?} {nodes:?}");
    prop_assert_eq!(rollout.is_final(), rollout.ended_at_ms.is_some(), "{:?} {:?}", phase, nodes);
    prop_assert!(!rollout.is_final() || to_mark(rollout).is_empty());
    let half_way = rollout.nodes().any(|(planned, state)| {
        rollout.quarantined.contains_key(&planned.name) && matches!(state, NodeState::ToRollBack { .. })
    });
    prop_assert!(
        !half_way || phase == Phase::Aborted || !rollout.dismissed.is_empty(),
        "one that was passed over is left: {phase:?} {nodes:?}"
    );
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happened_and_was_said_an_end_can_be_reached_and_nothing_stands_still_without_asking_somebody(
        happened in prop::collection::vec(happens(), 0..80),
        limits in prop::array::uniform2(1u32..3),
        (canary_nodes, failure_budget, pause_after) in (0u32..2, 0u32..3, any::<bool>()),
        policy in prop::sample::select(vec![OnFailure::Halt, OnFailure::RollBackNode, OnFailure::RollBackCluster]),
        last_word in word(),
    ) {
        let canary = (canary_nodes > 0).then_some(Canary { nodes: canary_nodes, soak_seconds: 60 });
        let pools = vec![
            PlannedPool { canary, pause_after, ..pool("gpu", limits[0]) },
            PlannedPool { pause_after, ..pool("others", limits[1]) },
        ];
        let failure_budget = if policy == OnFailure::Halt { failure_budget } else { 0 };
        let mut start = rollout(&NODES, pools, failure_budget);
        start.plan.policy.on_failure = policy;
        let mut world = World { rollout: start, now_ms: 1, token: 0 };
        for happens in &happened {
            world.takes(happens);
        }
        let left = world.clone().carried_on();
        came_to_rest(&left)?;
        let mut said = world.clone();
        said.say(&last_word);
        came_to_rest(&said.carried_on())?;

        let mut raised = left.clone();
        if !raised.rollout.is_final() {
            for _ in 0..30 {
                raised.say(&Word::Resume);
                for index in 0..NODES.len() {
                    raised.say(&Word::Retry(index));
                }
                raised = raised.carried_on();
            }
            prop_assert_eq!(raised.rollout.phase(), Phase::Raised, "{:?}", raised.rollout.nodes);
        }
        let mut aborted = left.clone();
        if aborted.say(&Word::Abort) {
            let aborted = aborted.carried_on();
            came_to_rest(&aborted)?;
            prop_assert_eq!(aborted.rollout.phase(), Phase::Aborted);
        }
        let mut back = left;
        if back.say(&Word::RollBack(None)) {
            let back = back.carried_on();
            prop_assert_eq!(back.rollout.phase(), Phase::RolledBack, "{:?}", back.rollout.nodes);
        }
    }
}
