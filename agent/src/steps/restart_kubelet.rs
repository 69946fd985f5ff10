//! systemd reads its units anew and restarts the kubelet.

use std::collections::BTreeMap;

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::kubelet;
use super::mark::Mark;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::UnitState;

pub(super) struct RestartKubelet {
    pub(super) version: KubernetesVersion,
}

/// A process's start tells it from every other; after a reboot, or a restart by somebody else, the step runs again.
fn process(state: &UnitState) -> BTreeMap<String, String> {
    [
        ("main-pid".to_owned(), state.main_pid.to_string()),
        ("started-monotonic-us".to_owned(), state.started_monotonic_us.to_string()),
    ]
    .into()
}

#[async_trait]
impl StepRunner for RestartKubelet {
    /// Done while the process runs that was started after the version's installation.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let state = kubelet::state(cx).await?;
        let mark = Mark::read(cx).await?;
        let restarted = mark.is_some_and(|mark| mark.version == self.version && mark.seen == process(&state));
        Ok(if restarted && state.active == "active" { Observed::Done } else { Observed::Absent })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let asked = cx.host.packages.binary_version("kubelet");
        let installed = cx.timed(TimeSpent::Child, asked).await?;
        if installed != self.version {
            return Err(StepFailure::Refused(format!(
                "the kubelet on {} is {installed} and not {}: it is not restarted before the step install-kubelet is \
                 done",
                cx.node, self.version
            )));
        }
        kubelet::restart(cx).await?;
        let seen = process(&kubelet::state(cx).await?);
        Mark { version: self.version, seen }.write(cx).await?;
        Ok(())
    }

    /// Only the mark: the kubelet is restarted once the earlier one is installed again, by the undo of that step.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(Mark::remove(cx).await?)
    }

    /// A systemctl that was killed is run again; a kubelet that does not come up is a matter of the next step.
    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 3, ..StepPolicy::default() }
    }
}
