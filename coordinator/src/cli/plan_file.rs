//! A plan file: what an operator wants, as a document.
//!
//! ```yaml
//! apiVersion: liftlock.dev/v1
//! kind: UpgradePlan
//! metadata:
//!   name: to-v1-20-2
//! spec:
//!   toVersion: v1.20.2
//!   policy:
//!     drainTimeoutSeconds: 600
//!     accepted: [api-outage]
//! ```

use std::path::Path;

use liftlock_proto::plan::Policy;
use liftlock_proto::version::KubernetesVersion;
use serde::Deserialize;

use crate::cli::error::CliError;
use crate::identity::files;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(default, rename = "metadata")]
    _metadata: Option<Metadata>,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
enum ApiVersion {
    #[serde(rename = "liftlock.dev/v1")]
    V1,
}

#[derive(Debug, Deserialize)]
enum Kind {
    UpgradePlan,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(rename = "name")]
    _name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    to_version: KubernetesVersion,
    #[serde(default)]
    policy: Policy,
}

/// Version and policy in a file; an error names line and column.
pub fn read(path: &Path) -> Result<(KubernetesVersion, Policy), CliError> {
    let text = files::read(path)?.ok_or_else(|| CliError::NoFile { path: path.to_owned() })?;
    parse(&text).map_err(|why| CliError::PlanFile { path: path.to_owned(), why })
}

fn parse(text: &str) -> Result<(KubernetesVersion, Policy), String> {
    let document: Document = serde_saphyr::from_str(text)
        .map_err(|error| error.to_string().trim_start_matches("error: ").to_owned())?;
    Ok((document.spec.to_version, document.spec.policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.20.2\n";

    #[test]
    fn a_plan_file_holds_a_version_and_a_policy() {
        let (version, policy) = parse(PLAN).unwrap();
        assert_eq!((version.to_string().as_str(), policy), ("v1.20.2", Policy::default()));
        let json = r#"{"apiVersion": "liftlock.dev/v1", "kind": "UpgradePlan", "metadata": {"name": "a"},
            "spec": {"toVersion": "v1.20.2", "policy": {"accepted": ["api-outage"], "deleteEmptyDirData": true}}}"#;
        let (_, policy) = parse(json).unwrap();
        assert!(policy.accepts("api-outage") && policy.delete_empty_dir_data);
        assert_eq!(policy.drain_timeout_seconds, 600);
    }

    #[test]
    fn an_unknown_field_is_an_error_with_line_and_column() {
        let why = parse(&format!("{PLAN}  policy:\n    drainTimeout: 5\n")).unwrap_err();
        assert!(why.contains("drainTimeout") && why.contains("line 6"), "{why}");
    }

    #[test]
    fn another_kind_another_version_and_no_yaml_are_errors() {
        for text in [
            PLAN.replace("UpgradePlan", "Pod"),
            PLAN.replace("liftlock.dev/v1", "liftlock.dev/v2"),
            PLAN.replace("v1.20.2", "v1.20"),
            PLAN.replace("  toVersion: v1.20.2", "  policy: {}"),
            "{".to_owned(),
            String::new(),
        ] {
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}
