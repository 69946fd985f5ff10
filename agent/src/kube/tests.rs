//! Against a small HTTP server that answers as recorded API servers did.

mod apply;

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
async fn a_node_is_open_once_the_taint_of_its_cordon_is_gone_too_and_other_taints_do_not_count() {
    let node = |spec: &str| format!(r#"{{"metadata":{{"name":"w1"}},"spec":{spec}}}"#);
    let list = |spec: &str| {
        format!(r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"10"}},"items":[{}]}}"#, node(spec))
    };
    let both = r#"{"taints":[{"key":"a","effect":"NoSchedule"},{"key":"node.kubernetes.io/unschedulable","effect":"NoSchedule"}]}"#;
    let other = r#"{"taints":[{"key":"a","effect":"NoSchedule"}]}"#;
    let server =
        Server::start([Answer::Plain(200, list(both)), Answer::Plain(200, event("MODIFIED", &node(other)))])
            .await;
    assert!(server.kube().wait_until_open(LIMIT).await.unwrap());
    assert_eq!(server.asked().len(), 2);
    let late = Server::start([Answer::Plain(200, list(both))]).await;
    assert!(!late.kube().wait_until_open(Duration::from_millis(300)).await.unwrap());
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

fn list(next: &str, items: &[Value]) -> Answer {
    Answer::Plain(200, json!({"metadata": {"continue": next}, "items": items}).to_string())
}

fn no_such_path() -> Answer {
    Answer::Plain(404, r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404}"#.to_owned())
}

fn budget_of(selector: &Value) -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "dns"},
        "spec": {"maxUnavailable": "50%", "selector": selector},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2},
    })
}

/// What `workloads` makes of these answers.
async fn workloads(
    answers: impl IntoIterator<Item = Answer>,
) -> (HostResult<WorkloadDescription>, Vec<Asked>) {
    let server = Server::start(answers).await;
    server.put("admin.conf", &server.kubeconfig("admin"));
    let description = server.kube().workloads().await;
    (description, server.asked())
}

#[tokio::test]
async fn workloads_of_a_real_1_20_are_read_with_their_budget_and_the_room_that_static_pods_leave() {
    let budgets = list("", &[budget_of(&json!({"matchLabels": {"k8s-app": "kube-dns"}}))]);
    let answers = [
        no_such_path(),
        budgets,
        Answer::Plain(200, recorded!("nodes").to_owned()),
        Answer::Plain(200, recorded!("pods-kube-system").to_owned()),
    ];
    let (description, asked) = workloads(answers).await;
    let description = description.unwrap();
    let paths: Vec<&str> = asked.iter().map(|(first, _)| first.split(' ').nth(3).unwrap()).collect();
    assert_eq!(
        paths,
        [
            "/apis/policy/v1/poddisruptionbudgets?limit=250&continue=",
            "/apis/policy/v1beta1/poddisruptionbudgets?limit=250&continue=",
            "/api/v1/nodes?limit=250&continue=",
            "/api/v1/pods?limit=100&continue=",
        ]
    );
    let [dns] = description.budgets.as_slice() else { panic!("{description:?}") };
    assert_eq!(
        (dns.rule.as_str(), dns.disruptions_allowed, dns.current_healthy),
        ("maxUnavailable: 50%", 1, 2)
    );
    let names: Vec<&str> = description.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["cp1", "cp2", "cp3", "w1", "w2"]);
    let free = |at: usize| description.nodes[at].free.unwrap();
    // 2 CPU, less etcd's 100 m, the API server's 250 m, the controllers' 200 m and the scheduler's 100 m; kube-proxy is a pod.
    assert_eq!((free(0).cpu_m, free(0).pods), (1350, 105));
    assert_eq!(free(0).memory_bytes, (24_684_084 - 100 * 1024) * 1024);
    assert_eq!((free(3).cpu_m, free(3).pods), (2000, 109));
    let unmoved = |at: usize| description.nodes[at].unmoved.map(|unmoved| (unmoved.cpu_m, unmoved.pods));
    assert_eq!((unmoved(0), unmoved(3)), (Some((650, 5)), Some((0, 1))));
    assert_eq!(description.nodes[0].taints, [0]);
    assert_eq!(description.nodes[0].labels, ["kubernetes.io/os=linux"]);
    let [pods] = description.pods.as_slice() else { panic!("only CoreDNS moves: {:?}", description.pods) };
    assert_eq!((pods.namespace.as_str(), pods.workload.as_str()), ("kube-system", "Deployment coredns"));
    assert_eq!((pods.nodes.as_slice(), pods.budgets.as_slice()), ([0, 0].as_slice(), [0].as_slice()));
    assert_eq!((pods.cpu_m, pods.memory_bytes, pods.ready), (100, 70 << 20, true));
    assert_eq!((pods.tolerates.as_slice(), pods.node_labels.len()), ([0].as_slice(), 1));
    assert!(!pods.empty_dir && !pods.apart && !pods.bound_otherwise);
}

