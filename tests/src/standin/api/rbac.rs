//! What roles that are bound to a user let it do, in the whole cluster or in one namespace.

use serde_json::Value;

use crate::standin::api::authorizer::Attributes;
use crate::standin::objects::{Key, Objects, text};

/// Whether a user has a role that grants this.
pub fn grants(objects: &Objects, user: &str, request: Attributes<'_>) -> bool {
    let bound = |bindings: &str, roles: &str, namespace: Option<&str>| {
        objects.list(bindings, namespace).iter().any(|binding| {
            let role = text(binding, "/roleRef/name").unwrap_or_default();
            let role = objects.get(&Key::new(roles, namespace.unwrap_or_default(), role));
            entries(Some(binding), "/subjects").any(|subject| is_user(subject, user))
                && entries(role.as_ref(), "/rules").any(|rule| allows(rule, request))
        })
    };
    let in_one = Some(request.namespace).filter(|namespace| !namespace.is_empty());
    bound("clusterrolebindings", "clusterroles", None)
        || in_one.is_some_and(|namespace| bound("rolebindings", "roles", Some(namespace)))
}

fn allows(rule: &Value, request: Attributes<'_>) -> bool {
    let has = |list: &str, wanted: &str| entries(Some(rule), list).any(|one| one == wanted);
    has("/apiGroups", request.group) && has("/resources", request.resource) && has("/verbs", request.verb)
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
