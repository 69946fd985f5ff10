//! What a node reports of itself and, from a control plane, of its cluster. What cannot be read becomes a sentence.

use std::fmt::Display;

use camino::Utf8Path;
use liftlock_proto::machine::{MACHINE_ID, mark};
use liftlock_proto::packages::PackageSource;
use liftlock_proto::v1::{self, ClusterFacts, ClusterNode, NodeFacts};
use liftlock_proto::version::KubernetesVersion;
use serde_json::{Value, json};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::host::{Host, HostResult, Replicas, RunningContainer};
use crate::{addons, drift, findings, labels, obstacles};

/// The sentences of what could not be read.
#[derive(Default)]
struct Errors(Vec<String>);

impl Errors {
    /// The value, or its default and a sentence.
    fn note<T: Default, E: Display>(&mut self, result: Result<T, E>) -> T {
        result.unwrap_or_else(|error| {
            self.0.push(error.to_string());
            T::default()
        })
    }

    /// The same, and why it is the default.
    fn told<T: Default, E: Display>(&mut self, result: Result<T, E>) -> (T, String) {
        let unread = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        (self.note(result), unread)
    }
}

/// Everything that can be read now.
pub async fn gather(host: &Host) -> NodeFacts {
    let mut errors = Errors::default();
    let manifests = host.layout.manifests();
    let (apiserver, admin, etcd) = (
        host.files.exists(&manifests.join("kube-apiserver.yaml")).await,
        host.files.exists(&host.layout.admin_kubeconfig()).await,
        host.files.exists(&manifests.join("etcd.yaml")).await,
    );
    let control_plane = errors.note(apiserver) | errors.note(admin);
    let local_etcd = errors.note(etcd);

    let (kubelet, kubeadm, offered, boot) = futures::join!(
        host.packages.binary_version("kubelet"),
        host.packages.binary_version("kubeadm"),
        host.packages.offered(),
        boot_id(host),
    );
    let kubelet_version = errors.note(kubelet.map(|version| version.to_string()));
    let kubeadm_version = errors.note(kubeadm.map(|version| version.to_string()));
    let packages = errors.note(host.packages.source().await.map(Some)).map(Into::into);
    let offered_versions = errors.note(offered).iter().map(ToString::to_string).collect();
    let boot_id = errors.note(boot);

    let (kubelet, cgroup, swap, kubelet_kubeconfig, certificates) = futures::join!(
        findings::kubelet(host),
        findings::cgroup(host),
        findings::swap(host),
        findings::kubelet_kubeconfig(host),
        findings::certificates(host),
    );
    let (mut cluster, mut control_plane_version) = (None, String::new());
    let mut readyz = None;
    if control_plane {
        readyz = Some(findings::api_server(host).await);
        let (containers, facts) =
            futures::join!(host.runtime.running(), cluster_facts(host, local_etcd, &mut errors));
        cluster = facts;
        control_plane_version = errors.note(containers.map(|running| api_server_version(&running)));
    }
    let not_joined = errors.note(not_joined(host).await);
    let redeploy = match &host.redeploy {
        Some(replacement) => errors.note(replacement.facts(host).await.map(Some)),
        None => None,
    };
    let hooks = errors.note(host.hooks.facts(host).await);
    let addons = if control_plane { addons::facts::facts(host).await } else { None };
    let (obstacles, obstacles_unread) = errors.told(obstacles::find(host).await);
    let (drift, drift_unread) = match (&cluster, kubeadm_version.parse(), control_plane_version.parse()) {
        (None, ..) => Default::default(),
        (Some(_), Ok(kubeadm), Ok(running)) => match drift::unseen(kubeadm, running) {
            Some(why) => (Vec::new(), why),
            None => errors.told(drift::find(host, running).await),
        },
        (Some(_), ..) => {
            (Vec::new(), "the versions of its kubeadm and of its API server are not both known".to_owned())
        }
    };
    let machine = errors.note(machine(host).await);
    NodeFacts {
        machine,
        control_plane,
        kubelet_version,
        kubeadm_version,
        offered_versions,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_memory_bytes: agent_memory(),
        boot_id,
        cluster,
        errors: errors.0,
        control_plane_version,
        drift,
        drift_unread,
        obstacles,
        obstacles_unread,
        kubelet: Some(kubelet),
        cgroup: Some(cgroup),
        swap: Some(swap),
        kubelet_kubeconfig: Some(kubelet_kubeconfig),
        certificates: Some(certificates),
        api_server: readyz,
        packages,
        redeploy,
        addons,
        hooks,
        not_joined,
    }
}

