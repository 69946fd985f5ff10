//! The agent's real host (`liftlock_agent::host::real`) on stand-in nodes: what the in-memory twin cannot show.

#![expect(clippy::disallowed_methods, reason = "the tests look at the node past the host")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod protected_paths;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_agent::engine::lease::{Lease, Permit};
use liftlock_agent::facts;
use liftlock_agent::host::real::{self, RealClock, RealCommands, RealConfig};
use liftlock_agent::host::{ChunkSink, Host, HostError, HostResult, Layout, Limits, Lines, NodeCondition};
use liftlock_agent::packages::PackageSettings;
use liftlock_proto::name::FencingToken;
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::standin::cluster::{Cluster, Shape};
use liftlock_tests::standin::fault::{Action, Fault, Point};
use liftlock_tests::standin::node::NodeTree;
use sha2::{Digest, Sha256};

const LIMITS: Limits = Limits { time: Duration::from_mins(1), silence: Duration::from_mins(1) };
const WAIT: Duration = Duration::from_secs(30);
const TARGET: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

struct Place {
    _folder: tempfile::TempDir,
    cluster: Cluster,
}

impl Place {
    async fn new(control_planes: usize, workers: usize) -> Self {
        _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("liftlock-").tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
        let program = Utf8PathBuf::from(env!("CARGO_BIN_EXE_standin"));
        let cluster = Cluster::start(&path, &program, &Shape::new(control_planes, workers)).await.unwrap();
        Self { _folder: folder, cluster }
    }

    fn tree(&self, node: &str) -> NodeTree {
        self.cluster.machine(node).unwrap().tree.clone()
    }

    fn host(&self, node: &str) -> Host {
        let machine = self.cluster.machine(node).unwrap();
        let tree = &machine.tree;
        fs::create_dir_all(tree.agent_state()).unwrap();
        let config = RealConfig {
            node: node.parse().unwrap(),
            layout: Layout { root: tree.root(), state_dir: tree.agent_state() },
            // The tests' own children are programs of this machine.
            path: vec![tree.programs(), "/usr/bin".into(), "/bin".into()],
            runtime_endpoint: Some(format!("unix://{}", tree.runtime_socket())),
            etcd_endpoint: Some(format!("https://{}:2379", machine.facts.address)),
            api_timeout: real::API_TIMEOUT,
            packages: PackageSettings::default(),
            redeploy: None,
            addons: Arc::default(),
            hooks: Arc::default(),
        };
        real::host(&config).unwrap()
    }
}

fn permit() -> Permit {
    Lease::new(FencingToken(7), Duration::MAX).permit(&RealClock).unwrap()
}

/// Collects lines; can be waited for.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>, Arc<tokio::sync::Notify>);

impl Lines for Said {
    fn line(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
        self.1.notify_one();
    }
}

impl Said {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    async fn wait_for(&self, line: &str) {
        let heard = async {
            while !self.lines().iter().any(|said| said == line) {
                self.1.notified().await;
            }
        };
        tokio::time::timeout(WAIT, heard)
            .await
            .unwrap_or_else(|_| panic!("never said {line}: {:?}", self.lines()));
    }
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A child that tells when it started, goes on once `go` is there, and ends with `status`.
fn child(folder: &Utf8Path, status: u8) -> Vec<String> {
    let script = format!(
        "echo start >> {folder}/starts; echo begun; while [ ! -e {folder}/go ]; do sleep 0.01; done; echo done; exit {status}"
    );
    argv(&["sh", "-c", &script])
}

fn starts(folder: &Utf8Path) -> usize {
    fs::read_to_string(folder.join("starts")).unwrap_or_default().lines().count()
}

fn runs(cluster: &Cluster, node: &str, container: &str) -> bool {
    cluster.containers(node).iter().any(|running| running.name == container)
}

/// Nothing is left of a unit: neither in systemd nor its log.
async fn assert_released(host: &Host, unit: &str) {
    let state = host.commands.unit_state(&format!("{unit}.service")).await.unwrap();
    assert_eq!((state.active.as_str(), state.main_pid), ("inactive", 0));
    let logs = host.files.list(&host.layout.state_dir.join("run")).await.unwrap();
    assert!(logs.is_empty(), "{logs:?}");
}

#[tokio::test]
async fn a_command_runs_in_a_unit_with_a_fixed_environment_and_nothing_of_it_is_left() {
    let place = Place::new(1, 0).await;
    let host = place.host("cp1");
    let said = Said::default();
    let command =
        argv(&["sh", "-c", "echo $LIFTLOCK_ROOT; echo \"$HOME $LC_ALL $DEBIAN_FRONTEND [$KUBECONFIG]\" >&2"]);
    host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await.unwrap();
    assert_eq!(said.lines(), [place.tree("cp1").root().as_str(), "/root C noninteractive []"]);
    assert_released(&host, "liftlock-7-x").await;
}

#[tokio::test]
async fn a_child_outlives_whoever_waits_for_it_and_is_joined_not_started_again() {
    let place = Place::new(1, 0).await;
    let (host, folder) = (place.host("cp1"), place.tree("cp1").at("/tmp"));
    fs::create_dir_all(&folder).unwrap();
    let (first, second) = (Said::default(), Said::default());
    let command = child(&folder, 0);
    let waiting = {
        let (host, command, said) = (host.clone(), command.clone(), first.clone());
        tokio::spawn(async move {
            host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await
        })
    };
    first.wait_for("begun").await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());

