//! What applying a set would change, by the API server's own word.

use liftlock_proto::v1::{AddonChange, AddonChangeKind, AddonPreview};
use liftlock_proto::version::KubernetesVersion;

use super::difference::{asked_for, fields};
use super::manifest::Manifest;
use super::record::Record;
use super::set::Set;
use super::{is_left, is_ours, uid};
use crate::host::objects::{Applied, ObjectName, Resource};
use crate::host::{Host, HostResult};

/// So many fields of an object are named.
const FIELDS: usize = 6;
/// Characters of a field's path, and of an API server's words: everything goes into one message.
const LONGEST_FIELD: usize = 120;
const LONGEST_MESSAGE: usize = 600;

/// What applying the set for a version would change, or why it is not applied at all. Changes nothing.
pub async fn preview(
    host: &Host,
    version: KubernetesVersion,
    digest: &str,
) -> HostResult<Result<AddonPreview, String>> {
    let set = match Set::of_version(host, version).await? {
        Some(Ok(set)) if set.digest == digest => set,
        Some(Ok(set)) => return Ok(Err(changed_since(&set, digest))),
        Some(Err(why)) => return Ok(Err(why)),
        None => return Ok(Err(format!("there are no add-ons for {version} any more"))),
    };
    let mut changes = Vec::new();
    let mut applied = Vec::new();
    for manifest in &set.manifests {
        let (change, uid) = of_one(host, &set, manifest, version).await?;
        applied.extend(uid);
        changes.push(change);
    }
    let record = Record::read(host.objects.as_ref()).await?;
    for name in record.iter().flat_map(|record| &record.objects) {
        changes.extend(of_pruned(host, &set, name, &applied).await?);
    }
    Ok(Ok(AddonPreview { changes }))
}

/// The set is not the one that the plan was made with.
pub fn changed_since(set: &Set, digest: &str) -> String {
    format!(
        "the add-ons in {} have the digest {}, and the plan was made with {digest}: put them back, or plan again",
        set.name, set.digest
    )
}

/// What becomes of an object, and its uid where it is there.
async fn of_one(
    host: &Host,
    set: &Set,
    manifest: &Manifest,
    version: KubernetesVersion,
) -> HostResult<(AddonChange, Option<String>)> {
    let Manifest { file, name, object } = manifest;
    let told = |kind: AddonChangeKind, message: String| AddonChange {
        kind: kind.into(),
        object: name.to_string(),
        file: file.clone(),
        message: cut(message, LONGEST_MESSAGE),
        ..AddonChange::default()
    };
    let Some(resource) = host.objects.resource(&name.api_version, &name.kind).await? else {
        return Ok((
            if set.defines(&name.api_version, &name.kind) {
                told(AddonChangeKind::Created, "with the definition of its kind".to_owned())
            } else {
                told(
                    AddonChangeKind::Unknown,
                    format!(
                        "no API server serves {} of {} now; that of {version} has to",
                        name.kind, name.api_version
                    ),
                )
            },
            None,
        ));
    };
    let live = host.objects.object(&resource, name).await?;
    let change = match host.objects.try_apply(&resource, name, object, host.addons.take_over).await? {
        Applied::Is(wanted) => match &live {
            None => told(AddonChangeKind::Created, String::new()),
            Some(live) => {
                let fields = fields(&asked_for(live.clone()), &asked_for(wanted));
                let kind =
                    if fields.is_empty() { AddonChangeKind::Unchanged } else { AddonChangeKind::Changed };
                let more = fields.len().saturating_sub(FIELDS);
                AddonChange {
                    fields: fields.into_iter().take(FIELDS).map(|field| cut(field, LONGEST_FIELD)).collect(),
                    more_fields: u32::try_from(more).unwrap_or(u32::MAX),
                    ..told(kind, String::new())
                }
            }
        },
        Applied::Refused { code: 404, .. } if in_new_namespace(set, &resource, name) => {
            told(AddonChangeKind::Created, "with its namespace".to_owned())
        }
        Applied::Refused { code: 400, why } if why.contains("dry run") => told(AddonChangeKind::Unknown, why),
        Applied::Refused { why, .. } => told(AddonChangeKind::Refused, why),
    };
    Ok((change, live.map(|live| uid(&live).to_owned())))
}

fn in_new_namespace(set: &Set, resource: &Resource, name: &ObjectName) -> bool {
    resource.namespace_of(name).is_some_and(|namespace| set.makes_namespace(namespace))
}

/// What becomes of an object that was applied before; `None` where it is among the manifests, whatever it is called
/// there, or there is nothing that would be deleted.
async fn of_pruned(
    host: &Host,
    set: &Set,
    name: &ObjectName,
    applied: &[String],
) -> HostResult<Option<AddonChange>> {
    if set.manifests.iter().any(|manifest| manifest.name == *name) {
        return Ok(None);
    }
    let Some(resource) = host.objects.resource(&name.api_version, &name.kind).await? else { return Ok(None) };
    let live = host.objects.object(&resource, name).await?;
    let goes = live.is_some_and(|live| is_ours(&live) && !applied.iter().any(|one| one == uid(&live)));
    let kind = if is_left(&name.kind) { AddonChangeKind::Left } else { AddonChangeKind::Pruned };
    let change = AddonChange { kind: kind.into(), object: name.to_string(), ..AddonChange::default() };
    Ok(goes.then_some(change))
}

fn cut(text: String, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
