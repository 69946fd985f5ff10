//! What `kubectl describe` and whoever collects events are told of an object: one event for each change of how it stands.
//!
//! Nothing depends on them. One that cannot be written is left out: the conditions say what is so.

use serde_json::{Value, json};

use super::definition::API_VERSION;
use super::object::Object;
use super::status::News;

/// Where the events of objects are that are in no namespace
/// (<https://github.com/kubernetes/kubernetes/blob/v1.30.0/pkg/apis/core/validation/events.go>).
pub(super) const NAMESPACE: &str = "default";

/// Bytes of an object's name in that of an event, at most: that has a time behind it, and 253 are allowed.
const LONGEST_NAME: usize = 200;

/// Characters of a message, at most: what newer API servers take.
const LONGEST_MESSAGE: usize = 1000;

/// An event about an object.
pub(super) fn event(object: &Object, news: &News<'_>, now_ms: u64) -> Value {
    let Object { name, uid, .. } = object;
    let short = name.get(..LONGEST_NAME).unwrap_or(name).trim_end_matches(['-', '.']);
    let seconds = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
    let message: String = news.message.chars().take(LONGEST_MESSAGE).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{short}.{now_ms:x}"), "namespace": NAMESPACE},
        "involvedObject": {
            "apiVersion": API_VERSION, "kind": "UpgradePlan", "name": name, "uid": uid,
        },
        "type": if news.is_warning { "Warning" } else { "Normal" },
        "reason": news.reason,
        "message": message,
        "source": {"component": "liftlock"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}
