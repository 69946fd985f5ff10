//! A stand-in container runtime: what runs on a node, and which images it has, over CRI.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;

use crate::standin::node::NodeTree;
use crate::standin::packages::sha256;

/// Where it unpacks images to.
const IMAGES: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs";

/// One running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `kube-apiserver`
    pub name: String,
    /// `kube-apiserver-cp1`
    pub pod: String,
    /// `kube-system`
    pub namespace: String,
    /// Its pod's uid, or its manifest's hash.
    pub uid: String,
    /// Its image's tag.
    pub image: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
}

/// A node's container runtime. A cheap handle.
#[derive(Debug, Clone)]
pub struct Runtime {
    node: NodeTree,
    containers: Arc<Mutex<Vec<Container>>>,
    refused_image: Arc<Mutex<Option<String>>>,
    image_bytes: Arc<AtomicU64>,
}

impl Runtime {
    /// The runtime of a node; nothing runs yet.
    pub fn new(node: NodeTree) -> Self {
        Self {
            node,
            containers: Arc::default(),
            refused_image: Arc::default(),
            image_bytes: Arc::new(1.into()),
        }
    }

    /// What runs.
    pub fn containers(&self) -> Vec<Container> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what runs.
    pub fn set_containers(&self, containers: Vec<Container>) {
        *self.containers.lock().unwrap_or_else(PoisonError::into_inner) = containers;
    }

    /// Makes every pull of images whose name contains this fail; `None` ends that.
    pub fn refuse_image(&self, part: Option<&str>) {
        *self.refused_image.lock().unwrap_or_else(PoisonError::into_inner) = part.map(str::to_owned);
    }

    /// Says how large each image is.
    pub fn set_image_bytes(&self, bytes: u64) {
        self.image_bytes.store(bytes, Ordering::Relaxed);
    }

    fn pull(&self, image: &str) -> Result<String, tonic::Status> {
        let refused = self.refused_image.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if refused.is_some_and(|part| image.contains(&part)) {
            return Err(tonic::Status::not_found(format!(
                "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
            )));
        }
        self.node.add_image(image).map_err(|error| tonic::Status::internal(error.to_string()))?;
        Ok(image_id(image))
    }

    /// Its services: CRI v1, or v1alpha2 for the runtimes of older clusters.
    pub fn router(&self, v1: bool) -> Router {
        if v1 { v1::router(self.clone()) } else { v1alpha2::router(self.clone()) }
    }
}

/// What the runtime calls an image itself.
fn image_id(image: &str) -> String {
    format!("sha256:{}", sha256(image.as_bytes()))
}

