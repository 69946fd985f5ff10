//! How many pods a workload has, and how many of them are ready.

use serde::Deserialize;

use super::objects::ObjectMeta;
use crate::host::Replicas;

/// A Deployment or a `DaemonSet`: each has one half of the counts. The API server leaves out what is zero.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Workload {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    replicas: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    ready_replicas: u32,
    desired_number_scheduled: u32,
    number_ready: u32,
}

impl Workload {
    /// Its name and its pods, unless all are ready or it is the cluster's DNS, which is asked for by itself.
    pub(super) fn unready(self, kind: &str) -> Option<(String, Replicas)> {
        let pods = Replicas {
            wanted: self.spec.replicas + self.status.desired_number_scheduled,
            ready: self.status.ready_replicas + self.status.number_ready,
        };
        let unready = pods.ready < pods.wanted && !self.metadata.is_cluster_dns();
        unready.then(|| (format!("{kind} {}", self.metadata.name), pods))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unready(object: serde_json::Value) -> Option<(String, Replicas)> {
        serde_json::from_value::<Workload>(object).unwrap().unready("Kind")
    }

    #[test]
    fn a_workload_that_lacks_ready_pods_is_told_and_the_clusters_dns_is_not() {
        let replicas = |wanted, ready| Some(("Kind x".to_owned(), Replicas { wanted, ready }));
        let metadata = json!({"name": "x"});
        let deployment = |ready| json!({"metadata": metadata, "spec": {"replicas": 2}, "status": {"readyReplicas": ready}});
        assert_eq!(unready(deployment(1)), replicas(2, 1));
        assert_eq!(unready(deployment(2)), None);
        let status = json!({"desiredNumberScheduled": 5, "numberReady": 4});
        assert_eq!(unready(json!({"metadata": metadata, "status": status})), replicas(5, 4));
        let none = json!({"metadata": metadata, "spec": {"replicas": 2}, "status": {}});
        assert_eq!(unready(none), replicas(2, 0));
        let dns = json!({"name": "coredns", "labels": {"k8s-app": "kube-dns"}});
        assert_eq!(unready(json!({"metadata": dns, "spec": {"replicas": 2}})), None);
    }
}
