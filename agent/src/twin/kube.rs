//! The API.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::name::{NodeName, PlanId};
use liftlock_proto::v1::WorkloadDescription;
use liftlock_proto::version::KubernetesVersion;

use super::kubeadm;
use super::node::NodeTwin;
use super::world::World;
use crate::engine::idle::Idle;
use crate::engine::lease::Permit;
use crate::host::{
    Eviction, HostError, HostResult, Kube, Marked, NodeCondition, NodeState, OwnApiServer, PodState, Replicas,
};
use crate::invitation::BootstrapToken;

pub(super) fn away(what: &str) -> HostError {
    HostError::Api {
        what: what.to_owned(),
        endpoint: "https://cluster:6443".to_owned(),
        why: "connection refused".to_owned(),
        transient: true,
    }
}

impl NodeTwin {
    fn ask<T>(&self, what: &str, look: impl FnOnce(&mut World) -> Option<T>) -> HostResult<T> {
        self.world(|world| if world.api_is_up() { Ok(look(world)) } else { Err(away(what)) })?.ok_or_else(
            || HostError::Api {
                what: what.to_owned(),
                endpoint: "https://cluster:6443".to_owned(),
                why: "not found".to_owned(),
                transient: false,
            },
        )
    }

    async fn tell<T>(&self, what: &str, change: impl FnOnce(&mut World) -> Option<T>) -> HostResult<T> {
        self.ask(what, |_| Some(()))?;
        let changed = self.change(what, || away(what), change).await?;
        changed.ok_or_else(|| away(what))
    }
}

/// Where a control plane's own API server listens, which its kubelet speaks to.
pub(super) fn api_server(node: &str) -> String {
    format!("https://{node}:6443")
}

/// The pods bound to a node that a drain sees, mirror pods among them.
fn pods_on(world: &World, node: &str) -> Vec<PodState> {
    let bound = world.cluster.pods.values().filter(|pod| pod.node.as_deref() == Some(node));
    let mirrors =
        world.machine(node).into_iter().flat_map(|machine| machine.containers.keys()).map(|name| PodState {
            namespace: "kube-system".to_owned(),
            name: format!("{name}-{node}"),
            uid: format!("mirror-{name}-{node}"),
            controller: Some("Node".to_owned()),
            mirror: true,
            empty_dir: false,
            finished: false,
            terminating: false,
        });
    bound.map(|pod| pod.state.clone()).chain(mirrors).collect()
}

#[async_trait]
impl Kube for NodeTwin {
    async fn node(&self) -> HostResult<NodeState> {
        self.ask("cannot read the Node", |world| world.cluster.node_state(&self.name))
    }

    async fn nodes(&self) -> HostResult<Vec<NodeState>> {
        self.ask("cannot list Nodes", |world| {
            world.cluster.nodes.keys().map(|name| world.cluster.node_state(name)).collect()
        })
    }

    async fn wait_for_node(&self, condition: NodeCondition, limit: Duration) -> HostResult<NodeState> {
        let wanted = condition.kubelet_version.map(|version| version.to_string());
        let seen = self
            .wait(limit, |world| {
                let node = world.api_is_up().then(|| world.cluster.node_state(&self.name)).flatten();
                node.filter(|node| {
                    node.ready && wanted.as_ref().is_none_or(|wanted| node.kubelet_version == *wanted)
                })
            })
            .await;
        seen.ok_or_else(|| HostError::Timeout {
            what: format!("{} to be Ready at {wanted:?}", self.name),
            limit,
            seen: self.world(|world| format!("{:?}", world.cluster.node_state(&self.name))),
        })
    }

    async fn cordon(&self, _: &Permit, plan: &PlanId) -> HostResult<()> {
        self.tell("cordon", |world| {
            let node = world.cluster.nodes.get_mut(&self.name)?;
            node.unschedulable = true;
            node.cordoned_by = Some(plan.to_string());
            Some(())
        })
        .await
    }

    async fn uncordon(&self, _: &Permit) -> HostResult<()> {
        self.tell("uncordon", |world| {
            let node = world.cluster.nodes.get_mut(&self.name)?;
            node.unschedulable = false;
            node.cordoned_by = None;
            world.place_pods();
            Some(())
        })
        .await
    }

    async fn pods(&self) -> HostResult<Vec<PodState>> {
        self.ask("cannot list pods", |world| Some(pods_on(world, &self.name)))
    }

    async fn evict(&self, _: &Permit, pod: &PodState) -> HostResult<Eviction> {
        let what = format!("evict {}/{}", pod.namespace, pod.name);
        self.ask(&what, |_| Some(()))?;
        if let Some(message) = self.world(|world| world.cluster.blocked(&pod.uid)) {
            return Ok(Eviction::Blocked { message });
        }
        self.tell(&what, |world| {
            world.end_pod(&pod.uid);
            Some(Eviction::Accepted)
        })
        .await
    }

    async fn delete_pod(&self, _: &Permit, pod: &PodState) -> HostResult<()> {
        self.tell(&format!("delete {}/{}", pod.namespace, pod.name), |world| {
            world.end_pod(&pod.uid);
            Some(())
        })
        .await
    }

    async fn wait_for_pods_gone(&self, uids: &[String], limit: Duration) -> HostResult<Vec<String>> {
        let left = |world: &World| -> Vec<String> {
            let pods = pods_on(world, &self.name);
            uids.iter().filter(|uid| pods.iter().any(|pod| pod.uid == **uid)).cloned().collect()
        };
        self.wait(limit, |world| Some(left(world)).filter(|left| left.len() < uids.len())).await;
        Ok(self.world(|world| left(world)))
    }

