//! The control plane's static pods: their manifests, and the containers that should follow from them.

use std::time::Duration;

use liftlock_proto::version::KubernetesVersion;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::StepFailure;
use crate::host::{HostError, HostResult};

/// The static pods that carry Kubernetes' own version.
const KUBERNETES: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The static pod of a local etcd.
const ETCD: &str = "etcd";

/// kubeadm's own backups in /etc/kubernetes/tmp; the time follows (kubeadm 1.20 `pathManager`, unchanged since).
const KUBEADM_BACKUP: &str = "kubeadm-backup-manifests-";

/// How long static pods may take after their manifests changed. kubeadm itself gives each one five minutes.
pub(super) const LIMIT: Duration = Duration::from_mins(5);

/// The runtime has no call that waits for a container, so it is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Whether a container of an earlier image may still be there beside the one that runs. An API server that was told to
/// stop goes on for up to 30 s with the watches that it holds, while the new one serves already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// It is on its way out.
    MayLinger,
    /// It has to be gone.
    Gone,
}

/// As much of a static pod's manifest as matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The image of the container that is named like the pod.
    pub(super) image: String,
}

impl Manifest {
    /// The manifest of this component; `None` for anything else, such as the empty file that a power cut leaves
    /// where kubeadm's new manifest never reached the disk.
    fn parse(component: &str, yaml: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Pod {
            kind: String,
            metadata: Metadata,
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Metadata {
            name: String,
        }
        #[derive(Deserialize)]
        struct Spec {
            containers: Vec<Container>,
        }
        #[derive(Deserialize)]
        struct Container {
            name: String,
            image: String,
        }
        let pod: Pod = serde_saphyr::from_str(std::str::from_utf8(yaml).ok()?).ok()?;
        (pod.kind == "Pod" && pod.metadata.name == component).then_some(())?;
        let container = pod.spec.containers.into_iter().find(|container| container.name == component)?;
        Some(Self { image: container.image })
    }

    /// The manifest of a component on this node, if one is there that reads.
    pub(super) async fn read(cx: &Context, component: &str) -> HostResult<Option<Self>> {
        let path = cx.host.layout.manifests().join(format!("{component}.yaml"));
        let yaml = cx.host.files.read(&path).await?;
        Ok(yaml.and_then(|yaml| Self::parse(component, &yaml)))
    }

    /// The manifest of a component in a backup.
    async fn in_backup(cx: &Context, backup: &Backup, component: &str) -> HostResult<Option<Self>> {
        let yaml = cx.host.files.read(&backup.folder.copy_of(&path_of(component))).await?;
        Ok(yaml.and_then(|yaml| Self::parse(component, &yaml)))
    }

    /// The image's tag as a Kubernetes version.
    pub(super) fn version(&self) -> Option<KubernetesVersion> {
        tag(&self.image)?.parse().ok()
    }
}

/// `/etc/kubernetes/manifests/etcd.yaml`
fn path_of(component: &str) -> String {
    format!("/etc/kubernetes/manifests/{component}.yaml")
}

/// The tag of an image's name: `v1.20.2` of `registry:5000/kube-apiserver:v1.20.2@sha256:…`.
fn tag(image: &str) -> Option<&str> {
    let name = image.split('@').next()?;
    let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
    Some(tag)
}

/// Whether this node is a control plane.
pub(super) async fn are_here(cx: &Context) -> HostResult<bool> {
    Ok(Manifest::read(cx, "kube-apiserver").await?.is_some())
}

/// The static pods that this node must have: etcd's only where etcd is local.
pub(super) async fn expected(cx: &Context, backup: Option<&Backup>) -> HostResult<Vec<&'static str>> {
    let mut components = vec![ETCD];
    components.extend(KUBERNETES);
    if !etcd_is_local(cx, backup).await? {
        components.remove(0);
    }
    Ok(components)
}

/// Whether etcd is a static pod of this node. Its manifest may be gone after a power cut, so the backup is asked
/// too, and then kubeadm-config.
pub(super) async fn etcd_is_local(cx: &Context, backup: Option<&Backup>) -> HostResult<bool> {
    if Manifest::read(cx, ETCD).await?.is_some() {
        return Ok(true);
    }
    if let Some(backup) = backup {
        return Ok(backup.files(&path_of(ETCD)).next().is_some());
    }
    // Without an API server there is no more to be learnt: no word of a local etcd.
    let config_map = cx.host.kube.config_map("kubeadm-config").await.ok().flatten();
    Ok(config_map.is_some_and(|yaml| config_map_says_local_etcd(&yaml)))
}

fn config_map_says_local_etcd(yaml: &str) -> bool {
    #[derive(Deserialize)]
    struct ConfigMap {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "ClusterConfiguration")]
        cluster_configuration: String,
    }
    #[derive(Deserialize)]
    struct ClusterConfiguration {
        etcd: Etcd,
    }
    #[derive(Deserialize)]
    struct Etcd {
        local: Option<IgnoredAny>,
    }
    let cluster = serde_saphyr::from_str::<ConfigMap>(yaml)
        .and_then(|map| serde_saphyr::from_str::<ClusterConfiguration>(&map.data.cluster_configuration));
    cluster.is_ok_and(|cluster| cluster.etcd.local.is_some())
}

