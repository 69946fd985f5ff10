//! Objects of any kind: found by discovery, applied server-side (beta and on since Kubernetes 1.16, stable since 1.22:
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>).

use async_trait::async_trait;
use http::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::access::{Refusal, in_words};
use super::{RealKube, get, with_body};
use crate::engine::lease::Permit;
use crate::host::HostResult;
use crate::host::objects::{Applied, FIELD_MANAGER, ObjectName, Objects, Resource};

/// What a group's version serves.
#[derive(Deserialize)]
struct Served {
    resources: Vec<ServedResource>,
}

#[derive(Deserialize)]
struct ServedResource {
    /// `deployments`, or of a subresource `deployments/scale`.
    name: String,
    namespaced: bool,
    kind: String,
}

#[async_trait]
impl Objects for RealKube {
    async fn resource(&self, api_version: &str, kind: &str) -> HostResult<Option<Resource>> {
        // The core's group has no name.
        let group = if api_version.contains('/') {
            format!("/apis/{api_version}")
        } else {
            format!("/api/{api_version}")
        };
        let served = match self.admin.try_json::<Served>(&get(&group)?).await {
            Ok(served) => served.resources,
            Err(Refusal::Status(status)) if status.code == 404 => return Ok(None),
            Err(refusal) => {
                return Err(self.admin.error(&format!("cannot ask what {api_version} serves"), &refusal));
            }
        };
        let found = served.into_iter().find(|one| one.kind == kind && !one.name.contains('/'));
        Ok(found.map(|one| Resource { group, plural: one.name, namespaced: one.namespaced }))
    }

    async fn object(&self, resource: &Resource, name: &ObjectName) -> HostResult<Option<Value>> {
        match self.admin.try_json(&get(&resource.path(name))?).await {
            Ok(object) => Ok(Some(object)),
            Err(Refusal::Status(status)) if status.code == 404 => Ok(None),
            Err(refusal) => Err(self.admin.error(&format!("cannot read the {name}"), &refusal)),
        }
    }

    async fn try_apply(
        &self,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        take_over: bool,
    ) -> HostResult<Applied> {
        self.patch_object(resource, name, object, &format!("force={take_over}&dryRun=All")).await
    }

    async fn apply(
        &self,
        _: &Permit,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        take_over: bool,
    ) -> HostResult<Applied> {
        self.patch_object(resource, name, object, &format!("force={take_over}")).await
    }

    async fn delete(&self, _: &Permit, resource: &Resource, name: &ObjectName, uid: &str) -> HostResult<()> {
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            // One of the same name that came later is not the one that was meant.
            "preconditions": {"uid": uid},
        });
        let request = with_body(Method::DELETE, &resource.path(name), "application/json", &options)?;
        match self.admin.try_json::<IgnoredAny>(&request).await {
            Ok(_) => Ok(()),
            Err(Refusal::Status(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(refusal) => Err(self.admin.error(&format!("cannot delete the {name}"), &refusal)),
        }
    }
}

impl RealKube {
    async fn patch_object(
        &self,
        resource: &Resource,
        name: &ObjectName,
        object: &Value,
        how: &str,
    ) -> HostResult<Applied> {
        let path = format!("{}?fieldManager={FIELD_MANAGER}&{how}", resource.path(name));
        let request = with_body(Method::PATCH, &path, "application/apply-patch+yaml", object)?;
        match self.admin.try_json(&request).await {
            Ok(object) => Ok(Applied::Is(object)),
            // 429: too many requests. Anything else of these says something of the object.
            Err(Refusal::Status(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                Ok(Applied::Refused { code: status.code, why: in_words(&status) })
            }
            Err(refusal) => Err(self.admin.error(&format!("cannot apply the {name}"), &refusal)),
        }
    }
}
