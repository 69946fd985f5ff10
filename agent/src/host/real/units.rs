//! Transient systemd units: children that outlive the agent and that a restarted agent finds again.
//!
//! `Type=exec` and `append:` came with systemd 240 (its NEWS file); `RemainAfterExit=yes` keeps the result of a
//! unit that ended well until it is taken. A unit's name stays taken while the unit is loaded, also after its
//! end, so the unit is released once its result was read: a retry then starts anew.

use std::time::Duration;

use camino::Utf8PathBuf;
use liftlock_proto::argv::Argv;
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::Instant;

use super::clock::{RealClock, systemd_monotonic};
use super::files::{failed, make_folder, on_a_thread, replace};
use super::programs::Programs;
use super::readiness::Readable;
use super::tree;
use super::unit_log::UnitLog;
use crate::engine::lease::Permit;
use crate::host::{Bounds, HostError, HostResult, Limits, Lines, UnitState};

/// How long one question to systemd may take.
const ASKING: Duration = Duration::from_secs(30);
/// What a child gets between SIGTERM and SIGKILL, in seconds.
const STOP_SECONDS: u64 = 30;
/// How often in a row systemd may fail to answer, with growing pauses: it is away for a moment when its own
/// package is upgraded and it executes itself anew.
const ANSWERS_MISSED: u32 = 10;
/// systemd notes the end of a process a moment after the process is gone.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

const PROPERTIES: &str = "LoadState,ActiveState,SubState,Result,MainPID,ExecMainCode,ExecMainStatus,\
                          ExecMainStartTimestampMonotonic,Description";

/// Starts, joins and releases transient units.
#[derive(Debug, Clone)]
pub(super) struct Units {
    programs: Programs,
    /// `/var/lib/liftlock/run`: one log a unit, as long as the unit is there.
    logs: Utf8PathBuf,
}

