//! What a control plane sees of its cluster: etcd, the workloads of kube-system, and kubeadm-config.

use std::collections::BTreeMap;

use liftlock_proto::v1::{self, ArgumentFacts, EtcdFacts, EtcdMemberFacts, ExtraArgument, WorkloadFacts};
use serde::Deserialize;

use super::{spelled, told};
use crate::host::{EtcdMember, Host, HostError, HostResult};
use crate::kube::static_pod::StaticPod;

/// etcd's own `--quota-backend-bytes`, where nobody gives another: 2 GiB
/// (<https://etcd.io/docs/v3.5/dev-guide/limit/#storage-size-limit>).
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

/// etcd, as the members say that were asked already.
pub async fn etcd(host: &Host, members: &[EtcdMember]) -> EtcdFacts {
    let alarms_and_quota = async { Ok::<_, HostError>((host.etcd.alarms().await?, quota(host).await?)) };
    told(
        alarms_and_quota.await,
        |(alarms, quota_bytes)| EtcdFacts {
            unread: String::new(),
            members: members.iter().map(member).collect(),
            alarms,
            quota_bytes,
        },
        |unread| EtcdFacts { unread, ..EtcdFacts::default() },
    )
}

fn member(member: &EtcdMember) -> EtcdMemberFacts {
    let status = member.status.as_ref().ok();
    EtcdMemberFacts {
        name: if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() },
        version: status.map(|status| status.version.clone()).unwrap_or_default(),
        db_bytes: status.map_or(0, |status| status.db_size),
        learner: member.learner,
    }
}

/// What this node's member is started with; the others' manifests come from the same kubeadm-config.
async fn quota(host: &Host) -> HostResult<u64> {
    let manifest = host.files.read(&host.layout.manifests().join("etcd.yaml")).await?;
    let given = manifest.map(|manifest| StaticPod::parse("etcd", &manifest)).transpose()?;
    let given = given.and_then(|pod| pod.flag("quota-backend-bytes")?.parse().ok());
    // 0 is etcd's own word for its default.
    Ok(given.filter(|&bytes| bytes > 0).unwrap_or(DEFAULT_QUOTA_BYTES))
}

/// The workloads of kube-system that are not all ready.
pub async fn workloads(host: &Host) -> WorkloadFacts {
    let unready = |unready: Vec<(String, crate::host::Replicas)>| {
        let workload = |(name, pods): (String, crate::host::Replicas)| v1::Workload {
            name,
            pods: Some(v1::Replicas { wanted: pods.wanted, ready: pods.ready }),
        };
        WorkloadFacts { unread: String::new(), unready: unready.into_iter().map(workload).collect() }
    };
    told(host.kube.unready_system_workloads().await, unready, |unread| WorkloadFacts {
        unread,
        ..WorkloadFacts::default()
    })
}

/// What kubeadm-config gives the control plane's components.
pub async fn arguments(host: &Host) -> ArgumentFacts {
    let read = async {
        let map = host.kube.config_map("kubeadm-config").await?;
        extra_arguments(&map.unwrap_or_default())
    };
    told(
        read.await,
        |arguments| ArgumentFacts { arguments, ..ArgumentFacts::default() },
        |unread| ArgumentFacts { unread, ..ArgumentFacts::default() },
    )
}

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
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ClusterConfiguration {
    api_server: Component,
    controller_manager: Component,
    scheduler: Component,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Component {
    extra_args: ExtraArgs,
}

/// A map up to kubeadm's v1beta3, a list of names and values from v1beta4 on.
#[derive(Deserialize)]
#[serde(untagged)]
enum ExtraArgs {
    Map(BTreeMap<String, String>),
    List(Vec<Argument>),
}

#[derive(Deserialize)]
struct Argument {
    name: String,
    value: String,
}

impl Default for ExtraArgs {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl ExtraArgs {
    fn of(self, component: &str) -> Vec<ExtraArgument> {
        let argument = |(name, value): (String, String)| ExtraArgument {
            component: component.to_owned(),
            flag: format!("--{}", spelled(&name)),
            value,
        };
        match self {
            Self::Map(map) => map.into_iter().map(argument).collect(),
            Self::List(list) => list.into_iter().map(|one| argument((one.name, one.value))).collect(),
        }
    }
}

fn extra_arguments(config_map: &str) -> HostResult<Vec<ExtraArgument>> {
    let malformed =
        |why: String| HostError::Malformed { what: "the ConfigMap kubeadm-config".to_owned(), why };
    let map: ConfigMap = serde_saphyr::from_str(config_map).map_err(|error| malformed(error.to_string()))?;
    let configuration: ClusterConfiguration = serde_saphyr::from_str(&map.data.cluster_configuration)
        .map_err(|error| malformed(error.to_string()))?;
    let ClusterConfiguration { api_server, controller_manager, scheduler } = configuration;
    let components = [
        ("kube-apiserver", api_server),
        ("kube-controller-manager", controller_manager),
        ("kube-scheduler", scheduler),
    ];
    Ok(components.into_iter().flat_map(|(name, component)| component.extra_args.of(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(configuration: &str) -> Vec<(String, String, String)> {
        let map = serde_json::json!({"data": {"ClusterConfiguration": configuration}}).to_string();
        let arguments = extra_arguments(&map).unwrap();
        arguments.into_iter().map(|one| (one.component, one.flag, one.value)).collect()
    }

    #[test]
    fn extra_arguments_are_read_as_a_map_and_as_a_list() {
        let map = "apiServer:\n  extraArgs:\n    insecure-port: \"0\"\n  timeoutForControlPlane: 4m0s\nscheduler: {}\n";
        let list = "apiServer:\n  extraArgs:\n  - name: insecure-port\n    value: \"0\"\nkind: ClusterConfiguration\n";
        let expected = [("kube-apiserver".to_owned(), "--insecure-port".to_owned(), "0".to_owned())];
        assert_eq!(arguments(map), expected);
        assert_eq!(arguments(list), expected);
        assert_eq!(arguments("kind: ClusterConfiguration\n"), []);
    }

    #[test]
    fn an_argument_is_found_however_its_name_is_spelled() {
        let given = arguments("scheduler: {extraArgs: {log_dir: /var/log}}");
        assert_eq!(given, [("kube-scheduler".to_owned(), "--log-dir".to_owned(), "/var/log".to_owned())]);
    }

    #[test]
    fn a_kubeadm_config_that_does_not_read_says_so() {
        let error = extra_arguments("data: {}").unwrap_err().to_string();
        assert!(error.contains("kubeadm-config"), "{error}");
    }
}
