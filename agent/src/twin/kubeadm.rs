//! What kubeadm does, as far as it is seen from outside: files that it moves, what it waits for, what it says.
//! After the transcripts in `tests/fixtures/real/upgrade` and `rollback`.

use std::collections::VecDeque;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use liftlock_proto::version::KubernetesVersion;

use super::children::Op;
use super::join;
use super::machine::{STATIC_PODS, image_of, manifest_path};
use super::world::World;

const REGISTRY: &str = "registry.k8s.io";
const TMP: &str = "/etc/kubernetes/tmp";

/// As of the releases that tests use.
fn etcd_tag(version: KubernetesVersion) -> &'static str {
    match version.minor {
        ..=21 => "3.4.13-0",
        22..=29 => "3.5.10-0",
        30 => "3.5.12-0",
        31..=33 => "3.5.15-0",
        _ => "3.6.4-0",
    }
}

fn image(component: &str, version: KubernetesVersion) -> String {
    if component == "etcd" {
        format!("{REGISTRY}/etcd:{}", etcd_tag(version))
    } else {
        format!("{REGISTRY}/{component}:{version}")
    }
}

/// `kubeadm config images list`
pub(super) fn images(version: KubernetesVersion) -> Vec<String> {
    let named = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"];
    let fixed = [
        format!("{REGISTRY}/coredns/coredns:v1.11.1"),
        format!("{REGISTRY}/pause:3.9"),
        image("etcd", version),
    ];
    named.into_iter().map(|component| image(component, version)).chain(fixed).collect()
}

/// The kubeadm-config `ConfigMap`.
pub(super) fn cluster_configuration(version: KubernetesVersion) -> String {
    format!(
        "data:\n  ClusterConfiguration: |\n    etcd:\n      local:\n        dataDir: /var/lib/etcd\n    kind: \
         ClusterConfiguration\n    kubernetesVersion: {version}\n"
    )
}

/// /var/lib/kubelet/config.yaml
pub(super) fn kubelet_config(version: KubernetesVersion) -> String {
    format!("kind: KubeletConfiguration\nproviderID: {}\n", version.minor_name())
}

/// The static pods' manifests on a node.
pub(super) fn manifests(
    node: &str,
    version: KubernetesVersion,
    members: &[String],
) -> Vec<(&'static str, String)> {
    let cluster =
        members.iter().map(|member| format!("{member}=https://{member}:2380")).collect::<Vec<_>>().join(",");
    STATIC_PODS
        .into_iter()
        .map(|component| {
            let flag = if component == "etcd" {
                format!("--initial-cluster={cluster}")
            } else {
                format!("--node={node}")
            };
            let image = image(component, version);
            let manifest = format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {component}\n  namespace: kube-system\nspec:\n  \
                 containers:\n  - command:\n    - {component}\n    - {flag}\n    image: {image}\n    name: {component}\n"
            );
            (component, manifest)
        })
        .collect()
}

/// What a kubeadm command is going to do, or what it says before it ends with an error.
pub(super) fn script(world: &mut World, node: &str, argv: &[&str]) -> Result<VecDeque<Op>, String> {
    let arguments: Vec<&str> = argv.iter().copied().filter(|argument| !argument.starts_with("--")).collect();
    if arguments == ["reset"] {
        return Ok(join::reset(world, node));
    }
    if !world.api_is_up() {
        return Err("couldn't create a Kubernetes client: connection refused".to_owned());
    }
    match arguments.as_slice() {
        ["upgrade", "apply", version] => {
            let version = version.parse().map_err(|error| format!("{error}"))?;
            apply(world, node, version, argv.contains(&"--force"))
        }
        ["upgrade", "node"] => {
            let version = world.cluster.version;
            let control_plane =
                world.machine(node).is_some_and(|machine| machine.manifest("kube-apiserver").is_some());
            let mut ops = if control_plane {
                let mut ops = static_pods(world, node, version)?;
                ops.push_back(say(
                    "[upgrade] The control plane instance for this node was successfully updated!",
                ));
                ops
            } else {
                [say("[upgrade] Skipping phase. Not a control plane node.")].into()
            };
            ops.extend(write_kubelet_config(version));
            ops.push_back(say("[upgrade] The configuration for this node was successfully updated!"));
            Ok(ops)
        }
        ["join"] => join::join(world, node, argv),
        other => Err(format!("unknown command {other:?}")),
    }
}

