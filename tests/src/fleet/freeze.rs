//! Stops an agent dead at one record of its journal: the program that ships, with no place in it made for tests.
//!
//! A process of its own follows the agent's system calls (ptrace) and looks at the agent's files whenever one that
//! makes something durable has returned, before the agent can do anything else. At the moment that was asked for, the
//! agent gets SIGSTOP and is let go of: from then on it is a stopped process like any other, to be killed or continued.
//! Whoever is to follow an agent that is stopped continues it, once none of its threads can go unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_agent::engine::transition::Event;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::fleet::binaries::Binaries;
use crate::fleet::journals::{fence, newest_after};

/// The first argument by which the stand-in binary becomes the process that follows the agent.
pub const VERB: &str = "freeze";

/// What it says once it follows every thread of the agent, and once the agent is stopped.
const READY: &str = "ready";
const FROZEN: &str = "frozen";

/// Something that an agent has just made durable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The lease's token is in the fence, and no journal was begun.
    Admitted,
    /// The journal is there, with its header alone.
    Begun,
    /// The last record is this step's, with this event.
    Step {
        /// The step's name.
        step: String,
        /// The event's name, such as `started`.
        event: String,
    },
    /// The last record is the lease's end.
    Ended,
    /// The journal is put away.
    Closed,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("lease/admitted"),
            Self::Begun => f.write_str("lease/begun"),
            Self::Step { step, event } => write!(f, "{step}/{event}"),
            Self::Ended => f.write_str("lease/ended"),
            Self::Closed => f.write_str("lease/closed"),
        }
    }
}

/// Which moment of which lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// The agent's state.
    pub state_dir: Utf8PathBuf,
    /// Leases with a token up to this one do not count.
    pub after_token: u64,
    /// When.
    pub moment: Moment,
}

impl Watch {
    /// Whether it is now.
    fn is_now(&self) -> Result<bool> {
        let Some(journal) = newest_after(&self.state_dir, self.after_token)? else {
            return Ok(self.moment == Moment::Admitted && fence(&self.state_dir)? > self.after_token);
        };
        let last = journal.records.last().map(|(_, event)| event);
        Ok(match &self.moment {
            Moment::Admitted => false,
            Moment::Begun => last.is_none(),
            Moment::Step { step, event } => {
                last.is_some_and(|last| last.name() == event && journal.step_of(last) == Some(step.as_str()))
            }
            Moment::Ended => !journal.closed && matches!(last, Some(Event::Ended(_))),
            Moment::Closed => journal.closed,
        })
    }
}

/// Somebody who waits for an agent's moment.
#[derive(Debug)]
pub struct Freezer {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    what: String,
}

