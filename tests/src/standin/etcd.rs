//! A stand-in etcd: the members of a cluster, and their gRPC services.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use futures::Stream;
use liftlock_agent::twin::bolt;
use liftlock_proto::etcd::cluster_server::{Cluster, ClusterServer};
use liftlock_proto::etcd::kv_server::{Kv, KvServer};
use liftlock_proto::etcd::maintenance_server::{Maintenance, MaintenanceServer};
use liftlock_proto::etcd::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, Member as MemberMessage, MemberAddRequest,
    MemberAddResponse, MemberListRequest, MemberListResponse, MemberRemoveRequest, MemberRemoveResponse,
    RangeRequest, RangeResponse, ResponseHeader, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};

use crate::standin::objects::Objects;

/// The size of a page of bbolt's file, in bytes.
const PAGE: usize = 4096;
/// How much of a snapshot goes into one message, in bytes; etcd's own is 32 KiB.
const CHUNK: usize = 32 * 1024;

/// One member.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its node's name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Has no vote yet.
    pub learner: bool,
    /// The version that runs; `None` while it does not.
    pub running: Option<String>,
}

/// All members and what they hold. A cheap handle.
#[derive(Debug, Clone)]
pub struct Ensemble {
    objects: Objects,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    alarms: Vec<AlarmMember>,
    corrupt_snapshots: bool,
    /// Every member has run.
    complete: bool,
    most_stopped: usize,
    corrupt_database: bool,
    /// How many keys there were at the revisions of which somebody took a snapshot.
    counts: BTreeMap<u64, usize>,
}

impl Ensemble {
    /// The members on these nodes, none of which runs yet.
    pub fn new(objects: Objects, nodes: impl Iterator<Item = (String, Ipv4Addr)>) -> Self {
        let member = |(name, address): (String, Ipv4Addr)| {
            let digest = Sha256::digest(&name);
            let id = digest.iter().take(8).fold(0_u64, |id, byte| (id << 8) | u64::from(*byte));
            Member { id, name, address, learner: false, running: None }
        };
        let state = State { members: nodes.map(member).collect(), ..State::default() };
        Self { objects, state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every member.
    pub fn members(&self) -> Vec<Member> {
        self.lock().members.clone()
    }

    /// Says which version the member at a node's address runs, or that it does not. One that was added has its name from
    /// its first start on.
    pub fn set_running(&self, node: &str, address: Ipv4Addr, version: Option<&str>) {
        let mut state = self.lock();
        for member in state.members.iter_mut().filter(|member| member.address == address) {
            member.running = version.map(str::to_owned);
            if version.is_some() {
                node.clone_into(&mut member.name);
            }
        }
        let stopped = state.members.iter().filter(|member| member.running.is_none()).count();
        state.complete |= stopped == 0;
        if state.complete {
            state.most_stopped = state.most_stopped.max(stopped);
        }
    }

    /// How many members ever stood still at once since all of them ran for the first time.
    pub fn most_stopped(&self) -> usize {
        self.lock().most_stopped
    }

    /// Makes a node's member a learner, or a voter again.
    pub fn set_learner(&self, node: &str, learner: bool) {
        for member in self.lock().members.iter_mut().filter(|member| member.name == node) {
            member.learner = learner;
        }
    }

    /// Raises the alarm that a node's member has no space left.
    pub fn raise_nospace(&self, node: &str) {
        let mut state = self.lock();
        if let Some(id) = state.members.iter().find(|member| member.name == node).map(|member| member.id) {
            state.alarms.push(AlarmMember { member_id: id, alarm: AlarmType::Nospace.into() });
        }
    }

    /// Disarms every alarm, as an operator does once there is room again.
    pub fn disarm(&self) {
        self.lock().alarms.clear();
    }

    /// Makes every later snapshot differ from its own checksum in one byte.
    pub fn corrupt_snapshots(&self, corrupt: bool) {
        self.lock().corrupt_snapshots = corrupt;
    }

    /// Flips one byte in the members' databases: every later snapshot carries it, and a digest that matches.
    pub fn corrupt_database(&self, corrupt: bool) {
        self.lock().corrupt_database = corrupt;
    }

    /// Whether a majority of the voters runs.
    pub fn has_quorum(&self) -> bool {
        self.leader() != 0
    }

    fn leader(&self) -> u64 {
        let state = self.lock();
        let voters = state.members.iter().filter(|member| !member.learner);
        let running: Vec<u64> =
            voters.clone().filter(|member| member.running.is_some()).map(|member| member.id).collect();
        if running.len() > voters.count() / 2 { running.first().copied().unwrap_or_default() } else { 0 }
    }

    /// What a member's database holds: the objects, as bbolt's file is. Its size is that of a small real one at least.
    fn database(&self) -> Vec<u8> {
        let (revision, objects) = self.objects.all();
        self.lock().counts.insert(revision, objects.len());
        let values: Vec<_> =
            objects.into_iter().map(|(key, object)| (key, object.to_string().into())).collect();
        let mut bytes = bolt::database(revision, &values);
        bytes.resize(bytes.len().max(64 * PAGE), 0);
        bytes
    }

    /// The database and, in the last 32 bytes, its SHA-256.
    fn snapshot(&self) -> Vec<u8> {
        let flip = |bytes: &mut Vec<u8>, at: usize| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
        };
        let mut bytes = self.database();
        let (corrupt_database, corrupt_snapshots) = {
            let state = self.lock();
            (state.corrupt_database, state.corrupt_snapshots)
        };
        if corrupt_database {
            // The number of the page that the buckets are on, in that page itself.
            flip(&mut bytes, 3 * PAGE);
        }
        let mut bytes = bolt::snapshot(bytes);
        if corrupt_snapshots {
            flip(&mut bytes, 0);
        }
        bytes
    }

    fn header(&self, member_id: u64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: 1,
            member_id,
            revision: i64::try_from(self.objects.revision()).unwrap_or(i64::MAX),
            raft_term: 2,
        }
    }

