//! Against a small runtime on a Unix socket.

use std::collections::HashMap;
use std::sync::Mutex;

use camino::Utf8Path;
use liftlock_proto::cri::v1::image_service_server::{ImageService, ImageServiceServer};
use liftlock_proto::cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use liftlock_proto::cri::v1::{
    ContainerMetadata, FilesystemIdentifier, FilesystemUsage, PodSandbox, PodSandboxMetadata, VersionRequest,
    VersionResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Response, transport::Server};

use super::*;
use crate::host::real::RealFiles;

/// Has one container of each kind, and pulls everything but what is refused.
#[derive(Clone, Default)]
struct Stub {
    /// The paths that were asked for, as they came in.
    asked: Arc<Mutex<Vec<String>>>,
    /// Containers that were stopped, and the grace of each, in seconds.
    stopped: Arc<Mutex<Vec<(String, i64)>>>,
    /// It is older than the question where images lie.
    no_image_fs_info: Arc<Mutex<bool>>,
}

type Answer<T> = Result<Response<T>, Status>;

fn container(name: &str, image: &str, image_ref: &str) -> Container {
    let labels = [
        ("io.kubernetes.container.name", name),
        ("io.kubernetes.pod.name", "pod-cp1"),
        ("io.kubernetes.pod.namespace", "kube-system"),
    ];
    Container {
        id: format!("id-of-{name}"),
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(spec(image)),
        image_ref: image_ref.to_owned(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<HashMap<_, _>>(),
        created_at: 17,
        ..Container::default()
    }
}

fn image(id: &str, tags: &[&str], digests: &[&str]) -> Image {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Image { id: id.to_owned(), repo_tags: owned(tags), repo_digests: owned(digests), size: 1 }
}

#[tonic::async_trait]
impl RuntimeService for Stub {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        self.stopped.lock().unwrap().push((container_id, timeout));
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let state = request.into_inner().filter.and_then(|filter| filter.state).map(|state| state.state());
        assert_eq!(state, Some(PodSandboxState::SandboxReady));
        let items = vec![Self::sandbox("u1"), Self::sandbox("u2")];
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let state = request.into_inner().filter.and_then(|filter| filter.state).map(|state| state.state());
        assert_eq!(state, Some(ContainerState::ContainerRunning));
        let containers = vec![
            container("by-id", "sha256:aa", "sha256:aa"),
            container("by-digest", "sha256:bb", "k8s.gcr.io/etcd@sha256:dd"),
            container("by-tag", "k8s.gcr.io/gone:1", "sha256:ff"),
        ];
        Ok(Response::new(ListContainersResponse { containers }))
    }
}

impl Stub {
    fn sandbox(uid: &str) -> PodSandbox {
        PodSandbox {
            metadata: Some(PodSandboxMetadata { uid: uid.to_owned(), ..PodSandboxMetadata::default() }),
            ..PodSandbox::default()
        }
    }
}

