//! Discovery, and server-side apply: fields that Liftlock applied are remembered in the object, all others are kubectl's.

use liftlock_agent::twin::{Managed, apply, settled};
use serde_json::{Value, json};

use crate::standin::api::answer::Failure;
use crate::standin::objects::{Decision, Key, Objects};

/// What a client's patch is of that is applied server-side.
pub const CONTENT_TYPE: &str = "application/apply-patch+yaml";

/// What is served: the group's version, resource, kind, whether it lies in namespaces.
const SERVED: [(&str, &str, &str, bool); 4] = [
    ("/api/v1", "configmaps", "ConfigMap", true),
    ("/api/v1", "namespaces", "Namespace", false),
    ("/apis/apps/v1", "deployments", "Deployment", true),
    ("/apis/apps/v1", "daemonsets", "DaemonSet", true),
];

/// Namespaces that every cluster has; the others are objects.
const NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// The resources below a path, where it is that of a group's version.
pub fn discovery(path: &str) -> Option<Value> {
    let resources: Vec<Value> = SERVED
        .into_iter()
        .filter(|(group, ..)| *group == path)
        .map(|(_, name, kind, namespaced)| json!({"name": name, "kind": kind, "namespaced": namespaced}))
        .collect();
    (!resources.is_empty()).then(|| json!({"kind": "APIResourceList", "resources": resources}))
}

/// Applies an object, or with a dry run says what would come of it; whether it is new.
pub fn apply_object(
    objects: &Objects,
    key: &Key,
    configuration: &Value,
    force: bool,
    dry_run: bool,
) -> Result<(bool, Value), Failure> {
    let Key { namespace, .. } = key;
    let has_namespace = namespace.is_empty()
        || NAMESPACES.contains(&namespace.as_str())
        || objects.get(&Key::new("namespaces", "", namespace)).is_some();
    if !has_namespace {
        return Err(Failure::not_found("namespaces", namespace));
    }
    let mut new = false;
    let object = objects.decide(key, |known| {
        new = known.is_none();
        let before = known.cloned().map(managed);
        let Managed { object, applied, .. } = apply(before.as_ref(), configuration, force)
            .map_err(|conflict| Failure::conflict("Conflict", conflict))?;
        let mut object = settled(object);
        if dry_run {
            return Ok(Decision::Leave(object));
        }
        object["metadata"]["managedFields"] = json!([{"manager": "liftlock", "applied": applied}]);
        Ok(Decision::Put(object))
    })?;
    Ok((new, object))
}

fn managed(mut object: Value) -> Managed {
    let managed = object["metadata"].as_object_mut().and_then(|metadata| metadata.remove("managedFields"));
    let applied = managed.map(|managed| managed[0]["applied"].clone());
    let other = applied.is_none().then(|| "kubectl".to_owned());
    Managed { object, applied: applied.unwrap_or_default(), other }
}
