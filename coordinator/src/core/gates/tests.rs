use std::collections::{BTreeMap, BTreeSet};

use liftlock_proto::packages::PackageSource;
use liftlock_proto::version::KubernetesVersion;

use super::*;
use crate::core::planning::make_plan;
use crate::core::sequence;
use crate::core::view::{
    AgentView, ApiServer, ClusterFindings, ClusterView, ControlPlaneReport, Drift, Etcd, EtcdMember,
    ExpiringCertificate, ExtraArgument, Kubelet, NodeFindings, NodeObject, NodeView, Obstacle, Replicas,
    RequestedApi, Setting, StoredKind, Workload,
};

/// What an agent finds on a machine that is well.
pub(crate) fn sound_node(name: &str, control_plane: bool) -> NodeFindings {
    let address = format!("https://{name}:6443");
    NodeFindings {
        kubelet: Ok(Kubelet { fails_on_swap: true, ..Kubelet::default() }),
        cgroup_v2: Ok(true),
        swap: Ok(Vec::new()),
        kubelet_api_server: Ok(address.clone()),
        expiring: Ok(Vec::new()),
        api_server: if control_plane {
            Ok(ApiServer { address, ..ApiServer::default() })
        } else {
            Err("it has none".to_owned())
        },
        addons: Ok([].into()),
    }
}

/// What a control plane finds in a cluster that is well.
pub(crate) fn sound_cluster(etcd_members: u32) -> ClusterFindings {
    let member = |number| EtcdMember {
        name: format!("cp{number}"),
        version: "3.5.12".to_owned(),
        db_bytes: 20 << 20,
        learner: false,
    };
    ClusterFindings {
        etcd: Ok(Etcd {
            members: (1..=etcd_members).map(member).collect(),
            alarms: Vec::new(),
            quota_bytes: 2 << 30,
        }),
        unready_workloads: Ok(Vec::new()),
        extra_arguments: Ok(Vec::new()),
        stored: Ok(Vec::new()),
    }
}

pub(crate) fn version(minor: u16) -> KubernetesVersion {
    KubernetesVersion::new(1, minor, 2)
}

/// Three control planes and two workers at 1.`minor`.2.
pub(crate) fn cluster_at(minor: u16) -> ClusterView {
    let present = version(minor);
    let node = |(name, control_plane): (&str, bool)| {
        let view = NodeView {
            agent: Some(AgentView {
                not_joined: false,
                connected: true,
                control_plane,
                control_plane_version: control_plane.then_some(present),
                offered: (minor..=minor + 3).map(version).collect(),
                packages: PackageSource::default(),
                errors: Vec::new(),
                drift: Ok(Vec::new()),
                obstacles: Ok(Vec::new()),
                redeploy: None,
                hooks: BTreeMap::new(),
                findings: sound_node(name, control_plane),
            }),
            object: Some(NodeObject {
                kubelet_version: Some(present),
                control_plane,
                ready: true,
                unschedulable: false,
                tainted: control_plane,
                container_runtime: "containerd://1.7.2".to_owned(),
                zone: None,
                labels: Some(BTreeMap::new()),
                on_blocked: None,
            }),
        };
        (name.parse().unwrap(), view)
    };
    let nodes = [("cp1", true), ("cp2", true), ("cp3", true), ("w1", false), ("w2", false)];
    ClusterView {
        cluster: Some(ControlPlaneReport {
            kubeadm_config_version: present,
            etcd_members: 3,
            etcd_healthy_members: 3,
            dns: Ok(Some(Replicas { wanted: 2, ready: 2 })),
            findings: sound_cluster(3),
        }),
        nodes: nodes.map(node).into(),
        coordinator_on: BTreeSet::new(),
    }
}

fn agent<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut AgentView {
    view.nodes.get_mut(&node.parse().unwrap()).unwrap().agent.as_mut().unwrap()
}

fn object<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut NodeObject {
    view.nodes.get_mut(&node.parse().unwrap()).unwrap().object.as_mut().unwrap()
}

fn findings(view: &mut ClusterView) -> &mut ClusterFindings {
    &mut view.cluster.as_mut().unwrap().findings
}

fn kubelet<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut Kubelet {
    agent(view, node).findings.kubelet.as_mut().unwrap()
}