    async fn kubeadm_config_version(&self) -> HostResult<KubernetesVersion> {
        self.ask("cannot read kubeadm-config", |world| Some(world.cluster.version))
    }

    async fn config_map(&self, name: &str) -> HostResult<Option<String>> {
        let names = self.config_map_names().await?;
        self.ask("cannot read a ConfigMap", |world| {
            let yaml = match name {
                "kubeadm-config" => kubeadm::cluster_configuration(world.cluster.version),
                _ => format!("data:\n  of: {name}\n"),
            };
            Some(names.iter().any(|known| known == name).then_some(yaml))
        })
    }

    async fn config_map_names(&self) -> HostResult<Vec<String>> {
        let names = [
            "coredns",
            "extension-apiserver-authentication",
            "kube-proxy",
            "kubeadm-config",
            "kubelet-config",
        ];
        self.ask("cannot list ConfigMaps", |_| Some(names.map(str::to_owned).to_vec()))
    }

    async fn wait_for_controllers(&self, limit: Duration) -> HostResult<()> {
        let seen = self.wait(limit, |world| {
            let leads = |node: &String| {
                let machine = world.machine(node);
                machine.is_some_and(|machine| machine.containers.contains_key("kube-controller-manager"))
            };
            (world.api_is_up() && world.cluster.nodes.keys().any(leads)).then_some(())
        });
        seen.await.ok_or_else(|| HostError::Timeout {
            what: "a controller-manager to lead".to_owned(),
            limit,
            seen: "none".to_owned(),
        })
    }

    async fn wait_for_kube_proxies(&self, _few: u32, _limit: Duration) -> HostResult<bool> {
        self.ask("cannot watch the DaemonSet kube-proxy", |_| Some(true))
    }

    async fn wait_until_open(&self, _limit: Duration) -> HostResult<bool> {
        self.ask("cannot watch the Node", |_| Some(true))
    }

    async fn cluster_dns(&self) -> HostResult<Option<Replicas>> {
        self.ask("cannot read the Deployment of the cluster's DNS", |world| Some(world.cluster.dns))
    }

    async fn wait_for_own_api_server(&self, version: KubernetesVersion, limit: Duration) -> HostResult<()> {
        let tag = format!(":{version}");
        let seen = self
            .wait(limit, |world| {
                let machine = world.machine(&self.name)?;
                let image = &machine.containers.get("kube-apiserver")?.image;
                (image.ends_with(&tag) && world.api_is_up()).then_some(())
            })
            .await;
        seen.ok_or_else(|| HostError::Timeout {
            what: format!("the API server of {} to answer with {version}", self.name),
            limit,
            seen: "no answer".to_owned(),
        })
    }

    async fn own_api_server(&self) -> HostResult<OwnApiServer> {
        let runs = self.machine(|machine| machine.containers.contains_key("kube-apiserver"))?;
        let ready = runs && self.world(|world| world.api_is_up());
        let unready = if ready { String::new() } else { "connection refused".to_owned() };
        Ok(OwnApiServer { address: api_server(&self.name), unready })
    }

    async fn deprecated_apis_in_use(&self) -> HostResult<Vec<(String, u16)>> {
        self.ask("cannot read which APIs are in use", |_| Some(Vec::new()))
    }

    async fn unready_system_workloads(&self) -> HostResult<Vec<(String, Replicas)>> {
        self.ask("cannot list the workloads of kube-system", |_| Some(Vec::new()))
    }

    async fn stored_objects(&self, _collection: &str) -> HostResult<u32> {
        self.ask("cannot list what is stored", |_| Some(0))
    }

    async fn create_bootstrap_token(
        &self,
        _: &Idle,
        token: &BootstrapToken,
        _: &NodeName,
        _: u64,
    ) -> HostResult<()> {
        self.ask("cannot make a bootstrap token", |world| {
            world.admit(token);
            Some(())
        })
    }

    async fn delete_node(&self, _: &Permit, node: &NodeName) -> HostResult<()> {
        self.tell("delete a Node", |world| {
            world.cluster.nodes.remove(node.as_str());
            world.cluster.pods.retain(|_, pod| pod.node.as_deref() != Some(node.as_str()));
            Some(())
        })
        .await
    }

    async fn workloads(&self) -> HostResult<WorkloadDescription> {
        self.ask("cannot list the pods", |_| Some(WorkloadDescription::default()))
    }

    async fn mark_not_raised(&self, nodes: &BTreeSet<NodeName>) -> HostResult<Marked> {
        let wanted = |name: &str| nodes.iter().any(|node| node.as_str() == name);
        let differing: Vec<String> = self.ask("cannot list Nodes", |world| {
            let nodes = world.cluster.nodes.iter().filter(|(name, node)| node.not_raised != wanted(name));
            Some(nodes.map(|(name, _)| name.clone()).collect())
        })?;
        let mut marked = Marked::default();
        for name in differing {
            let is = wanted(&name);
            self.tell(&format!("mark {name} as not raised: {is}"), |world| {
                world.cluster.nodes.get_mut(&name)?.not_raised = is;
                Some(())
            })
            .await?;
            (if is { &mut marked.added } else { &mut marked.removed }).push(name);
        }
        Ok(marked)
    }
}