    let joined = {
        let (host, said) = (host.clone(), second.clone());
        tokio::spawn(async move {
            host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await
        })
    };
    second.wait_for("begun").await;
    fs::write(folder.join("go"), "").unwrap();
    joined.await.unwrap().unwrap();
    assert_eq!(second.lines(), ["begun", "done"], "the log is told from its start");
    assert_eq!(starts(&folder), 1);
    assert_released(&host, "liftlock-7-x").await;
}

#[tokio::test]
async fn a_result_that_nobody_took_is_taken_without_a_second_start() {
    for (status, well) in [(0, true), (3, false)] {
        let place = Place::new(1, 0).await;
        let (host, folder) = (place.host("cp1"), place.tree("cp1").at("/tmp"));
        fs::create_dir_all(&folder).unwrap();
        let (said, command) = (Said::default(), child(&folder, status));
        let waiting = {
            let (host, command, said) = (host.clone(), command.clone(), said.clone());
            tokio::spawn(async move {
                host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await
            })
        };
        said.wait_for("begun").await;
        waiting.abort();
        assert!(waiting.await.is_err());
        fs::write(folder.join("go"), "").unwrap();
        let systemd = place.cluster.machine("cp1").unwrap().systemd.clone();
        let ended = |_: &Cluster| systemd.running_units().is_empty();
        place.cluster.wait_for("the child's end", WAIT, ended).await.unwrap();

        let result = host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await;
        assert_eq!((result.is_ok(), starts(&folder)), (well, 1), "{result:?}");
        assert_released(&host, "liftlock-7-x").await;
        // The next attempt is one of its own.
        let result = host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await;
        assert_eq!((result.is_ok(), starts(&folder)), (well, 2), "{result:?}");
    }
}

#[tokio::test]
async fn an_agent_that_starts_removes_the_logs_of_units_that_are_gone_and_of_no_other() {
    let place = Place::new(1, 0).await;
    let (host, tree) = (place.host("cp1"), place.tree("cp1"));
    let folder = place.tree("cp1").root().join("tmp");
    fs::create_dir_all(&folder).unwrap();
    let said = Said::default();
    let command = child(&folder, 0);
    let (permit, bounds) = (permit(), LIMITS.into());
    let running = host.commands.run(&permit, "liftlock-7-runs", &command, &bounds, &said);
    let logs = tree.agent_state().join("run");
    let meanwhile = async {
        said.wait_for("begun").await;
        fs::write(logs.join("liftlock-7-gone.log"), "it went with the power").unwrap();
        let layout = Layout { root: tree.root(), state_dir: tree.agent_state() };
        RealCommands::new(&layout, vec![tree.programs()]).forget_lost_units().await.unwrap();
        assert!(!logs.join("liftlock-7-gone.log").exists());
        assert!(logs.join("liftlock-7-runs.log").exists());
        fs::write(folder.join("go"), "").unwrap();
    };
    let (result, ()) = tokio::join!(running, meanwhile);
    result.unwrap();
}

