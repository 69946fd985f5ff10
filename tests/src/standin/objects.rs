//! The objects of a stand-in cluster, as etcd would hold them: versioned, and every change remembered for watchers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

/// Where an object lies: its resource (`pods`), namespace (empty for Nodes) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `nodes`, `pods`, `configmaps`, `poddisruptionbudgets`
    pub resource: String,
    /// Empty where the resource has none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The cluster's revision after it.
    pub revision: u64,
    /// `ADDED`, `MODIFIED`, `DELETED`
    pub kind: &'static str,
    /// Of which object.
    pub key: Key,
    /// The object after it, or as it was last.
    pub object: Value,
}

/// All objects. A cheap handle.
#[derive(Debug, Clone)]
pub struct Objects {
    state: Arc<Mutex<State>>,
    revision: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    changes: Vec<Change>,
    revision: u64,
    noticed: u64,
    uids: u64,
    /// API versions that somebody asked for: `batch/v1beta1/cronjobs`, and the release that removes it.
    deprecated: Vec<(String, String)>,
}

impl State {
    fn record(&mut self, change: Change) {
        if !matches!(change.key.resource.as_str(), "leases" | "configmaps") {
            self.noticed = change.revision;
        }
        self.changes.push(change);
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self { state: Arc::default(), revision: Arc::new(watch::Sender::new(0)) }
    }
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody asks for an API version that this release removes: `batch/v1beta1/cronjobs`, `1.25`.
    pub fn request_deprecated_api(&self, api: &str, removed_release: &str) {
        self.lock().deprecated.push((api.to_owned(), removed_release.to_owned()));
    }

    /// What an API server counts, as far as an agent reads it.
    pub fn metrics(&self) -> String {
        let state = self.lock();
        let counts = state.deprecated.iter().map(|(api, release)| {
            let mut parts = api.splitn(3, '/');
            let mut part = || parts.next().unwrap_or_default();
            let (group, version, resource) = (part(), part(), part());
            format!(
                "apiserver_requested_deprecated_apis{{group=\"{group}\",removed_release=\"{release}\",\
                 resource=\"{resource}\",subresource=\"\",version=\"{version}\"}} 1\n"
            )
        });
        ["# TYPE apiserver_requested_deprecated_apis gauge\n".to_owned()].into_iter().chain(counts).collect()
    }

    /// The number of changes so far.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// The revision, and every object at it with its key in etcd.
    pub fn all(&self) -> (u64, Vec<(String, Value)>) {
        let state = self.lock();
        let key = |key: &Key| format!("/registry/{}/{}/{}", key.resource, key.namespace, key.name);
        (state.revision, state.objects.iter().map(|(at, object)| (key(at), object.clone())).collect())
    }

    /// The last change of anything that a kubelet or a controller looks at.
    pub fn noticed(&self) -> u64 {
        self.lock().noticed
    }

    /// Told of every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.lock().objects.get(key).cloned()
    }

    /// The objects of a resource; of all namespaces where none is given.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let of = |key: &Key| {
            key.resource == resource && namespace.is_none_or(|namespace| key.namespace == namespace)
        };
        self.lock().objects.iter().filter(|(key, _)| of(key)).map(|(_, object)| object.clone()).collect()
    }

    /// The changes after a revision.
    pub fn changes_after(&self, revision: u64) -> Vec<Change> {
        let state = self.lock();
        let known = state.changes.partition_point(|change| change.revision <= revision);
        state.changes.iter().skip(known).cloned().collect()
    }

    /// Puts an object, new or changed. Its metadata get name, namespace, uid and resourceVersion.
    pub fn put(&self, key: &Key, mut object: Value) -> Value {
        let mut state = self.lock();
        state.revision += 1;
        let revision = state.revision;
        let known = state.objects.get(key).and_then(|known| text(known, "/metadata/uid")).map(str::to_owned);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let uid = known.unwrap_or_else(|| {
            state.uids += 1;
            format!("00000000-0000-4000-8000-{:012x}", state.uids)
        });
        if !object.get("metadata").is_some_and(Value::is_object) {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.name);
        metadata["uid"] = json!(uid);
        metadata["resourceVersion"] = json!(revision.to_string());
        if !key.namespace.is_empty() {
            metadata["namespace"] = json!(key.namespace);
        }
        if metadata.get("creationTimestamp").is_none() {
            metadata["creationTimestamp"] = json!(now());
        }
        state.objects.insert(key.clone(), object.clone());
        state.record(Change { revision, kind, key: key.clone(), object: object.clone() });
        drop(state);
        self.revision.send_replace(revision);
        object
    }

    /// Changes an object in place, if it is there and the change changes anything.
    pub fn update(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let before = self.get(key)?;
        let mut after = before.clone();
        change(&mut after);
        Some(if after == before { before } else { self.put(key, after) })
    }

    /// Removes an object.
    pub fn remove(&self, key: &Key) {
        let mut state = self.lock();
        if let Some(mut object) = state.objects.remove(key) {
            state.revision += 1;
            let revision = state.revision;
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
            state.record(Change { revision, kind: "DELETED", key: key.clone(), object });
            drop(state);
            self.revision.send_replace(revision);
        }
    }
}

/// A text inside an object.
pub fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// Now, as the API writes it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Merges a patch into an object (RFC 7386), as a merge patch does; a strategic merge patch does the same with
/// objects, and differs only in lists.
pub fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(object) = object.as_object_mut() {
                object.remove(name);
            }
        } else {
            merge(&mut object[name], value);
        }
    }
}
