//! What a node's etcd is, whether it runs or not: for whoever has to restore it.

use liftlock_proto::v1::{EtcdDescription, EtcdMemberEntry};

use crate::backup::rehearsal;
use crate::host::{EtcdMember, Host, HostError, HostResult};
use crate::kube::static_pod::StaticPod;

/// Everything that can be found out now; what cannot be is a sentence in it.
pub async fn describe(host: &Host) -> EtcdDescription {
    let mut description = EtcdDescription::default();
    match manifest(host).await {
        Ok((name, data_dir, peer_urls)) => {
            description.name = name;
            description.data_dir = data_dir;
            description.peer_urls = peer_urls;
        }
        Err(error) => description.manifest_failure = error.to_string(),
    }
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

/// Name, data directory and peer URLs of the member.
async fn manifest(host: &Host) -> HostResult<(String, String, String)> {
    let path = host.layout.manifests().join("etcd.yaml");
    let manifest = host.files.read(&path).await?.ok_or_else(|| HostError::Malformed {
        what: path.to_string(),
        why: "it is not there, so nothing says how this node's etcd is started; put it back first".to_owned(),
    })?;
    let pod = StaticPod::parse("etcd", &manifest)?;
    let flag = |name: &str| pod.required(name).map(str::to_owned);
    Ok((flag("name")?, flag("data-dir")?, flag("initial-advertise-peer-urls")?))
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
