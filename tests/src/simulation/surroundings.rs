//! What a roll-out meets that is no misfortune: repositories that are split by minor, add-ons, hosts that are replaced as a whole,
//! hooks that the coordinator calls, and a Prometheus that it asks.

use std::sync::Arc;
use std::time::Duration;

use liftlock::core::hooks::{Hook, Hooks, Target};
use liftlock_agent::twin::{Machine, World, redeploy};
use serde_json::json;

use super::dice::Dice;
use super::schedule::{Misfortune, Schedule, Verb};
use super::workload::Wanted;

/// The hook that the coordinator's configuration has.
pub(super) const HOOK: &str = "note";

/// In which windows open and shut, in milliseconds.
const OF_A_DAY: u64 = 3 * 3_600_000;

/// How long one may take, in seconds.
const HOOK_LIMIT: u32 = 30;

/// An add-on of the target, as an earlier version has left it and as it is to be.
const ADD_ONS: &str = "/etc/liftlock/addons/v1.31/all.yaml";
const ADD_ON: &str = "/api/v1/namespaces/kube-system/configmaps/shop";
const MANIFEST: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop, namespace: kube-system}\ndata: {currency: 'EUR'}\n";

/// What is around.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Packages come out of repositories that are split by minor.
    pub split_repositories: bool,
    /// The control planes have manifests for the target.
    pub add_ons: bool,
    /// Hosts are replaced as a whole.
    pub redeploy: bool,
    /// The coordinator calls one before and after the plan and each node.
    pub hooks: Option<HookTerms>,
    /// By so much the coordinator's time of day is ahead from the beginning: windows may be shut then.
    pub clock_ahead: Duration,
    /// The coordinator asks a Prometheus, with which this is so; `None`: it asks none.
    pub alarms: Option<Vec<Alarm>>,
}

/// How a hook goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookTerms {
    /// How long a call takes.
    pub takes: Duration,
    /// So many calls of each moment fail before one ends well.
    pub fails: u32,
    /// Those that fail never end by themselves.
    pub hangs: bool,
}

/// While this goes on no node may be begun on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// Since the beginning.
    pub from: Duration,
    /// Since the beginning.
    pub until: Duration,
    /// Prometheus does not answer, where else an alert fires.
    pub away: bool,
}

impl Surroundings {
    /// What is around the roll-out of a seed. Most have nothing, and are what they were before there was this.
    pub(super) fn draw(schedule: Schedule) -> Schedule {
        let windows = schedule.wanted.pools().is_some_and(|pools| pools.windows);
        let clock_ahead = Dice::apart(schedule.seed, 14).time(0..OF_A_DAY);
        let schedule = if windows {
            Schedule { around: Self { clock_ahead, ..Self::default() }, ..schedule }
        } else {
            schedule
        };
        let dice = &mut Dice::apart(schedule.seed, 12);
        let plain = schedule.wanted == Wanted::Raise;
        if !dice.percent(25) || !plain && schedule.wanted.pools().is_none() {
            return schedule;
        }
        let redeploy = plain && dice.percent(20);
        let hooks = dice.percent(50).then(|| HookTerms {
            takes: dice.time(100..20_000),
            fails: u32::try_from(dice.within(0..3)).unwrap_or_default(),
            hangs: dice.percent(30),
        });
        let span = 200_000;
        let alarm = |dice: &mut Dice| {
            let from = dice.time(0..span);
            Alarm { from, until: from + dice.time(20_000..span), away: dice.percent(40) }
        };
        let alarms = dice.percent(50).then(|| (0..dice.within(0..3)).map(|_| alarm(dice)).collect());
        let edits = dice.percent(25);
        let clock_ahead = if windows || edits { clock_ahead } else { Duration::ZERO };
        let around = Self {
            clock_ahead,
            split_repositories: plain && !redeploy && dice.percent(50),
            add_ons: plain && dice.percent(50),
            redeploy,
            hooks,
            alarms,
        };
        let mut schedule = Schedule { around, ..schedule };
        if edits {
            let verb = Verb::Edit;
            schedule.misfortunes.push(Misfortune::Order { at: dice.time(0..span), verb });
        }
        schedule
    }

    /// Lays it where nodes and cluster have it.
    pub(super) fn lay(&self, world: &mut World) {
        let nodes: Vec<(String, bool)> =
            world.cluster.nodes.iter().map(|(name, node)| (name.clone(), node.control_plane)).collect();
        for (node, control_plane) in nodes {
            if self.split_repositories {
                world.change(&node, Machine::split_repositories);
            }
            if self.add_ons && control_plane {
                world.change(&node, |machine| machine.disk.put(ADD_ONS, MANIFEST, 0o644));
            }
            if self.redeploy {
                world.change(&node, |machine| {
                    machine.disk.put(redeploy::COMMAND, "#!", 0o755);
                    machine.disk.make_folder("/mnt/persistent/liftlock".into(), 0o700);
                });
            }
        }
        if self.redeploy {
            world.redeploy = Some(Arc::new(redeploy::replacement()));
        }
        if self.add_ons {
            let metadata = json!({"name": "shop", "namespace": "kube-system"});
            let (kind, data) = ("ConfigMap", json!({"size": "1"}));
            let earlier = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data});
            world.cluster.stored.put(ADD_ON, None, earlier);
        }
    }

    /// Why the add-ons are not those of the target, if so.
    pub(super) fn why_not_added(&self, world: &World) -> Option<String> {
        if !self.add_ons {
            return None;
        }
        let there = world.cluster.stored.get(ADD_ON);
        let right = there.and_then(|there| there.pointer("/data/currency")) == Some(&json!("EUR"));
        (!right).then(|| format!("the add-on is {there:?}"))
    }

    /// The hooks of the roll-out's conduct.
    pub(super) fn hooks(&self) -> Hooks {
        if self.hooks.is_none() {
            return Hooks::default();
        }
        let hook = Hook { target: Target::Name(HOOK.to_owned()), timeout_seconds: HOOK_LIMIT };
        let hooks = || vec![hook.clone()];
        Hooks {
            before_plan: hooks(),
            after_plan: hooks(),
            before_node: hooks(),
            after_node: hooks(),
            ..Hooks::default()
        }
    }
}