fn api_server<'a>(view: &'a mut ClusterView, node: &str) -> &'a mut ApiServer {
    agent(view, node).findings.api_server.as_mut().unwrap()
}

fn etcd(view: &mut ClusterView) -> &mut Etcd {
    findings(view).etcd.as_mut().unwrap()
}

/// What refuses a raise by one minor: rule and message.
fn refused(view: &ClusterView) -> Vec<(&'static str, String)> {
    let target = version(view.cluster.as_ref().unwrap().kubeadm_config_version.minor + 1);
    match make_plan(view, target, &Policy::default()) {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals.into_iter().map(|refusal| (refusal.rule, refusal.message)).collect(),
    }
}

/// The one rule that refuses it, with every one of these words; and whether naming it lifts the refusal.
fn refused_by(view: &ClusterView, rule: &str, words: &[&str]) -> bool {
    let refusals = refused(view);
    let [(found, message)] = refusals.as_slice() else {
        panic!("not refused by {rule} alone: {refusals:#?}")
    };
    assert_eq!(*found, rule, "{message}");
    for word in words {
        assert!(message.contains(word), "{word} is not in: {message}");
    }
    let target = version(view.cluster.as_ref().unwrap().kubeadm_config_version.minor + 1);
    let policy = Policy { accepted: vec![rule.to_owned()], ..Policy::default() };
    let lifted = make_plan(view, target, &policy).is_ok();
    assert_eq!(lifted, message.contains(&format!("--accept {rule}")), "{message}");
    lifted
}

fn flag(name: &str, file: &str) -> Setting {
    Setting { name: name.to_owned(), file: file.to_owned() }
}

fn argument(component: &str, flag: &str, value: &str) -> ExtraArgument {
    ExtraArgument { component: component.to_owned(), flag: flag.to_owned(), value: value.to_owned() }
}

#[test]
fn a_cluster_that_is_well_passes_every_gate_at_every_minor_of_the_table() {
    for minor in 19..=35 {
        let mut view = cluster_at(minor);
        let versions = if minor < 21 {
            "3.4.13"
        } else if minor < 34 {
            "3.5.26"
        } else {
            "3.6.4"
        };
        for member in &mut etcd(&mut view).members {
            versions.clone_into(&mut member.version);
        }
        assert_eq!(refused(&view), [], "1.{minor}");
    }
}

#[test]
fn gates_have_names_of_their_own_and_say_what_has_to_be_so() {
    let names: BTreeSet<&str> = all().map(|gate| gate.name).collect();
    assert_eq!(names.len(), all().count());
    for gate in all() {
        assert!(
            gate.name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte)),
            "{}",
            gate.name
        );
        assert!(!gate.about.is_empty() && !gate.about.ends_with('.'), "{}", gate.about);
    }
    assert!(consents().all(|name| names.contains(name)));
}

#[test]
fn what_no_agent_could_tell_is_unknown_and_never_passed_without_a_word() {
    let mut view = cluster_at(34);
    for node in ["cp1", "cp2", "cp3", "w1", "w2"] {
        agent(&mut view, node).findings = NodeFindings::default();
        object(&mut view, node).container_runtime.clear();
    }
    *findings(&mut view) = ClusterFindings::default();
    let situation = Situation::new(&view, version(35));
    let unknown: Vec<&str> = all()
        .filter(|gate| gate.verdict(&situation, &Policy::default()).0 == Verdict::Unknown)
        .map(|gate| gate.name)
        .collect();
    let expected = [
        "api-server-unready",
        "etcd-learner",
        "etcd-alarm",
        "etcd-version",
        "etcd-space",
        "system-pods",
        "kube-proxy-rolling",
        "certificate-expiring",
        "removed-kubelet-flag",
        "removed-feature-gate",
        "removed-argument",
        "removed-admission-plugin",
        "removed-api",
        "stored-objects",
        "cgroup-v1",
        "swap",
    ];
    assert_eq!(unknown, expected);
    assert!(make_plan(&view, version(35), &Policy::default()).is_err());
    let accepted = unknown.iter().map(|&name| name.to_owned()).collect();
    let plan = make_plan(&view, version(35), &Policy { accepted, ..Policy::default() });
    assert!(plan.is_ok(), "whoever has looked may say so: {plan:?}");
}

