//! The objects of a stand-in cluster, as etcd would hold them: versioned, and every change remembered for watchers.

use std::collections::BTreeMap;
use std::convert::Infallible;
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
    evictions: Arc<Mutex<()>>,
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

/// What becomes of an object.
#[derive(Debug)]
pub enum Decision {
    /// Nothing; this is what is answered.
    Leave(Value),
    /// It is this from now on.
    Put(Value),
    /// It is no more.
    Remove,
}

impl State {
    fn put(&mut self, key: &Key, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        let known = self.objects.get(key).and_then(|known| text(known, "/metadata/uid")).map(str::to_owned);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let uid = known.unwrap_or_else(|| {
            self.uids += 1;
            format!("00000000-0000-4000-8000-{:012x}", self.uids)
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
        self.objects.insert(key.clone(), object.clone());
        self.record(Change { revision, kind, key: key.clone(), object: object.clone() });
        object
    }

    /// The object as it was.
    fn remove(&mut self, key: &Key) -> Value {
        let found = self.objects.remove(key).unwrap_or_default();
        self.revision += 1;
        let revision = self.revision;
        let mut object = found.clone();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        self.record(Change { revision, kind: "DELETED", key: key.clone(), object });
        found
    }

    fn record(&mut self, change: Change) {
        if !matches!(change.key.resource.as_str(), "leases" | "configmaps") {
            self.noticed = change.revision;
        }
        self.changes.push(change);
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self { state: Arc::default(), revision: Arc::new(watch::Sender::new(0)), evictions: Arc::default() }
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
    pub fn put(&self, key: &Key, object: Value) -> Value {
        let Ok(put) = self.decide(key, |_| Ok::<_, Infallible>(Decision::Put(object)));
        put
    }

    /// Looks at an object, if it is there, and does what follows from it in the same moment; the object as it is then.
    ///
    /// # Errors
    /// The decision's; nothing is changed then.
    pub fn decide<E>(
        &self,
        key: &Key,
        decision: impl FnOnce(Option<&Value>) -> Result<Decision, E>,
    ) -> Result<Value, E> {
        let mut state = self.lock();
        let (object, changed) = match decision(state.objects.get(key))? {
            Decision::Leave(object) => (object, false),
            Decision::Put(object) => (state.put(key, object), true),
            Decision::Remove => (state.remove(key), true),
        };
        let revision = state.revision;
        drop(state);
        if changed {
            self.revision.send_replace(revision);
        }
        Ok(object)
    }

    /// Changes an object in place, if it is there and the change changes anything. Nobody else changes it meanwhile.
    pub fn update(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let update = |known: Option<&Value>| {
            let before = known.ok_or(())?;
            let mut after = before.clone();
            change(&mut after);
            Ok::<_, ()>(if after == *before { Decision::Leave(after) } else { Decision::Put(after) })
        };
        self.decide(key, update).ok()
    }

    /// Removes an object, if it is there.
    pub fn remove(&self, key: &Key) {
        // Where it is not there, nothing was to be done.
        _ = self.decide(key, |known| known.map(|_| Decision::Remove).ok_or(()));
    }

    /// Held while it is seen whether budgets let a pod go: each eviction counts those before it.
    pub fn evicting(&self) -> MutexGuard<'_, ()> {
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an object is still of the resourceVersion that somebody saw it at; also where nobody says of which.
pub fn is_as_seen(object: &Value, seen: Option<&str>) -> bool {
    seen.is_none_or(|seen| text(object, "/metadata/resourceVersion") == Some(seen))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_changes_made_side_by_side_none_is_lost() {
        let objects = Objects::default();
        let key = Key::new("nodes", "", "w1");
        objects.put(&key, json!({"spec": {"count": 0}}));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        objects.update(&key, |node| {
                            let count = node["spec"]["count"].as_u64().unwrap_or_default();
                            node["spec"]["count"] = json!(count + 1);
                        });
                    }
                });
            }
        });
        assert_eq!(objects.get(&key).unwrap()["spec"]["count"], 1000);
        assert_eq!(objects.revision(), 1001, "each is a change of its own");
    }

    #[test]
    fn a_decision_that_refuses_and_a_change_that_changes_nothing_leave_the_object_as_it_is() {
        let objects = Objects::default();
        let key = Key::new("pods", "default", "a");
        assert_eq!(objects.update(&key, |_| {}), None);
        objects.remove(&key);
        let put = objects.put(&key, json!({}));
        assert_eq!(objects.decide(&key, |_| Err::<Decision, _>("no")), Err("no"));
        assert_eq!(objects.update(&key, |pod| pod["metadata"]["namespace"] = json!("default")), Some(put));
        assert_eq!(objects.revision(), 1);
        assert_eq!(objects.changes_after(0).len(), 1);
    }
}
