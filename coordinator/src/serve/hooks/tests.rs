use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;
use crate::core::hooks::{Call, Hook, Moment, Run};
use crate::keeper::HookOrder;

fn order(target: Target, moment: Moment, timeout_seconds: u32) -> HookOrder {
    let call = Call { moment, hook: Hook { target, timeout_seconds }, last: None };
    HookOrder::of_test(call)
}

fn before_w1(target: Target) -> HookOrder {
    order(target, Moment::BeforeNode("w1".parse().unwrap()), 30)
}

/// A command that does this, as the only one of the configuration. The script is read, not executed: a child of another test
/// that was forked in the middle of its writing would have it open for writing still, and nothing like that is executed.
fn program(folder: &Path, script: &str) -> HookTargets {
    let path = folder.join("hook");
    files::write(&path, script).unwrap();
    command(["/bin/sh", path.to_str().unwrap(), "an argument; true"])
}

fn command<const N: usize>(argv: [&str; N]) -> HookTargets {
    let command = Some(argv.map(ToOwned::to_owned).to_vec());
    HookTargets([("hook".to_owned(), HookTarget { command, ..HookTarget::default() })].into())
}

async fn result(hooks: &HookTargets, order: &HookOrder) -> Result<(), String> {
    hooks.call(order).await.map_err(|error| error.to_string())
}

fn by_name() -> Target {
    Target::Name("hook".to_owned())
}

#[tokio::test]
async fn a_command_sees_what_it_is_called_for_and_nothing_else_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let hooks = program(folder.path(), &format!("env > {0}; echo \"$#:$1\" >> {0}", seen.display()));
    result(&hooks, &before_w1(by_name())).await.unwrap();
    let seen = files::read(&seen).unwrap().unwrap();
    let mut names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    names.retain(|name| !own.contains(name));
    assert_eq!(
        names,
        [
            "LIFTLOCK_CALL",
            "LIFTLOCK_FROM_VERSION",
            "LIFTLOCK_HOOK",
            "LIFTLOCK_MOMENT",
            "LIFTLOCK_NODE",
            "LIFTLOCK_PLAN",
            "LIFTLOCK_TO_VERSION",
            "PATH"
        ]
    );
    for line in [
        "LIFTLOCK_MOMENT=before-node",
        "LIFTLOCK_NODE=w1",
        "LIFTLOCK_TO_VERSION=v1.20.2",
        "1:an argument; true",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
}

#[tokio::test]
async fn a_command_that_fails_is_told_with_its_status_and_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = program(
        folder.path(),
        "for i in 1 2 3 4 5 6 7 8 9 10 11; do echo line $i; done; echo no >&2; exit 7",
    );
    let error = result(&hooks, &before_w1(by_name())).await.unwrap_err();
    for part in
        ["hook an argument; true` ended with exit status: 7", "its last output: line 3\n", "line 11\nno"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = result(&HookTargets::default(), &before_w1(by_name())).await.unwrap_err();
    assert!(error.contains("has no [hooks.hook] any more"), "{error}");
}

#[tokio::test]
async fn a_command_over_its_limit_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = program(folder.path(), "echo begun; sleep 600 & sleep 600; echo never");
    let error = result(&hooks, &order(by_name(), Moment::BeforePlan, 1)).await.unwrap_err();
    assert!(error.contains("did not end within 1 s and was killed; its last output: begun"), "{error}");
}

#[tokio::test]
async fn what_a_command_said_before_it_failed_is_told_though_what_it_left_behind_holds_its_output_open() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = program(folder.path(), "echo why; sleep 600 & echo $! > $0.left; exit 7");
    let error = result(&hooks, &before_w1(by_name())).await.unwrap_err();
    let left = files::read(&folder.path().join("hook.left")).unwrap().unwrap();
    nix::sys::signal::kill(Pid::from_raw(left.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    assert!(error.contains("its last output: why"), "{error}");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "what an earlier coordinator has called")]
async fn what_an_earlier_call_has_left_running_is_killed_before_it_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let id = folder.path().display().to_string();
    let left = |id: &str| {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "sleep 600 & echo begun; wait"]).env(leftovers::CALL, id);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
        child
    };
    let (mut earlier, mut other) = (left(&id), left(&format!("{id}-another")));
    let hooks = program(folder.path(), "true");
    let again = |last| {
        let mut order = before_w1(by_name());
        (order.id, order.call.last) = (id.clone(), last);
        order
    };
    result(&hooks, &again(None)).await.unwrap();
    assert!(earlier.try_wait().unwrap().is_none(), "the first call has nothing before it");
    let last = Run { target: by_name(), number: 1, at_ms: 0, failure: None, failures: 0 };
    result(&hooks, &again(Some(last))).await.unwrap();
    assert_eq!(earlier.wait().unwrap().signal(), Some(9));
    let mut rest = String::new();
    io::Read::read_to_string(earlier.stdout.as_mut().unwrap(), &mut rest).unwrap();
    assert!(other.try_wait().unwrap().is_none(), "that of another call goes on");
    leftovers::end(&format!("{id}-another")).unwrap();
    assert_eq!(other.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_program_or_a_file_that_others_may_write_to_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hook");
    files::write(&path, "#!/bin/sh\n").unwrap();
    let hooks = command([path.to_str().unwrap()]);
    let config = folder.path().join("coordinator.toml");
    files::write(&config, "").unwrap();
    assert!(hooks.clone().checked(&config).is_ok());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o722)).unwrap();
    let error = result(&hooks, &before_w1(by_name())).await.unwrap_err();
    assert!(error.contains("others than root may write to") && error.contains("chmod go-w"), "{error}");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o620)).unwrap();
    let error = hooks.checked(&config).unwrap_err();
    assert!(error.contains("it has [hooks], and others than root may write to"), "{error}");
    assert!(HookTargets::default().checked(&config).is_ok(), "where there is no hook, nothing is run by it");
}