impl Freezer {
    /// Follows a process from now on; one that is stopped goes on.
    pub async fn arm(binaries: &Binaries, agent: u32, watch: &Watch) -> Result<Self> {
        let mut process = Command::new(&binaries.standin)
            .args([VERB, &agent.to_string(), &serde_json::to_string(watch)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().context("no standard output")?;
        let what = format!("process {agent} at {}", watch.moment);
        let mut freezer = Self { process, lines: BufReader::new(output).lines(), what };
        freezer.hears(READY).await?;
        Ok(freezer)
    }

    /// Waits until the agent is stopped.
    pub async fn frozen(mut self, limit: Duration) -> Result<()> {
        match tokio::time::timeout(limit, self.hears(FROZEN)).await {
            Ok(heard) => heard,
            Err(_) => bail!("{} was not reached within {limit:?}", self.what),
        }
    }

    async fn hears(&mut self, word: &str) -> Result<()> {
        match self.lines.next_line().await? {
            Some(line) if line == word => Ok(()),
            _ => {
                let mut words = String::new();
                if let Some(error) = &mut self.process.stderr {
                    tokio::io::AsyncReadExt::read_to_string(error, &mut words).await?;
                }
                bail!("{} was not reached: {}", self.what, words.trim())
            }
        }
    }
}

/// What the process that follows the agent does; its arguments are those that [`Freezer::arm`] gives.
pub fn main(arguments: &[String]) -> ExitCode {
    _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    match follow(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn follow(arguments: &[String]) -> Result<()> {
    let [pid, watch] = arguments else {
        bail!("{VERB} takes a process and what to wait for");
    };
    let (process, watch) = (Pid::from_raw(pid.parse()?), serde_json::from_str::<Watch>(watch)?);
    let mut threads = seize(process)?;
    kill(process, Signal::SIGCONT)?;
    let mut unseen = threads.clone();
    let mut stopping = false;
    while !threads.is_empty() {
        let status = waitpid(None, Some(WaitPidFlag::__WALL))?;
        let Some(thread) = status.pid() else { continue };
        match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                threads.remove(&thread);
                continue;
            }
            // Another thread stopped the whole process, so this one stays stopped when it is let go of.
            _ if stopping => {
                threads.remove(&thread);
                gone(ptrace::detach(thread, None))?;
                continue;
            }
            WaitStatus::PtraceSyscall(_) if made_durable(thread) && watch.is_now()? => {
                stopping = true;
                if !unseen.is_empty() {
                    say(READY)?;
                }
                threads.remove(&thread);
                gone(ptrace::detach(thread, Signal::SIGSTOP))?;
                continue;
            }
            WaitStatus::Stopped(_, signal) => gone(ptrace::syscall(thread, signal))?,
            _ => gone(ptrace::syscall(thread, None))?,
        }
        // A thread that was made meanwhile comes by itself.
        threads.insert(thread);
        if unseen.remove(&thread) && unseen.is_empty() {
            say(READY)?;
        }
    }
    if !stopping {
        bail!("the process ended before");
    }
    while !is_stopped(process)? {
        std::thread::sleep(Duration::from_millis(1));
    }
    say(FROZEN)
}

/// Follows every thread, and those that they make from now on.
fn seize(process: Pid) -> Result<BTreeSet<Pid>> {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    ptrace::seize(process, options).with_context(|| {
        format!("may not follow process {process}: does /proc/sys/kernel/yama/ptrace_scope forbid it?")
    })?;
    ptrace::interrupt(process)?;
    let mut threads = BTreeSet::from([process]);
    loop {
        let mut more = false;
        for thread in threads_of(process)? {
            if !threads.contains(&thread) {
                match ptrace::seize(thread, options) {
                    Ok(()) => {
                        gone(ptrace::interrupt(thread))?;
                        threads.insert(thread);
                        more = true;
                    }
                    // Ended meanwhile, or made by one that is followed already.
                    Err(Errno::ESRCH | Errno::EPERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !more {
            return Ok(threads);
        }
    }
}

fn threads_of(process: Pid) -> Result<Vec<Pid>> {
    let entries = Utf8PathBuf::from(format!("/proc/{process}/task")).read_dir_utf8()?;
    let mut threads = Vec::new();
    for entry in entries {
        threads.push(Pid::from_raw(entry?.file_name().parse()?));
    }
    Ok(threads)
}

/// Whether a thread is at the return of a system call that makes something durable.
fn made_durable(thread: Pid) -> bool {
    let returns =
        ptrace::syscall_info(thread).is_ok_and(|info| info.op == nix::libc::PTRACE_SYSCALL_INFO_EXIT);
    let call = || std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok();
    let number = |call: String| call.split(' ').next().and_then(|number| number.parse().ok());
    returns && matches!(call().and_then(number), Some(nix::libc::SYS_fsync | nix::libc::SYS_fdatasync))
}

/// Whether every thread is stopped by a signal, and followed by nobody.
fn is_stopped(process: Pid) -> Result<bool> {
    let state = |thread: &Pid| {
        let path = format!("/proc/{process}/task/{thread}/stat");
        let stat = std::fs::read_to_string(Utf8Path::new(&path)).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next())
    };
    let states: BTreeMap<Pid, _> =
        threads_of(process)?.into_iter().map(|thread| (thread, state(&thread))).collect();
    Ok(states.values().all(|state| *state == Some('T')))
}

/// A thread may end at any time.
fn gone(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ESRCH) => Ok(()),
        result => result,
    }
}

fn say(word: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{word}")?;
    Ok(output.flush()?)
}
