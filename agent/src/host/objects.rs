//! Objects of any kind that the cluster's API serves, for whoever has admin.conf: what add-ons are made of.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::lease::Permit;
use crate::host::HostResult;

/// Which object. What of it is a part of a path on the API server is known to be one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// As its manifest has it: empty where it says nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    /// `Deployment kube-system/coredns`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// Where objects of a kind are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `/apis/apps/v1`
    pub group: String,
    /// `deployments`
    pub plural: String,
    /// They lie in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// `ConfigMaps`, which every API server serves.
    pub fn config_maps() -> Self {
        Self { group: "/api/v1".to_owned(), plural: "configmaps".to_owned(), namespaced: true }
    }

    /// The namespace in which an object is meant to lie, as kubectl takes it: `default` where its manifest says nothing.
    pub fn namespace_of<'a>(&self, object: &'a ObjectName) -> Option<&'a str> {
        let said = if object.namespace.is_empty() { "default" } else { &object.namespace };
        self.namespaced.then_some(said)
    }

    /// The object's path on the API server.
    pub fn path(&self, object: &ObjectName) -> String {
        let Self { group, plural, .. } = self;
        match self.namespace_of(object) {
            Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{}", object.name),
            None => format!("{group}/{plural}/{}", object.name),
        }
    }
}

/// How the API server answered an apply.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The object as it is now, or would be.
    Is(Value),
    /// It says no, and asking again changes nothing.
    Refused {
        /// 409 where others own fields that the object would change, 422 where it is none.
        code: u16,
        /// Its words.
        why: String,
    },
}

/// Objects of any kind, with admin.conf.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Where objects of a kind are served; `None` where they are not.
    async fn resource(&self, api_version: &str, kind: &str) -> HostResult<Option<Resource>>;
    /// An object, or `None` where there is none.
    async fn object(&self, resource: &Resource, name: &ObjectName) -> HostResult<Option<Value>>;
    /// What a server-side apply would come to. Changes nothing.
    async fn try_apply(
        &self,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        take_over: bool,
    ) -> HostResult<Applied>;
    /// Applies an object server-side as [`FIELD_MANAGER`]. `take_over`: also where others own fields that it changes.
    async fn apply(
        &self,
        permit: &Permit,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        take_over: bool,
    ) -> HostResult<Applied>;
    /// Deletes the object of this uid, and in the background what it owns; fine where it is gone, or another one.
    async fn delete(
        &self,
        permit: &Permit,
        resource: &Resource,
        name: &ObjectName,
        uid: &str,
    ) -> HostResult<()>;
}

/// Whose the fields are that Liftlock applies.
pub const FIELD_MANAGER: &str = "liftlock";
