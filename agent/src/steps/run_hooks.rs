//! Calls the hooks of this node's own configuration that the plan names, one after the other.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::argv::{self, Argv};
use liftlock_proto::hooks::{NodeHook, NodeMoment};
use liftlock_proto::version::KubernetesVersion;

use super::mark::Mark;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::{Bounds, HostError, Limits};

/// In the mark, of a hook that has ended well.
const WELL: &str = "well";

/// What the machine does not tell: that a hook has ended well is in the step's mark, for this plan. One that was cut off before that
/// is called again.
pub(super) struct RunHooks {
    pub(super) moment: NodeMoment,
    pub(super) hooks: Vec<NodeHook>,
    pub(super) from_version: KubernetesVersion,
    pub(super) version: KubernetesVersion,
}

#[async_trait]
impl StepRunner for RunHooks {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let mark = self.mark(cx).await?;
        let ended = self.hooks.iter().filter(|hook| mark.seen.contains_key(&hook.name)).count();
        Ok(match ended {
            ended if ended == self.hooks.len() => Observed::Done,
            0 => Observed::Absent,
            _ => Observed::Partial,
        })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let mut mark = self.mark(cx).await?;
        let left: Vec<&NodeHook> =
            self.hooks.iter().filter(|hook| !mark.seen.contains_key(&hook.name)).collect();
        for hook in left {
            self.call(cx, hook).await?;
            mark.seen.insert(hook.name.clone(), WELL.to_owned());
            mark.write(cx).await?;
        }
        Ok(())
    }

    /// What a hook did is for a hook to undo. Where the node is raised once more, it is called again.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        Ok(Mark::remove(cx).await?)
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 3, pause: Duration::from_secs(10) }
    }
}

impl RunHooks {
    async fn mark(&self, cx: &Context) -> Result<Mark, StepFailure> {
        let mark = Mark::read(cx).await?.filter(|mark| mark.version == self.version);
        Ok(mark.unwrap_or_else(|| Mark { version: self.version, seen: [].into() }))
    }

    async fn call(&self, cx: &Context, hook: &NodeHook) -> Result<(), StepFailure> {
        let refused = |why: String| {
            StepFailure::Refused(format!("the hook {}: {why}; then `liftlock retry {}`", hook.name, cx.node))
        };
        let hooks = &cx.host.hooks;
        let command = hooks.argv(&hook.name, &cx.host).ok_or_else(|| {
            refused(format!(
                "this node's configuration does not have it any more: write [hooks.{}] into /etc/liftlock/agent.toml and restart \
                 liftlock-agent",
                hook.name
            ))
        })?;
        if let Some(why) = hooks.refusal(&command, &cx.host).await? {
            return Err(refused(why));
        }
        let time = Duration::from_secs(hook.timeout_seconds.into());
        let bounds = Bounds::from(Limits { time, silence: time });
        let argv = argv::hook(&self.variables(cx, hook), &command);
        let (permit, unit) = (cx.permit()?, cx.unit(&hook.name));
        let child = cx.host.commands.run(&permit, &unit, &argv, &bounds, cx);
        Ok(cx.timed(TimeSpent::Child, child).await.map_err(|error| in_its_own_words(error, &command))?)
    }

    fn variables(&self, cx: &Context, hook: &NodeHook) -> [(&'static str, String); 6] {
        [
            ("LIFTLOCK_HOOK", hook.name.clone()),
            ("LIFTLOCK_MOMENT", self.moment.name().to_owned()),
            ("LIFTLOCK_PLAN", cx.plan.to_string()),
            ("LIFTLOCK_NODE", cx.node.to_string()),
            ("LIFTLOCK_FROM_VERSION", self.from_version.to_string()),
            ("LIFTLOCK_TO_VERSION", self.version.to_string()),
        ]
    }
}

/// An error that names the command as the configuration does.
fn in_its_own_words(mut error: HostError, command: &Argv) -> HostError {
    if let HostError::Command { argv, .. }
    | HostError::CommandKilled { argv, .. }
    | HostError::CommandLimit { argv, .. } = &mut error
    {
        argv.clone_from(command);
    }
    error
}
