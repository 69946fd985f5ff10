//! Cordons the node and evicts its pods, all at once, with the node's own credentials.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};
use futures::{StreamExt, stream};

use liftlock_proto::blocked::OnBlocked;

use super::api::patiently;
use super::controllers;
use super::kubeadm_join::traces;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepRunner};
use crate::host::{Eviction, HostError, HostResult, NodeState, PodState};

/// Evictions that are asked for side by side.
const SIDE_BY_SIDE: usize = 32;

/// A budget is asked again at the latest after this long, growing from the first to the second; sooner where a pod
/// has gone meanwhile.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often the runtime is asked what is left: CRI has no events before 1.25.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often the log is told what the drain still waits for.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// So many names are enough for a message.
const NAMES: usize = 10;

pub(super) struct Drain {
    pub(super) timeout: Duration,
    pub(super) delete_unmanaged_pods: bool,
    pub(super) delete_empty_dir_data: bool,
    pub(super) allow_only_schedulable_node: bool,
    pub(super) on_blocked: OnBlocked,
}

/// What a drain does with a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// A `DaemonSet`'s pod would come back at once, a mirror pod is only a picture of a static one.
    Left,
    /// Asked to go.
    Evicted,
    /// Not without the operator's word, for this reason.
    Refused(&'static str),
}

impl Drain {
    /// The rules are those of `kubectl drain`: a finished pod has nothing left to lose, and one that is going anyway
    /// needs nobody's word.
    fn fate(&self, pod: &PodState) -> Fate {
        if pod.mirror || pod.controller.as_deref() == Some("DaemonSet") {
            Fate::Left
        } else if pod.finished || pod.terminating {
            Fate::Evicted
        } else if pod.controller.is_none() && !self.delete_unmanaged_pods {
            Fate::Refused("no controller would start it again (allow with --delete-unmanaged-pods)")
        } else if pod.empty_dir && !self.delete_empty_dir_data {
            Fate::Refused("the data in its emptyDir would be lost (allow with --delete-empty-dir-data)")
        } else {
            Fate::Evicted
        }
    }

    /// The pods to evict, or why none is.
    fn select(&self, cx: &Context, pods: Vec<PodState>) -> Result<Vec<PodState>, StepFailure> {
        let mut evicted = Vec::new();
        let mut refused = Vec::new();
        for pod in pods {
            match self.fate(&pod) {
                Fate::Left => {}
                Fate::Evicted => evicted.push(pod),
                Fate::Refused(why) => refused.push(format!("{}: {why}", name(&pod))),
            }
        }
        if refused.is_empty() {
            return Ok(evicted);
        }
        Err(StepFailure::Refused(format!(
            "{} is not drained, and no pod was evicted, because of {}; move these pods and retry, or abort and apply the plan with that \
             policy",
            cx.node,
            some_of(&refused)
        )))
    }

