//! What the command line prints, as golden files: `cargo insta review` shows and takes changes.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::time::Duration;

use camino::Utf8Path;
use liftlock_tests::fleet::Fleet;
use liftlock_tests::fleet::binaries::Binaries;
use liftlock_tests::fleet::process::Output;
use liftlock_tests::standin::cluster::Shape;

const LIMIT: Duration = Duration::from_mins(3);

/// What differs from run to run, and what stands for it.
const REDACTIONS: [(&str, &str); 16] = [
    (r"bytes(.?): \d+", "bytes${1}: NUMBER"),
    (r"\b\d+\.\d [KMG]iB\b", "SIZE"),
    (r"\b\d{8}T\d{6}Z\b", "TIME"),
    (r"(kubeadm-(backup|upgraded)-[a-z]+)-?\d[\d-]*", "${1}-TIME"),
    (r"p-[0-9a-f]{12}", "p-PLAN"),
    (r"liftlock1\.[0-9a-f]{8}\.[0-9a-f]{64}\.[0-9a-f]{64}", "liftlock1.ID.SECRET.HASH"),
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\b[0-9a-f]{8}\b", "ID"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"\b\d+\.\d+ ?s\b", "DURATION"),
    (r"\b\d+ ?ms\b", "DURATION"),
    (r"(lease|child|wait|snapshot|overhead)_s(.?): [\d.]+", "${1}_s${2}: NUMBER"),
    (r"(/tmp|/dev/shm)/liftlock-[A-Za-z0-9]+", "FOLDER"),
    // Which line was heard last before a lease ended is a matter of moments.
    (r"(last_output.?: ).+", "${1}LINE"),
    // Columns are as wide as what stands in them.
    (r"(\S)  +", "${1}  "),
];

/// Compares with the golden file of this name.
#[track_caller]
fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    for (pattern, redacted) in REDACTIONS {
        settings.add_filter(pattern, redacted);
    }
    settings.add_filter(concat!(r"\b", env!("CARGO_PKG_VERSION"), r"\b"), "VERSION");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A command, and everything that came of it.
fn transcript(arguments: &[&str], output: &Output) -> String {
    let stderr = if output.stderr.is_empty() {
        String::new()
    } else {
        format!("--- standard error\n{}", output.stderr)
    };
    format!("$ liftlock {}\n{}{stderr}--- exit code {}\n", arguments.join(" "), output.stdout, output.code)
}

#[tokio::test]
async fn the_help_of_every_verb() {
    let binaries = Binaries::find().unwrap();
    let environment = [("COLUMNS", "110"), ("NO_COLOR", "1")];
    let mut text = String::new();
    for verb in [
        "",
        "serve",
        "plan",
        "gates",
        "apply",
        "diff",
        "status",
        "get",
        "nodes",
        "versions",
        "pause",
        "resume",
        "abort",
        "retry",
        "rollback",
        "replace",
        "backups",
        "backups list",
        "backups verify",
        "backups prune",
        "etcd",
        "etcd restore",
        "history",
        "token",
        "token create",
        "token list",
        "token revoke",
        "login",
        "schema",
        "completions",
        "man",
    ] {
        let arguments: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
        let output =
            liftlock_tests::fleet::process::run(&binaries.liftlock, &arguments, &environment).await.unwrap();
        text += &transcript(&arguments, &output);
        text += "\n";
    }
    golden("help", &text);
    let mut text = String::new();
    for verb in ["", "run", "enroll"] {
        let arguments: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
        let output =
            liftlock_tests::fleet::process::run(&binaries.agent, &arguments, &environment).await.unwrap();
        text += &transcript(&arguments, &output).replace("$ liftlock ", "$ liftlock-agent ");
        text += "\n";
    }
    golden("agent-help", &text);
}

/// Runs a command in each format, one golden file for all three.
async fn in_every_format(fleet: &Fleet, name: &str, arguments: &[&str]) {
    let mut text = String::new();
    for format in ["table", "json", "yaml"] {
        let arguments = [arguments, &["-o", format]].concat();
        text += &transcript(&arguments, &fleet.cli(&arguments).await.unwrap());
        text += "\n";
    }
    golden(name, &text);
}

