//! A machine that joins the cluster, and one that leaves: what `kubeadm join` and `kubeadm reset` do, and who lets a machine in.
//! After the transcripts in `tests/fixtures/real/membership`.

use std::collections::VecDeque;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::PlanId;
use liftlock_proto::plan::Role;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::Twin;
use super::children::Op;
use super::kube::api_server;
use super::kubeadm::{kubelet_config, manifests, say};
use super::machine::{MANIFESTS, STATIC_PODS, image_of, manifest_path};
use super::world::World;
use crate::engine::idle::Turn;
use crate::engine::lease::Permit;
use crate::host::{HostError, HostResult};
use crate::invitation::{self, BootstrapToken, Invitation, Invitations, NotInvited};

/// The cluster's CA, as every machine of it has it.
pub(super) const CA: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBQDCB86ADAgECAhQRqj2cPexMwhyFxfw2xhv6gbkxDDAFBgMrZXAwFTETMBEG\n\
A1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjgxMzAyNDRaGA8yMTI2MTEwNDEzMDI0\n\
NFowFTETMBEGA1UEAwwKa3ViZXJuZXRlczAqMAUGAytlcAMhAA5W1sBipsHOvos7\n\
vaSI09J4+vmCr97czKwyptfXeJfHo1MwUTAdBgNVHQ4EFgQUjscn3MpE1y44vxCV\n\
RTJk9KO1yVwwHwYDVR0jBBgwFoAUjscn3MpE1y44vxCVRTJk9KO1yVwwDwYDVR0T\n\
AQH/BAUwAwEB/zAFBgMrZXADQQBAuJZD1QanCAT8i+hdIWre7u6ixj1ktw+3s46W\n\
QNMGaUumdY0zu7xVu4fNC4O8JEV4atdPJJWR2/54lUWNXj4M\n\
-----END CERTIFICATE-----\n";

/// What the certificates that kubeadm keeps in the cluster are encrypted with.
pub(super) const CERTIFICATE_KEY: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

const PKI: &str = "/etc/kubernetes/pki";

/// Has a control plane of the same cluster let a machine in, as a coordinator would.
pub(super) struct Inviter {
    pub(super) twin: Twin,
    pub(super) node: String,
}

#[async_trait]
impl Invitations for Inviter {
    async fn ask(&self, _: &Permit, _: &PlanId) -> HostResult<Invitation> {
        let refused = |why: String| HostError::Malformed {
            what: "an invitation to the twin's cluster".to_owned(),
            why,
        };
        let host = {
            let world = self.twin.world();
            let runs = |name: &&String| {
                **name != self.node
                    && world.machine(name).is_some_and(|machine| machine.containers.contains_key("etcd"))
            };
            world.cluster.etcd_members.iter().find(runs).cloned()
        };
        let host = host.ok_or_else(|| refused("no control plane runs".to_owned()))?;
        let idle = Turn::default().idle().ok_or_else(|| refused("somebody has a turn".to_owned()))?;
        let node = self.node.parse().map_err(|error| refused(format!("{error}")))?;
        invitation::make(&self.twin.host(&host), &idle, &node, Role::ControlPlane).await.map_err(|error| {
            match error {
                NotInvited::Refused(why) => refused(why),
                NotInvited::Host(error) => error,
            }
        })
    }
}

impl World {
    /// Lets the bearer of a token in.
    pub(super) fn admit(&mut self, token: &BootstrapToken) {
        self.cluster.tokens.push(token.whole().expose_secret().to_owned());
    }
}

/// What a join is asked for.
struct Wanted {
    control_plane: bool,
}

/// The configuration, where it lets its bearer in.
fn wanted(world: &World, node: &str, argv: &[&str]) -> Result<Wanted, String> {
    let path = argv.iter().find_map(|argument| argument.strip_prefix("--config="));
    let path = path.ok_or("discovery: Invalid value: \"\": bootstrapToken or file must be set")?;
    let file = world.machine(node).and_then(|machine| machine.disk.read(Utf8Path::new(path)));
    let file = file.ok_or_else(|| format!("open {path}: no such file or directory"))?;
    let configuration: Value = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    let text = |pointer: &str| configuration.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !world.cluster.tokens.iter().any(|token| token == text("/discovery/bootstrapToken/token")) {
        return Err("couldn't validate the identity of the API Server".to_owned());
    }
    let control_plane = configuration.get("controlPlane").is_some();
    if control_plane && text("/controlPlane/certificateKey") != CERTIFICATE_KEY {
        return Err("[download-certs] error decrypting secret data with provided key".to_owned());
    }
    Ok(Wanted { control_plane })
}

