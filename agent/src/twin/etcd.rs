//! etcd: a member on each control plane, healthy while its container runs.

use std::sync::LazyLock;

use super::bolt;
use super::fault::SnapshotFault;
use super::node::NodeTwin;
use super::world::World;
use crate::engine::lease::Permit;
use crate::host::{ChunkSink, Etcd, EtcdHead, EtcdMember, EtcdStatus, HostError, HostResult};
use async_trait::async_trait;

/// Bytes that a message of a snapshot's stream carries here. Not a divisor of anything, so that chunks end anywhere.
const CHUNK: usize = 7000;

/// What every member holds, whatever the cluster's objects are: nothing here depends on them.
const REVISION: u64 = 42;
const KEYS: u64 = 17;

/// In the page of the buckets, the first letter of `key`.
const NAME_OF_THE_FIRST_BUCKET: usize = 3 * 4096 + 16 + 2 * 16;

static DATABASE: LazyLock<Vec<u8>> = LazyLock::new(|| database_at(REVISION));

fn database_at(revision: u64) -> Vec<u8> {
    let objects: Vec<_> = (0..KEYS).map(|at| (format!("/registry/{at:03}"), vec![1; 20])).collect();
    bolt::database(revision, &objects)
}

impl NodeTwin {
    fn etcd_error(&self, what: &str, why: &str) -> HostError {
        HostError::Api {
            what: what.to_owned(),
            endpoint: format!("https://{}:2379", self.name),
            why: why.to_owned(),
            transient: true,
        }
    }

    /// Everything is asked of this node's own member.
    fn require_local_member(&self, what: &str) -> HostResult<()> {
        match self.etcd_version(&self.name) {
            Some(_) => Ok(()),
            None => Err(self.etcd_error(what, "connection refused")),
        }
    }

    /// `3.5.15` of the image of a member's container.
    fn etcd_version(&self, member: &str) -> Option<String> {
        self.world(|world| {
            let machine = world.machine(member).filter(|machine| machine.powered)?;
            let (_, tag) = machine.containers.get("etcd")?.image.rsplit_once(':')?;
            Some(tag.split('-').next().unwrap_or(tag).to_owned())
        })
    }
}

#[async_trait]
impl Etcd for NodeTwin {
    async fn head(&self) -> HostResult<EtcdHead> {
        self.require_local_member("cannot read the revision of this node's etcd")?;
        let version = self.etcd_version(&self.name).unwrap_or_default();
        Ok(EtcdHead { version, revision: REVISION })
    }

    async fn keys(&self, revision: u64) -> HostResult<u64> {
        self.require_local_member("cannot count the keys of this node's etcd")?;
        Ok(KEYS.min(revision))
    }

    async fn members(&self) -> HostResult<Vec<EtcdMember>> {
        self.require_local_member("cannot list etcd's members")?;
        let names = self.world(|world| world.cluster.etcd_members.clone());
        let versions: Vec<Option<String>> = names.iter().map(|name| self.etcd_version(name)).collect();
        let alive = versions.iter().flatten().count();
        if alive <= names.len() / 2 {
            return Err(self.etcd_error("cannot list etcd's members", "etcdserver: no leader"));
        }
        let ids = 1..;
        Ok(ids
            .zip(names.into_iter().zip(versions))
            .map(|(id, (name, version))| EtcdMember {
                id,
                peer_urls: vec![format!("https://{name}:2380")],
                learner: false,
                local: name == self.name,
                name,
                status: version.ok_or_else(|| "connection refused".to_owned()).map(|version| EtcdStatus {
                    version,
                    db_size: 4096,
                    leader: 1,
                    errors: Vec::new(),
                }),
            })
            .collect())
    }

    async fn alarms(&self) -> HostResult<Vec<String>> {
        self.require_local_member("cannot list etcd's alarms")?;
        Ok(self.world(|world| world.etcd_alarms.clone()))
    }

    async fn remove_member(&self, _: &Permit, id: u64) -> HostResult<()> {
        let what = "cannot take a member out of etcd";
        self.require_local_member(what)?;
        let refused = || self.etcd_error(what, "etcdserver: request timed out");
        let remove = |world: &mut World| {
            let members = &mut world.cluster.etcd_members;
            if let Some(at) = usize::try_from(id).ok().and_then(|id| id.checked_sub(1))
                && at < members.len()
            {
                members.remove(at);
            }
        };
        self.change("remove a member of etcd", refused, remove).await
    }

    async fn snapshot(&self, sink: &mut dyn ChunkSink) -> HostResult<()> {
        self.require_local_member("cannot take a snapshot of etcd")?;
        let fault = self.world(|world| world.snapshot_fault);
        let mut database = match fault {
            Some(SnapshotFault::Behind) => database_at(REVISION - 1),
            _ => DATABASE.clone(),
        };
        if let Some(SnapshotFault::CorruptAtSource) = fault
            && let Some(byte) = database.get_mut(NAME_OF_THE_FIRST_BUCKET)
        {
            *byte ^= 1;
        }
        let mut bytes = bolt::snapshot(database);
        match fault {
            Some(SnapshotFault::Flipped) => {
                if let Some(byte) = bytes.get_mut(1000) {
                    *byte ^= 1;
                }
            }
            Some(SnapshotFault::CutOff) => bytes.truncate(1024),
            Some(SnapshotFault::CorruptAtSource | SnapshotFault::Behind) | None => {}
        }
        for chunk in bytes.chunks(CHUNK) {
            sink.chunk(chunk).await?;
        }
        Ok(())
    }
}
