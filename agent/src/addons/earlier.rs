//! What was in the cluster before the first add-on of a plan was applied, in the node's backup folder: `addons.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::difference::asked_for;
use super::order;
use super::record::Record;
use super::set::Set;
use crate::backup::Backup;
use crate::engine::context::Context;
use crate::host::objects::ObjectName;
use crate::host::{HostError, HostResult};

const FILE: &str = "addons.json";

/// The cluster as it was before, as far as add-ons change it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    /// What had been applied.
    pub record: Option<Record>,
    /// Every object that is applied or may be deleted, in the order in which they are applied.
    pub objects: Vec<EarlierObject>,
}

/// An object as it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierObject {
    /// Which.
    pub name: ObjectName,
    /// What somebody had asked for; `None` where there was none.
    pub object: Option<Value>,
}

impl Earlier {
    /// What was written down; `None` where nothing was, because nothing was changed.
    pub async fn read(cx: &Context, backup: &Backup) -> HostResult<Option<Self>> {
        let path = backup.folder.path().join(FILE);
        let Some(json) = cx.host.files.read(&path).await? else { return Ok(None) };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| HostError::Malformed { what: path.into_string(), why: error.to_string() })
    }

    /// Looks at everything that a set changes, and writes it down before the first change.
    pub async fn keep(cx: &Context, backup: &Backup, set: &Set) -> HostResult<Self> {
        let record = Record::read(cx.host.objects.as_ref()).await?;
        let applied = record.iter().flat_map(|record| record.objects.clone());
        let mut names: Vec<ObjectName> = set.manifests.iter().map(|manifest| manifest.name.clone()).collect();
        for name in applied {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.sort_by_key(|name| order::rank(&name.kind));
        let mut objects = Vec::new();
        for name in names {
            let resource = cx.host.objects.resource(&name.api_version, &name.kind).await?;
            let object = match &resource {
                Some(resource) => cx.host.objects.object(resource, &name).await?.map(asked_for),
                None => None,
            };
            objects.push(EarlierObject { name, object });
        }
        let earlier = Self { record, objects };
        let path = backup.folder.path().join(FILE);
        let malformed = |error: serde_json::Error| HostError::Malformed {
            what: path.to_string(),
            why: error.to_string(),
        };
        let json = serde_json::to_vec(&earlier).map_err(malformed)?;
        cx.host.files.write(&cx.permit()?, &path, &json, 0o600).await?;
        Ok(earlier)
    }
}