/// What `systemctl show` says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    load: String,
    active: String,
    sub: String,
    result: String,
    main_pid: u32,
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`; 0 before the end.
    code: i32,
    /// An exit status or a signal, as `code` says.
    status: i32,
    started_monotonic_us: u64,
    description: String,
}

/// How a unit's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Well,
    Badly(String),
    /// By a signal.
    Killed(String),
    /// Somebody stopped the unit, and systemd forgot its result.
    Forgotten,
}

impl Units {
    pub(super) fn new(programs: Programs, logs: Utf8PathBuf) -> Self {
        Self { programs, logs }
    }

    /// Removes the logs of units that are gone: they went with the machine's power, or their agent died before it had
    /// started them. Only before anything is run here: a unit's log is there a moment before the unit.
    pub(super) async fn forget_lost(&self) -> HostResult<()> {
        let logs = self.logs.clone();
        let names = on_a_thread(move || tree::names_in(&logs)).await?;
        for name in names.iter().filter_map(|name| name.strip_suffix(".log")) {
            if self.show(&format!("{name}.service")).await?.load == "not-found" {
                tracing::info!(unit = name, "it is gone: its log is removed");
                forget(self.logs.join(format!("{name}.log"))).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn state(&self, unit: &str) -> HostResult<UnitState> {
        let shown = self.show(unit).await?;
        Ok(UnitState {
            active: shown.active,
            main_pid: shown.main_pid,
            started_monotonic_us: shown.started_monotonic_us,
        })
    }

    /// Runs a command as the unit `name`, or joins the unit if it is there already. One that disturbs nothing needs no
    /// permit.
    pub(super) async fn run(
        &self,
        permit: Option<&Permit>,
        name: &str,
        argv: &Argv,
        bounds: &Bounds,
        lines: &dyn Lines,
    ) -> HostResult<()> {
        admit_name(name)?;
        let unit = format!("{name}.service");
        let log_path = self.logs.join(format!("{name}.log"));
        let there = self.show(&unit).await?;
        let mut age = Duration::ZERO;
        if there.load == "not-found" {
            if let Err(error) = self.start(permit, name, argv, bounds, &log_path).await {
                let shown = self.show(&unit).await?;
                self.release(&unit, &shown).await?;
                forget(log_path).await?;
                return Err(error);
            }
        } else if there.description == argv.join(" ") {
            tracing::info!(unit, "an earlier attempt's command is there still: joined");
            age = there.age();
        } else {
            return Err(HostError::Malformed {
                what: format!("the unit {unit}"),
                why: format!(
                    "it exists and runs something else ({}); look at it with `systemctl status {unit}` and, \
                     if it is not needed, end it with `systemctl stop {unit}`",
                    there.description
                ),
            });
        }
        let mut log = UnitLog::open(&log_path)?;
        let followed = if there.ended() && there.load != "not-found" {
            Followed::Ended(there)
        } else {
            self.follow(&unit, &mut log, bounds.limits, age, lines).await?
        };
        match followed {
            Followed::Ended(shown) => {
                log.finish(lines)?;
                self.release(&unit, &shown).await?;
                forget(log_path).await?;
                let (argv, output) = (argv.clone(), log.last_lines());
                let status = match shown.end() {
                    End::Well => return Ok(()),
                    End::Killed(signal) => return Err(HostError::CommandKilled { argv, signal, output }),
                    End::Badly(status) => status,
                    End::Forgotten => format!("an unknown result: somebody stopped {unit}"),
                };
                Err(HostError::Command { argv, status, output })
            }
            Followed::Over { what, limit } => {
                self.end(&unit, &mut log, lines).await?;
                forget(log_path).await?;
                Err(HostError::CommandLimit { argv: argv.clone(), what, limit, output: log.last_lines() })
            }
            Followed::TooLong => {
                self.end(&unit, &mut log, lines).await?;
                forget(log_path).await?;
                let status = "being stopped, as its output would have filled the disk".to_owned();
                Err(HostError::Command { argv: argv.clone(), status, output: log.last_lines() })
            }
        }
    }

    /// Ends a unit that is over one of its limits.
    async fn end(&self, unit: &str, log: &mut UnitLog, lines: &dyn Lines) -> HostResult<()> {
        self.systemctl("stop", unit).await?;
        log.finish(lines)?;
        let shown = self.show(unit).await?;
        self.release(unit, &shown).await
    }

    async fn start(
        &self,
        permit: Option<&Permit>,
        name: &str,
        argv: &Argv,
        bounds: &Bounds,
        log: &camino::Utf8Path,
    ) -> HostResult<()> {
        let (folder, file) = (self.logs.clone(), log.to_owned());
        // A fresh log before the start: systemd appends to it, and nobody else may read it.
        on_a_thread(move || make_folder(&folder, 0o700).and_then(|()| replace(&file, b"", 0o600))).await?;
        let program = self.programs.find(argv)?;
        let mut start: Argv = [
            "systemd-run".to_owned(),
            format!("--unit={name}"),
            "--quiet".to_owned(),
            "--no-ask-password".to_owned(),
            format!("--description={}", argv.join(" ")),
            "--property=Type=exec".to_owned(),
            "--property=RemainAfterExit=yes".to_owned(),
            "--property=KillMode=control-group".to_owned(),
            format!("--property=TimeoutStopSec={STOP_SECONDS}s"),
            format!("--property=StandardOutput=append:{log}"),
            format!("--property=StandardError=append:{log}"),
        ]
        .into();
        start.extend(mounts(bounds));
        start
            .extend(self.programs.environment().iter().map(|(key, value)| format!("--setenv={key}={value}")));
        start.extend(["--".to_owned(), program.into_string()]);
        // systemd-run expands $ in the command, as in a unit file.
        start.extend(argv.iter().skip(1).map(|argument| argument.replace('$', "$$")));
        // Right before the start: on a busy machine a question to systemd can outlast the lease.
        permit.map_or(Ok(()), |permit| permit.still_holds(&RealClock))?;
        self.programs.output(&start, ASKING).await.map(drop)
    }

    /// Hands over the unit's lines until it has ended or is over a limit.
    async fn follow(
        &self,
        unit: &str,
        log: &mut UnitLog,
        limits: Limits,
        age: Duration,
        lines: &dyn Lines,
    ) -> HostResult<Followed> {
        let now = Instant::now();
        let deadline = now + limits.time.saturating_sub(age);
        let mut silent = now + limits.silence;
        let end = self.end_of(unit);
        tokio::pin!(end);
        log.read(lines)?;
        loop {
            tokio::select! {
                shown = &mut end => return shown.map(Followed::Ended),
                changed = log.changed() => {
                    changed?;
                    if log.is_too_long()? {
                        return Ok(Followed::TooLong);
                    }
                    if log.read(lines)? {
                        silent = Instant::now() + limits.silence;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Ok(Followed::Over { what: "ran longer than its limit", limit: limits.time });
                }
                () = tokio::time::sleep_until(silent) => {
                    return Ok(Followed::Over { what: "said nothing for that long", limit: limits.silence });
                }
            }
        }
    }

    /// Waits until systemd says that the unit's process has ended.
    async fn end_of(&self, unit: &str) -> HostResult<Shown> {
        let mut pause = FIRST_PAUSE;
        let mut missed = 0;
        let mut gone = None;
        loop {
            match self.show(unit).await {
                Ok(shown) if shown.ended() => return Ok(shown),
                Ok(shown) => {
                    missed = 0;
                    if shown.running() && gone != Some(shown.main_pid) {
                        if self.end_of_process(unit, shown.main_pid).await? {
                            gone = Some(shown.main_pid);
                            pause = FIRST_PAUSE;
                        }
                        continue;
                    }
                }
                Err(error) if missed == ANSWERS_MISSED => return Err(error),
                Err(error) => {
                    missed += 1;
                    tracing::warn!(unit, %error, "systemd did not answer; asking again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits for the end of a unit's main process; false if it was another process by then.
    async fn end_of_process(&self, unit: &str, pid: u32) -> HostResult<bool> {
        let Some(pid_) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(true);
        };
        // Without the call (before Linux 5.3) or the process, what is left is to ask systemd again in a while.
        let Ok(process) = pidfd_open(pid_, PidfdFlags::NONBLOCK) else {
            return Ok(true);
        };
        // A number can be used again. systemd reaps its children itself, so if this one is the main process
        // still, now that the descriptor is open, the descriptor is of the right one.
        let shown = self.show(unit).await?;
        if !shown.running() || shown.main_pid != pid {
            return Ok(false);
        }
        let process = Readable::new(process).map_err(failed("cannot watch the process of", unit.into()))?;
        process.ready().await.map(drop).map_err(failed("cannot watch the process of", unit.into()))?;
        Ok(true)
    }

    /// Makes systemd forget a unit that has ended, and whatever it left behind in its control group.
    async fn release(&self, unit: &str, shown: &Shown) -> HostResult<()> {
        match (shown.load.as_str(), shown.active.as_str()) {
            ("not-found", _) | (_, "inactive") => Ok(()),
            (_, "failed") => self.systemctl("reset-failed", unit).await,
            _ => self.systemctl("stop", unit).await,
        }
    }

    async fn systemctl(&self, verb: &str, unit: &str) -> HostResult<()> {
        let argv = ["systemctl".to_owned(), verb.to_owned(), unit.to_owned()].into();
        self.programs.output(&argv, ASKING + Duration::from_secs(STOP_SECONDS)).await.map(drop)
    }

    async fn show(&self, unit: &str) -> HostResult<Shown> {
        let argv = ["systemctl", "show", unit, &format!("--property={PROPERTIES}")].map(str::to_owned).into();
        let text = self.programs.output(&argv, ASKING).await?;
        Ok(Shown::parse(&text))
    }
}

enum Followed {
    Ended(Shown),
    Over {
        what: &'static str,
        limit: Duration,
    },
    /// It has written more than any command has to say.
    TooLong,
}

impl Shown {
    fn parse(text: &str) -> Self {
        let mut shown = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "LoadState" => value.clone_into(&mut shown.load),
                "ActiveState" => value.clone_into(&mut shown.active),
                "SubState" => value.clone_into(&mut shown.sub),
                "Result" => value.clone_into(&mut shown.result),
                "Description" => value.clone_into(&mut shown.description),
                "MainPID" => shown.main_pid = value.parse().unwrap_or_default(),
                "ExecMainCode" => shown.code = value.parse().unwrap_or_default(),
                "ExecMainStatus" => shown.status = value.parse().unwrap_or_default(),
                "ExecMainStartTimestampMonotonic" => {
                    shown.started_monotonic_us = value.parse().unwrap_or_default();
                }
                _ => {}
            }
        }
        shown
    }

    fn running(&self) -> bool {
        self.main_pid != 0 && self.active == "active" && self.sub == "running"
    }

    fn ended(&self) -> bool {
        match self.active.as_str() {
            "active" => self.sub == "exited",
            "failed" | "inactive" => true,
            _ => false,
        }
    }

    fn end(&self) -> End {
        match (self.active.as_str(), self.code, self.status) {
            ("inactive", ..) => End::Forgotten,
            ("active", nix::libc::CLD_EXITED, 0) => End::Well,
            (_, nix::libc::CLD_EXITED, 0) => {
                End::Badly(format!("exit status 0, but systemd says {}", self.result))
            }
            (_, nix::libc::CLD_EXITED, status) => End::Badly(format!("exit status {status}")),
            (_, nix::libc::CLD_KILLED, signal) => End::Killed(signal_name(signal)),
            (_, nix::libc::CLD_DUMPED, signal) => {
                End::Killed(format!("{}, core dumped", signal_name(signal)))
            }
            _ => End::Badly(format!("systemd's result {}", self.result)),
        }
    }

    /// Since its start.
    fn age(&self) -> Duration {
        match self.started_monotonic_us {
            0 => Duration::ZERO,
            started => systemd_monotonic().saturating_sub(Duration::from_micros(started)),
        }
    }
}

/// What makes paths read-only in the unit's own mounts, as systemd.exec(5) has it: a `-` passes over those that are not
/// there. The value is a list of words, so each is quoted.
fn mounts(bounds: &Bounds) -> Vec<String> {
    let property = |name: &str, path: &camino::Utf8PathBuf| {
        let path = path.as_str().replace('\\', r"\\").replace('"', r#"\""#);
        format!("--property={name}=\"-{path}\"")
    };
    let read_only = bounds.read_only.iter().map(|path| property("ReadOnlyPaths", path));
    let read_write = bounds.read_write.iter().map(|path| property("ReadWritePaths", path));
    let mut properties: Vec<String> = read_only.chain(read_write).collect();
    if !properties.is_empty() {
        properties.push("--property=PrivateMounts=yes".to_owned());
    }
    properties
}

/// `signal 9 (SIGKILL)`
pub(super) fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => format!("signal {number} ({signal})"),
        Err(_) => format!("signal {number}"),
    }
}

/// A unit's name without its suffix becomes the name of a log, too.
fn admit_name(name: &str) -> HostResult<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    if !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(fine) {
        Ok(())
    } else {
        Err(HostError::Malformed {
            what: format!("the unit name {name:?}"),
            why: "it may hold letters, digits, '-', '_', '.' and '+' only, and 200 of them".to_owned(),
        })
    }
}

async fn forget(log: Utf8PathBuf) -> HostResult<()> {
    on_a_thread(move || match rustix::fs::unlink(log.as_str()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("cannot remove", &log)(error)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! recorded {
        ($name:literal) => {
            Shown::parse(include_str!(concat!("../../../../tests/fixtures/real/systemd/", $name, "/stdout")))
        };
    }

    #[test]
    fn a_unit_that_runs_has_not_ended() {
        let shown = recorded!("show-running");
        assert!(shown.running() && !shown.ended());
        assert_eq!((shown.main_pid, shown.started_monotonic_us), (2519, 1_110_042_215));
    }

    #[test]
    fn a_unit_that_ended_well_is_told_from_one_that_nobody_knows() {
        let shown = recorded!("show-ok");
        assert!(shown.ended() && !shown.running());
        assert_eq!(shown.end(), End::Well);
        // Its properties alone look like success.
        let unknown = recorded!("show-unknown");
        assert_eq!((unknown.load.as_str(), unknown.result.as_str()), ("not-found", "success"));
        assert_eq!(unknown.end(), End::Forgotten);
    }

    #[test]
    fn an_exit_status_is_told_from_a_signal() {
        assert_eq!(recorded!("show-fail").end(), End::Badly("exit status 7".to_owned()));
        assert_eq!(recorded!("show-late").end(), End::Killed("signal 15 (SIGTERM)".to_owned()));
        let dumped = Shown { code: nix::libc::CLD_DUMPED, status: 6, ..recorded!("show-late") };
        assert_eq!(dumped.end(), End::Killed("signal 6 (SIGABRT), core dumped".to_owned()));
    }

    #[test]
    fn a_unit_that_was_stopped_has_no_result_and_does_not_look_like_success() {
        assert_eq!(recorded!("show-stopped").end(), End::Forgotten);
        assert_eq!(recorded!("show-killed-after-reset").end(), End::Forgotten);
    }

    #[test]
    fn a_unit_in_between_has_neither_ended_nor_a_process_to_wait_for() {
        let shown =
            Shown::parse("LoadState=loaded\nActiveState=deactivating\nSubState=stop-sigterm\nMainPID=0\n");
        assert!(!shown.ended() && !shown.running());
    }

    #[test]
    fn a_unit_name_cannot_leave_the_folder_of_logs() {
        for name in ["", ".", "..", "../x", "a/b", "a b", "a\0", "-%n$", &"x".repeat(201)] {
            assert!(admit_name(name).is_err(), "{name:?}");
        }
        assert!(admit_name("liftlock-7-apt-install-kubelet-kubectl-1.20.2").is_ok());
    }

    #[test]
    fn a_child_reads_what_it_may_not_write_in_mounts_of_its_own_whatever_the_paths_are_called() {
        let limits = Limits { time: Duration::ZERO, silence: Duration::ZERO };
        assert_eq!(mounts(&limits.into()), [""; 0]);
        let bounds = Bounds {
            limits,
            read_only: vec!["/root".into(), r#"/srv/a "b"\c"#.into()],
            read_write: vec!["/root/.cache".into()],
        };
        assert_eq!(
            mounts(&bounds),
            [
                r#"--property=ReadOnlyPaths="-/root""#,
                r#"--property=ReadOnlyPaths="-/srv/a \"b\"\\c""#,
                r#"--property=ReadWritePaths="-/root/.cache""#,
                "--property=PrivateMounts=yes",
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_answer_of_systemd_looks_like_a_good_end_unless_it_says_so(text in "[A-Za-z]{0,12}(=[a-z0-9-]{0,8})?(\n(ActiveState|SubState|ExecMainCode|MainPID)=[a-z0-9-]{0,8}){0,6}") {
            let shown = Shown::parse(&text);
            if shown.end() == End::Well {
                proptest::prop_assert!(text.contains("ActiveState=active") && text.contains("ExecMainCode=1"));
            }
        }
    }
}
