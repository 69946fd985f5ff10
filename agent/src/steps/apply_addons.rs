//! The add-ons of the new version: manifests that lie on this node are applied, and what Liftlock applied before and is no
//! longer among them is deleted.

use std::time::Duration;

use async_trait::async_trait;
use liftlock_proto::version::KubernetesVersion;
use serde_json::Value;

use super::api::{ASK_EVERY, patiently};
use crate::addons::difference::asked_for;
use crate::addons::earlier::Earlier;
use crate::addons::manifest::Manifest;
use crate::addons::preview::changed_since;
use crate::addons::record::Record;
use crate::addons::set::Set;
use crate::addons::{crd, is_left, is_ours, order, rollout, uid};
use crate::backup::Backup;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::HostResult;
use crate::host::objects::{Applied, ObjectName, Resource};

pub(super) struct ApplyAddons {
    pub(super) version: KubernetesVersion,
    /// As the plan shows it.
    pub(super) digest: String,
}

/// How long one workload may take to become what its manifest asks for: images may have to be pulled.
const ROLLOUT: Duration = Duration::from_mins(5);
/// How long an API server may take to serve a kind that was defined.
const DEFINED: Duration = Duration::from_mins(1);

#[async_trait]
impl StepRunner for ApplyAddons {
    /// Done once this plan has written down that all of it is, and as long as every object is there.
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let read = patiently(cx, || Record::read(cx.host.objects.as_ref())).await?;
        let Some(record) = read.filter(|record| record.plan == cx.plan.as_str()) else {
            return Ok(Observed::Absent);
        };
        if !record.complete || record.digest != self.digest {
            return Ok(Observed::Partial);
        }
        for name in &record.objects {
            if patiently(cx, || live(cx, name)).await?.is_none() {
                return Ok(Observed::Partial);
            }
        }
        Ok(Observed::Done)
    }

    /// What was there before is in the backup: it may be large, and a retry under another lease finds it.
    async fn capture(&self, _: &Context) -> Result<PreState, StepFailure> {
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let backup = Backup::require(cx).await?;
        let set = self.set(cx).await?;
        let earlier = match Earlier::read(cx, &backup).await? {
            Some(earlier) => earlier,
            None => patiently(cx, || Earlier::keep(cx, &backup, &set)).await?,
        };
        let mut record = self.begin(cx, &set).await?;
        let mut applied = Vec::new();
        for manifest in &set.manifests {
            applied.push(apply(cx, &set, manifest).await?);
        }
        for manifest in &set.manifests {
            wait_for(cx, &manifest.name).await?;
        }
        let known = record.and(earlier.record.into_iter().flat_map(|record| record.objects));
        prune(cx, &set, known, &applied).await?;
        record.objects = set.manifests.into_iter().map(|manifest| manifest.name).collect();
        record.complete = true;
        write(cx, &record).await
    }

    /// What was there before is there again, and nothing else that Liftlock applied.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let Some(backup) = Backup::find(cx).await? else { return Ok(()) };
        let Some(earlier) = Earlier::read(cx, &backup).await? else { return Ok(()) };
        for one in &earlier.objects {
            if let Some(object) = &one.object {
                put_back(cx, &one.name, object).await?;
            }
        }
        for one in earlier.objects.iter().rev().filter(|one| one.object.is_none()) {
            delete(cx, &one.name, &[]).await?;
        }
        match earlier.record {
            Some(record) => write(cx, &record).await,
            None => Ok(patiently(cx, || Record::remove(cx)).await?),
        }
    }

    /// A workload may need longer than one wait for it.
    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 2, ..StepPolicy::default() }
    }
}

impl ApplyAddons {
    /// What the plan was made with, and nothing else.
    async fn set(&self, cx: &Context) -> Result<Set, StepFailure> {
        let why = match Set::of_version(&cx.host, self.version).await? {
            Some(Ok(set)) if set.digest == self.digest => return Ok(set),
            Some(Ok(set)) => changed_since(&set, &self.digest),
            Some(Err(why)) => why,
            None => format!(
                "there are no add-ons for {} in {}, and the plan was made with some: put them back, or plan again",
                self.version, cx.host.addons.directory
            ),
        };
        Err(StepFailure::Refused(format!("{why}; nothing was applied. Then `liftlock retry {}`", cx.node)))
    }

    /// Writes down what may be there from now on, before it is.
    async fn begin(&self, cx: &Context, set: &Set) -> Result<Record, StepFailure> {
        let names = set.manifests.iter().map(|manifest| manifest.name.clone());
        let present = patiently(cx, || Record::read(cx.host.objects.as_ref())).await?;
        let record = Record {
            set: set.name.clone(),
            digest: self.digest.clone(),
            plan: cx.plan.to_string(),
            complete: false,
            objects: present.map_or_else(|| names.clone().collect(), |record| record.and(names.clone())),
        };
        write(cx, &record).await?;
        Ok(record)
    }
}

async fn write(cx: &Context, record: &Record) -> Result<(), StepFailure> {
    Ok(patiently(cx, || record.write(cx)).await?)
}

/// Where a kind is served; `None` where it is not.
async fn resource(cx: &Context, name: &ObjectName) -> HostResult<Option<Resource>> {
    patiently(cx, || cx.host.objects.resource(&name.api_version, &name.kind)).await
}

async fn live(cx: &Context, name: &ObjectName) -> HostResult<Option<Value>> {
    match cx.host.objects.resource(&name.api_version, &name.kind).await? {
        Some(resource) => cx.host.objects.object(&resource, name).await,
        None => Ok(None),
    }
}

