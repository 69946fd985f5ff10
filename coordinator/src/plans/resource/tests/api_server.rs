//! A stand-in for an API server that has `UpgradePlan`s only, and answers as a test says.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the server has and was asked for.
#[derive(Default)]
pub(super) struct State {
    pub(super) objects: Vec<Value>,
    /// What lists show in the place of the objects.
    pub(super) behind: Option<Vec<Value>>,
    /// What the next requests of a method are answered instead.
    pub(super) faults: VecDeque<(&'static str, String)>,
    /// The method of each request.
    pub(super) asked: Vec<String>,
    pub(super) events: Vec<Value>,
    version: u64,
}

pub(super) struct ApiServer {
    state: Arc<Mutex<State>>,
    pub(super) kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
}

/// A refusal as Kubernetes words it.
pub(super) fn refusal(status: &str, headers: &str, message: &str) -> String {
    answer(status, headers, &json!({"kind": "Status", "status": "Failure", "message": message}))
}

fn answer(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

impl State {
    /// Somebody writes an object: it has another version then.
    pub(super) fn write(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        self.version += 1;
        let version = self.version.to_string();
        if let Some(object) = self.objects.iter_mut().find(|object| object["metadata"]["name"] == name) {
            change(object);
            object["metadata"]["resourceVersion"] = version.into();
        }
    }

    /// How many statuses somebody wanted to write.
    pub(super) fn writes(&self) -> usize {
        self.asked.iter().filter(|method| *method == "PUT").count()
    }

    fn answer(&mut self, method: &str, body: &str) -> String {
        self.asked.push(method.to_owned());
        if let Some((_, fault)) = self.faults.pop_front_if(|(of, _)| *of == method) {
            return fault;
        }
        if method == "GET" {
            let items = self.behind.as_ref().unwrap_or(&self.objects);
            return answer("200 OK", "", &json!({"kind": "UpgradePlanList", "items": items}));
        }
        let written: Value = serde_json::from_str(body).unwrap();
        if method == "POST" {
            self.events.push(written);
            return answer("201 Created", "", &json!({}));
        }
        let name = written["metadata"]["name"].as_str().unwrap().to_owned();
        let known = self.objects.iter().find(|object| object["metadata"]["name"] == name.as_str());
        let Some(known) = known else { return refusal("404 Not Found", "", "it is not there") };
        if known["metadata"]["resourceVersion"] != written["metadata"]["resourceVersion"] {
            return refusal("409 Conflict", "", "the object has been modified");
        }
        self.write(&name, |object| object["status"] = written["status"].clone());
        answer("200 OK", "", &json!({}))
    }
}

impl ApiServer {
    #[expect(clippy::disallowed_methods, reason = "a file for the tests")]
    pub(super) async fn start(objects: Vec<Value>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = own.signing_key.serialize_der().try_into().unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("plans.kubeconfig");
        let authority = STANDARD.encode(own.cert.pem());
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "plans",
            "clusters": [{"name": "k", "cluster": {
                "server": format!("https://localhost:{port}"), "certificate-authority-data": authority,
            }}],
            "contexts": [{"name": "plans", "context": {"cluster": "k", "user": "plans"}}],
            "users": [{"name": "plans", "user": {"token": "word"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        std::fs::set_permissions(&kubeconfig, std::fs::Permissions::from_mode(0o600)).unwrap();
        let state = Arc::new(Mutex::new(State { objects, version: 100, ..State::default() }));
        let shared = state.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let (method, body) = Box::pin(request(&mut stream)).await;
                let answer = shared.lock().unwrap().answer(&method, &body);
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { state, kubeconfig, _folder: folder }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The method and the body of one request.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_lowercase();
            let length = lower.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if body.len() >= length {
                let method = head.split(' ').next().unwrap_or_default();
                return (method.to_owned(), body.to_owned());
            }
        }
        let mut bytes = [0; 16 * 1024];
        let count = stream.read(&mut bytes).await.unwrap();
        assert!(count > 0, "half a request: {text}");
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
}
