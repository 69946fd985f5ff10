//! What sets a document apart from what runs.

use liftlock_proto::plan::Plan;
use liftlock_proto::v1;
use liftlock_proto::version::KubernetesVersion;
use serde::Serialize;
use serde_json::Value;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::view::nodes::NodeView;
use crate::cli::view::upgrade_plan::{UnreadRollout, wanted};
use crate::document::{Difference, Spec, differences};

/// Every difference; of a document that wants what runs there is none.
#[derive(Debug, Serialize)]
pub struct DiffView {
    /// The plan of the roll-out that goes on, with which the document was compared; null where none does, and it was
    /// compared with the nodes.
    pub rollout: Option<String>,
    /// In the order of fields, then of nodes.
    pub differences: Vec<DifferenceView>,
}

/// A field in which the document says something else.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct DifferenceView {
    /// `spec.policy.onFailure`
    pub field: String,
    /// What the document says.
    pub document: Value,
    /// What runs; null where nobody knows.
    pub runs: Value,
    /// The node where it runs; null where it is the roll-out's.
    pub node: Option<String>,
    /// `kubelet` or `control-plane` of that node; null where it is the roll-out's.
    pub component: Option<&'static str>,
}

/// Why a document could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The coordinator's answer does not read.
    #[error(transparent)]
    Rollout(#[from] UnreadRollout),
    /// A document has no textual form.
    #[error(transparent)]
    Form(#[from] serde_json::Error),
}

impl DiffView {
    /// The document beside a roll-out that goes on: beside what that wants.
    pub fn beside_rollout(spec: &Spec, rollout: &v1::Rollout) -> Result<Self, DiffError> {
        let plan = Plan::try_from(rollout.plan.clone().unwrap_or_default()).map_err(UnreadRollout::from)?;
        let other = wanted(&plan, rollout)?;
        let view = |Difference { field, one, other }| DifferenceView {
            field,
            document: one,
            runs: other,
            node: None,
            component: None,
        };
        let differences = differences(spec, &other.spec)?.into_iter().map(view).collect();
        Ok(Self { rollout: Some(plan.id.into()), differences })
    }

    /// The document beside the versions of a cluster where no roll-out goes on: of a policy nothing is left to differ from.
    pub fn beside_nodes(target: KubernetesVersion, nodes: &[NodeView]) -> Self {
        let target = target.to_string();
        let difference = |node: &NodeView, component, version: &Option<String>| {
            (version.as_ref() != Some(&target)).then(|| DifferenceView {
                field: "spec.toVersion".to_owned(),
                document: target.clone().into(),
                runs: version.clone().into(),
                node: Some(node.name.clone()),
                component: Some(component),
            })
        };
        let of_node = |node: &NodeView| {
            let control_plane = || difference(node, "control-plane", &node.control_plane_version);
            let api = if node.role == "control-plane" { control_plane() } else { None };
            [difference(node, "kubelet", &node.kubelet_version), api]
        };
        Self { rollout: None, differences: nodes.iter().flat_map(of_node).flatten().collect() }
    }
}

impl View for DiffView {
    fn table(&self, paint: Paint) -> String {
        if self.differences.is_empty() {
            return match &self.rollout {
                Some(plan) => format!("The roll-out of plan {plan} wants what the document wants.\n"),
                None => "Every node runs what the document wants.\n".to_owned(),
            };
        }
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let mut table = Table::new(&["FIELD", "DOCUMENT", "RUNS", "WHERE"]);
        for difference in &self.differences {
            let place = match (&difference.node, difference.component) {
                (Some(node), Some(component)) => format!("{node}, {component}"),
                _ => format!("roll-out of {}", self.rollout.as_deref().unwrap_or_default()),
            };
            table.row(vec![
                Cell::plain(&difference.field),
                Cell::new(Tone::Good, text(&difference.document)),
                Cell::new(Tone::Notice, text(&difference.runs)),
                Cell::plain(place),
            ]);
        }
        table.render(paint)
    }
}