#[test]
fn what_could_not_be_called_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("coordinator.toml");
    files::write(&config, "").unwrap();
    let why = |text: &str| toml::from_str::<HookTargets>(text).unwrap().checked(&config).unwrap_err();
    for (text, part) in [
        ("[x]\ncommand = ['x']", "[hooks.x] command = [\"x\"]: the program is no absolute path"),
        ("[x]\ncommand = []", "no absolute path"),
        ("[x]\n", "either command or url"),
        ("[x]\ncommand = ['/x']\nurl = 'https://a/'", "either command or url"),
        ("[x]\ncommand = ['/x']\nca-file = '/y'", "go with url"),
        ("[x]\nurl = 'ftp://a/s3cret'", "allowed is https://"),
        ("[x]\nurl = 'https://me:s3cret@a/'", "without a user"),
        ("[x]\nurl = 'http://a/s3cret'\nbearer-token-file = '/y'", "a token goes over https:// only"),
        ("[X]\ncommand = ['/x']", "is no name of a hook"),
    ] {
        let why = why(text);
        assert!(why.contains(part) && !why.contains("s3cret"), "{part}: {why}");
    }
    assert!(toml::from_str::<HookTargets>("[x]\nshell = true").is_err());
}

/// Answers one request like this, and tells what was asked.
async fn server(answer: &str) -> (String, oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/T0/s3cret", listener.local_addr().unwrap());
    let (told, asked) = oneshot::channel();
    let answer = answer.to_owned();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"}") {
            let read = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..read]);
        }
        let _ = told.send(String::from_utf8_lossy(&request).into_owned());
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    (url, asked)
}

#[tokio::test]
async fn an_address_is_told_what_it_is_called_for_and_any_2xx_is_well() {
    let (url, asked) = server("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    result(&HookTargets::default(), &before_w1(Target::Url(url))).await.unwrap();
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("POST /T0/s3cret HTTP/1.1\r\n"), "{asked}");
    let body: serde_json::Value = serde_json::from_str(asked.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&body["moment"], &body["node"]), (&"before-node".into(), &"w1".into()));
    assert_eq!((&body["toVersion"], &body["outcome"]), (&"v1.20.2".into(), &serde_json::Value::Null));
    assert!(!body.to_string().contains("s3cret"), "{body}");
}

#[tokio::test]
async fn an_answer_2xx_is_well_however_long_it_goes_on() {
    for words in ["x".repeat(100_000), "half".to_owned()] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n{words}");
        let (url, _asked) = server(&answer).await;
        result(&HookTargets::default(), &before_w1(Target::Url(url))).await.unwrap();
    }
}

#[tokio::test]
async fn what_an_answer_repeats_of_an_address_is_not_shown() {
    for words in ["Cannot POST /T0/s3cret", "no such hook: s3cret", "/T0/s3cret?"] {
        let answer = format!(
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{words}",
            words.len()
        );
        let (url, _asked) = server(&answer).await;
        let error = result(&HookTargets::default(), &before_w1(Target::Url(url))).await.unwrap_err();
        assert!(
            error.contains("404 Not Found") && error.contains('…') && !error.contains("s3cret"),
            "{error}"
        );
    }
}

#[test]
fn a_hook_is_told_what_its_node_does_in_the_plan() {
    let mut order = before_w1(by_name());
    let of = |order: &HookOrder| {
        variables(order).into_iter().find(|(name, _)| *name == "LIFTLOCK_PART").map(|(_, part)| part)
    };
    assert_eq!(of(&order), None);
    let leaves = vec![Step::KubeadmReset { role: Role::Worker }];
    order.plan.nodes.push(PlannedNode {
        name: "w1".parse().unwrap(),
        role: Role::Worker,
        place: None,
        prepare: Vec::new(),
        steps: leaves,
        packages: PackageSource::default(),
    });
    assert_eq!(of(&order).as_deref(), Some("leave"));
    order.call.moment = Moment::BeforePlan;
    assert_eq!(of(&order), None);
}

#[tokio::test]
async fn any_other_answer_is_a_failure_with_its_status_and_first_line_and_without_the_address() {
    let body = "not now\nmore";
    for status in ["302 Found", "409 Conflict", "500 Internal Server Error"] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nlocation: /else\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (url, _asked) = server(&answer).await;
        let error = result(&HookTargets::default(), &before_w1(Target::Url(url))).await.unwrap_err();
        assert!(error.contains(&format!("answers {status}, and only 2xx is taken: not now")), "{error}");
        assert!(!error.contains("s3cret") && !error.contains("more"), "{error}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = Target::Url(format!("http://{closed}/s3cret"));
    let error = result(&HookTargets::default(), &before_w1(url)).await.unwrap_err();
    assert!(
        error.contains("cannot be told") && error.contains("refused") && !error.contains("s3cret"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_of_https_is_told_only_where_the_named_authority_vouches_for_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca_file = folder.path().join("ca.pem");
    files::write(&ca_file, &own.cert.pem()).unwrap();
    let key = own.signing_key.serialize_der().try_into().unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    let target = |ca_file| HookTarget { url: Some(url.clone()), ca_file, ..HookTarget::default() };
    let hooks = |ca_file| HookTargets([("hook".to_owned(), target(ca_file))].into());
    result(&hooks(Some(ca_file)), &before_w1(by_name())).await.unwrap();
    let error = result(&hooks(None), &before_w1(by_name())).await.unwrap_err();
    assert!(error.contains("cannot be told"), "{error}");
}
