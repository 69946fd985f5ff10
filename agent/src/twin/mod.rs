//! A whole kubeadm cluster in memory, behind the [`Host`] traits: it keeps state, so a step that is run, cut off, run
//! again and undone leaves behind what it would leave on real nodes.
//!
//! It knows what the recordings in `tests/fixtures/real` know: that kubeadm moves a manifest away before it moves the
//! new one in, that it takes a node without `kube-apiserver.yaml` for a worker and ends with success, that
//! installing a held package drops its hold, that a kubelet's version shows in the API a while after its restart,
//! that children outlive the agent.
//!
//! Time is virtual and moves only when nothing else can happen, so runs are fast and always the same. Every change is
//! counted, and before any of them a fault can strike: see [`Fault`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use liftlock_proto::version::KubernetesVersion;

use crate::host::real::API_TIMEOUT;
use crate::host::{Host, Layout};

mod apply;
pub mod bolt;
mod children;
mod clock;
mod cluster;
mod disk;
mod etcd;
mod fault;
mod files;
pub mod hooks;
mod join;
mod kube;
mod kubeadm;
mod machine;
mod node;
mod objects;
mod packages;
pub mod redeploy;
mod runtime;
mod trees;
mod world;

pub use apply::{Managed, apply};
pub use cluster::{Budget, NodeObject, Pod};
pub use disk::Disk;
pub use fault::{Fault, SnapshotFault, Watch};
pub use machine::Machine;
pub use objects::{Stored, settled};
pub use world::{Picture, World};

use node::NodeTwin;

/// What cluster to make.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// `cp1`, `cp2`, …, each with a member of etcd.
    pub control_planes: usize,
    /// `w1`, `w2`, …
    pub workers: usize,
    /// What all of them run.
    pub version: KubernetesVersion,
    /// What their package repositories offer besides.
    pub offered: KubernetesVersion,
}

/// The cluster. Clones are the same one.
#[derive(Clone)]
pub struct Twin {
    world: Arc<Mutex<World>>,
}

/// How far a future came.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// To its end.
    Done(T),
    /// To a fault that ended an agent. The future is gone, as its process would be.
    Died,
    /// It waits for something that nothing in this world will bring about.
    Stuck,
}

impl<T> Outcome<T> {
    /// What it ended with, if it did.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(output) => Some(output),
            Self::Died | Self::Stuck => None,
        }
    }
}

/// What a child did between an agent's death and its return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// It stands where it stood: the new agent joins it.
    StillRunning,
    /// It went on to its end.
    Ended,
}

impl Twin {
    /// A healthy cluster.
    pub fn new(shape: Shape) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(shape))) }
    }

    /// Another cluster that is as this one is now, and goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { world: Arc::new(Mutex::new(self.world().clone())) }
    }

    /// A node of it, as its agent sees it.
    pub fn host(&self, node: &str) -> Host {
        let twin = Arc::new(NodeTwin::new(Arc::clone(&self.world), node));
        let (redeploy, addons, hooks) = {
            let world = self.world();
            (world.redeploy.clone(), world.addons.clone(), world.hooks.clone())
        };
        Host {
            layout: layout(),
            files: Arc::clone(&twin) as Arc<_>,
            trees: Arc::clone(&twin) as Arc<_>,
            commands: Arc::clone(&twin) as Arc<_>,
            packages: Arc::clone(&twin) as Arc<_>,
            kube: Arc::clone(&twin) as Arc<_>,
            objects: Arc::clone(&twin) as Arc<_>,
            etcd: Arc::clone(&twin) as Arc<_>,
            runtime: Arc::clone(&twin) as Arc<_>,
            clock: twin,
            api_timeout: API_TIMEOUT,
            redeploy,
            addons,
            hooks,
            invitations: Arc::new(join::Inviter { twin: self.clone(), node: node.to_owned() }),
        }
    }

    /// The world, to arrange and to look at. Not to be held while something is driven.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives a future to its end, moving time on whenever nothing else can happen.
    pub fn drive<F: Future>(&self, future: F) -> Outcome<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Outcome::Done(output);
            }
            let mut world = self.world();
            if world.machines().any(|machine| machine.agent_is_dead) {
                return Outcome::Died;
            }
            if !world.advance() {
                return Outcome::Stuck;
            }
        }
    }

    /// Lets so much time go by.
    pub fn settle(&self, duration: Duration) {
        let mut world = self.world();
        let until = world.now() + duration;
        world.wake_at(until);
        while world.now() < until && world.advance() {}
    }

    /// Strikes right before the `nth` change from now on a node, counted from 1.
    pub fn inject(&self, node: &str, nth: usize, fault: Fault) {
        self.world().inject(node, nth, fault);
    }

    /// Whether the last fault that was injected struck, and before what.
    pub fn struck(&self) -> Option<String> {
        self.world().struck()
    }

    /// Starts the agent's process again after it died, or switches the machine on again.
    pub fn restart(&self, node: &str, meanwhile: Meanwhile) {
        if meanwhile == Meanwhile::Ended {
            children::finish(&mut self.world(), node);
        }
        self.world().restart(node);
    }
}

/// What has let machines in so far: bootstrap tokens, and the key to the cluster's certificates.
pub fn secrets(twin: &Twin) -> Vec<String> {
    let world = twin.world();
    let tokens = world.cluster.tokens.iter().cloned();
    tokens.chain([join::CERTIFICATE_KEY.to_owned()]).collect()
}

fn layout() -> Layout {
    Layout { root: "/".into(), state_dir: "/var/lib/liftlock".into() }
}
