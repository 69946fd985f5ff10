//! An acknowledged commit survives a power cut, and a kill.
//!
//! No power is cut here. A child that commits and acknowledges is followed with ptrace, all its threads, and at each
//! acknowledgement every file of the store that was written since must have been synced after its last write. That
//! this finds a store without fsync is shown on one: sled with nothing but its own `flush`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test, and the child that it starts"
)]
#![expect(clippy::disallowed_methods, reason = "this test starts itself as a child and looks at files")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use liftlock::store::{Batch, SledStore, Store};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What the child is to do: `<kind>:<folder>`.
const ORDER: &str = "LIFTLOCK_DURABILITY_CHILD";
const COMMITS: u32 = 50;

fn batch(number: u32) -> Batch {
    let mut batch = Batch::default();
    batch.put("fence".to_owned(), &number).unwrap();
    batch.put(format!("history/{number:020}"), &format!("lease {number} was granted")).unwrap();
    batch
}

/// Commits one number after the other and acknowledges each.
trait Committer {
    fn commit(&self, number: u32);
}

impl Committer for SledStore {
    fn commit(&self, number: u32) {
        Store::commit(self, &batch(number)).unwrap();
    }
}

/// What the store would be if sled's `flush` were believed.
struct FlushOnly(sled::Db);

impl Committer for FlushOnly {
    fn commit(&self, number: u32) {
        self.0.insert(format!("history/{number:020}"), number.to_be_bytes().as_slice()).unwrap();
        self.0.flush().unwrap();
    }
}

/// Not a test by itself: the child that the tests below start.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (kind, folder) = order.split_once(':').unwrap();
    let folder = Path::new(folder);
    let open = || -> Box<dyn Committer> {
        match kind {
            "flush-only" => {
                Box::new(FlushOnly(sled::Config::new().path(folder).flush_every_ms(None).open().unwrap()))
            }
            _ => Box::new(SledStore::open(folder).unwrap()),
        }
    };
    if kind == "killed" {
        let store = open();
        for number in 1.. {
            store.commit(number);
            println!("\nacknowledged {number}");
        }
    }
    if kind == "full" {
        return fill_up(folder);
    }
    let mut acknowledgements = File::create(folder.with_extension("acknowledged")).unwrap();
    ptrace::traceme().unwrap();
    raise(Signal::SIGSTOP).unwrap();
    let store = open();
    for number in 1..=COMMITS {
        store.commit(number);
        acknowledgements.write_all(b"done\n").unwrap();
    }
}

/// Commits until the disk takes no more: here a limit on the size of files, which fails in the middle of a write.
fn fill_up(folder: &Path) {
    // The limit's signal would end the process; blocked, it leaves the error.
    let mut limit = SigSet::empty();
    limit.add(Signal::SIGXFSZ);
    limit.thread_block().unwrap();
    let store = SledStore::open(folder).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 16 * 1024, 16 * 1024).unwrap();
    let mut numbers = 1..10_000;
    let refused =
        numbers.find_map(|number| Store::commit(&store, &batch(number)).err().map(|error| (number, error)));
    let (number, error) = refused.unwrap();
    println!("\nrefused {number} {error}");
    println!("\nafterwards {}", Store::commit(&store, &batch(number)).unwrap_err());
}

fn start(kind: &str, folder: &Path, stdout: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(ORDER, format!("{kind}:{}", folder.display()))
        .stdout(stdout)
        .spawn()
        .unwrap()
}

#[test]
fn every_file_that_a_commit_wrote_is_synced_before_the_commit_is_acknowledged() {
    let trace = follow("durable");
    assert_eq!(trace.unsynced, BTreeMap::new());
    assert_eq!(trace.acknowledgements, COMMITS);
    assert!(trace.written.contains("db"), "the data file was seen: {:?}", trace.written);
}

#[test]
fn the_trace_finds_a_store_that_does_not_sync() {
    let trace = follow("flush-only");
    assert_eq!(trace.acknowledgements, COMMITS);
    let found = trace.unsynced.get("db").copied().unwrap_or(0);
    assert!(found >= COMMITS - 5, "found at {found} of {COMMITS} acknowledgements only");
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut child = start("killed", &store, Stdio::piped());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut numbers = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u32>().ok());
    let reached = numbers.find(|number| *number == 200).unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    let last = numbers.last().unwrap_or(reached);

    let entries = SledStore::open(&store).unwrap().load().unwrap();
    let fence: u32 = std::str::from_utf8(&entries["fence"]).unwrap().parse().unwrap();
    assert!(fence == last || fence == last + 1, "{last} was acknowledged and {fence} is there");
    for number in 1..=last {
        assert!(entries.contains_key(&format!("history/{number:020}")), "{number} of {last}");
    }
}

