//! The container runtime over CRI, on its Unix socket.
//!
//! Kubernetes published CRI as v1alpha2 and then, in 1.23, as v1 with the same messages; a runtime that is too old
//! for v1 (containerd before 1.6) is spoken to with the same bytes under the older names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use futures::future::try_join_all;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use liftlock_proto::causes::causes;
use liftlock_proto::cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, Image, ImageFsInfoRequest,
    ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, ListContainersRequest,
    ListContainersResponse, ListImagesRequest, ListImagesResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, PodSandboxFilter, PodSandboxState, PodSandboxStateValue, PullImageRequest,
    PullImageResponse, StopContainerRequest, StopContainerResponse,
};
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::engine::lease::Permit;
use crate::host::real::RealClock;
use crate::host::{ContainerRuntime, Files, HostError, HostResult, ImageStore, Layout, RunningContainer};

mod socket;
#[cfg(test)]
mod tests;

/// How long the runtime may take over a question.
const REQUEST: Duration = Duration::from_secs(15);
/// How long one image may take to be pulled.
const PULL: Duration = Duration::from_mins(30);
/// A list of images can be long: each has its tags and digests.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// This node's container runtime.
pub struct RealRuntime {
    layout: Layout,
    files: Arc<dyn Files>,
    /// Where the configuration says it is; otherwise it is found.
    endpoint: Option<String>,
    /// The runtime has turned v1 down.
    v1alpha2: AtomicBool,
}

impl RealRuntime {
    /// `endpoint` is a path or `unix://` and a path; without one, the kubelet's own is used.
    pub fn new(layout: Layout, files: Arc<dyn Files>, endpoint: Option<String>) -> Self {
        Self { layout, files, endpoint, v1alpha2: AtomicBool::new(false) }
    }

    /// One call, say `RuntimeService/ListContainers`.
    async fn call<M, R>(&self, what: &str, method: &str, limit: Duration, message: M) -> HostResult<R>
    where
        M: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let socket = socket::find(&self.layout, self.files.as_ref(), self.endpoint.as_deref()).await?;
        let error = |why: String, transient| HostError::Api {
            what: what.to_owned(),
            endpoint: socket.to_string(),
            why,
            transient,
        };
        let calling = async {
            let channel = connect(socket.clone()).await.map_err(|why| error(why, true))?;
            if !self.v1alpha2.load(Ordering::Relaxed) {
                match call(&channel, "v1", method, message.clone()).await {
                    // Asked with v1alpha2, and next time at once.
                    Err(status) if status.code() == Code::Unimplemented => {}
                    answer => return answer.map_err(|status| error(in_words(&status), transient(&status))),
                }
            }
            let answer = call(&channel, "v1alpha2", method, message).await;
            self.v1alpha2.store(answer.is_ok(), Ordering::Relaxed);
            answer.map_err(|status| error(in_words(&status), transient(&status)))
        };
        tokio::time::timeout(limit, calling)
            .await
            .unwrap_or_else(|_| Err(error(format!("no answer within {limit:?}"), true)))
    }
}

#[async_trait]
impl ContainerRuntime for RealRuntime {
    async fn running(&self) -> HostResult<Vec<RunningContainer>> {
        let containers = self.list_running().await?;
        let images = self.list_images().await?;
        Ok(containers.iter().map(|container| in_our_words(container, &images)).collect())
    }

    async fn pods_with_sandboxes(&self) -> HostResult<BTreeSet<String>> {
        let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
        let filter = PodSandboxFilter { state: Some(ready), ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let what = "cannot list the pods' sandboxes";
        let sandboxes: ListPodSandboxResponse =
            self.call(what, "RuntimeService/ListPodSandbox", REQUEST, request).await?;
        Ok(sandboxes
            .items
            .into_iter()
            .filter_map(|sandbox| sandbox.metadata)
            .map(|metadata| metadata.uid)
            .collect())
    }

    async fn stop_all(&self, permit: &Permit, grace: Duration) -> HostResult<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let stops = self.list_running().await?.into_iter().map(|container| async move {
            let what = format!("cannot stop the container {}", container.id);
            permit.still_holds(&RealClock)?;
            let request = StopContainerRequest { container_id: container.id, timeout };
            let _: StopContainerResponse = self
                .call(&what, "RuntimeService/StopContainer", grace.saturating_add(REQUEST), request)
                .await?;
            HostResult::Ok(())
        });
        // Side by side: each may take its whole grace.
        try_join_all(stops).await.map(drop)
    }