fn apply(
    world: &mut World,
    node: &str,
    version: KubernetesVersion,
    force: bool,
) -> Result<VecDeque<Op>, String> {
    let own = world.machine(node).and_then(|machine| machine.unpacked("kubeadm")).unwrap_or(version);
    let cluster = world.cluster.version;
    if version.minor > own.minor || version.minor.abs_diff(cluster.minor) > 1 {
        return Err(format!("FATAL: the --version argument is invalid due to these fatal errors: {version}"));
    }
    if version.minor < own.minor && !force {
        return Err(format!(
            "Kubeadm version {own} can only be used to upgrade to Kubernetes version 1.{}",
            own.minor
        ));
    }
    for component in STATIC_PODS.into_iter().skip(1) {
        if world.machine(node).is_some_and(|machine| machine.manifest(component).is_none()) {
            return Err(format!("[ERROR StaticPodManifest]: {component}.yaml does not exist"));
        }
    }
    if let Some((name, _)) = world.cluster.nodes.iter().find(|(_, node)| node.control_plane && !node.ready) {
        return Err(format!(
            "[ERROR ControlPlaneNodesReady]: there are NotReady control-planes in the cluster: {name}"
        ));
    }
    let mut ops = static_pods(world, node, version)?;
    ops.push_back(say(
        "[upload-config] Storing the configuration used in ConfigMap \"kubeadm-config\" in the \"kube-system\" Namespace",
    ));
    ops.push_back(Op::RaiseCluster(version));
    ops.extend(write_kubelet_config(version));
    ops.extend([
        say("[addons] Applied essential addon: CoreDNS"),
        Op::RaiseProxy(version),
        say("[addons] Applied essential addon: kube-proxy"),
        Op::AwaitDns,
        say(&format!("[upgrade/successful] SUCCESS! Your cluster was upgraded to \"{version}\". Enjoy!")),
    ]);
    Ok(ops)
}

/// etcd first; of each component whose manifest differs, the live one away, the new one in, and a wait.
fn static_pods(world: &mut World, node: &str, version: KubernetesVersion) -> Result<VecDeque<Op>, String> {
    let members = &world.cluster.etcd_members;
    let dead = members
        .iter()
        .find(|member| world.machine(member).is_none_or(|machine| !machine.containers.contains_key("etcd")));
    if let Some(member) = dead {
        return Err(format!("[upgrade/etcd] Failed to upgrade etcd: {member}: context deadline exceeded"));
    }
    let time = i64::try_from(world.unix_ms(node))
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    let time = time.strftime("%Y-%m-%d-%H-%M-%S");
    let upgraded = Utf8PathBuf::from(format!("{TMP}/kubeadm-upgraded-manifests{}", world.now().as_micros()));
    let backup = Utf8PathBuf::from(format!("{TMP}/kubeadm-backup-manifests-{time}"));
    let etcd_backup = Utf8PathBuf::from(format!("{TMP}/kubeadm-backup-etcd-{time}"));
    let own = [node.to_owned()];
    // The first control plane's etcd was started as a cluster of one, and its manifest goes on saying so.
    let members = if members.first().is_some_and(|first| first == node) { &own } else { members.as_slice() };
    let mut ops = VecDeque::from([
        Op::Elapse(Duration::from_secs(2)),
        Op::MakeFolder(upgraded.clone()),
        Op::MakeFolder(backup.clone()),
        Op::CopyTree("/var/lib/etcd".into(), etcd_backup.join("etcd")),
    ]);
    for (component, manifest) in manifests(node, version, members) {
        let live = manifest_path(component);
        let found = world.machine(node).and_then(|machine| machine.disk.read(&live));
        if found == Some(manifest.as_bytes()) {
            ops.push_back(Op::Say(format!(
                "[upgrade/staticpods] Current and new manifests of {component} are equal, skipping upgrade"
            )));
            continue;
        }
        let new = upgraded.join(format!("{component}.yaml"));
        let kept = backup.join(format!("{component}.yaml"));
        let image = image_of(manifest.as_bytes()).unwrap_or_default();
        let moved = format!(
            "[upgrade/staticpods] Moved new manifest to \"{live}\" and backed up old manifest to \"{kept}\""
        );
        ops.extend(renew_certificates(component, version));
        ops.extend([
            Op::WriteFile(new.clone(), manifest),
            Op::MoveManifest(live.clone(), kept),
            Op::MoveManifest(new, live),
            Op::Say(moved),
            Op::AwaitContainer(component, image),
            Op::Say(format!("[upgrade/staticpods] Component \"{component}\" upgraded successfully!")),
        ]);
    }
    Ok(ops)
}

/// What kubeadm renews before it changes a component: the names in its words, one of the files, by the real paths.
fn certificates(component: &str) -> (&'static [&'static str], &'static str) {
    match component {
        "etcd" => (&["etcd-server", "etcd-peer", "etcd-healthcheck-client"], "pki/etcd/server.crt"),
        "kube-apiserver" => (
            &["apiserver", "apiserver-kubelet-client", "front-proxy-client", "apiserver-etcd-client"],
            "pki/apiserver.crt",
        ),
        "kube-controller-manager" => (&["controller-manager.conf"], "controller-manager.conf"),
        _ => (&["scheduler.conf"], "scheduler.conf"),
    }
}

