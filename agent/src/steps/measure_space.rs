//! Refuses a node whose disks are too full, before anything begins.

use async_trait::async_trait;
use camino::Utf8PathBuf;
use liftlock_proto::packages::{PackageManager, PackageSource};
use liftlock_proto::plan::Role;

use super::kubeadm::mebibytes;
use crate::engine::context::PrepareContext;
use crate::engine::step::{Preparation, StepFailure};
use crate::host::HostResult;
use crate::protect::keep;
use crate::protect::rules::Rules;

const MIB: u64 = 1 << 20;

/// kubeadm copies etcd's data in every run and removes nothing: two attempts, our snapshot, and for a while the folder
/// that its restore is rehearsed in.
const COPIES_OF_ETCD: u64 = 4;
/// What a restore makes besides: a file of etcd's write-ahead log.
const REHEARSAL: u64 = 64 * MIB;
/// Manifests, certificates, `ConfigMap`s.
const BACKUP: u64 = 32 * MIB;
/// etcd makes its next write-ahead log file, 64 MB, before it needs it.
const ETCD_GROWTH: u64 = 256 * MIB;
/// The three packages, compressed: about 60 MiB.
const DOWNLOADS: u64 = 256 * MIB;
/// dpkg unpacks beside the old files: kubelet, kubeadm and kubectl have about 230 MiB.
const UNPACKING: u64 = 384 * MIB;
/// Journal and logs of children.
const STATE: u64 = 32 * MIB;

pub(super) struct MeasureSpace {
    pub(super) role: Role,
}

/// Room that something needs.
pub(super) struct Need {
    pub(super) path: Utf8PathBuf,
    pub(super) bytes: u64,
}

impl MeasureSpace {
    async fn needs(&self, cx: &PrepareContext) -> HostResult<Vec<Need>> {
        let layout = &cx.host.layout;
        let PackageSource { manager, directory, .. } = cx.host.packages.source().await?;
        let mut needs = vec![
            Need { path: layout.at("/usr/bin"), bytes: UNPACKING },
            Need { path: layout.state_dir.clone(), bytes: STATE },
        ];
        match manager {
            // What was taken out of a folder is there by now.
            PackageManager::Apt | PackageManager::Dnf if directory.is_some() => {}
            PackageManager::Apt => {
                needs.insert(0, Need { path: layout.at("/var/cache/apt/archives"), bytes: DOWNLOADS });
            }
            // dnf fetches what it installs once more.
            PackageManager::Dnf => needs.push(Need { path: layout.at("/var/cache/dnf"), bytes: DOWNLOADS }),
            // What is replaced is kept.
            PackageManager::Files => needs.push(Need { path: layout.state_dir.clone(), bytes: UNPACKING }),
        }
        let mut backups = BACKUP + keep::LIMIT;
        let etcd = layout.at("/var/lib/etcd");
        if self.role.is_control_plane() && cx.host.files.exists(&etcd).await? {
            backups += COPIES_OF_ETCD * cx.host.files.size_of_tree(&etcd).await? + REHEARSAL;
            needs.push(Need { path: etcd, bytes: ETCD_GROWTH });
        }
        needs.push(Need { path: layout.backups(), bytes: backups });
        Ok(needs)
    }
}

/// Room for what the package manager downloads before a lease; none where packages come out of a folder, whose copies say
/// themselves where they found none.
pub(super) async fn room_for_downloads(cx: &PrepareContext) -> HostResult<Vec<Need>> {
    let PackageSource { manager, directory, .. } = cx.host.packages.source().await?;
    let into = match (manager, directory) {
        (PackageManager::Files, _) | (_, Some(_)) => return Ok(Vec::new()),
        (PackageManager::Apt, None) => cx.host.layout.at("/var/cache/apt/archives"),
        (PackageManager::Dnf, None) => cx.host.layout.state_dir.clone(),
    };
    Ok(vec![Need { path: into, bytes: DOWNLOADS }])
}

/// Each file system that has less room than its needs together ask for, in words.
pub(super) async fn too_full(cx: &PrepareContext, needs: Vec<Need>) -> HostResult<Vec<String>> {
    let mut systems: Vec<(u64, u64, Vec<Need>)> = Vec::new();
    for need in needs {
        let space = cx.host.files.space(&need.path).await?;
        match systems.iter_mut().find(|(device, ..)| *device == space.device) {
            Some((_, _, needs)) => needs.push(need),
            None => systems.push((space.device, space.free, vec![need])),
        }
    }
    let mut findings = Vec::new();
    for (_, free, needs) in systems {
        let total: u64 = needs.iter().map(|need| need.bytes).sum();
        if total > free {
            let parts: Vec<String> =
                needs.iter().map(|need| format!("{} MiB for {}", mebibytes(need.bytes), need.path)).collect();
            findings.push(format!(
                "{} MiB are needed on one file system ({}), and {} MiB are free",
                mebibytes(total),
                parts.join(", "),
                free / MIB
            ));
        }
    }
    Ok(findings)
}

#[async_trait]
impl Preparation for MeasureSpace {
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        // Read here only to refuse it early: the lease reads it anew.
        Rules::load(&cx.host).await?;
        let findings = too_full(cx, self.needs(cx).await?).await?;
        if !findings.is_empty() {
            return Err(StepFailure::Refused(format!(
                "{} has too little room: {}; free some, then `liftlock retry {}`",
                cx.node,
                findings.join("; "),
                cx.node
            )));
        }
        if self.role.is_control_plane() {
            let (backups, manifests) = (cx.host.layout.backups(), cx.host.layout.manifests());
            if cx.host.files.space(&backups).await?.device != cx.host.files.space(&manifests).await?.device {
                return Err(StepFailure::Refused(format!(
                    "{backups} and {manifests} are on different file systems, between which kubeadm cannot rename \
                     manifests (EXDEV, kubernetes/kubeadm issue 3023): put both on one, then `liftlock retry {}`",
                    cx.node
                )));
            }
        }
        Ok(())
    }
}
