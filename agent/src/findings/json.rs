//! Findings for people and scripts, named as in `liftlock.v1`; null where nobody looked.

use liftlock_proto::v1::{self, FileSetting, NodeFacts};
use serde_json::{Value, json};

/// Everything that was looked for.
pub fn as_json(facts: &NodeFacts) -> Value {
    let setting = |one: &FileSetting| json!({"name": one.name, "file": one.file});
    let settings = |all: &[FileSetting]| all.iter().map(setting).collect::<Vec<Value>>();
    let cluster = facts.cluster.as_ref();
    json!({
        "kubelet": facts.kubelet.as_ref().map(|found| known(&found.unread, || json!({
            "flags": settings(&found.flags),
            "feature_gates": settings(&found.feature_gates),
            "fails_on_swap": found.fails_on_swap,
            "starts_on_cgroup_v1": found.starts_on_cgroup_v1,
        }))),
        "cgroup": facts.cgroup.as_ref().map(|found| known(&found.unread, || json!({"v2": found.v2}))),
        "swap": facts.swap.as_ref().map(|found| known(&found.unread, || json!({"areas": found.areas}))),
        "room": facts.room.as_ref().map(|found| known(&found.unread, || json!({
            "cpus": found.cpus,
            "memory_bytes": found.memory_bytes,
            "architecture": found.architecture,
        }))),
        "kubelet_kubeconfig": facts.kubelet_kubeconfig.as_ref().map(|found| {
            known(&found.unread, || json!({"server": found.server}))
        }),
        "certificates": facts.certificates.as_ref().map(|found| known(&found.unread, || {
            let one = |one: &v1::ExpiringCertificate| {
                json!({"path": one.path, "ends": one.ends, "why": one.why})
            };
            json!({"expiring": found.expiring.iter().map(one).collect::<Vec<Value>>()})
        })),
        "api_server": facts.api_server.as_ref().map(|found| known(&found.unread, || {
            let one = |one: &v1::RequestedApi| json!({"api": one.api, "removed_in": one.removed_in});
            json!({
                "address": found.address,
                "unready": found.unready,
                "deprecated": found.deprecated.iter().map(one).collect::<Vec<Value>>(),
            })
        })),
        "etcd": cluster.and_then(|cluster| cluster.etcd.as_ref()).map(|found| known(&found.unread, || {
            let one = |one: &v1::EtcdMemberFacts| {
                json!({"name": one.name, "version": one.version, "db_bytes": one.db_bytes, "learner": one.learner})
            };
            json!({
                "members": found.members.iter().map(one).collect::<Vec<Value>>(),
                "alarms": found.alarms,
                "quota_bytes": found.quota_bytes,
            })
        })),
        "workloads": cluster.and_then(|cluster| cluster.workloads.as_ref()).map(|found| known(&found.unread, || {
            let one = |one: &v1::Workload| {
                let pods = one.pods.unwrap_or_default();
                json!({"name": one.name, "pods": {"wanted": pods.wanted, "ready": pods.ready}})
            };
            json!({"unready": found.unready.iter().map(one).collect::<Vec<Value>>()})
        })),
        "arguments": cluster.and_then(|cluster| cluster.arguments.as_ref()).map(|found| known(&found.unread, || {
            let one = |one: &v1::ExtraArgument| {
                json!({"component": one.component, "flag": one.flag, "value": one.value})
            };
            json!({"arguments": found.arguments.iter().map(one).collect::<Vec<Value>>()})
        })),
        "stored": cluster.and_then(|cluster| cluster.stored.as_ref()).map(|found| known(&found.unread, || {
            let one = |one: &v1::StoredKind| json!({"kind": one.kind, "objects": one.objects});
            json!({"kinds": found.kinds.iter().map(one).collect::<Vec<Value>>()})
        })),
    })
}

fn known(unread: &str, found: impl FnOnce() -> Value) -> Value {
    if unread.is_empty() { found() } else { json!({"unread": unread}) }
}
