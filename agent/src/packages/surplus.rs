//! What raises leave on a node of packages and programs, and its removal once nobody can need it.
//!
//! A file stays as long as its version is installed or a backup that is kept names it: the way back from any of them finds
//! it. So there is as much of it as there are backups, whatever the number of raises.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::NodeName;
use liftlock_proto::packages::PackageManager;
use liftlock_proto::version::KubernetesVersion;

use super::directory::{LIST, TAKEN, offer};
use super::dnf::RPMS;
use super::output::kubernetes_version;
use super::plain::KEPT;
use crate::backup::inventory::Inventory;
use crate::backup::packages::{NAME, PackageState};
use crate::engine::idle::Idle;
use crate::host::{Host, HostResult};

/// Where apt keeps what it fetched. Of what is in it only kubeadm, kubelet and kubectl are ours to remove.
const APT_ARCHIVES: &str = "/var/cache/apt/archives";

const MANAGERS: [PackageManager; 3] = [PackageManager::Apt, PackageManager::Dnf, PackageManager::Files];

/// Removes what no raise and no way back needs; returns what went. Nothing goes where a backup does not say what it needs.
pub async fn remove(host: &Host, node: &NodeName, idle: &Idle) -> HostResult<Vec<Utf8PathBuf>> {
    let Some(needed) = needed(host, node).await? else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for name in [TAKEN, RPMS, KEPT] {
        let folder = host.layout.state_dir.join(name);
        for file in host.files.files_below(&folder).await? {
            // Whatever else is there is left of something that was cut off.
            if file != LIST && !version_of(&file).is_some_and(|version| needed.contains(&version)) {
                removed.push(folder.join(file));
            }
        }
    }
    let archives = host.layout.at(APT_ARCHIVES);
    for name in host.files.list(&archives).await? {
        let version = offer(PackageManager::Apt, &name).and_then(|offer| kubernetes_version(&offer.version));
        if version.is_some_and(|version| !needed.contains(&version)) {
            removed.push(archives.join(name));
        }
    }
    for path in &removed {
        host.files.remove_tree(idle, path).await?;
        tracing::info!(%path, "removed: neither what is installed nor a backup needs it");
    }
    Ok(removed)
}

/// The versions that are installed, and those that backups name; `None` where one of them does not say.
async fn needed(host: &Host, node: &NodeName) -> HostResult<Option<BTreeSet<KubernetesVersion>>> {
    let mut states = vec![host.packages.installed().await?];
    for backup in Inventory::take(host, node).await?.backups {
        let Some(json) = host.files.read(&backup.folder.path().join(NAME)).await? else {
            // Of one that was never finished nothing is put back.
            if backup.index.is_err() {
                continue;
            }
            return Ok(None);
        };
        let Ok(state) = serde_json::from_slice::<PackageState>(&json) else { return Ok(None) };
        states.push(state.installed);
    }
    let versions = states.iter().flat_map(|state| state.values());
    Ok(Some(versions.filter_map(|version| kubernetes_version(version)).collect()))
}

