//! What agents looked for, as the core sees it. What an agent does not say is not known.

use std::collections::BTreeMap;

use liftlock_proto::v1;

use crate::core::view::{
    Addons, ApiServer, ClusterFindings, Etcd, EtcdMember, ExpiringCertificate, ExtraArgument, Fact, Kubelet,
    NodeFindings, Replicas, RequestedApi, Setting, StoredKind, Workload, unsaid,
};

/// A message with its reason why it says nothing, if it says nothing.
fn fact<M, T>(message: Option<&M>, unread: impl Fn(&M) -> &str, read: impl FnOnce(&M) -> T) -> Fact<T> {
    match message {
        None => unsaid(),
        Some(message) if !unread(message).is_empty() => Err(unread(message).to_owned()),
        Some(message) => Ok(read(message)),
    }
}

/// What was found, unless an agent says why it could not look.
pub(super) fn unless<T>(unread: &str, found: T) -> Fact<T> {
    if unread.is_empty() { Ok(found) } else { Err(unread.to_owned()) }
}

/// What an agent found on its node.
pub(super) fn of_node(facts: &v1::NodeFacts) -> NodeFindings {
    NodeFindings {
        kubelet: fact(facts.kubelet.as_ref(), |message| &message.unread, kubelet),
        cgroup_v2: fact(facts.cgroup.as_ref(), |message| &message.unread, |message| message.v2),
        swap: fact(facts.swap.as_ref(), |message| &message.unread, |message| message.areas.clone()),
        kubelet_api_server: fact(
            facts.kubelet_kubeconfig.as_ref(),
            |message| &message.unread,
            |message| message.server.clone(),
        ),
        expiring: fact(
            facts.certificates.as_ref(),
            |message| &message.unread,
            |message| message.expiring.iter().map(expiring).collect(),
        ),
        api_server: fact(facts.api_server.as_ref(), |message| &message.unread, api_server),
        // Most have none, and agents of before them do not speak of any.
        addons: facts
            .addons
            .as_ref()
            .map_or(Ok(BTreeMap::new()), |message| fact(Some(message), |message| &message.unread, addons)),
    }
}

fn addons(message: &v1::AddonFacts) -> BTreeMap<String, Addons> {
    let read = |set: &v1::AddonSet| {
        let is_digest = set.digest.len() == 64 && set.digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let addons = match &set.refusal {
            why if !why.is_empty() => Addons::Refused { why: why.clone() },
            _ if is_digest => Addons::Whole { digest: set.digest.clone() },
            _ => Addons::Refused { why: format!("{:?} is no SHA-256", set.digest) },
        };
        (set.name.clone(), addons)
    };
    message.sets.iter().map(read).collect()
}

/// What a control plane found in its cluster; of etcd, what the one found that sees its members.
pub(super) fn of_cluster(facts: &v1::ClusterFacts, seeing_etcd: &v1::ClusterFacts) -> ClusterFindings {
    ClusterFindings {
        etcd: fact(seeing_etcd.etcd.as_ref(), |message| &message.unread, etcd),
        unready_workloads: fact(
            facts.workloads.as_ref(),
            |message| &message.unread,
            |message| message.unready.iter().map(workload).collect(),
        ),
        extra_arguments: fact(
            facts.arguments.as_ref(),
            |message| &message.unread,
            |message| message.arguments.iter().map(argument).collect(),
        ),
        stored: fact(
            facts.stored.as_ref(),
            |message| &message.unread,
            |message| message.kinds.iter().map(stored).collect(),
        ),
    }
}

pub(super) fn replicas(v1::Replicas { wanted, ready }: v1::Replicas) -> Replicas {
    Replicas { wanted, ready }
}

fn kubelet(message: &v1::KubeletFacts) -> Kubelet {
    let setting = |one: &v1::FileSetting| Setting { name: one.name.clone(), file: one.file.clone() };
    Kubelet {
        flags: message.flags.iter().map(setting).collect(),
        feature_gates: message.feature_gates.iter().map(setting).collect(),
        fails_on_swap: message.fails_on_swap,
        starts_on_cgroup_v1: message.starts_on_cgroup_v1,
    }
}

fn expiring(message: &v1::ExpiringCertificate) -> ExpiringCertificate {
    let v1::ExpiringCertificate { path, ends, why } = message.clone();
    ExpiringCertificate { path, ends, why }
}

fn api_server(message: &v1::ApiServerFacts) -> ApiServer {
    let requested = |one: &v1::RequestedApi| RequestedApi {
        api: one.api.clone(),
        removed_in: one.removed_in.try_into().unwrap_or(u16::MAX),
    };
    ApiServer {
        address: message.address.clone(),
        unready: message.unready.clone(),
        deprecated: message.deprecated.iter().map(requested).collect(),
    }
}

fn etcd(message: &v1::EtcdFacts) -> Etcd {
    let member = |one: &v1::EtcdMemberFacts| EtcdMember {
        name: one.name.clone(),
        version: one.version.clone(),
        db_bytes: one.db_bytes,
        learner: one.learner,
    };
    Etcd {
        members: message.members.iter().map(member).collect(),
        alarms: message.alarms.clone(),
        quota_bytes: message.quota_bytes,
    }
}

fn workload(message: &v1::Workload) -> Workload {
    Workload { name: message.name.clone(), pods: replicas(message.pods.unwrap_or_default()) }
}

fn argument(message: &v1::ExtraArgument) -> ExtraArgument {
    let v1::ExtraArgument { component, flag, value } = message.clone();
    ExtraArgument { component, flag, value }
}

fn stored(message: &v1::StoredKind) -> StoredKind {
    StoredKind { kind: message.kind.clone(), objects: message.objects }
}
