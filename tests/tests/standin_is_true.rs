//! What the stand-ins claim about the real programs, compared with transcripts of the real ones on a real cluster.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends at what it did not expect")]
#![expect(clippy::disallowed_methods, reason = "the tests stand on the other side of the host boundary")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kube::config::{KubeConfigOptions, Kubeconfig};
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::scratch;
use liftlock_tests::standin::cluster::{Cluster, Shape};
use liftlock_tests::standin::node::ROOT_VARIABLE;
use liftlock_tests::standin::objects::Key;
use liftlock_tests::standin::rpm;
use serde_json::Value;

/// A recorded run of a real program.
struct Transcript {
    name: String,
    argv: Vec<String>,
    status: i32,
    stdout: String,
    stderr: String,
}

impl Transcript {
    fn read(name: &str) -> Result<Self> {
        let folder = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/real").join(name);
        let file = |file: &str| {
            fs::read_to_string(folder.join(file))
                .with_context(|| format!("cannot read {file} of the transcript {name}"))
        };
        Ok(Self {
            name: name.to_owned(),
            argv: file("argv")?.lines().map(str::to_owned).collect(),
            status: file("status")?.trim().parse()?,
            stdout: file("stdout")?,
            stderr: file("stderr")?,
        })
    }
}

struct RealShape {
    _folder: tempfile::TempDir,
    cluster: Cluster,
}

/// The shape of the cluster that was recorded: v1.19.7, with v1.20.2 on offer.
async fn recorded_shape() -> RealShape {
    let folder = scratch::folder().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
    let shape = Shape {
        version: KubernetesVersion::new(1, 19, 7),
        offered: vec![KubernetesVersion::new(1, 20, 2)],
        ..Shape::new(3, 1)
    };
    let program = Utf8PathBuf::from(env!("CARGO_BIN_EXE_standin"));
    let cluster = Cluster::start(&path, &program, &shape).await.unwrap();
    RealShape { _folder: folder, cluster }
}

impl RealShape {
    /// Runs a program of a node with the transcript's arguments, and compares.
    async fn compare(&self, node: &str, transcript: &str) {
        let transcript = Transcript::read(transcript).unwrap();
        let (status, stdout, stderr) = self.run(node, &transcript.argv).await;
        let name = &transcript.name;
        assert_eq!(status, transcript.status, "{name}: exit status; standard error: {stderr}");
        similar(&format!("{name}: standard output"), &stdout, &transcript.stdout);
        similar(&format!("{name}: standard error"), &stderr, &transcript.stderr);
    }