    /// Where no other node takes pods, a drain is an outage of everything that runs here. From 1.32 on a worker's
    /// kubelet may not list Nodes (KEP-4601); there the coordinator's word has to do, who asked a control plane when
    /// it planned.
    async fn require_another_node(&self, cx: &Context) -> Result<(), StepFailure> {
        if self.allow_only_schedulable_node {
            return Ok(());
        }
        let nodes = match patiently(cx, || cx.host.kube.nodes()).await {
            Err(HostError::Api { transient: false, why, .. }) => {
                let line =
                    format!("this node may not look for others that take pods ({why}): drained as planned");
                cx.reporter.line(cx.step, &line);
                return Ok(());
            }
            nodes => nodes?,
        };
        let takes_pods = |node: &NodeState| {
            node.name != cx.node.as_str() && node.ready && !node.unschedulable && !node.tainted
        };
        if nodes.iter().any(takes_pods) {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "no other node is ready, schedulable and without taints, so the pods of {} would have nowhere to go: \
             consent with `--accept drain-only-node`, or make another node ready first",
            cx.node
        )))
    }

    async fn evict_all(&self, cx: &Context) -> Result<(), StepFailure> {
        let clock = &cx.host.clock;
        let mut wait = Waiting::new(clock.monotonic(), self.timeout);
        let mut may_force = self.on_blocked == OnBlocked::Force;
        loop {
            let mut present = self.select(cx, unfinished(cx, pods(cx).await?).await?)?;
            if present.is_empty() {
                return Ok(());
            }
            let mut uids: BTreeSet<String> = present.iter().map(|pod| pod.uid.clone()).collect();
            present.retain(|pod| !pod.terminating);
            let blocked = evict(cx, present).await?;
            let now = clock.monotonic();
            if now >= wait.deadline {
                if !std::mem::take(&mut may_force) || !blocked.iter().any(|blocked| blocked.refused) {
                    return Err(self.timed_out(cx, &uids, &blocked).await);
                }
                self.force(cx, &blocked).await?;
                // They may take as long to end as any others.
                wait = Waiting::new(clock.monotonic(), self.timeout);
                continue;
            }
            wait.say(cx, now, uids.len(), &blocked);
            let pause = if blocked.is_empty() { wait.remaining(now) } else { wait.pause(now) };
            for blocked in &blocked {
                uids.remove(&blocked.pod.uid);
            }
            one_ended(cx, &uids, pause).await?;
        }
    }

    /// Deletes the pods that budgets protect: the operator has consented to that beforehand.
    async fn force(&self, cx: &Context, blocked: &[Blocked]) -> Result<(), StepFailure> {
        let refused: Vec<&Blocked> = blocked.iter().filter(|blocked| blocked.refused).collect();
        let seen: Vec<String> = refused.iter().map(ToString::to_string).collect();
        let text = format!(
            "deletes {} pods of {} after {} s, as the plan says (onBlocked: force): {}",
            refused.len(),
            cx.node,
            self.timeout.as_secs(),
            seen.join("; ")
        );
        cx.reporter.remark(cx.step, &text);
        for blocked in refused {
            patiently(cx, || async { cx.host.kube.delete_pod(&cx.permit()?, &blocked.pod).await }).await?;
        }
        Ok(())
    }

    async fn timed_out(&self, cx: &Context, uids: &BTreeSet<String>, blocked: &[Blocked]) -> StepFailure {
        let left = cx.host.kube.pods().await.unwrap_or_default();
        let terminating = left
            .iter()
            .filter(|pod| {
                uids.contains(&pod.uid) && !blocked.iter().any(|blocked| blocked.pod.uid == pod.uid)
            })
            .map(|pod| format!("{} is still ending", name(pod)));
        let seen: Vec<String> = blocked.iter().map(Blocked::to_string).chain(terminating).collect();
        let refused = blocked.iter().any(|blocked| blocked.refused);
        let follows = if refused && self.on_blocked == OnBlocked::Skip {
            "the node is put back and passed over; mend what blocks them and retry it"
        } else {
            "the node stays cordoned; mend what blocks them and retry it"
        };
        let what = format!("the pods of {} to go ({follows})", cx.node);
        let error = HostError::Timeout { what, limit: self.timeout, seen: some_of(&seen) };
        if refused { StepFailure::Blocked(error) } else { error.into() }
    }
}

/// A pod that may not go yet, and why.
struct Blocked {
    pod: PodState,
    why: String,
    /// The API server says so, and is not merely away.
    refused: bool,
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", name(&self.pod), self.why)
    }
}

/// The pods that are not over on this node. One that is on its way out and has no sandbox left is: a kubelet may keep
/// its object for a minute more (1.20 does, until its next garbage collection of sandboxes).
async fn unfinished(cx: &Context, mut pods: Vec<PodState>) -> HostResult<Vec<PodState>> {
    if pods.iter().any(|pod| pod.terminating) {
        let present = patiently(cx, || cx.host.runtime.pods_with_sandboxes()).await?;
        pods.retain(|pod| !pod.terminating || present.contains(&pod.uid));
    }
    Ok(pods)
}

/// Waits until one of these pods, all on their way out, is over on this node: the API or the runtime says so.
async fn one_ended(cx: &Context, uids: &BTreeSet<String>, limit: Duration) -> HostResult<()> {
    let names: Vec<String> = uids.iter().cloned().collect();
    let by_the_api = cx.host.kube.wait_for_pods_gone(&names, limit);
    let by_the_runtime = async {
        loop {
            cx.host.clock.sleep(LOOK_EVERY).await;
            let present = patiently(cx, || cx.host.runtime.pods_with_sandboxes()).await?;
            if uids.iter().any(|uid| !present.contains(uid)) {
                return Ok(());
            }
        }
    };
    match select(pin!(by_the_api), pin!(by_the_runtime)).await {
        Either::Left((answer, _)) => answer.map(drop),
        Either::Right((answer, _)) => answer,
    }
}

