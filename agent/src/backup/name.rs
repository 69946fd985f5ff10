//! The name of a backup folder.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use liftlock_proto::name::{NameError, NodeName, PlanId};

/// As in `20261121T150007Z`, UTC.
const TIME: &str = "%Y%m%dT%H%M%SZ";
const TIME_LENGTH: usize = 16;

/// `liftlock-p-0123456789ab-cp1-20261121T150007Z`: plan, node and the second in which it was begun. Safe as one
/// component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupName {
    /// The plan before whose first change it was taken.
    pub plan: PlanId,
    /// The node.
    pub node: NodeName,
    taken_at: Timestamp,
}

impl BackupName {
    /// The name of a backup that begins at this moment, in milliseconds since the Unix epoch.
    pub fn at(plan: &PlanId, node: &NodeName, unix_ms: u64) -> Self {
        let taken_at =
            i64::try_from(unix_ms / 1000).ok().and_then(|second| Timestamp::from_second(second).ok());
        Self { plan: plan.clone(), node: node.clone(), taken_at: taken_at.unwrap_or_default() }
    }

    /// When it was begun, in milliseconds since the Unix epoch, to the second.
    pub fn taken_at_ms(&self) -> u64 {
        u64::try_from(self.taken_at.as_millisecond()).unwrap_or_default()
    }

    fn read(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("liftlock-")?;
        let (rest, time) = rest.split_at_checked(rest.len().checked_sub(TIME_LENGTH)?)?;
        let (plan, node) = rest.strip_suffix('-')?.split_at_checked("p-0123456789ab".len())?;
        let taken_at = DateTime::strptime(TIME, time).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let name = Self { plan: plan.parse().ok()?, node: node.strip_prefix('-')?.parse().ok()?, taken_at };
        // strptime takes more than one spelling of a moment; a folder has one name.
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, node, taken_at } = self;
        write!(f, "liftlock-{plan}-{node}-{}", taken_at.strftime(TIME))
    }
}

impl FromStr for BackupName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::read(text).ok_or_else(|| NameError {
            text: text.to_owned(),
            what: "the name of a backup: liftlock-PLAN-NODE-TIME, as `liftlock backups list NODE` shows it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cp1() -> (PlanId, NodeName) {
        ("p-0123456789ab".parse().unwrap(), "cp1".parse().unwrap())
    }

    #[test]
    fn a_folder_is_named_after_plan_node_and_second_and_found_again_by_them() {
        let (plan, node) = cp1();
        let name = BackupName::at(&plan, &node, 1_795_273_207_999);
        assert_eq!(name.to_string(), "liftlock-p-0123456789ab-cp1-20261121T150007Z");
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert_eq!(name.taken_at_ms(), 1_795_273_207_000);
    }

    #[test]
    fn a_node_may_have_dashes_and_dots_in_its_name() {
        let node: NodeName = "ip-10-0-0-1.eu-west-1.compute.internal".parse().unwrap();
        let name = BackupName::at(&cp1().0, &node, 1_795_273_207_000);
        assert_eq!(name.to_string().parse::<BackupName>().unwrap().node, node);
    }

    #[test]
    fn what_is_no_backup_of_ours_has_no_such_name() {
        for name in [
            "",
            "liftlock-",
            "liftlock-p-0123456789ab-cp1-",
            "liftlock-p-0123456789ab-cp1-20261341T150007Z",
            "liftlock-p-0123456789ab-cp1-../../../../etc1",
            "liftlock-p-0123456789ab-../cp1-20261121T150007Z",
            "liftlock-p-0123456789ab--20261121T150007Z",
            "liftlock-p-0123456789ab-cp1-2026-1121T15007Z",
            "liftlock-p-0123456789ab-cp1-20261121T150007Z/",
            "kubeadm-backup-manifests-2026-11-21-15-00-07",
        ] {
            assert!(name.parse::<BackupName>().is_err(), "{name}");
        }
    }
}
