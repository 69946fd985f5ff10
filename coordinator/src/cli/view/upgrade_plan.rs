//! A roll-out as the document that wants it, with what became of it as its status.

use liftlock_proto::plan::{Plan, PlanError};
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::Paint;
use crate::cli::view::plan::PlanView;
use crate::cli::view::rollout::RolloutView;
use crate::core::conduct::Conduct;
use crate::document::UpgradePlan;
use crate::rpc::conduct::ConductError;

/// A document and its status: what `plan -f` and `apply -f` read again.
#[derive(Debug, Serialize)]
pub struct UpgradePlanView {
    /// What was wanted.
    #[serde(flatten)]
    pub document: UpgradePlan,
    /// What became of it.
    pub status: StatusView,
}

/// A roll-out with the plan that it carries out.
#[derive(Debug, Serialize)]
pub struct StatusView {
    /// What was applied.
    pub plan: PlanView,
    /// How far it is.
    pub rollout: RolloutView,
}

/// A roll-out that does not read as what somebody wanted.
#[derive(Debug, thiserror::Error)]
pub enum UnreadRollout {
    /// Its plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// How it is conducted.
    #[error(transparent)]
    Conduct(#[from] ConductError),
}

impl TryFrom<v1::Rollout> for UpgradePlanView {
    type Error = UnreadRollout;

    fn try_from(rollout: v1::Rollout) -> Result<Self, UnreadRollout> {
        let plan = Plan::try_from(rollout.plan.clone().unwrap_or_default())?;
        let document = wanted(&plan, &rollout)?;
        Ok(Self { document, status: StatusView { plan: plan.into(), rollout: rollout.into() } })
    }
}

/// The document that wants what this plan and the stops behind it lead to.
pub(crate) fn wanted(plan: &Plan, rollout: &v1::Rollout) -> Result<UpgradePlan, UnreadRollout> {
    let target = rollout.onward.last().map(|stop| stop.to_version.parse()).transpose();
    let target = target.map_err(PlanError::from)?;
    let conduct = Conduct::try_from(rollout.conduct.clone().unwrap_or_default())?;
    let document =
        UpgradePlan::new(target.unwrap_or(plan.to_version), plan.policy.clone()).conducted(conduct);
    Ok(document.named(rollout.document.clone()))
}

impl View for UpgradePlanView {
    fn table(&self, paint: Paint) -> String {
        format!("{}\n{}", self.status.rollout.table(paint), self.status.plan.table(paint))
    }
}
