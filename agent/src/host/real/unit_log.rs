//! The log file that a transient unit writes, followed line by line as it grows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::files::failed;
use super::programs::LAST_LINES;
use super::readiness::Readable;
use crate::host::{HostResult, Lines};

/// A longer line is cut: it is for people to read.
const LONGEST_LINE: usize = 4096;

/// Of output that comes faster than it is read, this many bytes are read at once, and what was before them is passed over.
const AT_ONCE: u64 = 1024 * 1024;

/// A command that writes more bytes would fill the disk.
const LARGEST: u64 = 64 * 1024 * 1024;

/// How often a log is looked at that nobody watches.
const LOOK: Duration = Duration::from_millis(250);

/// Reads what is appended to a log.
pub(super) struct UnitLog {
    path: Utf8PathBuf,
    file: File,
    /// Wakes us up when something is written; `None` where the kernel gives no more watches to root, as on a node
    /// where kubelet, runtime and pods have taken them all (`fs.inotify.max_user_instances` is 128 by default).
    events: Option<Readable>,
    /// Up to where it was read.
    at: u64,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
    last: VecDeque<String>,
}

impl UnitLog {
    /// Follows the file from its start.
    pub(super) fn open(path: &Utf8Path) -> HostResult<Self> {
        let watch = || -> io::Result<Readable> {
            let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            inotify::add_watch(&events, path.as_str(), WatchFlags::MODIFY)?;
            Readable::new(events)
        };
        // The watch comes before the first read: what is written in between wakes us once too often, not never.
        let events =
            watch().inspect_err(|error| tracing::warn!(%path, %error, "looked at now and then")).ok();
        let file = File::open(path).map_err(failed("cannot open", path))?;
        Ok(Self { path: path.to_owned(), file, events, at: 0, rest: Vec::new(), last: VecDeque::new() })
    }