#[tonic::async_trait]
impl ImageService for Stub {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = vec![
            image("sha256:aa", &["k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:latest"], &[]),
            image("sha256:cc", &["k8s.gcr.io/etcd:3.4.13-0"], &["k8s.gcr.io/etcd@sha256:dd"]),
        ];
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let image = (name == "there:1").then(|| image("sha256:aa", &["there:1"], &[]));
        Ok(Response::new(ImageStatusResponse { image }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        match request.into_inner().image.unwrap_or_default().image.as_str() {
            "refused:1" => Err(Status::unknown("no such host")),
            name => Ok(Response::new(PullImageResponse { image_ref: name.to_owned() })),
        }
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        if *self.no_image_fs_info.lock().unwrap() {
            return Err(Status::unimplemented("no such call"));
        }
        let mountpoint = "/var/lib/containerd/overlayfs".to_owned();
        let usage =
            FilesystemUsage { fs_id: Some(FilesystemIdentifier { mountpoint }), ..Default::default() };
        Ok(Response::new(ImageFsInfoResponse { image_filesystems: vec![usage] }))
    }
}

/// A runtime that knows one version of CRI only; `version` is `v1` or `v1alpha2`.
fn start(version: &'static str) -> (tempfile::TempDir, Stub, RealRuntime) {
    let folder = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    let socket = root.join("runtime.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stub = Stub::default();
    let asked = Arc::clone(&stub.asked);
    // The generated services answer to runtime.v1; a name in front of them makes them answer to the other one.
    let rename = move |mut request: http::Request<tonic::body::Body>| {
        let path = request.uri().path().to_owned();
        asked.lock().unwrap().push(path.clone());
        let known = path.strip_prefix(&format!("/runtime.{version}."));
        let renamed = known.map_or("/unknown".to_owned(), |method| format!("/runtime.v1.{method}"));
        *request.uri_mut() = renamed.parse().unwrap();
        request
    };
    let serving = Server::builder()
        .layer(tower::util::MapRequestLayer::new(rename))
        .add_service(RuntimeServiceServer::new(stub.clone()))
        .add_service(ImageServiceServer::new(stub.clone()))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(serving);
    let layout = Layout { state_dir: root.join("state"), root };
    let files = Arc::new(RealFiles::new(layout.clone()));
    (folder, stub, RealRuntime::new(layout, files, Some(format!("unix://{socket}"))))
}

#[tokio::test]
async fn a_running_container_carries_every_tag_of_its_image() {
    let (_folder, _, runtime) = start("v1");
    let running = runtime.running().await.unwrap();
    let images: Vec<(&str, Vec<&str>)> = running
        .iter()
        .map(|one| (one.name.as_str(), one.images.iter().map(String::as_str).collect()))
        .collect();
    let expected = [
        ("by-id", vec!["k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:latest"]),
        ("by-digest", vec!["k8s.gcr.io/etcd:3.4.13-0"]),
        ("by-tag", vec!["k8s.gcr.io/gone:1"]),
    ];
    assert_eq!(images, expected);
    let first = running.first().unwrap();
    assert_eq!(
        (first.pod.as_str(), first.namespace.as_str(), first.created_at_ns),
        ("pod-cp1", "kube-system", 17)
    );
}

#[tokio::test]
async fn a_runtime_says_where_images_lie_and_how_large_they_are_or_only_the_latter() {
    let (folder, stub, runtime) = start("v1");
    let store = runtime.image_store().await.unwrap();
    let root = Utf8Path::from_path(folder.path()).unwrap();
    assert_eq!(store.folder, Some(root.join("var/lib/containerd/overlayfs")));
    let tags = ["k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:latest"];
    assert_eq!(store.sizes.into_keys().collect::<Vec<_>>(), tags);
    *stub.no_image_fs_info.lock().unwrap() = true;
    assert_eq!(runtime.image_store().await.unwrap().folder, None);
}

#[tokio::test]
async fn an_old_runtime_is_spoken_to_in_its_own_version_and_asked_only_once() {
    let (_folder, stub, runtime) = start("v1alpha2");
    assert!(runtime.has_image("there:1").await.unwrap());
    assert!(!runtime.has_image("not-there:1").await.unwrap());
    assert_eq!(runtime.running().await.unwrap().len(), 3);
    let asked = stub.asked.lock().unwrap().clone();
    let (first, later) = asked.split_first().unwrap();
    assert_eq!(first, "/runtime.v1.ImageService/ImageStatus");
    assert!(later.iter().all(|path| path.starts_with("/runtime.v1alpha2.")), "{asked:?}");
}

#[tokio::test]
async fn the_pods_that_still_have_a_sandbox_are_told_by_their_uids() {
    let (_folder, _, runtime) = start("v1");
    let pods = runtime.pods_with_sandboxes().await.unwrap();
    assert_eq!(pods.iter().map(String::as_str).collect::<Vec<_>>(), ["u1", "u2"]);
}

#[tokio::test]
async fn a_pull_that_fails_says_which_image_and_why() {
    let (_folder, _, runtime) = start("v1");
    runtime.pull("fine:1").await.unwrap();
    match runtime.pull("refused:1").await.unwrap_err() {
        HostError::Api { what, why, transient, .. } => {
            assert_eq!(what, "cannot pull the image refused:1");
            assert!(why.contains("no such host") && transient, "{why}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_runtime_that_does_not_listen_is_an_error_that_names_the_socket() {
    let (folder, _, _) = start("v1");
    let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    let layout = Layout { state_dir: root.join("state"), root: root.clone() };
    let runtime =
        RealRuntime::new(layout.clone(), Arc::new(RealFiles::new(layout)), Some("/no/such.sock".to_owned()));
    let error = runtime.has_image("x").await.unwrap_err().to_string();
    assert!(error.contains("/no/such.sock") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn the_runtime_is_found_where_the_kubelet_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    let layout = Layout { state_dir: root.join("state"), root: root.clone() };
    let files = RealFiles::new(layout.clone());
    let found = async || socket::find(&layout, &files, None).await;

    assert!(found().await.unwrap_err().to_string().contains("set `runtime-endpoint`"));
    #[expect(clippy::disallowed_methods, reason = "a test sets up what it tests")]
    let put = |path: &str, content: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put("run/containerd/containerd.sock", "");
    assert_eq!(found().await.unwrap(), root.join("run/containerd/containerd.sock"));
    put("var/lib/kubelet/config.yaml", "containerRuntimeEndpoint: unix:///run/crio.sock\n");
    assert_eq!(found().await.unwrap(), root.join("run/crio.sock"));
    put("var/lib/kubelet/kubeadm-flags.env", "A=\"--container-runtime-endpoint=/run/other.sock\"");
    assert_eq!(found().await.unwrap(), root.join("run/other.sock"));
}

#[tokio::test]
async fn every_running_container_is_stopped_with_its_grace() {
    let (_folder, stub, runtime) = start("v1");
    let lease = crate::engine::lease::Lease::new(liftlock_proto::name::FencingToken(1), Duration::MAX);
    runtime.stop_all(&lease.permit(&RealClock).unwrap(), Duration::from_secs(30)).await.unwrap();
    let mut stopped = stub.stopped.lock().unwrap().clone();
    stopped.sort();
    let expected = ["id-of-by-digest", "id-of-by-id", "id-of-by-tag"].map(|id| (id.to_owned(), 30));
    assert_eq!(stopped, expected);
}
