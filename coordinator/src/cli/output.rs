//! What a verb writes to standard output, for people or for programs.

use std::borrow::Cow;
use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::error::CliError;
use crate::cli::paint::{Paint, SEQUENCES};
use crate::printable;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document; with `--watch` one per line.
    Json,
    /// One YAML document; with `--watch` one after another.
    Yaml,
}

/// The option that every verb with an answer has.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How to write the answer.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,
}

/// An answer: its fields are what JSON and YAML show and stay as they are; the table may change.
pub trait View: Serialize {
    /// For people, each line ended.
    fn table(&self, paint: Paint) -> String;
}

/// The answer as text, each line ended.
pub fn render(view: &impl View, format: Format, paint: Paint) -> Result<String, CliError> {
    let unwritable = |why: String| CliError::Unwritable { why };
    match format {
        Format::Table => Ok(for_people(&view.table(paint)).into_owned()),
        Format::Json => {
            let json = serde_json::to_string_pretty(view).map_err(|error| unwritable(error.to_string()))?;
            Ok(json + "\n")
        }
        Format::Yaml => serde_saphyr::to_string(view).map_err(|error| unwritable(error.to_string())),
    }
}

/// The answer as one document of several: one line of JSON, or YAML after `---`.
pub fn render_one_of_many(view: &impl View, format: Format, paint: Paint) -> Result<String, CliError> {
    match format {
        Format::Table => render(view, format, paint),
        Format::Json => {
            let line = serde_json::to_string(view)
                .map_err(|error| CliError::Unwritable { why: error.to_string() })?;
            Ok(line + "\n")
        }
        Format::Yaml => Ok(format!("---\n{}", render(view, format, paint)?)),
    }
}

/// Writes to standard output at once. A reader that has gone away (`| head`) ends the command without a word.
pub fn write(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::ReaderGone,
        _ => CliError::Unwritable { why: error.to_string() },
    })
}

/// Writes words for people to standard output, as [`write`] does.
pub fn tell(text: &str) -> Result<(), CliError> {
    write(&for_people(text))
}

/// What a terminal may be given: names and messages in it come from others, so that it acts upon nothing but the ends of lines and
/// what text is painted with.
pub fn for_people(text: &str) -> Cow<'_, str> {
    let mut kept = vec!["\n"];
    kept.extend(SEQUENCES);
    printable::but_for(text, &kept)
}

/// Writes a line to standard error. Nobody could be told if that failed.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", for_people(line));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::paint::Tone;

    #[test]
    fn a_terminal_is_given_lines_and_paint_and_nothing_else_that_it_acts_upon() {
        let painted = Paint::ON.paint(Tone::Bad, "failed");
        assert_eq!(for_people(&format!("{painted}\n")), format!("{painted}\n"));
        let node = "w1\u{1b}[2J\u{1b}]0;owned\u{7}";
        assert_eq!(for_people(&format!("{painted} {node}")), format!("{painted} {}", node.escape_default()));
    }
}
