//! Against a small HTTP server that answers as recorded API servers did.

use std::collections::VecDeque;
use std::sync::Mutex;

use liftlock_proto::name::FencingToken;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::engine::lease::Lease;
use crate::host::real::{RealClock, RealFiles};

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/real/api/", $name, "/stdout"))
    };
}

const LIMIT: Duration = Duration::from_secs(20);

/// What the server does with the next request.
enum Answer {
    /// A status and a body.
    Plain(u16, String),
    /// Closes the connection without a word.
    Nothing,
}

/// A request's first line and body.
type Asked = (String, String);

/// Answers in order; a request more than there are answers gets a 500.
struct Server {
    asked: Arc<Mutex<Vec<Asked>>>,
    folder: tempfile::TempDir,
    address: String,
}

impl Server {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&log)));
            }
        });
        let server = Self { asked, folder, address };
        server.put("kubelet.conf", &server.kubeconfig("first"));
        server
    }

    fn kubeconfig(&self, token: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}], \
             clusters: [{{name: k, cluster: {{server: 'http://{}'}}}}], users: [{{name: u, user: {{token: {token}}}}}]}}",
            self.address
        )
    }

    #[expect(clippy::disallowed_methods, reason = "a test sets up what it tests")]
    fn put(&self, name: &str, content: &str) {
        let folder = self.folder.path().join("etc/kubernetes");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), content).unwrap();
    }

    fn kube(&self) -> RealKube {
        let root = camino::Utf8PathBuf::from_path_buf(self.folder.path().to_owned()).unwrap();
        let layout = Layout { state_dir: root.join("state"), root };
        RealKube::new("w1".parse().unwrap(), layout.clone(), Arc::new(RealFiles::new(layout)))
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Mutex<VecDeque<Answer>>>, log: Arc<Mutex<Vec<Asked>>>) {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if read.read_line(&mut first).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            read.read_line(&mut line).await.unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if let Some(value) = line.strip_prefix("authorization: ") {
                first = format!("{} {}", value.trim(), first);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        read.read_exact(&mut body).await.unwrap();
        log.lock().unwrap().push((first.trim().to_owned(), String::from_utf8(body).unwrap()));
        let answer = answers.lock().unwrap().pop_front();
        let (status, body) = match answer {
            Some(Answer::Plain(status, body)) => (status, body),
            Some(Answer::Nothing) => return,
            None => (500, "{}".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        write.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }
}

/// The status and the body of a recorded `curl -i`.
fn replay(recorded: &str) -> Answer {
    let (head, body) = recorded.split_once("\r\n\r\n").unwrap();
    Answer::Plain(head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn pod() -> PodState {
    PodState {
        namespace: "default".to_owned(),
        name: "app".to_owned(),
        uid: "u1".to_owned(),
        controller: None,
        mirror: false,
        empty_dir: false,
        finished: false,
        terminating: false,
    }
}

fn permit() -> Permit {
    Lease::new(FencingToken(1), Duration::MAX).permit(&RealClock).unwrap()
}

async fn evict(answers: impl IntoIterator<Item = Answer>) -> (HostResult<Eviction>, Vec<Asked>) {
    let server = Server::start(answers).await;
    let eviction = server.kube().evict(&permit(), &pod()).await;
    (eviction, server.asked())
}

#[tokio::test]
async fn an_eviction_names_the_pods_uid_and_is_accepted() {
    let (eviction, asked) = evict([replay(recorded!("eviction-accepted"))]).await;
    assert_eq!(eviction.unwrap(), Eviction::Accepted);
    let [(first, body)] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(first.contains("POST /api/v1/namespaces/default/pods/app/eviction "), "{first}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["apiVersion"], "policy/v1");
    assert_eq!(body["deleteOptions"]["preconditions"]["uid"], "u1");
}

#[tokio::test]
async fn an_old_api_server_is_asked_for_the_older_eviction() {
    let answers = [replay(recorded!("eviction-policy-v1-on-1.19")), replay(recorded!("eviction-accepted"))];
    let (eviction, asked) = evict(answers).await;
    assert_eq!(eviction.unwrap(), Eviction::Accepted);
    let version = |(_, body): &Asked| serde_json::from_str::<Value>(body).unwrap()["apiVersion"].clone();
    assert_eq!(asked.iter().map(version).collect::<Vec<_>>(), ["policy/v1", "policy/v1beta1"]);
}

#[tokio::test]
async fn a_budget_that_blocks_is_named_and_asked_once() {
    let (eviction, asked) = evict([replay(recorded!("eviction-refused-by-budget"))]).await;
    match eviction.unwrap() {
        Eviction::Blocked { message } => {
            assert!(
                message.contains("The disruption budget app needs 2 healthy pods and has 2 currently"),
                "{message}"
            );
        }
        Eviction::Accepted => panic!("accepted"),
    }
    assert_eq!(asked.len(), 1, "whether to ask again is the drain's decision");
}

#[tokio::test]
async fn a_pod_that_is_gone_or_is_another_one_by_now_counts_as_evicted() {
    let (eviction, _) = evict([replay(recorded!("eviction-no-such-pod"))]).await;
    assert_eq!(eviction.unwrap(), Eviction::Accepted);
    let conflict = r#"{"kind":"Status","status":"Failure","reason":"Conflict","code":409,"message":"the UID in the precondition (u1) does not match the UID in record (u2)"}"#;
    let (eviction, _) = evict([Answer::Plain(409, conflict.to_owned())]).await;
    assert_eq!(eviction.unwrap(), Eviction::Accepted);
}

#[tokio::test]
async fn another_nodes_pod_is_an_error_with_the_api_servers_words_that_no_retry_mends() {
    let (eviction, _) = evict([replay(recorded!("eviction-refused-other-node"))]).await;
    match eviction.unwrap_err() {
        HostError::Api { what, why, transient, .. } => {
            assert_eq!(what, "cannot evict default/app");
            assert!(why.contains("can only evict pods with spec.nodeName set to itself (403"), "{why}");
            assert!(!transient);
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_pod_in_a_namespace_that_ends_is_waited_for() {
    let ends = r#"{"kind":"Status","status":"Failure","reason":"Forbidden","code":403,"message":"it is being terminated","details":{"causes":[{"reason":"NamespaceTerminating","message":"namespace x is being terminated"}]}}"#;
    let (eviction, _) = evict([Answer::Plain(403, ends.to_owned())]).await;
    assert!(matches!(eviction.unwrap(), Eviction::Blocked { .. }));
}

#[tokio::test]
async fn a_cordon_and_its_owner_are_set_and_taken_back_in_one_patch_each() {
    let server = Server::start([replay(recorded!("cordon-self")), replay(recorded!("uncordon-self"))]).await;
    let kube = server.kube();
    kube.cordon(&permit(), &"p-0123456789ab".parse().unwrap()).await.unwrap();
    kube.uncordon(&permit()).await.unwrap();
    let asked = server.asked();
    let body = |index: usize| serde_json::from_str::<Value>(&asked[index].1).unwrap();
    assert!(asked.iter().all(|(first, _)| first.contains("PATCH /api/v1/nodes/w1 ")), "{asked:?}");
    let cordon = json!({"metadata": {"annotations": {"liftlock.dev/cordoned-by": "p-0123456789ab"}}, "spec": {"unschedulable": true}});
    let uncordon = json!({"metadata": {"annotations": {"liftlock.dev/cordoned-by": null}}, "spec": {"unschedulable": null}});
    assert_eq!((body(0), body(1)), (cordon, uncordon));
}

#[tokio::test]
async fn credentials_that_expired_are_read_again_once() {
    let unauthorized = || {
        Answer::Plain(
            401,
            r#"{"kind":"Status","status":"Failure","reason":"Unauthorized","code":401}"#.to_owned(),
        )
    };
    let node = || replay(recorded!("cordon-self"));
    let server = Server::start([node(), unauthorized(), node(), unauthorized(), unauthorized()]).await;
    let kube = server.kube();
    kube.node().await.unwrap();
    server.put("kubelet.conf", &server.kubeconfig("second"));
    kube.node().await.unwrap();
    assert!(kube.node().await.is_err(), "refused with credentials that were just read");
    let bearers: Vec<String> =
        server.asked().iter().map(|(first, _)| first.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(bearers, ["first", "first", "second", "second", "second"]);
}

fn node_list(version: &str, ready: &str) -> String {
    let node = node_object(version, ready);
    format!(r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"10"}},"items":[{node}]}}"#)
}

fn node_object(version: &str, ready: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"w1"}},"status":{{"conditions":[{{"type":"Ready","status":"{ready}"}}],"nodeInfo":{{"kubeletVersion":"{version}"}}}}}}"#
    )
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn condition() -> NodeCondition {
    NodeCondition { kubelet_version: Some(KubernetesVersion::new(1, 20, 2)) }
}

#[tokio::test]
async fn a_node_is_waited_for_through_watches_that_end_expire_and_break() {
    let expired = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}"#;
    let server = Server::start([
        Answer::Plain(200, node_list("v1.19.7", "True")),
        Answer::Plain(200, event("MODIFIED", &node_object("v1.20.2", "False"))),
        Answer::Plain(200, node_list("v1.20.2", "False")),
        Answer::Plain(200, event("ERROR", expired)),
        Answer::Nothing,
        Answer::Plain(503, "no API server behind this load balancer".to_owned()),
        Answer::Plain(200, node_list("v1.20.2", "False")),
        Answer::Plain(200, event("MODIFIED", &node_object("v1.20.2", "True"))),
    ])
    .await;
    let node = server.kube().wait_for_node(condition(), LIMIT).await.unwrap();
    assert!(node.ready && node.kubelet_version == "v1.20.2");
    let asked = server.asked();
    assert!(asked[1].0.contains("&watch=true&resourceVersion=10&timeoutSeconds=30"), "{asked:?}");
}

#[tokio::test]
async fn a_wait_that_ends_too_early_says_what_was_seen_last() {
    let server = Server::start([Answer::Plain(200, node_list("v1.19.7", "True"))]).await;
    let limit = Duration::from_millis(300);
    match server.kube().wait_for_node(condition(), limit).await.unwrap_err() {
        HostError::Timeout { what, seen, .. } => {
            assert_eq!(what, "the Node w1 to be Ready with kubelet v1.20.2");
            assert!(seen.starts_with("kubelet v1.19.7, Ready"), "{seen}");
        }
        other => panic!("{other}"),
    }
}

fn pods(uids: &[&str]) -> String {
    let pods: Vec<String> = uids.iter().map(|uid| pod_object(uid)).collect();
    format!(r#"{{"kind":"PodList","metadata":{{"resourceVersion":"10"}},"items":[{}]}}"#, pods.join(","))
}

fn pod_object(uid: &str) -> String {
    format!(r#"{{"metadata":{{"name":"p","namespace":"n","uid":"{uid}"}}}}"#)
}

#[tokio::test]
async fn the_first_pod_that_goes_ends_the_wait() {
    let uids = ["a".to_owned(), "b".to_owned()];
    let events = event("MODIFIED", &pod_object("a"))
        + &event("DELETED", &pod_object("c"))
        + &event("DELETED", &pod_object("b"));
    let server =
        Server::start([Answer::Plain(200, pods(&["a", "b", "c"])), Answer::Plain(200, events)]).await;
    assert_eq!(server.kube().wait_for_pods_gone(&uids, LIMIT).await.unwrap(), ["a"]);
    let server = Server::start([Answer::Plain(200, pods(&["b"]))]).await;
    assert_eq!(server.kube().wait_for_pods_gone(&uids, LIMIT).await.unwrap(), ["b"], "gone before the wait");
}

#[tokio::test]
async fn pods_that_stay_are_all_returned_and_an_api_that_is_away_is_an_error() {
    let uids = ["a".to_owned()];
    let limit = Duration::from_millis(300);
    let server = Server::start([Answer::Plain(200, pods(&["a"]))]).await;
    assert_eq!(server.kube().wait_for_pods_gone(&uids, limit).await.unwrap(), ["a"]);
    let server = Server::start([]).await;
    let error = server.kube().wait_for_pods_gone(&uids, limit).await.unwrap_err();
    assert!(matches!(error, HostError::Api { transient: true, .. }), "{error}");
}

#[tokio::test]
async fn many_nodes_are_listed_page_by_page() {
    let page = |next: &str| {
        let node = node_object("v1.19.7", "True");
        Answer::Plain(200, format!(r#"{{"metadata":{{"continue":"{next}"}},"items":[{node},{node}]}}"#))
    };
    let server = Server::start([page("token"), page("")]).await;
    assert_eq!(server.kube().nodes().await.unwrap().len(), 4);
    assert!(server.asked()[1].0.contains("&continue=token "));
}

#[tokio::test]
async fn a_config_map_is_kept_without_what_only_the_api_server_may_set() {
    let map = recorded!("configmap-kubeadm-config").to_owned();
    let missing = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404}"#.to_owned();
    let server = Server::start([Answer::Plain(200, map.clone()), Answer::Plain(404, missing)]).await;
    let kube = server.kube();
    let yaml = kube.config_map("kubeadm-config").await.unwrap().unwrap();
    let kept: Value = serde_saphyr::from_str(&yaml).unwrap();
    let recorded: Value = serde_json::from_str(&map).unwrap();
    assert_eq!(kept["data"], recorded["data"]);
    assert_eq!(kept["metadata"], json!({"name": "kubeadm-config", "namespace": "kube-system"}));
    assert_eq!(kube.config_map("no-such").await.unwrap(), None);
}

#[test]
fn strings_that_older_yaml_would_read_as_something_else_are_quoted() {
    let map = as_manifest(json!({"data": {"a": "yes", "b": "0o17", "c": "012", "d": "1_000", "e": "12:30", "f": "~", "g": "on"}})).unwrap();
    for value in ["yes", "0o17", "012", "1_000", "12:30", "~", "on"] {
        assert!(
            map.contains(&format!("\"{value}\"")) || map.contains(&format!("'{value}'")),
            "{value} in {map}"
        );
    }
}

#[tokio::test]
async fn kubeadms_version_is_read_and_an_unreadable_one_is_an_error() {
    let broken = r#"{"data": {"ClusterConfiguration": "kubernetesVersion: stable-1"}}"#.to_owned();
    let map = |name: &str| Answer::Plain(200, name.to_owned());
    let server = Server::start([
        map(recorded!("configmap-kubeadm-config")),
        map(recorded!("configmap-kubeadm-config-after")),
        map(&broken),
    ])
    .await;
    let kube = server.kube();
    assert_eq!(kube.kubeadm_config_version().await.unwrap(), KubernetesVersion::new(1, 19, 7));
    assert_eq!(kube.kubeadm_config_version().await.unwrap(), KubernetesVersion::new(1, 20, 2));
    let error = kube.kubeadm_config_version().await.unwrap_err().to_string();
    assert!(error.contains("ConfigMap kubeadm-config") && error.contains("stable-1"), "{error}");
}

#[test]
fn an_api_servers_own_address_may_be_of_either_family() {
    let server = |flags: &str| {
        let manifest = format!("spec: {{containers: [{{name: kube-apiserver, command: [{flags}]}}]}}");
        own_server(&StaticPod::parse("kube-apiserver", manifest.as_bytes()).unwrap())
    };
    assert_eq!(
        server("'--advertise-address=10.0.0.1', '--secure-port=7443'").unwrap(),
        "https://10.0.0.1:7443"
    );
    assert_eq!(server("'--advertise-address=fd00::1'").unwrap(), "https://[fd00::1]:6443");
    assert!(server("'--secure-port=6443'").is_err());
}

#[tokio::test]
async fn without_a_kubeconfig_the_error_names_the_file() {
    let server = Server::start([]).await;
    std::fs::remove_file(server.folder.path().join("etc/kubernetes/kubelet.conf")).unwrap();
    let error = server.kube().node().await.unwrap_err().to_string();
    assert!(error.contains("etc/kubernetes/kubelet.conf") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn what_a_kubelet_may_not_read_is_read_with_admin_conf_where_there_is_one() {
    let page = || Answer::Plain(200, r#"{"items":[]}"#.to_owned());
    let server = Server::start([page(), page(), page()]).await;
    let kube = server.kube();
    kube.nodes().await.unwrap();
    server.put("admin.conf", &server.kubeconfig("admin"));
    kube.nodes().await.unwrap();
    kube.config_map_names().await.unwrap();
    let bearers: Vec<String> =
        server.asked().iter().map(|(first, _)| first.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(bearers, ["first", "admin", "admin"]);
}

/// The `DaemonSet` kube-proxy as an API server has it: generation, generation seen, wanted, of the new template, available.
fn kube_proxies([generation, observed, desired, updated, available]: [i64; 5]) -> String {
    json!({
        "metadata": {"name": "kube-proxy", "generation": generation},
        "status": {
            "observedGeneration": observed,
            "desiredNumberScheduled": desired,
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
        },
    })
    .to_string()
}

fn daemon_sets(items: &str) -> String {
    format!(r#"{{"kind":"DaemonSetList","metadata":{{"resourceVersion":"10"}},"items":[{items}]}}"#)
}

#[tokio::test]
async fn kube_proxies_are_waited_for_until_all_of_the_new_template_are_there() {
    let server = Server::start([
        Answer::Plain(200, daemon_sets(&kube_proxies([2, 1, 2, 2, 2]))),
        Answer::Plain(
            200,
            [[2, 2, 2, 1, 2], [2, 2, 2, 2, 1], [2, 2, 2, 2, 2]]
                .map(|numbers| event("MODIFIED", &kube_proxies(numbers)))
                .concat(),
        ),
    ])
    .await;
    server.put("admin.conf", &server.kubeconfig("admin"));
    assert!(server.kube().wait_for_kube_proxies(3, LIMIT).await.unwrap());
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn kube_proxies_that_are_many_or_none_are_not_waited_for_and_late_ones_are_told() {
    for (sets, expected) in
        [(String::new(), true), (kube_proxies([2, 1, 4, 0, 0]), true), (kube_proxies([2, 1, 3, 0, 0]), false)]
    {
        let server = Server::start([Answer::Plain(200, daemon_sets(&sets))]).await;
        server.put("admin.conf", &server.kubeconfig("admin"));
        let there = server.kube().wait_for_kube_proxies(3, Duration::from_millis(300)).await.unwrap();
        assert_eq!(there, expected, "{sets}");
    }
}

#[tokio::test]
async fn the_clusters_dns_is_counted_by_its_ready_replicas_and_may_be_missing() {
    let deployment = |status: &str| format!(r#"{{"spec":{{"replicas":2}},"status":{status}}}"#);
    for (items, expected) in [
        (String::new(), None),
        (deployment(r#"{"replicas":2}"#), Some(Replicas { wanted: 2, ready: 0 })),
        (deployment(r#"{"replicas":2,"readyReplicas":1}"#), Some(Replicas { wanted: 2, ready: 1 })),
    ] {
        let list = format!(r#"{{"kind":"DeploymentList","metadata":{{}},"items":[{items}]}}"#);
        let server = Server::start([Answer::Plain(200, list)]).await;
        server.put("admin.conf", &server.kubeconfig("admin"));
        assert_eq!(server.kube().cluster_dns().await.unwrap(), expected, "{items}");
    }
}
