//! Add-ons: manifests that lie on the control planes, one folder a version, applied once the last control plane is
//! raised (docs/addons.md).
//!
//! The coordinator names a version and a digest, and never sends a manifest: what is applied with admin.conf is what
//! root put on the node. What was applied is in a `ConfigMap` of the cluster, so that what is no longer in the
//! manifests is known, whichever control plane applies the next ones.

use camino::Utf8PathBuf;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::protect::rules::clean;

pub mod crd;
pub mod difference;
pub mod earlier;
pub mod facts;
pub mod manifest;
pub mod order;
pub mod preview;
pub mod record;
pub mod rollout;
pub mod set;

/// The label of everything that Liftlock has applied: nothing else is ever deleted.
pub const LABEL: &str = "liftlock.dev/addons";

/// Kinds that take with them what is not theirs: everything in a namespace, every object of a kind, data. They are
/// applied and never deleted.
const LEFT: [&str; 4] =
    ["Namespace", "CustomResourceDefinition", "PersistentVolume", "PersistentVolumeClaim"];

/// `[addons]` in the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Words")]
pub struct Addons {
    /// The folder with one folder a version: absolute, as on a real node.
    pub directory: Utf8PathBuf,
    /// Fields that others own are changed nevertheless.
    pub take_over: bool,
}

impl Default for Addons {
    fn default() -> Self {
        Self { directory: "/etc/liftlock/addons".into(), take_over: false }
    }
}

/// As the configuration has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Words {
    directory: Option<String>,
    take_over: bool,
}

impl TryFrom<Words> for Addons {
    type Error = String;

    fn try_from(words: Words) -> Result<Self, String> {
        let clean = |path: String| clean(&path).map_err(|why| format!("the directory {path:?} {why}"));
        let directory = words.directory.map_or(Ok(Self::default().directory), clean)?;
        Ok(Self { directory, take_over: words.take_over })
    }
}

/// Whether objects of a kind are left where they are, though no manifest has them any more.
pub fn is_left(kind: &str) -> bool {
    LEFT.contains(&kind)
}

/// Whether Liftlock has applied an object.
pub fn is_ours(object: &Value) -> bool {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(LABEL)) == Some(&json!("true"))
}

/// An object's uid; empty where it has none.
pub fn uid(object: &Value) -> &str {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_an_absolute_path_and_other_words_are_refused() {
        let read = |text: &str| toml::from_str::<Addons>(text).map_err(|error| error.to_string());
        assert_eq!(read(""), Ok(Addons::default()));
        let moved = Addons { directory: "/srv/addons".into(), take_over: true };
        assert_eq!(read("directory = '/srv/addons/'\ntake-over = true"), Ok(moved));
        for (text, word) in [
            ("directory = 'addons'", "absolute"),
            ("directory = '/a/../b'", "`..`"),
            ("shell = true", "shell"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }
}