/// `kubeadm join`
pub(super) fn join(world: &World, node: &str, argv: &[&str]) -> Result<VecDeque<Op>, String> {
    let Wanted { control_plane } = wanted(world, node, argv)?;
    let Some(machine) = world.machine(node) else { return Err("no such machine".to_owned()) };
    let there = |path: &str| machine.disk.exists(Utf8Path::new(path));
    if there("/etc/kubernetes/kubelet.conf") || there("/etc/kubernetes/bootstrap-kubelet.conf") {
        return Err("[ERROR FileAvailable--etc-kubernetes-kubelet.conf]: already exists".to_owned());
    }
    if !machine.disk.below(Utf8Path::new(MANIFESTS)).is_empty() {
        return Err("[ERROR DirAvailable--etc-kubernetes-manifests]: is not empty".to_owned());
    }
    if !machine.disk.below(Utf8Path::new("/var/lib/etcd")).is_empty() {
        return Err("[ERROR DirAvailable--var-lib-etcd]: /var/lib/etcd is not empty".to_owned());
    }
    let version = world.cluster.version;
    if machine.unpacked("kubeadm") != Some(version) && control_plane {
        return Err("[ERROR KubernetesVersion]: kubeadm is of another version".to_owned());
    }
    let members: Vec<String> = world.cluster.etcd_members.iter().cloned().chain([node.to_owned()]).collect();
    let write = |path: &str, content: String| Op::WriteFile(path.into(), content);
    let mut ops = VecDeque::from([say("[preflight] Running pre-flight checks")]);
    let rendered = manifests(node, version, &members);
    let manifest = |component: &str| {
        let found = rendered.iter().find(|(name, _)| *name == component);
        found.map(|(_, manifest)| manifest.clone()).unwrap_or_default()
    };
    ops.push_back(write(&format!("{PKI}/ca.crt"), CA.to_owned()));
    if control_plane {
        ops.push_back(write(&format!("{PKI}/etcd/server.crt"), "made by join".to_owned()));
        ops.push_back(write(&format!("{PKI}/apiserver.crt"), "made by join".to_owned()));
        for conf in ["admin", "controller-manager", "scheduler"] {
            ops.push_back(write(&format!("/etc/kubernetes/{conf}.conf"), format!("{conf} of {node}")));
        }
        for component in STATIC_PODS.into_iter().skip(1) {
            ops.push_back(Op::WriteFile(manifest_path(component), manifest(component)));
        }
    }
    let server = api_server(if control_plane { node } else { "cluster" });
    ops.extend([
        write("/etc/kubernetes/bootstrap-kubelet.conf", "a token".to_owned()),
        write("/var/lib/kubelet/config.yaml", kubelet_config(version)),
        write("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"\"\n".to_owned()),
        say("[kubelet-start] Starting the kubelet"),
        Op::RestartKubelet,
        write(
            "/etc/kubernetes/kubelet.conf",
            format!("clusters:\n- cluster:\n    server: {server}\nusers:\n- name: {node}\n"),
        ),
        Op::Remove("/etc/kubernetes/bootstrap-kubelet.conf".into()),
    ]);
    if control_plane {
        let etcd = manifest("etcd");
        let image = image_of(etcd.as_bytes()).unwrap_or_default();
        ops.extend([
            Op::AddMember,
            say("[etcd] Announced new etcd member joining to the existing etcd cluster"),
            write("/var/lib/etcd/member/snap/db", "data".to_owned()),
            Op::WriteFile(manifest_path("etcd"), etcd),
            Op::AwaitContainer("etcd", image),
        ]);
    }
    ops.push_back(Op::Register { control_plane });
    ops.push_back(say(if control_plane {
        "This node has joined the cluster and a new control plane instance was created:"
    } else {
        "This node has joined the cluster:"
    }));
    Ok(ops)
}

