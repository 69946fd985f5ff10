//! The requests themselves.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::{Extension, Router};
use futures::StreamExt as _;
use http::{HeaderMap, Method, Response, Uri, header};
use serde_json::{Value, json};

use crate::standin::api::answer::{Answer, Failure, object};
use crate::standin::api::apply;
use crate::standin::api::authorizer::{Attributes, authorize, node_of};
use crate::standin::api::custom::Custom;
use crate::standin::api::eviction::{delete, evict};
use crate::standin::api::rbac::grants;
use crate::standin::objects::{Change, Decision, Key, Objects, is_as_seen, merge, text};
use crate::standin::pki::Subject;
use crate::standin::release::Release;

/// One node's API server while it runs.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// The version that it runs.
    pub release: Release,
    /// What etcd holds.
    pub objects: Objects,
    /// Whether this node's etcd answers and sees a leader.
    pub etcd: Arc<AtomicBool>,
}

impl ApiServer {
    /// Everything that it serves.
    pub fn router(self) -> Router {
        Router::new().fallback(answer).with_state(self)
    }
}

async fn answer(
    State(server): State<ApiServer>,
    Extension(subject): Extension<Option<Subject>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let applies = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == apply::CONTENT_TYPE);
    let subject = subject.or_else(|| server.bearer(&headers));
    server.answer(subject.as_ref(), &method, &uri, applies, &body).unwrap_or_else(Answer::from)
}

/// A path of the API, taken apart.
#[derive(Debug, Default)]
struct Target<'a> {
    group: &'a str,
    version: &'a str,
    namespace: &'a str,
    resource: &'a str,
    name: &'a str,
    subresource: &'a str,
}

impl<'a> Target<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version @ "v1", rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            _ => ("", rest),
        };
        let part = |index: usize| rest.get(index).copied().unwrap_or_default();
        (rest.len() <= 3 && !rest.is_empty()).then(|| Self {
            group,
            version,
            namespace,
            resource: part(0),
            name: part(1),
            subresource: part(2),
        })
    }

    fn key(&self) -> Key {
        Key::new(self.resource, self.namespace, self.name)
    }
}

/// What a list or a watch asks for.
#[derive(Debug, Clone, Default)]
struct Selection {
    watch: bool,
    after: Option<u64>,
    limit: Option<Duration>,
    /// At most so many objects, after so many that were listed already.
    page: Option<usize>,
    listed: usize,
    fields: Vec<(String, String)>,
    labels: Vec<(String, String)>,
    /// Of an apply.
    force: bool,
    dry_run: bool,
}

