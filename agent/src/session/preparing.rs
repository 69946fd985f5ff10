//! Does what disturbs nothing, before any lease, and says how it went.

use std::sync::Arc;

use liftlock_proto::name::{FencingToken, PlanId};
use liftlock_proto::step::Step;
use liftlock_proto::v1::PrepareReport;

use crate::engine::context::{PrepareContext, Reporter};
use crate::session::duties::Workplace;
use crate::session::outbox::Outbox;
use crate::session::tasks::Task;
use crate::session::voice::Voice;

/// The preparation under way, if there is one.
#[derive(Default)]
pub(crate) struct Preparing(Option<UnderWay>);

struct UnderWay {
    plan: PlanId,
    work: Task<Result<(), String>>,
}

impl Preparing {
    /// Begins, unless the same is under way. Preparing for another plan ends: what it fetched stays and harms nobody.
    pub(crate) fn begin(&mut self, place: &Workplace, outbox: &Arc<Outbox>, plan: PlanId, steps: Vec<Step>) {
        match &self.0 {
            Some(same) if same.plan == plan => return,
            Some(other) => other.work.abort(),
            None => {}
        }
        tracing::info!(%plan, steps = steps.len(), "preparing");
        let reporter = Arc::new(Voice::new(Arc::clone(outbox), plan.clone(), FencingToken::default()));
        let work = prepare(place.clone(), plan.clone(), steps, reporter);
        let work = Task::start(place.tasks.as_ref(), work);
        self.0 = Some(UnderWay { plan, work });
    }

    /// Waits for the end of the preparation, for ever if there is none.
    pub(crate) async fn done(&mut self) -> PrepareReport {
        let Some(under_way) = &mut self.0 else {
            return std::future::pending().await;
        };
        let result = match (&mut under_way.work).await {
            Ok(result) => result,
            Err(error) => Err(format!("the agent failed while it prepared: {error}")),
        };
        let failure = result.err().unwrap_or_default();
        let plan_id = under_way.plan.to_string();
        tracing::info!(plan = plan_id, failure, "preparing has ended");
        self.0 = None;
        PrepareReport { plan_id, failure }
    }
}

async fn prepare(
    place: Workplace,
    plan: PlanId,
    steps: Vec<Step>,
    reporter: Arc<dyn Reporter>,
) -> Result<(), String> {
    for step in &steps {
        let preparation = (place.preparations)(step).ok_or_else(|| {
            format!("step {} needs a lease, and yet the plan prepares with it", step.name())
        })?;
        let cx = PrepareContext {
            host: place.host.clone(),
            node: place.node.clone(),
            plan: plan.clone(),
            step: step.name(),
            reporter: Arc::clone(&reporter),
        };
        preparation.run(&cx).await.map_err(|failure| format!("step {}: {failure}", step.name()))?;
    }
    Ok(())
}