#[test]
fn what_could_not_be_looked_for_closes_the_gate_that_asks_for_it() {
    let why = || "the API server does not answer".to_owned();
    let rules = |view: &ClusterView| refused(view).into_iter().map(|(rule, _)| rule).collect::<Vec<_>>();

    let mut view = cluster_at(30);
    view.cluster.as_mut().unwrap().dns = Err(why());
    assert!(!refused_by(&view, "coredns-unready", &["nobody can tell", "CoreDNS", &why()]));
    let between = closed_before(Role::ControlPlane, &Situation::new(&view, version(31)), &Policy::default());
    assert_eq!(between.unwrap().0, "coredns-unready");

    let mut view = cluster_at(30);
    agent(&mut view, "cp2").drift = Err(why());
    assert!(refused_by(&view, "drift", &["nobody can tell", "cp2", &why()]));

    let mut view = cluster_at(30);
    agent(&mut view, "cp2").obstacles = Err(why());
    assert_eq!(rules(&view), ["stray-manifest", "certificate-expired"]);

    // A control plane that cannot ask its etcd counts no member; that is no external etcd.
    let mut view = cluster_at(30);
    let cluster = view.cluster.as_mut().unwrap();
    (cluster.etcd_members, cluster.etcd_healthy_members, cluster.findings.etcd) = (0, 0, Err(why()));
    assert_eq!(rules(&view), ["quorum", "etcd-learner", "etcd-alarm", "etcd-version", "etcd-space"]);
    let between = closed_before(Role::Worker, &Situation::new(&view, version(31)), &Policy::default());
    assert_eq!(between.unwrap().0, "quorum");
    view.cluster.as_mut().unwrap().findings.etcd = ClusterFindings::default().etcd;
    assert_eq!(rules(&view), ["external-etcd"]);
}

#[test]
fn where_packages_could_not_be_asked_for_the_refusal_says_why() {
    let mut view = cluster_at(30);
    let agent = agent(&mut view, "w1");
    agent.offered.clear();
    agent.errors = vec!["the dnf of this node: it is version 5".to_owned()];
    let words = ["w1", "they offer nothing", "the dnf of this node: it is version 5"];
    assert!(!refused_by(&view, "version-not-offered", &words));
}

#[test]
fn a_container_runtime_whose_version_is_none_is_not_taken_for_a_new_one() {
    let mut view = cluster_at(25);
    object(&mut view, "w1").container_runtime = "containerd://1.7-dev.3".to_owned();
    assert_eq!(refused(&view), [], "its numbers say enough");
    object(&mut view, "w1").container_runtime = "containerd://v1.5.9".to_owned();
    assert!(!refused_by(&view, "container-runtime", &["w1", "v1.5.9", "1.6"]));
    object(&mut view, "w1").container_runtime = "containerd://built-here".to_owned();
    assert!(refused_by(&view, "container-runtime", &["nobody can tell", "w1", "built-here"]));
}

#[test]
fn where_every_node_without_a_taint_is_cordoned_what_is_evicted_is_said_to_find_no_room() {
    let mut view = cluster_at(30);
    object(&mut view, "w1").unschedulable = true;
    object(&mut view, "w2").unschedulable = true;
    assert!(refused_by(&view, sequence::DRAIN_ONLY_NODE, &["no node takes pods", "w1, w2", "uncordon"]));
    // Control planes alone hold nothing but what bears their taint.
    view.nodes.retain(|_, node| node.is_control_plane());
    assert_eq!(refused(&view), []);
}

#[test]
fn a_gate_is_accepted_only_where_consent_covers_all_that_it_found() {
    let mut view = cluster_at(23);
    kubelet(&mut view, "w1").flags = vec![flag("--network-plugin", "/etc/default/kubelet")];
    agent(&mut view, "w2").findings.kubelet = Err("permission denied".to_owned());
    let accepted = ["removed-kubelet-flag", "removed-feature-gate"].map(str::to_owned).to_vec();
    let policy = Policy { accepted, ..Policy::default() };
    let situation = Situation::new(&view, version(24));
    let verdict = |gate: &Gate| gate.verdict(&situation, &policy).0;
    assert_eq!(verdict(&removed::KUBELET_FLAG), Verdict::Refused);
    assert_eq!(verdict(&removed::FEATURE_GATE), Verdict::Accepted);
    assert_eq!(verdict(&machines::SWAP), Verdict::Passed);
}