impl Selection {
    fn parse(uri: &Uri) -> Self {
        let mut selection = Self::default();
        let pairs = |text: &str| -> Vec<(String, String)> {
            text.split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.trim_start_matches('=').to_owned()))
                .collect()
        };
        for pair in uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value);
            match name {
                "watch" => selection.watch = matches!(value.as_str(), "true" | "1"),
                "resourceVersion" => selection.after = value.parse().ok(),
                "timeoutSeconds" => selection.limit = value.parse().ok().map(Duration::from_secs),
                "force" => selection.force = value == "true",
                "dryRun" => selection.dry_run = value == "All",
                "limit" => selection.page = value.parse().ok().filter(|page| *page > 0),
                "continue" => selection.listed = value.parse().unwrap_or_default(),
                "fieldSelector" => selection.fields = pairs(&value),
                "labelSelector" => selection.labels = pairs(&value),
                _ => {}
            }
        }
        selection
    }

    fn admits(&self, object: &Value) -> bool {
        self.fields.iter().all(|(field, value)| {
            text(object, &format!("/{}", field.replace('.', "/"))).unwrap_or_default() == value
        }) && self.labels.iter().all(|(label, value)| {
            object.pointer("/metadata/labels").and_then(|labels| labels.get(label)).and_then(Value::as_str)
                == Some(value)
        })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl ApiServer {
    /// Whoever a bootstrap token lets in, while it has not ended.
    fn bearer(&self, headers: &HeaderMap) -> Option<Subject> {
        let token = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        let (id, secret) = token.split_once('.')?;
        let key = Key::new("secrets", "kube-system", &format!("bootstrap-token-{id}"));
        let known = self.objects.get(&key)?;
        let ends: jiff::Timestamp = text(&known, "/stringData/expiration")?.parse().ok()?;
        let valid = text(&known, "/stringData/token-secret") == Some(secret)
            && text(&known, "/stringData/usage-bootstrap-authentication") == Some("true")
            && ends > jiff::Timestamp::now();
        valid.then(|| Subject {
            common_name: format!("system:bootstrap:{id}"),
            organizations: text(&known, "/stringData/auth-extra-groups")
                .map(str::to_owned)
                .into_iter()
                .collect(),
        })
    }

    fn answer(
        &self,
        subject: Option<&Subject>,
        method: &Method,
        uri: &Uri,
        applies: bool,
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let etcd = self.etcd.load(Ordering::Acquire);
        match uri.path() {
            "/version" => return Ok(object(200, &version(self.release))),
            "/livez" | "/healthz" | "/readyz" => {
                let mut answer =
                    Response::new(Body::from(if etcd { "ok" } else { "[-]etcd failed: reason withheld" }));
                if !etcd {
                    *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                }
                return Ok(answer);
            }
            "/metrics" => {
                let masters =
                    |subject: &Subject| subject.organizations.iter().any(|one| one == "system:masters");
                if !subject.is_some_and(masters) {
                    return Err(Failure::forbidden("User cannot get path \"/metrics\"".to_owned()));
                }
                return Ok(Response::new(Body::from(self.objects.metrics())));
            }
            path => {
                if let Some(served) = apply::discovery(path) {
                    return Ok(object(200, &served));
                }
            }
        }
        let target = Target::parse(uri.path())
            .ok_or_else(|| Failure { code: 404, ..Failure::not_found("path", uri.path()) })?;
        let selection = Selection::parse(uri);
        let verb = match (method.as_str(), target.name) {
            ("GET", "") if selection.watch => "watch",
            ("GET", "") => "list",
            ("GET", _) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            _ => "delete",
        };
        let custom = Custom::find(&self.objects, target.group, target.version, target.resource);
        let resource = match target.subresource {
            "status" if custom.is_none() => target.resource.to_owned(),
            "" => target.resource.to_owned(),
            subresource => format!("{}/{subresource}", target.resource),
        };
        let selected = if target.resource == "nodes" { "metadata.name" } else { "spec.nodeName" };
        let attributes = Attributes {
            verb,
            group: target.group,
            resource: &resource,
            namespace: target.namespace,
            name: target.name,
            selected: selection.field(selected),
        };
        let user = subject.map(|subject| subject.common_name.as_str()).unwrap_or_default();
        if !grants(&self.objects, user, attributes) {
            authorize(subject, attributes, self.release)?;
        }
        if target.resource == "poddisruptionbudgets" && !self.release.has_budgets(target.version) {
            return Err(Failure { code: 404, ..Failure::not_found("path", uri.path()) });
        }
        if !etcd {
            return Err(Failure::unavailable("etcdserver: no leader"));
        }
        // Of groups that Kubernetes itself does not have only what a definition was applied of is served.
        if custom.is_none() && target.group.contains('.') && !target.group.ends_with(".k8s.io") {
            return Err(Failure { code: 404, ..Failure::not_found("path", uri.path()) });
        }
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?
        };
        if resource == "pods/eviction" && verb == "create" {
            let done = evict(&self.objects, self.release, subject, target.namespace, target.name, &body)?;
            return Ok(object(201, &done));
        }
        if resource == "pods" && verb == "delete" {
            let done = delete(&self.objects, subject, target.namespace, target.name, &body)?;
            return Ok(object(200, &done));
        }
        if applies && verb == "patch" {
            let (force, dry_run) = (selection.force, selection.dry_run);
            let (new, stored) = apply::apply_object(&self.objects, &target.key(), &body, force, dry_run)?;
            return Ok(object(if new { 201 } else { 200 }, &stored));
        }
        match verb {
            "watch" => Ok(self.watch(&target, selection)),
            "list" => {
                let mut list = self.list(&target, &selection);
                if let Some(custom) = &custom {
                    list["kind"] = json!(custom.list_kind);
                    list["apiVersion"] = json!(format!("{}/{}", target.group, target.version));
                }
                Ok(object(200, &list))
            }
            _ => {
                taints_are_not_a_kubelets(subject, &target, &body)?;
                self.one(verb, &target, custom.as_ref(), body)
            }
        }
    }

    fn one(
        &self,
        verb: &str,
        target: &Target<'_>,
        custom: Option<&Custom>,
        body: Value,
    ) -> Result<Answer, Failure> {
        let missing = || match custom {
            Some(custom) => custom.not_found(target.name),
            None => Failure::not_found(target.resource, target.name),
        };
        let key = target.key();
        match (verb, custom) {
            ("create", Some(custom)) => {
                let name = text(&body, "/metadata/name").unwrap_or_default().to_owned();
                return Ok(object(201, &custom.create(&self.objects, &Key { name, ..key }, body)?));
            }
            ("update", Some(custom)) => {
                let status = target.subresource == "status";
                return Ok(object(200, &custom.update(&self.objects, &key, body, status)?));
            }
            _ => {}
        }
        match verb {
            "get" => self.objects.get(&key).map(|found| object(200, &found)).ok_or_else(missing),
            "create" => {
                let name = text(&body, "/metadata/name").unwrap_or_default();
                let key = Key { name: name.to_owned(), ..key };
                let made = self.objects.decide(&key, |known| match known {
                    Some(_) => {
                        let message = format!("{} \"{name}\" already exists", target.resource);
                        Err(Failure::conflict("AlreadyExists", message))
                    }
                    None => Ok(Decision::Put(body.clone())),
                })?;
                Ok(object(201, &made))
            }
            "update" => {
                let updated = self.objects.decide(&key, |known| {
                    as_seen(target, known.ok_or_else(missing)?, text(&body, "/metadata/resourceVersion"))?;
                    Ok(Decision::Put(body.clone()))
                })?;
                Ok(object(200, &updated))
            }
            "patch" => {
                let patched = self.objects.decide(&key, |known| {
                    let known = known.ok_or_else(missing)?;
                    as_seen(target, known, text(&body, "/metadata/resourceVersion"))?;
                    let mut after = known.clone();
                    merge(&mut after, &body);
                    after["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
                    if target.resource == "nodes" {
                        taint_if_unschedulable(&mut after);
                    }
                    Ok(if after == *known { Decision::Leave(after) } else { Decision::Put(after) })
                })?;
                Ok(object(200, &patched))
            }
            _ => {
                let found = self.objects.decide(&key, |known| {
                    let known = known.ok_or_else(missing)?;
                    if let Some(meant) = text(&body, "/preconditions/uid")
                        && Some(meant) != text(known, "/metadata/uid")
                    {
                        return Err(Failure::conflict("Conflict", format!("it is not {meant}")));
                    }
                    as_seen(target, known, text(&body, "/preconditions/resourceVersion"))?;
                    Ok(Decision::Remove)
                })?;
                if target.resource == "nodes" {
                    self.collect_pods(target.name);
                }
                Ok(object(200, &found))
            }
        }
    }

    /// What the pod garbage collector does with the pods of a Node that is gone.
    fn collect_pods(&self, node: &str) {
        for pod in self.objects.list("pods", None) {
            if text(&pod, "/spec/nodeName") == Some(node) {
                let part = |pointer| text(&pod, pointer).unwrap_or_default();
                self.objects.remove(&Key::new("pods", part("/metadata/namespace"), part("/metadata/name")));
            }
        }
    }

    fn list(&self, target: &Target<'_>, selection: &Selection) -> Value {
        let namespace = (!target.namespace.is_empty()).then_some(target.namespace);
        let revision = self.objects.revision();
        let mut items: Vec<Value> = self
            .objects
            .list(target.resource, namespace)
            .into_iter()
            .filter(|object| selection.admits(object))
            .skip(selection.listed)
            .collect();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(page) = selection.page.filter(|page| *page < items.len()) {
            items.truncate(page);
            metadata["continue"] = json!((selection.listed + page).to_string());
        }
        let (kind, version) = match target.resource {
            "nodes" => ("NodeList", "v1"),
            "pods" => ("PodList", "v1"),
            "configmaps" => ("ConfigMapList", "v1"),
            "poddisruptionbudgets" => ("PodDisruptionBudgetList", "policy/v1"),
            _ => ("List", "v1"),
        };
        json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items})
    }

    fn watch(&self, target: &Target<'_>, selection: Selection) -> Answer {
        let objects = self.objects.clone();
        let (resource, namespace) = (target.resource.to_owned(), target.namespace.to_owned());
        let after = selection.after.unwrap_or_else(|| objects.revision());
        let limit = selection.limit.unwrap_or(Duration::from_mins(30));
        let news = objects.subscribe();
        let events = futures::stream::unfold((after, news), move |(mut seen, mut news)| {
            let (objects, selection) = (objects.clone(), selection.clone());
            let (resource, namespace) = (resource.clone(), namespace.clone());
            async move {
                loop {
                    news.borrow_and_update();
                    let changes = objects.changes_after(seen);
                    seen = changes.last().map_or(seen, |change| change.revision);
                    let lines: String = changes
                        .iter()
                        .filter(|change| change.key.resource == resource)
                        .filter(|change| namespace.is_empty() || change.key.namespace == namespace)
                        .filter(|change| selection.admits(&change.object))
                        .map(event)
                        .collect();
                    if !lines.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(lines)), (seen, news)));
                    }
                    news.changed().await.ok()?;
                }
            }
        });
        let end = tokio::time::sleep(limit);
        let mut answer = Response::new(Body::from_stream(events.take_until(end)));
        answer
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        answer
    }
}