/// `kubeadm reset`: as much as can be done, whatever is away.
pub(super) fn reset(world: &World, node: &str) -> VecDeque<Op> {
    let mut ops = VecDeque::from([say("[preflight] Running pre-flight checks")]);
    let is_member = world.cluster.etcd_members.iter().any(|member| member == node);
    let admin = world
        .machine(node)
        .is_some_and(|machine| machine.disk.exists(Utf8Path::new("/etc/kubernetes/admin.conf")));
    if is_member && admin && world.api_is_up() {
        ops.push_back(Op::RemoveMember);
    }
    ops.extend([say("[reset] Stopping the kubelet service"), Op::StopKubelet, Op::StopContainers]);
    let confs = ["admin", "kubelet", "bootstrap-kubelet", "controller-manager", "scheduler"];
    let gone = [MANIFESTS, PKI].map(Utf8PathBuf::from).into_iter();
    let gone = gone.chain(confs.map(|conf| Utf8PathBuf::from(format!("/etc/kubernetes/{conf}.conf"))));
    ops.extend(gone.chain(["/var/lib/etcd", "/var/lib/kubelet"].map(Utf8PathBuf::from)).map(Op::Remove));
    ops
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use liftlock_proto::argv::{self, Argv};
    use liftlock_proto::name::FencingToken;
    use liftlock_proto::version::KubernetesVersion;
    use serde_json::json;

    use super::*;
    use crate::engine::lease::Lease;
    use crate::host::{Limits, Lines};
    use crate::twin::Shape;

    const VERSION: KubernetesVersion = KubernetesVersion::new(1, 19, 7);

    #[derive(Default)]
    struct Said(Mutex<Vec<String>>);

    impl Lines for Said {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    fn said(twin: &Twin, node: &str, argv: &Argv) -> Vec<String> {
        let (host, said) = (twin.host(node), Said::default());
        let permit = Lease::new(FencingToken(1), Duration::MAX).permit(host.clock.as_ref()).unwrap();
        let limits = Limits { time: Duration::MAX, silence: Duration::MAX };
        twin.drive(host.commands.run(&permit, "kubeadm", argv, &limits.into(), &said))
            .done()
            .unwrap()
            .unwrap();
        said.0.into_inner().unwrap()
    }

    /// Each line that the twin says was said by the real one, and in that order.
    fn as_recorded(said: &[String], transcript: &str) {
        let mut recorded = transcript.lines();
        for line in said {
            assert!(recorded.any(|recorded| recorded == line), "not said, or not then: {line}");
        }
    }

    macro_rules! transcript {
        ($name:literal) => {
            include_str!(concat!("../../../tests/fixtures/real/membership/", $name, "/stdout"))
        };
    }

    #[test]
    fn a_join_and_a_reset_say_what_the_real_ones_were_seen_to_say_in_the_same_order() {
        let twin = Twin::new(Shape { control_planes: 3, workers: 1, version: VERSION, offered: VERSION });
        for (machine, control_plane) in [("n1", true), ("n2", false)] {
            let token = "abcdef.0123456789abcdef";
            let mut configuration = json!({"discovery": {"bootstrapToken": {"token": token}}});
            if control_plane {
                configuration["controlPlane"] = json!({"certificateKey": CERTIFICATE_KEY});
            }
            let mut world = twin.world();
            world.add_machine(machine, VERSION);
            world.cluster.tokens.push(token.to_owned());
            world.change(machine, |machine| machine.disk.put("/join.json", configuration.to_string(), 0o600));
        }
        let join = argv::kubeadm_join("/join.json", &[]);
        as_recorded(&said(&twin, "n1", &join), transcript!("cp4-join"));
        as_recorded(&said(&twin, "n2", &join), transcript!("w1-join"));
        as_recorded(&said(&twin, "n1", &argv::kubeadm_reset()), transcript!("cp4-reset"));
        as_recorded(&said(&twin, "n2", &argv::kubeadm_reset()), transcript!("w1-reset"));
        let members = transcript!("members-after-reset");
        assert!(members.lines().count() == 2 && !members.contains("cp4"), "its member goes in its reset");
        assert_eq!(twin.world().cluster.etcd_members.len(), 3);
    }
}
