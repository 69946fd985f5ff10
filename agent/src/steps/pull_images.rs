//! Pulls the target's images through the container runtime, so that kubeadm and the kubelet find them.

use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt;
use futures::stream;
use liftlock_proto::argv;
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;

use super::measure_space::{Need, too_full};
use crate::engine::context::PrepareContext;
use crate::engine::step::{Preparation, StepFailure};
use crate::host::{HostResult, ImageStore, Limits};

/// What runs on every node; the others are static pods of control planes.
const ON_WORKERS: [&str; 3] = ["kube-proxy", "pause", "coredns"];

/// Unpacking says nothing meanwhile.
const IMPORT: Limits = Limits { time: Duration::from_mins(30), silence: Duration::from_mins(30) };

/// Where containerd keeps images, unless its configuration says otherwise.
const CONTAINERD: &str = "/var/lib/containerd";

/// containerd keeps an archive's layers as they come and unpacked, and those of Kubernetes' own images are three times as
/// large then.
const UNPACKED: u64 = 4;

/// Of an image of which no earlier one is there: a little more than the largest of Kubernetes' own, etcd's, as it comes from
/// its registry.
const LARGEST: u64 = 64 << 20;

/// A registry and a disk are busy with this many.
const SIDE_BY_SIDE: usize = 3;

pub(super) struct PullImages {
    pub(super) version: KubernetesVersion,
    pub(super) role: Role,
}

impl PullImages {
    fn wanted(&self, image: &str) -> bool {
        self.role.is_control_plane() || ON_WORKERS.contains(&base_name(image))
    }
}

/// `kube-proxy` of `registry:5000/k8s/kube-proxy:v1.20.2`
fn base_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last)
}

impl PullImages {
    /// Gives the container runtime what it has not got yet, out of archives that lie on the node.
    async fn import(
        &self,
        cx: &PrepareContext,
        images: &[String],
        archives: &[Utf8PathBuf],
    ) -> Result<(), StepFailure> {
        for (number, archive) in archives.iter().enumerate() {
            if missing(cx, images).await?.is_empty() {
                break;
            }
            has_room_to_import(cx, archive).await?;
            cx.reporter.line(cx.step, &format!("importing {archive}"));
            let copy = cx.host.packages.take_archive(archive).await?;
            let unit = format!("liftlock-import-{}-{number}", self.version.bare());
            let argv = argv::ctr_import(copy.as_str());
            let imported = cx.host.commands.run_undisturbing(&unit, &argv, IMPORT, cx).await;
            // It is as large as the images: its room is free again however the import went.
            cx.host.files.discard(&copy).await?;
            imported?;
        }
        let missing = missing(cx, images).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let archives: Vec<&str> = archives.iter().map(|archive| archive.as_str()).collect();
        Err(StepFailure::Refused(format!(
            "{} has not got {}, and no archive of {} that SHA256SUMS lists brings it (there are: {}): put one there whose name \
             ends in {}.tar, list it, then `liftlock retry {}`",
            cx.node,
            missing.join(", "),
            self.version,
            if archives.is_empty() { "none".to_owned() } else { archives.join(", ") },
            self.version,
            cx.node
        )))
    }
}

/// Refuses an archive before a full disk would harm what runs on the node.
async fn has_room_to_import(cx: &PrepareContext, archive: &Utf8Path) -> Result<(), StepFailure> {
    let size = cx.host.files.size_of_tree(archive).await?;
    let (copy, images) = (cx.host.layout.state_dir.clone(), cx.host.layout.at(CONTAINERD));
    let needs =
        [Need { path: copy, bytes: size }, Need { path: images, bytes: size.saturating_mul(UNPACKED) }];
    let findings = too_full(cx, needs.into()).await?;
    if findings.is_empty() {
        return Ok(());
    }
    Err(StepFailure::Refused(format!(
        "{} has too little room to import {archive}: {}; free some, then `liftlock retry {}`",
        cx.node,
        findings.join("; "),
        cx.node
    )))
}

/// Refuses to pull images that the runtime's disk has no room for. No runtime says how large an image is before it has it, so
/// each counts as the largest of its name that is there, unpacked as well.
async fn has_room_to_pull(cx: &PrepareContext, images: &[String]) -> Result<(), StepFailure> {
    let ImageStore { folder, sizes } = cx.host.runtime.image_store().await?;
    let of_before = |image: &String| {
        let named = sizes.iter().filter(|(tag, _)| base_name(tag) == base_name(image));
        named.map(|(_, size)| *size).max().unwrap_or(LARGEST)
    };
    let bytes = images.iter().map(of_before).fold(0, u64::saturating_add).saturating_mul(UNPACKED);
    let path = folder.unwrap_or_else(|| cx.host.layout.at(CONTAINERD));
    let findings = too_full(cx, vec![Need { path, bytes }]).await?;
    if findings.is_empty() {
        return Ok(());
    }
    Err(StepFailure::Refused(format!(
        "{} has too little room to pull {}: {} (reckoned by the images that are there); free some, then `liftlock retry {}`",
        cx.node,
        images.join(", "),
        findings.join("; "),
        cx.node
    )))
}

async fn missing(cx: &PrepareContext, images: &[String]) -> HostResult<Vec<String>> {
    let mut missing = Vec::new();
    for image in images {
        if !cx.host.runtime.has_image(image).await? {
            missing.push(image.clone());
        }
    }
    Ok(missing)
}

async fn pull(cx: &PrepareContext, image: &str) -> HostResult<()> {
    cx.reporter.line(cx.step, &format!("pulling {image}"));
    cx.host.runtime.pull(image).await
}

#[async_trait]
impl Preparation for PullImages {
    async fn run(&self, cx: &PrepareContext) -> Result<(), StepFailure> {
        let mut images = cx.host.packages.images_of(self.version).await?;
        images.retain(|image| self.wanted(image));
        if let Some(archives) = cx.host.packages.image_archives(self.version).await? {
            return self.import(cx, &images, &archives).await;
        }
        let images = missing(cx, &images).await?;
        if images.is_empty() {
            return Ok(());
        }
        has_room_to_pull(cx, &images).await?;
        let mut failures: Vec<String> = stream::iter(images)
            .map(|image| async move { pull(cx, &image).await.err().map(|error| format!("{image}: {error}")) })
            .buffer_unordered(SIDE_BY_SIDE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if failures.is_empty() {
            return Ok(());
        }
        failures.sort();
        Err(StepFailure::Unproven(format!(
            "{} images of {} could not be pulled to {}, so the upgrade would fail later: {}; make the registry \
             reachable or import them, then `liftlock retry {}`",
            failures.len(),
            self.version,
            cx.node,
            failures.join("; "),
            cx.node
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_needs_no_static_pods_images() {
        let worker = PullImages { version: KubernetesVersion::new(1, 20, 2), role: Role::Worker };
        let images = include_str!("../../../tests/fixtures/real/kubeadm/images-list-target/stdout");
        let wanted: Vec<&str> = images.lines().filter(|image| worker.wanted(image)).collect();
        assert_eq!(
            wanted,
            ["k8s.gcr.io/kube-proxy:v1.20.2", "k8s.gcr.io/pause:3.2", "k8s.gcr.io/coredns:1.7.0"]
        );
        assert!(worker.wanted("registry:5000/coredns/coredns@sha256:abc"));
    }
}
