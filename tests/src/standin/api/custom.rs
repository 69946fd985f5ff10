//! Custom resources, as far as their definition is applied: generations, the status as a resource of its own, and fields
//! that no schema specifies.

use serde_json::{Value, json};

use crate::standin::api::answer::Failure;
use crate::standin::objects::{Decision, Key, Objects, is_as_seen, text};

/// The served version of a custom resource.
#[derive(Debug, Clone)]
pub struct Custom {
    /// `UpgradePlanList`
    pub list_kind: String,
    /// `upgradeplans.liftlock.dev`
    qualified: String,
    schema: Value,
}

impl Custom {
    /// What an applied definition says of a resource, if one does.
    pub fn find(objects: &Objects, group: &str, version: &str, resource: &str) -> Option<Self> {
        let name = format!("{resource}.{group}");
        let definition = objects.get(&Key::new("customresourcedefinitions", "", &name))?;
        let versions = definition.pointer("/spec/versions")?.as_array()?;
        let served = versions.iter().find(|one| one["name"] == version && one["served"] == true)?;
        Some(Self {
            list_kind: text(&definition, "/spec/names/listKind")?.to_owned(),
            qualified: name,
            schema: served.pointer("/schema/openAPIV3Schema")?.clone(),
        })
    }

    /// A new object: whatever it says of its status is dropped.
    pub fn create(&self, objects: &Objects, key: &Key, mut object: Value) -> Result<Value, Failure> {
        self.prune(&mut object);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        object["metadata"]["generation"] = json!(1);
        objects.decide(key, |known| match known {
            Some(_) => {
                let message = format!("{} \"{}\" already exists", self.qualified, key.name);
                Err(Failure::conflict("AlreadyExists", message))
            }
            None => Ok(Decision::Put(object)),
        })
    }

    /// Another spec for an object, or another status where that is what is written.
    pub fn update(
        &self,
        objects: &Objects,
        key: &Key,
        object: Value,
        status: bool,
    ) -> Result<Value, Failure> {
        objects.decide(key, |known| {
            let known = known.ok_or_else(|| self.not_found(&key.name))?;
            self.updated(key, known, object, status)
        })
    }

    fn updated(
        &self,
        key: &Key,
        known: &Value,
        mut object: Value,
        status: bool,
    ) -> Result<Decision, Failure> {
        let version = |object: &Value| text(object, "/metadata/resourceVersion").map(str::to_owned);
        let Some(wanted) = version(&object) else {
            let why = "Invalid value: 0x0: must be specified for an update";
            let message =
                format!("{} \"{}\" is invalid: metadata.resourceVersion: {why}", self.qualified, key.name);
            let cause =
                json!({"reason": "FieldValueInvalid", "message": why, "field": "metadata.resourceVersion"});
            let details = Some(json!({"name": key.name, "causes": [cause]}));
            return Err(Failure { code: 422, reason: "Invalid", message, details });
        };
        if !is_as_seen(known, Some(&wanted)) {
            return Err(Failure::conflict(
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the \
                     latest version and try again",
                    self.qualified, key.name
                ),
            ));
        }
        self.prune(&mut object);
        let mut after = known.clone();
        if status {
            after["status"] = object["status"].take();
        } else if after["spec"] != object["spec"] {
            after["spec"] = object["spec"].take();
            let generation =
                known.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default();
            after["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(if after == *known { Decision::Leave(after) } else { Decision::Put(after) })
    }

    /// 404.
    pub fn not_found(&self, name: &str) -> Failure {
        Failure::not_found(&self.qualified, name)
    }

    fn prune(&self, object: &mut Value) {
        for part in ["spec", "status"] {
            let schema = self.schema.pointer(&format!("/properties/{part}"));
            if let (Some(schema), Some(value)) = (schema, object.get_mut(part)) {
                prune(schema, value);
            }
        }
    }
}

/// Drops what a structural schema does not specify and does not say to keep.
fn prune(schema: &Value, value: &mut Value) {
    match value {
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    prune(schema, item);
                }
            }
        }
        Value::Object(fields) => {
            let keeps = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
            let open = schema.get("additionalProperties");
            let specified =
                |name: &String| schema.get("properties").and_then(|known| known.get(name)).or(open);
            fields.retain(|name, _| keeps || specified(name).is_some());
            for (name, value) in fields.iter_mut() {
                if let Some(schema) = specified(name) {
                    prune(schema, value);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_resource_of_its_own_and_only_a_spec_that_changes_is_another_generation() {
        let objects = Objects::default();
        let definition = json!({"spec": {
            "names": {"listKind": "PlanList"},
            "versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
            }}}}],
        }});
        assert!(Custom::find(&objects, "a.b", "v1", "plans").is_none());
        objects.put(&Key::new("customresourcedefinitions", "", "plans.a.b"), definition);
        let custom = Custom::find(&objects, "a.b", "v1", "plans").unwrap();
        let key = Key::new("plans", "", "one");
        let made =
            custom.create(&objects, &key, json!({"spec": {"a": 1}, "status": {"phase": "x"}})).unwrap();
        assert_eq!((&made["metadata"]["generation"], made.get("status")), (&json!(1), None));
        let mut written = made.clone();
        written["status"] = json!({"phase": "y", "unknown": true});
        written["spec"] = json!({});
        let written = custom.update(&objects, &key, written, true).unwrap();
        assert_eq!((&written["status"], &written["spec"]), (&json!({"phase": "y"}), &json!({"a": 1})));
        assert_eq!(written["metadata"]["generation"], 1);
        // Of the object as it was before.
        assert_eq!(custom.update(&objects, &key, made, true).unwrap_err().code, 409);
        let mut other = written;
        other["spec"] = json!({"b": 2});
        let other = custom.update(&objects, &key, other, false).unwrap();
        assert_eq!((&other["metadata"]["generation"], &other["spec"]), (&json!(2), &json!({"b": 2})));
    }
}
