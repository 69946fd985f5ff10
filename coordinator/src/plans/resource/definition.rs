//! The definition of the custom resource, from the very types that read documents and write status.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::status::Status;
use super::structural::structural;
use crate::document;

/// Group and version, as documents name them.
pub(super) const API_VERSION: &str = "liftlock.dev/v1";

/// The resource's name in the API's paths.
pub(super) const PLURAL: &str = "upgradeplans";

/// The `CustomResourceDefinition`, for `kubectl apply` to any cluster that serves apiextensions.k8s.io/v1 (1.16 on).
///
/// Scoped to the cluster, which is what a plan raises: whoever may write into some namespace is not meant to raise it.
pub fn definition() -> Value {
    let document = document::schema().to_value();
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let status = settings.into_generator().into_root_schema_for::<Status>().to_value();
    let mut status = structural(&status);
    // An object that was made a moment ago would have no generation that was seen, and so pass for fulfilled.
    if let Some(fields) = status.as_object_mut() {
        let unseen = json!({ "observedGeneration": -1, "phase": "Waiting", "conditions": [] });
        fields.insert("default".to_owned(), unseen);
    }
    let part = |name: &str| structural(document.pointer(name).unwrap_or_default());
    let column = |name: &str, kind: &str, path: &str, priority: u8| json!({ "name": name, "type": kind, "jsonPath": path, "priority": priority });
    let condition = |kind: &str, field: &str| format!(".status.conditions[?(@.type==\"{kind}\")].{field}");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "upgradeplans.liftlock.dev" },
        "spec": {
            "group": "liftlock.dev",
            "names": { "kind": "UpgradePlan", "listKind": "UpgradePlanList", "plural": PLURAL, "singular": "upgradeplan" },
            "scope": "Cluster",
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    column("Target", "string", ".spec.toVersion", 0),
                    column("Accepted", "string", &condition("Accepted", "status"), 0),
                    column("Phase", "string", ".status.phase", 0),
                    column("Raised", "integer", ".status.nodes.raised", 0),
                    column("Nodes", "integer", ".status.nodes.total", 0),
                    column("Age", "date", ".metadata.creationTimestamp", 0),
                    column("Plan", "string", ".status.planId", 1),
                    column("Progress", "string", &condition("Progressing", "message"), 1),
                ],
                "schema": { "openAPIV3Schema": {
                    "description": document.get("description"),
                    "type": "object",
                    "properties": { "spec": part("/properties/spec"), "status": status },
                    "required": ["spec"],
                    "x-kubernetes-preserve-unknown-fields": true,
                } },
            }],
        },
    })
}