    /// Adds a voter that has not started, as `etcdctl member add` does.
    fn add(&self, address: Ipv4Addr) -> Member {
        let digest = Sha256::digest(format!("{address} at {}", self.objects.revision()));
        let id = digest.iter().take(8).fold(0_u64, |id, byte| (id << 8) | u64::from(*byte));
        let member = Member { id, name: String::new(), address, learner: false, running: None };
        self.lock().members.push(member.clone());
        member
    }

    /// The services of the member at an address.
    pub fn router(&self, address: Ipv4Addr) -> Router {
        let id = self.members().iter().find(|member| member.address == address).map_or(0, |member| member.id);
        let service = Service { ensemble: self.clone(), id };
        tonic::service::Routes::new(MaintenanceServer::new(service.clone()))
            .add_service(ClusterServer::new(service.clone()))
            .add_service(KvServer::new(service))
            .into_axum_router()
    }
}

/// One member's services.
#[derive(Debug, Clone)]
struct Service {
    ensemble: Ensemble,
    id: u64,
}

#[tonic::async_trait]
impl Maintenance for Service {
    async fn alarm(&self, _: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let alarms = self.ensemble.lock().alarms.clone();
        Ok(Response::new(AlarmResponse { header: Some(self.ensemble.header(self.id)), alarms }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let own = self.ensemble.members().into_iter().find(|member| member.id == self.id);
        let member = own.ok_or_else(|| Status::not_found("etcdserver: member not found"))?;
        let leader = self.ensemble.leader();
        let size = i64::try_from(self.ensemble.database().len()).unwrap_or(i64::MAX);
        let revision = self.ensemble.objects.revision();
        Ok(Response::new(StatusResponse {
            header: Some(self.ensemble.header(self.id)),
            version: member.running.unwrap_or_default(),
            db_size: size,
            leader,
            raft_index: revision,
            raft_term: 2,
            raft_applied_index: revision,
            errors: if leader == 0 { vec!["etcdserver: no leader".to_owned()] } else { Vec::new() },
            db_size_in_use: size,
            is_learner: member.learner,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let bytes = self.ensemble.snapshot();
        let total = bytes.len();
        let chunks: Vec<_> = bytes
            .chunks(CHUNK)
            .enumerate()
            .map(|(index, chunk)| {
                let sent = index * CHUNK + chunk.len();
                Ok(SnapshotResponse {
                    header: None,
                    remaining_bytes: (total - sent) as u64,
                    blob: chunk.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable && !self.ensemble.has_quorum() {
            return Err(Status::unavailable("etcdserver: no leader"));
        }
        let members = self.ensemble.members().into_iter().map(message).collect();
        Ok(Response::new(MemberListResponse { header: Some(self.ensemble.header(self.id)), members }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.require_quorum()?;
        let urls = request.into_inner().peer_urls;
        let host = urls.first().and_then(|url| url.strip_prefix("https://")?.strip_suffix(":2380"));
        let address = host.and_then(|host| host.parse().ok());
        let address = address.ok_or_else(|| Status::invalid_argument("etcdserver: bad peer URL"))?;
        if self.ensemble.members().iter().any(|member| member.address == address) {
            return Err(Status::failed_precondition("etcdserver: Peer URLs already exists"));
        }
        let member = message(self.ensemble.add(address));
        let members = self.ensemble.members().into_iter().map(message).collect();
        let header = Some(self.ensemble.header(self.id));
        Ok(Response::new(MemberAddResponse { header, member: Some(member), members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.require_quorum()?;
        let id = request.into_inner().id;
        let known = self.ensemble.members().iter().any(|member| member.id == id);
        if !known {
            return Err(Status::not_found("etcdserver: member not found"));
        }
        self.ensemble.lock().members.retain(|member| member.id != id);
        let members = self.ensemble.members().into_iter().map(message).collect();
        Ok(Response::new(MemberRemoveResponse { header: Some(self.ensemble.header(self.id)), members }))
    }
}

impl Service {
    fn require_quorum(&self) -> Result<(), Status> {
        if self.ensemble.has_quorum() { Ok(()) } else { Err(Status::unavailable("etcdserver: no leader")) }
    }
}

fn message(member: Member) -> MemberMessage {
    // One that has not started announces nothing.
    let client_urls =
        if member.name.is_empty() { Vec::new() } else { vec![format!("https://{}:2379", member.address)] };
    MemberMessage {
        id: member.id,
        name: member.name,
        peer_urls: vec![format!("https://{}:2380", member.address)],
        client_urls,
        is_learner: member.learner,
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let at = u64::try_from(request.into_inner().revision).unwrap_or_default();
        let known = self.ensemble.lock().counts.get(&at).copied();
        let count = known.unwrap_or_else(|| self.ensemble.objects.all().1.len());
        Ok(Response::new(RangeResponse {
            header: Some(self.ensemble.header(self.id)),
            count: i64::try_from(count).unwrap_or(i64::MAX),
        }))
    }
}