/// Asks for the eviction of each pod; those that were refused for now.
async fn evict(cx: &Context, pods: Vec<PodState>) -> Result<Vec<Blocked>, StepFailure> {
    let mut answers = stream::iter(pods)
        .map(|pod| async move {
            let permit = cx.permit()?;
            match cx.host.kube.evict(&permit, &pod).await {
                Ok(Eviction::Accepted) => Ok(None),
                Ok(Eviction::Blocked { message }) => Ok(Some(Blocked { pod, why: message, refused: true })),
                // The API server may be restarting on another control plane: the time-out bounds this too.
                Err(error @ HostError::Api { transient: true, .. }) => {
                    Ok(Some(Blocked { pod, why: error.to_string(), refused: false }))
                }
                Err(error) => Err(StepFailure::from(error)),
            }
        })
        .buffer_unordered(SIDE_BY_SIDE);
    let mut blocked = Vec::new();
    while let Some(answer) = answers.next().await {
        blocked.extend(answer?);
    }
    blocked.sort_by_key(|blocked| name(&blocked.pod));
    Ok(blocked)
}

/// When the drain ends, when it asks again, and when it says what it waits for.
struct Waiting {
    deadline: Duration,
    next_pause: Duration,
    said: Option<(Duration, Vec<String>)>,
}

impl Waiting {
    fn new(now: Duration, timeout: Duration) -> Self {
        Self { deadline: now + timeout, next_pause: FIRST_PAUSE, said: None }
    }

    fn remaining(&self, now: Duration) -> Duration {
        self.deadline.saturating_sub(now)
    }

    fn pause(&mut self, now: Duration) -> Duration {
        let pause = self.next_pause.min(self.remaining(now));
        self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// One line where something new blocks, and now and then.
    fn say(&mut self, cx: &Context, now: Duration, left: usize, blocked: &[Blocked]) {
        let what: Vec<String> = blocked.iter().map(Blocked::to_string).collect();
        if let Some((at, said)) = &self.said
            && now < *at + SAY_EVERY
            && what.iter().all(|what| said.contains(what))
        {
            return;
        }
        let line = if what.is_empty() {
            format!("waiting for {left} pods to end")
        } else {
            format!("waiting for {left} pods; not allowed to go yet: {}", some_of(&what))
        };
        cx.reporter.line(cx.step, &line);
        self.said = Some((now, what));
    }
}

/// The pods bound to this node.
/// Whether this machine can have pods at all: a join of this plan that was cut off early, or never begun, has made no Node of it
/// yet, and is taken back all the same.
async fn is_a_node(cx: &Context) -> HostResult<bool> {
    if cx.host.files.exists(&cx.host.layout.kubelet_kubeconfig()).await? {
        return Ok(true);
    }
    let joining = cx.captured("kubeadm-join").is_some();
    Ok(!joining && traces(cx).await?)
}

async fn pods(cx: &Context) -> HostResult<Vec<PodState>> {
    patiently(cx, || cx.host.kube.pods()).await
}

fn name(pod: &PodState) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn some_of(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(String::as_str).collect();
    match names.len().saturating_sub(NAMES) {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

#[async_trait]
impl StepRunner for Drain {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        if !is_a_node(cx).await? {
            return Ok(Observed::Done);
        }
        let node = patiently(cx, || cx.host.kube.node()).await?;
        if !node.unschedulable {
            return Ok(Observed::Absent);
        }
        let pods = unfinished(cx, pods(cx).await?).await?;
        let empty = pods.iter().all(|pod| self.fate(pod) == Fate::Left);
        Ok(if empty { Observed::Done } else { Observed::Partial })
    }

    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        // The Node's annotation says whose its cordon is.
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        self.require_another_node(cx).await?;
        let mut going = self.select(cx, pods(cx).await?)?;
        going.retain(|pod| !pod.terminating);
        if !patiently(cx, || cx.host.kube.node()).await?.unschedulable {
            patiently(cx, || async { cx.host.kube.cordon(&cx.permit()?, &cx.plan).await }).await?;
        }
        if !going.is_empty() {
            controllers::wait_until_services_follow(cx, &going).await?;
        }
        cx.timed(TimeSpent::Wait, self.evict_all(cx)).await
    }

    /// The pods that went stay where they are now.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        if patiently(cx, || cx.host.kube.node()).await?.cordoned_by.is_some() {
            patiently(cx, || async { cx.host.kube.uncordon(&cx.permit()?).await }).await?;
        }
        Ok(())
    }
}