/// Puts back the standard manifests that are missing; whether any was.
///
/// kubeadm moves a live manifest into its backup folder and then the new one into its place. A power cut between
/// the two leaves a node without, say, `kube-apiserver.yaml`; `kubeadm upgrade node` then takes the node for a worker
/// and ends with success. So this comes before every kubeadm. The newest copy that kubeadm made during this plan is
/// what was live last; where there is none, our own backup is.
pub(super) async fn put_back_missing(cx: &Context, backup: Option<&Backup>) -> Result<bool, StepFailure> {
    let mut any = false;
    for component in expected(cx, backup).await? {
        if Manifest::read(cx, component).await?.is_some() {
            continue;
        }
        let from = replacement(cx, backup, component).await?;
        let to = cx.host.layout.at(&path_of(component));
        cx.reporter.line(cx.step, &format!("{to} is missing or not readable: put back from {from}"));
        cx.host.files.restore_file(&cx.permit()?, &from, &to).await?;
        any = true;
    }
    Ok(any)
}

/// Waits until the static pods run as their manifests say and this node's own API server answers. A kubeadm that was
/// cut off or failed leaves them on their way from one manifest to another, an etcd among them, which the next kubeadm
/// would find unhealthy.
pub(super) async fn settle(cx: &Context, backup: Option<&Backup>) -> Result<(), StepFailure> {
    let expected = expected(cx, backup).await?;
    wait_until_like_manifests(cx, &expected, None, Earlier::MayLinger).await?;
    wait_for_own_api_server(cx).await
}

async fn replacement(
    cx: &Context,
    backup: Option<&Backup>,
    component: &str,
) -> Result<camino::Utf8PathBuf, StepFailure> {
    let backups = cx.host.layout.backups();
    for name in cx.host.files.list(&backups).await?.iter().rev() {
        let earlier = backup.is_some_and(|backup| backup.index.earlier_kubeadm_backups.contains(name));
        if name.starts_with(KUBEADM_BACKUP) && !earlier {
            let path = backups.join(name).join(format!("{component}.yaml"));
            let yaml = cx.host.files.read(&path).await?;
            if yaml.is_some_and(|yaml| Manifest::parse(component, &yaml).is_some()) {
                return Ok(path);
            }
        }
    }
    if let Some(backup) = backup
        && Manifest::in_backup(cx, backup, component).await?.is_some()
    {
        return Ok(backup.folder.copy_of(&path_of(component)));
    }
    Err(StepFailure::Refused(format!(
        "{} has no readable manifest of {component} in {}, and there is none in {backups} either: put it back by \
         hand, then retry the node",
        cx.node,
        cx.host.layout.manifests()
    )))
}

/// The folders in which kubeadm has kept manifests so far.
pub(super) async fn kubeadm_backups(cx: &Context) -> HostResult<Vec<String>> {
    let mut names = cx.host.files.list(&cx.host.layout.backups()).await?;
    names.retain(|name| name.starts_with(KUBEADM_BACKUP));
    Ok(names)
}

/// What does not run as its manifest says, or is not at the version; empty where all is well. Asks the runtime,
/// not the API: mirror pods lag behind, and kubeadm has reported success with the old API server still running
/// (kubernetes/kubeadm issue 1617).
pub(super) async fn unlike_manifests(
    cx: &Context,
    expected: &[&str],
    version: Option<KubernetesVersion>,
    earlier: Earlier,
) -> HostResult<Vec<String>> {
    let running = cx.host.runtime.running().await?;
    let mut findings = Vec::new();
    for component in expected {
        let Some(manifest) = Manifest::read(cx, component).await? else {
            findings.push(format!("the manifest of {component} is missing or not readable"));
            continue;
        };
        if let Some(version) = version
            && KUBERNETES.contains(component)
            && manifest.version() != Some(version)
        {
            findings.push(format!("the manifest of {component} names {}", manifest.image));
            continue;
        }
        let pod = format!("{component}-{}", cx.node);
        let containers = running.iter().filter(|container| {
            container.namespace == "kube-system" && container.pod == pod && container.name == *component
        });
        let (like, unlike): (Vec<_>, Vec<_>) = containers
            .partition(|container| container.images.iter().any(|image| same_image(image, &manifest.image)));
        if like.is_empty() && unlike.is_empty() {
            findings.push(format!("no container of {component} is running"));
        }
        if like.is_empty() || earlier == Earlier::Gone {
            findings
                .extend(unlike.iter().map(|old| format!("{component} still runs {}", old.images.join(", "))));
        }
    }
    Ok(findings)
}

/// Whether the runtime's full name of an image is what a manifest names. A manifest's digest is in no tag.
fn same_image(tag: &str, named: &str) -> bool {
    let named = named.split('@').next().unwrap_or(named);
    tag == named || tag.strip_suffix(named).is_some_and(|registry| registry.ends_with('/'))
}