/// The facts for people and scripts, named as in `liftlock.v1`.
pub fn as_json(facts: &NodeFacts) -> Value {
    let node = |node: &ClusterNode| {
        json!({
            "name": node.name,
            "kubelet_version": node.kubelet_version,
            "control_plane": node.control_plane,
            "ready": node.ready,
            "unschedulable": node.unschedulable,
            "tainted": node.tainted,
            "container_runtime": node.container_runtime,
            "zone": node.zone,
            "labels": node.labels.iter().map(|label| (label.key.clone(), label.value.clone().into())).collect::<serde_json::Map<_, _>>(),
        })
    };
    let cluster = |cluster: &ClusterFacts| {
        json!({
            "kubeadm_config_version": cluster.kubeadm_config_version,
            "nodes": cluster.nodes.iter().map(node).collect::<Vec<_>>(),
            "etcd_members": cluster.etcd_members,
            "etcd_healthy_members": cluster.etcd_healthy_members,
            "dns": cluster.dns.map(|dns| json!({"wanted": dns.wanted, "ready": dns.ready})),
        })
    };
    json!({
        "control_plane": facts.control_plane,
        "kubelet_version": facts.kubelet_version,
        "kubeadm_version": facts.kubeadm_version,
        "control_plane_version": facts.control_plane_version,
        "offered_versions": facts.offered_versions,
        "packages": facts.packages.clone().map(|source| PackageSource::from(source).words()),
        "agent_version": facts.agent_version,
        "agent_memory_bytes": facts.agent_memory_bytes,
        "boot_id": facts.boot_id,
        "not_joined": facts.not_joined,
        "drift": facts.drift.iter().map(|drift| json!({"path": drift.path, "lines": drift.lines})).collect::<Vec<_>>(),
        "cluster": facts.cluster.as_ref().map(cluster),
        "obstacles": facts.obstacles.iter().map(|one| json!({"kind": one.kind().as_str_name(), "message": one.message})).collect::<Vec<_>>(),
        "findings": findings::as_json(facts),
        "redeploy": facts.redeploy.as_ref().map(|how| json!({"command": how.command, "store": how.store, "refusal": how.refusal})),
        "hooks": facts.hooks.iter().map(|hook| json!({"name": hook.name, "refusal": hook.refusal})).collect::<Vec<_>>(),
        "errors": facts.errors,
    })
}

/// What tells this machine from others; empty where it has no machine-id.
async fn machine(host: &Host) -> HostResult<String> {
    let bytes = host.files.read(&host.layout.at(MACHINE_ID)).await?.unwrap_or_default();
    Ok(mark(&String::from_utf8_lossy(&bytes)).unwrap_or_default())
}

/// Whether this machine is in no cluster: kubeadm has neither initialised nor joined it.
async fn not_joined(host: &Host) -> HostResult<bool> {
    let kubelet = host.files.exists(&host.layout.kubelet_kubeconfig()).await?;
    let bootstrap = host.files.exists(&host.layout.at("/etc/kubernetes/bootstrap-kubelet.conf")).await?;
    Ok(!kubelet && !bootstrap && host.files.list(&host.layout.manifests()).await?.is_empty())
}