#[tokio::test]
async fn a_command_is_not_started_where_the_lease_ended_after_the_permit_was_made() {
    let place = Place::new(1, 0).await;
    let (host, folder) = (place.host("cp1"), place.tree("cp1").root());
    let lease = Lease::new(FencingToken(7), Duration::MAX);
    let permit = lease.permit(&RealClock).unwrap();
    lease.lose("lease 8 was granted after it");
    let command = child(&folder, 0);
    let error = host
        .commands
        .run(&permit, "liftlock-7-x", &command, &LIMITS.into(), &Said::default())
        .await
        .unwrap_err();
    assert!(matches!(error, HostError::LeaseLost(_)), "{error}");
    assert_eq!(starts(&folder), 0);
    assert_released(&host, "liftlock-7-x").await;
}

#[tokio::test]
async fn a_failure_tells_the_command_its_end_and_its_last_lines() {
    let place = Place::new(1, 0).await;
    let host = place.host("cp1");
    for (script, expected) in
        [("echo why >&2; exit 7", "exit status 7"), ("echo why; kill -9 $$", "signal 9 (SIGKILL)")]
    {
        let command = argv(&["sh", "-c", script]);
        match host
            .commands
            .run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &Said::default())
            .await
            .unwrap_err()
        {
            HostError::Command { argv, status, output }
            | HostError::CommandKilled { argv, signal: status, output } => {
                assert_eq!((argv, status.as_str(), output.as_str()), (command, expected, "why"));
            }
            other => panic!("{other}"),
        }
        assert_released(&host, "liftlock-7-x").await;
    }
    let missing = argv(&["no-such-program"]);
    let error = host
        .commands
        .run(&permit(), "liftlock-7-x", &missing, &LIMITS.into(), &Said::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("there is no program"), "{error}");
    assert_released(&host, "liftlock-7-x").await;
}

#[tokio::test]
async fn a_child_that_is_silent_or_late_is_ended_and_said_to_be() {
    let place = Place::new(1, 0).await;
    let host = place.host("cp1");
    let short = Duration::from_millis(400);
    let cases = [
        (Limits { silence: short, ..LIMITS }, "echo begun; exec sleep 600", "said nothing for that long"),
        (
            Limits { time: short, ..LIMITS },
            "while true; do echo begun; sleep 0.05; done",
            "ran longer than its limit",
        ),
    ];
    for (limits, script, expected) in cases {
        let command = argv(&["sh", "-c", script]);
        match host
            .commands
            .run(&permit(), "liftlock-7-x", &command, &limits.into(), &Said::default())
            .await
            .unwrap_err()
        {
            HostError::CommandLimit { what, limit, output, .. } => {
                assert_eq!((what, limit), (expected, short));
                assert!(output.ends_with("begun"), "{output}");
            }
            other => panic!("{other}"),
        }
        assert_released(&host, "liftlock-7-x").await;
    }
}

