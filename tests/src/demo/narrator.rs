//! Tells the story: on standard output, or on standard error where that is kept for JSON.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::demo::report::Report;

/// Where a line of steps is broken.
const WIDTH: usize = 108;
/// Where the steps begin in a node's line.
const INDENT: usize = 7;

pub(super) struct Narrator {
    to_stderr: bool,
    colour: bool,
    column: Cell<usize>,
}

impl Narrator {
    pub(super) fn new(to_stderr: bool) -> Self {
        let terminal =
            if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { to_stderr, colour, column: Cell::new(0) }
    }

    fn write(&self, text: &str) {
        // A reader that has gone away is no reason to stop.
        _ = if self.to_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            let mut stdout = std::io::stdout();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A line of its own.
    pub(super) fn line(&self, text: &str) {
        let start = if self.column.replace(0) > 0 { "\n" } else { "" };
        self.write(&format!("{start}{text}\n"));
    }

    /// What happens next.
    pub(super) fn heading(&self, text: &str) {
        self.line(&format!("\n{}", self.paint("1", text)));
    }

    /// Something that is broken on purpose.
    pub(super) fn alarm(&self, text: &str) {
        self.line(&format!("{}{}", " ".repeat(INDENT), self.paint("1;31", text)));
    }

    /// Something that mends itself.
    pub(super) fn relief(&self, text: &str) {
        self.line(&format!("{}{}", " ".repeat(INDENT), self.paint("32", text)));
    }

    /// A node begins: its steps follow.
    pub(super) fn node(&self, name: &str) {
        self.write(&self.paint("1", &format!("  {name:<width$}", width = INDENT - 2)));
        self.column.set(INDENT);
    }

    /// A step begins.
    pub(super) fn step(&self, step: &str) {
        let column = self.column.get();
        if column == 0 || column + step.len() + 3 > WIDTH {
            self.write(&format!("{}{}{step}", if column == 0 { "" } else { "\n" }, " ".repeat(INDENT)));
            self.column.set(INDENT + step.len());
        } else if column == INDENT {
            self.write(step);
            self.column.set(column + step.len());
        } else {
            self.write(&format!(" · {step}"));
            self.column.set(column + step.len() + 3);
        }
    }

    /// A node is done.
    pub(super) fn node_done(&self, words: &str) {
        if self.column.replace(0) > 0 {
            self.write(&format!("  {}\n", self.paint("32", words)));
        } else {
            self.relief(words);
        }
    }

    /// The checks, and whether all is well.
    pub(super) fn end(&self, report: &Report) {
        self.heading("Checked afterwards, on the nodes themselves and in the coordinator's record:");
        for check in &report.checks {
            let mark = if check.ok { self.paint("32", "✔") } else { self.paint("1;31", "✘") };
            self.line(&format!("  {mark} {}", check.found));
        }
        for left in &report.left_behind {
            self.line(&format!("  {} left behind: {left}", self.paint("1;31", "✘")));
        }
        let wall = report.wall_s;
        self.line("");
        self.line(&if report.ok {
            self.paint(
                "1;32",
                &format!(
                    "{} → {} in {:.1} s; {wall:.1} s in all, and nothing was left behind.",
                    report.from, report.to, report.raise_s
                ),
            )
        } else {
            self.paint("1;31", "Not everything is as it should be.")
        });
    }
}

pub(super) fn print_json(object: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(object) {
        _ = writeln!(std::io::stdout(), "{text}");
    }
}
