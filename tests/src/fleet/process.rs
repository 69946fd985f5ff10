//! Processes that do not outlive their maker.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;

use crate::fleet::binaries::Binaries;

/// A long-running process in a process group of its own. Killed with its group when dropped, and by the kernel
/// when its maker dies.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts one; what it says is appended to a file. It is started through the stand-in binary, which asks the
    /// kernel for the signal at its maker's death and then becomes the program.
    pub fn start(
        binaries: &Binaries,
        program: &Utf8Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: &Utf8Path,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new(&binaries.standin)
            .arg(program)
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal; not its group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// SIGKILL to it alone, and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end by itself; its exit code.
    pub async fn ended(&mut self, limit: std::time::Duration) -> Result<Option<i32>> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if tokio::time::Instant::now() > end {
                bail!("process {} did not end within {limit:?}", self.id());
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            _ = killpg(pid, Signal::SIGKILL);
        }
        _ = self.child.wait();
    }
}

/// What a program that ran to its end said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// This, if it ended well.
    pub fn success(self) -> Result<Self> {
        if self.code != 0 {
            bail!(
                "exit code {}; standard output: {}; standard error: {}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }
}

/// Runs a program to its end.
pub async fn run(program: &Utf8Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    run_with_input(program, arguments, environment, "").await
}

/// The same with a text on its standard input.
pub async fn run_with_input(
    program: &Utf8Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &str,
) -> Result<Output> {
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env_remove("LIFTLOCK_COORDINATOR")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.with_context(|| format!("{program} does not read"))?;
    }
    let output = child.wait_with_output().await.with_context(|| format!("cannot run {program}"))?;
    let code = output.status.code().with_context(|| format!("{program} was ended by {}", output.status))?;
    Ok(Output { code, stdout: String::from_utf8(output.stdout)?, stderr: String::from_utf8(output.stderr)? })
}
