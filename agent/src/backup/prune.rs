//! Which backups go, and their removal. Only ever while this node holds no lease; whether the roll-out ended well is the
//! coordinator's to know, which asks for this only then.

use liftlock_proto::name::NodeName;
use liftlock_proto::retention::{Retention, Size};
use liftlock_proto::v1;

use super::inventory::{Inventory, Stored};
use crate::engine::idle::Idle;
use crate::host::{Host, HostResult};

/// What somebody wants gone.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Which backups stay.
    pub retention: Retention,
    /// kubeadm's own folders too.
    pub kubeadm_leftovers: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// A folder that goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Pruned {
    /// What it is called.
    pub name: String,
    /// In all of its files.
    pub bytes: u64,
    /// Which limit it exceeded.
    pub reason: String,
}

/// Removes what a wish names, oldest first. Returns what went, and how many backups stay.
pub async fn prune(
    host: &Host,
    node: &NodeName,
    idle: &Idle,
    wish: Wish,
) -> HostResult<(Vec<Pruned>, usize)> {
    let inventory = Inventory::take(host, node).await?;
    let mut pruned = surplus(&inventory.backups, wish.retention, host.clock.unix_ms());
    let kept = inventory.backups.len() - pruned.len();
    if wish.kubeadm_leftovers {
        pruned.extend(inventory.leftovers.into_iter().map(|leftover| Pruned {
            name: leftover.name,
            bytes: leftover.bytes,
            reason: "kubeadm left it".to_owned(),
        }));
    }
    if !wish.dry_run {
        let names = inventory.half_removed.iter().chain(pruned.iter().map(|pruned| &pruned.name));
        for name in names {
            host.files.remove_tree(idle, &host.layout.backups().join(name)).await?;
            tracing::info!(name, "removed from the backups");
        }
    }
    Ok((pruned, kept))
}

/// The backups, of these oldest first, that exceed a limit. The newest whole one never does; where none is whole, each
/// may be all that is left of the node as it was, and all stay.
fn surplus(backups: &[Stored], retention: Retention, now_ms: u64) -> Vec<Pruned> {
    let Some(newest_whole) = backups.iter().rposition(|backup| backup.index.is_ok()) else {
        return Vec::new();
    };
    let (mut whole, mut bytes, mut surplus) = (0_u32, 0_u64, Vec::new());
    for (at, backup) in backups.iter().enumerate().rev() {
        let age_ms = u128::from(now_ms.saturating_sub(backup.name.taken_at_ms()));
        let with_it = bytes.saturating_add(backup.bytes);
        let reason = if at == newest_whole {
            None
        } else if let Some(keep) = retention.keep.filter(|keep| whole >= *keep) {
            Some(format!("{keep} newer ones are kept"))
        } else if let Some(age) = retention.age.filter(|age| age_ms > age.0.as_millis()) {
            Some(format!("older than {age}"))
        } else {
            retention.size.filter(|Size(most)| with_it > *most).map(|size| format!("beyond {size}"))
        };
        if let Some(reason) = reason {
            surplus.push(Pruned { name: backup.name.to_string(), bytes: backup.bytes, reason });
        } else {
            whole += u32::from(backup.index.is_ok());
            bytes = with_it;
        }
    }
    surplus.reverse();
    surplus
}

