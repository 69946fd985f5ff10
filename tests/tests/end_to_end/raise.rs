//! Clusters of several shapes and versions are raised.

use liftlock_proto::v1::{NodePhase, Policy};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::fleet::{Fleet, proofs};
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::standin::controllers::Workload;

use crate::{TO, policy, raised};

#[tokio::test]
async fn three_control_planes_and_two_workers_are_raised_and_the_app_is_there_all_the_time() {
    let fleet = Fleet::start(&Shape::new(3, 2)).await.unwrap();
    fleet.cluster.add_workload(Workload {
        name: "shop".to_owned(),
        namespace: "default".to_owned(),
        replicas: 2,
        image: "example.com/shop:1".to_owned(),
        on_control_planes: false,
    });
    fleet.cluster.add_budget("shop", 1);
    let limit = std::time::Duration::from_secs(20);
    fleet.cluster.wait_for("shop", limit, |cluster| cluster.lowest_ready("shop") == Some(2)).await.unwrap();
    let mut operator = fleet.operator().await.unwrap();
    let policy = Policy { drain_timeout_seconds: 60, ..Policy::default() };
    operator.apply(&TO.to_string(), policy).await.unwrap();
    let rollout = raised(&fleet, TO).await;
    proofs::only_cordoned(&fleet, &[]).unwrap();
    assert!(fleet.cluster.lowest_ready("shop") >= Some(1), "the budget was not kept");
    let order: Vec<&str> = rollout.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(order, ["cp1", "cp2", "cp3", "w1", "w2"]);
    for node in &rollout.nodes {
        assert_eq!(node.phase(), NodePhase::Raised);
        let timings = node.timings.unwrap();
        assert!(timings.child_ms > 0, "{}: no time in children", node.name);
        assert!(
            timings.child_ms + timings.wait_ms + timings.snapshot_ms <= timings.lease_ms + 1,
            "{timings:?}"
        );
    }
}

#[tokio::test]
async fn one_control_plane_is_raised_where_the_operator_consents_and_an_old_cordon_stays() {
    let fleet = crate::small_fleet().await;
    fleet.cluster.cordon("w1", true);
    let mut operator = fleet.operator().await.unwrap();
    let mut policy = policy();
    policy.accepted.push("drain-only-node".to_owned());
    operator.apply(&TO.to_string(), policy).await.unwrap();
    raised(&fleet, TO).await;
    proofs::only_cordoned(&fleet, &["w1"]).unwrap();
}

/// CRI v1alpha2, policy/v1beta1, the master label, kubelet-config-1.19, and an etcd that is not upgraded.
#[tokio::test]
async fn an_old_cluster_is_raised_from_v1_19_7_to_v1_20_2() {
    let target = KubernetesVersion::new(1, 20, 2);
    let shape =
        Shape { version: KubernetesVersion::new(1, 19, 7), offered: vec![target], ..Shape::new(1, 2) };
    let fleet = Fleet::start(&shape).await.unwrap();
    fleet.operator().await.unwrap().apply("v1.20.2", policy()).await.unwrap();
    raised(&fleet, target).await;
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

/// From 1.32 a kubelet may read its own Node and its own pods only.
#[tokio::test]
async fn a_cluster_whose_kubelets_see_only_themselves_is_raised() {
    let target = KubernetesVersion::new(1, 33, 2);
    let shape =
        Shape { version: KubernetesVersion::new(1, 32, 5), offered: vec![target], ..Shape::new(1, 2) };
    let fleet = Fleet::start(&shape).await.unwrap();
    fleet.operator().await.unwrap().apply("v1.33.2", policy()).await.unwrap();
    raised(&fleet, target).await;
    proofs::only_cordoned(&fleet, &[]).unwrap();
}

#[tokio::test]
async fn a_patch_release_is_a_raise_too() {
    let target = KubernetesVersion::new(1, 30, 9);
    let shape = Shape { offered: vec![target], ..Shape::new(1, 2) };
    let fleet = Fleet::start(&shape).await.unwrap();
    fleet.operator().await.unwrap().apply("v1.30.9", policy()).await.unwrap();
    raised(&fleet, target).await;
}