/// Waits until these static pods run as their manifests say, and at this version.
pub(super) async fn wait_until_like_manifests(
    cx: &Context,
    expected: &[&str],
    version: Option<KubernetesVersion>,
    earlier: Earlier,
) -> Result<(), StepFailure> {
    let clock = &cx.host.clock;
    let deadline = clock.monotonic() + LIMIT;
    let mut said = Vec::new();
    cx.timed(TimeSpent::Wait, async {
        loop {
            let findings = unlike_manifests(cx, expected, version, earlier).await?;
            if findings.is_empty() {
                return Ok(());
            }
            if findings != said {
                cx.reporter.line(cx.step, &format!("waiting for static pods: {}", findings.join("; ")));
                said.clone_from(&findings);
            }
            if clock.monotonic() >= deadline {
                let what = version.map_or_else(
                    || format!("the static pods of {} to run as their manifests say", cx.node),
                    |version| format!("the static pods of {} to run {version}", cx.node),
                );
                let seen = findings.join("; ");
                return Err(HostError::Timeout { what, limit: LIMIT, seen }.into());
            }
            clock.sleep(ASK_EVERY).await;
        }
    })
    .await
}

/// Waits for this node's own API server, at the version that its manifest names. Says so before: where one does not come,
/// nothing else would tell for minutes what the step stands at.
pub(super) async fn wait_for_own_api_server(cx: &Context) -> Result<(), StepFailure> {
    let manifest = Manifest::read(cx, "kube-apiserver").await?;
    if let Some(version) = manifest.and_then(|manifest| manifest.version()) {
        cx.reporter
            .line(cx.step, &format!("waiting for this node's own API server to be ready at {version}"));
        let answered = cx.host.kube.wait_for_own_api_server(version, LIMIT);
        cx.timed(TimeSpent::Wait, answered).await?;
    }
    Ok(())
}

/// Refuses to go back to a manifest of etcd of another minor version: its data is never downgraded.
pub(super) async fn refuse_etcd_downgrade(cx: &Context, backup: &Backup) -> Result<(), StepFailure> {
    let (Some(now), Some(before)) =
        (Manifest::read(cx, ETCD).await?, Manifest::in_backup(cx, backup, ETCD).await?)
    else {
        return Ok(());
    };
    if minor(&now.image) == minor(&before.image) {
        return Ok(());
    }
    Err(StepFailure::Refused(format!(
        "{} is not put back: its etcd has gone from {} to {}, and etcd's data cannot go back to an earlier minor \
         version; roll forward with a retry, or restore the snapshot in {} by hand and lose what was written since",
        cx.node,
        before.image,
        now.image,
        backup.folder.path()
    )))
}

/// `3.5` of `registry.k8s.io/etcd:3.5.12-0`
fn minor(image: &str) -> Option<(&str, &str)> {
    let mut numbers = tag(image)?.trim_start_matches('v').split('.');
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_tag_is_what_follows_its_name_not_the_registrys_port() {
        assert_eq!(tag("registry:5000/kube-apiserver:v1.20.2"), Some("v1.20.2"));
        assert_eq!(tag("registry:5000/kube-apiserver"), None);
        assert_eq!(tag("k8s.gcr.io/etcd:3.4.13-0@sha256:abc"), Some("3.4.13-0"));
        assert_eq!(minor("k8s.gcr.io/etcd:3.4.13-0"), Some(("3", "4")));
    }

    #[test]
    fn the_runtimes_full_name_of_an_image_is_the_manifests_short_one() {
        assert!(same_image("docker.io/library/etcd:3", "etcd:3"));
        assert!(same_image("k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/etcd:3.4.13-0@sha256:abc"));
        assert!(!same_image("k8s.gcr.io/not-etcd:3", "etcd:3"));
        assert!(!same_image("k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/etcd:3.5.0-0"));
    }

    #[test]
    fn a_real_manifest_parses_and_an_empty_or_foreign_file_does_not() {
        let yaml = include_bytes!("../../../tests/fixtures/real/files/manifest-kube-apiserver/stdout");
        let manifest = Manifest::parse("kube-apiserver", yaml).unwrap();
        assert_eq!(manifest.version(), Some(KubernetesVersion::new(1, 19, 7)));
        assert_eq!(Manifest::parse("etcd", yaml), None);
        assert_eq!(Manifest::parse("kube-apiserver", b""), None);
        assert_eq!(Manifest::parse("kube-apiserver", &[0; 512]), None);
    }

    #[test]
    fn a_local_etcd_is_read_out_of_kubeadm_config() {
        let config_map = |etcd: &str| {
            format!(
                "data:\n  ClusterConfiguration: |\n    kind: ClusterConfiguration\n    etcd:\n      {etcd}\n"
            )
        };
        assert!(config_map_says_local_etcd(&config_map("local:\n        dataDir: /var/lib/etcd")));
        assert!(!config_map_says_local_etcd(&config_map("external:\n        endpoints: []")));
        assert!(!config_map_says_local_etcd("nonsense"));
    }
}