fn bound_pod(name: &str, changes: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"namespace": "kube-system", "name": name, "labels": {"app": "shop"}},
        "spec": {"nodeName": "w1", "containers": [{"resources": {"requests": {"cpu": "0.1"}}}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for part in ["metadata", "spec", "status"] {
        for (field, value) in changes[part].as_object().into_iter().flatten() {
            pod[part][field] = value.clone();
        }
    }
    pod
}

/// The groups of these pods, in pages of one, on a node w1 with a budget of policy/v1 for them all.
async fn groups(pods: &[Value]) -> Vec<liftlock_proto::v1::PodGroup> {
    let node = json!({"metadata": {"name": "w1"}, "status": {"allocatable": {"cpu": "4"}}});
    let last = pods.len() - 1;
    let pages = pods
        .iter()
        .enumerate()
        .map(|(at, pod)| list(if at == last { "" } else { "more" }, std::slice::from_ref(pod)));
    let answers = [list("", &[budget_of(&json!({}))]), list("", &[node])].into_iter().chain(pages);
    workloads(answers).await.0.unwrap().pods
}

#[tokio::test]
async fn pods_are_read_page_by_page_and_those_that_are_alike_are_counted_once() {
    let controllers = json!([{"kind": "StatefulSet", "name": "db", "controller": true}]);
    let owned = json!({"metadata": {"ownerReferences": controllers}});
    let found = groups(&[
        bound_pod("db-0", &owned),
        bound_pod("db-1", &owned),
        bound_pod("lone", &json!({})),
        bound_pod("over", &json!({"status": {"phase": "Succeeded"}})),
        bound_pod(
            "failed",
            &json!({"status": {"phase": "Failed"}, "spec": {"volumes": [{"name": "x", "emptyDir": {}}]}}),
        ),
        bound_pod("going", &json!({"metadata": {"deletionTimestamp": "2026-11-21T14:57:31Z"}})),
        bound_pod("nowhere", &json!({"spec": {"nodeName": ""}})),
        bound_pod("elsewhere", &json!({"spec": {"nodeName": "w9"}})),
        bound_pod("starting", &json!({"status": {"phase": "Pending", "conditions": []}})),
    ])
    .await;
    let seen: Vec<_> = found
        .iter()
        .map(|one| (one.workload.as_str(), one.pod.as_str(), one.nodes.len(), one.budgets.len()))
        .collect();
    let expected = [("", "lone", 1, 1), ("", "starting", 1, 0), ("StatefulSet db", "", 2, 1)];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_would_start_a_pod_again_is_named_by_what_people_made_and_what_no_drain_moves_takes_room_only() {
    let owned = |kind: &str, name: &str, more: Value| {
        let mut metadata = json!({"ownerReferences": [{"kind": kind, "name": name, "controller": true}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            metadata[field] = value.clone();
        }
        json!({"metadata": metadata})
    };
    let hash = json!({"labels": {"pod-template-hash": "66d5f5c67f"}});
    let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
    let pods = [
        bound_pod("a", &owned("ReplicaSet", "shop-66d5f5c67f", hash)),
        bound_pod("b", &owned("ReplicaSet", "by-hand", json!({}))),
        bound_pod("c", &owned("Job", "report-29", json!({}))),
        bound_pod("d", &owned("DaemonSet", "agent", json!({}))),
        bound_pod("e", &owned("Node", "w1", mirror)),
        bound_pod("f", &json!({"metadata": {"ownerReferences": [{"kind": "Note", "name": "x"}]}})),
    ];
    let node = json!({"metadata": {"name": "w1"}, "status": {"allocatable": {"cpu": "4", "pods": "110"}}});
    let (description, _) = workloads([list("", &[]), list("", &[node]), list("", &pods)]).await;
    let description = description.unwrap();
    let named: Vec<_> =
        description.pods.iter().map(|one| (one.workload.as_str(), one.pod.as_str())).collect();
    let expected = [("", "f"), ("Deployment shop", ""), ("Job report-29", ""), ("ReplicaSet by-hand", "")];
    assert_eq!(named, expected);
    let (free, unmoved) = (description.nodes[0].free.unwrap(), description.nodes[0].unmoved.unwrap());
    assert_eq!((free.cpu_m, free.pods, unmoved.cpu_m, unmoved.pods), (3800, 108, 200, 2));
}

#[tokio::test]
async fn a_budgets_rule_is_told_as_it_is_written_and_its_numbers_are_its_controllers() {
    let rules = [
        (json!({"minAvailable": "60%"}), "minAvailable: 60%"),
        (json!({"maxUnavailable": 0}), "maxUnavailable: 0"),
        (json!({"minAvailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}), "minAvailable: 1"),
    ];
    let budgets = rules.clone().map(|(spec, _)| {
        let status = json!({"disruptionsAllowed": -1, "currentHealthy": 3, "desiredHealthy": 4});
        json!({"metadata": {"namespace": "shop", "name": "cart"}, "spec": spec, "status": status})
    });
    let (description, _) = workloads([list("", &budgets), list("", &[]), list("", &[])]).await;
    let budgets = description.unwrap().budgets;
    let said: Vec<&str> = budgets.iter().map(|budget| budget.rule.as_str()).collect();
    assert_eq!(said, rules.map(|(_, said)| said));
    assert!(
        budgets
            .iter()
            .all(|one| (one.disruptions_allowed, one.current_healthy, one.desired_healthy) == (0, 3, 4))
    );
    assert_eq!(budgets.iter().map(|one| one.unhealthy_may_go).collect::<Vec<_>>(), [false, false, true]);
}

#[tokio::test]
async fn an_empty_selector_means_every_pod_in_policy_v1_and_none_in_v1beta1() {
    let pod = bound_pod("lone", &json!({}));
    assert_eq!(groups(std::slice::from_ref(&pod)).await[0].budgets, [0]);
    let node = json!({"metadata": {"name": "w1"}});
    let answers = [no_such_path(), list("", &[budget_of(&json!({}))]), list("", &[node]), list("", &[pod])];
    assert!(workloads(answers).await.0.unwrap().pods[0].budgets.is_empty());
}

#[tokio::test]
async fn what_a_pod_asks_for_and_what_bounds_it_is_read() {
    let against = |key: &str| {
        let term = json!([{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "shop"}}}]);
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}})
    };
    let spread = |else_what: &str| {
        let one =
            json!({"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": else_what, "maxSkew": 1});
        json!({"spec": {"topologySpreadConstraints": [one]}})
    };
    let towards = |how: &str| json!({"spec": {"affinity": {"podAffinity": {how: [{"topologyKey": "kubernetes.io/hostname"}]}}}});
    let requests = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}});
    let mut sidecar = requests("300m");
    sidecar["restartPolicy"] = json!("Always");
    let starting = json!({"spec": {
        "initContainers": [sidecar, requests("2")],
        "containers": [requests("1"), requests("1")],
        "overhead": {"cpu": "10m"},
    }});
    let as_a_whole = json!({"spec": {
        "resources": {"requests": {"cpu": "3"}}, "containers": [requests("1")], "overhead": {"cpu": "10m"},
    }});
    for (changes, expected) in [
        (json!({}), (100, false, false, false)),
        (starting, (2310, false, false, false)),
        (as_a_whole, (3010, false, false, false)),
        (against("kubernetes.io/hostname"), (100, true, false, false)),
        (against("topology.kubernetes.io/zone"), (100, false, true, false)),
        (json!({"spec": {"containers": [{"ports": [{"hostPort": 80}]}]}}), (0, false, true, false)),
        (
            json!({"spec": {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}]}}),
            (0, false, true, false),
        ),
        (json!({"spec": {"volumes": [{"name": "x", "emptyDir": {}}]}}), (100, false, false, true)),
        (
            json!({"spec": {"volumes": [{"name": "x", "emptyDir": {"medium": "Memory"}}, {"name": "y", "hostPath": {"path": "/"}}]}}),
            (100, false, false, true),
        ),
        (spread("DoNotSchedule"), (100, false, true, false)),
        (spread("ScheduleAnyway"), (100, false, false, false)),
        (towards("requiredDuringSchedulingIgnoredDuringExecution"), (100, false, true, false)),
        (towards("preferredDuringSchedulingIgnoredDuringExecution"), (100, false, false, false)),
    ] {
        let group = groups(&[bound_pod("lone", &changes)]).await.remove(0);
        assert_eq!((group.cpu_m, group.apart, group.bound_otherwise, group.empty_dir), expected, "{changes}");
    }
}

