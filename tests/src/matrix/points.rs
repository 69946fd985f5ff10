//! Which points there are: every record of every lease's journal, and every place inside the children of its steps,
//! forward and in rollback, each with every fault that can strike there.

use std::fmt;

use liftlock::core::sequence;
use liftlock_proto::plan::{Policy, Purpose, Role};
use liftlock_proto::step::Step;

use crate::fleet::freeze::Moment;
use crate::fleet::link::Cut;
use crate::matrix::TO;
use crate::standin::fault::Point;
use crate::standin::release::STATIC_PODS;

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Blow {
    /// SIGKILL to the agent, which is started again as systemd would.
    KillAgent,
    /// SIGKILL to the program that the step runs.
    KillChild,
    /// SIGKILL to the coordinator, which is started again.
    KillCoordinator,
    /// The node loses its power and comes back.
    Reboot,
    /// The agent and the coordinator do not hear each other, or one not the other, for longer than a lease lasts.
    Partition(Cut),
    /// SIGSTOP to the agent, for longer than a lease lasts.
    Stop,
}

impl Blow {
    /// All of them.
    pub(super) const ALL: [Self; 8] = [
        Self::KillAgent,
        Self::KillChild,
        Self::KillCoordinator,
        Self::Reboot,
        Self::Partition(Cut::Both),
        Self::Partition(Cut::FromAgent),
        Self::Partition(Cut::ToAgent),
        Self::Stop,
    ];

    /// Its name in the names of points.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillAgent => "kill-agent",
            Self::KillChild => "kill-child",
            Self::KillCoordinator => "kill-coordinator",
            Self::Reboot => "reboot",
            Self::Partition(Cut::FromAgent) => "partition-from-agent",
            Self::Partition(Cut::ToAgent) => "partition-to-agent",
            Self::Partition(_) => "partition",
            Self::Stop => "stop",
        }
    }

    /// Whether it strikes at a place with this number of its lease: no child runs while the agent writes its journal, and
    /// each way in which a network can part has every third place, or there would be no end of waiting.
    fn is_for(self, place: &Place, number: usize) -> bool {
        match self {
            Self::KillChild => matches!(place, Place::Child { .. }),
            Self::Partition(cut) => [Cut::Both, Cut::FromAgent, Cut::ToAgent].get(number % 3) == Some(&cut),
            _ => true,
        }
    }

    /// Whether a process dies and nothing else happens.
    pub(super) fn is_a_process_death(self) -> bool {
        matches!(self, Self::KillAgent | Self::KillChild | Self::KillCoordinator)
    }
}

/// Where it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The agent has just made this durable.
    Journal(Moment),
    /// The step's program is here, and waits.
    Child {
        /// The step's name.
        step: &'static str,
        /// Where.
        at: Point,
    },
}

/// One point of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CrashPoint {
    /// Of which lease: the node's role,
    pub(super) role: Role,
    /// and what it is for.
    pub(super) purpose: Purpose,
    /// Where.
    pub(super) place: Place,
    /// What.
    pub(super) blow: Blow,
    /// How many places of its lease come before it.
    pub(super) position: usize,
}

impl CrashPoint {
    /// The moment at which the agent is stopped first.
    pub(super) fn moment(&self) -> Moment {
        match &self.place {
            Place::Journal(moment) => moment.clone(),
            Place::Child { step, .. } => {
                record(step, if self.purpose == Purpose::Raise { "started" } else { "undo-started" })
            }
        }
    }

    /// Its step; two faults of one lease never strike at the same one. What decides how a step goes belongs to it.
    pub(super) fn stretch(&self) -> &str {
        let step = match &self.place {
            Place::Journal(Moment::Step { step, .. }) => step,
            Place::Journal(Moment::Admitted | Moment::Begun) => "lease-begins",
            Place::Journal(Moment::Ended | Moment::Closed) => "lease-ends",
            Place::Child { step, .. } => step,
        };
        match step {
            "etcd-quorum-gate" => "lease-begins",
            "verify-control-plane" => "kubeadm-upgrade",
            step if step.starts_with("kubeadm-upgrade") => "kubeadm-upgrade",
            step => step,
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::FirstControlPlane => "first-control-plane",
            Role::ControlPlane => "control-plane",
            Role::Worker => "worker",
        };
        let purpose = match self.purpose {
            Purpose::Raise => "raise",
            Purpose::RollBack => "rollback",
        };
        write!(f, "{role}/{purpose}/")?;
        match &self.place {
            Place::Journal(moment) => write!(f, "{moment}")?,
            Place::Child { step, at } => write!(f, "{step}/{at}")?,
        }
        write!(f, "/{}", self.blow.name())
    }
}

