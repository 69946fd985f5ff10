//! The program's own text in memory: most of what an idle agent would hold after a raise.
//!
//! The kernel maps text as it is run, sixteen pages at a time, and on a machine with room takes none of it out again: after one
//! raise nearly the whole program counts as resident, though an agent that has nothing to do runs a few pages of it. What is put
//! down stays in the page cache, which the kernel empties as it needs to, and is mapped again when it is run.

use std::io;
use std::time::Duration;

use nix::libc::{MADV_DONTNEED, c_int, c_void, madvise};

/// How long text stays mapped that nobody runs.
const EVERY: Duration = Duration::from_secs(10);

/// Where this program's text is mapped: one mapping, there until the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Text {
    start: usize,
    length: usize,
}

/// Puts down the program's text every few seconds, for ever; what runs meanwhile maps again what it needs.
pub async fn put_down_idle_text() {
    let Some(text) = Text::of_this_program() else {
        return tracing::debug!("the program's text is not told from other memory, and stays mapped");
    };
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = text.advise(MADV_DONTNEED) {
            return tracing::debug!(%error, "the program's text stays mapped");
        }
    }
}

impl Text {
    /// The mapping that this very function lies in; `None` where the kernel does not tell.
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the kernel's about this process, not of the machine"
    )]
    fn of_this_program() -> Option<Self> {
        let here = Self::of_this_program as fn() -> Option<Self> as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        maps.lines()
            .filter_map(Self::parse)
            .find(|text| (text.start..text.start + text.length).contains(&here))
    }

    /// `START-END r-xp OFFSET DEVICE INODE PATH`, and nothing that is written to or that no file is behind.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_text = fields.next()? == "r-xp" && fields.nth(2)? != "0";
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        is_text.then_some(Self { start, length: end.checked_sub(start)? })
    }

    #[expect(unsafe_code, reason = "no crate knows that this is sound for text")]
    fn advise(self, advice: c_int) -> io::Result<()> {
        // SAFETY: the mapping is of a file, private, and was never written to (nothing but `r-xp` is parsed, the program is
        // position independent without relocations in its text, and its unit denies memory that is both written and
        // run), so that whatever is dropped comes back out of the file as it was. It is the program's own, which
        // nobody unmaps as long as it runs.
        let answer = unsafe { madvise(self.start as *mut c_void, self.length, advice) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests look past what they test")]
mod tests {
    use nix::libc::MADV_POPULATE_READ;

    use super::*;

    /// Bytes of the text that are mapped.
    fn resident(text: Text) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| Text::parse(line) != Some(text));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    #[test]
    fn text_that_nobody_runs_is_put_down_and_the_program_runs_on() {
        let text = Text::of_this_program().unwrap();
        // Since Linux 5.14; before that less of it is there to be put down.
        let whole = text.advise(MADV_POPULATE_READ).is_ok();
        let before = resident(text);
        assert!(!whole || before >= text.length / 2, "{before} of {}", text.length);
        text.advise(MADV_DONTNEED).unwrap();
        let after = resident(text);
        assert!(after < before, "{after} bytes are mapped, and {before} were");
        assert_eq!(Text::of_this_program(), Some(text));
    }

    #[test]
    fn only_what_is_run_and_never_written_and_comes_out_of_a_file_is_text() {
        let text = Text { start: 0x55d0_0000_1000, length: 0x2000 };
        assert_eq!(
            Text::parse("55d000001000-55d000003000 r-xp 0026b000 fe:00 1234 /usr/bin/x y"),
            Some(text)
        );
        for line in [
            "55d000001000-55d000003000 r--p 0026b000 fe:00 1234 /usr/bin/x",
            "55d000001000-55d000003000 rwxp 0026b000 fe:00 1234 /usr/bin/x",
            "55d000001000-55d000003000 r-xs 0026b000 fe:00 1234 /usr/bin/x",
            "7ffc00001000-7ffc00003000 r-xp 00000000 00:00 0 [vdso]",
            "Rss:                 720 kB",
            "",
        ] {
            assert_eq!(Text::parse(line), None, "{line}");
        }
    }
}
