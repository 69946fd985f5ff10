//! Follows a child with ptrace, all its threads, and records what it changes below a folder.

#![expect(unsafe_code, reason = "ptrace hands over a union")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::disk::{Call, Recording};

/// The file, beside the recorded folder, to which a child writes what is acknowledged.
pub fn acknowledgements(folder: &Path) -> PathBuf {
    folder.with_extension("acknowledged")
}

/// In the child: waits for whoever follows it.
pub fn wait_to_be_followed() -> Result<()> {
    ptrace::traceme()?;
    raise(Signal::SIGSTOP)?;
    Ok(())
}

/// Runs a child that calls [`wait_to_be_followed`] to its end, and records what it changes below `folder`.
pub fn record(command: &mut Command, folder: &Path) -> Result<Recording> {
    let child = command.spawn().context("cannot start the child to be followed")?;
    let process = Pid::from_raw(child.id().cast_signed());
    let mut tracer = Tracer { folder: folder.to_owned(), ..Tracer::default() };
    let mut known = BTreeSet::new();
    loop {
        // Only what this thread started: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (thread, signal) = match waitpid(None, Some(flags))? {
            WaitStatus::Exited(thread, code) if thread == process => {
                ensure!(code == 0, "the child ended with status {code}");
                return Ok(tracer.recording);
            }
            WaitStatus::Signaled(thread, signal, _) if thread == process => bail!("the child got {signal}"),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => continue,
            // Each thread's first stop is the one that tells of it.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) if known.insert(thread) => {
                let options = Options::PTRACE_O_TRACECLONE
                    | Options::PTRACE_O_TRACESYSGOOD
                    | Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(thread, options)?;
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceSyscall(thread) => {
                let call = ptrace::syscall_info(thread)?;
                if call.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: the kernel fills this arm of the union when `op` says entry.
                    let entry = unsafe { call.u.entry };
                    if let Some(entered) = tracer.enter(thread, entry.nr, entry.args)?
                        && let Some(result) = alone(thread)?
                    {
                        tracer.leave(thread, entered, result)?;
                    }
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            other => bail!("an unexpected stop: {other:?}"),
        };
        ptrace::syscall(thread, signal)?;
    }
}

/// Lets a thread make the call that it has entered, before any other is heard: of two calls that are made at once nobody
/// could tell which was first. What it returned, if it did not fail.
fn alone(thread: Pid) -> Result<Option<i64>> {
    ptrace::syscall(thread, None)?;
    match waitpid(thread, Some(WaitPidFlag::__WALL))? {
        WaitStatus::PtraceSyscall(_) => {}
        other => bail!("an unexpected stop in the middle of a call: {other:?}"),
    }
    let call = ptrace::syscall_info(thread)?;
    ensure!(call.op == libc::PTRACE_SYSCALL_INFO_EXIT, "a call that has no end");
    // SAFETY: the kernel fills this arm of the union when `op` says exit.
    let exit = unsafe { call.u.exit };
    Ok((exit.is_error == 0).then_some(exit.sval))
}

/// A call that was entered and may matter.
enum Entered {
    /// Perhaps makes a file.
    Open {
        path: PathBuf,
        was_there: bool,
        truncates: bool,
    },
    /// Writes at an offset, or where the file stands.
    Write {
        descriptor: u64,
        offset: Option<u64>,
    },
    Truncate {
        descriptor: u64,
        length: u64,
    },
    Sync {
        descriptor: u64,
    },
    /// Complete as it is, if it succeeds.
    Names(Call),
}

#[derive(Default)]
struct Tracer {
    folder: PathBuf,
    recording: Recording,
    /// Inode → the number of the file that has it now.
    files: BTreeMap<u64, u64>,
    last_file: u64,
}

