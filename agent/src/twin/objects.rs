//! Objects of any kind, and the API that applies and deletes them.

#![expect(clippy::indexing_slicing, reason = "what an object lacks is null; only objects are stored")]

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::apply::{Managed, apply};
use super::kube::away;
use super::node::NodeTwin;
use crate::addons::{crd, difference};
use crate::engine::lease::Permit;
use crate::host::HostResult;
use crate::host::objects::{Applied, ObjectName, Objects, Resource};

/// Kinds that every API server serves: version, kind, plural, whether they lie in namespaces.
const SERVED: [(&str, &str, &str, bool); 5] = [
    ("v1", "Namespace", "namespaces", false),
    ("v1", "ConfigMap", "configmaps", true),
    ("apps/v1", "Deployment", "deployments", true),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false),
];

/// What the API server stores of any kind, by path.
#[derive(Debug, Clone, Default)]
pub struct Stored(BTreeMap<String, Managed>);

impl Stored {
    /// An object as it is served; `None` where there is none.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path).map(|managed| &managed.object)
    }

    /// An object that Liftlock has applied before, or that somebody else has made.
    pub fn put(&mut self, path: &str, by: Option<&str>, mut object: Value) {
        let applied = if by.is_none() { object.clone() } else { Value::Null };
        object["metadata"]["uid"] = json!(format!("uid-of-{path}"));
        let managed = Managed { object, applied, other: by.map(str::to_owned) };
        self.0.insert(path.to_owned(), managed);
    }

    /// Everything that somebody asked for: a picture's lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = (String, String)> {
        self.0
            .iter()
            .map(|(path, managed)| (path.clone(), difference::asked_for(managed.object.clone()).to_string()))
    }
}

/// What controllers and the API server make of an object, at once.
pub fn settled(mut object: Value) -> Value {
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    match object["kind"].as_str() {
        Some("Deployment") => {
            object["status"] =
                json!({"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas});
        }
        Some("CustomResourceDefinition") => {
            object["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        }
        _ => {}
    }
    object
}

impl NodeTwin {
    fn stored<T>(&self, what: &str, look: impl FnOnce(&mut Stored) -> T) -> HostResult<T> {
        self.world(
            |world| {
                if world.api_is_up() { Ok(look(&mut world.cluster.stored)) } else { Err(away(what)) }
            },
        )
    }
}

#[async_trait]
impl Objects for NodeTwin {
    async fn resource(&self, api_version: &str, kind: &str) -> HostResult<Option<Resource>> {
        self.stored("discovery", |stored| {
            let known = SERVED.into_iter().find(|one| (one.0, one.1) == (api_version, kind));
            let defined = || {
                let mut objects = stored.0.values().map(|managed| &managed.object);
                let by = objects.find(|one| crd::defines(one, api_version, kind))?;
                Some((
                    by.pointer("/spec/names/plural")?.as_str()?.to_owned(),
                    by["spec"]["scope"] != "Cluster",
                ))
            };
            let (plural, namespaced) = match known {
                Some((_, _, plural, namespaced)) => (plural.to_owned(), namespaced),
                None => defined()?,
            };
            let group = if api_version.contains('/') {
                format!("/apis/{api_version}")
            } else {
                format!("/api/{api_version}")
            };
            Some(Resource { group, plural, namespaced })
        })
    }

    async fn object(&self, resource: &Resource, name: &ObjectName) -> HostResult<Option<Value>> {
        self.stored("read an object", |stored| stored.get(&resource.path(name)).cloned())
    }

    async fn try_apply(
        &self,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        take_over: bool,
    ) -> HostResult<Applied> {
        self.stored("dry-run", |stored| match apply(stored.0.get(&resource.path(name)), object, take_over) {
            Ok(managed) => Applied::Is(managed.object),
            Err(why) => Applied::Refused { code: 409, why },
        })
    }

    async fn apply(
        &self,
        _: &Permit,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        take_over: bool,
    ) -> HostResult<Applied> {
        let (what, path) = (format!("apply {name}"), resource.path(name));
        self.stored(&what, |_| ())?;
        self.change(
            &what,
            || away(&what),
            |world| {
                let uid = json!(format!("uid-{}", world.numbered()));
                let stored = &mut world.cluster.stored.0;
                match apply(stored.get(&path), object, take_over) {
                    Ok(mut managed) => {
                        let before = stored.get(&path).map(|before| before.object["metadata"]["uid"].clone());
                        managed.object = settled(managed.object);
                        managed.object["metadata"]["uid"] = before.unwrap_or(uid);
                        let object = managed.object.clone();
                        stored.insert(path, managed);
                        Applied::Is(object)
                    }
                    Err(why) => Applied::Refused { code: 409, why },
                }
            },
        )
        .await
    }

    async fn delete(&self, _: &Permit, resource: &Resource, name: &ObjectName, uid: &str) -> HostResult<()> {
        let (what, path) = (format!("delete {name}"), resource.path(name));
        self.stored(&what, |_| ())?;
        self.change(
            &what,
            || away(&what),
            |world| {
                let stored = &mut world.cluster.stored;
                if stored.get(&path).is_some_and(|object| object["metadata"]["uid"] == uid) {
                    stored.0.remove(&path);
                }
            },
        )
        .await
    }
}