fn renew_certificates(component: &str, version: KubernetesVersion) -> Vec<Op> {
    let (names, file) = certificates(component);
    let mut ops: Vec<Op> =
        names.iter().map(|name| say(&format!("[upgrade/staticpods] Renewing {name} certificate"))).collect();
    let path = Utf8Path::new("/etc/kubernetes").join(file);
    ops.push(Op::WriteFile(path, format!("renewed for {version}")));
    ops
}

fn write_kubelet_config(version: KubernetesVersion) -> [Op; 2] {
    let path = "/var/lib/kubelet/config.yaml";
    [
        say(&format!("[kubelet-start] Writing kubelet configuration to file \"{path}\"")),
        Op::WriteFile(path.into(), kubelet_config(version)),
    ]
}

pub(super) fn say(line: &str) -> Op {
    Op::Say(line.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use liftlock_proto::argv::{self, Argv};
    use liftlock_proto::name::FencingToken;

    use super::*;
    use crate::engine::lease::Lease;
    use crate::host::{Limits, Lines};
    use crate::twin::{Shape, Twin};

    const FROM: KubernetesVersion = KubernetesVersion::new(1, 19, 7);
    const TO: KubernetesVersion = KubernetesVersion::new(1, 20, 2);

    #[derive(Default)]
    struct Said(Mutex<Vec<String>>);

    impl Lines for Said {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(timeless(line));
        }
    }

    /// Without the second at which a backup was made.
    fn timeless(line: &str) -> String {
        match line.split_once("kubeadm-backup-manifests-") {
            Some((before, after)) => format!("{before}{}", &after["2026-11-21-15-00-07".len()..]),
            None => line.to_owned(),
        }
    }

    /// What a command says in a twin of the cluster that was recorded.
    fn said(twin: &Twin, node: &str, argv: &Argv) -> Vec<String> {
        twin.world().change(node, |machine| {
            "1.20.2-1.1".clone_into(&mut machine.packages.get_mut("kubeadm").unwrap().version);
        });
        let host = twin.host(node);
        let lease = Lease::new(FencingToken(1), Duration::MAX);
        let limits = Limits { time: Duration::MAX, silence: Duration::MAX };
        let said = Said::default();
        let permit = lease.permit(host.clock.as_ref()).unwrap();
        twin.drive(host.commands.run(&permit, "kubeadm", argv, &limits.into(), &said))
            .done()
            .unwrap()
            .unwrap();
        said.0.into_inner().unwrap()
    }

    /// Each line that the twin says was said by the real one, and in that order.
    fn as_recorded(said: &[String], transcript: &str) {
        assert!(said.len() >= 3, "{said:?}");
        let mut recorded = transcript.lines().map(timeless);
        for line in said {
            assert!(recorded.any(|recorded| recorded == *line), "not said, or not then: {line}");
        }
    }

    fn cluster() -> Twin {
        Twin::new(Shape { control_planes: 3, workers: 2, version: FROM, offered: TO })
    }

    macro_rules! transcript {
        ($name:literal) => {
            include_str!(concat!("../../../tests/fixtures/real/upgrade/", $name, "/stdout"))
        };
    }

    #[test]
    fn it_does_what_kubeadm_was_seen_to_do_in_the_same_order() {
        let twin = cluster();
        let apply = argv::kubeadm_upgrade_apply(TO, &[]);
        as_recorded(&said(&twin, "cp1", &apply), transcript!("cp1-apply"));
        as_recorded(&said(&twin, "cp1", &apply), transcript!("cp1-apply-again"));
        let node = argv::kubeadm_upgrade_node(&[]);
        as_recorded(&said(&twin, "cp2", &node), transcript!("cp2-node-out"));
        as_recorded(&said(&twin, "w1", &node), transcript!("w1-node"));
        twin.world().change("cp3", |machine| machine.disk.remove(&manifest_path("kube-apiserver")));
        let without = said(&twin, "cp3", &node);
        as_recorded(&without, transcript!("cp3-node-without-apiserver-manifest"));
        assert!(without.iter().any(|line| line.contains("Not a control plane node")));
    }

    #[test]
    fn it_leaves_the_copies_behind_that_kubeadm_was_seen_to_leave() {
        let twin = cluster();
        said(&twin, "cp1", &argv::kubeadm_upgrade_apply(TO, &[]));
        let world = twin.world();
        let disk = &world.machine("cp1").unwrap().disk;
        let recorded = include_str!("../../../tests/fixtures/real/files/tmp-after-apply/stdout");
        for folder in disk.list(TMP.into()) {
            let below = disk.list(&Utf8Path::new(TMP).join(&folder));
            let prefix = folder.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
            for name in below {
                let left =
                    recorded.lines().any(|line| line.contains(prefix) && line.ends_with(&format!("/{name}")));
                assert!(left, "{folder}/{name}");
            }
        }
    }
}
