//! What `ClusterRole`s that are bound to a user let it do.

use serde_json::Value;

use crate::standin::api::authorizer::Attributes;
use crate::standin::objects::{Key, Objects, text};

/// Whether a user has a role that grants this.
pub fn grants(objects: &Objects, user: &str, request: Attributes<'_>) -> bool {
    objects.list("clusterrolebindings", None).iter().any(|binding| {
        let role = text(binding, "/roleRef/name").unwrap_or_default();
        let role = objects.get(&Key::new("clusterroles", "", role));
        entries(Some(binding), "/subjects").any(|subject| is_user(subject, user))
            && entries(role.as_ref(), "/rules").any(|rule| {
                let has = |list: &str, wanted: &str| entries(Some(rule), list).any(|one| one == wanted);
                has("/apiGroups", request.group)
                    && has("/resources", request.resource)
                    && has("/verbs", request.verb)
            })
    })
}

fn entries<'a>(object: Option<&'a Value>, list: &str) -> impl Iterator<Item = &'a Value> {
    object.and_then(|object| object.pointer(list)).and_then(Value::as_array).into_iter().flatten()
}

fn is_user(subject: &Value, user: &str) -> bool {
    let name = text(subject, "/name").unwrap_or_default();
    match text(subject, "/kind") {
        Some("ServiceAccount") => {
            let namespace = text(subject, "/namespace").unwrap_or_default();
            user == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => user == name,
    }
}
