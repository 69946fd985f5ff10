//! What the add-ons of a path would change, asked of the control planes that will apply them.

use std::time::Duration;

use liftlock_proto::plan::Plan;
use liftlock_proto::v1;
use liftlock_proto::v1::asked::Kind as Asked;
use liftlock_proto::v1::reply::Kind;

use super::{Keeper, KeeperError};
use crate::core::addons::applied_by;
use crate::core::path::Path;
use crate::core::planning::Refusal;

/// How long one control plane may take to have everything dry-run.
const LIMIT: Duration = Duration::from_mins(2);

impl Keeper {
    /// What each stop's add-ons would change in the cluster as it is now. Changes nothing.
    pub async fn preview_addons(&self, path: &Path) -> Vec<v1::StopAddons> {
        let mut previews = Vec::new();
        for plan in path.plans() {
            previews.extend(self.preview_of(plan).await);
        }
        previews
    }

    async fn preview_of(&self, plan: &Plan) -> Option<v1::StopAddons> {
        let (node, version, digest) = applied_by(plan)?;
        let wanted = v1::PreviewAddons { version: version.to_string(), digest: digest.to_owned() };
        let asked = v1::Asked { kind: Some(Asked::PreviewAddons(wanted)) };
        let (changes, unknown) = match self.ask(&node.name, asked, LIMIT).await.map(|reply| reply.kind) {
            Ok(Some(Kind::Addons(preview))) => (preview.changes, String::new()),
            Ok(_) => {
                let other = KeeperError::Agent(format!(
                    "the agent on {} was asked what its add-ons change and answered something else: install the same \
                     version of Liftlock on both sides",
                    node.name
                ));
                (Vec::new(), other.to_string())
            }
            Err(error) => (Vec::new(), error.to_string()),
        };
        Some(v1::StopAddons {
            to_version: plan.to_version.to_string(),
            node: node.name.to_string(),
            digest: digest.to_owned(),
            changes,
            unknown,
        })
    }
}

/// Why a plan whose first stop has these add-ons is not made: the API server refuses them already now, so that the raise
/// would halt in its midst. Of a later stop nobody can say so: another version answers then.
pub fn refused(path: &Path, previews: &[v1::StopAddons]) -> Vec<Refusal> {
    let first = path.first.to_version.to_string();
    let of_first = previews.iter().filter(|stop| stop.to_version == first);
    let refusal = |stop: &v1::StopAddons, change: &v1::AddonChange| Refusal {
        rule: "addons-refused",
        message: format!(
            "{} of {}'s add-ons on {}: the API server does not take the {}: {}; correct the manifest on every control plane, or, \
             where others own what it changes, give it up there or set take-over = true in [addons] of agent.toml",
            change.file, stop.to_version, stop.node, change.object, change.message
        ),
        acceptable: false,
    };
    of_first
        .flat_map(|stop| {
            let refused = stop.changes.iter().filter(|one| one.kind() == v1::AddonChangeKind::Refused);
            refused.map(move |change| refusal(stop, change))
        })
        .collect()
}