#[test]
fn a_full_disk_is_one_clear_error_and_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let output = start("full", &store, Stdio::piped()).wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = |what: &str| text.lines().find_map(|line| line.strip_prefix(what)).expect(what).to_owned();
    let refused = told("refused ");
    let (number, error) = refused.split_once(' ').unwrap();
    assert!(error.contains(&store.display().to_string()) && error.contains("too large"), "{error}");
    assert!(told("afterwards ").contains("takes no more writes since one failed"), "{text}");

    let last: u32 = number.parse::<u32>().unwrap() - 1;
    let reopened = SledStore::open(&store).unwrap();
    let entries = reopened.load().unwrap();
    let fence: u32 = std::str::from_utf8(&entries["fence"]).unwrap().parse().unwrap();
    assert!(fence == last || fence == last + 1, "{last} was acknowledged and {fence} is there");
    Store::commit(&reopened, &batch(last + 2)).unwrap();
}

/// What was seen of a child.
#[derive(Default)]
struct Trace {
    acknowledgements: u32,
    /// Files of the store that were ever written.
    written: BTreeSet<String>,
    /// Files of the store, with the number of acknowledgements at which they were not synced.
    unsynced: BTreeMap<String, u32>,
    dirty: BTreeSet<String>,
}

impl Trace {
    fn wrote(&mut self, file: String) {
        self.written.insert(file.clone());
        self.dirty.insert(file);
    }

    fn acknowledged(&mut self) {
        self.acknowledgements += 1;
        for file in &self.dirty {
            *self.unsynced.entry(file.clone()).or_default() += 1;
        }
    }
}

/// Runs a child of this kind to its end under ptrace.
fn follow(kind: &str) -> Trace {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let process = Pid::from_raw(start(kind, &store, Stdio::null()).id().cast_signed());
    let mut trace = Trace::default();
    // Calls that a thread has entered and not left: it stops at both.
    let mut entered: BTreeMap<Pid, (u64, PathBuf)> = BTreeMap::new();
    let mut known = BTreeSet::new();
    loop {
        // Only what this thread started: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let deliver = match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::Exited(thread, code) if thread == process => {
                assert_eq!(code, 0, "the child failed");
                return trace;
            }
            WaitStatus::Signaled(thread, signal, _) if thread == process => panic!("the child got {signal}"),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => continue,
            // Each thread's first stop is the one that tells of it.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) if known.insert(thread) => {
                let options = Options::PTRACE_O_TRACECLONE
                    | Options::PTRACE_O_TRACESYSGOOD
                    | Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(thread, options).unwrap();
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceSyscall(thread) => {
                let call = ptrace::syscall_info(thread).unwrap();
                if call.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    let (number, descriptor) = entry(&call);
                    let path = fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).unwrap_or_default();
                    entered.insert(thread, (number, path));
                } else if let Some((number, path)) = entered.remove(&thread)
                    && succeeded(&call)
                {
                    note(&mut trace, &store, number, &path);
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            other => panic!("an unexpected stop: {other:?}"),
        };
        ptrace::syscall(deliver.0, deliver.1).unwrap();
    }
}

fn note(trace: &mut Trace, store: &Path, number: u64, path: &Path) {
    let number = libc::c_long::try_from(number).unwrap();
    let writes =
        [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_ftruncate];
    if writes.contains(&number) && path == store.with_extension("acknowledged") {
        trace.acknowledged();
    }
    let Ok(file) = path.strip_prefix(store).map(|file| file.display().to_string()) else {
        return;
    };
    if writes.contains(&number) {
        trace.wrote(file);
    } else if [libc::SYS_fsync, libc::SYS_fdatasync].contains(&number) {
        trace.dirty.remove(&file);
    }
}

/// Number and first argument of a call that begins.
#[expect(unsafe_code, reason = "the kernel hands over a union")]
fn entry(call: &libc::ptrace_syscall_info) -> (u64, u64) {
    assert_eq!(call.op, libc::PTRACE_SYSCALL_INFO_ENTRY);
    // SAFETY: the kernel fills this arm of the union when `op` says entry.
    let entry = unsafe { call.u.entry };
    (entry.nr, entry.args[0])
}

/// Whether a call that ends went well.
#[expect(unsafe_code, reason = "the kernel hands over a union")]
fn succeeded(call: &libc::ptrace_syscall_info) -> bool {
    // SAFETY: the kernel fills this arm of the union when `op` says exit.
    call.op == libc::PTRACE_SYSCALL_INFO_EXIT && unsafe { call.u.exit }.is_error == 0
}