#[test]
fn an_api_server_that_is_not_ready_is_named_though_another_one_answers() {
    let mut view = cluster_at(30);
    api_server(&mut view, "cp2").unready = "[-]etcd failed".to_owned();
    assert!(!refused_by(&view, "api-server-unready", &["cp2", "[-]etcd failed"]));
}

#[test]
fn an_alarm_a_learner_or_a_full_database_of_etcd_refuses() {
    let mut view = cluster_at(30);
    etcd(&mut view).alarms = vec!["NOSPACE on cp2".to_owned()];
    assert!(!refused_by(&view, "etcd-alarm", &["NOSPACE on cp2", "disarm"]));

    let mut view = cluster_at(30);
    etcd(&mut view).members[1].learner = true;
    assert!(!refused_by(&view, "etcd-learner", &["cp2", "promote"]));

    let mut view = cluster_at(30);
    etcd(&mut view).members[2].db_bytes = 1800 << 20;
    assert!(refused_by(&view, "etcd-space", &["cp3 (1800 MiB)", "2048 MiB", "80 %"]));
}

#[test]
fn etcd_3_6_is_entered_from_3_5_26_on_and_from_nothing_else() {
    let mut view = cluster_at(33);
    assert!(!refused_by(&view, "etcd-version", &["v1.34", "cp1 (3.5.12)", "3.5.26"]));
    for member in &mut etcd(&mut view).members {
        "3.5.26".clone_into(&mut member.version);
    }
    assert_eq!(refused(&view), []);
    etcd(&mut view).members[2].version = "3.5.25".to_owned();
    assert!(!refused_by(&view, "etcd-version", &["cp3 (3.5.25)"]));
}

#[test]
fn members_of_etcd_at_more_than_two_versions_are_no_state_of_an_upgrade() {
    let mut view = cluster_at(30);
    for (member, version) in etcd(&mut view).members.iter_mut().zip(["3.5.15", "3.5.12", "3.5.9"]) {
        version.clone_into(&mut member.version);
    }
    assert!(!refused_by(&view, "etcd-version", &["3.5.12, 3.5.15, 3.5.9"]));
}

#[test]
fn two_members_of_etcd_are_said_to_be_worse_than_one() {
    let with = |members| {
        let mut view = cluster_at(30);
        let cluster = view.cluster.as_mut().unwrap();
        (cluster.etcd_members, cluster.etcd_healthy_members) = (members, members);
        view
    };
    assert!(refused_by(&with(1), sequence::API_OUTAGE, &["1 member"]));
    assert!(refused_by(&with(2), sequence::API_OUTAGE, &["two are worse than one"]));
    assert_eq!(refused(&with(3)), []);
}

#[test]
fn pods_of_kube_system_that_are_not_ready_need_consent() {
    let mut view = cluster_at(30);
    let pods = Replicas { wanted: 5, ready: 4 };
    findings(&mut view).unready_workloads =
        Ok(vec![Workload { name: "DaemonSet calico-node".to_owned(), pods }]);
    assert!(refused_by(&view, "system-pods", &["DaemonSet calico-node (4 of 5)"]));
}

#[test]
fn no_worker_is_begun_while_kube_proxies_are_replaced_unless_they_are_many_or_nobody_minds() {
    let mut view = cluster_at(30);
    let mut closed = |role, (ready, wanted), policy: &Policy| {
        let pods = Replicas { wanted, ready };
        findings(&mut view).unready_workloads =
            Ok(vec![Workload { name: "DaemonSet kube-proxy".to_owned(), pods }]);
        closed_before(role, &Situation::new(&view, version(31)), policy)
    };
    let strict = Policy::default();
    let (gate, found) = closed(Role::Worker, (3, 5), &strict).unwrap();
    assert_eq!(gate, "kube-proxy-rolling");
    assert!(found.contains("3 of 5 nodes have the kube-proxy"), "{found}");
    assert_eq!(closed(Role::ControlPlane, (3, 5), &strict), None, "they may be replaced meanwhile");
    assert_eq!(closed(Role::Worker, (3, 11), &strict), None);
    let lenient = Policy { accepted: vec!["kube-proxy-rolling".to_owned()], ..strict };
    assert_eq!(closed(Role::Worker, (3, 5), &lenient), None);
}

