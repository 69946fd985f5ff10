//! What must be so before a roll-out starts.

use std::fs;

use liftlock_proto::v1::{NodePhase, RolloutPhase};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::objects::Key;
use serde_json::json;

use crate::{TO, node, raised, small_fleet, until};

#[tokio::test]
async fn a_manifest_that_was_edited_by_hand_stops_the_plan_unless_its_loss_is_accepted() {
    let fleet = small_fleet().await;
    let manifest = fleet.cluster.machine("cp1").unwrap().tree.manifest("kube-scheduler");
    let edited = fs::read_to_string(&manifest)
        .unwrap()
        .replace("    - kube-scheduler\n", "    - kube-scheduler\n    - --profiling=false\n");
    fs::write(&manifest, &edited).unwrap();
    let plan = ["plan", "v1.31.2", "--accept", "api-outage"];
    let refused = fleet.cli(&plan).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    for part in ["cp1", "kube-scheduler.yaml", "--profiling=false", "--accept drift"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let apply = ["apply", "v1.31.2", "--yes", "--accept", "api-outage", "--accept", "drift"];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
    assert!(!fs::read_to_string(&manifest).unwrap().contains("--profiling=false"));
    let backup = proofs::backups_of(&fleet, "cp1").unwrap().remove(0);
    let kept = backup.join("files/etc/kubernetes/manifests/kube-scheduler.yaml");
    assert_eq!(fs::read_to_string(kept).unwrap(), edited, "what is lost is in the backup");
}

#[tokio::test]
async fn no_roll_out_starts_while_no_coredns_is_ready() {
    let fleet = small_fleet().await;
    let plan = ["plan", "v1.31.2", "--accept", "api-outage"];
    fleet.cluster.set_dns(0);
    let refused = fleet.cli(&plan).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("0 of 2 CoreDNS pods are ready"), "{}", refused.stderr);
    fleet.cluster.set_dns(2);
    fleet.cli(&plan).await.unwrap().success().unwrap();
}

#[tokio::test]
async fn what_the_target_would_not_bear_is_refused_before_anything_is_begun() {
    let fleet = small_fleet().await;
    let plan = ["plan", "v1.31.2", "--accept", "api-outage"];
    let refused_by = async |rules: &[&str], words: &[&str]| {
        let refused = fleet.cli(&plan).await.unwrap();
        assert_eq!(refused.code, 3, "{rules:?}: {}{}", refused.stdout, refused.stderr);
        for part in rules.iter().chain(words) {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
        assert_eq!(refused.stderr.lines().count(), rules.len() + 1, "{}", refused.stderr);
    };

    let tree = &fleet.cluster.machine("w1").unwrap().tree;
    let flags = tree.at("/etc/default/kubelet");
    fs::create_dir_all(flags.parent().unwrap()).unwrap();
    fs::write(&flags, "KUBELET_EXTRA_ARGS=\"--iptables-drop-bit=15 --v=2\"\n").unwrap();
    refused_by(&["removed-kubelet-flag"], &["w1", "--iptables-drop-bit in /etc/default/kubelet"]).await;
    fs::remove_file(&flags).unwrap();

    let swaps = tree.at("/proc/swaps");
    let none = fs::read_to_string(&swaps).unwrap();
    fs::write(&swaps, format!("{none}/dev/sda2 partition 1048572 0 -2\n")).unwrap();
    refused_by(&["swap"], &["w1", "/dev/sda2"]).await;
    fs::remove_file(&swaps).unwrap();
    refused_by(&["swap"], &["nobody can tell whether there is swap on w1", "--accept swap"]).await;
    fs::write(&swaps, none).unwrap();

    fleet.cluster.objects.request_deprecated_api("example.k8s.io/v1alpha1/things", "1.31");
    refused_by(&["removed-api"], &["cp1", "example.k8s.io/v1alpha1/things", "--accept removed-api"]).await;

    let gates = fleet.cli(&["gates", "v1.31.2", "--accept", "api-outage", "-o", "json"]).await.unwrap();
    assert_eq!(gates.code, 3, "{}", gates.stderr);
    let gates: serde_json::Value = serde_json::from_str(&gates.stdout).unwrap();
    let state = |name: &str| {
        let mut all = gates["gates"].as_array().unwrap().iter();
        all.find(|gate| gate["name"] == name).unwrap()["state"].clone()
    };
    let states = ["api-outage", "removed-api", "swap"].map(state);
    assert_eq!(states, ["accepted", "refused", "passed"]);

    let apply = ["apply", "v1.31.2", "--yes", "--accept", "api-outage", "--accept", "removed-api"];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn a_container_runtime_that_is_too_old_for_the_targets_kubelet_refuses_the_plan() {
    let shape = Shape {
        version: KubernetesVersion::new(1, 25, 3),
        offered: vec![KubernetesVersion::new(1, 26, 1)],
        ..Shape::new(1, 2)
    };
    let fleet = Fleet::start(&shape).await.unwrap();
    let plan = ["plan", "v1.26.1", "--accept", "api-outage"];
    fleet.cli(&plan).await.unwrap().success().unwrap();
    fleet.cluster.objects.update(&Key::new("nodes", "", "w2"), |node| {
        node["status"]["nodeInfo"]["containerRuntimeVersion"] = "containerd://1.5.9".into();
    });
    let refused = fleet.cli(&plan).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    for part in ["container-runtime", "w2", "containerd 1.5.9", "1.6.0"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}

#[tokio::test]
async fn an_alarm_between_nodes_holds_the_roll_out_until_it_is_disarmed() {
    let fleet = small_fleet().await;
    let apply = ["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    // The agent's own gate would end cp1's lease.
    until(&fleet, "cp1 to be past its own gate", |rollout| node(rollout, "cp1").step_number > 1).await;
    fleet.cluster.etcd.raise_nospace("cp1");
    let held = until(&fleet, "the gate to be closed", |rollout| rollout.reason.contains("etcd-alarm")).await;
    assert_eq!(held.phase(), RolloutPhase::Running, "{}", held.reason);
    assert!(held.reason.contains("NOSPACE on cp1"), "{}", held.reason);
    assert_eq!(node(&held, "w1").phase(), NodePhase::Prepared);
    fleet.cluster.etcd.disarm();
    raised(&fleet, TO).await;
}

#[tokio::test]
async fn workers_wait_until_every_node_has_the_kube_proxy_that_its_daemon_set_asks_for() {
    let fleet = small_fleet().await;
    let proxies = |updated: u32| {
        let set = json!({
            "kind": "DaemonSet",
            "apiVersion": "apps/v1",
            "metadata": {"generation": 2},
            "spec": {"updateStrategy": {"type": "RollingUpdate"}},
            "status": {
                "observedGeneration": 2, "desiredNumberScheduled": 5, "updatedNumberScheduled": updated,
                "numberReady": 5, "numberAvailable": 5,
            },
        });
        fleet.cluster.objects.put(&Key::new("daemonsets", "kube-system", "kube-proxy"), set);
    };
    let apply = ["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"];
    fleet.cli(&apply).await.unwrap().success().unwrap();
    until(&fleet, "cp1 to be under lease", |rollout| node(rollout, "cp1").step_number > 1).await;
    proxies(3);
    let named = "the gate kube-proxy-rolling is closed: 3 of 5 nodes";
    let held = until(&fleet, "the gate to be closed", |rollout| rollout.reason.contains(named)).await;
    assert_eq!(node(&held, "cp1").phase(), NodePhase::Raised, "it is no worker");
    assert_eq!(node(&held, "w1").phase(), NodePhase::Prepared);
    proxies(5);
    raised(&fleet, TO).await;
}