#[tokio::test]
async fn a_raise_from_the_first_plan_to_the_record_of_it() {
    let fleet = Fleet::start(&Shape::new(1, 2)).await.unwrap();
    in_every_format(&fleet, "nodes-before", &["nodes"]).await;
    in_every_format(&fleet, "versions", &["versions"]).await;
    in_every_format(&fleet, "plan", &["plan", "v1.31.2", "--accept", "api-outage"]).await;
    let document = fleet.folder().join("plan.yaml");
    write_document(&document);
    in_every_format(&fleet, "diff", &["diff", "-f", document.as_str()]).await;
    in_every_format(&fleet, "gates", &["gates", "--accept", "api-outage"]).await;
    let refused = ["plan", "v1.33.0"];
    golden("plan-refused", &transcript(&refused, &fleet.cli(&refused).await.unwrap()));
    let none = ["status"];
    golden("status-of-nothing", &transcript(&none, &fleet.cli(&none).await.unwrap()));
    let unsealed = ["protect", "verify", "w1"];
    golden("protect-verify-of-nothing", &transcript(&unsealed, &fleet.cli(&unsealed).await.unwrap()));

    fleet
        .cli(&["apply", "v1.31.2", "--yes", "--detach", "--accept", "api-outage"])
        .await
        .unwrap()
        .success()
        .unwrap();
    let mut operator = fleet.operator().await.unwrap();
    if let Err(error) = operator.watch_to_the_end(LIMIT).await {
        panic!("{error:#}\n{}", fleet.last_words());
    }
    in_every_format(&fleet, "status-raised", &["status"]).await;
    in_every_format(&fleet, "nodes-after", &["nodes"]).await;
    in_every_format(&fleet, "diff-of-nothing", &["diff", "-f", document.as_str()]).await;
    in_every_format(&fleet, "backups-list", &["backups", "list", "cp1"]).await;
    in_every_format(&fleet, "protect-show", &["protect", "show", "w1"]).await;
    in_every_format(&fleet, "protect-verify", &["protect", "verify", "w1"]).await;
    in_every_format(&fleet, "backups-verify", &["backups", "verify", "cp1"]).await;
    let prune = ["backups", "prune", "cp1", "--keep", "1", "--kubeadm-leftovers", "--dry-run"];
    in_every_format(&fleet, "backups-prune", &prune).await;
    let history = fleet.cli(&["history"]).await.unwrap().success().unwrap();
    golden("history", &ordered(&history.stdout));
    let again = ["plan", "v1.31.2", "--accept", "api-outage"];
    golden("plan-of-nothing-to-do", &transcript(&again, &fleet.cli(&again).await.unwrap()));
}

#[expect(clippy::disallowed_methods, reason = "the tests stand on the other side of the host boundary")]
fn write_document(path: &Utf8Path) {
    let text = "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.31.2\n  policy:\n    accepted: [api-outage]\n";
    std::fs::write(path, text).unwrap();
}

/// What nodes do side by side comes in any order: those lines are sorted, and all lose their numbers. Whether a step
/// was found done or had to be waited for is a matter of moments: both are its end.
fn ordered(history: &str) -> String {
    let mut lines: Vec<String> = history
        .lines()
        .filter(|line| !line.contains("  step-started "))
        .map(|line| {
            line.split_once(char::is_whitespace).map_or(line, |(_, rest)| rest.trim_start()).to_owned()
        })
        .map(|line| match line.split_once("  step-adopted ") {
            Some((start, end)) => {
                let end = end.replacen(" found ", " did ", 1);
                format!("{start}  step-succeeded {}", end.trim_end_matches(" done"))
            }
            None => line,
        })
        .collect();
    let side_by_side = |line: &String| {
        ["token-created", "token-used", "node-enrolled", "node-prepared"]
            .iter()
            .any(|kind| line.contains(kind))
    };
    for run in lines.chunk_by_mut(|one, next| side_by_side(one) && side_by_side(next)) {
        run.sort_by_key(|line| line.split_once("  ").map(|(_, rest)| rest.to_owned()));
    }
    lines.join("\n") + "\n"
}

#[tokio::test]
async fn tokens_are_shown_once_and_listed_without_their_secret() {
    let fleet = Fleet::without_agents(&Shape::new(1, 0)).await.unwrap();
    let mut text = String::new();
    for arguments in [
        &["token", "create", "--node", "w1", "--ttl", "2h"][..],
        &["token", "list"],
        &["token", "create", "--viewer", "vera", "-o", "json"],
        &["token", "create"],
        &["token", "create", "--node", "w1", "--ttl", "30d"],
        &["token", "create", "--node", "No_Name"],
        &["token", "revoke", "00000000"],
        &["retry", "w1"],
        &["pause"],
        &["get"],
    ] {
        text += &transcript(arguments, &fleet.cli(arguments).await.unwrap());
        text += "\n";
    }
    golden("tokens-and-refusals", &text);
}
