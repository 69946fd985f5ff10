//! An object of kind `UpgradePlan`, as the API lists it: the document in it, and what its status said.

use serde_json::{Map, Value, json};

use super::status::{Before, Status};
use crate::document::{self, ObjectName, UpgradePlan};
use crate::plans::wanted;

/// Longest uid that is taken: those of Kubernetes have 36 characters.
const LONGEST_UID: usize = 64;

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// `metadata.name`
    pub(super) name: String,
    /// `metadata.uid`: an object that is made again is another one.
    pub(super) uid: String,
    /// Counts the changes of its spec.
    pub(super) generation: i64,
    /// RFC 3339; those made first come first.
    pub(super) created: String,
    /// Whether somebody has deleted it, and it is only there until others have cleaned up.
    pub(super) is_deleted: bool,
    /// What it says and the hash of that, or why it does not read.
    pub(super) document: Result<(UpgradePlan, String), String>,
    pub(super) before: Before,
    pub(super) listed: Value,
}

impl Object {
    /// From what the API lists, or why it is no object of Kubernetes.
    pub(super) fn read(listed: Value) -> Result<Self, String> {
        let text = |name: &str| {
            let text = listed.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
            text.map(str::to_owned).ok_or_else(|| format!("an UpgradePlan has no metadata.{name}"))
        };
        let name = ObjectName::try_from(text("name")?).map_err(|error| error.to_string())?;
        let uid = text("uid")?;
        if uid.len() > LONGEST_UID || !uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(format!("\"{uid}\" is no uid: allowed are letters, digits and dashes"));
        }
        let generation = listed.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        Ok(Self {
            name: name.into(),
            uid,
            generation,
            created: text("creationTimestamp")?,
            is_deleted: listed.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()),
            document: document(&listed),
            before: Before::read(listed.get("status")),
            listed,
        })
    }

    /// The object with this status, if it has another now.
    pub(super) fn with_status(&self, status: &Status) -> Option<Value> {
        let status = serde_json::to_value(status).ok()?;
        if self.listed.get("status") == Some(&status) {
            return None;
        }
        let mut fields = self.listed.as_object()?.clone();
        fields.insert("status".to_owned(), status);
        Some(Value::Object(fields))
    }
}

/// What the object says as a document. Of its metadata only the name is of one: labels, annotations and the like are
/// whoever's delivers it.
fn document(listed: &Value) -> Result<(UpgradePlan, String), String> {
    let mut fields: Map<String, Value> = listed.as_object().cloned().unwrap_or_default();
    fields.remove("status");
    let name = listed.pointer("/metadata/name").cloned().unwrap_or_default();
    fields.insert("metadata".to_owned(), json!({ "name": name }));
    let document = document::parse(&Value::Object(fields).to_string()).map_err(|error| error.what)?;
    let hash = wanted::hash(&document).map_err(|error| error.to_string())?;
    Ok((document, hash))
}
