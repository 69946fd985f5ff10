//! The host is replaced as a whole: what it must keep is exported to its store, its own command replaces the system, and
//! the new one goes on with the lease once everything is back.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;

use super::etcd_quorum_gate::EtcdQuorumGate;
use super::kubelet;
use super::mark::Mark;
use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::facts::boot_id;
use crate::host::{Bounds, HostResult};
use crate::protect::repair;
use crate::redeploy::export;
use crate::redeploy::record::Record;
use crate::redeploy::replacement::Replacement;
use crate::redeploy::store::Export;

pub(super) struct Redeploy {
    pub(super) version: KubernetesVersion,
    /// As the plan shows it.
    pub(super) command: Vec<String>,
    pub(super) gate: EtcdQuorumGate,
}

/// The command's unit.
const UNIT: &str = "replace";

/// How long a container may take to end by itself: that of a pod (`terminationGracePeriodSeconds`).
const GRACE: Duration = Duration::from_secs(30);

/// What the new system has to bring.
const PROGRAMS: [&str; 2] = ["kubeadm", "kubelet"];

/// How long the old system may stay once its command has ended well: it may be about to restart.
const LEAVES_WITHIN: Duration = Duration::from_mins(10);

/// In the mark: under which lease the command is started, in which boot of the machine, and whether it has ended well.
const LEASE: &str = "lease";
const BOOT: &str = "boot";
const ENDED: &str = "ended";

#[async_trait]
impl StepRunner for Redeploy {
    /// Done in another system than the lease began on, with the version's programs.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        if !is_replaced(cx).await? {
            return Ok(Observed::Absent);
        }
        let wrong = self.wrong_programs(cx).await;
        if !wrong.is_empty() {
            cx.reporter
                .line(cx.step, &format!("the new system is not at {}: {}", self.version, wrong.join(", ")));
        }
        Ok(if wrong.is_empty() { Observed::Done } else { Observed::Partial })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        if is_replaced(cx).await? {
            return self.judge_programs(cx).await;
        }
        Backup::require(cx).await?;
        let ended = self.replace(cx).await;
        // The old system is still here: it goes on as a node.
        let resumed = resume(cx).await;
        ended.and(resumed)
    }

    /// A system that was replaced stays so. One that was not is a node again.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        if is_replaced(cx).await? {
            return Err(StepFailure::Refused(format!(
                "the system of {} was replaced as a whole, and nobody has the earlier one: go on with `liftlock retry {}`, \
                 or put the earlier system back by hand",
                cx.node, cx.node
            )));
        }
        self.settle(cx).await?;
        Mark::remove(cx).await?;
        resume(cx).await?;
        Ok(kubelet::wait_until_ready(cx, None).await?)
    }
}

impl Redeploy {
    /// How the node's own configuration says that it is replaced; what the plan shows has to be that.
    async fn replacement(&self, cx: &Context) -> Result<Replacement, StepFailure> {
        let refused = |why: String| {
            Err(StepFailure::Refused(format!(
                "{why}; nothing was replaced. Then `liftlock retry {}`",
                cx.node
            )))
        };
        let Some(replacement) = &cx.host.redeploy else {
            return refused(
                "the agent's configuration has no [redeploy] any more: write command and store into \
                 /etc/liftlock/agent.toml and restart liftlock-agent"
                    .to_owned(),
            );
        };
        if replacement.command != self.command {
            return refused(format!(
                "the agent's configuration says `{}`, and the plan was made with `{}`: put the configuration back and \
                 restart liftlock-agent, or abort and plan again",
                replacement.command.join(" "),
                self.command.join(" ")
            ));
        }
        match replacement.refusal(&cx.host).await? {
            Some(why) => refused(why),
            None => Ok(replacement.as_ref().clone()),
        }
    }

