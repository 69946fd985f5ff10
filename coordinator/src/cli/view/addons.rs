//! What a plan's add-ons would change, as an operator reads it before saying yes.

use std::fmt::Write as _;

use liftlock_proto::v1;
use liftlock_proto::v1::AddonChangeKind;
use serde::Serialize;

use super::plan::word;
use super::said;
use crate::cli::paint::{Paint, Tone};

/// So many objects of a stop are shown to people; those that stay as they are never are.
const SHOWN: usize = 40;

/// What one stop's add-ons would change in the cluster as it is now.
#[derive(Debug, Serialize)]
pub struct AddonsView {
    /// The stop.
    pub to_version: String,
    /// Which node applies them.
    pub node: String,
    /// SHA-256 of the manifests.
    pub digest: String,
    /// Why nobody can tell; null where `changes` says it.
    pub unknown: Option<String>,
    /// Object by object.
    pub changes: Vec<AddonChangeView>,
}

/// What becomes of an object.
#[derive(Debug, Serialize)]
pub struct AddonChangeView {
    /// `created`, `changed`, `unchanged`, `pruned`, `left`, `refused`, `unknown`
    pub kind: &'static str,
    /// `Deployment kube-system/coredns`
    pub object: String,
    /// Where it stands; null for what is no longer there.
    pub file: Option<String>,
    /// Which fields change, without their values.
    pub fields: Vec<String>,
    /// How many more of them there are.
    pub more_fields: u32,
    /// The API server's words, or why nobody can tell; null where the rest says it.
    pub message: Option<String>,
}

impl From<v1::StopAddons> for AddonsView {
    fn from(message: v1::StopAddons) -> Self {
        let v1::StopAddons { to_version, node, digest, changes, unknown } = message;
        let changes = changes.into_iter().map(Into::into).collect();
        Self { to_version, node, digest, unknown: said(unknown), changes }
    }
}

impl From<v1::AddonChange> for AddonChangeView {
    fn from(message: v1::AddonChange) -> Self {
        let kind = match message.kind() {
            AddonChangeKind::Created => "created",
            AddonChangeKind::Changed => "changed",
            AddonChangeKind::Unchanged => "unchanged",
            AddonChangeKind::Pruned => "pruned",
            AddonChangeKind::Left => "left",
            AddonChangeKind::Refused => "refused",
            AddonChangeKind::Unknown | AddonChangeKind::Unspecified => "unknown",
        };
        let v1::AddonChange { kind: _, object, file, fields, more_fields, message } = message;
        Self { kind, object, file: said(file), fields, more_fields, message: said(message) }
    }
}

impl AddonsView {
    /// One line, and one for each object that does not stay as it is.
    pub fn table(&self, paint: Paint) -> String {
        let title = format!("Add-ons of {}, applied by {}:", self.to_version, self.node);
        let title = paint.paint(Tone::Strong, &title);
        if let Some(unknown) = &self.unknown {
            return format!("{title} nobody can tell what they change: {unknown}\n");
        }
        let kinds = ["refused", "unknown", "created", "changed", "pruned", "left", "unchanged"];
        let counts: Vec<String> = kinds
            .into_iter()
            .map(|kind| (kind, self.changes.iter().filter(|change| change.kind == kind).count()))
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let mut text = format!("{title} {}\n", counts.join(", "));
        let told: Vec<&AddonChangeView> =
            self.changes.iter().filter(|change| change.kind != "unchanged").collect();
        for change in told.iter().take(SHOWN) {
            let _ = writeln!(text, "  {:<9}{}", change.kind, change.words());
        }
        if let Some(more) = told.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(text, "  and {more} more: see -o json");
        }
        text
    }
}

impl AddonChangeView {
    fn words(&self) -> String {
        let mut fields: Vec<String> = self.fields.iter().map(|field| word(field)).collect();
        if self.more_fields > 0 {
            fields.push(format!("{} more", self.more_fields));
        }
        let mut text = self.object.clone();
        if !fields.is_empty() {
            let _ = write!(text, ": {}", fields.join(", "));
        }
        if let Some(message) = &self.message {
            let _ = write!(text, ": {message}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: AddonChangeKind, object: &str, fields: &[&str]) -> v1::AddonChange {
        v1::AddonChange {
            kind: kind.into(),
            object: object.to_owned(),
            file: "dns.yaml".to_owned(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            ..v1::AddonChange::default()
        }
    }

    #[test]
    fn add_ons_are_counted_in_one_line_and_only_what_changes_is_shown() {
        let view = AddonsView::from(v1::StopAddons {
            to_version: "v1.20.2".to_owned(),
            node: "cp3".to_owned(),
            digest: "0".repeat(64),
            changes: vec![
                change(AddonChangeKind::Created, "ConfigMap kube-system/new", &[]),
                change(
                    AddonChangeKind::Changed,
                    "Deployment kube-system/dns",
                    &["spec.template.spec.containers[0].image"],
                ),
                change(AddonChangeKind::Unchanged, "Service kube-system/dns", &[]),
                change(AddonChangeKind::Pruned, "ConfigMap kube-system/old", &[]),
            ],
            unknown: String::new(),
        });
        let text = "Add-ons of v1.20.2, applied by cp3: 1 created, 1 changed, 1 pruned, 1 unchanged\n  \
                    created  ConfigMap kube-system/new\n  \
                    changed  Deployment kube-system/dns: spec.template.spec.containers[0].image\n  \
                    pruned   ConfigMap kube-system/old\n";
        assert_eq!(view.table(Paint::OFF), text);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["changes"][1]["fields"][0], "spec.template.spec.containers[0].image");
        assert_eq!(json["changes"][3]["kind"], "pruned");
    }
}