    async fn has_image(&self, image: &str) -> HostResult<bool> {
        let request = ImageStatusRequest { image: Some(spec(image)), verbose: false };
        let what = format!("cannot look for the image {image}");
        let status: ImageStatusResponse =
            self.call(&what, "ImageService/ImageStatus", REQUEST, request).await?;
        Ok(status.image.is_some())
    }

    async fn pull(&self, image: &str) -> HostResult<()> {
        let request = PullImageRequest { image: Some(spec(image)) };
        let what = format!("cannot pull the image {image}");
        let _: PullImageResponse = self.call(&what, "ImageService/PullImage", PULL, request).await?;
        Ok(())
    }

    async fn image_store(&self) -> HostResult<ImageStore> {
        let images = self.list_images().await?.into_iter();
        let sizes = images
            .flat_map(|Image { repo_tags, size, .. }| repo_tags.into_iter().map(move |tag| (tag, size)));
        let what = "cannot ask where images lie";
        let store: HostResult<ImageFsInfoResponse> =
            self.call(what, "ImageService/ImageFsInfo", REQUEST, ImageFsInfoRequest::default()).await;
        let folder = match store {
            Ok(ImageFsInfoResponse { image_filesystems }) => {
                let mut folders = image_filesystems.into_iter().filter_map(|usage| usage.fs_id);
                folders.next().map(|id| self.layout.at(&id.mountpoint))
            }
            // A runtime without the call.
            Err(HostError::Api { transient: false, .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(ImageStore { folder, sizes: sizes.collect() })
    }
}

impl RealRuntime {
    async fn list_images(&self) -> HostResult<Vec<Image>> {
        let images: ListImagesResponse = self
            .call("cannot list the images", "ImageService/ListImages", REQUEST, ListImagesRequest::default())
            .await?;
        Ok(images.images)
    }

    async fn list_running(&self) -> HostResult<Vec<Container>> {
        let running = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
        let filter = ContainerFilter { state: Some(running), ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let what = "cannot list the running containers";
        let listed: ListContainersResponse =
            self.call(what, "RuntimeService/ListContainers", REQUEST, request).await?;
        Ok(listed.containers)
    }
}

async fn connect(socket: Utf8PathBuf) -> Result<Channel, String> {
    // The address is of no meaning: the connector goes to the socket.
    let endpoint = Endpoint::from_static("http://localhost");
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| causes(&error))
}

async fn call<M, R>(channel: &Channel, version: &str, method: &str, message: M) -> Result<R, Status>
where
    M: Message + 'static,
    R: Message + Default + 'static,
{
    let path: PathAndQuery =
        format!("/runtime.{version}.{method}").parse().map_err(|_| Status::internal("no such path"))?;
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
    grpc.ready().await.map_err(|error| Status::unavailable(causes(&error)))?;
    let codec: ProstCodec<M, R> = ProstCodec::default();
    Ok(grpc.unary(Request::new(message), path, codec).await?.into_inner())
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned() }
}

fn in_words(status: &Status) -> String {
    format!("{} ({:?})", status.message(), status.code())
}

/// A registry that is away or a runtime that restarts comes back; a runtime without the call does not get it.
fn transient(status: &Status) -> bool {
    !matches!(status.code(), Code::Unimplemented | Code::InvalidArgument | Code::PermissionDenied)
}

fn in_our_words(container: &Container, images: &[Image]) -> RunningContainer {
    let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
    let asked_for = container.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    // containerd names the image by its id, CRI-O by a digest, and either may have been asked for a tag.
    let is_it = |image: &&Image| {
        let names = || std::iter::once(&image.id).chain(&image.repo_digests);
        names().any(|name| *name == container.image_ref || *name == asked_for)
    };
    let mut tags = images.iter().find(is_it).map(|image| image.repo_tags.clone()).unwrap_or_default();
    if tags.is_empty() && !asked_for.is_empty() {
        tags.push(asked_for);
    }
    RunningContainer {
        name: label("io.kubernetes.container.name"),
        pod: label("io.kubernetes.pod.name"),
        namespace: label("io.kubernetes.pod.namespace"),
        images: tags,
        created_at_ns: container.created_at,
    }
}