/// Names this boot of the machine; empty where the kernel does not tell.
pub async fn boot_id(host: &Host) -> HostResult<String> {
    let path = Utf8Path::new("/proc/sys/kernel/random/boot_id");
    let bytes = host.files.read(path).await?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

async fn cluster_facts(host: &Host, local_etcd: bool, errors: &mut Errors) -> Option<ClusterFacts> {
    let (version, nodes, dns) =
        futures::join!(host.kube.kubeadm_config_version(), host.kube.nodes(), host.kube.cluster_dns());
    // Without its nodes a cluster is not seen at all; its other facts are worth telling one by one.
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => {
            errors.0.push(error.to_string());
            return None;
        }
    };
    let members = if local_etcd { Some(host.etcd.members().await) } else { None };
    let etcd = match &members {
        None => None,
        Some(Ok(members)) => Some(findings::etcd(host, members).await),
        Some(Err(error)) => Some(v1::EtcdFacts { unread: error.to_string(), ..v1::EtcdFacts::default() }),
    };
    let members = errors.note(members.transpose()).unwrap_or_default();
    let (workloads, arguments, stored) =
        futures::join!(findings::workloads(host), findings::arguments(host), findings::stored(host));
    let voters = members.iter().filter(|member| !member.learner);
    let healthy =
        voters.clone().filter(|member| matches!(&member.status, Ok(status) if status.errors.is_empty()));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let labels = labels::of_nodes(&nodes);
    let (dns, dns_unread) = errors.told(dns);
    Some(ClusterFacts {
        kubeadm_config_version: errors.note(version.map(|version| version.to_string())),
        etcd_members: count(voters.count()),
        etcd_healthy_members: count(healthy.count()),
        dns: dns.map(|Replicas { wanted, ready }| v1::Replicas { wanted, ready }),
        dns_unread,
        nodes: nodes
            .into_iter()
            .zip(labels)
            .map(|(node, labels)| ClusterNode {
                labels_left_out: labels.is_none(),
                labels: labels.unwrap_or_default(),
                name: node.name,
                kubelet_version: node.kubelet_version,
                control_plane: node.control_plane,
                ready: node.ready,
                unschedulable: node.unschedulable,
                tainted: node.tainted,
                container_runtime: node.container_runtime,
                zone: node.zone,
                on_blocked: node.on_blocked,
            })
            .collect(),
        etcd,
        workloads: Some(workloads),
        arguments: Some(arguments),
        stored: Some(stored),
    })
}

/// The version of the kube-apiserver container that runs, by its image's tag: `…/kube-apiserver:v1.20.2`.
fn api_server_version(running: &[RunningContainer]) -> String {
    let api_server =
        running.iter().filter(|one| one.name == "kube-apiserver" && one.namespace == "kube-system");
    let newest = api_server.max_by_key(|one| one.created_at_ns);
    let mut tags = newest.into_iter().flat_map(|one| &one.images).filter_map(|image| image.rsplit_once(':'));
    tags.find_map(|(_, tag)| tag.parse::<KubernetesVersion>().ok())
        .map(|version| version.to_string())
        .unwrap_or_default()
}

/// Resident memory of this process, in bytes; 0 where the system does not tell.
fn agent_memory() -> u64 {
    let (Ok(pid), Ok(mut system)) = (sysinfo::get_current_pid(), System::new()) else {
        return 0;
    };
    let memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, memory);
    system.process(pid).map_or(0, sysinfo::Process::memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: &str, created_at_ns: i64) -> RunningContainer {
        RunningContainer {
            name: name.to_owned(),
            pod: format!("{name}-cp1"),
            namespace: "kube-system".to_owned(),
            images: vec!["k8s.gcr.io/kube-apiserver@sha256:0123".to_owned(), image.to_owned()],
            created_at_ns,
        }
    }

    #[test]
    fn the_control_planes_version_is_that_of_the_newest_api_server_container() {
        let running = [
            container("kube-apiserver", "registry:5000/kube-apiserver:v1.19.7", 1),
            container("kube-apiserver", "registry:5000/kube-apiserver:v1.20.2", 2),
            container("etcd", "registry:5000/etcd:v1.99.9", 3),
        ];
        assert_eq!(api_server_version(&running), "v1.20.2");
        assert_eq!(api_server_version(&[]), "");
    }

    #[test]
    fn the_agent_knows_its_own_memory() {
        assert!(agent_memory() > 1 << 20);
    }
}