    /// The same in a folder, and of standard error only the errors: the rest is a log.
    fn compare_in(&self, folder: &Utf8Path, node: &str, transcript: &str) {
        let Transcript { name, argv, status, stdout, stderr } = Transcript::read(transcript).unwrap();
        let tree = &self.cluster.machine(node).unwrap().tree;
        let output = Command::new(tree.programs().join(&argv[0]))
            .args(&argv[1..])
            .current_dir(folder)
            .env(ROOT_VARIABLE, tree.root())
            .output()
            .unwrap();
        let errors = |text: &str| {
            text.lines().filter(|line| line.starts_with("Error: ")).collect::<Vec<_>>().join("\n")
        };
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{name}: exit status; standard error: {said}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), stdout, "{name}: standard output");
        assert_eq!(errors(&said), errors(&stderr), "{name}: standard error");
    }

    async fn run(&self, node: &str, argv: &[String]) -> (i32, String, String) {
        let tree = self.cluster.machine(node).unwrap().tree.clone();
        let argv = argv.to_vec();
        let run = move || {
            let (program, arguments) = argv.split_first().unwrap();
            let output = Command::new(tree.programs().join(program))
                .args(arguments)
                .env(ROOT_VARIABLE, tree.root())
                .output()
                .unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

/// Compares line by line, after what differs from run to run has been taken out.
#[track_caller]
fn similar(what: &str, standin: &str, real: &str) {
    if let (Ok(standin), Ok(real)) =
        (serde_json::from_str::<Value>(standin), serde_json::from_str::<Value>(real))
    {
        assert_eq!(standin, real, "{what}: the stand-in's is the first");
        return;
    }
    let (standin, real) = (normalized(standin).join("\n"), normalized(real).join("\n"));
    assert!(standin == real, "{what}; the stand-in's:\n{standin}\n--- the real one's:\n{real}\n---");
}

fn normalized(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        // apt's progress and sizes, and debconf's words about its own set-up.
        let dropped = ["Need to get ", "After this operation", "Get:", "(Reading database", "debconf: "];
        if dropped.iter().any(|start| line.starts_with(start)) {
            continue;
        }
        // klog's date, time and process.
        let line = match line.split_once("] Warning: ") {
            Some((start, words)) if start.starts_with('W') => words,
            _ => line,
        };
        let words: Vec<String> = line.trim_end().split(' ').map(normalized_word).collect();
        let line = words.join(" ");
        // kubeadm repeats a hash for as long as it waits.
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    lines
}

fn normalized_word(word: &str) -> String {
    let is_hash = word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash {
        return "HASH".to_owned();
    }
    let mut word = word.to_owned();
    for (start, name) in [("kubeadm-upgraded-manifests", "RANDOM"), ("kubeadm-backup-manifests-", "TIME")] {
        if let Some(at) = word.find(start) {
            let rest = at + start.len();
            let end = word[rest..].find(['/', '"']).map_or(word.len(), |length| rest + length);
            word.replace_range(rest..end, name);
        }
    }
    word
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_restores_and_refuses_snapshots_as_the_real_one_does() {
    let real = recorded_shape().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let fixtures = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/real/etcd");
    let mut snapshot = fs::read(fixtures.join("snapshot/snapshot.db")).unwrap();
    fs::write(folder.join("snapshot.db"), &snapshot).unwrap();
    snapshot[9000] = 0x55;
    fs::write(folder.join("flipped.db"), &snapshot).unwrap();
    for transcript in [
        "tool-version",
        "snapshot-restore",
        "snapshot-restore-again",
        "snapshot-restore-flipped",
        "snapshot-restore-missing",
    ] {
        real.compare_in(folder, "cp1", &format!("etcd/{transcript}"));
    }
    let database = fs::read(folder.join("scratch/member/snap/db")).unwrap();
    assert_eq!(database.len() + 32, snapshot.len());
}

#[tokio::test]
async fn kubeadm_upgrades_control_planes_and_workers_as_the_real_one_does() {
    let real = recorded_shape().await;
    real.compare("cp1", "kubeadm/version-short").await;
    real.compare("cp1", "kubeadm/version-json").await;
    real.compare("cp1", "kubeadm/images-list").await;
    real.compare("cp1", "kubeadm/not-a-flag").await;
    real.compare("cp1", "kubelet/version").await;
    real.compare("cp1", "kubeadm/apply-with-old-kubeadm").await;
    for node in ["cp1", "cp2", "cp3", "w1"] {
        let update = ["apt-get", "update"].map(str::to_owned);
        assert_eq!(real.run(node, &update).await.0, 0);
        real.compare(node, "upgrade/cp1-kubeadm-package").await;
    }
    real.compare("cp1", "upgrade/cp1-dpkg-after").await;
    real.compare("cp1", "upgrade/cp1-showhold-after").await;
    real.compare("cp1", "kubeadm/images-list-target").await;
    real.compare("w1", "upgrade/w1-apply-refused").await;
    real.compare("cp1", "upgrade/cp1-apply").await;
    assert_eq!(real.cluster.kubeadm_config_version(), "v1.20.2");
    real.compare("cp1", "upgrade/cp1-apply-again").await;
    real.compare("cp1", "upgrade/cp1-apply-newer").await;
    real.compare("cp1", "upgrade/cp1-apply-older").await;
    real.compare("cp1", "upgrade/cp1-apply-unknown").await;
    real.compare("cp3", "upgrade/cp3-node").await;
    real.compare("w1", "upgrade/w1-node").await;
    let manifest = real.cluster.machine("cp2").unwrap().tree.manifest("kube-apiserver");
    let hidden = manifest.with_extension("hidden");
    fs::rename(&manifest, &hidden).unwrap();
    real.compare("cp2", "upgrade/cp3-node-without-apiserver-manifest").await;
    fs::rename(&hidden, &manifest).unwrap();
    real.cluster
        .wait_for("cp2's API server", Duration::from_secs(10), |cluster| cluster.containers("cp2").len() >= 4)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_package_manager_holds_installs_and_refuses_as_the_real_one_does() {
    let real = recorded_shape().await;
    let update = ["apt-get", "update"].map(str::to_owned);
    assert_eq!(real.run("cp1", &update).await.0, 0);
    for transcript in [
        "dpkg/query",
        "dpkg/query-plain",
        "dpkg/query-unknown",
        "dpkg/audit",
        "apt/madison-unknown",
        "apt/showhold",
        "apt/download-only-held",
        "apt/install-held",
        "apt/install-no-such-package",
        "apt/install-no-such-version",
        "apt/download-only-allow-held",
        "apt/unhold",
        "apt/unhold-again",
        "apt/showhold-two",
        "apt/hold",
        "apt/hold-again",
        "apt/hold-unknown",
        "upgrade/cp1-kubeadm-package",
        "upgrade/cp1-showhold-after",
        "upgrade/cp1-kubelet-package",
        "upgrade/cp1-hold-after",
    ] {
        real.compare("cp1", transcript).await;
    }
    let madison = ["apt-cache", "madison", "kubeadm"].map(str::to_owned);
    let (_, offered, _) = real.run("cp1", &madison).await;
    let versions = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split('|').nth(1).unwrap().trim().to_owned()).collect()
    };
    assert_eq!(versions(&offered), versions(&Transcript::read("apt/madison-kubeadm").unwrap().stdout));
    assert_eq!(
        real.cluster.kubelet_version("cp1"),
        Transcript::read("upgrade/cp1-kubelet-before-restart").unwrap().stdout,
        "a kubelet runs on until it is restarted"
    );
}

/// Rows of names and versions, and errors: the rest tells of progress. The recorded packages are another build.
fn said_by_dnf(stdout: &str, stderr: &str) -> Vec<String> {
    let rows = stdout.lines().filter(|line| line.contains('\t'));
    let mut said: Vec<String> = rows
        .chain(stderr.lines().filter(|line| line.starts_with("Error: ")))
        .map(|line| line.replace("-150500.", "-"))
        .collect();
    said.sort();
    said
}

#[tokio::test]
async fn dnf_and_rpm_offer_install_and_refuse_as_the_real_ones_do() {
    let folder = scratch::folder().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
    let [from, later, next] =
        [(30, 4), (30, 6), (31, 2)].map(|(minor, patch)| KubernetesVersion::new(1, minor, patch));
    let shape = Shape { version: from, offered: vec![later, next], ..Shape::new(1, 0) };
    let program = Utf8PathBuf::from(env!("CARGO_BIN_EXE_standin"));
    let cluster = Cluster::start(&path, &program, &shape).await.unwrap();
    let real = RealShape { _folder: folder, cluster };
    let tree = real.cluster.machine("cp1").unwrap().tree.clone();
    rpm::install_by_dnf(&tree, 30).unwrap();
    let compare = async |name: &str| {
        let transcript = Transcript::read(name).unwrap();
        let argv: Vec<String> = transcript.argv.iter().map(|word| word.replace("-150500.", "-")).collect();
        let (status, stdout, stderr) = real.run("cp1", &argv).await;
        assert_eq!(status, transcript.status, "{name}: {stderr}");
        assert_eq!(
            said_by_dnf(&stdout, &stderr),
            said_by_dnf(&transcript.stdout, &transcript.stderr),
            "{name}: the stand-in's is the first"
        );
    };
    for name in [
        "dnf/makecache",
        "dnf/repoquery",
        "dnf/repoquery-excluded",
        "dnf/install-excluded",
        "dnf/install-unfound",
        "rpm/query",
        "rpm/verify",
    ] {
        compare(name).await;
    }
    fs::write(tree.at(rpm::REPO_FILE), rpm::repo_file(33)).unwrap();
    let missing = Transcript::read("dnf/makecache-missing").unwrap();
    let (status, _, stderr) = real.run("cp1", &["dnf", "makecache"].map(str::to_owned)).await;
    assert_eq!((status, said_by_dnf("", &stderr)), (missing.status, said_by_dnf("", &missing.stderr)));
    fs::write(tree.at(rpm::REPO_FILE), rpm::repo_file(31)).unwrap();
    compare("dnf/install-led").await;
    assert_eq!(rpm::RpmDatabase::read(&tree).unwrap().of("kubeadm"), ["1.31.2-1.1"]);
    fs::write(tree.at(rpm::REPO_FILE), rpm::repo_file(30)).unwrap();
    compare("dnf/install-back").await;
    // A transaction that was cut off between the new package and the removal of the old one.
    let mut database = rpm::RpmDatabase::read(&tree).unwrap();
    assert_eq!(database.of("kubeadm"), ["1.30.4-1.1"]);
    database.packages.push(("kubectl".to_owned(), "1.31.2-1.1".to_owned()));
    database.write(&tree).unwrap();
    for name in ["rpm/query-twice", "rpm/erase-older", "rpm/verify-after-erase"] {
        compare(name).await;
    }
    assert_eq!(rpm::RpmDatabase::read(&tree).unwrap().of("kubectl"), ["1.31.2-1.1"]);
}

#[tokio::test]
async fn a_lock_that_another_holds_is_waited_for_and_refused_as_by_the_real_apt() {
    let real = recorded_shape().await;
    let tree = real.cluster.machine("cp1").unwrap().tree.clone();
    let lock =
        fs::File::options().create(true).append(true).open(tree.at("/var/lib/dpkg/lock-frontend")).unwrap();
    lock.lock().unwrap();
    let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "").replace("(another)", "(perl)");
    for (transcript, timeout) in
        [("apt/locked", None), ("apt/locked-with-timeout", Some("DPkg::Lock::Timeout=2"))]
    {
        let mut argv =
            vec!["apt-get".to_owned(), "install".to_owned(), "-y".to_owned(), "kubeadm".to_owned()];
        argv.extend(timeout.into_iter().flat_map(|option| ["-o".to_owned(), option.to_owned()]));
        let (status, stdout, stderr) = real.run("cp1", &argv).await;
        let recorded = Transcript::read(transcript).unwrap();
        assert_eq!(status, recorded.status, "{transcript}");
        similar(transcript, &words(&stdout), &words(&recorded.stdout));
        similar(transcript, &words(&stderr), &words(&recorded.stderr));
    }
}

#[tokio::test]
async fn systemd_keeps_forgets_and_refuses_units_as_the_real_one_does() {
    let real = recorded_shape().await;
    let root = real.cluster.machine("cp1").unwrap().tree.root();
    let path = std::env::var("PATH").unwrap();
    // The recorded programs are the system's own; the stand-in's folder has none of them.
    let start = |name: &str, command: &[&str]| -> Vec<String> {
        let program = path
            .split(':')
            .map(|folder| Utf8Path::new(folder).join(command[0]))
            .find(|program| program.exists())
            .unwrap_or_else(|| Utf8PathBuf::from(command[0]));
        let unit = format!("--unit=liftlock-x-{name}");
        let variable = format!("--setenv=PATH={path}");
        let head =
            ["systemd-run", &unit, "--property=RemainAfterExit=yes", "--service-type=exec", &variable, "--"];
        let tail = std::iter::once(program.as_str()).chain(command[1..].iter().copied());
        head.into_iter().chain(tail).map(str::to_owned).collect()
    };
    let run = async |name: &str, command: &[&str], transcript: &str| {
        let recorded = Transcript::read(transcript).unwrap();
        let (status, stdout, stderr) = real.run("cp1", &start(name, command)).await;
        assert_eq!(status, recorded.status, "{transcript}: {stderr}");
        let named = |text: &str| {
            let words = text.split_whitespace();
            words
                .map(|word| if word.starts_with("liftlock-x-") { "UNIT" } else { word.trim_end_matches('.') })
                .collect::<Vec<_>>()
                .join(" ")
        };
        similar(transcript, &stdout, &recorded.stdout);
        similar(transcript, &named(&stderr), &named(&recorded.stderr));
    };
    let show = async |name: &str, transcript: &str| {
        let argv = Transcript::read(transcript).unwrap().argv;
        let argv: Vec<String> = argv
            .iter()
            .map(|word| {
                if word.starts_with("liftlock-") {
                    format!("liftlock-x-{name}.service")
                } else {
                    word.clone()
                }
            })
            .collect();
        let states = |text: &str| -> Vec<String> {
            let kept = ["LoadState", "ActiveState", "SubState", "Result", "ExecMainCode", "ExecMainStatus"];
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| kept.iter().any(|name| line.starts_with(&format!("{name}="))))
                .map(str::to_owned)
                .collect();
            lines.extend(
                text.lines()
                    .filter_map(|line| line.strip_prefix("MainPID="))
                    .map(|pid| format!("runs: {}", pid != "0")),
            );
            lines.sort();
            lines
        };
        let recorded = states(&Transcript::read(transcript).unwrap().stdout);
        // The unit's state follows its process's end at once, but not before it.
        let mut seen = Vec::new();
        for _ in 0..400 {
            seen = states(&real.run("cp1", &argv).await.1);
            if seen == recorded {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seen, recorded, "{transcript}: the stand-in's is the first");
    };
    run("running", &["sleep", "300"], "systemd/run-start").await;
    show("running", "systemd/show-running").await;
    run("running", &["sleep", "300"], "systemd/run-name-taken").await;
    real.compare("cp1", "systemd/is-active-running").await;
    real.compare("cp1", "systemd/stop-running").await;
    show("running", "systemd/show-stopped").await;

    run("ok", &["true"], "systemd/run-succeeds").await;
    show("ok", "systemd/show-ok").await;
    run("ok", &["true"], "systemd/run-name-taken-by-ended").await;
    real.compare("cp1", "systemd/is-active-ok").await;
    real.compare("cp1", "systemd/stop-ok").await;
    show("ok", "systemd/show-ok-after-stop").await;

    run("fail", &["sh", "-c", "exit 7"], "systemd/run-succeeds").await;
    show("fail", "systemd/show-fail").await;
    run("fail", &["true"], "systemd/run-name-taken-by-failed").await;
    real.compare("cp1", "systemd/is-active-fail").await;

    run("killed", &["sleep", "300"], "systemd/run-succeeds").await;
    let machine = real.cluster.machine("cp1").unwrap();
    let pid = machine.systemd.main_pid("liftlock-x-killed.service").unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    show("killed", "systemd/show-killed").await;
    real.compare("cp1", "systemd/is-active-killed").await;
    real.compare("cp1", "systemd/reset-failed").await;
    show("killed", "systemd/show-killed-after-reset").await;

    run("noprog", &["/no/such/program"], "systemd/run-no-such-program").await;
    show("noprog", "systemd/show-no-such-program").await;
    show("none", "systemd/show-unknown").await;
    for transcript in [
        "systemd/is-active-unknown",
        "systemd/reset-failed-unknown",
        "systemd/restart-unknown",
        "systemd/daemon-reload",
    ] {
        real.compare("cp1", transcript).await;
    }
    assert!(machine.systemd.running_units().is_empty(), "{root}");
}

/// The API with a kubelet's own credentials.
async fn as_kubelet(cluster: &Cluster, node: &str) -> kube::Client {
    let tree = &cluster.machine(node).unwrap().tree;
    client(Kubeconfig::read_from(tree.at("/etc/kubernetes/kubelet.conf")).unwrap()).await
}

async fn client(config: Kubeconfig) -> kube::Client {
    _ = rustls::crypto::ring::default_provider().install_default();
    let mut config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

/// Sends what curl sent when the transcript was made, and compares the answer's code and what it says.
async fn same_answer(client: &kube::Client, transcript: &str) {
    let recorded = Transcript::read(transcript).unwrap();
    let after = |option: &str| {
        let at = recorded.argv.iter().position(|word| word == option)?;
        recorded.argv.get(at + 1).cloned()
    };
    let url: http::Uri = recorded.argv.last().unwrap().parse().unwrap();
    let mut request = http::Request::builder()
        .method(after("-X").as_deref().unwrap_or("GET"))
        .uri(url.path_and_query().unwrap().as_str());
    for header in recorded.argv.iter().filter_map(|word| word.strip_prefix("Content-Type: ")) {
        request = request.header(http::header::CONTENT_TYPE, header);
    }
    let body = after("-d").unwrap_or_default().into_bytes();
    let answer = client.send(request.body(body.into()).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1 << 20).await.unwrap();
    let answer: Value = serde_json::from_slice(&bytes).unwrap();

    let (head, body) =
        recorded.stdout.split_once("\n\n").or_else(|| recorded.stdout.split_once("\r\n\r\n")).unwrap();
    let recorded_code: u16 = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    let recorded: Value = serde_json::from_str(body).unwrap();
    assert_eq!(code, recorded_code, "{transcript}: {answer}");
    for part in [
        "/kind",
        "/apiVersion",
        "/status",
        "/message",
        "/reason",
        "/code",
        "/details/causes",
        "/spec/unschedulable",
    ] {
        if part == "/status" && recorded["kind"] != "Status" {
            continue;
        }
        assert_eq!(
            answer.pointer(part),
            recorded.pointer(part),
            "{transcript}: {part}; the stand-in's is the first"
        );
    }
}

#[tokio::test]
async fn an_api_server_ends_with_its_manifest_also_while_etcd_cannot_start() {
    let folder = tempfile::Builder::new().prefix("liftlock-").tempdir().unwrap();
    let program = Utf8PathBuf::from(env!("CARGO_BIN_EXE_standin"));
    let path = Utf8Path::from_path(folder.path()).unwrap();
    let cluster = Cluster::start(path, &program, &Shape::new(1, 0)).await.unwrap();
    let (limit, address) = (Duration::from_secs(30), cluster.machine("cp1").unwrap().facts.address);
    let runs = |cluster: &Cluster, name: &str, tag: &str| {
        let containers = cluster.containers("cp1");
        containers.iter().any(|container| container.name == name && container.image.ends_with(tag))
    };
    cluster.set_broken("cp1", "etcd", true);
    let taken = std::cell::OnceCell::new();
    let take = |_: &Cluster| {
        std::net::TcpListener::bind((address, 2379)).is_ok_and(|listener| taken.set(listener).is_ok())
    };
    cluster.wait_for("etcd's address to be free", limit, take).await.unwrap();
    cluster.set_broken("cp1", "etcd", false);
    cluster.wait_for("etcd to be started", limit, |cluster| runs(cluster, "etcd", "")).await.unwrap();

    let manifest = cluster.machine("cp1").unwrap().tree.manifest("kube-apiserver");
    let other = fs::read_to_string(&manifest).unwrap().replace(":v1.30.4", ":v1.31.2");
    fs::write(&manifest, other).unwrap();
    let replaced = |cluster: &Cluster| runs(cluster, "kube-apiserver", ":v1.31.2");
    cluster.wait_for("the API server of the new manifest", limit, replaced).await.unwrap();
    drop(taken);
    let quorum = |cluster: &Cluster| cluster.etcd.has_quorum();
    cluster.wait_for("etcd to answer", limit, quorum).await.unwrap();
    let version = as_kubelet(&cluster, "cp1").await.apiserver_version().await.unwrap();
    assert_eq!(version.git_version, "v1.31.2");
}

#[tokio::test]
async fn the_api_server_answers_a_kubelet_as_the_real_one_does() {
    let real = recorded_shape().await;
    let (w1, cp2) = (as_kubelet(&real.cluster, "w1").await, as_kubelet(&real.cluster, "cp2").await);
    for name in ["app-66d5f5c67f-pxtmc", "app-66d5f5c67f-other"] {
        real.cluster.add_unmanaged_pod(name, "w1");
        let key = Key::new("pods", "default", name);
        real.cluster
            .objects
            .update(&key, |pod| pod["metadata"]["labels"] = serde_json::json!({"app": "app"}));
    }
    same_answer(&w1, "api/pod").await;
    same_answer(&w1, "api/budgets-by-kubelet").await;
    same_answer(&w1, "api/kubeadm-config-by-kubelet").await;
    same_answer(&w1, "api/cordon-self").await;
    assert!(real.cluster.is_cordoned("w1"));
    same_answer(&w1, "api/uncordon-self").await;
    assert!(!real.cluster.is_cordoned("w1"));
    same_answer(&w1, "api/annotate-self").await;
    same_answer(&cp2, "api/cordon-other-refused").await;
    same_answer(&w1, "api/eviction-no-such-pod").await;
    same_answer(&w1, "api/eviction-policy-v1-on-1.19").await;
    same_answer(&cp2, "api/eviction-refused-other-node").await;
    real.cluster.add_budget("app", 2);
    same_answer(&w1, "api/eviction-refused-by-budget").await;
    real.cluster.add_budget("app", 1);
    same_answer(&w1, "api/eviction-accepted").await;
    same_answer(&w1, "api/eviction-again-while-terminating").await;
}

#[tokio::test]
async fn the_api_server_answers_the_coordinator_as_the_real_one_does() {
    let real = recorded_shape().await;
    for manifests in [
        include_str!("../../deploy/kubernetes/upgradeplans.yaml"),
        include_str!("../../deploy/kubernetes/rbac.yaml"),
        "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nmetadata: {name: autumn}\nspec: {toVersion: v1.20.2}\n",
    ] {
        real.cluster.apply(manifests).unwrap();
    }
    let config = real.cluster.kubeconfig("system:serviceaccount:kube-system:liftlock-plans").unwrap();
    let account = client(Kubeconfig::from_yaml(&config).unwrap()).await;
    same_answer(&account, "api/upgradeplans-list").await;
    same_answer(&account, "api/upgradeplans-status-of-nothing").await;
    same_answer(&account, "api/upgradeplans-status-conflict").await;
    same_answer(&account, "api/upgradeplans-status-unversioned").await;
    same_answer(&account, "api/upgradeplans-spec-refused").await;
    same_answer(&account, "api/upgradeplans-nodes-refused").await;
}
