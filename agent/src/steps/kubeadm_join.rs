//! `kubeadm join`, on a machine that is in no cluster.
//!
//! What it is let in with is asked for right before, lies in a file of the agent's own while kubeadm reads it, and is no part
//! of the plan, the journal or the command. A join that was cut off is not gone on with: kubeadm's preflight checks refuse a
//! machine with traces of an earlier one (cmd/kubeadm/app/preflight/checks.go, `RunJoinNodeChecks`), so it is reset first.

use async_trait::async_trait;
use camino::Utf8PathBuf;
use liftlock_proto::argv::{self, JOIN_CONFIGURATION};
use liftlock_proto::plan::Role;
use liftlock_proto::version::KubernetesVersion;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::kubeadm::{Command, PAUSE};
use super::kubeadm_reset;
use super::mark::Mark;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::{Observed, PreState, StepFailure, StepPolicy, StepRunner};
use crate::host::{HostResult, Layout};
use crate::invitation::{Invitation, api_version};

pub(super) struct KubeadmJoin {
    pub(super) version: KubernetesVersion,
    pub(super) role: Role,
    pub(super) ignore_preflight_errors: Vec<String>,
}

/// Whether this machine is in a cluster, or on its way there or out of it: something that kubeadm's preflight checks of a
/// join refuse is there.
pub(super) async fn traces(cx: &Context) -> HostResult<bool> {
    let (files, layout) = (&cx.host.files, &cx.host.layout);
    for path in ["kubelet.conf", "bootstrap-kubelet.conf", "admin.conf", "pki/ca.crt"] {
        if files.exists(&layout.at("/etc/kubernetes").join(path)).await? {
            return Ok(true);
        }
    }
    for folder in [layout.manifests(), layout.at("/var/lib/etcd")] {
        if !files.list(&folder).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn configuration_path(layout: &Layout) -> Utf8PathBuf {
    layout.state_dir.join(JOIN_CONFIGURATION)
}

impl KubeadmJoin {
    fn command(&self, cx: &Context) -> Command {
        let path = configuration_path(&cx.host.layout);
        Command {
            unit: "kubeadm-join",
            argv: argv::kubeadm_join(path.as_str(), &self.ignore_preflight_errors),
        }
    }

    async fn write_configuration(&self, cx: &Context) -> Result<(), StepFailure> {
        let asked = cx.host.invitations.ask(&cx.permit()?, &cx.plan).await;
        let configuration = self.configuration(cx, &asked?);
        let path = configuration_path(&cx.host.layout);
        let text = configuration.expose_secret().as_bytes();
        Ok(cx.host.files.write(&cx.permit()?, &path, text, 0o600).await?)
    }

    /// JSON is YAML too. The API server of a control plane listens where kubeadm finds the machine's default address, as
    /// with `kubeadm join --control-plane`.
    fn configuration(&self, cx: &Context, invitation: &Invitation) -> SecretString {
        let mut configuration = json!({
            "apiVersion": api_version(self.version),
            "kind": "JoinConfiguration",
            "nodeRegistration": {"name": cx.node.as_str()},
            "discovery": {"bootstrapToken": {
                "token": invitation.token.whole().expose_secret(),
                "apiServerEndpoint": invitation.api_server,
                "caCertHashes": invitation.ca_cert_hashes,
            }},
        });
        if let (true, Some(key)) = (self.role.is_control_plane(), &invitation.certificate_key)
            && let Some(fields) = configuration.as_object_mut()
        {
            fields.insert("controlPlane".to_owned(), json!({"certificateKey": key.expose_secret()}));
        }
        SecretString::from(Value::to_string(&configuration))
    }

    async fn forget_configuration(cx: &Context) -> HostResult<()> {
        cx.host.files.remove_file(&cx.permit()?, &configuration_path(&cx.host.layout)).await
    }
}

#[async_trait]
impl StepRunner for KubeadmJoin {
    async fn check(&self, cx: &Context) -> Result<Observed, StepFailure> {
        let path = configuration_path(&cx.host.layout);
        let mark = Mark::read(cx).await?.is_some_and(|mark| mark.version == self.version);
        let joined = cx.host.files.exists(&cx.host.layout.kubelet_kubeconfig()).await?;
        // Nobody else would take it away.
        let forgotten = !cx.host.files.exists(&path).await?;
        Ok(match (mark && joined && forgotten, traces(cx).await?) {
            (true, _) => Observed::Done,
            (false, true) => Observed::Partial,
            (false, false) => Observed::Absent,
        })
    }

    async fn capture(&self, cx: &Context) -> Result<PreState, StepFailure> {
        if traces(cx).await? {
            return Err(StepFailure::Refused(format!(
                "{} is in a cluster already, or has traces of one (/etc/kubernetes, /var/lib/etcd): only a machine that \
                 has not joined joins; look at what it is, and `kubeadm reset` there takes it out",
                cx.node
            )));
        }
        Ok(PreState::Null)
    }

    async fn run(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        let command = self.command(cx);
        if !command.is_there(cx).await? {
            if traces(cx).await? {
                Mark::remove(cx).await?;
                kubeadm_reset::reset(cx).await?;
            }
            cx.timed(TimeSpent::Wait, self.write_configuration(cx)).await?;
        }
        let joined = command.run(cx).await;
        Self::forget_configuration(cx).await?;
        joined?;
        Ok(Mark { version: self.version, seen: [].into() }.write(cx).await?)
    }

    /// A node that joined has pods, and a control plane its part of etcd: it leaves as every node leaves.
    async fn undo(&self, cx: &Context, _: &PreState) -> Result<(), StepFailure> {
        self.command(cx).settle(cx).await?;
        Self::forget_configuration(cx).await?;
        if !traces(cx).await? {
            return Ok(());
        }
        Err(StepFailure::Refused(format!(
            "{} has joined the cluster, and that is not put back: go on with `liftlock retry {}`, or end the roll-out with \
             `liftlock abort` and take the node out as any other",
            cx.node, cx.node
        )))
    }

    fn policy(&self) -> StepPolicy {
        StepPolicy { attempts: 2, pause: PAUSE }
    }
}
