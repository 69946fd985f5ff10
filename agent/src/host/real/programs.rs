//! Programs: where they are found, what they see of the world, and short ones run to their end.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::argv::Argv;
use tokio::io::AsyncReadExt;

use super::units::signal_name;
use crate::host::{HostError, HostResult, Layout};

/// How many of a failed command's last lines an error carries.
pub(super) const LAST_LINES: usize = 10;

/// Finds and starts programs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    path: Vec<Utf8PathBuf>,
    environment: Vec<(&'static str, String)>,
}

impl Programs {
    pub(super) fn new(layout: &Layout, path: Vec<Utf8PathBuf>) -> Self {
        let folders: Vec<&str> = path.iter().map(|folder| folder.as_str()).collect();
        let mut environment = vec![
            ("PATH", folders.join(":")),
            ("LC_ALL", "C".to_owned()),
            ("HOME", "/root".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        ];
        if layout.root != Utf8Path::new("/") {
            environment.push(("LIFTLOCK_ROOT", layout.root.to_string()));
        }
        Self { path, environment }
    }

    /// All that a child sees of the environment: no `KUBECONFIG`, no proxy, no locale of the agent's own.
    pub(super) fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// The file that a command's first word means.
    pub(super) fn find(&self, argv: &Argv) -> HostResult<Utf8PathBuf> {
        let name = argv.first().map(String::as_str).unwrap_or_default();
        let found = if name.starts_with('/') {
            Some(Utf8PathBuf::from(name))
        } else if name.is_empty() || name.contains('/') {
            None
        } else {
            self.path.iter().map(|folder| folder.join(name)).find(|path| executable(path))
        };
        found.ok_or_else(|| {
            let folders: Vec<&str> = self.path.iter().map(|folder| folder.as_str()).collect();
            not_started(argv, &format!("there is no program {name:?} in {}; install it", folders.join(", ")))
        })
    }

    /// Runs a command that ends soon, and returns what it wrote to its standard output.
    #[expect(clippy::disallowed_methods, reason = "this is host::Commands")]
    pub(super) async fn output(&self, argv: &Argv, limit: Duration) -> HostResult<String> {
        let mut child = tokio::process::Command::new(self.find(argv)?)
            .args(argv.iter().skip(1))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| not_started(argv, &error.to_string()))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let pipes = (child.stdout.take(), child.stderr.take());
        let end = async {
            let out = async {
                match pipes.0 {
                    Some(mut pipe) => pipe.read_to_end(&mut stdout).await.map(drop),
                    None => Ok(()),
                }
            };
            let err = async {
                match pipes.1 {
                    Some(mut pipe) => pipe.read_to_end(&mut stderr).await.map(drop),
                    None => Ok(()),
                }
            };
            let (out, err, status) = tokio::join!(out, err, child.wait());
            out.and(err).and(status)
        };
        let end = tokio::time::timeout(limit, end).await;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        let last = || last_lines(&format!("{stdout}\n{}", String::from_utf8_lossy(&stderr)));
        match end {
            Ok(Ok(status)) if status.success() => Ok(stdout),
            Ok(Ok(status)) => Err(ended_badly(argv, status, last())),
            Ok(Err(error)) => Err(not_started(argv, &error.to_string())),
            Err(_) => Err(HostError::CommandLimit {
                argv: argv.clone(),
                what: "ran longer than its limit",
                limit,
                output: last(),
            }),
        }
    }
}

fn executable(path: &Utf8Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn not_started(argv: &Argv, why: &str) -> HostError {
    HostError::Command {
        argv: argv.clone(),
        status: format!("was not started: {why}"),
        output: String::new(),
    }
}

fn ended_badly(argv: &Argv, status: ExitStatus, output: String) -> HostError {
    let argv = argv.clone();
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            return HostError::CommandKilled { argv, signal: signal_name(signal), output };
        }
        (None, None) => status.to_string(),
    };
    HostError::Command { argv, status, output }
}

/// The last lines that are not blank.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn programs(root: &str) -> Programs {
        let layout = Layout { root: root.into(), state_dir: "/nowhere".into() };
        Programs::new(&layout, super::super::PATH.map(Utf8PathBuf::from).to_vec())
    }

    fn argv(words: &[&str]) -> Argv {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[tokio::test]
    async fn a_child_sees_the_fixed_environment_and_nothing_else() {
        let seen = programs("/stand-in").output(&argv(&["env"]), LIMIT).await.unwrap();
        let mut names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["DEBIAN_FRONTEND", "HOME", "LC_ALL", "LIFTLOCK_ROOT", "PATH"]);
        assert!(!programs("/").output(&argv(&["env"]), LIMIT).await.unwrap().contains("LIFTLOCK_ROOT"));
    }

    #[tokio::test]
    async fn a_failure_says_what_ran_how_it_ended_and_what_it_said() {
        let failure = programs("/").output(&argv(&["ls", "/no/such/folder"]), LIMIT).await.unwrap_err();
        let text = failure.to_string();
        assert!(text.starts_with("`ls /no/such/folder` ended with exit status 2"), "{text}");
        assert!(text.contains("No such file or directory"), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_said_to_be_missing() {
        let failure = programs("/").output(&argv(&["no-such-program"]), LIMIT).await.unwrap_err();
        assert!(
            failure.to_string().contains("there is no program \"no-such-program\" in /usr/local/sbin"),
            "{failure}"
        );
        for name in ["", "../bin/ls", "bin/ls"] {
            assert!(programs("/").find(&argv(&[name])).is_err(), "{name:?} was found");
        }
    }

    #[tokio::test]
    async fn a_child_over_its_limit_is_ended() {
        let limit = Duration::from_millis(50);
        let failure = programs("/").output(&argv(&["sleep", "60"]), limit).await.unwrap_err();
        assert!(matches!(failure, HostError::CommandLimit { limit: l, .. } if l == limit), "{failure}");
    }

    #[test]
    fn the_last_lines_are_the_last_that_say_something() {
        let numbers: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(last_lines(&numbers.join("\n\n")), numbers[10..].join("\n"));
        assert_eq!(last_lines(""), "");
    }
}
