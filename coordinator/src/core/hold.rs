//! Why no further node is begun on now, though the roll-out goes on.
//!
//! What holds a roll-out opens by itself: nobody has to say resume. It holds only nodes that were never begun on. A lease
//! that runs when a window closes or a gate shuts is finished, a node that failed may always be leased again, and what
//! goes back goes back at any time.
//!
//! Reasons are asked in this order, the first one counts: windows, alerts, whether the cluster has the node, gates, the pool's budget, hooks. What costs a question to somebody is asked only
//! where nothing before it holds.

use std::cmp::Reverse;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use liftlock_proto::name::NodeName;
use liftlock_proto::plan::{PlannedNode, Policy, Role};

use crate::core::alerts::Alarm;
use crate::core::conduct::Conduct;
use crate::core::forecast::Expected;
use crate::core::gates::closed_before;
use crate::core::gates::situation::{Candidate, Situation};
use crate::core::path::Path;
use crate::core::planning::Refusal;
use crate::core::window::{Shut, minutes, next_begin, openings, shut};

/// Why no further node is begun on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// No window is open that is long enough.
    Window(Shut),
    /// Alerts fire, or nobody can tell.
    Alerts(Alarm),
    /// One of the gates that are asked between nodes is closed.
    Gate {
        /// Its name.
        name: &'static str,
        /// What it found.
        found: String,
    },
    /// The node is gone from the cluster.
    NodeGone(NodeName),
    /// With what others took away, more of the pool would be away than may be.
    Budget(String),
    /// What a replacement needs of the cluster is not so.
    Replacement(String),
    /// A hook has not ended well.
    Hook(String),
    /// No control plane has said how things are, or these that are connected have not, and that for long.
    Silent(Vec<NodeName>),
}

impl Hold {
    /// The windows, before a lease that is expected to take so long.
    pub fn by_windows(conduct: &Conduct, now: Timestamp, lease_ms: u64) -> Option<Self> {
        shut(&conduct.windows, now, duration(lease_ms)).map(Self::Window)
    }

    /// The gates, before a node of this role.
    pub fn by_gates(role: Role, situation: &Situation<'_>, policy: &Policy) -> Option<Self> {
        closed_before(role, situation, policy).map(|(name, found)| Self::Gate { name, found })
    }

    /// The node itself, which somebody may have deleted since it was planned: it is not in what a control plane has reported, and
    /// its lease would end at the drain.
    pub fn by_node(planned: &PlannedNode, situation: &Situation<'_>) -> Option<Self> {
        let is_there = |node: &Candidate<'_>| *node.name == planned.name && node.object().is_some();
        let gone = situation.cluster().is_some() && !situation.nodes().any(is_there);
        gone.then(|| Self::NodeGone(planned.name.clone()))
    }

    /// When it opens by itself, where that is known.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Window(shut) => shut.next.as_ref().map(|opening| opening.opens),
            Self::Alerts(_)
            | Self::Gate { .. }
            | Self::NodeGone(_)
            | Self::Budget(_)
            | Self::Replacement(_)
            | Self::Hook(_)
            | Self::Silent(_) => None,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(shut) => write!(f, "{shut}"),
            Self::Alerts(alarm) => write!(f, "{alarm}"),
            Self::Gate { name, found } => {
                write!(f, "nothing is begun while the gate {name} is closed: {found}")
            }
            Self::NodeGone(name) => write!(
                f,
                "{name} is not begun on: the cluster has no Node of that name any more; restart the kubelet there, which brings it \
                 back, or, if it is gone for good, `liftlock abort`, switch its agent off (`systemctl disable --now \
                 liftlock-agent`), and plan again"
            ),
            Self::Budget(found) | Self::Hook(found) => f.write_str(found),
            Self::Silent(names) if names.is_empty() => f.write_str(
                "nothing is begun before a control plane has said how things are, and the agent of none is connected: see \
                 `systemctl status liftlock-agent` there",
            ),
            Self::Silent(names) => {
                let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
                write!(
                    f,
                    "nothing is begun before each control plane that is connected has said how things are, and for more than a minute \
                     nothing came from {}: `journalctl -u liftlock-agent` there shows why, `systemctl restart liftlock-agent` has it \
                     asked anew",
                    names.join(", ")
                )
            }
            Self::Replacement(found) => write!(f, "nothing is begun while that is so: {found}"),
        }
    }
}

/// Everything for which a path could never be carried out under this conduct: each role whose lease fits into no window.
pub fn refusals(path: &Path, conduct: &Conduct, now: Timestamp, expected: &Expected) -> Vec<Refusal> {
    if conduct.windows.is_empty() {
        return Vec::new();
    }
    let longest = openings(&conduct.windows, now).into_iter().min_by_key(|opening| Reverse(opening.lasts()));
    let mut roles: Vec<Role> =
        path.plans().flat_map(|plan| &plan.nodes).map(|planned| planned.role).collect();
    roles.sort_unstable();
    roles.dedup();
    let too_long =
        |role: &Role| next_begin(&conduct.windows, now, duration(expected.lease_ms(*role))).is_err();
    roles.retain(too_long);
    let refusal = |role: Role| {
        let known = match expected.leases(role) {
            0 => {
                "no such node was raised here yet, so it is the drain's time-out and half an hour".to_owned()
            }
            1 => "by the one that raised a node here".to_owned(),
            leases => format!("by {leases} that raised nodes here"),
        };
        let longest = longest.as_ref().map_or_else(
            || "none opens in the next two weeks".to_owned(),
            |opening| {
                format!(
                    "the longest opens {} and has {}",
                    opening.zone.say(opening.opens),
                    minutes(opening.lasts())
                )
            },
        );
        Refusal {
            rule: "window-too-short",
            message: format!(
                "the lease of a {} is expected to take {} ({known}), and no window of spec.windows is that long: {longest}; \
                 allowed is one of at least that length",
                role.name(),
                minutes(duration(expected.lease_ms(role))),
            ),
            acceptable: false,
        }
    };
    roles.into_iter().map(refusal).collect()
}

/// How the leases of a path fit into the windows, one after the other, as far as can be told now; `None` where there is no
/// window, or one of them fits into none.
pub fn fit(path: &Path, conduct: &Conduct, now: Timestamp, expected: &Expected) -> Option<String> {
    let (mut at, mut first, mut used) = (now, None, Vec::new());
    for planned in path.plans().flat_map(|plan| &plan.nodes) {
        let takes = duration(expected.lease_ms(planned.role));
        let (begins, Some(opening)) = next_begin(&conduct.windows, at, takes).ok()? else { return None };
        first.get_or_insert(begins);
        at = begins.checked_add(takes).ok()?;
        if used.last() != Some(&opening.closes) {
            used.push(opening.closes);
        }
        if used.len() > MANY {
            return Some(format!("all leases take more than {MANY} windows"));
        }
    }
    let (zone, begins) = (&conduct.windows.first()?.time_zone, first?);
    let begins = if begins == now {
        "the first node may be begun on now".to_owned()
    } else {
        format!("the first node is begun on {} or later", zone.say(begins))
    };
    let windows = if used.len() == 1 {
        "fit into one window".to_owned()
    } else {
        format!("take {} windows", used.len())
    };
    Some(format!("{begins}, and all leases {windows}: the last one would end about {}", zone.say(at)))
}

/// So many windows are as good as endless.
const MANY: usize = 52;

fn duration(ms: u64) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