/// The same services in both versions, which differ in the package's name only.
macro_rules! services {
    ($version:ident) => {
        mod $version {
            use std::sync::atomic::Ordering;

            use liftlock_proto::cri::$version as cri;
            use tonic::{Request, Response, Status};

            use super::{Container, IMAGES, Runtime, image_id};

            pub(super) fn router(runtime: Runtime) -> axum::Router {
                use cri::image_service_server::ImageServiceServer;
                use cri::runtime_service_server::RuntimeServiceServer;
                tonic::service::Routes::new(RuntimeServiceServer::new(runtime.clone()))
                    .add_service(ImageServiceServer::new(runtime))
                    .into_axum_router()
            }

            fn image(tag: &str, size: u64) -> cri::Image {
                cri::Image {
                    id: image_id(tag),
                    repo_tags: vec![tag.to_owned()],
                    repo_digests: Vec::new(),
                    size,
                }
            }

            fn container(container: Container) -> cri::Container {
                let labels = [
                    ("io.kubernetes.container.name", &container.name),
                    ("io.kubernetes.pod.name", &container.pod),
                    ("io.kubernetes.pod.namespace", &container.namespace),
                ];
                cri::Container {
                    id: format!("{}-{}", container.pod, container.created_at_ns),
                    pod_sandbox_id: container.pod.clone(),
                    metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
                    image: Some(cri::ImageSpec { image: image_id(&container.image) }),
                    image_ref: image_id(&container.image),
                    state: cri::ContainerState::ContainerRunning.into(),
                    created_at: container.created_at_ns,
                    labels: labels.map(|(name, value)| (name.to_owned(), value.clone())).into(),
                    annotations: std::collections::HashMap::new(),
                }
            }

            #[tonic::async_trait]
            impl cri::runtime_service_server::RuntimeService for Runtime {
                async fn version(
                    &self,
                    _: Request<cri::VersionRequest>,
                ) -> Result<Response<cri::VersionResponse>, Status> {
                    Ok(Response::new(cri::VersionResponse {
                        version: "0.1.0".to_owned(),
                        runtime_name: "containerd".to_owned(),
                        runtime_version: "1.6.20".to_owned(),
                        runtime_api_version: stringify!($version).to_owned(),
                    }))
                }

                async fn list_containers(
                    &self,
                    request: Request<cri::ListContainersRequest>,
                ) -> Result<Response<cri::ListContainersResponse>, Status> {
                    let wanted = request.into_inner().filter.unwrap_or_default();
                    let containers = self
                        .containers()
                        .into_iter()
                        .map(container)
                        .filter(|container| {
                            wanted.state.is_none_or(|state| state.state == container.state)
                                && wanted
                                    .label_selector
                                    .iter()
                                    .all(|(name, value)| container.labels.get(name) == Some(value))
                        })
                        .collect();
                    Ok(Response::new(cri::ListContainersResponse { containers }))
                }

                async fn stop_container(
                    &self,
                    request: Request<cri::StopContainerRequest>,
                ) -> Result<Response<cri::StopContainerResponse>, Status> {
                    let id = request.into_inner().container_id;
                    let mut containers = self.containers();
                    containers.retain(|running| container(running.clone()).id != id);
                    self.set_containers(containers);
                    Ok(Response::new(cri::StopContainerResponse {}))
                }

                async fn list_pod_sandbox(
                    &self,
                    _: Request<cri::ListPodSandboxRequest>,
                ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
                    let sandbox = |container: Container| cri::PodSandbox {
                        id: container.pod.clone(),
                        metadata: Some(cri::PodSandboxMetadata {
                            name: container.pod,
                            uid: container.uid,
                            namespace: container.namespace,
                            attempt: 0,
                        }),
                        state: cri::PodSandboxState::SandboxReady.into(),
                        created_at: container.created_at_ns,
                    };
                    let items = self.containers().into_iter().map(sandbox).collect();
                    Ok(Response::new(cri::ListPodSandboxResponse { items }))
                }
            }

            #[tonic::async_trait]
            impl cri::image_service_server::ImageService for Runtime {
                async fn list_images(
                    &self,
                    _: Request<cri::ListImagesRequest>,
                ) -> Result<Response<cri::ListImagesResponse>, Status> {
                    let size = self.image_bytes.load(Ordering::Relaxed);
                    let images = self.node.images().iter().map(|tag| image(tag, size)).collect();
                    Ok(Response::new(cri::ListImagesResponse { images }))
                }

                async fn image_status(
                    &self,
                    request: Request<cri::ImageStatusRequest>,
                ) -> Result<Response<cri::ImageStatusResponse>, Status> {
                    let wanted = request.into_inner().image.unwrap_or_default().image;
                    let known =
                        self.node.images().into_iter().find(|tag| *tag == wanted || image_id(tag) == wanted);
                    let size = self.image_bytes.load(Ordering::Relaxed);
                    Ok(Response::new(cri::ImageStatusResponse { image: known.map(|tag| image(&tag, size)) }))
                }

                async fn pull_image(
                    &self,
                    request: Request<cri::PullImageRequest>,
                ) -> Result<Response<cri::PullImageResponse>, Status> {
                    let wanted = request.into_inner().image.unwrap_or_default().image;
                    Ok(Response::new(cri::PullImageResponse { image_ref: self.pull(&wanted)? }))
                }

                async fn image_fs_info(
                    &self,
                    _: Request<cri::ImageFsInfoRequest>,
                ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
                    let usage = cri::FilesystemUsage {
                        timestamp: 1,
                        fs_id: Some(cri::FilesystemIdentifier { mountpoint: IMAGES.to_owned() }),
                    };
                    Ok(Response::new(cri::ImageFsInfoResponse { image_filesystems: vec![usage] }))
                }
            }
        }
    };
}

services!(v1);
services!(v1alpha2);