impl Tracer {
    fn enter(&self, thread: Pid, number: u64, args: [u64; 6]) -> Result<Option<Entered>> {
        let number = c_long::try_from(number)?;
        let at = |folder: u64, path: u64| path_at(thread, folder, path);
        Ok(match number {
            libc::SYS_openat => self.open(at(args[0], args[1])?, args[2]),
            libc::SYS_openat2 => {
                let flags = word(thread, args[2])?;
                self.open(at(args[0], args[1])?, flags)
            }
            libc::SYS_write | libc::SYS_writev | libc::SYS_sendfile => {
                Some(Entered::Write { descriptor: args[0], offset: None })
            }
            libc::SYS_copy_file_range => {
                ensure!(args[3] == 0, "copy_file_range at an offset is not followed");
                Some(Entered::Write { descriptor: args[2], offset: None })
            }
            libc::SYS_pwrite64 | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                Some(Entered::Write { descriptor: args[0], offset: Some(args[3]) })
            }
            libc::SYS_ftruncate => Some(Entered::Truncate { descriptor: args[0], length: args[1] }),
            libc::SYS_fsync | libc::SYS_fdatasync => Some(Entered::Sync { descriptor: args[0] }),
            libc::SYS_mkdirat => self.names(|path| Call::MakeFolder { path }, &at(args[0], args[1])?),
            libc::SYS_unlinkat => self.names(|path| Call::Remove { path }, &at(args[0], args[1])?),
            libc::SYS_renameat | libc::SYS_renameat2 => {
                self.renames(&at(args[0], args[1])?, &at(args[2], args[3])?)
            }
            libc::SYS_linkat => self.links(&at(args[0], args[1])?, &at(args[2], args[3])?),
            libc::SYS_symlinkat => {
                let to = text(thread, args[0])?;
                self.names(|path| Call::Symlink { to, path }, &at(args[1], args[2])?)
            }
            number => self.enter_old(thread, number, args)?,
        })
    }

    /// The calls that newer architectures do without.
    #[cfg(target_arch = "x86_64")]
    fn enter_old(&self, thread: Pid, number: c_long, args: [u64; 6]) -> Result<Option<Entered>> {
        let here = |path: u64| path_at(thread, HERE, path);
        Ok(match number {
            libc::SYS_open => self.open(here(args[0])?, args[1]),
            libc::SYS_mkdir => self.names(|path| Call::MakeFolder { path }, &here(args[0])?),
            libc::SYS_unlink | libc::SYS_rmdir => self.names(|path| Call::Remove { path }, &here(args[0])?),
            libc::SYS_rename => self.renames(&here(args[0])?, &here(args[1])?),
            libc::SYS_link => self.links(&here(args[0])?, &here(args[1])?),
            libc::SYS_symlink => {
                let to = text(thread, args[0])?;
                self.names(|path| Call::Symlink { to, path }, &here(args[1])?)
            }
            _ => None,
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn enter_old(&self, _: Pid, _: c_long, _: [u64; 6]) -> Result<Option<Entered>> {
        Ok(None)
    }

    fn open(&self, path: PathBuf, flags: u64) -> Option<Entered> {
        self.relative(&path)?;
        let has = |flag: libc::c_int| flags & u64::from(flag.cast_unsigned()) != 0;
        let was_there = path.symlink_metadata().is_ok();
        let makes = has(libc::O_CREAT) && !was_there;
        let truncates = has(libc::O_TRUNC) && was_there;
        (makes || truncates).then_some(Entered::Open { path, was_there, truncates })
    }

    fn names(&self, call: impl FnOnce(PathBuf) -> Call, path: &Path) -> Option<Entered> {
        Some(Entered::Names(call(self.relative(path)?)))
    }

    fn renames(&self, from: &Path, to: &Path) -> Option<Entered> {
        Some(Entered::Names(Call::Rename { from: self.relative(from)?, to: self.relative(to)? }))
    }

    fn links(&self, from: &Path, to: &Path) -> Option<Entered> {
        Some(Entered::Names(Call::Link { from: self.relative(from)?, to: self.relative(to)? }))
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.folder).ok().map(Path::to_owned)
    }

    fn leave(&mut self, thread: Pid, entered: Entered, result: i64) -> Result<()> {
        match entered {
            Entered::Names(call) => self.recording.calls.push(call),
            Entered::Open { path, was_there, truncates } => {
                let inode = fs::symlink_metadata(&path)?.ino();
                if !was_there {
                    self.last_file += 1;
                    self.files.insert(inode, self.last_file);
                    let path = self.relative(&path).unwrap_or_default();
                    self.recording.calls.push(Call::Create { file: self.last_file, path });
                } else if truncates && let Some(file) = self.files.get(&inode) {
                    self.recording.calls.push(Call::Truncate { file: *file, length: 0 });
                }
            }
            Entered::Write { descriptor, offset } => {
                let length = usize::try_from(result)?;
                if let Some(open) = self.open_file(thread, descriptor) {
                    let end = || position(thread, descriptor);
                    let offset = match offset {
                        Some(offset) => offset,
                        None => end()?.checked_sub(length as u64).context("a write before the file began")?,
                    };
                    let mut bytes = vec![0; length];
                    File::open(&open.link)?.read_exact_at(&mut bytes, offset)?;
                    if let Some(file) = open.file {
                        self.recording.calls.push(Call::Write { file, offset, bytes });
                    } else {
                        let what = String::from_utf8_lossy(&bytes).trim().to_owned();
                        self.recording.calls.push(Call::Acknowledge(what));
                    }
                }
            }
            Entered::Truncate { descriptor, length } => {
                if let Some(OpenFile { file: Some(file), .. }) = self.open_file(thread, descriptor) {
                    self.recording.calls.push(Call::Truncate { file, length });
                }
            }
            Entered::Sync { descriptor } => self.synced(thread, descriptor),
        }
        Ok(())
    }

    fn synced(&mut self, thread: Pid, descriptor: u64) {
        let link = PathBuf::from(format!("/proc/{thread}/fd/{descriptor}"));
        let Ok(path) = fs::read_link(&link) else { return };
        let Ok(status) = fs::metadata(&link) else { return };
        if status.is_dir() {
            if let Some(path) = self.relative(&path) {
                self.recording.calls.push(Call::SyncFolder { path });
            }
        } else if let Some(file) = self.files.get(&status.ino()).filter(|_| self.relative(&path).is_some()) {
            self.recording.calls.push(Call::SyncFile { file: *file });
        }
    }

    /// A file of the recording behind a descriptor, or that of the acknowledgements.
    fn open_file(&self, thread: Pid, descriptor: u64) -> Option<OpenFile> {
        let link = PathBuf::from(format!("/proc/{thread}/fd/{descriptor}"));
        let path = fs::read_link(&link).ok()?;
        if path == acknowledgements(&self.folder) {
            return Some(OpenFile { link, file: None });
        }
        self.relative(&path)?;
        let file = self.files.get(&fs::metadata(&link).ok()?.ino()).copied()?;
        Some(OpenFile { link, file: Some(file) })
    }
}

struct OpenFile {
    link: PathBuf,
    /// `None`: the file of the acknowledgements.
    file: Option<u64>,
}

/// `AT_FDCWD` as a call's argument has it.
const HERE: u64 = libc::AT_FDCWD.cast_unsigned() as u64;

/// The path of a call's arguments.
fn path_at(thread: Pid, folder: u64, path: u64) -> Result<PathBuf> {
    let path = text(thread, path)?;
    if path.is_absolute() {
        return Ok(past_links(&path));
    }
    let folder = if folder & 0xffff_ffff == HERE {
        fs::read_link(format!("/proc/{thread}/cwd"))
    } else {
        fs::read_link(format!("/proc/{thread}/fd/{folder}"))
    };
    Ok(past_links(&folder?.join(path)))
}

/// The same place without links on the way to it; the last name stays as it is. What is not there yet may be there by the
/// time that the call is made: another thread may be about to make it.
fn past_links(path: &Path) -> PathBuf {
    let there = path.ancestors().skip(1).find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there.and_then(|(above, folder)| Some(folder.join(path.strip_prefix(above).ok()?))) {
        Some(path) => path,
        None => path.to_owned(),
    }
}

/// A text in the child's memory.
fn text(thread: Pid, address: u64) -> Result<PathBuf> {
    let memory = File::open(format!("/proc/{thread}/mem"))?;
    let mut text = Vec::new();
    let mut buffer = [0; 64];
    loop {
        let length = memory.read_at(&mut buffer, address + text.len() as u64)?;
        ensure!(length > 0, "the child's memory ends in the middle of a path");
        let found = buffer.get(..length).unwrap_or_default();
        let end = found.iter().position(|byte| *byte == 0);
        text.extend_from_slice(found.get(..end.unwrap_or(length)).unwrap_or_default());
        if end.is_some() {
            return Ok(PathBuf::from(OsString::from_vec(text)));
        }
    }
}

/// A number in the child's memory.
fn word(thread: Pid, address: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    File::open(format!("/proc/{thread}/mem"))?.read_exact_at(&mut bytes, address)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Where an open file stands.
fn position(thread: Pid, descriptor: u64) -> Result<u64> {
    let info = fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}"))?;
    let position = info.lines().find_map(|line| line.strip_prefix("pos:"));
    Ok(position.context("no position in fdinfo")?.trim().parse()?)
}