#[test]
fn a_certificate_that_ends_soon_and_is_renewed_by_nobody_is_asked_about() {
    let mut view = cluster_at(30);
    agent(&mut view, "w1").findings.expiring = Ok(vec![ExpiringCertificate {
        path: "/etc/kubernetes/pki/ca.crt".to_owned(),
        ends: "2026-12-24".to_owned(),
        why: "kubeadm renews no CA".to_owned(),
    }]);
    assert!(refused_by(&view, "certificate-expiring", &["w1", "pki/ca.crt", "2026-12-24", "renews no CA"]));
}

#[test]
fn control_planes_that_are_all_in_one_zone_need_consent_and_zones_that_nobody_named_do_not() {
    let mut view = cluster_at(30);
    for node in ["cp1", "cp2", "cp3"] {
        object(&mut view, node).zone = Some("a".to_owned());
    }
    assert!(refused_by(&view, "one-zone", &["all 3 control planes", "zone a"]));
    object(&mut view, "cp3").zone = Some("b".to_owned());
    assert_eq!(refused(&view), []);
    object(&mut view, "cp3").zone = None;
    assert_eq!(refused(&view), [], "it may be anywhere");
}

#[test]
fn a_kubelet_flag_that_the_target_does_not_know_is_named_with_its_file() {
    let mut view = cluster_at(23);
    kubelet(&mut view, "w1").flags =
        vec![flag("--network-plugin", "/etc/default/kubelet"), flag("--v", "/etc/default/kubelet")];
    let words = ["w1", "--network-plugin in /etc/default/kubelet", "1.24"];
    assert!(!refused_by(&view, "removed-kubelet-flag", &words));
}

#[test]
fn a_flag_that_kubeadm_takes_out_of_its_own_file_is_in_nobodys_way_there() {
    let mut view = cluster_at(34);
    for member in &mut etcd(&mut view).members {
        "3.6.4".clone_into(&mut member.version);
    }
    let own = "/var/lib/kubelet/kubeadm-flags.env";
    kubelet(&mut view, "w1").flags = vec![flag("--pod-infra-container-image", own)];
    assert_eq!(refused(&view), []);
    kubelet(&mut view, "w1").flags = vec![flag("--pod-infra-container-image", "/etc/default/kubelet")];
    assert!(!refused_by(&view, "removed-kubelet-flag", &["/etc/default/kubelet"]));
}

#[test]
fn a_kubelet_that_stayed_behind_loses_what_every_minor_on_its_way_removes() {
    let mut view = cluster_at(25);
    object(&mut view, "w1").kubelet_version = Some(version(23));
    kubelet(&mut view, "w1").flags = vec![flag("--network-plugin", "/etc/default/kubelet")];
    let rules: Vec<&str> = refused(&view).iter().map(|(rule, _)| *rule).collect();
    assert_eq!(rules, ["kubelet-skew", "removed-kubelet-flag"]);
}

#[test]
fn a_feature_gate_that_the_target_does_not_know_is_found_with_kubelets_and_components() {
    let mut view = cluster_at(26);
    let file = "/var/lib/kubelet/config.yaml".to_owned();
    kubelet(&mut view, "w2").feature_gates = vec![Setting { name: "EphemeralContainers".to_owned(), file }];
    assert!(!refused_by(
        &view,
        "removed-feature-gate",
        &["w2", "EphemeralContainers", "config.yaml", "1.27"]
    ));

    let mut view = cluster_at(26);
    findings(&mut view).extra_arguments =
        Ok(vec![argument("kube-scheduler", "--feature-gates", "SeccompDefault=true, CSIMigration=false")]);
    assert!(!refused_by(&view, "removed-feature-gate", &["CSIMigration of kube-scheduler", "1.27"]));
}

#[test]
fn an_argument_of_kubeadm_config_that_its_component_does_not_know_any_more_is_named() {
    let mut view = cluster_at(23);
    findings(&mut view).extra_arguments = Ok(vec![
        argument("kube-apiserver", "--insecure-port", "0"),
        argument("kube-scheduler", "--insecure-port", "0"),
    ]);
    assert!(!refused_by(&view, "removed-argument", &["--insecure-port of kube-apiserver", "1.24"]));
}

