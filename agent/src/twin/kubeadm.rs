//! What kubeadm does, as far as it is seen from outside: files that it moves, what it waits for, what it says.
//! After the transcripts in `tests/fixtures/real/upgrade` and `rollback`.

use std::collections::VecDeque;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use liftlock_proto::version::KubernetesVersion;

use super::children::Op;
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
    let named = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    ];
    let fixed = [
        format!("{REGISTRY}/coredns/coredns:v1.11.1"),
        format!("{REGISTRY}/pause:3.9"),
        image("etcd", version),
    ];
    named
        .into_iter()
        .map(|component| image(component, version))
        .chain(fixed)
        .collect()
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
    format!(
        "kind: KubeletConfiguration\nproviderID: {}\n",
        version.minor_name()
    )
}

/// The static pods' manifests on a node.
pub(super) fn manifests(
    node: &str,
    version: KubernetesVersion,
    members: &[String],
) -> Vec<(&'static str, String)> {
    let cluster = members
        .iter()
        .map(|member| format!("{member}=https://{member}:2380"))
        .collect::<Vec<_>>()
        .join(",");
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
    if !world.api_is_up() {
        return Err("couldn't create a Kubernetes client: connection refused".to_owned());
    }
    let arguments: Vec<&str> = argv
        .iter()
        .copied()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    match arguments.as_slice() {
        ["upgrade", "apply", version] => {
            let version = version.parse().map_err(|error| format!("{error}"))?;
            apply(world, node, version, argv.contains(&"--force"))
        }
        ["upgrade", "node"] => {
            let version = world.cluster.version;
            let mut ops = if world
                .machine(node)
                .is_some_and(|machine| machine.manifest("kube-apiserver").is_some())
            {
                static_pods(world, node, version)?
            } else {
                [Op::Say(
                    "[upgrade] Skipping phase. Not a control plane node.".to_owned(),
                )]
                .into()
            };
            ops.push_back(write_kubelet_config(version));
            ops.push_back(Op::Say(
                "[upgrade] The configuration for this node was successfully updated!".to_owned(),
            ));
            Ok(ops)
        }
        other => Err(format!("unknown command {other:?}")),
    }
}

fn apply(
    world: &mut World,
    node: &str,
    version: KubernetesVersion,
    force: bool,
) -> Result<VecDeque<Op>, String> {
    let own = world
        .machine(node)
        .and_then(|machine| machine.unpacked("kubeadm"))
        .unwrap_or(version);
    let cluster = world.cluster.version;
    if version.minor > own.minor || version.minor.abs_diff(cluster.minor) > 1 {
        return Err(format!(
            "FATAL: the --version argument is invalid due to these fatal errors: {version}"
        ));
    }
    if version.minor < own.minor && !force {
        return Err(format!(
            "Kubeadm version {own} can only be used to upgrade to Kubernetes version 1.{}",
            own.minor
        ));
    }
    for component in STATIC_PODS.into_iter().skip(1) {
        if world
            .machine(node)
            .is_some_and(|machine| machine.manifest(component).is_none())
        {
            return Err(format!(
                "[ERROR StaticPodManifest]: {component}.yaml does not exist"
            ));
        }
    }
    if let Some((name, _)) = world
        .cluster
        .nodes
        .iter()
        .find(|(_, node)| node.control_plane && !node.ready)
    {
        return Err(format!(
            "[ERROR ControlPlaneNodesReady]: there are NotReady control-planes in the cluster: {name}"
        ));
    }
    let mut ops = static_pods(world, node, version)?;
    ops.extend([
        Op::RaiseCluster(version),
        write_kubelet_config(version),
        Op::Say("[addons] Applied essential addon: CoreDNS".to_owned()),
        Op::RaiseProxy(version),
        Op::Say("[addons] Applied essential addon: kube-proxy".to_owned()),
        Op::Say(format!(
            "[upgrade/successful] SUCCESS! Your cluster was upgraded to \"{version}\". Enjoy!"
        )),
    ]);
    Ok(ops)
}

/// etcd first; of each component whose manifest differs, the live one away, the new one in, and a wait.
fn static_pods(world: &mut World, node: &str, version: KubernetesVersion) -> Result<VecDeque<Op>, String> {
    let members = &world.cluster.etcd_members;
    let dead = members.iter().find(|member| {
        world
            .machine(member)
            .is_none_or(|machine| !machine.containers.contains_key("etcd"))
    });
    if let Some(member) = dead {
        return Err(format!(
            "[upgrade/etcd] Failed to upgrade etcd: {member}: context deadline exceeded"
        ));
    }
    let time = i64::try_from(world.unix_ms())
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    let time = time.strftime("%Y-%m-%d-%H-%M-%S");
    let upgraded = Utf8PathBuf::from(format!(
        "{TMP}/kubeadm-upgraded-manifests{}",
        world.now().as_micros()
    ));
    let backup = Utf8PathBuf::from(format!("{TMP}/kubeadm-backup-manifests-{time}"));
    let etcd_backup = Utf8PathBuf::from(format!("{TMP}/kubeadm-backup-etcd-{time}"));
    let own = [node.to_owned()];
    // The first control plane's etcd was started as a cluster of one, and its manifest goes on saying so.
    let members = if members.first().is_some_and(|first| first == node) {
        &own
    } else {
        members.as_slice()
    };
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
        ops.extend([
            Op::WriteFile(new.clone(), manifest),
            Op::MoveManifest(live.clone(), kept),
            Op::MoveManifest(new, live),
            Op::Say(format!("[upgrade/staticpods] Moved new manifest of {component}")),
            Op::AwaitContainer(component, image),
        ]);
    }
    Ok(ops)
}

fn write_kubelet_config(version: KubernetesVersion) -> Op {
    Op::WriteFile(
        Utf8Path::new("/var/lib/kubelet/config.yaml").to_owned(),
        kubelet_config(version),
    )
}