#[tokio::test]
async fn pods_with_a_volume_that_lies_on_one_node_or_a_rule_for_its_name_are_bound_there() {
    let node = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": format!("{name}.example")}}});
    let claims = |name: &str| json!({"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]}});
    let selects = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "w2.example", "disk": "ssd"}}});
    let volume = |claim: &str, key: &str, value: &str| {
        let term = json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
        json!({"spec": {
            "claimRef": {"namespace": "kube-system", "name": claim},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        }})
    };
    let pods = [
        bound_pod("free", &json!({})),
        bound_pod("local", &claims("local")),
        bound_pod("named", &selects),
        bound_pod("remote", &claims("remote")),
        bound_pod("zonal", &claims("zonal")),
    ];
    let volumes = [
        json!({"spec": {"hostPath": {"path": "/srv"}}}),
        json!({"spec": {"claimRef": {"namespace": "kube-system", "name": "remote"}}}),
        volume("local", "kubernetes.io/hostname", "w1.example"),
        volume("zonal", "topology.kubernetes.io/zone", "a"),
    ];
    let answers = [list("", &[]), list("", &[node("w1"), node("w2")]), list("", &pods), list("", &volumes)];
    let (description, asked) = workloads(answers).await;
    assert!(asked[3].0.contains("/api/v1/persistentvolumes?limit=250&continue="), "{:?}", asked[3]);
    let groups = description.unwrap().pods;
    let seen: Vec<_> = groups
        .iter()
        .map(|one| {
            let only_on = one.bound_to_nodes.then(|| one.only_on.clone());
            (one.pod.as_str(), only_on, one.bound_otherwise, one.node_labels.len())
        })
        .collect();
    let expected = [
        ("free", None, false, 0),
        ("local", Some(vec![0]), false, 0),
        ("named", Some(vec![1]), false, 1),
        ("remote", None, false, 0),
        ("zonal", None, true, 0),
    ];
    assert_eq!(seen, expected);
}

