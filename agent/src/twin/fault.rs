//! What can go wrong, and when.

use super::world::World;

/// A fault that strikes right before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The change fails, once.
    Fails,
    /// The child that makes the change is killed: what it moved stays moved. Any other change fails, once.
    ChildDies,
    /// The agent's process ends. Children run on.
    AgentDies,
    /// The machine is off: agent, children, kubelet and containers end where they are.
    PowerFails,
}

/// Sees every change before it is made, and may let a fault strike instead.
pub trait Watch: Send + Sync {
    /// `world` is as it is before the change of this node.
    fn before(&self, world: &World, node: &str, change: &str) -> Option<Fault>;
}

/// What etcd's snapshot suffers on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotFault {
    /// One bit is another.
    Flipped,
    /// The end is missing, though the stream ended well.
    CutOff,
    /// The database itself is damaged, so that its digest matches.
    CorruptAtSource,
    /// It is one of an earlier moment.
    Behind,
}

/// Faults to come and faults that struck, and every change so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    armed: Option<Armed>,
    struck: Option<String>,
    changes: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
struct Armed {
    node: String,
    /// 1: before the very next one.
    nth: usize,
    fault: Fault,
}

impl Faults {
    pub(super) fn arm(&mut self, node: &str, nth: usize, fault: Fault) {
        self.struck = None;
        self.armed = Some(Armed { node: node.to_owned(), nth, fault });
    }

    pub(super) fn struck(&self) -> Option<String> {
        self.struck.clone()
    }

    /// Counts a change that is about to be made; the fault that strikes instead, if any.
    pub(super) fn before(&mut self, node: &str, change: &str) -> Option<Fault> {
        if let Some(armed) = &mut self.armed
            && armed.node == node
        {
            armed.nth = armed.nth.saturating_sub(1);
            if armed.nth == 0 {
                let fault = armed.fault;
                self.armed = None;
                self.struck = Some(change.to_owned());
                return Some(fault);
            }
        }
        self.changes.push((node.to_owned(), change.to_owned()));
        None
    }

    /// Changes on a node, oldest first.
    pub(super) fn changes<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a str> {
        self.changes.iter().filter(move |(on, _)| on == node).map(|(_, change)| change.as_str())
    }
}
