//! What a node's etcd is, whether it runs or not: for whoever has to restore it.

use std::time::Duration;

use liftlock_proto::argv;
use liftlock_proto::v1::{EtcdDescription, EtcdMemberEntry};
use liftlock_proto::version::KubernetesVersion;

use crate::backup::rehearsal;
use crate::host::{EtcdMember, Host, HostError, HostResult};
use crate::kube::static_pod::StaticPod;

/// How long containerd may take to look an image up.
const LOOKUP: Duration = Duration::from_secs(10);

/// Everything that can be found out now; what cannot be is a sentence in it.
pub async fn describe(host: &Host) -> EtcdDescription {
    let mut description = EtcdDescription::default();
    if let Err(error) = configured(host, &mut description).await {
        description.manifest_failure = error.to_string();
    }
    let version = control_plane_version(host).await;
    description.control_plane_version = version.map(|version| version.to_string()).unwrap_or_default();
    match running(host).await {
        Ok((version, revision, members)) => {
            description.version = version;
            description.revision = revision;
            description.members = members.into_iter().map(Into::into).collect();
        }
        Err(error) => description.unreachable = error.to_string(),
    }
    let version = Some(description.version.as_str()).filter(|version| !version.is_empty());
    description.tool = rehearsal::tool(host, version).await.unwrap_or_default();
    description
}

/// A manifest of this node, also one that waits aside while etcd is restored.
async fn manifest(host: &Host, pod: &str) -> HostResult<StaticPod> {
    let file = format!("{pod}.yaml");
    let path = host.layout.manifests().join(&file);
    let manifest = match host.files.read(&path).await? {
        None => host.files.read(&host.layout.at(argv::RESTORE_ASIDE).join(&file)).await?,
        found => found,
    };
    let manifest = manifest.ok_or_else(|| HostError::Malformed {
        what: path.to_string(),
        why: format!("it is not there, so nothing says how this node's {pod} is started; put it back first"),
    })?;
    StaticPod::parse(pod, &manifest)
}

async fn configured(host: &Host, description: &mut EtcdDescription) -> HostResult<()> {
    let pod = manifest(host, "etcd").await?;
    let flag = |name: &str| pod.required(name).map(str::to_owned);
    description.name = flag("name")?;
    description.data_dir = flag("data-dir")?;
    description.peer_urls = flag("initial-advertise-peer-urls")?;
    // No `ctr`, no image.
    let images = host.commands.read(&argv::ctr_image(&pod.image), LOOKUP).await.unwrap_or_default();
    if images.lines().any(|image| image == pod.image) {
        description.image = pod.image;
    }
    Ok(())
}

/// What the API server is started at, where its manifest says so.
async fn control_plane_version(host: &Host) -> Option<KubernetesVersion> {
    let pod = manifest(host, "kube-apiserver").await.ok()?;
    pod.image.rsplit_once(':')?.1.parse().ok()
}

async fn running(host: &Host) -> HostResult<(String, u64, Vec<EtcdMember>)> {
    let head = host.etcd.head().await?;
    Ok((head.version, head.revision, host.etcd.members().await?))
}

impl From<EtcdMember> for EtcdMemberEntry {
    fn from(member: EtcdMember) -> Self {
        let flaw = match member.status {
            Err(why) => why,
            Ok(status) if status.leader == 0 => "it sees no leader".to_owned(),
            Ok(status) => status.errors.join("; "),
        };
        Self { id: member.id, name: member.name, peer_urls: member.peer_urls, learner: member.learner, flaw }
    }
}