fn tainted(name: &str, version: u32, taints: &str) -> String {
    format!(
        r#"{{"metadata": {{"name": "{name}", "resourceVersion": "{version}"}}, "spec": {{"taints": {taints}}}}}"#
    )
}

#[tokio::test]
async fn only_nodes_that_differ_are_patched_and_one_that_was_changed_meanwhile_is_read_again() {
    let ours = r#"[{"key": "liftlock.dev/not-raised", "effect": "PreferNoSchedule"}]"#;
    let nodes = [tainted("cp1", 1, ours), tainted("w1", 2, "[]"), tainted("w2", 3, ours)].join(",");
    let server = Server::start([
        Answer::Plain(200, format!(r#"{{"metadata": {{}}, "items": [{nodes}]}}"#)),
        Answer::Plain(200, "{}".to_owned()),
        Answer::Plain(
            409,
            r#"{"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict"}"#.to_owned(),
        ),
        Answer::Plain(200, tainted("w1", 9, r#"[{"key": "shop", "effect": "NoSchedule"}]"#)),
        Answer::Plain(200, "{}".to_owned()),
    ])
    .await;
    server.put("admin.conf", &server.kubeconfig("admin"));
    let wanted = ["w1", "w2"].map(|node| node.parse().unwrap()).into();
    let marked = server.kube().mark_not_raised(&wanted).await.unwrap();
    assert_eq!(marked, Marked { added: vec!["w1".to_owned()], removed: vec!["cp1".to_owned()] });
    let asked = server.asked();
    let patches: Vec<(&str, Value)> = asked
        .iter()
        .filter(|(first, _)| first.contains("PATCH"))
        .map(|(first, body)| (first.split(' ').nth(3).unwrap(), serde_json::from_str(body).unwrap()))
        .collect();
    let expected = [
        ("/api/v1/nodes/cp1", json!({"metadata": {"resourceVersion": "1"}, "spec": {"taints": null}})),
        (
            "/api/v1/nodes/w1",
            json!({"metadata": {"resourceVersion": "2"}, "spec": {"taints": [
                {"key": "liftlock.dev/not-raised", "effect": "PreferNoSchedule"},
            ]}}),
        ),
        (
            "/api/v1/nodes/w1",
            json!({"metadata": {"resourceVersion": "9"}, "spec": {"taints": [
                {"key": "shop", "effect": "NoSchedule"},
                {"key": "liftlock.dev/not-raised", "effect": "PreferNoSchedule"},
            ]}}),
        ),
    ];
    assert_eq!(patches, expected);
}
