//! etcd over its own API, as kubeadm sets it up: stacked, one member on each control plane, mutual TLS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use liftlock_proto::causes::causes;
use liftlock_proto::etcd::alarm_request::AlarmAction;
use liftlock_proto::etcd::cluster_client::ClusterClient;
use liftlock_proto::etcd::kv_client::KvClient;
use liftlock_proto::etcd::maintenance_client::MaintenanceClient;
use liftlock_proto::etcd::{
    AlarmRequest, AlarmType, Member, MemberListRequest, MemberListResponse, MemberRemoveRequest,
    RangeRequest, SnapshotRequest, StatusRequest, StatusResponse,
};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::engine::lease::Permit;
use crate::host::{ChunkSink, Etcd, EtcdHead, EtcdMember, EtcdStatus, Files, HostError, HostResult, Layout};
use crate::kube::static_pod::StaticPod;

pub mod description;

/// Where kubeadm's etcd listens on its own node.
const LOCAL: &str = "https://127.0.0.1:2379";
/// How long a member has for its status; a slower one does not count as healthy.
const STATUS: Duration = Duration::from_secs(3);
/// How long a question to the whole cluster may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long it may take to count all keys.
const COUNT: Duration = Duration::from_mins(1);
/// How long a snapshot may stand still between two chunks.
const CHUNK: Duration = Duration::from_secs(30);

/// This node's etcd member and its peers.
pub struct RealEtcd {
    layout: Layout,
    files: Arc<dyn Files>,
    endpoint: String,
}

impl RealEtcd {
    /// `endpoint` instead of `https://127.0.0.1:2379`.
    pub fn new(layout: Layout, files: Arc<dyn Files>, endpoint: Option<String>) -> Self {
        Self { layout, files, endpoint: endpoint.unwrap_or_else(|| LOCAL.to_owned()) }
    }

    /// The certificates are read anew for each use: kubeadm renews them.
    async fn tls(&self) -> HostResult<ClientTlsConfig> {
        let folder = self.layout.at("/etc/kubernetes/pki/etcd");
        let read = async |name: &str| {
            let path = folder.join(name);
            self.files.read(&path).await?.ok_or_else(|| HostError::Malformed {
                what: format!("etcd's {path}"),
                why: "it is not there; `kubeadm init phase certs etcd-healthcheck-client` makes it"
                    .to_owned(),
            })
        };
        let identity =
            Identity::from_pem(read("healthcheck-client.crt").await?, read("healthcheck-client.key").await?);
        Ok(ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.crt").await?))
            .identity(identity))
    }

    async fn connect(
        &self,
        endpoint: &str,
        tls: ClientTlsConfig,
        limit: Duration,
    ) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| causes(&error))?;
        let endpoint = endpoint.tls_config(tls).map_err(|error| causes(&error))?;
        endpoint.connect_timeout(limit).connect().await.map_err(|error| causes(&error))
    }

    /// This node's own member.
    async fn local(&self, what: &str) -> HostResult<Channel> {
        self.refuse_external().await?;
        let tls = self.tls().await?;
        self.connect(&self.endpoint, tls, STATUS).await.map_err(|why| self.error(what, why))
    }

    /// An etcd that kubeadm does not run is not upgraded by kubeadm and not backed up by us.
    async fn refuse_external(&self) -> HostResult<()> {
        let path = self.layout.manifests().join("kube-apiserver.yaml");
        // No manifest: kubeadm was cut off between its two renames. The member itself will tell.
        let Some(manifest) = self.files.read(&path).await? else {
            return Ok(());
        };
        let pod = StaticPod::parse("kube-apiserver", &manifest)?;
        let servers = pod.required("etcd-servers")?;
        if stacked(servers, pod.flag("advertise-address")) {
            return Ok(());
        }
        Err(HostError::Malformed {
            what: format!("etcd at {servers}, which {path} names"),
            why:
                "it does not run on this control plane (external etcd), so Liftlock neither checks nor backs \
                  it up; back it up where it runs and raise such a cluster by hand"
                    .to_owned(),
        })
    }

    async fn list(&self, channel: Channel) -> HostResult<MemberListResponse> {
        let what = "cannot list etcd's members";
        // Linearizable (since 3.5; earlier the member's own view): a member that lost its cluster cannot answer.
        let request = MemberListRequest { linearizable: true };
        let mut client = ClusterClient::new(channel);
        self.within(REQUEST, what, client.member_list(request)).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> HostResult<T> {
        answer(limit, call).await.map_err(|why| self.error(what, why))
    }

    fn error(&self, what: &str, why: String) -> HostError {
        HostError::Api { what: what.to_owned(), endpoint: self.endpoint.clone(), why, transient: true }
    }

    async fn status(&self, channel: Result<Channel, String>) -> Result<StatusResponse, String> {
        answer(STATUS, MaintenanceClient::new(channel?).status(StatusRequest {})).await
    }
}

#[async_trait]
impl Etcd for RealEtcd {
    async fn head(&self) -> HostResult<EtcdHead> {
        let what = "cannot read the revision of this node's etcd";
        let mut client = MaintenanceClient::new(self.local(what).await?);
        let status = self.within(REQUEST, what, client.status(StatusRequest {})).await?;
        let revision = status.header.and_then(|header| u64::try_from(header.revision).ok());
        Ok(EtcdHead { version: status.version, revision: revision.unwrap_or_default() })
    }

