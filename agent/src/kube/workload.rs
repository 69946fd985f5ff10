//! How many pods a workload has, and how many of them are ready and of its present template.

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
#[serde(rename_all = "camelCase", default)]
struct Spec {
    replicas: u32,
    update_strategy: Strategy,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Strategy {
    r#type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    ready_replicas: u32,
    updated_replicas: u32,
    desired_number_scheduled: u32,
    updated_number_scheduled: u32,
    number_ready: u32,
}

impl Workload {
    /// Its name and its pods, unless all are ready and of its present template or it is the cluster's DNS, which is asked
    /// for by itself.
    pub(super) fn unready(self, kind: &str) -> Option<(String, Replicas)> {
        let pods = Replicas {
            wanted: self.spec.replicas + self.status.desired_number_scheduled,
            ready: self.ready(),
        };
        let unready = pods.ready < pods.wanted && !self.metadata.is_cluster_dns();
        unready.then(|| (format!("{kind} {}", self.metadata.name), pods))
    }

    /// While its controller has not seen its present template, nobody knows of how many pods that is the one.
    fn ready(&self) -> u32 {
        let status = &self.status;
        let ready = status.ready_replicas + status.number_ready;
        // Such pods keep their template until somebody deletes them.
        if self.spec.update_strategy.r#type == "OnDelete" {
            return ready;
        }
        let seen = status.observed_generation >= self.metadata.generation;
        if seen { ready.min(status.updated_replicas + status.updated_number_scheduled) } else { 0 }
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
        let deployment = |ready| json!({"metadata": metadata, "spec": {"replicas": 2}, "status": {"readyReplicas": ready, "updatedReplicas": 2}});
        assert_eq!(unready(deployment(1)), replicas(2, 1));
        assert_eq!(unready(deployment(2)), None);
        let status = json!({"desiredNumberScheduled": 5, "updatedNumberScheduled": 5, "numberReady": 4});
        assert_eq!(unready(json!({"metadata": metadata, "status": status})), replicas(5, 4));
        let none = json!({"metadata": metadata, "spec": {"replicas": 2}, "status": {}});
        assert_eq!(unready(none), replicas(2, 0));
        let dns = json!({"name": "coredns", "labels": {"k8s-app": "kube-dns"}});
        assert_eq!(unready(json!({"metadata": dns, "spec": {"replicas": 2}})), None);
    }

    #[test]
    fn pods_of_an_earlier_template_are_not_counted_unless_they_keep_it_until_they_are_deleted() {
        let proxies = |observed, updated| {
            json!({
                "metadata": {"name": "x", "generation": 2},
                "spec": {"updateStrategy": {"type": "RollingUpdate"}},
                "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": 5, "updatedNumberScheduled": updated,
                    "numberReady": 5,
                },
            })
        };
        let ready = |object| unready(object).map(|(_, pods)| pods.ready);
        assert_eq!(ready(proxies(1, 5)), Some(0), "that is the count of the earlier template");
        assert_eq!(ready(proxies(2, 3)), Some(3));
        assert_eq!(ready(proxies(2, 5)), None);
        let mut kept = proxies(2, 0);
        kept["spec"]["updateStrategy"]["type"] = "OnDelete".into();
        assert_eq!(ready(kept), None);
    }
}