/// Every point there is, lease by lease and in the order in which a lease comes to them.
pub(super) fn all() -> Vec<CrashPoint> {
    let mut points = Vec::new();
    let roles = [Role::FirstControlPlane, Role::ControlPlane, Role::Worker];
    for purpose in [Purpose::Raise, Purpose::RollBack] {
        // A place that several roles have meets another way of parting in each.
        for (first, role) in roles.into_iter().enumerate() {
            for (position, place) in places(role, purpose).into_iter().enumerate() {
                for blow in Blow::ALL.into_iter().filter(|blow| blow.is_for(&place, first + position)) {
                    points.push(CrashPoint { role, purpose, place: place.clone(), blow, position });
                }
            }
        }
    }
    points
}

fn places(role: Role, purpose: Purpose) -> Vec<Place> {
    let mut steps = sequence::under_lease(role, TO, &Policy::default(), None);
    let mut places = vec![Place::Journal(Moment::Admitted), Place::Journal(Moment::Begun)];
    if purpose == Purpose::RollBack {
        steps.reverse();
    }
    for step in steps {
        let name = step.name();
        let (before, after) = match (purpose, only_looks(&step)) {
            (Purpose::Raise, true) => {
                places.push(Place::Journal(record(name, "adopted")));
                continue;
            }
            (Purpose::RollBack, true) => continue,
            (Purpose::Raise, false) => ("started", "succeeded"),
            (Purpose::RollBack, false) => ("undo-started", "undone"),
        };
        places.push(Place::Journal(record(name, before)));
        places.extend(inside(&step, role, purpose).into_iter().map(|at| Place::Child { step: name, at }));
        places.push(Place::Journal(record(name, after)));
    }
    places.extend([Moment::Ended, Moment::Closed].map(Place::Journal));
    places
}

fn record(step: &str, event: &str) -> Moment {
    Moment::Step { step: step.to_owned(), event: event.to_owned() }
}

/// Whether a step finds its work done wherever nothing is wrong, so that it never runs and is never undone.
fn only_looks(step: &Step) -> bool {
    matches!(
        step,
        Step::EtcdQuorumGate { .. } | Step::VerifyControlPlane { .. } | Step::VerifyProtectedPaths {}
    )
}

/// The places inside the programs that a step runs, in their order.
fn inside(step: &Step, role: Role, purpose: Purpose) -> Vec<Point> {
    let unpacked = |package: &str| Point::AptUnpacked(package.to_owned());
    match (step, purpose) {
        (Step::EtcdSnapshot {}, Purpose::Raise) => vec![Point::EtcdctlRestoring],
        (Step::InstallKubeadm { .. }, Purpose::RollBack) if role == Role::FirstControlPlane => {
            // Undoing the apply has put the package back; it is only seen to be there.
            vec![Point::AptStarted]
        }
        (Step::InstallKubeadm { .. }, _) => vec![Point::AptStarted, unpacked("kubeadm")],
        (Step::InstallKubelet { .. }, _) => {
            vec![Point::AptStarted, unpacked("kubelet"), unpacked("kubectl")]
        }
        (Step::KubeadmUpgradeApply { .. }, Purpose::Raise) => {
            let mut points = vec![Point::KubeadmStarted];
            points.extend(static_pods());
            points.extend([Point::KubeadmBeforeUpload, Point::KubeadmUploaded]);
            points
        }
        (Step::KubeadmUpgradeApply { .. }, Purpose::RollBack) => vec![
            Point::AptStarted,
            unpacked("kubeadm"),
            Point::KubeadmStarted,
            Point::KubeadmImagePull,
            Point::KubeadmEtcdCopied,
            Point::KubeadmBeforeUpload,
            Point::KubeadmUploaded,
        ],
        (Step::KubeadmUpgradeNode { .. }, Purpose::Raise) => {
            let mut points = vec![Point::KubeadmStarted];
            if role.is_control_plane() {
                points.extend(static_pods());
            }
            points
        }
        _ => Vec::new(),
    }
}

fn static_pods() -> Vec<Point> {
    let mut points = vec![Point::KubeadmImagePull, Point::KubeadmEtcdCopied];
    for component in STATIC_PODS.map(str::to_owned) {
        points.push(Point::KubeadmBetweenRenames(component.clone()));
        points.push(Point::KubeadmManifestReplaced(component));
    }
    points
}

/// Those of the points whose name contains one of the terms; a term that is a whole name means that point alone.
pub(super) fn choose(points: &[CrashPoint], terms: &[String]) -> Vec<CrashPoint> {
    let named: Vec<(String, &CrashPoint)> = points.iter().map(|point| (point.to_string(), point)).collect();
    let whole = |term: &String| named.iter().any(|(name, _)| name == term);
    let chosen = |name: &String| {
        terms.is_empty()
            || terms.iter().any(|term| if whole(term) { name == term } else { name.contains(term.as_str()) })
    };
    named.iter().filter(|(name, _)| chosen(name)).map(|(_, point)| (*point).clone()).collect()
}