/// The Kubernetes version of a program's file or package, by its name.
fn version_of(file: &Utf8Path) -> Option<KubernetesVersion> {
    let offer = MANAGERS.into_iter().find_map(|manager| offer(manager, file.as_str()))?;
    kubernetes_version(&offer.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::bench::{NODE, node_with_backups};
    use crate::backup::name::BackupName;
    use crate::engine::idle::Turn;
    use crate::twin::Twin;

    const STATE: &str = "/var/lib/liftlock";

    /// What the file of a backup says of a node's packages.
    fn say(twin: &Twin, backup: &BackupName, version: &str) {
        let host = twin.host(NODE);
        let folder = crate::backup::Folder::of(&host, backup);
        let installed = [("kubelet".to_owned(), format!("{version}-1.1"))].into();
        let json = serde_json::to_vec(&PackageState { installed, held: Vec::new() }).unwrap();
        twin.world()
            .change(NODE, |machine| machine.disk.put(folder.path().join(NAME), &json, 0o600))
            .unwrap();
    }

    fn backups(twin: &Twin) -> Vec<BackupName> {
        let host = twin.host(NODE);
        let inventory = twin.drive(Inventory::take(&host, &NODE.parse().unwrap())).done().unwrap().unwrap();
        inventory.backups.into_iter().map(|backup| backup.name).collect()
    }

    /// Everything of these versions, as each kind of node leaves it.
    fn put_all(twin: &Twin, versions: &[&str]) {
        let mut world = twin.world();
        world.change(NODE, |machine| {
            for version in versions {
                for path in [
                    format!("{STATE}/{TAKEN}/kubeadm_{version}-1.1_amd64.deb"),
                    format!("{STATE}/{TAKEN}/v{version}/kubelet"),
                    format!("{STATE}/{RPMS}/kubectl-{version}-150500.1.1.x86_64.rpm"),
                    format!("{STATE}/{KEPT}/kubelet-v{version}"),
                    format!("{APT_ARCHIVES}/kubelet_{version}-1.1_amd64.deb"),
                ] {
                    machine.disk.put(path, *version, 0o600);
                }
            }
            machine.disk.put(format!("{STATE}/{TAKEN}/SHA256SUMS"), "", 0o600);
            machine.disk.put(
                format!("{STATE}/{TAKEN}/images-v1.30.4.tar"),
                "of an import that was cut off",
                0o600,
            );
            machine.disk.put(format!("{APT_ARCHIVES}/cri-tools_1.28.0-1.1_amd64.deb"), "not ours", 0o644);
        });
    }

    fn left(twin: &Twin) -> Vec<String> {
        let world = twin.world();
        let disk = &world.machine(NODE).unwrap().disk;
        let below = |folder: String| {
            let files = disk.below(Utf8Path::new(&folder));
            files
                .into_iter()
                .map(move |(path, _)| path.strip_prefix(&folder).unwrap().to_string())
                .collect::<Vec<_>>()
        };
        let mut left = below(APT_ARCHIVES.to_owned());
        for name in [TAKEN, RPMS, KEPT] {
            left.extend(below(format!("{STATE}/{name}")));
        }
        left
    }

    fn removed(twin: &Twin) -> usize {
        let host = twin.host(NODE);
        let idle = Turn::default().idle().unwrap();
        twin.drive(remove(&host, &NODE.parse().unwrap(), &idle)).done().unwrap().unwrap().len()
    }

    #[test]
    fn packages_and_programs_of_versions_that_nothing_needs_go_and_those_of_kept_backups_stay() {
        // v1.30.4 is installed.
        let twin = node_with_backups(&[(40, true), (9, true)]);
        for (backup, version) in backups(&twin).iter().zip(["1.28.1", "1.29.9"]) {
            say(&twin, backup, version);
        }
        put_all(&twin, &["1.26.0", "1.27.3", "1.28.1", "1.29.9", "1.30.4"]);
        assert_eq!(removed(&twin), 2 * 5 + 1);
        let left = left(&twin);
        for version in ["1.28.1", "1.29.9", "1.30.4"] {
            assert_eq!(left.iter().filter(|file| file.contains(version)).count(), 5, "{version}: {left:?}");
        }
        assert_eq!(left.len(), 3 * 5 + 2, "{left:?}");
        assert_eq!(removed(&twin), 0);
    }

    #[test]
    fn where_a_backup_does_not_say_what_it_needs_nothing_goes() {
        let twin = node_with_backups(&[(9, true)]);
        put_all(&twin, &["1.26.0"]);
        assert_eq!(removed(&twin), 0);
        // One that was never finished needs nothing.
        let twin = node_with_backups(&[(9, false)]);
        put_all(&twin, &["1.26.0"]);
        assert_eq!(removed(&twin), 5 + 1);
    }
}