#[test]
fn a_value_that_an_argument_may_not_have_any_more_is_named_with_those_that_it_may() {
    let mut view = cluster_at(19);
    findings(&mut view).extra_arguments = Ok(vec![
        argument("kube-apiserver", "--insecure-port", "8080"),
        argument("kube-apiserver", "--port", "0"),
        argument("kube-scheduler", "--port", "10251"),
    ]);
    let words = ["--insecure-port=8080 of kube-apiserver", "1.20", "only 0"];
    assert!(!refused_by(&view, "removed-argument", &words));
    assert!(!refused(&view)[0].1.contains("--port="));
}

#[test]
fn a_group_of_apis_that_is_gone_is_found_where_a_version_of_it_is_turned_on() {
    let mut view = cluster_at(19);
    findings(&mut view).extra_arguments = Ok(vec![argument(
        "kube-apiserver",
        "--runtime-config",
        "api/all=true,settings.k8s.io/v1alpha1=true",
    )]);
    assert!(!refused_by(&view, "removed-argument", &["settings.k8s.io of kube-apiserver", "1.20"]));
}

#[test]
fn an_admission_plugin_that_is_gone_is_found_where_it_is_turned_on_or_off() {
    for flag in ["--enable-admission-plugins", "--disable-admission-plugins"] {
        let mut view = cluster_at(24);
        findings(&mut view).extra_arguments =
            Ok(vec![argument("kube-apiserver", flag, "NodeRestriction,PodSecurityPolicy")]);
        assert!(!refused_by(&view, "removed-admission-plugin", &["PodSecurityPolicy", "1.25"]));
    }
}

#[test]
fn an_api_version_in_use_that_the_target_does_not_serve_needs_consent() {
    let mut view = cluster_at(24);
    let asked = |api: &str, removed_in| RequestedApi { api: api.to_owned(), removed_in };
    api_server(&mut view, "cp2").deprecated = vec![
        asked("batch/v1beta1/cronjobs", 25),
        asked("autoscaling/v2beta2/horizontalpodautoscalers", 26),
        asked("policy/v1beta1/poddisruptionbudgets", 0),
    ];
    let words = ["cp2", "batch/v1beta1/cronjobs", "policy/v1beta1/poddisruptionbudgets"];
    assert!(refused_by(&view, "removed-api", &words));
    assert!(!refused(&view)[0].1.contains("v2beta2"), "1.25 serves it");
}

#[test]
fn objects_of_a_kind_that_goes_for_good_are_asked_about() {
    let mut view = cluster_at(24);
    findings(&mut view).stored =
        Ok(vec![StoredKind { kind: "podsecuritypolicies.policy".to_owned(), objects: 1 }]);
    assert!(refused_by(&view, "stored-objects", &["podsecuritypolicies.policy", "1.25"]));
    view.cluster.as_mut().unwrap().kubeadm_config_version = version(22);
    let situation = Situation::new(&view, version(23));
    assert_eq!(removed::STORED.findings(&situation), [], "1.23 serves it");
}

#[test]
fn a_container_runtime_that_the_targets_kubelet_cannot_drive_is_named() {
    let runtime = |minor, runtime: &str| {
        let mut view = cluster_at(minor);
        runtime.clone_into(&mut object(&mut view, "w1").container_runtime);
        view
    };
    assert!(!refused_by(
        &runtime(23, "docker://20.10.7"),
        "container-runtime",
        &["w1", "Docker 20.10.7", "1.24"]
    ));
    assert_eq!(refused(&runtime(24, "docker://20.10.7")), [], "that is cri-dockerd");
    assert!(!refused_by(
        &runtime(25, "containerd://1.5.9"),
        "container-runtime",
        &["1.5.9", "1.6.0", "1.26"]
    ));
    assert_eq!(refused(&runtime(25, "containerd://1.6.8")), []);
    assert_eq!(refused(&runtime(25, "containerd://1.6.8~ds1")), []);
    assert_eq!(refused(&runtime(25, "cri-o://1.25.1")), []);
    assert!(refused_by(&runtime(25, ""), "container-runtime", &["nobody can tell"]));
}

