//! The container runtime.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use super::node::NodeTwin;
use super::world::World;
use crate::engine::lease::Permit;
use crate::host::{ContainerRuntime, HostError, HostResult, ImageStore, RunningContainer};

/// Where images lie.
const IMAGES: &str = "/var/lib/containerd";

/// Bytes of each of them.
const IMAGE: u64 = 32 << 20;

#[async_trait]
impl ContainerRuntime for NodeTwin {
    async fn running(&self) -> HostResult<Vec<RunningContainer>> {
        let now = self.world(|world| world.now());
        self.machine(|machine| {
            let running = |name: &String, image: &String, created: Duration| RunningContainer {
                name: name.clone(),
                pod: format!("{name}-{}", machine.name),
                namespace: "kube-system".to_owned(),
                images: vec![image.clone()],
                created_at_ns: i64::try_from(created.as_nanos()).unwrap_or(i64::MAX),
            };
            let lingering = machine.lingering.iter().filter(|(_, _, until)| *until > now);
            let lingering = lingering.map(|(name, image, _)| running(name, image, Duration::ZERO));
            let containers = machine.containers.iter();
            containers
                .map(|(name, container)| running(name, &container.image, container.created))
                .chain(lingering)
                .collect()
        })
    }

    async fn pods_with_sandboxes(&self) -> HostResult<BTreeSet<String>> {
        Ok(self.world(|world| {
            let bound = world.cluster.pods.values().filter(|pod| pod.node.as_deref() == Some(&self.name));
            bound.map(|pod| pod.state.uid.clone()).collect()
        }))
    }

    async fn stop_all(&self, _: &Permit, _: Duration) -> HostResult<()> {
        let names: Vec<String> = self.machine(|machine| machine.containers.keys().cloned().collect())?;
        let refused = |name: &str| HostError::Api {
            what: format!("cannot stop {name}"),
            endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            why: "it does not answer".to_owned(),
            transient: true,
        };
        for name in names {
            let stop = |world: &mut World| {
                if let Some(machine) = world.machine_mut(&self.name) {
                    machine.containers.remove(&name);
                }
            };
            self.change(&format!("stop the container {name}"), || refused(&name), stop).await?;
        }
        self.machine(|machine| machine.lingering.clear())
    }

    async fn has_image(&self, image: &str) -> HostResult<bool> {
        self.machine(|machine| machine.images.contains(image))
    }

    async fn pull(&self, image: &str) -> HostResult<()> {
        let failure = || HostError::Api {
            what: format!("cannot pull {image}"),
            endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            why: "not found".to_owned(),
            transient: false,
        };
        if self.machine(|machine| machine.unpullable.contains(image))? {
            return Err(failure());
        }
        self.change(&format!("pull {image}"), failure, |_| ()).await?;
        self.machine(|machine| machine.images.insert(image.to_owned())).map(drop)
    }

    async fn image_store(&self) -> HostResult<ImageStore> {
        let sizes =
            self.machine(|machine| machine.images.iter().map(|image| (image.clone(), IMAGE)).collect())?;
        Ok(ImageStore { folder: Some(IMAGES.into()), sizes })
    }
}
