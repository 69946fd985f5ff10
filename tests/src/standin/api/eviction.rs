//! The Eviction API: a pod is asked to go, as far as its `PodDisruptionBudget` allows.

use serde_json::{Value, json};

use crate::standin::api::answer::Failure;
use crate::standin::api::authorizer::node_of;
use crate::standin::objects::{Key, Objects, now, text};
use crate::standin::pki::Subject;
use crate::standin::release::Release;

/// Evicts a pod.
pub fn evict(
    objects: &Objects,
    release: Release,
    subject: Option<&Subject>,
    namespace: &str,
    name: &str,
    eviction: &Value,
) -> Result<Value, Failure> {
    let version = text(eviction, "/apiVersion").unwrap_or_default();
    let known = match version {
        "policy/v1" => release.has_policy_v1_eviction(),
        "policy/v1beta1" => release.0.minor < 25,
        _ => false,
    };
    if !known {
        return Err(Failure::bad_request(format!(
            "Eviction in version \"{}\" cannot be handled as a Eviction: no kind \"Eviction\" is registered for version \
             \"{version}\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
            version.trim_start_matches("policy/")
        )));
    }
    let _one_after_the_other = objects.evicting();
    let (key, pod) =
        own_pod(objects, subject, namespace, name, text(eviction, "/deleteOptions/preconditions/uid"))?;
    if !is_terminating(&pod) {
        if is_ready(&pod) {
            within_budget(objects, namespace, &pod)?;
        }
        objects.update(&key, |pod| pod["metadata"]["deletionTimestamp"] = json!(now()));
    }
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

/// Deletes a pod, whatever budget protects it: its kubelet ends it.
pub fn delete(
    objects: &Objects,
    subject: Option<&Subject>,
    namespace: &str,
    name: &str,
    options: &Value,
) -> Result<Value, Failure> {
    let (key, pod) = own_pod(objects, subject, namespace, name, text(options, "/preconditions/uid"))?;
    if !is_terminating(&pod) {
        objects.update(&key, |pod| pod["metadata"]["deletionTimestamp"] = json!(now()));
    }
    Ok(objects.get(&key).unwrap_or(pod))
}

/// The pod that is to go, where it is the one that is meant and a kubelet's own.
fn own_pod(
    objects: &Objects,
    subject: Option<&Subject>,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(Key, Value), Failure> {
    let key = Key::new("pods", namespace, name);
    let pod = objects.get(&key).ok_or_else(|| Failure::not_found("pod", name))?;
    if let Some(node) = subject.and_then(node_of)
        && text(&pod, "/spec/nodeName") != Some(node)
    {
        return Err(Failure {
            details: Some(json!({"name": name, "kind": "pods"})),
            ..Failure::forbidden(format!(
                "pods \"{name}\" is forbidden: node {node} can only evict pods with spec.nodeName set to itself"
            ))
        });
    }
    let is = text(&pod, "/metadata/uid");
    if let Some(wanted) = uid
        && Some(wanted) != is
    {
        return Err(Failure::conflict(
            "Conflict",
            format!(
                "Operation cannot be fulfilled on pods \"{name}\": the UID in the precondition ({wanted}) does not match the UID in record ({})",
                is.unwrap_or_default()
            ),
        ));
    }
    Ok((key, pod))
}

fn within_budget(objects: &Objects, namespace: &str, pod: &Value) -> Result<(), Failure> {
    for budget in objects.list("poddisruptionbudgets", Some(namespace)) {
        let selector = budget.pointer("/spec/selector/matchLabels");
        if !selects(selector, pod) {
            continue;
        }
        let needed = budget.pointer("/spec/minAvailable").and_then(Value::as_u64).unwrap_or_default();
        let healthy = objects
            .list("pods", Some(namespace))
            .iter()
            .filter(|pod| selects(selector, pod) && is_ready(pod) && !is_terminating(pod))
            .count() as u64;
        if healthy <= needed {
            let name = text(&budget, "/metadata/name").unwrap_or_default();
            return Err(Failure {
                code: 429,
                reason: "TooManyRequests",
                message: "Cannot evict pod as it would violate the pod's disruption budget.".to_owned(),
                details: Some(json!({"causes": [{
                    "reason": "DisruptionBudget",
                    "message": format!(
                        "The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
                    ),
                }]})),
            });
        }
    }
    Ok(())
}

/// Whether a pod's labels have everything that the selector asks for.
pub fn selects(selector: Option<&Value>, pod: &Value) -> bool {
    let Some(wanted) = selector.and_then(Value::as_object) else {
        return false;
    };
    wanted.iter().all(|(name, value)| {
        pod.pointer("/metadata/labels").and_then(|labels| labels.get(name)) == Some(value)
    })
}

/// Whether the pod's Ready condition is True.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

/// Whether a condition of a pod or a Node is True.
pub fn condition(object: &Value, kind: &str) -> bool {
    object.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
    })
}

/// Whether the pod has been told to go.
pub fn is_terminating(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some()
}