/// Applies one object; its uid.
async fn apply(cx: &Context, set: &Set, manifest: &Manifest) -> Result<String, StepFailure> {
    let Manifest { file, name, object } = manifest;
    let defined = set.defines(&name.api_version, &name.kind);
    let deadline = cx.host.clock.monotonic() + DEFINED;
    let resource = loop {
        match resource(cx, name).await? {
            Some(resource) => break resource,
            None if defined && cx.host.clock.monotonic() < deadline => cx.host.clock.sleep(ASK_EVERY).await,
            None => {
                return Err(StepFailure::Refused(format!(
                    "{file}: the API server serves no {} of {}: correct the apiVersion, or take it out, and plan again",
                    name.kind, name.api_version
                )));
            }
        }
    };
    match send(cx, &resource, name, object, cx.host.addons.take_over).await? {
        Applied::Is(applied) => {
            if crd::is_definition(&applied) {
                wait_for(cx, name).await?;
            }
            Ok(uid(&applied).to_owned())
        }
        Applied::Refused { code, why } => Err(StepFailure::Refused(refusal(cx, file, name, code, &why))),
    }
}

/// Why an object was not applied, and what to do.
fn refusal(cx: &Context, file: &str, name: &ObjectName, code: u16, why: &str) -> String {
    let what_to_do = if code == 409 {
        "give those fields up there, or let Liftlock take them over (take-over = true in [addons] of agent.toml on every \
         control plane), and plan again"
            .to_owned()
    } else {
        format!("mend what it says and `liftlock retry {}`, or correct the manifest and plan again", cx.node)
    };
    format!("{file}: the API server does not take the {name}: {why}; {what_to_do}")
}

async fn send(
    cx: &Context,
    resource: &Resource,
    name: &ObjectName,
    object: &Value,
    take_over: bool,
) -> Result<Applied, StepFailure> {
    patiently(cx, || async {
        let permit = cx.permit()?;
        cx.host.objects.apply(&permit, resource, name, object, take_over).await
    })
    .await
    .map_err(StepFailure::from)
}

/// Waits until an object is what its manifest asks for: a workload rolled out, a definition served.
async fn wait_for(cx: &Context, name: &ObjectName) -> Result<(), StepFailure> {
    let started = cx.host.clock.monotonic();
    let waiting = async {
        loop {
            let object = patiently(cx, || live(cx, name)).await?.unwrap_or_default();
            let served = !crd::is_definition(&object) || crd::is_established(&object);
            let missing = match rollout::missing(&object) {
                None if served => return Ok(()),
                None => "the API server does not serve it yet".to_owned(),
                Some(missing) => missing,
            };
            if cx.host.clock.monotonic() >= started + ROLLOUT {
                return Err(StepFailure::Unproven(format!(
                    "the {name} is applied and did not become what its manifest asks for within {} min: {missing}; look \
                     at its pods, then `liftlock retry {}`",
                    ROLLOUT.as_secs() / 60,
                    cx.node
                )));
            }
            cx.host.clock.sleep(ASK_EVERY).await;
        }
    };
    cx.timed(TimeSpent::Wait, waiting).await
}

/// Deletes what was applied before and is not among what was applied now, by whatever name it goes there.
async fn prune(
    cx: &Context,
    set: &Set,
    mut known: Vec<ObjectName>,
    applied: &[String],
) -> Result<(), StepFailure> {
    known.sort_by_key(|name| std::cmp::Reverse(order::rank(&name.kind)));
    for name in known {
        if set.manifests.iter().all(|manifest| manifest.name != name) {
            delete(cx, &name, applied).await?;
        }
    }
    Ok(())
}

/// Deletes an object that Liftlock applied, unless it is one of `but` (by uid) or of a kind that takes others' with it.
async fn delete(cx: &Context, name: &ObjectName, but: &[String]) -> Result<(), StepFailure> {
    let Some(resource) = resource(cx, name).await? else { return Ok(()) };
    let found = patiently(cx, || cx.host.objects.object(&resource, name)).await?;
    let Some(object) = found.filter(|object| is_ours(object) && !but.iter().any(|one| one == uid(object)))
    else {
        return Ok(());
    };
    if is_left(&name.kind) {
        let line =
            format!("{name} is left: what is in it is not Liftlock's; delete it by hand if nobody needs it");
        cx.reporter.line(cx.step, &line);
        return Ok(());
    }
    let deleting = patiently(cx, || async {
        let permit = cx.permit()?;
        cx.host.objects.delete(&permit, &resource, name, uid(&object)).await
    });
    deleting.await?;
    cx.reporter.line(cx.step, &format!("{name} deleted"));
    Ok(())
}

/// Brings an object back to what it was.
async fn put_back(cx: &Context, name: &ObjectName, object: &Value) -> Result<(), StepFailure> {
    let Some(resource) = resource(cx, name).await? else { return Ok(()) };
    let now = patiently(cx, || cx.host.objects.object(&resource, name)).await?;
    if now.map(asked_for).as_ref() == Some(object) {
        return Ok(());
    }
    match send(cx, &resource, name, object, true).await? {
        Applied::Is(_) => Ok(()),
        Applied::Refused { why, .. } => Err(StepFailure::Unproven(format!(
            "the {name} is not put back to what it was: {why}; apply it by hand as it stands in addons.json of this node's \
             backup, then `liftlock rollback --node {}`",
            cx.node
        ))),
    }
}