    async fn keys(&self, revision: u64) -> HostResult<u64> {
        let what = "cannot count the keys of this node's etcd";
        let mut client = KvClient::new(self.local(what).await?);
        // From the first possible key on, without end. Serializable: this member itself answers.
        let request = RangeRequest {
            key: vec![0],
            range_end: vec![0],
            revision: i64::try_from(revision).unwrap_or(i64::MAX),
            serializable: true,
            count_only: true,
        };
        let counted = self.within(COUNT, what, client.range(request)).await?;
        Ok(u64::try_from(counted.count).unwrap_or_default())
    }

    async fn members(&self) -> HostResult<Vec<EtcdMember>> {
        let channel = self.local("cannot reach this node's etcd").await?;
        let list = self.list(channel.clone()).await?;
        let local = list.header.unwrap_or_default().member_id;
        let tls = self.tls().await?;
        let asked = list.members.into_iter().map(|member| {
            let (channel, tls) = (channel.clone(), tls.clone());
            async move {
                let status = if member.id == local {
                    self.status(Ok(channel)).await
                } else if let Some(url) = member.client_urls.first() {
                    self.status(self.connect(url, tls, STATUS).await).await
                } else {
                    Err("it has not started yet: it announces no client URL".to_owned())
                };
                in_our_words(member, local, status)
            }
        });
        Ok(join_all(asked).await)
    }

    async fn alarms(&self) -> HostResult<Vec<String>> {
        let what = "cannot read etcd's alarms";
        let channel = self.local(what).await?;
        let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
        let mut client = MaintenanceClient::new(channel.clone());
        let alarms = self.within(REQUEST, what, client.alarm(request)).await?.alarms;
        if alarms.is_empty() {
            return Ok(Vec::new());
        }
        let members = self.list(channel).await?.members;
        let raised = alarms.into_iter().map(|alarm| {
            let name = members.iter().find(|member| member.id == alarm.member_id).map(name_of);
            let name = name.unwrap_or_else(|| format!("member {:x}", alarm.member_id));
            let kind = AlarmType::try_from(alarm.alarm).map_or("an unknown alarm", |kind| kind.as_str_name());
            format!("{kind} on {name}")
        });
        Ok(raised.collect())
    }

    async fn remove_member(&self, _: &Permit, id: u64) -> HostResult<()> {
        let what = "cannot take a member out of etcd";
        let mut client = ClusterClient::new(self.local(what).await?);
        let removal = async {
            match client.member_remove(MemberRemoveRequest { id }).await {
                // It is out already.
                Err(status) if status.code() == Code::NotFound => Ok(tonic::Response::new(())),
                removed => removed.map(|_| tonic::Response::new(())),
            }
        };
        self.within(REQUEST, what, removal).await
    }

    async fn snapshot(&self, sink: &mut dyn ChunkSink) -> HostResult<()> {
        let what = "cannot take a snapshot of etcd";
        let mut client = MaintenanceClient::new(self.local(what).await?);
        let mut chunks = self.within(REQUEST, what, client.snapshot(SnapshotRequest {})).await?;
        loop {
            let chunk = tokio::time::timeout(CHUNK, chunks.message())
                .await
                .map_err(|_| self.error(what, format!("no chunk came for {CHUNK:?}")))?
                .map_err(|status| self.error(what, in_words(&status)))?;
            match chunk {
                Some(chunk) => sink.chunk(&chunk.blob).await?,
                None => return Ok(()),
            }
        }
    }
}

async fn answer<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(in_words(&status)),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn in_words(status: &tonic::Status) -> String {
    format!("{} ({:?})", status.message(), status.code())
}

fn name_of(member: &Member) -> String {
    if member.name.is_empty() { format!("member {:x}", member.id) } else { member.name.clone() }
}

fn in_our_words(member: Member, local: u64, status: Result<StatusResponse, String>) -> EtcdMember {
    EtcdMember {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_urls,
        learner: member.is_learner,
        local: member.id == local,
        status: status.map(|status| EtcdStatus {
            version: status.version,
            db_size: u64::try_from(status.db_size).unwrap_or_default(),
            leader: status.leader,
            errors: status.errors,
        }),
    }
}

/// Whether one of an API server's etcd servers is on its own node.
fn stacked(servers: &str, advertise_address: Option<&str>) -> bool {
    servers.split(',').any(|server| {
        let uri: Option<http::Uri> = server.trim().parse().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || host == "localhost" || Some(host) == advertise_address
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_on_the_own_node_is_stacked_and_any_other_is_external() {
        assert!(stacked("https://127.0.0.1:2379", None));
        assert!(stacked("https://[::1]:2379", None));
        assert!(stacked("https://localhost:2379", None));
        assert!(stacked("https://10.0.0.1:2379,https://10.0.0.2:2379", Some("10.0.0.2")));
        assert!(!stacked("https://10.0.0.1:2379,https://10.0.0.2:2379", Some("10.0.0.3")));
        assert!(!stacked("https://etcd.example:2379", Some("10.0.0.3")));
        assert!(!stacked("", None));
    }
}