/// Refuses what is meant for an object of another resourceVersion, as the API server does.
fn as_seen(target: &Target<'_>, known: &Value, seen: Option<&str>) -> Result<(), Failure> {
    if is_as_seen(known, seen) {
        return Ok(());
    }
    let message = format!(
        "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the \
         latest version and try again",
        target.resource, target.name
    );
    Err(Failure::conflict("Conflict", message))
}

/// What the admission plugin `NodeRestriction` says to a kubelet that changes its own Node's taints.
fn taints_are_not_a_kubelets(
    subject: Option<&Subject>,
    target: &Target<'_>,
    body: &Value,
) -> Result<(), Failure> {
    let node = subject.and_then(node_of).filter(|_| target.resource == "nodes");
    match node.filter(|_| body.pointer("/spec/taints").is_some()) {
        None => Ok(()),
        Some(node) => Err(Failure::forbidden(format!(
            "nodes \"{}\" is forbidden: node \"{node}\" is not allowed to modify taints",
            target.name
        ))),
    }
}

fn event(change: &Change) -> String {
    format!("{}\n", json!({"type": change.kind, "object": change.object}))
}

/// What the node lifecycle controller does when a Node is cordoned or uncordoned.
pub(crate) fn taint_if_unschedulable(node: &mut Value) {
    const TAINT: &str = "node.kubernetes.io/unschedulable";
    let cordoned = node.pointer("/spec/unschedulable") == Some(&json!(true));
    let mut taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    taints.retain(|taint| taint["key"] != TAINT);
    if cordoned {
        taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
    }
    if taints.is_empty() {
        if let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("taints");
        }
    } else {
        node["spec"]["taints"] = Value::Array(taints);
    }
}

/// What `/version` and `kubeadm version -o json` say of a release.
pub fn version(release: Release) -> Value {
    json!({
        "major": release.0.major.to_string(), "minor": release.0.minor.to_string(),
        "gitVersion": release.0.to_string(), "gitCommit": "faecb196815e248d3ecfb03c680a4507229c2a56",
        "gitTreeState": "clean", "buildDate": "2021-01-13T13:20:00Z", "goVersion": "go1.19.8",
        "compiler": "gc", "platform": "linux/amd64",
    })
}
