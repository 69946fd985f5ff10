//! What the machine looked like right after a step's child had ended well.
//!
//! Of some effects the machine does not tell whether they are finished: `kubeadm upgrade` goes on with add-ons after
//! the last container has changed, and leaves no trace of its end. So the step writes down, durably and after
//! the child's end, what it saw then. While the machine still looks like that, the step is done; a crash before the
//! mark only means that the step runs once more.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use liftlock_proto::version::KubernetesVersion;
use serde::{Deserialize, Serialize};

use crate::engine::context::Context;
use crate::host::{HostError, HostResult};

/// A step's child ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// The step's target.
    pub(super) version: KubernetesVersion,
    /// What must still be so for the mark to count.
    pub(super) seen: BTreeMap<String, String>,
}

impl Mark {
    /// This step's mark in this plan; one that does not read is none.
    pub(super) async fn read(cx: &Context) -> HostResult<Option<Self>> {
        let json = cx.host.files.read(&path(cx)).await?;
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// Makes it durable.
    pub(super) async fn write(&self, cx: &Context) -> HostResult<()> {
        let path = path(cx);
        let json = serde_json::to_vec(self).map_err(|source| HostError::Malformed {
            what: format!("the mark {path}"),
            why: source.to_string(),
        })?;
        cx.host.files.create_dir(&cx.permit()?, &folder(cx), 0o700).await?;
        cx.host.files.write(&cx.permit()?, &path, &json, 0o600).await
    }

    /// Takes it away: the effect is about to be undone.
    pub(super) async fn remove(cx: &Context) -> HostResult<()> {
        cx.host.files.remove_file(&cx.permit()?, &path(cx)).await
    }
}

fn folder(cx: &Context) -> Utf8PathBuf {
    cx.host.layout.state_dir.join("marks")
}

fn path(cx: &Context) -> Utf8PathBuf {
    folder(cx).join(format!("{}-{}.json", cx.plan, cx.step))
}