#[test]
fn cgroup_v1_refuses_from_1_35_on_unless_the_kubelet_is_told_to_start_on_it() {
    let mut view = cluster_at(34);
    for member in &mut etcd(&mut view).members {
        "3.6.4".clone_into(&mut member.version);
    }
    agent(&mut view, "w1").findings.cgroup_v2 = Ok(false);
    assert!(!refused_by(&view, "cgroup-v1", &["w1", "failCgroupV1"]));
    kubelet(&mut view, "w1").starts_on_cgroup_v1 = true;
    assert_eq!(refused(&view), []);

    let mut older = cluster_at(30);
    agent(&mut older, "w1").findings.cgroup_v2 = Ok(false);
    assert_eq!(refused(&older), []);
}

#[test]
fn swap_refuses_unless_the_kubelet_is_told_to_start_beside_it() {
    let mut view = cluster_at(30);
    agent(&mut view, "w1").findings.swap = Ok(vec!["/dev/sda2".to_owned()]);
    assert!(!refused_by(&view, "swap", &["w1", "/dev/sda2", "failSwapOn"]));
    kubelet(&mut view, "w1").fails_on_swap = false;
    assert_eq!(refused(&view), []);
}

#[test]
fn a_control_planes_kubelet_behind_a_load_balancer_is_asked_about_where_it_would_break() {
    let behind = |minor| {
        let mut view = cluster_at(minor);
        agent(&mut view, "cp2").findings.kubelet_api_server = Ok("https://lb:6443".to_owned());
        view
    };
    let words = ["cp2", "https://lb:6443", "https://cp2:6443", "127316"];
    assert!(refused_by(&behind(30), "kubelet-ahead", &words));
    assert_eq!(refused(&behind(29)), []);
    let mut workers = cluster_at(30);
    agent(&mut workers, "w1").findings.kubelet_api_server = Ok("https://lb:6443".to_owned());
    assert_eq!(refused(&workers), [], "workers are raised when every API server is");
}

#[test]
fn a_minor_that_nobody_has_read_up_on_needs_consent() {
    let mut view = cluster_at(36);
    for member in &mut etcd(&mut view).members {
        "3.6.8".clone_into(&mut member.version);
    }
    assert!(refused_by(&view, "unknown-minor", &["v1.37", "1.36", "install a newer one"]));
}

#[test]
fn a_minor_from_before_the_table_needs_consent_too() {
    assert!(refused_by(&cluster_at(17), "unknown-minor", &["v1.18", "from 1.19", "CHANGELOG-1.18.md"]));
    assert_eq!(refused(&cluster_at(18)), []);
}

#[test]
fn between_nodes_only_what_heals_by_itself_is_asked_and_the_first_that_is_closed_is_named() {
    let mut view = cluster_at(30);
    let closed = |view: &ClusterView| {
        let situation = Situation::new(view, version(31));
        closed_before(Role::Worker, &situation, &Policy::default()).map(|(gate, _)| gate)
    };
    assert_eq!(closed(&view), None);
    kubelet(&mut view, "w1").flags = vec![flag("--iptables-drop-bit", "/etc/default/kubelet")];
    agent(&mut view, "w1").drift = Ok(vec![Drift { path: "x".to_owned(), lines: Vec::new() }]);
    agent(&mut view, "w1").obstacles =
        Ok(vec![Obstacle { rule: "stray-manifest", message: "a second one".to_owned() }]);
    assert_eq!(closed(&view), None, "that was asked before the start");
    view.cluster.as_mut().unwrap().dns = Ok(Some(Replicas { wanted: 2, ready: 0 }));
    assert_eq!(closed(&view), Some("coredns-unready"));
    api_server(&mut view, "cp3").unready = "no".to_owned();
    assert_eq!(closed(&view), Some("api-server-unready"));
    object(&mut view, "w2").ready = false;
    assert_eq!(closed(&view), Some("node-not-ready"));
}

#[test]
fn the_table_of_gates_in_the_documentation_is_the_list() {
    let documented = include_str!("../../../../docs/cli.md");
    let mut rows = documented.lines().skip_while(|line| !line.starts_with("| gate |")).skip(2);
    for gate in all() {
        let consent = match gate.consent {
            Consent::Never => "no",
            Consent::ToTheUnknown => "unknown",
            Consent::Always => "yes",
        };
        let between = match gate.when {
            When::Before => "",
            When::Between => "too",
            When::BeforeWorkers => "workers",
        };
        let row = format!("| `{}` | {} | {consent} | {between} |", gate.name, gate.about);
        assert_eq!(rows.next(), Some(row.as_str()));
    }
    assert_eq!(rows.next(), Some(""));
}
