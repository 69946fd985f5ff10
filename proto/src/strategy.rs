//! How workers come to a version: raised where they are, or with other machines in their places.

use serde::{Deserialize, Serialize};

use crate::plan::PlannedNode;
use crate::step::Step;
use crate::v1;

/// How workers come to the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Each is raised where it is.
    #[default]
    InPlace,
    /// Machines join at the version, and workers leave: some at a time.
    Surge,
    /// All machines join at the version, all pods are moved there, and workers leave once that was looked at.
    BlueGreen,
}

impl Strategy {
    /// Every one, in the order of its number in messages.
    pub const ALL: [Self; 3] = [Self::InPlace, Self::Surge, Self::BlueGreen];

    /// Its name in options, documents and messages to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::InPlace => "in-place",
            Self::Surge => "surge",
            Self::BlueGreen => "blue-green",
        }
    }

    /// Whether it is what happens where nobody says anything.
    pub fn is_in_place(&self) -> bool {
        *self == Self::InPlace
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|strategy| strategy.name() == text);
        found.ok_or_else(|| format!("\"{text}\" is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl From<Strategy> for v1::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::InPlace => Self::InPlace,
            Strategy::Surge => Self::Surge,
            Strategy::BlueGreen => Self::BlueGreen,
        }
    }
}

impl From<v1::Strategy> for Strategy {
    fn from(message: v1::Strategy) -> Self {
        match message {
            v1::Strategy::InPlace => Self::InPlace,
            v1::Strategy::Surge => Self::Surge,
            v1::Strategy::BlueGreen => Self::BlueGreen,
        }
    }
}

/// What a node does in a plan, as its steps say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It is raised where it is.
    #[default]
    Raise,
    /// A machine joins the cluster.
    Join,
    /// Its pods are moved to others; it stays, cordoned.
    Empty,
    /// It leaves the cluster.
    Leave,
    /// A control plane that stays: it ends the memberships of those that left, or keeps a snapshot before anybody joins.
    End,
}

impl Part {
    /// Its name, for hooks and in what programs read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Join => "join",
            Self::Empty => "empty",
            Self::Leave => "leave",
            Self::End => "end",
        }
    }

    /// Whether it is what every node of an ordinary plan does.
    pub fn is_raise(&self) -> bool {
        *self == Self::Raise
    }
}

impl PlannedNode {
    /// What it does in its plan.
    pub fn part(&self) -> Part {
        let has = |wanted: fn(&Step) -> bool| self.steps.iter().any(wanted);
        if has(|step| matches!(step, Step::KubeadmJoin { .. })) {
            Part::Join
        } else if has(|step| matches!(step, Step::KubeadmReset { .. })) {
            Part::Leave
        } else if has(|step| matches!(step, Step::DeleteNode { .. } | Step::RemoveEtcdMember { .. })) {
            Part::End
        } else if matches!(self.steps.last(), Some(Step::Drain { .. })) {
            Part::Empty
        } else if matches!(self.steps.last(), Some(Step::BackUpNode { .. })) {
            Part::End
        } else {
            Part::Raise
        }
    }
}