    /// Exports and replaces. Returns only where the system is still the one that it was.
    async fn replace(&self, cx: &Context) -> Result<(), StepFailure> {
        let replacement = self.replacement(cx).await?;
        let lease = (LEASE.to_owned(), cx.lease.token().to_string());
        let boot = (BOOT.to_owned(), boot_id(&cx.host).await?);
        let mut mark = Mark { version: self.version, seen: [lease, boot].into() };
        if !self.is_running(cx).await? {
            // Of the same lease: the agent was cut off. A command that was to start in this boot has not.
            let earlier =
                Mark::read(cx).await?.filter(|earlier| earlier.seen.get(LEASE) == mark.seen.get(LEASE));
            match earlier {
                Some(earlier) if earlier.seen.contains_key(ENDED) => {
                    return Err(self.still_here(cx, "it ended well"));
                }
                Some(earlier) if earlier.seen.get(BOOT) != mark.seen.get(BOOT) => {
                    return Err(self.still_here(cx, "its machine was started anew since"));
                }
                // What a command may have begun to take away is exported already.
                Some(_) if self.is_exported(cx, &replacement).await? => {}
                _ => {
                    self.stop(cx).await?;
                    // What is exported is what was sealed.
                    repair::restore(cx).await?;
                    let export = export::export(cx, &replacement).await?;
                    cx.reporter.line(cx.step, &format!("exported to {}", export.folder));
                    // Not in the export: in the new system nothing was started.
                    mark.write(cx).await?;
                }
            }
        }
        let (argv, bounds) = (replacement.argv(&cx.host.layout), Bounds::from(replacement.limits));
        let (permit, unit) = (cx.permit()?, cx.unit(UNIT));
        let child = cx.host.commands.run(&permit, &unit, &argv, &bounds, cx);
        cx.timed(TimeSpent::Child, child).await?;
        mark.seen.insert(ENDED.to_owned(), "well".to_owned());
        mark.write(cx).await?;
        cx.timed(TimeSpent::Wait, cx.host.clock.sleep(LEAVES_WITHIN)).await;
        Err(self.still_here(cx, "it ended well ten minutes ago"))
    }

    /// Whether this lease's export is whole and nothing has run since that could have written.
    async fn is_exported(&self, cx: &Context, replacement: &Replacement) -> HostResult<bool> {
        let export = Export::of(&replacement.store(&cx.host.layout), &cx.node, cx.lease.token());
        Ok(kubelet::state(cx).await?.active != "active" && export.is_whole(&cx.host).await?)
    }

    /// Nothing may write to what is exported: not the kubelet, and no container, etcd among them. etcd's other members
    /// are asked first, as long as this one runs.
    async fn stop(&self, cx: &Context) -> Result<(), StepFailure> {
        if kubelet::state(cx).await?.active == "active" {
            self.gate.wait(cx, Backup::find(cx).await?.as_ref()).await?;
            kubelet::stop(cx).await?;
        }
        Ok(cx.timed(TimeSpent::Wait, cx.host.runtime.stop_all(&cx.permit()?, GRACE)).await?)
    }

    fn still_here(&self, cx: &Context, since: &str) -> StepFailure {
        StepFailure::Refused(format!(
            "`{}` was started on {}, {since}, and the system is the one that it was: look at what the command did (the \
             export is whole and stays in the store), then `liftlock retry {}` exports anew and runs it again",
            self.command.join(" "),
            cx.node,
            cx.node
        ))
    }

    /// Whether the command runs, or has ended and nobody has taken its result yet.
    async fn is_running(&self, cx: &Context) -> HostResult<bool> {
        let unit = format!("{}.service", cx.unit(UNIT));
        let asked = cx.host.commands.unit_state(&unit);
        Ok(cx.timed(TimeSpent::Child, asked).await?.active != "inactive")
    }

    /// Waits for the end of a command that an agent which is gone left running; how it ended does not matter.
    async fn settle(&self, cx: &Context) -> Result<(), StepFailure> {
        if let Some(replacement) = &cx.host.redeploy
            && self.is_running(cx).await?
        {
            let (argv, bounds) = (replacement.argv(&cx.host.layout), Bounds::from(replacement.limits));
            let (permit, unit) = (cx.permit()?, cx.unit(UNIT));
            let child = cx.host.commands.run(&permit, &unit, &argv, &bounds, cx);
            match cx.timed(TimeSpent::Child, child).await {
                Err(error) if error.ended_badly() => {}
                ended => ended?,
            }
        }
        Ok(())
    }

    async fn wrong_programs(&self, cx: &Context) -> Vec<String> {
        let mut wrong = Vec::new();
        for program in PROGRAMS {
            match cx.timed(TimeSpent::Child, cx.host.packages.binary_version(program)).await {
                Ok(version) if version == self.version => {}
                Ok(version) => wrong.push(format!("{program} is {version}")),
                Err(error) => wrong.push(format!("{program}: {error}")),
            }
        }
        wrong
    }

    async fn judge_programs(&self, cx: &Context) -> Result<(), StepFailure> {
        let wrong = self.wrong_programs(cx).await;
        if wrong.is_empty() {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "the new system of {} does not bring {}: {}; install {} there by hand, then `liftlock retry {}`",
            cx.node,
            self.version,
            wrong.join(", "),
            PROGRAMS.join(", "),
            cx.node
        )))
    }
}

/// Starts the kubelet where it does not run, and it the containers.
async fn resume(cx: &Context) -> Result<(), StepFailure> {
    if kubelet::state(cx).await?.active == "active" {
        return Ok(());
    }
    kubelet::restart(cx).await
}

/// Whether this is another system than the one that the plan found.
async fn is_replaced(cx: &Context) -> HostResult<bool> {
    Ok(Record::read(&cx.host).await?.is_some_and(|record| record.plan == cx.plan))
}
