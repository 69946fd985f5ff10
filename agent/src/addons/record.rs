//! What Liftlock has applied, in a `ConfigMap` of the cluster: every control plane knows it, and it goes where etcd goes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{LABEL, is_ours, uid};
use crate::engine::context::Context;
use crate::host::objects::{Applied, ObjectName, Objects, Resource};
use crate::host::{HostError, HostResult};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "liftlock-addons";
const KEY: &str = "applied.json";

/// What was applied last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The set's name: `v1.20`.
    pub set: String,
    /// The set's digest.
    pub digest: String,
    /// In which plan.
    pub plan: String,
    /// False from before the first object is applied until the last has become what it should.
    pub complete: bool,
    /// Everything that may be there because Liftlock applied it.
    pub objects: Vec<ObjectName>,
}

/// Whether an object is the record itself.
pub fn is_record(name: &ObjectName) -> bool {
    name.kind == "ConfigMap" && name.namespace == NAMESPACE && name.name == NAME
}

fn name() -> ObjectName {
    ObjectName {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
    }
}

impl Record {
    /// As it is in the cluster; `None` where nothing was applied yet.
    pub async fn read(objects: &dyn Objects) -> HostResult<Option<Self>> {
        let Some(map) = objects.object(&Resource::config_maps(), &name()).await? else {
            return Ok(None);
        };
        let json = map.pointer("/data").and_then(|data| data.get(KEY)).and_then(Value::as_str);
        let record = serde_json::from_str(json.unwrap_or_default());
        record.map(Some).map_err(|error| HostError::Malformed {
            what: format!("the ConfigMap {NAMESPACE}/{NAME}, where Liftlock keeps which add-ons it applied"),
            why: format!(
                "{error}; put it back, or delete it: then nothing that was applied before is ever deleted"
            ),
        })
    }

    /// Writes it down.
    pub async fn write(&self, cx: &Context) -> HostResult<()> {
        let (name, resource) = (name(), Resource::config_maps());
        let json = serde_json::to_string(self)
            .map_err(|error| HostError::Malformed { what: format!("the {name}"), why: error.to_string() })?;
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {LABEL: "true"}},
            "data": {KEY: json},
        });
        match cx.host.objects.apply(&cx.permit()?, &resource, &name, &map, true).await? {
            Applied::Is(_) => Ok(()),
            Applied::Refused { why, .. } => Err(HostError::Api {
                what: format!("cannot write the {name}"),
                endpoint: "the API server".to_owned(),
                why,
                transient: false,
            }),
        }
    }

    /// Takes it away.
    pub async fn remove(cx: &Context) -> HostResult<()> {
        let there = cx.host.objects.object(&Resource::config_maps(), &name()).await?;
        if let Some(map) = there.filter(is_ours) {
            cx.host.objects.delete(&cx.permit()?, &Resource::config_maps(), &name(), uid(&map)).await?;
        }
        Ok(())
    }

    /// These and what this has besides.
    pub fn and(&self, names: impl IntoIterator<Item = ObjectName>) -> Vec<ObjectName> {
        let mut all = self.objects.clone();
        for name in names {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }
}