    /// Waits until something was written, or may have been. Safe to drop at any moment.
    pub(super) async fn changed(&self) -> HostResult<()> {
        let Some(events) = &self.events else {
            tokio::time::sleep(LOOK).await;
            return Ok(());
        };
        let mut ready = events.ready().await.map_err(failed("cannot watch", &self.path))?;
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(events, &mut buffer);
        loop {
            match events.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(failed("cannot watch", &self.path)(error)),
            }
        }
    }

    /// Whether more was written than any command has to say.
    pub(super) fn is_too_long(&self) -> HostResult<bool> {
        Ok(self.written()? > LARGEST)
    }

    fn written(&self) -> HostResult<u64> {
        Ok(self.file.metadata().map_err(failed("cannot look at", &self.path))?.len())
    }

    /// Hands over every whole line that is there by now; says whether anything was new. What is written meanwhile is for the next
    /// time: whoever writes without an end is read without one otherwise, and nothing else goes on here.
    pub(super) fn read(&mut self, lines: &dyn Lines) -> HostResult<bool> {
        let end = self.written()?;
        let any = end > self.at;
        if end.saturating_sub(self.at) > AT_ONCE {
            let next = end - AT_ONCE;
            lines.line(&format!("({} bytes of output before this were passed over)", next - self.at));
            self.file.seek(SeekFrom::Start(next)).map_err(failed("cannot read", &self.path))?;
            self.at = next;
            self.rest.clear();
        }
        let mut unread = (&self.file).take(end.saturating_sub(self.at));
        let mut bytes = Vec::new();
        let length = unread.read_to_end(&mut bytes).map_err(failed("cannot read", &self.path))?;
        self.at = self.at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        for byte in bytes {
            match byte {
                b'\n' => self.line(lines),
                _ if self.rest.len() < LONGEST_LINE => self.rest.push(byte),
                // dpkg's progress comes as one endless line with carriage returns: the newest part counts.
                b'\r' => self.rest.clear(),
                _ => {}
            }
        }
        Ok(any)
    }

    /// Hands over a last line without an end, too: nothing more will be written.
    pub(super) fn finish(&mut self, lines: &dyn Lines) -> HostResult<()> {
        self.read(lines)?;
        self.line(lines);
        Ok(())
    }

    /// The last lines, for an error.
    pub(super) fn last_lines(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn line(&mut self, lines: &dyn Lines) {
        let line = readable(&self.rest);
        self.rest.clear();
        if line.is_empty() {
            return;
        }
        lines.line(&line);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

/// What stays visible of a line: the part after the last carriage return, without control characters.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let visible = text.trim_end().rsplit('\r').next().unwrap_or_default();
    visible.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Collected(Mutex<Vec<String>>);

    impl Lines for Collected {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    impl Collected {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn log() -> (tempfile::NamedTempFile, UnitLog) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = UnitLog::open(Utf8Path::from_path(file.path()).unwrap()).unwrap();
        (file, log)
    }

    #[tokio::test]
    async fn lines_arrive_whole_and_as_they_are_written() {
        let (mut file, mut log) = log();
        let lines = Collected::default();
        assert!(!log.read(&lines).unwrap());
        file.write_all(b"one\ntw").unwrap();
        log.changed().await.unwrap();
        assert!(log.read(&lines).unwrap());
        assert_eq!(lines.take(), ["one"]);
        file.write_all(b"o\nrest").unwrap();
        log.changed().await.unwrap();
        log.read(&lines).unwrap();
        assert_eq!(lines.take(), ["two"]);
        log.finish(&lines).unwrap();
        assert_eq!(lines.take(), ["rest"]);
        assert_eq!(log.last_lines(), "one\ntwo\nrest");
    }

    #[tokio::test]
    async fn what_was_written_before_the_watch_is_read_too() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"earlier\n").unwrap();
        let mut log = UnitLog::open(Utf8Path::from_path(file.path()).unwrap()).unwrap();
        let lines = Collected::default();
        log.read(&lines).unwrap();
        assert_eq!(lines.take(), ["earlier"]);
    }

    /// Whoever writes as soon as it is listened to.
    struct Echo(Mutex<std::fs::File>, std::sync::atomic::AtomicUsize);

    impl Lines for Echo {
        fn line(&self, _: &str) {
            let times = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(times < 1000, "nothing else goes on here while this is read");
            self.0.lock().unwrap().write_all(b"y\n").unwrap();
        }
    }

    #[tokio::test]
    async fn output_without_an_end_is_read_as_far_as_it_is_there_and_no_further() {
        let (mut file, mut log) = log();
        file.write_all(b"y\n").unwrap();
        let echo = Echo(Mutex::new(file.reopen().unwrap()), 0.into());
        std::io::Seek::seek(&mut *echo.0.lock().unwrap(), SeekFrom::End(0)).unwrap();
        assert!(log.read(&echo).unwrap());
        assert!(log.read(&echo).unwrap());
        log.finish(&echo).unwrap();
        assert_eq!(echo.1.into_inner(), 3);
    }

    #[tokio::test]
    async fn of_more_than_is_read_at_once_the_end_is_told_and_what_is_passed_over_is_counted() {
        let (mut file, mut log) = log();
        let lines = Collected::default();
        file.write_all(&[b'a'; 1000]).unwrap();
        log.read(&lines).unwrap();
        let most = usize::try_from(AT_ONCE).unwrap();
        file.write_all(&vec![b'\n'; most]).unwrap();
        file.write_all(b"the end\n").unwrap();
        log.read(&lines).unwrap();
        assert_eq!(lines.take(), ["(8 bytes of output before this were passed over)", "the end"]);
        assert!(!log.is_too_long().unwrap());
        file.as_file().set_len(LARGEST + 1).unwrap();
        assert!(log.is_too_long().unwrap());
    }

    #[tokio::test]
    async fn a_log_that_the_kernel_gives_no_watch_for_is_followed_all_the_same() {
        let (mut file, mut log) = log();
        log.events = None;
        let lines = Collected::default();
        for line in ["one", "two"] {
            writeln!(file, "{line}").unwrap();
            log.changed().await.unwrap();
            assert!(log.read(&lines).unwrap());
            assert_eq!(lines.take(), [line]);
        }
    }

    #[tokio::test]
    async fn only_the_last_lines_are_kept_for_an_error() {
        let (mut file, mut log) = log();
        for number in 0..25 {
            writeln!(file, "line {number}").unwrap();
        }
        log.finish(&Collected::default()).unwrap();
        let last = log.last_lines();
        assert_eq!(last.lines().count(), LAST_LINES);
        assert!(last.starts_with("line 15\n") && last.ends_with("line 24"), "{last}");
    }

    #[tokio::test]
    async fn an_endless_line_does_not_fill_the_memory() {
        let (mut file, mut log) = log();
        file.write_all(&vec![b'x'; 1_000_000]).unwrap();
        let lines = Collected::default();
        log.finish(&lines).unwrap();
        assert_eq!(lines.take(), ["x".repeat(LONGEST_LINE)]);
    }

    #[test]
    fn of_progress_with_carriage_returns_the_newest_is_shown_and_nothing_steers_the_terminal() {
        assert_eq!(readable(b"5%\r10%\r100% done\r"), "100% done");
        assert_eq!(readable(b"\x1b[31mred\x1b[0m\tand \x07 plain"), "[31mred[0m\tand  plain");
        assert_eq!(readable(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
