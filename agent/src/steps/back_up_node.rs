//! What may change on the node, copied and indexed before it does.

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::{try_join_all, try_join3};
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;
use serde::{Deserialize, Serialize};

use super::api::patiently;
use super::static_pods;
use crate::backup::digest::FileDigest;
use crate::backup::index::{Entry, Index};
use crate::backup::packages::{self, PackageState};
use crate::backup::snapshot::SnapshotFacts;
use crate::backup::{Backup, Folder, KUBELET_FILES};
use crate::engine::context::Context;
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::host::{HostError, HostResult};

/// What kubeadm writes to the cluster. Its `ConfigMap` for kubelets carries a minor version in its name before 1.24.
const CONFIG_MAPS: [&str; 3] = ["kubeadm-config", "kube-proxy", "coredns"];
const KUBELET_CONFIG_MAPS: &str = "kubelet-config";

pub(super) struct BackUpNode {
    pub(super) role: Role,
}

#[derive(Serialize, Deserialize)]
struct Chosen {
    folder: String,
}

impl BackUpNode {
    /// Files and folders to copy, as paths on a real node. A worker may have static pods of its own.
    pub(super) async fn sources(cx: &Context) -> HostResult<Vec<String>> {
        let mut sources = vec!["/etc/kubernetes/manifests".to_owned(), "/etc/kubernetes/pki".to_owned()];
        let names = cx.host.files.list(&cx.host.layout.at("/etc/kubernetes")).await?;
        let kubeconfigs = names.iter().filter(|name| Utf8Path::new(name).extension() == Some("conf"));
        sources.extend(kubeconfigs.map(|name| format!("/etc/kubernetes/{name}")));
        sources.extend(KUBELET_FILES.map(str::to_owned));
        Ok(sources)
    }

    /// Side by side: most of the time goes into fsync.
    async fn copy_files(cx: &Context, folder: &Folder) -> HostResult<Vec<Entry>> {
        let copies = Self::sources(cx).await?.into_iter().map(|source| async move {
            let from = cx.host.layout.at(&source);
            let copied = cx.host.files.copy_tree(&cx.permit()?, &from, &folder.copy_of(&source)).await?;
            let root = Utf8PathBuf::from(format!("files{source}"));
            Ok::<_, HostError>(copied.into_iter().map(move |file| Entry {
                // Empty where the source is a file.
                path: if file.path.as_str().is_empty() { root.clone() } else { root.join(&file.path) },
                digest: FileDigest { size: file.size, sha256: file.sha256 },
            }))
        });
        Ok(try_join_all(copies).await?.into_iter().flatten().collect())
    }

    async fn read_config_maps(cx: &Context) -> HostResult<Vec<(String, String)>> {
        let mut names = patiently(cx, || cx.host.kube.config_map_names()).await?;
        names.retain(|name| CONFIG_MAPS.contains(&name.as_str()) || name.starts_with(KUBELET_CONFIG_MAPS));
        let read = names.into_iter().map(|name| async move {
            let yaml = patiently(cx, || cx.host.kube.config_map(&name)).await?;
            Ok::<_, HostError>(yaml.map(|yaml| (name, yaml)))
        });
        Ok(try_join_all(read).await?.into_iter().flatten().collect())
    }

    /// What kubeadm knows of the cluster; only control planes change that.
    async fn copy_cluster(
        &self,
        cx: &Context,
        folder: &Folder,
    ) -> HostResult<(Option<KubernetesVersion>, Vec<Entry>)> {
        if !self.role.is_control_plane() {
            return Ok((None, Vec::new()));
        }
        let version = patiently(cx, || cx.host.kube.kubeadm_config_version()).await?;
        Ok((Some(version), Self::write_config_maps(cx, folder).await?))
    }

    async fn write_config_maps(cx: &Context, folder: &Folder) -> HostResult<Vec<Entry>> {
        let mut entries = Vec::new();
        let config_maps = Self::read_config_maps(cx).await?;
        cx.host.files.create_dir(&cx.permit()?, &folder.path().join("configmaps"), 0o700).await?;
        for (name, yaml) in config_maps {
            let path = Utf8PathBuf::from(format!("configmaps/{name}.yaml"));
            cx.host.files.write(&cx.permit()?, &folder.path().join(&path), yaml.as_bytes(), 0o600).await?;
            entries.push(Entry { path, digest: FileDigest::of(yaml.as_bytes()) });
        }
        Ok(entries)
    }
}

#[async_trait]
impl StepRunner for BackUpNode {
    /// A backup that was finished stays the one of its plan: a later one would show a node that is changed already.
    /// One that was damaged since is an error, for the same reason.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let Some(backup) = Backup::find(cx).await? else {
            return Ok(Observed::Absent);
        };
        backup.verify(&cx.host).await?;
        Ok(Observed::Done)
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        Ok(serde_json::to_value(Chosen { folder: Folder::choose(cx).await? })?)
    }

    async fn run(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Chosen { folder } = serde_json::from_value(pre.clone())?;
        let folder = Folder::named(cx, &folder)?;
        folder.create(cx).await?;
        // Side by side: disk, API and package manager do not wait for each other.
        let (files, (cluster_version, config_maps), installed) = try_join3(
            Self::copy_files(cx, &folder),
            self.copy_cluster(cx, &folder),
            PackageState::now(&cx.host),
        )
        .await?;
        let mut index = Index::new(cx, self.role, cluster_version);
        index.earlier_kubeadm_backups = static_pods::kubeadm_backups(cx).await?;
        index.entries = [files, config_maps].concat();
        index.snapshot = SnapshotFacts::read(&cx.host, &folder).await?.map(|facts| facts.digest());
        let json = installed.write(cx, &folder).await?;
        index.entries.push(Entry { path: packages::NAME.into(), digest: FileDigest::of(&json) });
        index.write(cx, &folder).await?;
        Ok(())
    }

    /// The backup stays. What comes after the undo is another upgrade, with a backup of its own.
    async fn undo(&self, cx: &Context, pre: &PreState) -> Result<(), StepFailure> {
        let Chosen { folder } = serde_json::from_value(pre.clone())?;
        Ok(Folder::named(cx, &folder)?.close(cx).await?)
    }
}