#[tokio::test]
async fn a_unit_that_runs_something_else_is_left_alone() {
    let place = Place::new(1, 0).await;
    let (host, folder) = (place.host("cp1"), place.tree("cp1").at("/tmp"));
    fs::create_dir_all(&folder).unwrap();
    let said = Said::default();
    let (running, command) = (host.clone(), child(&folder, 0));
    let other = {
        let said = said.clone();
        tokio::spawn(async move {
            running.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await
        })
    };
    said.wait_for("begun").await;
    let command = argv(&["echo", "mine"]);
    let error =
        host.commands.run(&permit(), "liftlock-7-x", &command, &LIMITS.into(), &said).await.unwrap_err();
    assert!(error.to_string().contains("it exists and runs something else"), "{error}");
    fs::write(folder.join("go"), "").unwrap();
    other.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_package_is_installed_and_what_was_held_is_held_again() {
    let place = Place::new(1, 0).await;
    let packages = place.host("cp1").packages;
    let said = Said::default();
    let held = packages.held().await.unwrap();
    assert_eq!(held, ["kubeadm", "kubectl", "kubelet"]);
    packages.refresh(&said).await.unwrap();
    assert!(packages.offered().await.unwrap().contains(&TARGET));
    packages.download(TARGET, &said).await.unwrap();
    packages.install(&permit(), &["kubeadm"], TARGET, &held, &said).await.unwrap();
    assert_eq!(packages.held().await.unwrap(), held);
    assert_eq!(packages.binary_version("kubeadm").await.unwrap(), TARGET);
    assert_eq!(packages.installed().await.unwrap()["kubeadm"], "1.31.2-1.1");

    let back = [("kubeadm".to_owned(), "1.30.4-1.1".to_owned())];
    packages.reinstall(&permit(), &back, &held, &said).await.unwrap();
    assert_eq!(packages.binary_version("kubeadm").await.unwrap(), KubernetesVersion::new(1, 30, 4));
    assert_eq!(packages.held().await.unwrap(), held);
}

#[tokio::test]
async fn what_was_not_held_is_not_held_afterwards() {
    let place = Place::new(1, 0).await;
    let packages = place.host("cp1").packages;
    packages.refresh(&Said::default()).await.unwrap();
    packages.install(&permit(), &["kubeadm"], TARGET, &[], &Said::default()).await.unwrap();
    assert_eq!(
        packages.held().await.unwrap(),
        ["kubectl", "kubelet"],
        "apt took its hold off, and nobody asked for it"
    );
}

#[tokio::test]
async fn a_hold_that_a_crash_prevented_is_owed_until_it_is_back() {
    let place = Place::new(1, 0).await;
    let (packages, tree) = (place.host("cp1").packages, place.tree("cp1"));
    let said = Said::default();
    let held = packages.held().await.unwrap();
    packages.refresh(&said).await.unwrap();
    // As if the agent had died between the installation and the hold: apt-mark cannot be run.
    let (program, hidden) = (tree.programs().join("apt-mark"), tree.programs().join("apt-mark.hidden"));
    fs::rename(&program, &hidden).unwrap();
    assert!(packages.install(&permit(), &["kubeadm"], TARGET, &held, &said).await.is_err());
    fs::rename(&hidden, &program).unwrap();

    assert_eq!(packages.binary_version("kubeadm").await.unwrap(), TARGET);
    assert!(
        !packages.installed().await.unwrap().contains_key("kubeadm"),
        "not wholly installed: its hold is owed"
    );
    assert_eq!(packages.held().await.unwrap(), held, "what is owed counts as held");
    packages.repair(&permit(), &said).await.unwrap();
    assert_eq!(packages.installed().await.unwrap()["kubeadm"], "1.31.2-1.1");
    assert_eq!(packages.held().await.unwrap(), held);
}

#[tokio::test]
async fn what_an_interrupted_dpkg_left_is_finished_before_the_next_installation() {
    let place = Place::new(1, 0).await;
    let (packages, tree) = (place.host("cp1").packages, place.tree("cp1"));
    let (said, held) = (Said::default(), packages.held().await.unwrap());
    packages.refresh(&said).await.unwrap();
    let fault = Fault::arm(&tree, &Point::AptUnpacked("kubeadm".to_owned()), &Action::Die).unwrap();
    let error = packages.install(&permit(), &["kubeadm"], TARGET, &held, &said).await.unwrap_err();
    assert!(error.to_string().contains("signal 9 (SIGKILL)"), "{error}");
    assert!(fault.was_reached());
    fault.disarm().unwrap();
    assert!(!packages.installed().await.unwrap().contains_key("kubeadm"));
    packages.repair(&permit(), &said).await.unwrap();
    packages.install(&permit(), &["kubeadm"], TARGET, &held, &said).await.unwrap();
    assert_eq!(packages.installed().await.unwrap()["kubeadm"], "1.31.2-1.1");
    assert_eq!(packages.held().await.unwrap(), held);
    let before = said.lines().len();
    packages.repair(&permit(), &said).await.unwrap();
    assert_eq!(said.lines().len(), before, "nothing to repair, nothing run");
}

#[tokio::test]
async fn the_images_are_those_of_the_downloaded_kubeadm_for_the_clusters_own_configuration() {
    let place = Place::new(1, 1).await;
    // A worker reads kubeadm-config with its kubelet's credentials.
    for node in ["cp1", "w1"] {
        let host = place.host(node);
        host.packages.refresh(&Said::default()).await.unwrap();
        host.packages.download(TARGET, &Said::default()).await.unwrap();
        let images = host.packages.images_of(TARGET).await.unwrap();
        assert!(images.iter().any(|image| image.ends_with("/kube-apiserver:v1.31.2")), "{images:?}");
        let left = host.files.list(&host.layout.state_dir).await.unwrap();
        assert_eq!(left, ["run"], "the scratch folder is gone");
    }
}

#[tokio::test]
async fn a_package_that_is_not_what_the_repository_says_is_not_run() {
    let place = Place::new(1, 0).await;
    let (host, tree) = (place.host("cp1"), place.tree("cp1"));
    host.packages.refresh(&Said::default()).await.unwrap();
    host.packages.download(TARGET, &Said::default()).await.unwrap();
    let apt_get = tree.programs().join("apt-get");
    fs::remove_file(&apt_get).unwrap();
    let package = tree.at("/tmp/kubeadm.deb");
    fs::create_dir_all(tree.at("/tmp")).unwrap();
    fs::write(&package, "Package: kubeadm\nVersion: 1.31.2-1.1\nand something else\n").unwrap();
    let sum = "0".repeat(64);
    fs::write(&apt_get, format!("#!/bin/sh\necho \"'file:{package}' kubeadm.deb 9 SHA256:{sum}\"\n"))
        .unwrap();
    fs::set_permissions(&apt_get, fs::Permissions::from_mode(0o755)).unwrap();
    let error = host.packages.images_of(TARGET).await.unwrap_err().to_string();
    assert!(error.contains("its SHA-256 is") && error.contains(package.as_str()), "{error}");
}

#[tokio::test]
async fn every_member_of_etcd_is_asked_itself_and_one_that_is_down_says_why() {
    let place = Place::new(3, 0).await;
    let etcd = place.host("cp2").etcd;
    let members = etcd.members().await.unwrap();
    let seen: Vec<(&str, bool, bool)> =
        members.iter().map(|member| (member.name.as_str(), member.local, member.status.is_ok())).collect();
    assert_eq!(seen, [("cp1", false, true), ("cp2", true, true), ("cp3", false, true)]);
    assert!(members.iter().all(|member| member.status.as_ref().is_ok_and(|status| status.leader != 0)));
    assert_eq!(etcd.alarms().await.unwrap(), Vec::<String>::new());

    place.cluster.etcd.raise_nospace("cp3");
    assert_eq!(etcd.alarms().await.unwrap(), ["NOSPACE on cp3"]);
    place.cluster.set_broken("cp3", "etcd", true);
    place
        .cluster
        .wait_for("cp3's etcd to be down", WAIT, |cluster| !runs(cluster, "cp3", "etcd"))
        .await
        .unwrap();
    let members = etcd.members().await.unwrap();
    let down = members.iter().find(|member| member.name == "cp3").unwrap();
    assert!(down.status.is_err(), "{down:?}");
}

/// Keeps the last 32 bytes apart from what came before.
#[derive(Default)]
struct Snapshot(Vec<u8>);

#[async_trait::async_trait]
impl ChunkSink for Snapshot {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[tokio::test]
async fn a_snapshot_comes_whole_with_its_checksum_at_the_end() {
    let place = Place::new(1, 0).await;
    let mut snapshot = Snapshot::default();
    place.host("cp1").etcd.snapshot(&mut snapshot).await.unwrap();
    let (content, sum) = snapshot.0.split_last_chunk::<32>().unwrap();
    assert!(!content.is_empty());
    assert_eq!(Sha256::digest(content).as_slice(), sum);
}

#[tokio::test]
async fn an_etcd_that_runs_elsewhere_is_refused_and_said_to_be_external() {
    let place = Place::new(1, 0).await;
    let manifest = place.tree("cp1").manifest("kube-apiserver");
    let text = fs::read_to_string(&manifest).unwrap();
    let external = text
        .lines()
        .map(|line| {
            if line.contains("--etcd-servers=") {
                "    - --etcd-servers=https://192.0.2.1:2379"
            } else {
                line
            }
        })
        .collect::<Vec<_>>()
        .join("\n");
    // In its place, but not where the kubelet looks: what counts is what the agent reads.
    let host = place.host("cp1");
    place.cluster.set_broken("cp1", "kube-apiserver", true);
    fs::write(&manifest, external).unwrap();
    let error = host.etcd.members().await.unwrap_err().to_string();
    assert!(error.contains("external etcd") && error.contains("192.0.2.1"), "{error}");
}

#[tokio::test]
async fn without_its_certificates_etcd_cannot_be_asked_and_the_missing_one_is_named() {
    let place = Place::new(1, 0).await;
    fs::remove_file(place.tree("cp1").at("/etc/kubernetes/pki/etcd/healthcheck-client.key")).unwrap();
    let error = place.host("cp1").etcd.members().await.unwrap_err().to_string();
    assert!(error.contains("healthcheck-client.key"), "{error}");
}

#[tokio::test]
async fn a_node_sees_itself_and_its_cluster_with_its_own_credentials() {
    let place = Place::new(1, 1).await;
    let (kube, other) = (place.host("w1").kube, place.host("cp1").kube);
    let nodes: Vec<String> = kube.nodes().await.unwrap().into_iter().map(|node| node.name).collect();
    assert_eq!(nodes, ["cp1", "w1"]);
    kube.cordon(&permit(), &"p-0123456789ab".parse().unwrap()).await.unwrap();
    let node = kube.node().await.unwrap();
    assert!(node.unschedulable && !node.control_plane);
    assert_eq!(node.cordoned_by.as_deref(), Some("p-0123456789ab"));
    kube.uncordon(&permit()).await.unwrap();
    let node = kube.node().await.unwrap();
    assert_eq!((node.unschedulable, node.cordoned_by), (false, None));
    assert_eq!(kube.kubeadm_config_version().await.unwrap(), KubernetesVersion::new(1, 30, 4));
    assert!(other.config_map_names().await.unwrap().contains(&"kubeadm-config".to_owned()));
    assert!(kube.config_map_names().await.is_err(), "a kubelet may not list them");
}

#[tokio::test]
async fn an_api_server_that_comes_back_is_found_again_by_those_who_wait() {
    let place = Place::new(1, 1).await;
    let (control_plane, worker) = (place.host("cp1").kube, place.host("w1").kube);
    let version = KubernetesVersion::new(1, 30, 4);
    control_plane.wait_for_own_api_server(version, WAIT).await.unwrap();
    let error = control_plane.wait_for_own_api_server(TARGET, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("last seen: v1.30.4, /readyz: ok"), "{error}");

    place.cluster.set_api_gone(true);
    place
        .cluster
        .wait_for("the API server to be gone", WAIT, |cluster| !runs(cluster, "cp1", "kube-apiserver"))
        .await
        .unwrap();
    let waiting = tokio::spawn(async move {
        let condition = NodeCondition { kubelet_version: Some(version) };
        let node = worker.wait_for_node(condition, WAIT).await;
        (node, control_plane.wait_for_own_api_server(version, WAIT).await)
    });
    place.cluster.set_api_gone(false);
    let (node, api_server) = waiting.await.unwrap();
    assert!(node.unwrap().ready);
    api_server.unwrap();
}

#[tokio::test]
async fn the_runtime_tells_what_runs_and_pulls_what_is_missing() {
    let place = Place::new(1, 0).await;
    let runtime = place.host("cp1").runtime;
    let running = runtime.running().await.unwrap();
    let api_server = running.iter().find(|container| container.name == "kube-apiserver").unwrap();
    assert_eq!(
        (api_server.pod.as_str(), api_server.namespace.as_str()),
        ("kube-apiserver-cp1", "kube-system")
    );
    assert!(
        api_server.images.iter().any(|image| image.ends_with("/kube-apiserver:v1.30.4")),
        "{api_server:?}"
    );
    let image = "registry.example/new:1";
    assert!(!runtime.has_image(image).await.unwrap());
    runtime.pull(image).await.unwrap();
    assert!(runtime.has_image(image).await.unwrap());
}

#[tokio::test]
async fn a_node_reports_its_facts_and_what_it_could_not_read() {
    let place = Place::new(1, 1).await;
    place.host("cp1").packages.refresh(&Said::default()).await.unwrap();
    let report = facts::as_json(&facts::gather(&place.host("cp1")).await);
    assert_eq!(report["errors"], serde_json::json!([]));
    assert_eq!(report["control_plane_version"], "v1.30.4");
    assert_eq!(report["cluster"]["kubeadm_config_version"], "v1.30.4");
    assert_eq!(report["cluster"]["etcd_healthy_members"], 1);
    assert_eq!(report["cluster"]["nodes"][1]["name"], "w1");
    let worker = facts::as_json(&facts::gather(&place.host("w1")).await);
    assert_eq!((&worker["cluster"], &worker["errors"]), (&serde_json::Value::Null, &serde_json::json!([])));

    fs::remove_file(place.tree("w1").programs().join("kubelet")).unwrap();
    let worker = facts::as_json(&facts::gather(&place.host("w1")).await);
    assert_eq!(worker["kubelet_version"], "");
    assert!(worker["errors"][0].as_str().unwrap().contains("kubelet"), "{worker}");
}