impl From<Pruned> for v1::PrunedBackup {
    fn from(Pruned { name, bytes, reason }: Pruned) -> Self {
        Self { name, bytes, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use camino::Utf8PathBuf;
    use liftlock_proto::retention::Age;
    use proptest::prelude::*;

    use super::*;
    use crate::backup::bench::{DAY_MS, NODE, NOW_MS, node_with_backups};
    use crate::engine::idle::Turn;
    use crate::twin::Outcome;

    fn limits(keep: Option<u32>, days: Option<u64>, size: Option<u64>) -> Retention {
        let age = days.map(|days| Age(Duration::from_hours(24 * days)));
        Retention { keep, age, size: size.map(Size) }
    }

    /// Prunes a node whose backups were taken so many days ago, oldest first; `false` for one that was never finished.
    /// Returns the days of those that are left.
    fn left(backups: &[(u64, bool)], retention: Retention, dry_run: bool) -> Vec<u64> {
        let twin = node_with_backups(backups);
        let host = twin.host(NODE);
        let idle = Turn::default().idle().unwrap();
        let wish = Wish { retention, kubeadm_leftovers: false, dry_run };
        let node = NODE.parse().unwrap();
        let Outcome::Done(pruned) = twin.drive(prune(&host, &node, &idle, wish)) else { panic!() };
        let (pruned, kept) = pruned.unwrap();
        assert_eq!(pruned.len() + kept, backups.len());
        let inventory = twin.drive(Inventory::take(&host, &node)).done().unwrap().unwrap();
        inventory.backups.iter().map(|backup| (NOW_MS - backup.name.taken_at_ms()) / DAY_MS).collect()
    }

    #[test]
    fn a_backup_goes_where_any_limit_is_exceeded() {
        let backups = [(300, true), (200, true), (20, true), (2, true)];
        assert_eq!(left(&backups, limits(None, None, None), false), [300, 200, 20, 2]);
        assert_eq!(left(&backups, limits(Some(3), None, None), false), [200, 20, 2]);
        assert_eq!(left(&backups, limits(None, Some(30), None), false), [20, 2]);
        assert_eq!(left(&backups, limits(Some(3), Some(10), None), false), [2]);
        assert_eq!(
            left(&backups, limits(Some(1), None, None), true),
            [300, 200, 20, 2],
            "a dry run removed one"
        );
    }

    #[test]
    fn the_newest_that_fit_stay() {
        let backups = [(3, true), (2, true), (1, true)];
        let twin = node_with_backups(&backups);
        let (host, node) = (twin.host(NODE), NODE.parse().unwrap());
        let one = twin.drive(Inventory::take(&host, &node)).done().unwrap().unwrap().backups[0].bytes;
        assert_eq!(left(&backups, limits(None, None, Some(2 * one)), false), [2, 1]);
        assert_eq!(left(&backups, limits(None, None, Some(2 * one - 1)), false), [1]);
        assert_eq!(left(&backups, limits(None, None, Some(0)), false), [1]);
    }

    #[test]
    fn one_that_was_never_finished_counts_as_none_and_where_none_is_whole_all_stay() {
        assert_eq!(left(&[(9, true), (5, false), (1, false)], limits(Some(1), Some(2), Some(0)), false), [9]);
        assert_eq!(left(&[(9, false), (5, true), (1, true)], limits(Some(2), None, None), false), [5, 1]);
        assert_eq!(left(&[(9, false), (5, false)], limits(Some(1), Some(2), Some(0)), false), [9, 5]);
    }

    #[test]
    fn kubeadms_folders_go_on_demand_and_nothing_else_ever_does() {
        let twin = node_with_backups(&[(1, true)]);
        let host = twin.host(NODE);
        let folder = host.layout.backups();
        let put = |name: &str| {
            let path = folder.join(name).join("etcd.yaml");
            twin.world().change(NODE, |machine| machine.disk.put(path, "x", 0o600)).unwrap();
        };
        let kubeadms = ["kubeadm-backup-etcd-1", "kubeadm-backup-manifests-1", "kubeadm-upgraded-manifests1"];
        kubeadms.into_iter().for_each(put);
        let others = ["liftlock-p-0123456789ab-cp2-20261121T150007Z", "notes", "kubeadm-init-dryrun1"];
        others.into_iter().for_each(put);
        let idle = Turn::default().idle().unwrap();
        let names = |kubeadm_leftovers| {
            let wish = Wish { retention: limits(Some(1), None, Some(0)), kubeadm_leftovers, dry_run: false };
            let node = NODE.parse().unwrap();
            let (pruned, _) = twin.drive(prune(&host, &node, &idle, wish)).done().unwrap().unwrap();
            pruned.into_iter().map(|pruned| pruned.name).collect::<Vec<_>>()
        };
        assert!(names(false).is_empty());
        assert_eq!(names(true), kubeadms);
        for name in others {
            assert!(twin.drive(host.files.exists(&folder.join(name))).done().unwrap().unwrap(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn the_newest_whole_backup_stays_whatever_the_limits(
            backups in prop::collection::btree_map(0_u64..400, any::<bool>(), 0..7),
            keep in prop::option::of(0_u32..4),
            days in prop::option::of(0_u64..400),
            size in prop::option::of(0_u64..20_000),
        ) {
            let backups: Vec<_> = backups.into_iter().rev().collect();
            let left = left(&backups, limits(keep, days, size), false);
            if let Some((newest, _)) = backups.iter().rfind(|(_, whole)| *whole) {
                prop_assert!(left.contains(newest), "{left:?}");
            } else {
                prop_assert_eq!(left.len(), backups.len());
            }
        }
    }

    #[test]
    fn a_removal_that_was_interrupted_is_finished_by_the_next() {
        let twin = node_with_backups(&[(1, true)]);
        let half: Utf8PathBuf =
            "/etc/kubernetes/tmp/.kubeadm-backup-etcd-1.liftlock-removed/etcd.yaml".into();
        twin.world().change(NODE, |machine| machine.disk.put(half, "x", 0o600)).unwrap();
        let (host, node) = (twin.host(NODE), NODE.parse().unwrap());
        let inventory = twin.drive(Inventory::take(&host, &node)).done().unwrap().unwrap();
        assert_eq!(inventory.half_removed, ["kubeadm-backup-etcd-1"]);
        assert!(inventory.leftovers.is_empty());
    }
}
